//! What a kernel did wrong.

use ternion_kernel_host::{Kernel, KernelError};

/// What a kernel did wrong, and with what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows}x{cols}, {inputs}: {fault}")]
pub struct Mismatch {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// How many tokens were multiplied, if any yet, and what weights and
    /// activations were, in words.
    pub inputs: String,
    /// What was wrong.
    pub fault: Fault,
}

impl Mismatch {
    pub(crate) fn unsupported(kernel: &Kernel, rows: usize, cols: usize) -> Mismatch {
        let kernel = kernel.name().to_owned();
        Mismatch {
            rows,
            cols,
            inputs: "any weights".to_owned(),
            fault: Fault::Kernel(KernelError::Unsupported { kernel, rows, cols }),
        }
    }
}

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A result is another integer.
    #[error("row {row} of token {token} is {got}, not {want}")]
    #[allow(missing_docs, reason = "the message says it")]
    Wrong {
        row: usize,
        token: usize,
        got: i32,
        want: i32,
    },
    /// Something was written where no result belongs.
    #[error("something was written {beyond} elements beyond the results of token {token}")]
    #[allow(missing_docs, reason = "the message says it")]
    Strayed { token: usize, beyond: usize },
    /// A weight that is none was packed without a complaint.
    #[error("a weight of {0} was accepted")]
    AcceptedWeight(i8),
    /// The kernel didn't compute at all.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

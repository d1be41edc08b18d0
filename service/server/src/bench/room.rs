//! Whether a model fits the memory, told before it is made.

use std::fmt;

use ternion_compute::HeadChoice;
use ternion_kernel_host::{Kernel, KernelError};
use ternion_model::{Architecture, Projection};

/// Bytes of a model and what it computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Packed ternary weights.
    pub(super) weights: u64,
    /// Embedding and output head as the model has them, in f16.
    pub(super) head: u64,
    /// What the head is computed from besides.
    pub(super) head_state: u64,
    pub(super) kv: u64,
    /// What lies between the layers of a step.
    pub(super) step: u64,
}

impl Need {
    pub(super) fn of(
        architecture: &Architecture,
        kernel: &Kernel,
        head: HeadChoice,
        kv: u64,
        step_tokens: usize,
    ) -> Result<Need, KernelError> {
        let a = architecture;
        let mut layer = 0;
        for projection in Projection::ALL {
            let (rows, cols) = projection.shape(a);
            layer += kernel.packed_bytes(rows, cols)? as u64;
        }
        let head_bytes = 2 * (a.vocab * a.hidden) as u64;
        let wide = (a.q_rows() + 2 * a.kv_rows()).max(2 * a.ffn);
        Ok(Need {
            weights: layer * a.layers as u64,
            head: head_bytes,
            head_state: match head {
                HeadChoice::F16 => 0,
                HeadChoice::Int8 => head_bytes / 2,
                HeadChoice::Auto | HeadChoice::Screened => head_bytes / 4,
            },
            kv,
            // The residual stream, what a layer's matrices give in f32, and
            // activations in int8 as they are and as the kernel wants them.
            step: (step_tokens * (4 * (2 * a.hidden + wide + a.q_rows()) + 2 * a.ffn)) as u64,
        })
    }

    pub(super) fn total(&self) -> u64 {
        self.weights + self.head + self.head_state + self.kv + self.step
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{:.2} GiB (packed weights {:.2}, embedding and head {:.2}, head's own {:.2}, \
             KV cache {:.2}, a step {:.2})",
            gib(self.total()),
            gib(self.weights),
            gib(self.head),
            gib(self.head_state),
            gib(self.kv),
            gib(self.step),
        )
    }
}

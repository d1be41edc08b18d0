//! In which form activations are prepared.

#[cfg(target_arch = "x86_64")]
use super::factors::Factors;
use super::tables::Tables;
use crate::panel;

/// Sizes and places of prepared activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// One token, whose tables the kernel makes.
    #[cfg(target_arch = "x86_64")]
    Factors(Factors),
    /// Few tokens, whose sums are looked up.
    Tables(Tables),
    /// Many tokens, for which weights are unpacked.
    Panel(panel::Activations),
}

impl Activations {
    /// None if there are none, if there are more than
    /// [`MAX_COLS`](crate::i2s::MAX_COLS) columns, or if they would not fit
    /// into an address space.
    pub(super) fn new(cols: usize, batch: usize, max_tables: usize) -> Option<Activations> {
        match batch <= max_tables {
            true => Tables::new(cols, batch).map(Activations::Tables),
            false => panel::Activations::new(cols, batch).map(Activations::Panel),
        }
    }

    /// Columns of a token.
    pub fn cols(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Activations::Factors(factors) => factors.cols(),
            Activations::Tables(tables) => tables.cols(),
            Activations::Panel(panel) => panel.cols(),
        }
    }

    /// Number of tokens.
    pub fn batch(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Activations::Factors(_) => 1,
            Activations::Tables(tables) => tables.batch(),
            Activations::Panel(panel) => panel.batch(),
        }
    }

    /// Bytes of the prepared activations.
    pub fn prepared_bytes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Activations::Factors(factors) => factors.prepared_bytes(),
            Activations::Tables(tables) => tables.prepared_bytes(),
            Activations::Panel(panel) => panel.prepared_bytes(),
        }
    }
}

//! What keys and values are kept as.

use half::f16;

use super::TILE;
use super::lanes::Lanes;

/// An element of a key or value that is kept.
pub(super) trait Cell: Copy {
    /// Sixteen of them as floats, exactly.
    fn load<L: Lanes>(lanes: L, cells: &[Self; TILE]) -> L::V;
}

impl Cell for f32 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, cells: &[f32; TILE]) -> L::V {
        lanes.load(cells)
    }
}

impl Cell for f16 {
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, cells: &[f16; TILE]) -> L::V {
        lanes.load_f16(cells)
    }
}

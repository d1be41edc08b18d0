//! Rounded rows, sixteen side by side.

use std::fmt;
use std::sync::Arc;

use memmap2::MmapMut;

/// Rows of a tile: as many as a vector of 512 bits has sums.
pub const TILE_ROWS: usize = 16;

/// Width of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// 0 to 15.
    Four,
    /// 0 to 255.
    Eight,
}

impl Bits {
    /// The largest code.
    pub const fn max(self) -> u8 {
        match self {
            Bits::Four => 15,
            Bits::Eight => 255,
        }
    }

    /// Columns of a line.
    pub(super) const fn line_cols(self) -> usize {
        match self {
            Bits::Four => 8,
            Bits::Eight => 4,
        }
    }
}

/// The codes of four bytes' worth of columns of a tile's rows. Byte `4 r + b`
/// is row `r`'s: column `b`, and with four bits column `4 + b` in its upper
/// half. So the four bytes of a row are one lane of a vector of 32-bit sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line(pub(super) [u8; 4 * TILE_ROWS]);

// SAFETY: bytes, which may all be 0, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: bytes, which may be any, without padding: 64 of them at an alignment
// of 64.
unsafe impl bytemuck::Pod for Line {}

/// Memory that is somebody else's as well, and doesn't change: a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A matrix of codes, tile after tile, each from its first column to its last.
pub struct Codes {
    bits: Bits,
    rows: usize,
    cols: usize,
    lines: Lines,
}

enum Lines {
    Own(MmapMut),
    Shared(SharedBytes),
}

impl Lines {
    fn as_slice(&self) -> &[Line] {
        match self {
            Lines::Own(memory) => bytemuck::cast_slice(memory),
            Lines::Shared(bytes) => bytemuck::cast_slice((**bytes).as_ref()),
        }
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Codes {
            bits, rows, cols, ..
        } = self;
        write!(f, "Codes({rows} x {cols} of {bits:?} bits)")
    }
}

impl Codes {
    /// All codes 0. Memory comes with the first write to it, from whichever
    /// thread that is; in huge pages where the system has some, as codes are
    /// read from one end to the other.
    ///
    /// # Panics
    ///
    /// If the system has not that much memory.
    pub fn new(bits: Bits, rows: usize, cols: usize) -> Codes {
        let tile_lines = cols.div_ceil(bits.line_cols());
        let bytes = rows.div_ceil(TILE_ROWS) * tile_lines * size_of::<Line>();
        let memory = MmapMut::map_anon(bytes)
            .unwrap_or_else(|error| panic!("no memory for {bytes} bytes of codes: {error}"));
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Codes {
            bits,
            rows,
            cols,
            lines: Lines::Own(memory),
        }
    }

    /// The codes that others' memory holds, as [`as_bytes`](Codes::as_bytes)
    /// gave them. None if it is not as long, or begins between two lines.
    pub fn shared(bits: Bits, rows: usize, cols: usize, bytes: SharedBytes) -> Option<Codes> {
        let tile_lines = cols.div_ceil(bits.line_cols());
        let num_lines = rows.div_ceil(TILE_ROWS).checked_mul(tile_lines)?;
        let lines: &[Line] = bytemuck::try_cast_slice((*bytes).as_ref()).ok()?;
        (lines.len() == num_lines).then(|| Codes {
            bits,
            rows,
            cols,
            lines: Lines::Shared(bytes),
        })
    }

    /// All tiles, as they lie in memory.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.lines.as_slice())
    }

    /// Bytes of one tile of such codes.
    pub fn tile_bytes(bits: Bits, cols: usize) -> usize {
        cols.div_ceil(bits.line_cols()) * size_of::<Line>()
    }

    /// Width of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// Lines of a tile.
    pub fn tile_lines(&self) -> usize {
        self.cols.div_ceil(self.bits.line_cols())
    }

    /// All lines, to be filled by [`pack`](Codes::pack) tile by tile.
    ///
    /// # Panics
    ///
    /// If they are shared.
    pub fn lines_mut(&mut self) -> &mut [Line] {
        match &mut self.lines {
            Lines::Own(memory) => bytemuck::cast_slice_mut(memory),
            Lines::Shared(_) => panic!("shared codes are there already"),
        }
    }

    pub(super) fn tile(&self, tile: usize) -> &[Line] {
        &self.lines.as_slice()[tile * self.tile_lines()..][..self.tile_lines()]
    }

    /// Writes the codes of one row of a tile, one a byte, into the tile's
    /// lines.
    ///
    /// # Panics
    ///
    /// If the row is longer than the lines, or there is no such row.
    pub fn pack(bits: Bits, row: usize, codes: &[u8], tile: &mut [Line]) {
        assert!(row < TILE_ROWS, "row {row} of {TILE_ROWS}");
        assert_eq!(codes.len().div_ceil(bits.line_cols()), tile.len());
        match bits {
            Bits::Four => pack_words(row, codes, tile, |[a, b, c, d, e, f, g, h]: [u8; 8]| {
                [a | e << 4, b | f << 4, c | g << 4, d | h << 4]
            }),
            Bits::Eight => pack_words(row, codes, tile, |word: [u8; 4]| word),
        }
    }
}

/// One line after the other gets the word of its `N` codes; what the last one
/// lacks is 0.
fn pack_words<const N: usize>(
    row: usize,
    codes: &[u8],
    tile: &mut [Line],
    word: impl Fn([u8; N]) -> [u8; 4],
) {
    let (whole, rest) = codes.as_chunks::<N>();
    let mut last = [0; N];
    last[..rest.len()].copy_from_slice(rest);
    let all = whole.iter().chain((!rest.is_empty()).then_some(&last));
    for (codes, line) in all.zip(tile) {
        line.0[4 * row..][..4].copy_from_slice(&word(*codes));
    }
}

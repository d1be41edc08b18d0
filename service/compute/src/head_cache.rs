//! A rounded output head that outlives the process that rounded it.
//!
//! A file of its own beside the packed weights, used after the same questions:
//! whether it is the one that is asked for, made of this model's head, whole,
//! and begins like what its first rows become now. Processes that map it share
//! its memory.
//!
//! It holds the random shifts that [screening](crate::HeadChoice::Screened)
//! relies on nobody to know: files of the cache are their user's to read.

use std::sync::Arc;

use ternion_kernel_host::{Origin, PackedWriterError, PartsFile, PartsPlan, PartsWriter};
use ternion_kernels::head::rounding::Dither;
use ternion_kernels::head::{Bits, Codes, TILE_ROWS};
use ternion_kernels::team::Team;
use ternion_model::DenseMatrix;

use crate::head::{Rounding, RowSize};
use crate::packed_cache::{PATIENCE, PackedCache, Rejected};

/// Tiles of codes in a part, so that several threads can check them. Of so many
/// any tile makes whole pages, and parts lie one after the other without a gap.
const PART_TILES: usize = 1024;

/// A norm and a step.
const SIZE_BYTES: usize = 12;

/// Rows that are hashed at a time.
const HASHED_ROWS: usize = 512;

/// Which part is what.
struct Parts {
    codes: usize,
    plan: PartsPlan,
}

impl Parts {
    fn sizes(&self) -> usize {
        self.codes
    }

    fn shifts(&self) -> usize {
        self.codes + 1
    }
}

impl PackedCache<'_> {
    /// The rounded head, if it is there.
    pub(crate) fn head(&self, bits: Bits, team: &Team) -> Result<Option<Rounding>, Rejected> {
        let matrix = self.model.weights.head();
        let Some(parts) = self.parts(bits, &matrix) else {
            return Ok(None);
        };
        let Some(file) = PartsFile::open(self.dir, &parts.plan)? else {
            return Ok(None);
        };
        let (origin, stamp) = (file.origin(), self.model.weights.stamp());
        if (stamp.is_none() || stamp != origin.stamp) && digest(&matrix, team) != origin.content {
            return Err(Rejected::OtherWeights);
        }
        let mut checks: Vec<_> = (0..=parts.shifts()).map(|part| (part, None)).collect();
        team.rows(&mut checks, 1, |_, _, check| {
            let (part, result) = &mut check[0];
            *result = Some(file.check(*part));
        });
        for (_, result) in checks {
            result.expect("each part was looked at")?;
        }
        let codes = file.parts(0..parts.codes);
        let codes = Codes::shared(bits, matrix.rows(), matrix.cols(), Arc::new(codes))
            .ok_or(Rejected::OtherHead)?;
        let rounding = Rounding {
            codes,
            dither: Dither::of(floats(file.part(parts.shifts()).as_ref())),
            sizes: read_sizes(file.part(parts.sizes()).as_ref()),
        };
        if rounding.begins_like(&matrix) {
            Ok(Some(rounding))
        } else {
            Err(Rejected::OtherHead)
        }
    }

    /// Rounds the head and puts it into the cache. What comes of it is the
    /// file's, unless that could not be written: why not.
    ///
    /// # Errors
    ///
    /// If the head can't be rounded: which row.
    pub(crate) fn round_head(
        &self,
        bits: Bits,
        team: &Team,
    ) -> Result<(Rounding, Result<(), String>), String> {
        let matrix = self.model.weights.head();
        let Some(parts) = self.parts(bits, &matrix) else {
            let too_large = "it is too large".to_owned();
            return Ok((Rounding::new(&matrix, bits, team)?, Err(too_large)));
        };
        let writer = match PartsWriter::begin(self.dir, &parts.plan, PATIENCE) {
            Ok(writer) => writer,
            Err(error) => {
                let rounding = Rounding::new(&matrix, bits, team)?;
                return Ok((rounding, Err(error.to_string())));
            }
        };
        // Whoever was waited for may have left what was wanted.
        if let Ok(Some(rounding)) = self.head(bits, team) {
            return Ok((rounding, Ok(())));
        }
        let rounding = Rounding::new(&matrix, bits, team)?;
        if let Err(error) = self.write_head(writer, &parts, &rounding, &matrix, team) {
            return Ok((rounding, Err(error.to_string())));
        }
        // Not both at once: the head is most of what is not shared.
        drop(rounding);
        let reason = match self.head(bits, team) {
            Ok(Some(read)) => return Ok((read, Ok(()))),
            Ok(None) => "it was removed at once".to_owned(),
            Err(again) => again.to_string(),
        };
        Ok((Rounding::new(&matrix, bits, team)?, Err(reason)))
    }

    fn write_head(
        &self,
        writer: PartsWriter<'_>,
        parts: &Parts,
        rounding: &Rounding,
        matrix: &DenseMatrix<'_>,
        team: &Team,
    ) -> Result<(), PackedWriterError> {
        writer.reserve(self.limit)?;
        let codes = &rounding.codes;
        let part_bytes = PART_TILES * Codes::tile_bytes(codes.bits(), codes.cols());
        let pieces = codes.as_bytes().chunks(part_bytes);
        let mut puts: Vec<_> = pieces.map(|piece| (piece, None)).collect();
        team.rows(&mut puts, 1, |_, index, put| {
            let (piece, result) = &mut put[0];
            *result = Some(writer.put(index, piece, [0; 4]));
        });
        for (_, result) in puts {
            result.expect("each part was written")?;
        }
        writer.put(parts.sizes(), &size_bytes(&rounding.sizes), [0; 4])?;
        let shifts = rounding.dither.shifts();
        let shifts: Vec<u8> = shifts.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.put(parts.shifts(), &shifts, [0; 4])?;
        writer.finish(&Origin {
            stamp: self.model.weights.stamp(),
            content: digest(matrix, team),
        })
    }

    /// None for a head that is empty, or longer than there are addresses.
    fn parts(&self, bits: Bits, matrix: &DenseMatrix<'_>) -> Option<Parts> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let tiles = rows.div_ceil(TILE_ROWS);
        let tile_bytes = Codes::tile_bytes(bits, cols);
        let mut sizes: Vec<_> = (0..tiles)
            .step_by(PART_TILES)
            .map(|first| PART_TILES.min(tiles - first) * tile_bytes)
            .collect();
        let codes = sizes.len();
        sizes.push(tiles.checked_mul(TILE_ROWS * SIZE_BYTES)?);
        sizes.push(cols.checked_mul(size_of::<f32>())?);
        let digest = &self.model.digest;
        let plan = PartsPlan::new("packed-head", &sizes, |starts| {
            let mut hasher = blake3::Hasher::new();
            for text in [env!("CARGO_PKG_VERSION"), digest] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
            for number in [usize::from(bits.max()), rows, cols].iter().chain(starts) {
                hasher.update(&(*number as u64).to_le_bytes());
            }
            hasher.finalize().into()
        })?;
        (codes > 0).then_some(Parts { codes, plan })
    }
}

/// Of all rows as they are stored.
fn digest(matrix: &DenseMatrix<'_>, team: &Team) -> [u8; 32] {
    let mut digests = vec![[0; 32]; matrix.rows().div_ceil(HASHED_ROWS)];
    team.rows(&mut digests, 1, |_, index, digest| {
        let (mut hasher, mut memory) = (blake3::Hasher::new(), Vec::new());
        let first = index * HASHED_ROWS;
        for row in first..matrix.rows().min(first + HASHED_ROWS) {
            hasher.update(matrix.read_row(row, &mut memory));
        }
        digest[0] = hasher.finalize().into();
    });
    let mut hasher = blake3::Hasher::new();
    let shape = format!("{:?} of {} columns\n", matrix.format(), matrix.cols());
    hasher.update(shape.as_bytes());
    hasher.update(digests.as_flattened());
    hasher.finalize().into()
}

fn size_bytes(sizes: &[RowSize]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(sizes.len() * SIZE_BYTES);
    for size in sizes {
        bytes.extend(size.norm.to_le_bytes());
        bytes.extend(size.step.to_le_bytes());
    }
    bytes
}

fn read_sizes(bytes: &[u8]) -> Vec<RowSize> {
    let (sizes, _) = bytes.as_chunks::<SIZE_BYTES>();
    let size = |size: &[u8; SIZE_BYTES]| {
        let [a, b, c, d, e, f, g, h, step @ ..] = *size;
        RowSize {
            norm: f64::from_le_bytes([a, b, c, d, e, f, g, h]),
            step: f32::from_le_bytes(step),
        }
    };
    sizes.iter().map(size).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (floats, _) = bytes.as_chunks::<4>();
    floats.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

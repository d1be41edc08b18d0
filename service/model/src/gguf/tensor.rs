use std::ops::Range;

use crate::dense::DenseFormat;

/// How the numbers of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dense(DenseFormat),
    I2S,
}

/// A tensor, checked to lie in the file.
#[derive(Debug)]
pub(crate) struct Tensor<'a> {
    pub name: &'a str,
    /// As stored: columns first, then rows.
    pub dims: Vec<u64>,
    pub kind: Kind,
    /// From the start of the file.
    pub bytes: Range<usize>,
}

/// An I2S tensor ends in 32 bytes, the first four of which are its scale.
pub(crate) const I2S_TAIL: usize = 32;

impl Kind {
    /// The ids of the files that are out there. Others are refused rather than guessed at: between
    /// 31 and 42 the forks disagree about their meaning.
    pub(crate) fn from_id(id: u32) -> Option<Kind> {
        Some(match id {
            0 => Kind::Dense(DenseFormat::F32),
            1 => Kind::Dense(DenseFormat::F16),
            8 => Kind::Dense(DenseFormat::Q8_0),
            14 => Kind::Dense(DenseFormat::Q6K),
            30 => Kind::Dense(DenseFormat::BF16),
            36 => Kind::I2S,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Dense(DenseFormat::F32) => "F32",
            Kind::Dense(DenseFormat::F16) => "F16",
            Kind::Dense(DenseFormat::BF16) => "BF16",
            Kind::Dense(DenseFormat::Q8_0) => "Q8_0",
            Kind::Dense(DenseFormat::Q6K) => "Q6_K",
            Kind::I2S => "I2_S",
        }
    }

    /// Bytes of a tensor of these dimensions. The file does not say; it has to be computed.
    pub(crate) fn bytes(self, dims: &[u64]) -> Option<u64> {
        let elements = dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))?;
        match self {
            Kind::Dense(format) => {
                let cols = usize::try_from(*dims.first()?).ok()?;
                let row = format.row_bytes(cols)? as u64;
                (elements / cols as u64).checked_mul(row)
            }
            Kind::I2S if elements.is_multiple_of(128) => Some(elements / 4 + I2S_TAIL as u64),
            Kind::I2S => None,
        }
    }
}

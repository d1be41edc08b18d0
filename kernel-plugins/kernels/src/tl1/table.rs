//! The sums of two activations, for every pair of weights.
//!
//! A sum is in -256..=256 and does not fit a byte, which is what a shuffle
//! looks up. It is taken apart as `16 high + low` with `high` in -16..=15 and
//! `low` in 0..=16, so that of either eight can be added in a byte before they
//! have to be widened: cheaper than joining the two bytes of every sum.

/// Entries of a table, of which the codes use nine; the others are zero.
const ENTRIES: usize = 16;
/// What a high part counts for.
pub(super) const HIGH: i32 = 16;

/// Weight of a pair's first column, by code.
pub(super) const FIRST: [i8; ENTRIES] = [-1, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
/// Weight of its second.
pub(super) const SECOND: [i8; ENTRIES] = [-1, 0, 1, -1, 0, 1, -1, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// The code of two weights.
pub(super) const fn code(first: i8, second: i8) -> u8 {
    (3 * (first + 1) + second + 1).cast_unsigned()
}

/// Low and high parts by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Table {
    pub(super) low: [u8; ENTRIES],
    pub(super) high: [u8; ENTRIES],
}

/// Bytes of a table, which is how it lies in prepared activations.
pub(super) const TABLE_BYTES: usize = size_of::<Table>();

impl Table {
    pub(super) fn new(first: i8, second: i8) -> Table {
        let sums: [i16; ENTRIES] = core::array::from_fn(|code| {
            i16::from(FIRST[code]) * i16::from(first) + i16::from(SECOND[code]) * i16::from(second)
        });
        let high = sums.map(|sum| (sum >> 4).min(15));
        Table {
            low: core::array::from_fn(|code| (sums[code] - 16 * high[code]) as u8),
            high: high.map(|high| high as u8),
        }
    }

    pub(super) fn write(&self, bytes: &mut [u8; TABLE_BYTES]) {
        let (parts, _) = bytes.as_chunks_mut();
        parts[0] = self.low;
        parts[1] = self.high;
    }

    pub(super) fn read(bytes: &[u8; TABLE_BYTES]) -> Table {
        let (parts, _) = bytes.as_chunks();
        Table {
            low: parts[0],
            high: parts[1],
        }
    }

    /// The sum of a code.
    pub(super) fn sum(&self, code: usize) -> i32 {
        HIGH * i32::from(self.high[code].cast_signed()) + i32::from(self.low[code])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_of_every_two_activations_is_there() {
        for x in i8::MIN..=i8::MAX {
            for y in i8::MIN..=i8::MAX {
                let table = Table::new(x, y);
                for (a, b) in (-1..=1).flat_map(|a| [(a, -1), (a, 0), (a, 1)]) {
                    let want = i32::from(a) * i32::from(x) + i32::from(b) * i32::from(y);
                    let code = usize::from(code(a, b));
                    assert_eq!(table.sum(code), want, "{a} {x} + {b} {y}");
                }
                assert!(table.low.iter().all(|&low| low <= 16), "{x}, {y}");
                let highs = table.high.map(u8::cast_signed);
                assert!(highs.iter().all(|h| (-16..16).contains(h)), "{x}, {y}");
            }
        }
    }
}

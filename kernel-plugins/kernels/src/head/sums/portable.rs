//! Plain loops, for compilers to make vectors of.

use super::{Activations, Bits, Sums, Tile};

pub(super) fn tile(tile: &Tile<'_>, activations: &Activations, sums: &mut Sums<'_>) {
    for token in 0..activations.tokens().len() {
        let mut lanes = [0_i32; 64];
        let words = activations
            .pairs(token)
            .iter()
            .map(|[ac, bd]| [*ac as i16, *bd as i16, (ac >> 16) as i16, (bd >> 16) as i16]);
        match tile.bits {
            Bits::Four => {
                let mut words = words;
                for line in tile.lines {
                    let low = words.next().unwrap_or_default();
                    let high = words.next().unwrap_or_default();
                    for l in 0..64 {
                        let code = line.0[l];
                        lanes[l] += i32::from(code & 15) * i32::from(low[l % 4])
                            + i32::from(code >> 4) * i32::from(high[l % 4]);
                    }
                }
            }
            Bits::Eight => {
                for (line, word) in tile.lines.iter().zip(words) {
                    for l in 0..64 {
                        lanes[l] += i32::from(line.0[l]) * i32::from(word[l % 4]);
                    }
                }
            }
        }
        let (rows, _) = lanes.as_chunks::<4>();
        for (sum, lanes) in sums.of(token, tile).iter_mut().zip(rows) {
            *sum = lanes.iter().sum();
        }
    }
}

//! Three weights in five bits.
//!
//! Three weights are the digits of a number in balanced ternary, -13 to 13,
//! the first weight its lowest digit. A code is the number's magnitude in four
//! bits, and its sign in the fifth.

/// Weights of a code.
pub(super) const WEIGHTS: usize = 3;
/// Codes that a register of 32 bits works on at a time.
pub(super) const LANES: usize = 4;
/// As many as five bits can tell apart; 27 are used.
pub(super) const NUM_CODES: usize = 32;
/// The bit of a code that says that its number is negative.
pub(super) const SIGN: u8 = 16;

/// The weights of a code, plus one, as a panel has them: `[nth][code]`.
pub(super) const PANEL_CODES: [[u8; NUM_CODES]; 3] = {
    let mut panel_codes = [[0; NUM_CODES]; 3];
    let mut code = 0;
    while code < NUM_CODES {
        let trits = trits_of(code as u8);
        let mut nth = 0;
        while nth < 3 {
            panel_codes[nth][code] = (trits[nth] + 1) as u8;
            nth += 1;
        }
        code += 1;
    }
    panel_codes
};

/// The codes of four columns, the four after them and the four after those:
/// a byte each, in order.
pub(super) fn of_columns(columns: &[i8; 3 * LANES]) -> u32 {
    let (runs, _) = columns.as_chunks::<LANES>();
    // Four lanes of a byte; the weights plus one have no sign to spill over.
    let [low, middle, high] = [0, 1, 2].map(|run| {
        let codes = u32::from_le_bytes(runs[run].map(|trit: i8| trit as u8));
        ((codes & 0x0303_0303) + 0x0101_0101) & 0x0303_0303
    });
    // The number plus 13, from 0 to 26.
    let raised = low + 3 * middle + 9 * high;
    let is_positive = ((raised + 0x7373_7373) >> 7) & 0x0101_0101;
    let positive = ((raised + 0x7373_7373) & 0x7f7f_7f7f) & (is_positive * 0xff);
    let negative = (0x1d1d_1d1d - raised) & !(is_positive * 0xff);
    positive | negative
}

/// The weights of a code. Codes of 14 and 15 mean nothing, and get some.
pub(super) const fn trits_of(code: u8) -> [i8; 3] {
    let sign = if code & SIGN == 0 { 1 } else { -1 };
    let number = (code & (SIGN - 1)) as i8;
    let low = (number + 1) % 3 - 1;
    let rest = (number - low) / 3;
    let middle = (rest + 1) % 3 - 1;
    let high = if rest > 1 { 1 } else { 0 };
    [sign * low, sign * middle, sign * high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_triples_come_back() {
        for number in -13..=13_i32 {
            let magnitude = number.unsigned_abs() as u8;
            let code = if number < 0 {
                magnitude | 16
            } else {
                magnitude
            };
            let trits = trits_of(code);
            let [low, middle, high] = trits.map(i32::from);
            assert_eq!(low + 3 * middle + 9 * high, number);
            for lane in 0..LANES {
                let mut columns = [0; 3 * LANES];
                for (nth, trit) in trits.into_iter().enumerate() {
                    columns[LANES * nth + lane] = trit;
                }
                assert_eq!(of_columns(&columns), u32::from(code) << (8 * lane));
            }
        }
    }
}

//! Ternary weights as the rest of the system hands them over: one `i8` each,
//! -1, 0 or +1.

use core::fmt;

/// A value that was to be a ternary weight and isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotATrit {
    /// Where it stands in the slice that was given.
    pub index: usize,
    /// What stands there.
    pub value: i8,
}

impl fmt::Display for NotATrit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotATrit { index, value } = self;
        write!(f, "weight {index} is {value}, not -1, 0 or 1")
    }
}

impl core::error::Error for NotATrit {}

/// Checks that every value is -1, 0 or +1.
pub fn validate(trits: &[i8]) -> Result<(), NotATrit> {
    // A fold without an early exit vectorises; the position is looked for
    // only once it is known that there is one.
    let all_good = trits.iter().fold(true, |good, &trit| good & is_trit(trit));
    if all_good {
        return Ok(());
    }
    match trits.iter().position(|&trit| !is_trit(trit)) {
        Some(index) => Err(NotATrit {
            index,
            value: trits[index],
        }),
        None => Ok(()),
    }
}

fn is_trit(value: i8) -> bool {
    value.wrapping_add(1) as u8 <= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_values_are_trits() {
        let good: Vec<i8> = (i8::MIN..=i8::MAX).filter(|&v| is_trit(v)).collect();
        assert_eq!(good, [-1, 0, 1]);
    }

    #[test]
    fn the_first_bad_value_is_named() {
        let mut trits = vec![1i8; 100];
        assert_eq!(validate(&trits), Ok(()));
        trits[63] = 2;
        trits[99] = -128;
        let error = validate(&trits).unwrap_err();
        assert_eq!(
            error,
            NotATrit {
                index: 63,
                value: 2
            }
        );
        assert_eq!(error.to_string(), "weight 63 is 2, not -1, 0 or 1");
    }
}

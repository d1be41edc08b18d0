use std::str::FromStr;

/// Requests a second, as asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RateOption {
    Absolute(f64),
    /// All at once.
    Infinite,
    /// So many times what a closed loop gets through.
    OfCapacity(f64),
}

impl RateOption {
    pub(crate) fn requests_per_second(self, capacity: f64) -> f64 {
        match self {
            RateOption::Absolute(rate) => rate,
            RateOption::Infinite => f64::INFINITY,
            RateOption::OfCapacity(factor) => factor * capacity,
        }
    }
}

impl FromStr for RateOption {
    type Err = String;

    fn from_str(text: &str) -> Result<RateOption, String> {
        let (number, of_capacity) = match text.strip_suffix('x') {
            Some(number) => (number, true),
            None => (text, false),
        };
        match number.parse::<f64>() {
            Ok(f64::INFINITY) if !of_capacity => Ok(RateOption::Infinite),
            Ok(number) if number > 0.0 && number <= 1e6 => Ok(match of_capacity {
                true => RateOption::OfCapacity(number),
                false => RateOption::Absolute(number),
            }),
            _ => Err(
                "must be more than 0 and a million at most, `inf`, or a multiple such as 2x".into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_multiples_or_all_at_once() {
        for (text, rate) in [
            ("2.5", RateOption::Absolute(2.5)),
            ("inf", RateOption::Infinite),
            ("0.5x", RateOption::OfCapacity(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(rate));
        }
        for text in ["", "0", "-1", "x", "NaN", "infx", "1e7", "1 x"] {
            assert!(text.parse::<RateOption>().is_err(), "{text:?}");
        }
        assert_eq!(RateOption::OfCapacity(3.0).requests_per_second(4.0), 12.0);
    }
}

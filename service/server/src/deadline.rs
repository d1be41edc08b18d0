//! The deadline that a client puts on a call.
//!
//! Tonic reads `grpc-timeout` too, but lets it end with the response headers;
//! here it lasts until the last token.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

/// When the call must be over, counted from now.
pub(crate) fn of_call(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = metadata.get("grpc-timeout")?.to_str().ok()?;
    // A time beyond what the clock can hold is no deadline.
    Instant::now().checked_add(parse(timeout)?)
}

/// At most 8 digits and a unit, as the gRPC protocol has it. Anything else is
/// passed over, as other servers do.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("50m", Some(Duration::from_millis(50))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("7n", Some(Duration::from_nanos(7))),
            ("0m", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("5s", None),
            ("5\u{e9}", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}

use super::{GgufError, reader::Cursor};

/// A metadata value. Strings and arrays borrow from the file, so that reading metadata allocates
/// nothing a length field could inflate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Array<'a> {
    Strings(Vec<&'a str>),
    /// Elements of one size, undecoded.
    Fixed {
        kind: u32,
        bytes: &'a [u8],
    },
    /// Arrays of arrays are legal and nothing here uses them.
    Nested,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Legal files nest once if at all; without a limit each level costs the reader a stack frame.
const MAX_DEPTH: usize = 4;
/// Borrowed strings cost twice the least they take in the file. The largest vocabularies have a
/// quarter of a million tokens and half a million merges.
const MAX_STRINGS: u64 = 1 << 22;

/// Bytes of a value of this type, or `None` for the two that have no fixed size.
fn fixed_size(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

impl<'a> Value<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, GgufError> {
        let kind = cursor.u32(|| format!("the type of {key}"))?;
        match kind {
            STRING => Ok(Value::String(cursor.string(|| key.to_owned())?)),
            ARRAY => Ok(Value::Array(Array::read(cursor, key, MAX_DEPTH)?)),
            _ => {
                let size = known_size(kind, cursor, key)?;
                let at = cursor.offset();
                let bytes = cursor.bytes(size as u64, || key.to_owned())?;
                decode(kind, bytes).ok_or_else(|| GgufError::Unexpected {
                    what: key.to_owned(),
                    offset: at,
                    got: format!("{bytes:?}"),
                    want: "a bool of 0 or 1",
                })
            }
        }
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::String(s) => format!("{:?}", s.chars().take(60).collect::<String>()),
            Value::Array(_) => "an array".to_owned(),
        }
    }

    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, key: &str, depth: usize) -> Result<Array<'a>, GgufError> {
        let kind = cursor.u32(|| format!("the element type of {key}"))?;
        let count_at = cursor.offset();
        let count = cursor.u64(|| format!("the length of {key}"))?;
        if kind == STRING || kind == ARRAY {
            // A string is at least its length, an array at least its type and length.
            let least = if kind == STRING { 8 } else { 12 };
            let room = MAX_STRINGS.min(cursor.left() as u64 / least);
            if count > room {
                return Err(GgufError::TooLarge {
                    what: format!("the length of {key}"),
                    offset: count_at,
                    got: count,
                    limit: room,
                });
            }
        }
        match kind {
            STRING => (0..count)
                .map(|i| cursor.string(|| format!("{key}[{i}]")))
                .collect::<Result<_, _>>()
                .map(Array::Strings),
            ARRAY => {
                if depth == 0 {
                    return Err(GgufError::TooLarge {
                        what: format!("the nesting of {key}"),
                        offset: count_at,
                        got: MAX_DEPTH as u64 + 1,
                        limit: MAX_DEPTH as u64,
                    });
                }
                for _ in 0..count {
                    Array::read(cursor, key, depth - 1)?;
                }
                Ok(Array::Nested)
            }
            _ => {
                let size = known_size(kind, cursor, key)? as u64;
                let bytes = cursor.bytes(count.saturating_mul(size), || key.to_owned())?;
                Ok(Array::Fixed { kind, bytes })
            }
        }
    }

    /// The elements as numbers, whatever their width.
    pub(crate) fn numbers(&self) -> Option<Vec<f64>> {
        let Array::Fixed { kind, bytes } = self else {
            return None;
        };
        bytes
            .chunks_exact(fixed_size(*kind)?)
            .map(|element| match decode(*kind, element)? {
                Value::Unsigned(n) => Some(n as f64),
                Value::Signed(n) => Some(n as f64),
                Value::Float(x) => Some(x),
                _ => None,
            })
            .collect()
    }
}

fn known_size(kind: u32, cursor: &Cursor<'_>, key: &str) -> Result<usize, GgufError> {
    fixed_size(kind).ok_or_else(|| GgufError::Unexpected {
        what: format!("the type of {key}"),
        offset: cursor.offset(),
        got: kind.to_string(),
        want: "one of 0 to 12",
    })
}

fn decode<'a>(kind: u32, b: &[u8]) -> Option<Value<'a>> {
    Some(match (kind, b) {
        (0, &[a]) => Value::Unsigned(a.into()),
        (1, &[a]) => Value::Signed(a.cast_signed().into()),
        (2, &[a, b]) => Value::Unsigned(u16::from_le_bytes([a, b]).into()),
        (3, &[a, b]) => Value::Signed(i16::from_le_bytes([a, b]).into()),
        (4, &[a, b, c, d]) => Value::Unsigned(u32::from_le_bytes([a, b, c, d]).into()),
        (5, &[a, b, c, d]) => Value::Signed(i32::from_le_bytes([a, b, c, d]).into()),
        (6, &[a, b, c, d]) => Value::Float(f32::from_le_bytes([a, b, c, d]).into()),
        (7, &[0]) => Value::Bool(false),
        (7, &[1]) => Value::Bool(true),
        (10, b) => Value::Unsigned(u64::from_le_bytes(b.try_into().ok()?)),
        (11, b) => Value::Signed(i64::from_le_bytes(b.try_into().ok()?)),
        (12, b) => Value::Float(f64::from_le_bytes(b.try_into().ok()?)),
        _ => return None,
    })
}

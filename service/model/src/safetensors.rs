//! The safetensors container: a length, a JSON header, and the bytes it points into.
//!
//! Read by hand rather than with the crate of that name because a service must say *which* tensor
//! of a damaged file is at fault, and refuse a header that names one twice.

use std::{collections::HashMap, fmt, ops::Range};

use crate::{ModelError, dense::DenseFormat};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    #[error("{file}: has {bytes} bytes, too few for a header length")]
    TooShort { file: String, bytes: usize },

    #[error(
        "{file}: header length at byte 0 is {len}, the file has {bytes} bytes and the limit is {MAX_HEADER}"
    )]
    HeaderLength {
        file: String,
        len: u64,
        bytes: usize,
    },

    #[error("{file}: header at byte 8 is not valid: {source}")]
    Header {
        file: String,
        source: serde_json::Error,
    },

    #[error(
        "{file}: tensor {tensor}: bytes {start}..{end} do not lie within the {available} bytes of data at byte {data_start}"
    )]
    OutOfRange {
        file: String,
        tensor: String,
        start: u64,
        end: u64,
        available: usize,
        data_start: usize,
    },

    #[error("{file}: tensor {tensor}: {dtype} of shape {shape:?} is not {bytes} bytes long")]
    Size {
        file: String,
        tensor: String,
        dtype: String,
        shape: Vec<u64>,
        bytes: usize,
    },

    #[error("{file}: tensors {first} and {second} overlap at byte {offset}")]
    Overlap {
        file: String,
        first: String,
        second: String,
        offset: usize,
    },
}

/// A header of 16 MiB describes a hundred thousand tensors.
const MAX_HEADER: u64 = 16 << 20;

/// Where a tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub dtype: String,
    pub shape: Vec<u64>,
    /// From the start of the file.
    pub bytes: Range<usize>,
}

impl Entry {
    pub(crate) fn float_format(&self, name: &str) -> Result<DenseFormat, ModelError> {
        match self.dtype.as_str() {
            "F32" => Ok(DenseFormat::F32),
            "F16" => Ok(DenseFormat::F16),
            "BF16" => Ok(DenseFormat::BF16),
            _ => Err(self.wrong_type(name, "F32, F16 or BF16")),
        }
    }

    pub(crate) fn expect_shape(&self, name: &str, want: &[usize]) -> Result<(), ModelError> {
        let same = self.shape.len() == want.len()
            && self
                .shape
                .iter()
                .zip(want)
                .all(|(&got, &want)| got == want as u64);
        if same {
            Ok(())
        } else {
            Err(ModelError::TensorShape {
                name: name.to_owned(),
                got: self.shape.clone(),
                want: format!("{want:?}"),
            })
        }
    }

    pub(crate) fn wrong_type(&self, name: &str, want: &'static str) -> ModelError {
        ModelError::TensorType {
            name: name.to_owned(),
            got: self.dtype.clone(),
            want,
        }
    }
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header, with every tensor checked to lie in the file and to be as long as its shape says.
/// The second value is where the data starts.
pub(crate) fn parse(
    file: &str,
    bytes: &[u8],
) -> Result<(HashMap<String, Entry>, usize), SafetensorsError> {
    let owned = || file.to_owned();
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(SafetensorsError::TooShort {
            file: owned(),
            bytes: bytes.len(),
        });
    };
    let len = u64::from_le_bytes(*len);
    let Some(header) = usize::try_from(len)
        .ok()
        .filter(|_| len <= MAX_HEADER)
        .and_then(|len| rest.get(..len))
    else {
        return Err(SafetensorsError::HeaderLength {
            file: owned(),
            len,
            bytes: bytes.len(),
        });
    };
    let Header(raw) =
        serde_json::from_slice(header).map_err(|source| SafetensorsError::Header {
            file: owned(),
            source,
        })?;
    let data_start = 8 + header.len();
    let mut entries = HashMap::with_capacity(raw.len());
    for (name, raw) in raw {
        let entry = place(file, &name, raw, data_start, bytes.len())?;
        entries.insert(name, entry);
    }
    no_overlap(file, &entries)?;
    Ok((entries, data_start))
}

fn place(
    file: &str,
    name: &str,
    raw: RawEntry,
    data_start: usize,
    file_len: usize,
) -> Result<Entry, SafetensorsError> {
    let available = file_len - data_start;
    let (start, end) = raw.data_offsets;
    let within = start <= end && end <= available as u64;
    if !within {
        return Err(SafetensorsError::OutOfRange {
            file: file.to_owned(),
            tensor: name.to_owned(),
            start,
            end,
            available,
            data_start,
        });
    }
    let bytes = data_start + start as usize..data_start + end as usize;
    let wanted = element_bytes(&raw.dtype).and_then(|size| {
        let elements = raw.shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))?;
        elements.checked_mul(size)
    });
    if wanted != Some(bytes.len() as u64) {
        return Err(SafetensorsError::Size {
            file: file.to_owned(),
            tensor: name.to_owned(),
            dtype: raw.dtype,
            shape: raw.shape,
            bytes: bytes.len(),
        });
    }
    Ok(Entry {
        dtype: raw.dtype,
        shape: raw.shape,
        bytes,
    })
}

fn element_bytes(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "BOOL" | "U8" | "I8" => 1,
        "U16" | "I16" | "F16" | "BF16" => 2,
        "U32" | "I32" | "F32" => 4,
        "U64" | "I64" | "F64" => 8,
        _ => return None,
    })
}

fn no_overlap(file: &str, entries: &HashMap<String, Entry>) -> Result<(), SafetensorsError> {
    let mut placed: Vec<_> = entries.iter().map(|(name, e)| (&e.bytes, name)).collect();
    placed.sort_by_key(|(bytes, name)| (bytes.start, bytes.end, *name));
    for pair in placed.windows(2) {
        let ((first, first_name), (second, second_name)) = (pair[0], pair[1]);
        if second.start < first.end && !second.is_empty() {
            return Err(SafetensorsError::Overlap {
                file: file.to_owned(),
                first: first_name.clone(),
                second: second_name.clone(),
                offset: second.start,
            });
        }
    }
    Ok(())
}

/// The header in file order. A plain map would silently keep the last of two equal names.
struct Header(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("tensor {name} appears twice")));
                    }
                    let entry = map
                        .next_value()
                        .map_err(|e| A::Error::custom(format!("tensor {name}: {e}")))?;
                    entries.push((name, entry));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

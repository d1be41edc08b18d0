use std::collections::{HashMap, HashSet};

use super::{
    GgufError,
    tensor::{Kind, Tensor},
    value::Value,
};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";

/// Real files have tens of keys and hundreds of tensors.
const MAX_KEYS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 17;
/// A key and its type and value, a tensor with one dimension: no shorter entries exist.
const LEAST_KEY: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;
const MAX_NAME: u64 = 1 << 16;
const MAX_STRING: u64 = 16 << 20;
const MAX_DIMS: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;
const ALIGNMENT: &str = "general.alignment";

/// All of a GGUF file but the tensor data.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    pub metadata: HashMap<&'a str, Value<'a>>,
    pub tensors: HashMap<&'a str, Tensor<'a>>,
    pub data_start: usize,
}

impl<'a> Header<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Header<'a>, GgufError> {
        let mut cursor = Cursor { file, at: 0 };
        let magic = cursor.bytes(4, || "the magic".to_owned())?;
        if magic != MAGIC {
            return Err(GgufError::Unexpected {
                what: "the magic".to_owned(),
                offset: 0,
                got: format!("{magic:?}"),
                want: "GGUF",
            });
        }
        let version = cursor.u32(|| "the version".to_owned())?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { version });
        }
        let num_tensors = cursor.entries("the number of tensors", LEAST_TENSOR, MAX_TENSORS)?;
        let num_keys = cursor.entries("the number of keys", LEAST_KEY, MAX_KEYS)?;
        let metadata = metadata(&mut cursor, num_keys)?;
        let infos = infos(&mut cursor, num_tensors)?;
        let alignment = alignment(&metadata)?;
        let data_start = cursor.at.next_multiple_of(alignment);
        Ok(Header {
            tensors: place(infos, alignment, data_start, file.len())?,
            metadata,
            data_start,
        })
    }
}

fn metadata<'a>(
    cursor: &mut Cursor<'a>,
    num_keys: u64,
) -> Result<HashMap<&'a str, Value<'a>>, GgufError> {
    let mut metadata = HashMap::new();
    for i in 0..num_keys {
        let offset = cursor.at;
        let key = cursor.name(|| format!("key {i}"))?;
        let value = Value::read(cursor, key)?;
        if metadata.insert(key, value).is_some() {
            return Err(GgufError::Duplicate {
                what: "key",
                name: key.to_owned(),
                offset,
            });
        }
    }
    Ok(metadata)
}

/// A tensor as the file announces it.
struct Info<'a> {
    name: &'a str,
    dims: Vec<u64>,
    kind: Kind,
    start: u64,
    /// Where the announcement stands.
    at: usize,
}

fn infos<'a>(cursor: &mut Cursor<'a>, num_tensors: u64) -> Result<Vec<Info<'a>>, GgufError> {
    let mut seen = HashSet::new();
    let mut infos = Vec::new();
    for i in 0..num_tensors {
        let info = info(cursor, i)?;
        if !seen.insert(info.name) {
            return Err(GgufError::Duplicate {
                what: "tensor",
                name: info.name.to_owned(),
                offset: info.at,
            });
        }
        infos.push(info);
    }
    Ok(infos)
}

fn info<'a>(cursor: &mut Cursor<'a>, i: u64) -> Result<Info<'a>, GgufError> {
    let at = cursor.at;
    let name = cursor.name(|| format!("the name of tensor {i}"))?;
    let dims_at = cursor.at;
    let num_dims = cursor.u32(|| format!("the dimensions of {name}"))?;
    if !(1..=MAX_DIMS).contains(&num_dims) {
        return Err(GgufError::Unexpected {
            what: format!("the number of dimensions of {name}"),
            offset: dims_at,
            got: num_dims.to_string(),
            want: "1 to 4",
        });
    }
    let mut dims = Vec::new();
    for _ in 0..num_dims {
        let offset = cursor.at;
        let dim = cursor.u64(|| format!("the dimensions of {name}"))?;
        if dim == 0 {
            return Err(GgufError::Unexpected {
                what: format!("a dimension of {name}"),
                offset,
                got: "0".to_owned(),
                want: "at least 1",
            });
        }
        dims.push(dim);
    }
    let kind_at = cursor.at;
    let id = cursor.u32(|| format!("the type of {name}"))?;
    let kind = Kind::from_id(id).ok_or_else(|| GgufError::Unexpected {
        what: format!("the type of {name}"),
        offset: kind_at,
        got: id.to_string(),
        want: "0 (F32), 1 (F16), 8 (Q8_0), 14 (Q6_K), 30 (BF16) or 36 (I2_S)",
    })?;
    let start = cursor.u64(|| format!("the offset of {name}"))?;
    Ok(Info {
        name,
        dims,
        kind,
        start,
        at,
    })
}

fn alignment(metadata: &HashMap<&str, Value<'_>>) -> Result<usize, GgufError> {
    let Some(value) = metadata.get(ALIGNMENT) else {
        return Ok(32);
    };
    value
        .count()
        .filter(|n| n.is_power_of_two() && *n <= MAX_ALIGNMENT)
        .map(|n| n as usize)
        .ok_or_else(|| GgufError::Unexpected {
            what: ALIGNMENT.to_owned(),
            offset: 0,
            got: value.describe(),
            want: "a power of two up to 1048576",
        })
}

/// Gives every tensor its bytes, none of them outside the file and none given twice.
fn place<'a>(
    infos: Vec<Info<'a>>,
    alignment: usize,
    data_start: usize,
    file_len: usize,
) -> Result<HashMap<&'a str, Tensor<'a>>, GgufError> {
    let available = file_len.saturating_sub(data_start);
    let mut tensors = Vec::with_capacity(infos.len());
    for info in infos {
        let Some(bytes) = info.kind.bytes(&info.dims) else {
            return Err(GgufError::Shape {
                tensor: info.name.to_owned(),
                offset: info.at,
                shape: info.dims,
                kind: info.kind.name(),
            });
        };
        let end = info.start.checked_add(bytes);
        if end.is_none_or(|end| end > available as u64) {
            return Err(GgufError::OutOfRange {
                tensor: info.name.to_owned(),
                offset: info.at,
                start: info.start,
                bytes,
                data_start,
                available,
            });
        }
        if !info.start.is_multiple_of(alignment as u64) {
            return Err(GgufError::Unexpected {
                what: format!("the offset of {}", info.name),
                offset: info.at,
                got: info.start.to_string(),
                want: "a multiple of the alignment",
            });
        }
        let start = data_start + info.start as usize;
        tensors.push(Tensor {
            name: info.name,
            dims: info.dims,
            kind: info.kind,
            bytes: start..start + bytes as usize,
        });
    }
    tensors.sort_by_key(|tensor| tensor.bytes.start);
    for pair in tensors.windows(2) {
        if pair[1].bytes.start < pair[0].bytes.end {
            return Err(GgufError::Overlap {
                first: pair[0].name.to_owned(),
                second: pair[1].name.to_owned(),
                offset: pair[1].bytes.start,
            });
        }
    }
    Ok(tensors.into_iter().map(|t| (t.name, t)).collect())
}

/// Reads forward, never past the end. What is being read is named only when that fails.
pub(crate) struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn left(&self) -> usize {
        self.file.len() - self.at
    }

    pub(crate) fn bytes(
        &mut self,
        len: u64,
        what: impl FnOnce() -> String,
    ) -> Result<&'a [u8], GgufError> {
        if len > self.left() as u64 {
            return Err(GgufError::Truncated {
                what: what(),
                offset: self.at,
                needed: len,
                left: self.left(),
            });
        }
        let start = self.at;
        self.at += len as usize;
        Ok(&self.file[start..self.at])
    }

    pub(crate) fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, GgufError> {
        let bytes = self.bytes(4, what)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    pub(crate) fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, GgufError> {
        let bytes = self.bytes(8, what)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    pub(crate) fn string(&mut self, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
        self.limited_string(MAX_STRING, what)
    }

    fn name(&mut self, what: impl Fn() -> String) -> Result<&'a str, GgufError> {
        self.limited_string(MAX_NAME, what)
    }

    fn limited_string(
        &mut self,
        limit: u64,
        what: impl Fn() -> String,
    ) -> Result<&'a str, GgufError> {
        let offset = self.at;
        let len = self.u64(|| format!("the length of {}", what()))?;
        if len > limit {
            return Err(GgufError::TooLarge {
                what: format!("the length of {}", what()),
                offset,
                got: len,
                limit,
            });
        }
        let bytes = self.bytes(len, &what)?;
        std::str::from_utf8(bytes).map_err(|e| GgufError::Unexpected {
            what: what(),
            offset: offset + 8 + e.valid_up_to(),
            got: "not UTF-8".to_owned(),
            want: "UTF-8",
        })
    }

    /// A number of entries, bounded by what the rest of the file could hold.
    fn entries(&mut self, what: &str, least: u64, limit: u64) -> Result<u64, GgufError> {
        let offset = self.at;
        let count = self.u64(|| what.to_owned())?;
        let limit = limit.min(self.left() as u64 / least);
        if count > limit {
            return Err(GgufError::TooLarge {
                what: what.to_owned(),
                offset,
                got: count,
                limit,
            });
        }
        Ok(count)
    }
}

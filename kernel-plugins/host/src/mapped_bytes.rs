//! Part of a mapped file.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// Some of a file's bytes, which stay mapped as long as this is there.
#[derive(Clone, Debug)]
pub struct MappedBytes {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl MappedBytes {
    /// The range lies in the mapping.
    pub(crate) fn new(map: Arc<Mmap>, range: Range<usize>) -> MappedBytes {
        MappedBytes { map, range }
    }
}

impl AsRef<[u8]> for MappedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

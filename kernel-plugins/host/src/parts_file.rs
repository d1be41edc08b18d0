//! Packed weights in a file of the cache, mapped: processes that map one file
//! share its memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::cache_dir::{CacheDir, CacheError};
use crate::mapped_bytes::MappedBytes;
use crate::parts_plan::{CONTENT, KEY, MAGIC, PartsPlan, SEALED, STAMP, Word};

/// Which weights were packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Tells the files that the weights were read from from what replaces
    /// them, without reading them. None: they can't be told so.
    pub stamp: Option<[u8; 32]>,
    /// Of all weights.
    pub content: [u8; 32],
}

/// A file of packed weights that is what its plan says. The parts are to be
/// checked one by one.
#[derive(Debug)]
pub struct PartsFile {
    plan: PartsPlan,
    map: Arc<Mmap>,
}

/// Why a file of packed weights isn't used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PackedFileError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{name} can't be read: {source}")]
    Unreadable { name: String, source: io::Error },
    #[error("{name} has {found} bytes, not {expected}")]
    Length {
        name: String,
        found: u64,
        expected: usize,
    },
    #[error("{name} has another header than the model and the kernel ask for")]
    Header { name: String },
    #[error("{name} is damaged: part {part} has another checksum")]
    Damaged { name: String, part: usize },
}

impl PartsFile {
    /// The file in the cache, if it is there.
    pub fn open(cache: &CacheDir, plan: &PartsPlan) -> Result<Option<PartsFile>, PackedFileError> {
        let name = plan.file_name();
        let Some(file) = cache.file(&name)? else {
            return Ok(None);
        };
        let unreadable = |source| PackedFileError::Unreadable {
            name: plan.file_name(),
            source,
        };
        let found = file.metadata().map_err(unreadable)?.len();
        if found != plan.len as u64 {
            let expected = plan.len;
            return Err(PackedFileError::Length {
                name,
                found,
                expected,
            });
        }
        let map = map(&file, plan.len).map_err(unreadable)?;
        if !is_header(plan, &map[..plan.header_len()]) {
            return Err(PackedFileError::Header { name });
        }
        // Used just now: that is what the oldest are told by.
        cache.touch(&name);
        Ok(Some(PartsFile {
            plan: plan.clone(),
            map: Arc::new(map),
        }))
    }

    /// What was packed.
    pub fn origin(&self) -> Origin {
        let read = |range: Range<usize>| -> [u8; 32] {
            self.map[range].try_into().expect("ranges of 32 bytes")
        };
        Origin {
            stamp: Some(read(STAMP)).filter(|stamp| *stamp != [0; 32]),
            content: read(CONTENT),
        }
    }

    /// Checks all bytes of a part, which reads them from the disk if nobody did
    /// before, and tells its word.
    pub fn check(&self, part: usize) -> Result<Word, PackedFileError> {
        let pages = &self.plan.parts[part].pages;
        let check = &self.map[self.plan.check(part)];
        let (checksum, word) = check.split_last_chunk().expect("a check has 36 bytes");
        // One call maps what the page cache has, instead of one fault for
        // every few pages. Kernels before 5.14 don't know it.
        #[cfg(target_os = "linux")]
        let _ = self
            .map
            .advise_range(memmap2::Advice::PopulateRead, pages.start, pages.len());
        if blake3::hash(&self.map[pages.clone()]).as_bytes() != checksum {
            return Err(PackedFileError::Damaged {
                name: self.plan.file_name(),
                part,
            });
        }
        Ok(*word)
    }

    /// The bytes of a part.
    pub fn part(&self, part: usize) -> MappedBytes {
        self.parts(part..part + 1)
    }

    /// The bytes of several parts, one after the other: all but the last are
    /// whole pages, or zeros are between them.
    ///
    /// # Panics
    ///
    /// If the range is empty or there are no such parts.
    pub fn parts(&self, parts: Range<usize>) -> MappedBytes {
        let parts = &self.plan.parts[parts];
        let (first, last) = (&parts[0], &parts[parts.len() - 1]);
        let range = first.pages.start..last.pages.start + last.bytes;
        MappedBytes::new(self.map.clone(), range)
    }
}

fn map(file: &File, len: usize) -> io::Result<Mmap> {
    // SAFETY: a mapping is sound while nobody changes or shortens the file
    // under it. The file and its directory can be written to by this user
    // only, which `CacheDir` has just checked, and no code of this program
    // ever writes to a file that has this name: what is written has another
    // until it is complete (`parts_writer.rs`), and from then on it is only
    // replaced or removed, which leaves the mapped one alone. The bytes are
    // read as plain integers and shown to the plugin as what it wrote.
    let map = unsafe { MmapOptions::new().len(len).map(file) }?;
    // Passes over weights are faster. The system's cache has the file in huge
    // pages as it was written (`huge_pages.rs`) or, if it has left the memory
    // since, as it is read.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

fn is_header(plan: &PartsPlan, header: &[u8]) -> bool {
    let (sealed, digest) = (&header[SEALED..], &header[MAGIC.len()..SEALED]);
    header.starts_with(MAGIC)
        && header[KEY] == plan.key
        && blake3::hash(sealed).as_bytes() == digest
}

use std::{
    fs::{File, Metadata},
    ops::{Deref, Range},
    path::Path,
    time::{Duration, SystemTime},
};

use memmap2::Mmap;

use crate::ModelError;

/// The bytes of a weights file: mapped from disk, or part of the program.
pub(crate) enum FileBytes {
    Mapped {
        map: Mmap,
        file: File,
        stamp: Option<Stamp>,
    },
    Embedded(&'static [u8]),
}

impl FileBytes {
    pub(crate) fn map(path: &Path) -> Result<FileBytes, ModelError> {
        let io = |source| ModelError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // Before the first byte is read: what is changed later gets another one.
        let stamp = Stamp::of(&file.metadata().map_err(io)?);
        // SAFETY: a mapping is sound while nobody changes or shortens the file under it. No code
        // here writes to model files, the mapping is read-only, and the bytes are only ever read
        // as plain integers, for which every bit pattern is a value. That no one else rewrites a
        // model in place while it is served is asked of the operator: models are replaced by
        // renaming a new file over the old one, which leaves the mapped one alone.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(FileBytes::Mapped { map, file, stamp })
    }

    /// Copies bytes of a file without making their pages part of this process's memory, as a look at the mapping does,
    /// with fifteen neighbours each. What can't be read is in the mapping all the same.
    ///
    /// # Panics
    ///
    /// If there are no such bytes, or not as many as `out` has.
    pub(crate) fn read_into(&self, range: Range<usize>, out: &mut [u8]) {
        let bytes = &self[range.clone()];
        assert_eq!(bytes.len(), out.len());
        #[cfg(unix)]
        if let FileBytes::Mapped { file, .. } = self
            && std::os::unix::fs::FileExt::read_exact_at(file, out, range.start as u64).is_ok()
        {
            return;
        }
        out.copy_from_slice(bytes);
    }

    /// Gives the pages of a range back to the system, which has them in the file: they come again when they are looked
    /// at.
    pub(crate) fn give_back(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let FileBytes::Mapped { map, .. } = self {
            let bytes = &self[range.clone()];
            // SAFETY: of a private mapping that nobody writes to, pages that are dropped are read from the file again at
            // the next look. They are then what they were, as the file stays as it is: the mapping itself asks for
            // that. The range was just seen to lie in it.
            let advised = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    bytes.len(),
                )
            };
            // Then they stay, which is no error either.
            let _ = advised;
        }
    }

    /// `None` if what is read is not known to be what the stamp will be found with.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match self {
            FileBytes::Mapped { stamp, .. } => *stamp,
            FileBytes::Embedded(_) => None,
        }
    }
}

/// Tells a file from what replaces it and from what is made of it by writing: where it is, how long, and when it was
/// last written or had anything else about it changed, which no program can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([u64; 7]);

/// The clock of a file system may have ticks, in which a file can be read and be written again.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

impl Stamp {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;

        let changed = Duration::new(
            u64::try_from(metadata.ctime()).ok()?,
            u32::try_from(metadata.ctime_nsec()).ok()?,
        );
        let settled = SystemTime::UNIX_EPOCH.checked_add(changed + SETTLED_AFTER)?;
        (settled < SystemTime::now()).then(|| {
            Stamp([
                metadata.dev(),
                metadata.ino(),
                metadata.len(),
                metadata.mtime().cast_unsigned(),
                metadata.mtime_nsec().cast_unsigned(),
                changed.as_secs(),
                u64::from(changed.subsec_nanos()),
            ])
        })
    }

    #[cfg(not(unix))]
    fn of(_: &Metadata) -> Option<Stamp> {
        None
    }

    pub(crate) fn bytes(self) -> impl Iterator<Item = [u8; 8]> {
        self.0.into_iter().map(u64::to_le_bytes)
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped { map, .. } => map,
            FileBytes::Embedded(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            FileBytes::Mapped { .. } => "Mapped",
            FileBytes::Embedded(_) => "Embedded",
        };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests;

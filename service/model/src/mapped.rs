use std::{fs::File, ops::Deref, path::Path};

use memmap2::Mmap;

use crate::ModelError;

/// The bytes of a weights file: mapped from disk, or part of the program.
pub(crate) enum FileBytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl FileBytes {
    pub(crate) fn map(path: &Path) -> Result<FileBytes, ModelError> {
        let io = |source| ModelError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: a mapping is sound while nobody changes or shortens the file under it. No code
        // here writes to model files, the mapping is read-only, and the bytes are only ever read
        // as plain integers, for which every bit pattern is a value. That no one else rewrites a
        // model in place while it is served is asked of the operator: models are replaced by
        // renaming a new file over the old one, which leaves the mapped one alone.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(FileBytes::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(map) => map,
            FileBytes::Embedded(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            FileBytes::Mapped(_) => "Mapped",
            FileBytes::Embedded(_) => "Embedded",
        };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

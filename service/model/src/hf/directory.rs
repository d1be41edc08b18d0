use std::{borrow::Cow, fs::File, io::Read, path::PathBuf};

use crate::{ModelError, mapped::FileBytes};

/// The files of a model, on disk or in the program.
pub(crate) enum Directory<'a> {
    Disk(PathBuf),
    Embedded(&'a [(&'a str, &'static [u8])]),
}

impl Directory<'_> {
    /// A small file, or `None` if there is none of that name.
    pub(crate) fn read(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<Cow<'static, [u8]>>, ModelError> {
        match self {
            Directory::Embedded(files) => {
                let found = files.iter().find(|(file, _)| *file == name);
                Ok(found.map(|(_, bytes)| Cow::Borrowed(*bytes)))
            }
            Directory::Disk(root) => {
                let path = root.join(name);
                let io = |source| ModelError::Io {
                    path: path.clone(),
                    source,
                };
                let file = match File::open(&path) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    file => file.map_err(io)?,
                };
                // One byte more than allowed tells a file that is too large from one that fits,
                // also where the size reported for it cannot be believed.
                let mut bytes = Vec::new();
                file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
                if bytes.len() as u64 > limit {
                    return Err(ModelError::FileTooLarge {
                        file: name.to_owned(),
                        bytes: std::fs::metadata(&path).map_or(0, |m| m.len()),
                        limit,
                    });
                }
                Ok(Some(Cow::Owned(bytes)))
            }
        }
    }

    pub(crate) fn require(&self, name: &str, limit: u64) -> Result<Cow<'static, [u8]>, ModelError> {
        self.read(name, limit)?
            .ok_or_else(|| ModelError::FileMissing {
                file: name.to_owned(),
            })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        match self {
            Directory::Embedded(files) => files.iter().any(|(file, _)| *file == name),
            Directory::Disk(root) => root.join(name).is_file(),
        }
    }

    pub(crate) fn weights(&self, name: &str) -> Result<FileBytes, ModelError> {
        match self {
            Directory::Disk(root) => FileBytes::map(&root.join(name)),
            Directory::Embedded(files) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| FileBytes::Embedded(bytes))
                .ok_or_else(|| ModelError::FileMissing {
                    file: name.to_owned(),
                }),
        }
    }
}

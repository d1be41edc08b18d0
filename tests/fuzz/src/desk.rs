use std::path::{Path, PathBuf};

use tempfile::TempDir;

thread_local! {
    /// One for each thread, so that tests don't write over each other's files.
    static DIRECTORY: TempDir = TempDir::new().expect("temporary files can be written");
}

/// A directory of files to be opened. The same one each time: a name stays until it is written again.
pub(crate) struct Desk(PathBuf);

impl Desk {
    pub(crate) fn new(name: &str) -> Desk {
        let path = DIRECTORY.with(|directory| directory.path().join(name));
        std::fs::create_dir_all(&path).expect("the temporary directory is there");
        Desk(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).expect("temporary files can be written");
    }

    pub(crate) fn remove(&self, name: &str) {
        // An error means that it is not there.
        let _ = std::fs::remove_file(self.0.join(name));
    }
}

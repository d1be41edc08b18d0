//! A plugin's file, looked at before anything in it runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::kernel::Kernel;
use crate::open::{self, OpenError, Stage};
use crate::sha256::Sha256;
#[cfg(unix)]
use crate::trust::{self, Untrusted};
use crate::{cpu_features, elf};

/// A plugin with all its debug information takes some tens of megabytes.
pub(crate) const MAX_BYTES: u64 = 256 << 20;

/// A library that nobody else could have written, whole, for this machine, and
/// for what this CPU can do. Nothing of it has run.
#[derive(Debug)]
pub struct PluginFile {
    path: PathBuf,
    sha256: Sha256,
    source: Source,
}

/// What is loaded.
#[derive(Debug)]
pub(crate) enum Source {
    /// The file itself. Only root and this user could change it after it was
    /// looked at.
    File(PathBuf),
    /// A copy of the bytes whose digest was checked, which nobody can change
    /// any more.
    #[cfg(target_os = "linux")]
    Sealed(File),
}

impl PluginFile {
    /// Looks at a file. With a list of digests, its own must be one of them,
    /// and the bytes that have it are what [`open`](PluginFile::open) loads,
    /// whatever happens to the file meanwhile.
    pub fn read(path: &Path, allowed: Option<&[Sha256]>) -> Result<PluginFile, OpenError> {
        // Links are followed once, so that what is checked is what is loaded.
        let file = trusted(path)?;
        let bytes = read(&file)?;
        let sha256 = Sha256::of(&bytes);
        if allowed.is_some_and(|allowed| !allowed.contains(&sha256)) {
            return Err(OpenError::NotAllowed(sha256));
        }
        // Elsewhere the loader knows what it loads.
        if cfg!(target_os = "linux") {
            check_features(&elf::required_features(&bytes)?)?;
        }
        let source = match allowed {
            None => Source::File(file),
            Some(_) => sealed(&bytes).map_err(OpenError::NoCopy)?,
        };
        Ok(PluginFile {
            path: path.to_owned(),
            sha256,
            source,
        })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of its bytes.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// Loads it, which runs it, and checks its table. `stage` is told before
    /// each step that could be the plugin's last.
    pub fn open(self, stage: &mut dyn FnMut(Stage)) -> Result<Kernel, OpenError> {
        let (table, library) = open::load(&self.source, stage)?;
        Ok(Kernel::opened(self, table, library))
    }
}

impl Source {
    /// By this path the system's loader gets it.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Source::File(path) => path.clone(),
            #[cfg(target_os = "linux")]
            Source::Sealed(file) => {
                use std::os::fd::AsRawFd;
                format!("/proc/self/fd/{}", file.as_raw_fd()).into()
            }
        }
    }
}

fn check_features(required: &[String]) -> Result<(), OpenError> {
    let unknown = |name: &&String| cpu_features::has(name).is_none();
    if let Some(name) = required.iter().find(unknown) {
        return Err(OpenError::UnknownFeature(name.clone()));
    }
    let is_missing = |name: &&String| cpu_features::has(name) == Some(false);
    let missing: Vec<String> = required.iter().filter(is_missing).cloned().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(OpenError::MissingFeatures(missing)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(OpenError::TooLarge),
        false => Ok(bytes),
    }
}

/// A file in memory that can't be written to, not even by this process.
#[cfg(target_os = "linux")]
fn sealed(bytes: &[u8]) -> io::Result<Source> {
    use std::io::Write;

    use rustix::fs::{MemfdFlags, SealFlags};

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels since 6.3 want to be told that it is meant to be executed, and
    // older ones don't know the word.
    let file = rustix::fs::memfd_create(c"ternion kernel plugin", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"ternion kernel plugin", flags))?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(Source::Sealed(file))
}

#[cfg(not(target_os = "linux"))]
fn sealed(_bytes: &[u8]) -> io::Result<Source> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn trusted(path: &Path) -> Result<PathBuf, OpenError> {
    trust::trusted(path).map_err(|untrusted| match untrusted {
        Untrusted::Exposed(exposed) => OpenError::Exposed(exposed),
        Untrusted::NotAFile => OpenError::NotAFile,
        Untrusted::Unreadable(error) => OpenError::Unreadable(error),
    })
}

#[cfg(not(unix))]
fn trusted(path: &Path) -> Result<PathBuf, OpenError> {
    let path = std::fs::canonicalize(path)?;
    match path.is_file() {
        true => Ok(path),
        false => Err(OpenError::NotAFile),
    }
}

//! A directory for what can be computed again: who may have written what is
//! read from it, and how a file gets there whole or not at all.
//!
//! What is cached decides which kernel runs, and holds weights, so only files
//! of this process's own user count, in a directory of the same user, and
//! neither may be open to the writing of others. The directory is opened once
//! and everything is reached through that handle: whoever may rename what lies
//! above it can only lead a later start to another directory, which has to
//! pass the same check.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

/// The directory's permissions where this creates it.
const DIRECTORY_MODE: u32 = 0o700;
const OTHERS_WRITE: u32 = 0o022;
/// What a file is called until it is whole.
const UNFINISHED: &str = ".unfinished-";
/// Nobody writes for so long: what is still unfinished was left by a crash.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// An opened directory that this process's user alone can write to.
#[derive(Debug)]
pub struct CacheDir {
    path: PathBuf,
    dir: OwnedFd,
}

/// Why something in a cache, or the directory itself, isn't used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CacheError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not this user's alone: it has mode {mode:04o} and belongs to user {owner}, \
         this process runs as user {user}"
    )]
    Exposed {
        path: PathBuf,
        mode: u32,
        owner: u32,
        user: u32,
    },
    #[error("{path} is not a file")]
    NotAFile { path: PathBuf },
}

impl CacheDir {
    /// Opens the directory, having created it, and those above it, if it
    /// wasn't there.
    pub fn open(path: &Path) -> Result<CacheDir, CacheError> {
        let failed = |source: io::Error| CacheError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let cache = CacheDir {
            path: path.to_owned(),
            dir,
        };
        let stat = rustix::fs::fstat(&cache.dir).map_err(|e| failed(e.into()))?;
        check(path, &stat)?;
        cache.remove_abandoned();
        Ok(cache)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file, opened for reading, if it is there. `name` is one component.
    pub fn file(&self, name: &str) -> Result<Option<File>, CacheError> {
        let path = self.path.join(name);
        // Not following: a link's target may be anyone's. Not blocking: nor is
        // a pipe waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io_error(&path, error)),
        };
        checked(path, file).map(Some)
    }

    /// Puts a file there, in place of the one of that name: whole, as `fill`
    /// wrote it, or, if anything failed, not at all.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        // Several processes may write at once, and several threads of one.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unfinished = format!(
            "{UNFINISHED}{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file: File = rustix::fs::openat(&self.dir, &unfinished, flags, mode)
            .map_err(|error| io_error(&path, error))?
            .into();
        let written = fill(&mut file).and_then(|()| {
            Ok(rustix::fs::renameat(
                &self.dir,
                &unfinished,
                &self.dir,
                name,
            )?)
        });
        written.map_err(|source| {
            let _ = rustix::fs::unlinkat(&self.dir, &unfinished, AtFlags::empty());
            CacheError::Io { path, source }
        })
    }

    /// A file for writing, created if it isn't there, which is given its
    /// final name by [`rename`](CacheDir::rename).
    pub(crate) fn unfinished(&self, name: &str) -> Result<File, CacheError> {
        let path = self.path.join(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.dir, name, flags, mode)
            .map_err(|error| io_error(&path, error))?;
        checked(path, file)
    }

    /// Whether the name is this very file's.
    pub(crate) fn is(&self, name: &str, file: &File) -> bool {
        let named = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        named
            .and_then(|named| Ok(same(named, rustix::fs::fstat(file)?)))
            .unwrap_or(false)
    }

    /// Gives a file another name, in place of the file that has it, and waits
    /// until that is on the disk.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), CacheError> {
        rustix::fs::renameat(&self.dir, from, &self.dir, to)
            .and_then(|()| rustix::fs::fsync(&self.dir))
            .map_err(|error| io_error(&self.path.join(to), error))
    }

    /// Removes a file, if that can be done.
    pub(crate) fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::empty());
    }

    /// Makes a file the one that was used last, if that can be done.
    pub(crate) fn touch(&self, name: &str) {
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        };
        let _ = rustix::fs::utimensat(&self.dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// The names of all files, as far as they can be read.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.dir) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .collect()
    }

    /// Removes what processes left that died while they wrote. Whatever can't
    /// be looked at stays.
    fn remove_abandoned(&self) {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if name.to_string_lossy().starts_with(UNFINISHED)
                && age.is_some_and(|age| age > ABANDONED_AFTER)
            {
                let _ = rustix::fs::unlinkat(&self.dir, &name, AtFlags::empty());
            }
        }
    }
}

fn checked(path: PathBuf, file: OwnedFd) -> Result<File, CacheError> {
    let stat = rustix::fs::fstat(&file).map_err(|error| io_error(&path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(CacheError::NotAFile { path });
    }
    check(&path, &stat)?;
    Ok(file.into())
}

fn check(path: &Path, stat: &Stat) -> Result<(), CacheError> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid == user && stat.st_mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    Err(CacheError::Exposed {
        path: path.to_owned(),
        mode: stat.st_mode & 0o7777,
        owner: stat.st_uid,
        user,
    })
}

fn io_error(path: &Path, error: rustix::io::Errno) -> CacheError {
    CacheError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn read(cache: &CacheDir, name: &str) -> Result<Option<String>, CacheError> {
        Ok(cache.file(name)?.map(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            text
        }))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let cache = CacheDir::open(&path).unwrap();
        assert_eq!(read(&cache, "x").unwrap(), None);
        cache.write("x", |file| file.write_all(b"one")).unwrap();
        assert_eq!(read(&cache, "x").unwrap().as_deref(), Some("one"));
        assert_eq!((mode(&path), mode(&path.join("x"))), (0o700, 0o600));

        let failed = cache.write("x", |file| {
            file.write_all(b"tw")?;
            Err(io::Error::other("the disk is full"))
        });
        let said = failed.unwrap_err().to_string();
        assert_eq!(said, format!("{}/x: the disk is full", path.display()));
        assert_eq!(read(&cache, "x").unwrap().as_deref(), Some("one"));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[test]
    fn what_others_may_write_to_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("cache");
        let cache = CacheDir::open(&path).unwrap();
        cache.write("x", |file| file.write_all(b"one")).unwrap();
        for writable in [0o620, 0o602] {
            chmod(&path.join("x"), writable);
            let error = cache.file("x").unwrap_err();
            assert!(matches!(error, CacheError::Exposed { mode, .. } if mode == writable));
        }
        for writable in [0o720, 0o702, 0o1777] {
            chmod(&path, writable);
            let error = CacheDir::open(&path).unwrap_err();
            assert!(matches!(error, CacheError::Exposed { mode, .. } if mode == writable));
        }
        chmod(&path, 0o755);
        CacheDir::open(&path).unwrap();
    }

    #[test]
    fn links_and_pipes_are_no_files_of_a_cache() {
        let root = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(root.path()).unwrap();
        fs::write(root.path().join("target"), "elsewhere").unwrap();
        chmod(&root.path().join("target"), 0o600);
        symlink("target", root.path().join("link")).unwrap();
        assert!(matches!(cache.file("link"), Err(CacheError::Io { .. })));
        fs::create_dir(root.path().join("dir")).unwrap();
        assert!(matches!(
            cache.file("dir"),
            Err(CacheError::NotAFile { .. })
        ));
        let fifo = root.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        assert!(matches!(
            cache.file("fifo"),
            Err(CacheError::NotAFile { .. })
        ));
    }

    #[test]
    fn what_a_crash_left_is_removed_in_the_end() {
        let root = tempfile::tempdir().unwrap();
        let left = |name: &str, age: Duration| {
            let path = root.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let old = left(".unfinished-1-0", 2 * ABANDONED_AFTER);
        let new = left(".unfinished-2-0", Duration::ZERO);
        let other = left("kept", 2 * ABANDONED_AFTER);
        CacheDir::open(root.path()).unwrap();
        assert!(!old.exists() && new.exists() && other.exists());
    }
}

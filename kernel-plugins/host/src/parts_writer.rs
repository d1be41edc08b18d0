//! How a file of packed weights gets into the cache.
//!
//! It is written under another name, synced, and renamed. Whoever writes holds
//! a lock on the file he writes: a second process that packs the same model
//! waits for the first and finds its file, and an unfinished file without a
//! lock was left by a process that died, which the next one that writes
//! removes. Where the system's lock goes with the process, a killed one never
//! stands in the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::cache_dir::{CacheDir, CacheError};
use crate::huge_pages::HugePages;
use crate::parts_file::Origin;
use crate::parts_plan::{CHECK, CONTENT, KEY, MAGIC, PAGE, PartsPlan, SEALED, STAMP, Word};

/// How the names of finished files begin, and of unfinished ones.
const FINISHED: &str = "packed-";
const UNFINISHED: &str = ".packed-";
/// Between two looks whether another process is done.
const PATIENCE_STEP: Duration = Duration::from_millis(20);

/// A file of packed weights that is being written. Dropped before it is
/// finished, it is removed.
#[derive(Debug)]
pub struct PartsWriter<'a> {
    cache: &'a CacheDir,
    plan: &'a PartsPlan,
    file: File,
    huge_pages: OnceLock<HugePages>,
    /// The checks of the parts, in the header's form; zeros for those that
    /// aren't there yet.
    checks: Mutex<Vec<[u8; CHECK]>>,
}

/// Why a file of packed weights isn't written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PackedWriterError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the packed weights take {bytes} bytes, and the cache may have {limit}")]
    OverLimit { bytes: usize, limit: u64 },
    #[error("another process has been writing {name} for {waited:?}")]
    Busy { name: String, waited: Duration },
    #[error("{name} can't be written: {source}")]
    Unwritable { name: String, source: io::Error },
}

impl PartsPlan {
    fn unfinished_name(&self) -> String {
        format!(".{}", self.file_name())
    }
}

impl<'a> PartsWriter<'a> {
    /// Begins a file. If another process is writing the same file, waits for
    /// it, at most for `patience`; its file may then be there.
    pub fn begin(
        cache: &'a CacheDir,
        plan: &'a PartsPlan,
        patience: Duration,
    ) -> Result<PartsWriter<'a>, PackedWriterError> {
        Ok(PartsWriter {
            cache,
            plan,
            file: lock(cache, &plan.unfinished_name(), patience)?,
            huge_pages: OnceLock::new(),
            checks: Mutex::new(vec![[0; CHECK]; plan.parts.len()]),
        })
    }

    /// Reserves the file's space, so that a full disk is known before anything
    /// is packed, having made room: of the cache's packed weights, those used
    /// longest ago are removed until with the new ones they are no more than
    /// `limit` bytes. A finished file of this name, which the new one would
    /// replace, goes at once.
    pub fn reserve(&self, limit: u64) -> Result<(), PackedWriterError> {
        let bytes = self.plan.len;
        if bytes as u64 > limit {
            return Err(PackedWriterError::OverLimit { bytes, limit });
        }
        self.cache.remove(&self.plan.file_name());
        make_room(self.cache, self.plan, limit);
        self.file
            .set_len(0)
            .and_then(|()| allocate(&self.file, bytes))
            .map_err(|source| self.unwritable(source))?;
        if let Some(huge_pages) = HugePages::of(&self.file, bytes) {
            let _ = self.huge_pages.set(huge_pages);
        }
        Ok(())
    }

    /// Writes a part; several may be written at once from several threads.
    ///
    /// # Panics
    ///
    /// If the part has another size than in the plan.
    pub fn put(&self, index: usize, bytes: &[u8], word: Word) -> Result<(), PackedWriterError> {
        let part = &self.plan.parts[index];
        assert_eq!(bytes.len(), part.bytes, "the size of part {index}");
        if let Some(huge_pages) = self.huge_pages.get() {
            huge_pages.allocate(&part.pages);
        }
        self.file
            .write_all_at(bytes, part.pages.start as u64)
            .map_err(|source| self.unwritable(source))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytes);
        hasher.update(&[0; PAGE][..part.pages.len() - bytes.len()]);
        let mut check = [0; CHECK];
        check[..32].copy_from_slice(hasher.finalize().as_bytes());
        check[32..].copy_from_slice(&word);
        self.checks.lock().expect("no panic under this lock")[index] = check;
        Ok(())
    }

    /// Completes the file and gives it its name. What is read from it from
    /// then on is on the disk: a page that could not be written would come
    /// back as something else once it had left the memory.
    pub fn finish(self, origin: &Origin) -> Result<(), PackedWriterError> {
        let checks = self.checks.lock().expect("no panic under this lock");
        let header = header(self.plan, origin, &checks);
        drop(checks);
        self.file
            .write_all_at(&header, 0)
            .and_then(|()| self.file.sync_all())
            .map_err(|source| self.unwritable(source))?;
        let (unfinished, name) = (self.plan.unfinished_name(), self.plan.file_name());
        Ok(self.cache.rename(&unfinished, &name)?)
    }

    fn unwritable(&self, source: io::Error) -> PackedWriterError {
        PackedWriterError::Unwritable {
            name: self.plan.unfinished_name(),
            source,
        }
    }
}

impl Drop for PartsWriter<'_> {
    fn drop(&mut self) {
        // The lock is still held, so if it is there it is ours.
        let name = self.plan.unfinished_name();
        if self.cache.is(&name, &self.file) {
            self.cache.remove(&name);
        }
    }
}

fn header(plan: &PartsPlan, origin: &Origin, checks: &[[u8; CHECK]]) -> Vec<u8> {
    let mut header = vec![0; plan.header_len()];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header[KEY].copy_from_slice(&plan.key);
    header[STAMP].copy_from_slice(&origin.stamp.unwrap_or_default());
    header[CONTENT].copy_from_slice(&origin.content);
    for (index, check) in checks.iter().enumerate() {
        header[plan.check(index)].copy_from_slice(check);
    }
    let digest = blake3::hash(&header[SEALED..]);
    header[MAGIC.len()..SEALED].copy_from_slice(digest.as_bytes());
    header
}

/// The file of that name, created if need be, and locked.
fn lock(cache: &CacheDir, name: &str, patience: Duration) -> Result<File, PackedWriterError> {
    let since = Instant::now();
    loop {
        let file = cache.unfinished(name)?;
        match file.try_lock() {
            // Who held the lock may have renamed or removed the file
            // meanwhile: then this is a lock on nothing.
            Ok(()) if cache.is(name, &file) => return Ok(file),
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) if since.elapsed() < patience => {
                std::thread::sleep(PATIENCE_STEP);
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(PackedWriterError::Busy {
                    name: name.to_owned(),
                    waited: since.elapsed(),
                });
            }
            Err(std::fs::TryLockError::Error(source)) => {
                let name = name.to_owned();
                return Err(PackedWriterError::Unwritable { name, source });
            }
        }
    }
}

/// Removes what dead processes left, and as many of the other finished files
/// as are beyond the limit, those first that were used longest ago. What can't
/// be looked at or removed stays: the limit is a matter of tidiness.
fn make_room(cache: &CacheDir, plan: &PartsPlan, limit: u64) {
    let own = plan.unfinished_name();
    let mut finished = Vec::new();
    for name in cache.names().into_iter().filter(|name| *name != own) {
        if name.starts_with(UNFINISHED) {
            remove_if_abandoned(cache, &name);
        } else if name.starts_with(FINISHED)
            && let Ok(Some(file)) = cache.file(&name)
            && let Ok(metadata) = file.metadata()
            && let Ok(used) = metadata.modified()
        {
            finished.push((used, metadata.len(), name));
        }
    }
    finished.sort();
    let mut sum = plan.len as u64;
    for (_, len, name) in finished.iter().rev() {
        sum = sum.saturating_add(*len);
        if sum > limit {
            cache.remove(name);
        }
    }
}

fn remove_if_abandoned(cache: &CacheDir, name: &str) {
    if let Ok(Some(file)) = cache.file(name)
        && file.try_lock().is_ok()
        && cache.is(name, &file)
    {
        cache.remove(name);
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, len: usize) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;

    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len as u64) {
        // Some file systems can't; the disk is then full when it is.
        Err(Errno::OPNOTSUPP) => file.set_len(len as u64),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, len: usize) -> io::Result<()> {
    file.set_len(len as u64)
}

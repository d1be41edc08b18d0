//! Memory for the matrices that a kernel packs.
//!
//! One after the other in mappings that are larger than any of them: huge pages
//! are whole ones of a mapping, and a matrix of a megabyte has none of its own.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{MmapMut, MmapRaw};

/// Of a mapping, unless a matrix is larger. What is never written to takes
/// addresses and no memory.
const MAPPING_BYTES: usize = 64 << 20;

/// Where shares begin and end: at a page, which every alignment that a plugin
/// may ask for divides, and which is given back as a whole.
const PAGE: usize = 4 << 10;

/// Where the next matrix goes.
#[derive(Debug, Default)]
pub(crate) struct WeightsMemory {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// Gone with the last of its shares.
    map: Weak<MmapRaw>,
    used: usize,
}

/// Part of a mapping, whose bytes are nobody else's. Zero at first.
#[derive(Debug)]
pub(crate) struct Share {
    map: Arc<MmapRaw>,
    range: Range<usize>,
}

impl WeightsMemory {
    /// # Errors
    ///
    /// If the system doesn't promise so much memory.
    pub(crate) fn share(&self, bytes: usize) -> io::Result<Share> {
        let too_much = || io::Error::from(io::ErrorKind::OutOfMemory);
        let taken = bytes
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(too_much)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let map = match last.map.upgrade() {
            Some(map) if taken <= map.len() - last.used => map,
            _ => {
                let map = Arc::new(reserve(taken.max(MAPPING_BYTES)).or_else(|_| reserve(taken))?);
                *last = Last {
                    map: Arc::downgrade(&map),
                    used: 0,
                };
                map
            }
        };
        let start = last.used;
        last.used += taken;
        Ok(Share {
            map,
            range: start..start + bytes,
        })
    }
}

fn reserve(bytes: usize) -> io::Result<MmapRaw> {
    let map = MmapMut::map_anon(bytes)?;
    // Five hundred times fewer faults, and fewer misses at every pass.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(MmapRaw::from(map))
}

impl Deref for Share {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is inside the mapping, which is readable, holds
        // zeros or what was written, and lives at least as long as this share.
        // No two shares have a byte in common, so it is written to only through
        // `&mut` of this one.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl DerefMut for Share {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the mapping is writable, and this borrow of the
        // share is the only one.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.map.as_mut_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

impl Drop for Share {
    /// Others may keep the mapping for long.
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: the pages are this share's alone, and nobody borrows it.
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                self.range.start,
                self.range.len().next_multiple_of(PAGE),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_no_byte_in_common() {
        let memory = WeightsMemory::default();
        let sizes = [1, PAGE, PAGE + 1, 0, 5 << 20, MAPPING_BYTES, 7];
        let mut shares: Vec<Share> = sizes.map(|size| memory.share(size).unwrap()).into();
        for (n, share) in shares.iter_mut().enumerate() {
            assert!(share.iter().all(|&byte| byte == 0));
            share.fill(n as u8 + 1);
        }
        for (n, share) in shares.iter().enumerate() {
            assert_eq!(share.len(), sizes[n]);
            assert!(share.as_ptr().addr().is_multiple_of(PAGE));
            assert!(share.iter().all(|&byte| byte == n as u8 + 1), "{n}");
        }
    }

    #[test]
    fn small_ones_lie_in_one_mapping() {
        let memory = WeightsMemory::default();
        let (a, b) = (memory.share(5000).unwrap(), memory.share(1).unwrap());
        assert!(Arc::ptr_eq(&a.map, &b.map));
        assert_eq!(b.as_ptr().addr() - a.as_ptr().addr(), 2 * PAGE);
    }

    /// Pages that were given back are zero again.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_dropped_takes_no_memory() {
        let memory = WeightsMemory::default();
        let mut large = memory.share(16 << 20).unwrap();
        let mut small = memory.share(3).unwrap();
        large.fill(1);
        small.fill(2);
        let (map, range) = (small.map.clone(), large.range.clone());
        drop(large);
        // SAFETY: the mapping is still there, and nobody has that part of it.
        let freed = unsafe { std::slice::from_raw_parts(map.as_ptr(), range.end) };
        assert!(freed.iter().all(|&byte| byte == 0));
        assert_eq!(*small, [2; 3]);
        let weak = Arc::downgrade(&map);
        drop((map, small));
        assert_eq!(weak.strong_count(), 0);
    }
}

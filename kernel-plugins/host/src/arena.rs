//! Memory that can be made resident while it is used.

use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use memmap2::{MmapMut, MmapRaw};

/// Memory of this process alone, zero at first. The system finds pages for it
/// as they are touched: by a write, or beforehand by a [`Toucher`].
#[derive(Debug)]
pub struct Arena {
    map: Arc<MmapRaw>,
}

/// Makes the pages of an arena resident, from any thread, whatever is in them.
#[derive(Clone, Debug)]
pub struct Toucher {
    map: Arc<MmapRaw>,
}

impl Arena {
    /// Reserves addresses, and asks for huge pages where the system has some:
    /// without them what reads memory from one end to the other looks up an
    /// address every 4 KiB.
    ///
    /// # Errors
    ///
    /// If the system doesn't promise so much memory.
    pub fn reserve(bytes: usize) -> io::Result<Arena> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Arena {
            map: Arc::new(MmapRaw::from(map)),
        })
    }

    /// What touches this arena's pages.
    pub fn toucher(&self) -> Toucher {
        Toucher {
            map: self.map.clone(),
        }
    }
}

impl Deref for Arena {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialised with zeros, as long as
        // it says, and lives at least as long as this borrow of the arena. It
        // is written to through `&mut Arena` only: an arena can't be cloned,
        // and a toucher asks the system to find pages for what is there, which
        // changes no byte.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; this borrow of the arena is the only one, and the
        // mapping is writable.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }
}

impl Toucher {
    /// Has the system find pages for a range of bytes, in whole pages, now.
    ///
    /// # Errors
    ///
    /// If there is no memory for them, or the system can't do this: Linux can
    /// from 5.14 on.
    pub fn touch(&self, range: Range<usize>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        return self.map.advise_range(
            memmap2::Advice::PopulateWrite,
            range.start,
            range.end - range.start,
        );
        #[cfg(not(target_os = "linux"))]
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{range:?} can't be touched on this system"),
        ))
    }

    /// Whether the arena is still there.
    pub fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.map) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_touched_keeps_its_contents() {
        let mut arena = Arena::reserve(3 * MIB + 5).unwrap();
        assert_eq!(arena.len(), 3 * MIB + 5);
        arena[MIB] = 7;
        arena[3 * MIB + 4] = 9;
        let toucher = arena.toucher();
        let touching = std::thread::spawn(move || {
            let _ = toucher.touch(0..3 * MIB + 5);
        });
        // Written to at the same time.
        for byte in arena.iter_mut().step_by(4096) {
            *byte = byte.wrapping_add(1);
        }
        touching.join().unwrap();
        assert_eq!((arena[0], arena[MIB], arena[MIB + 1]), (1, 8, 0));
        assert_eq!(arena[3 * MIB + 4], 9);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_resident() {
        let arena = Arena::reserve(32 * MIB).unwrap();
        let toucher = arena.toucher();
        assert!(toucher.is_wanted());
        if let Err(error) = toucher.touch(8 * MIB..24 * MIB) {
            // Before Linux 5.14.
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            return;
        }
        let resident = resident_kib(arena.as_ptr().addr());
        assert!(resident >= 16 << 10, "{resident} KiB");
        drop(arena);
        assert!(!toucher.is_wanted());
    }

    /// Of the mapping that an address lies in.
    #[cfg(target_os = "linux")]
    fn resident_kib(address: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_in = false;
        for line in maps.lines() {
            let first = line.split(' ').next().unwrap();
            let ends = first.split_once('-').and_then(|(start, end)| {
                let hex = |x| usize::from_str_radix(x, 16).ok();
                Some(hex(start)?..hex(end)?)
            });
            if let Some(range) = ends {
                is_in = range.contains(&address);
            } else if is_in && let Some(rss) = line.strip_prefix("Rss:") {
                return rss.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("no mapping has {address:x}");
    }

    #[test]
    fn what_cannot_be_reserved_is_an_error() {
        assert!(Arena::reserve(usize::MAX / 2).is_err());
    }
}

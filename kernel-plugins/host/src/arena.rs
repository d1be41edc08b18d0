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

/// No larger than a page of any system.
const PAGE: usize = 4 << 10;

impl Toucher {
    /// Has the system find pages for a range of bytes, in whole pages, now: by
    /// touching each.
    ///
    /// Not by `MADV_POPULATE_WRITE`, which holds the lock of the process's
    /// memory map while it clears a page: of a huge one up to 5 ms where a
    /// hypervisor has to find the memory first. Who changes the map waits for
    /// it each time, and glibc's `malloc` changes it for every few KiB by which
    /// it grows. Linux, from 6.4 on, finds a page that a thread touches under a
    /// lock of that mapping alone.
    ///
    /// # Panics
    ///
    /// If the range ends outside the arena.
    ///
    /// # Errors
    ///
    /// If this is not to be done on such a CPU.
    pub fn touch(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.end <= self.map.len(), "{range:?} is not all inside");
        let start = range.start / PAGE * PAGE;
        (start..range.end).step_by(PAGE).try_for_each(|offset| {
            // SAFETY: the byte is inside the mapping, by the assertion, which
            // lives as long as this toucher and is writable.
            unsafe { touch(self.map.as_mut_ptr().add(offset)) }
        })
    }

    /// Whether the arena is still there.
    pub fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.map) > 1
    }
}

/// Writes to a byte what is in it, and whoever writes to it meanwhile does so
/// before or after, never between.
///
/// An instruction, since it must be none of Rust's business: others have the
/// memory borrowed. To Rust it does nothing, as no byte is another afterwards;
/// and an atomic operation that changes nothing the compiler makes a read.
///
/// # Safety
///
/// The byte must be in memory that is mapped and writable.
#[cfg(target_arch = "x86_64")]
unsafe fn touch(byte: *mut u8) -> io::Result<()> {
    // SAFETY: the caller's promise; it touches no stack, and the write is one
    // with its read.
    unsafe { std::arch::asm!("lock or byte ptr [{}], 0", in(reg) byte, options(nostack)) };
    Ok(())
}

/// Likewise: the exclusive store fails if somebody wrote since the load.
///
/// # Safety
///
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn touch(byte: *mut u8) -> io::Result<()> {
    // SAFETY: as above; what is written are registers that are named as such.
    unsafe {
        std::arch::asm!(
            "2:",
            "ldxrb {value:w}, [{byte}]",
            "stxrb {failed:w}, {value:w}, [{byte}]",
            "cbnz {failed:w}, 2b",
            byte = in(reg) byte,
            value = out(reg) _,
            failed = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
    Ok(())
}

/// Elsewhere pages come as they are used.
///
/// # Safety
///
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn touch(_: *mut u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const MIB: usize = 1 << 20;

    /// Times that a byte is written to while it is touched again and again.
    const ROUNDS: usize = 20_000_000;

    #[test]
    fn what_is_touched_keeps_its_contents() {
        let mut arena = Arena::reserve(MIB + 5).unwrap();
        assert_eq!(arena.len(), MIB + 5);
        arena[MIB] = 7;
        arena[MIB + 4] = 9;
        let (toucher, written) = (arena.toucher(), AtomicBool::new(false));
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                while !written.load(Ordering::Relaxed) {
                    toucher.touch(MIB..MIB + 5).unwrap();
                }
            });
            begun.wait();
            for _ in 0..ROUNDS {
                arena[MIB] = std::hint::black_box(arena[MIB]).wrapping_add(1);
            }
            written.store(true, Ordering::Relaxed);
        });
        let after = (7 + ROUNDS) as u8;
        assert_eq!(arena[MIB - 1..], [0, after, 0, 0, 0, 9]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_resident() {
        let arena = Arena::reserve(32 * MIB).unwrap();
        let toucher = arena.toucher();
        assert!(toucher.is_wanted());
        toucher.touch(8 * MIB..24 * MIB).unwrap();
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

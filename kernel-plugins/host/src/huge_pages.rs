//! Huge pages for a file that is being written.
//!
//! What is written stays in the system's cache in the pages it came in, and who
//! maps the file can have huge ones of those only that are. A write allocates
//! small ones, unless it is large and lies well; the first touch of a mapping
//! that asks for huge pages allocates huge ones, which writes then go into.
//! That takes Linux 5.18 on XFS, 6.16 on ext4. Elsewhere nothing is lost but
//! speed.

use std::fs::File;
use std::ops::Range;

use memmap2::{MmapOptions, MmapRaw};

/// Of x86-64, and of aarch64 with small pages of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// A file to be written.
#[derive(Debug)]
pub(crate) struct HugePages {
    /// Nobody reads through it.
    map: MmapRaw,
    len: usize,
}

impl HugePages {
    /// None: the system has none.
    pub(crate) fn of(file: &File, len: usize) -> Option<HugePages> {
        let map = MmapOptions::new().len(len).map_raw_read_only(file).ok()?;
        advise(&map).then_some(HugePages { map, len })
    }

    /// Allocates the pages that a range of the file touches, which must have
    /// its length by now. What is written there already stays.
    pub(crate) fn allocate(&self, range: &Range<usize>) {
        let start = range.start / HUGE_PAGE * HUGE_PAGE;
        let end = range.end.next_multiple_of(HUGE_PAGE).min(self.len);
        populate(&self.map, start..end);
    }
}

#[cfg(target_os = "linux")]
fn advise(map: &MmapRaw) -> bool {
    map.advise(memmap2::Advice::HugePage).is_ok()
}

#[cfg(target_os = "linux")]
fn populate(map: &MmapRaw, range: Range<usize>) {
    // Kernels before 5.14 don't know it.
    let _ = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &MmapRaw) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn populate(_: &MmapRaw, _: Range<usize>) {}

//! Memory of this process, as the system counts it.

use std::fmt;
use std::fs;

use serde::Serialize;

/// What is resident, in bytes. Pages of a file count in every process that has them mapped, and are in memory once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Resident {
    /// The most that was resident since the start.
    pub(crate) peak_bytes: u64,
    /// Now, this process's own.
    pub(crate) anonymous_bytes: u64,
    /// Now, of mapped files.
    pub(crate) file_bytes: u64,
}

impl Resident {
    /// None where there is no procfs.
    pub(crate) fn now() -> Option<Resident> {
        Resident::parse(&fs::read_to_string("/proc/self/status").ok()?)
    }

    fn parse(status: &str) -> Option<Resident> {
        let bytes = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Resident {
            peak_bytes: bytes("VmHWM:")?,
            anonymous_bytes: bytes("RssAnon:")?,
            file_bytes: bytes("RssFile:")?,
        })
    }
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "at most {:.0} MB resident, now {:.0} MB of its own and {:.0} MB of files",
            megabytes(self.peak_bytes),
            megabytes(self.anonymous_bytes),
            megabytes(self.file_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_page_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1500 kB\nRssAnon:\t    1000 kB\nRssFile:\t     500 kB\n";
        let resident = Resident::parse(status).expect("all is there");
        assert_eq!(
            resident,
            Resident {
                peak_bytes: 2048 << 10,
                anonymous_bytes: 1000 << 10,
                file_bytes: 500 << 10,
            }
        );
        assert_eq!(
            resident.to_string(),
            "at most 2 MB resident, now 1 MB of its own and 1 MB of files"
        );
        assert_eq!(Resident::parse("VmHWM:\t 2048 kB\n"), None);
        assert_eq!(Resident::parse("VmHWM: a\nRssAnon: b\nRssFile: c"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_touched_is_resident() {
        let before = Resident::now().expect("there is a procfs");
        let touched = vec![1_u8; 64 << 20];
        let after = Resident::now().expect("there is a procfs");
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (48 << 20));
        assert!(after.peak_bytes >= after.anonymous_bytes);
        drop(touched);
    }
}

//! How much memory this process may come to use.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What is assumed where the memory can't be found out.
const ASSUMED: u64 = 4 << 30;

/// The memory that there is, and what of it is still to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryRoom {
    /// The machine's, or less if a cgroup says so.
    pub(crate) total: u64,
    /// What is left: the least that anything leaves.
    pub(crate) left: u64,
    /// What leaves no more.
    by: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bound {
    /// This file's limit, and what the group uses that can't be had again.
    Cgroup {
        file: PathBuf,
        limit: u64,
        used: u64,
    },
    /// What the machine's other processes leave.
    Available,
    /// A setting allows no more.
    Setting(&'static str),
    Unknown,
}

impl fmt::Display for MemoryRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            Bound::Cgroup { file, limit, used } => write!(
                f,
                "{limit} bytes are allowed by {}, {used} of them are in use",
                file.display()
            ),
            Bound::Available => write!(f, "{} bytes are available on this machine", self.left),
            Bound::Setting(name) => write!(f, "{} bytes are allowed by {name}", self.left),
            Bound::Unknown => write!(f, "{} bytes are assumed to be there", self.left),
        }
    }
}

impl MemoryRoom {
    /// No more of it than a setting says.
    pub(crate) fn at_most(mut self, bytes: u64, setting: &'static str) -> MemoryRoom {
        self.total = self.total.min(bytes);
        if bytes < self.left {
            self.left = bytes;
            self.by = Bound::Setting(setting);
        }
        self
    }
}

/// Looks at this machine.
pub(crate) fn memory_room() -> MemoryRoom {
    room_under(Path::new("/"))
}

fn room_under(root: &Path) -> MemoryRoom {
    let mut total = meminfo(root, "MemTotal:");
    let mut room = meminfo(root, "MemAvailable:")
        .or(total)
        .map(|left| (left, Bound::Available));
    for (left, bound) in cgroups(root) {
        if let Bound::Cgroup { limit, .. } = bound {
            total = Some(total.map_or(limit, |total| total.min(limit)));
        }
        if room.as_ref().is_none_or(|(least, _)| left < *least) {
            room = Some((left, bound));
        }
    }
    let (left, by) = room.unwrap_or((ASSUMED, Bound::Unknown));
    MemoryRoom {
        total: total.unwrap_or(ASSUMED),
        left,
        by,
    }
}

fn meminfo(root: &Path, name: &str) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// What a version of cgroups calls things.
struct Version {
    /// Where groups are.
    base: PathBuf,
    limits: &'static [&'static str],
    usage: &'static str,
    /// Lines of `memory.stat`: pages of files, and those of them that are in
    /// no file and can't be had again.
    file: &'static str,
    shmem: &'static str,
}

/// What each limit leaves, of this process's group and of all above it.
fn cgroups(root: &Path) -> Vec<(u64, Bound)> {
    let of_process = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left = Vec::new();
    for line in of_process.lines() {
        // Hierarchy, controllers, path.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let version = match controllers {
            "" => Version {
                base: root.join("sys/fs/cgroup"),
                // Above the second nothing is refused, but slowed down until
                // it is as if it were.
                limits: &["memory.max", "memory.high"],
                usage: "memory.current",
                file: "file",
                shmem: "shmem",
            },
            some if some.split(',').any(|name| name == "memory") => Version {
                base: root.join("sys/fs/cgroup/memory"),
                limits: &["memory.limit_in_bytes"],
                usage: "memory.usage_in_bytes",
                file: "total_cache",
                shmem: "total_shmem",
            },
            _ => continue,
        };
        // In a container what is mounted may begin at its own group, whatever
        // its path: then only the last of these is there.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            left.extend(version.left(&version.base.join(group)));
        }
    }
    left
}

impl Version {
    /// What each limit of one group leaves.
    fn left(&self, group: &Path) -> impl Iterator<Item = (u64, Bound)> {
        let number = |name: &str| -> Option<u64> {
            let text = fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse().ok()
        };
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let line = |name: &str| -> u64 {
            let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
            let value = lines.find(|(key, _)| *key == name);
            value.and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
        };
        let files = line(self.file).saturating_sub(line(self.shmem));
        let used = number(self.usage).unwrap_or(0).saturating_sub(files);
        // "max", or no such file: no limit.
        let limits = self.limits.iter().filter_map(|name| {
            let limit = number(name)?;
            let file = group.join(name);
            let bound = Bound::Cgroup { file, limit, used };
            Some((limit.saturating_sub(used), bound))
        });
        limits.collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
impl MemoryRoom {
    /// A machine that has so much, all of it free.
    pub(crate) fn of(bytes: u64) -> MemoryRoom {
        MemoryRoom {
            total: bytes,
            left: bytes,
            by: Bound::Available,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine's files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it lies in the directory"))
                .expect("can be made");
            fs::write(path, text).expect("writable");
        }
        root
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   12582912 kB\n",
    );

    fn said(room: &MemoryRoom, root: &tempfile::TempDir) -> String {
        let root = root.path().display().to_string();
        room.to_string().replace(&root, "")
    }

    #[test]
    fn without_groups_what_is_available_is_left() {
        let root = machine(&[MEMINFO]);
        let room = room_under(root.path());
        assert_eq!((room.total, room.left), (16 * GIB, 12 * GIB));
        assert_eq!(
            said(&room, &root),
            "12884901888 bytes are available on this machine"
        );
        let nothing = machine(&[]);
        let room = room_under(nothing.path());
        assert_eq!((room.total, room.left), (ASSUMED, ASSUMED));
    }

    #[test]
    fn a_setting_allows_less_and_never_more() {
        let room = MemoryRoom::of(4 * GIB).at_most(GIB, "memory_limit");
        assert_eq!((room.total, room.left), (GIB, GIB));
        let said = room.to_string();
        assert_eq!(said, "1073741824 bytes are allowed by memory_limit");
        let more = MemoryRoom::of(4 * GIB).at_most(5 * GIB, "preset");
        assert_eq!(more, MemoryRoom::of(4 * GIB));
    }

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        // The process's own group has no limit; the one above has, and uses
        // some that are pages of files.
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/pods/one/server\n"),
            ("sys/fs/cgroup/pods/one/server/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/one/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/pods/one/memory.current", "1073741824\n"),
            (
                "sys/fs/cgroup/pods/one/memory.stat",
                "anon 5\nfile 805306368\nshmem 268435456\n",
            ),
            ("sys/fs/cgroup/pods/memory.max", "8589934592\n"),
        ]);
        let room = room_under(root.path());
        assert_eq!((room.total, room.left), (2 * GIB, 2 * GIB - GIB / 2));
        assert_eq!(
            said(&room, &root),
            "2147483648 bytes are allowed by /sys/fs/cgroup/pods/one/memory.max, 536870912 of them are in use"
        );
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_top() {
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/memory.high", "536870912\n"),
            ("sys/fs/cgroup/memory.current", "garbage"),
        ]);
        let room = room_under(root.path());
        assert_eq!((room.total, room.left), (GIB / 2, GIB / 2));
    }

    #[test]
    fn the_first_version_is_understood() {
        let root = machine(&[
            MEMINFO,
            (
                "proc/self/cgroup",
                "9:name=systemd:/\n4:cpu,memory:/a/b\nbroken\n0::/\n",
            ),
            // Mounted at the container's own.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "cache 1\ntotal_cache 1073741824\ntotal_shmem 0\n",
            ),
        ]);
        let room = room_under(root.path());
        assert_eq!((room.total, room.left), (3 * GIB, 3 * GIB));
        // No limit is a very large one.
        let root = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/a\n"),
            (
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        let room = room_under(root.path());
        assert_eq!((room.total, room.left), (16 * GIB, 12 * GIB));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_some() {
        let room = memory_room();
        assert!(room.total > 64 << 20 && room.left <= room.total, "{room:?}");
        assert_ne!(room.by, Bound::Unknown);
    }
}

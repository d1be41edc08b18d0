//! Energy that processors and memory used, as they count it themselves: RAPL,
//! by way of Linux' power capping framework (`/sys/class/powercap`).
//!
//! These are counters of whole packages. What other processes burn is in them,
//! and on a machine without them, or where root alone may read them, there is
//! nothing to tell: nothing is ever estimated.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Where Linux has them.
pub(crate) const POWERCAP: &str = "/sys/class/powercap";

/// More than any machine has packages, each with its memory.
const MAX_DOMAINS: usize = 64;

/// Longer than any name that is known here, or number.
const MAX_BYTES: u64 = 64;

/// Counters, and what they have counted since they were opened.
#[derive(Debug)]
pub(crate) struct Energy {
    domains: Vec<Domain>,
}

#[derive(Debug)]
struct Domain {
    /// `package-0`, or `package-0-dram`.
    name: String,
    counter: PathBuf,
    /// The counter's largest value, after which it begins at 0 again.
    range: u64,
    last: u64,
    microjoules: u64,
}

impl Energy {
    /// Finds the counters of packages, and of the memory that belongs to each.
    /// Others are left out, as they are parts of a package (cores, graphics) or
    /// contain one (`psys`, the whole platform). `None` where there are none
    /// that may be read.
    pub(crate) fn open(powercap: &Path) -> Option<Energy> {
        let mut domains = Vec::new();
        for package in zones(powercap, "intel-rapl") {
            let Some(name) = name(&package).filter(|name| name.starts_with("package-")) else {
                continue;
            };
            let memory = zones(&package, &last_part(&package));
            let memory = memory
                .into_iter()
                .find(|zone| self::name(zone).as_deref() == Some("dram"));
            let memory = memory.and_then(|zone| Domain::open(&zone, format!("{name}-dram")));
            domains.extend(Domain::open(&package, name));
            domains.extend(memory);
        }
        domains.truncate(MAX_DOMAINS);
        (!domains.is_empty()).then_some(Energy { domains })
    }

    /// Reads the counters. Must be called before one can have gone round twice:
    /// they hold some 65 kJ, two minutes of a large package.
    pub(crate) fn sample(&mut self) {
        self.domains.iter_mut().for_each(Domain::sample);
    }

    /// Joules of each domain since the beginning, as of the last sample.
    pub(crate) fn joules_by_domain(&self) -> impl Iterator<Item = (&str, f64)> {
        self.domains
            .iter()
            .map(|domain| (domain.name.as_str(), domain.microjoules as f64 / 1e6))
    }

    /// Of all together.
    pub(crate) fn joules(&self) -> f64 {
        self.joules_by_domain().map(|(_, joules)| joules).sum()
    }
}

/// Samples so often that no counter goes round unseen, though nobody asks.
pub(crate) async fn keep(energy: Arc<Mutex<Energy>>) {
    let mut interval = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        interval.tick().await;
        let mut energy = energy.lock().unwrap_or_else(PoisonError::into_inner);
        energy.sample();
    }
}

/// A counter of 65 kJ goes round in it at 6 kW.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);

impl Domain {
    fn open(zone: &Path, name: String) -> Option<Domain> {
        let counter = zone.join("energy_uj");
        Some(Domain {
            name,
            last: number(&counter)?,
            range: number(&zone.join("max_energy_range_uj"))?,
            counter,
            microjoules: 0,
        })
    }

    fn sample(&mut self) {
        // It could be read before. If it can't for a while, the next time tells.
        let Some(now) = number(&self.counter) else {
            return;
        };
        let used = match now.checked_sub(self.last) {
            Some(used) => used,
            None => self.range.saturating_sub(self.last).saturating_add(now),
        };
        self.microjoules = self.microjoules.saturating_add(used);
        self.last = now;
    }
}

/// Directories `parent:0`, `parent:1` and so on, in order.
fn zones(dir: &Path, parent: &str) -> Vec<PathBuf> {
    let found = (0..MAX_DOMAINS).map(|index| dir.join(format!("{parent}:{index}")));
    found.filter(|zone| zone.is_dir()).collect()
}

fn last_part(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What a zone calls itself, if that may be a label.
fn name(zone: &Path) -> Option<String> {
    let name = text(&zone.join("name"))?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!name.is_empty() && name.bytes().all(good)).then_some(name)
}

fn number(file: &Path) -> Option<u64> {
    text(file)?.parse().ok()
}

fn text(file: &Path) -> Option<String> {
    let mut text = String::new();
    // Not what a name leads to that is no file, such as a pipe.
    if !fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let file = File::open(file).ok()?;
    let read = file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    // What goes on beyond is neither a name nor a number.
    ((read as u64) < MAX_BYTES).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        /// A server of two packages as Linux shows it, one of which tells of
        /// its memory, with a platform domain and the same package once more by
        /// way of memory-mapped registers.
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().expect("a temporary directory"));
            for (zone, name) in [
                ("intel-rapl:0", "package-0"),
                ("intel-rapl:0/intel-rapl:0:0", "core"),
                ("intel-rapl:0/intel-rapl:0:1", "dram"),
                ("intel-rapl:1", "package-1"),
                ("intel-rapl:2", "psys"),
                ("intel-rapl-mmio:0", "package-0"),
            ] {
                machine.write(zone, "name", &format!("{name}\n"));
                machine.write(zone, "max_energy_range_uj", "1000000\n");
                machine.write(zone, "energy_uj", "999000\n");
            }
            machine
        }

        fn write(&self, zone: &str, file: &str, text: &str) {
            let zone = self.0.path().join(zone);
            fs::create_dir_all(&zone).expect("a writable directory");
            fs::write(zone.join(file), text).expect("a writable directory");
        }

        fn open(&self) -> Option<Energy> {
            Energy::open(self.0.path())
        }
    }

    fn told(energy: &Energy) -> Vec<(&str, f64)> {
        energy.joules_by_domain().collect()
    }

    #[test]
    fn packages_and_their_memory_count_and_go_round() {
        let machine = Machine::new();
        let mut energy = machine.open().expect("there are counters");
        energy.sample();
        assert_eq!(energy.joules(), 0.0, "nothing before it was opened");

        machine.write("intel-rapl:0", "energy_uj", "999400\n");
        machine.write("intel-rapl:0/intel-rapl:0:0", "energy_uj", "999300\n");
        machine.write("intel-rapl:0/intel-rapl:0:1", "energy_uj", "999100\n");
        machine.write("intel-rapl:2", "energy_uj", "999900\n");
        machine.write("intel-rapl-mmio:0", "energy_uj", "999400\n");
        energy.sample();
        let expected = [
            ("package-0", 0.0004),
            ("package-0-dram", 0.0001),
            ("package-1", 0.0),
        ];
        assert_eq!(told(&energy), expected);

        // From 999,400 to 1,000,000, and on from 0.
        machine.write("intel-rapl:0", "energy_uj", "200\n");
        energy.sample();
        assert_eq!(told(&energy)[0], ("package-0", 0.0012));
        assert!((energy.joules() - 0.0013).abs() < 1e-12);
    }

    #[test]
    fn what_can_not_be_read_is_not_there() {
        let empty = tempfile::tempdir().expect("a temporary directory");
        assert!(Energy::open(empty.path()).is_none());
        assert!(Energy::open(&empty.path().join("nothing")).is_none());

        let machine = Machine::new();
        for bad in ["", "-1", "1e6", "99999999999999999999999", "\u{fffd}"] {
            machine.write("intel-rapl:0", "energy_uj", bad);
            let energy = machine.open().expect("the others are good");
            let names: Vec<_> = told(&energy).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["package-0-dram", "package-1"], "{bad:?}");
        }
        machine.write("intel-rapl:1", "name", "package-1\" 1\n");
        machine.write("intel-rapl:0", "name", &"package-".repeat(1000));
        assert!(machine.open().is_none(), "names that can be no label");
    }

    #[test]
    fn a_counter_that_fails_for_a_while_goes_on_later() {
        let machine = Machine::new();
        let mut energy = machine.open().expect("there are counters");
        machine.write("intel-rapl:1", "energy_uj", "nonsense");
        energy.sample();
        machine.write("intel-rapl:1", "energy_uj", "999007\n");
        energy.sample();
        assert_eq!(told(&energy)[2], ("package-1", 0.000_007));
    }
}

//! A machine's counter of energy, as Linux shows one.

use std::path::Path;

/// The directory that has it: one package, which tells of no memory.
#[derive(Debug)]
pub struct Powercap {
    dir: tempfile::TempDir,
}

const ZONE: &str = "intel-rapl:0";

impl Powercap {
    /// A counter at 0.
    pub fn new() -> Powercap {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join(ZONE)).expect("it is writable");
        let powercap = Powercap { dir };
        powercap.write("name", "package-0");
        powercap.write("max_energy_range_uj", "65532610987");
        powercap.set_microjoules(0);
        powercap
    }

    /// For `telemetry.powercap_dir`.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the counter is at.
    pub fn set_microjoules(&self, microjoules: u64) {
        self.write("energy_uj", &microjoules.to_string());
    }

    /// Whoever reads meanwhile sees the old number or the new one.
    fn write(&self, file: &str, text: &str) {
        let zone = self.dir.path().join(ZONE);
        let new = zone.join("new");
        std::fs::write(&new, format!("{text}\n")).expect("it is writable");
        std::fs::rename(new, zone.join(file)).expect("it is writable");
    }
}

impl Default for Powercap {
    fn default() -> Powercap {
        Powercap::new()
    }
}

//! Plugins that others than root and this user could have written.
//!
//! What is about other owners needs root, as CI has; elsewhere those parts say that they were left out.
#![cfg(unix)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use ternion_kernel_host::{Exposed, Kernel, OpenError};

/// Nobody in particular.
const STRANGER: u32 = 12345;

/// A directory within one of the system's for temporary files, with a plugin.
struct Place {
    _root: TempDir,
    above: PathBuf,
    dir: PathBuf,
    plugin: PathBuf,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        let above = fs::canonicalize(root.path()).unwrap().join("above");
        let dir = above.join("plugins");
        fs::create_dir_all(&dir).unwrap();
        let plugin = dir.join("plugin.so");
        fs::copy(library(), &plugin).unwrap();
        for path in [&above, &dir] {
            chmod(path, 0o755);
        }
        chmod(&plugin, 0o644);
        Place {
            _root: root,
            above,
            dir,
            plugin,
        }
    }
}

/// The plugin cargo built for these tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.ancestors().find(|dir| dir.ends_with("deps")).unwrap();
    let built = deps.parent().unwrap();
    let file = "libternion_kernel_i2s.so";
    let places = [deps.join(file), built.join(file)];
    places.into_iter().find(|path| path.exists()).unwrap()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn exposed(path: &Path) -> Exposed {
    match Kernel::open(path) {
        Err(OpenError::Exposed(exposed)) => exposed,
        other => panic!(
            "{}: {:?}",
            path.display(),
            other.map(|kernel| kernel.name().to_owned())
        ),
    }
}

#[track_caller]
fn opens(path: &Path) {
    Kernel::open(path).unwrap_or_else(|error| panic!("{} {error}", path.display()));
}

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        println!("left out, as it needs root");
    }
    root
}

#[test]
fn a_file_or_directory_that_others_may_write_to_is_refused() {
    let place = Place::new();
    opens(&place.plugin);
    for path in [&place.plugin, &place.dir, &place.above] {
        let safe = fs::metadata(path).unwrap().mode() & 0o7777;
        for writable in [0o002, 0o020] {
            let mode = safe | writable;
            // A user's own group is theirs, unless the user is root.
            if writable == 0o020 && !is_root() {
                continue;
            }
            chmod(path, mode);
            let exposed = exposed(&place.plugin);
            assert_eq!((&exposed.path, exposed.mode), (path, mode));
            let said = exposed.to_string();
            for part in [
                path.display().to_string(),
                format!("mode {mode:04o}"),
                format!("user {}", exposed.owner),
            ] {
                assert!(said.contains(&part), "{said}");
            }
        }
        chmod(path, safe);
    }
    opens(&place.plugin);
}

#[test]
fn the_sticky_bit_makes_a_directory_safe_to_pass_but_not_to_load_from() {
    let place = Place::new();
    chmod(&place.above, 0o1777);
    opens(&place.plugin);
    chmod(&place.dir, 0o1777);
    assert_eq!(exposed(&place.plugin).path, place.dir);
}

#[test]
fn what_belongs_to_a_stranger_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    for path in [&place.plugin, &place.dir, &place.above] {
        chown(path, Some(STRANGER), None).unwrap();
        let exposed = exposed(&place.plugin);
        assert_eq!((&exposed.path, exposed.owner), (path, STRANGER));
        let said = exposed.to_string();
        assert!(said.contains("belongs to user 12345"), "{said}");
        chown(path, Some(0), None).unwrap();
    }
    // In a sticky directory of anyone's, a stranger's own file is the stranger's.
    chmod(&place.above, 0o1777);
    chown(&place.dir, Some(STRANGER), None).unwrap();
    assert_eq!(exposed(&place.plugin).path, place.dir);
}

#[test]
fn a_link_is_as_safe_as_the_way_it_leads() {
    let (place, other) = (Place::new(), Place::new());
    let link = other.dir.join("link.so");
    symlink(&place.plugin, &link).unwrap();
    opens(&link);

    chmod(&place.dir, 0o777);
    assert_eq!(exposed(&link).path, place.dir);
    chmod(&place.dir, 0o755);
    chmod(&other.dir, 0o777);
    assert_eq!(exposed(&link).path, other.dir);
    chmod(&other.dir, 0o1777);
    assert_eq!(exposed(&link).path, other.dir);
    chmod(&other.dir, 0o755);
    opens(&link);

    // A directory on the way, relative and twice round.
    symlink("../above/plugins", other.above.join("by_a_link")).unwrap();
    let through = other.above.join("by_a_link/../by_a_link/plugin.so");
    opens(&through);
    chmod(&other.plugin, 0o666);
    assert_eq!(exposed(&through).path, other.plugin);
    chmod(&other.plugin, 0o644);

    if is_root() {
        std::os::unix::fs::lchown(&link, Some(STRANGER), None).unwrap();
        assert_eq!(
            (exposed(&link).path, exposed(&link).owner),
            (link, STRANGER)
        );
    }
}

#[test]
fn links_in_a_circle_and_links_to_nothing_are_errors() {
    let place = Place::new();
    let (a, b) = (place.dir.join("a.so"), place.dir.join("b.so"));
    symlink(&b, &a).unwrap();
    symlink(&a, &b).unwrap();
    let error = Kernel::open(&a).err().unwrap().to_string();
    assert_eq!(error, "can't be read: more than 40 links");
    let nothing = place.dir.join("nothing.so");
    symlink("nowhere.so", &nothing).unwrap();
    assert!(matches!(
        Kernel::open(&nothing),
        Err(OpenError::Unreadable(_))
    ));
    assert!(matches!(Kernel::open(&place.dir), Err(OpenError::NotAFile)));
}

/// As a server that does not run as root: its own files and root's are fine, and so is a group of its own.
#[test]
fn a_server_that_is_not_root_trusts_itself_and_root() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // The temporary directory is its owner's alone.
    chmod(place.above.parent().unwrap(), 0o755);
    // Where this program was built may be nobody else's to look at.
    let program = place.above.join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let survey = |owner: u32, group: u32, mode: u32| {
        chown(&place.plugin, Some(owner), Some(group)).unwrap();
        chmod(&place.plugin, mode);
        let run = Command::new("setpriv")
            .args(["--reuid=12345", "--regid=12345", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "open_the_plugin_that_is_named", "--nocapture"])
            .env("PLUGIN_TO_OPEN", &place.plugin)
            .current_dir("/")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let opened = said.lines().find_map(|line| line.split_once("PLUGIN: "));
        opened.unwrap_or_else(|| panic!("{said}")).1.to_owned()
    };
    assert_eq!(survey(0, 0, 0o644), "opened");
    assert_eq!(survey(STRANGER, STRANGER, 0o644), "opened");
    assert_eq!(survey(STRANGER, STRANGER, 0o664), "opened");
    let said = survey(STRANGER, 0, 0o664);
    assert!(said.contains("others than root and user 12345"), "{said}");
    let said = survey(777, 0, 0o644);
    assert!(said.contains("belongs to user 777"), "{said}");
}

/// Part of the test above, which runs it as another user.
#[test]
fn open_the_plugin_that_is_named() {
    if let Some(path) = std::env::var_os("PLUGIN_TO_OPEN") {
        match Kernel::open(Path::new(&path)) {
            Ok(_) => println!("PLUGIN: opened"),
            Err(error) => println!("PLUGIN: {error}"),
        }
    }
}

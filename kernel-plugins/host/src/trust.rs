//! Who could have written a file, or put another in its place.
//!
//! Loading a plugin runs it, so the file and every directory and link on the
//! way to it may be changed only by root and by the user this process runs as.
//! Then nobody else can change it between this look and the load either.
//!
//! Two kinds of group or public writing are no danger. In a directory with
//! the sticky bit, as `/tmp` has, nobody can move or replace what belongs to
//! others, so it may lie on the way; in the plugin's own directory anyone
//! could still add a plugin, so that one must not be one. And where users have
//! a group to themselves, which has the user's number, new files and
//! directories are group-writable as a matter of course.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many as Linux follows.
const MAX_LINKS: usize = 40;

const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const PUBLIC_WRITES: u32 = 0o002;

/// Something that others than root and this process's user could change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The file, or what lies on the way to it.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// The user it belongs to.
    pub owner: u32,
    /// The group it belongs to.
    pub group: u32,
    /// Who this process runs as.
    pub user: u32,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exposed {
            path,
            mode,
            owner,
            group,
            user,
        } = self;
        f.write_str("can be changed by others than root")?;
        if *user != 0 {
            write!(f, " and user {user}")?;
        }
        let path = path.display();
        write!(
            f,
            ": {path} has mode {mode:04o} and belongs to user {owner}, group {group}"
        )
    }
}

pub(crate) enum Untrusted {
    Exposed(Exposed),
    NotAFile,
    Unreadable(io::Error),
}

impl From<io::Error> for Untrusted {
    fn from(error: io::Error) -> Untrusted {
        Untrusted::Unreadable(error)
    }
}

/// The file that a path leads to, by a path without links, if nobody else
/// could have led it elsewhere.
pub(crate) fn trusted(path: &Path) -> Result<PathBuf, Untrusted> {
    let mut walk = Walk {
        user: rustix::process::geteuid().as_raw(),
        at: PathBuf::new(),
        links: 0,
    };
    walk.follow(&std::path::absolute(path)?)?;
    let metadata = fs::symlink_metadata(&walk.at)?;
    if !metadata.is_file() {
        return Err(Untrusted::NotAFile);
    }
    Ok(walk.at)
}

struct Walk {
    user: u32,
    /// Checked, and without links.
    at: PathBuf,
    links: usize,
}

impl Walk {
    fn follow(&mut self, path: &Path) -> Result<(), Untrusted> {
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            match component {
                Component::CurDir => continue,
                // Links have been resolved, so this is where it leads.
                Component::ParentDir => {
                    self.at.pop();
                    continue;
                }
                Component::RootDir | Component::Prefix(_) => {
                    self.at = PathBuf::from(component.as_os_str());
                }
                Component::Normal(name) => self.at.push(name),
            }
            let metadata = fs::symlink_metadata(&self.at)?;
            if metadata.is_symlink() {
                let last = components.peek().is_none();
                self.follow_link(&metadata, last)?;
            } else {
                self.check(&metadata, STICKY)?;
                if !metadata.is_dir() {
                    self.check_directory()?;
                }
            }
        }
        Ok(())
    }

    fn follow_link(&mut self, link: &Metadata, last: bool) -> Result<(), Untrusted> {
        self.links += 1;
        if self.links > MAX_LINKS {
            let error = io::Error::other(format!("more than {MAX_LINKS} links"));
            return Err(error.into());
        }
        // A link has no permissions of its own.
        if !self.trusts(link.uid()) {
            return Err(self.exposed(link));
        }
        if last {
            self.check_directory()?;
        }
        let target = fs::read_link(&self.at)?;
        self.at.pop();
        self.follow(&target)
    }

    /// That of the file, or of a link to it.
    fn check_directory(&mut self) -> Result<(), Untrusted> {
        let name = self.at.file_name().map(ToOwned::to_owned);
        self.at.pop();
        let metadata = fs::symlink_metadata(&self.at)?;
        self.check(&metadata, 0)?;
        self.at.extend(name);
        Ok(())
    }

    /// `excuse` is the bit that makes up for others' writing.
    fn check(&self, metadata: &Metadata, excuse: u32) -> Result<(), Untrusted> {
        let own_group =
            self.user != 0 && metadata.uid() == self.user && metadata.gid() == self.user;
        let dangers = match own_group {
            true => PUBLIC_WRITES,
            false => PUBLIC_WRITES | GROUP_WRITES,
        };
        let excused = metadata.is_dir() && metadata.mode() & excuse != 0;
        let written = metadata.mode() & dangers != 0 && !excused;
        if written || !self.trusts(metadata.uid()) {
            return Err(self.exposed(metadata));
        }
        Ok(())
    }

    fn trusts(&self, owner: u32) -> bool {
        owner == 0 || owner == self.user
    }

    fn exposed(&self, metadata: &Metadata) -> Untrusted {
        Untrusted::Exposed(Exposed {
            path: self.at.clone(),
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
            group: metadata.gid(),
            user: self.user,
        })
    }
}

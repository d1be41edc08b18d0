//! What lies in the plugin directories, and which of it is used.

use std::collections::HashSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Serialize;

use crate::kernel::Kernel;
use crate::open::OpenError;

/// A directory to look through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchPath {
    /// The directory.
    pub dir: PathBuf,
    /// Whether every shared library in it is meant to be a plugin, as in a
    /// directory an operator named, or only `libternion_kernel_*`, as beside
    /// the executable.
    pub every_library: bool,
}

/// What a look through the directories came to.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// Where it looked, in order.
    pub searched: Vec<PathBuf>,
    /// Which of these couldn't be looked through.
    pub unreadable: Vec<Unreadable>,
    /// One for each file that was looked at, by directory, then by name.
    pub found: Vec<Found>,
    #[serde(skip)]
    selected: Option<Kernel>,
    #[serde(skip)]
    wanted: Option<String>,
}

/// A directory that couldn't be looked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The directory.
    pub dir: PathBuf,
    /// What the system said.
    pub reason: String,
}

/// A file and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// What it says it is, if it could be opened.
    pub identity: Option<Identity>,
    /// What became of it.
    pub state: State,
}

/// What a plugin says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "as the methods of `Kernel`")]
pub struct Identity {
    pub name: String,
    pub version: String,
    pub isa: String,
    pub score: i32,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[allow(missing_docs, reason = "a reason is a reason")]
pub enum State {
    /// Not a plugin this host can take, or one it must not.
    Refused { reason: String },
    /// A plugin for other CPUs.
    Unusable { reason: String },
    /// A plugin that runs here and doesn't compute what it should.
    Failed { reason: String },
    /// A plugin that could be used.
    Usable,
    /// The plugin that is used.
    Selected { why: String },
}

/// No plugin can be used. The message says where it looked and what was wrong
/// with everything it saw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoKernel(String);

/// Looks through directories, and selects the plugin called `wanted`, or else
/// the one with the highest score, among those that pass `check`.
///
/// Of two usable plugins with one name the first is taken, in the order of the
/// directories and then of the file names. A file that two paths lead to is
/// looked at once.
pub fn survey(
    paths: &[SearchPath],
    wanted: Option<&str>,
    check: &dyn Fn(&Kernel) -> Result<(), String>,
) -> Survey {
    let mut survey = Survey {
        searched: paths.iter().map(|path| path.dir.clone()).collect(),
        unreadable: Vec::new(),
        found: Vec::new(),
        selected: None,
        wanted: wanted.map(str::to_owned),
    };
    let mut usable = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        let files = match libraries(path) {
            Ok(files) => files,
            Err(error) => {
                survey.unreadable.push(Unreadable {
                    dir: path.dir.clone(),
                    reason: error.to_string(),
                });
                continue;
            }
        };
        for file in files {
            let same_file = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
            if !seen.insert(same_file) {
                continue;
            }
            let (found, kernel) = survey.look_at(file, check);
            usable.extend(kernel.map(|kernel| (survey.found.len(), kernel)));
            survey.found.push(found);
        }
    }
    survey.select(usable);
    survey
}

impl Survey {
    /// The plugin to use, opened and checked.
    pub fn selected(&self) -> Result<Kernel, NoKernel> {
        self.selected
            .clone()
            .ok_or_else(|| NoKernel(self.to_string()))
    }

    /// Opens a file and says what became of it; the kernel comes back if it
    /// is usable.
    fn look_at(
        &self,
        path: PathBuf,
        check: &dyn Fn(&Kernel) -> Result<(), String>,
    ) -> (Found, Option<Kernel>) {
        let (identity, state, kernel) = match Kernel::open(&path) {
            Err(error @ OpenError::CannotRun) => {
                let reason = error.to_string();
                (None, State::Unusable { reason }, None)
            }
            Err(error) => {
                let reason = error.to_string();
                (None, State::Refused { reason }, None)
            }
            Ok(kernel) => {
                let identity = Some(Identity::of(&kernel));
                if let Some(holder) = self.holder_of(kernel.name()) {
                    let reason = format!("has the name of {}", holder.display());
                    (identity, State::Refused { reason }, None)
                } else if let Err(reason) = check(&kernel) {
                    (identity, State::Failed { reason }, None)
                } else {
                    (identity, State::Usable, Some(kernel))
                }
            }
        };
        let found = Found {
            path,
            identity,
            state,
        };
        (found, kernel)
    }

    /// The usable file that has the name already.
    fn holder_of(&self, name: &str) -> Option<&Path> {
        self.found
            .iter()
            .filter(|found| found.state == State::Usable)
            .find(|found| found.identity.as_ref().is_some_and(|own| own.name == name))
            .map(|found| found.path.as_path())
    }

    /// Each usable kernel comes with its place in `found`.
    fn select(&mut self, usable: Vec<(usize, Kernel)>) {
        let num_usable = usable.len();
        let chosen = match &self.wanted {
            Some(wanted) => usable
                .into_iter()
                .find(|(_, kernel)| kernel.name() == wanted),
            // The first of equals, so that the choice doesn't depend on chance.
            None => usable.into_iter().reduce(|best, next| {
                if next.1.score() > best.1.score() {
                    next
                } else {
                    best
                }
            }),
        };
        if let Some((place, kernel)) = chosen {
            let why = match self.wanted {
                Some(_) => "configured by name".to_owned(),
                None => format!("highest score ({}) of {num_usable} usable", kernel.score()),
            };
            self.found[place].state = State::Selected { why };
            self.selected = Some(kernel);
        }
    }
}

/// The shared libraries of a directory that are meant to be plugins, by name.
fn libraries(path: &SearchPath) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&path.dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_plugin = name
            .strip_prefix(DLL_PREFIX)
            .is_some_and(|name| name.starts_with("ternion_kernel_"));
        if name.ends_with(DLL_SUFFIX) && (path.every_library || is_plugin) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

impl Identity {
    fn of(kernel: &Kernel) -> Identity {
        Identity {
            name: kernel.name().to_owned(),
            version: kernel.version().to_owned(),
            isa: kernel.isa().to_owned(),
            score: kernel.score(),
        }
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.selected, &self.wanted) {
            (Some(kernel), _) => write!(f, "kernel plugin {} is used", kernel.name())?,
            (None, Some(wanted)) => write!(f, "no kernel plugin called {wanted} can be used")?,
            (None, None) => f.write_str("no kernel plugin can be used")?,
        }
        f.write_str("; looked in ")?;
        for (i, dir) in self.searched.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{}", dir.display())?;
        }
        if self.searched.is_empty() {
            f.write_str("no directory")?;
        }
        for Unreadable { dir, reason } in &self.unreadable {
            write!(f, "; {} can't be read: {reason}", dir.display())?;
        }
        if self.found.is_empty() {
            f.write_str("; found nothing")?;
        }
        for found in &self.found {
            write!(f, "; {found}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.path.display())?;
        if let Some(Identity {
            name,
            isa,
            score,
            version,
        }) = &self.identity
        {
            write!(f, "({name} {version}, {isa}, score {score}) ")?;
        }
        match &self.state {
            State::Refused { reason } | State::Unusable { reason } => f.write_str(reason),
            State::Failed { reason } => write!(f, "gave wrong results: {reason}"),
            State::Usable => f.write_str("can be used"),
            State::Selected { why } => write!(f, "is used: {why}"),
        }
    }
}

//! What lies in the plugin directories, and which of it is used.

use std::collections::HashSet;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::open::OpenError;
use crate::plugin_file::PluginFile;
use crate::sha256::Sha256;

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
    usable: Vec<Kernel>,
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
    /// Its digest, if it could be read and may be loaded.
    pub sha256: Option<Sha256>,
    /// What it says it is, if it could be opened.
    pub identity: Option<Identity>,
    /// What became of it.
    pub state: State,
}

/// What a plugin says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl State {
    /// All states, as they are called in lists and metrics.
    pub const NAMES: [&str; 5] = ["refused", "unusable", "failed", "usable", "selected"];

    /// What this one is called.
    pub fn name(&self) -> &'static str {
        State::NAMES[match self {
            State::Refused { .. } => 0,
            State::Unusable { .. } => 1,
            State::Failed { .. } => 2,
            State::Usable => 3,
            State::Selected { .. } => 4,
        }]
    }

    /// Why, where there is something to say.
    pub fn reason(&self) -> &str {
        match self {
            State::Refused { reason } | State::Unusable { reason } | State::Failed { reason } => {
                reason
            }
            State::Usable => "",
            State::Selected { why } => why,
        }
    }
}

/// No plugin can be used. The message says where it looked and what was wrong
/// with everything it saw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoKernel(String);

/// Why a plugin isn't used, by whose fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the states of the same names")]
pub enum Rejection {
    Refused(String),
    Unusable(String),
    Failed(String),
}

impl From<OpenError> for Rejection {
    fn from(error: OpenError) -> Rejection {
        let reason = error.to_string();
        match error.is_for_other_machines() {
            true => Rejection::Unusable(reason),
            false => Rejection::Refused(reason),
        }
    }
}

/// How a trial went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What the plugin says it is, if it came to that.
    pub identity: Option<Identity>,
    /// Why it isn't used, if it isn't.
    pub outcome: Result<(), Rejection>,
}

/// Which of several usable kernels is taken, by its place among them, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the line above says it")]
pub struct Choice {
    pub index: usize,
    pub why: String,
}

/// What to look for, and how to judge what is found.
pub struct Search<'a> {
    /// Where to look.
    pub paths: &'a [SearchPath],
    /// Take the plugin of this name, or none.
    pub wanted: Option<&'a str>,
    /// Load no files but those with these digests.
    pub allowed: Option<&'a [Sha256]>,
    /// Whether a plugin may be loaded, and computes what it should. Nothing of
    /// the file has run before.
    pub trial: &'a dyn Fn(&PluginFile) -> Tried,
    /// Asked where there is a choice: several kernels, none of them wanted.
    /// Without an answer, the highest score is taken.
    pub choose: &'a mut dyn FnMut(&[Kernel]) -> Option<Choice>,
}

/// Looks through directories, and selects a plugin among those that pass their
/// trial.
///
/// Of two usable plugins with one name the first is taken, in the order of the
/// directories and then of the file names. A file that two paths lead to is
/// looked at once.
pub fn survey(search: Search<'_>) -> Survey {
    let mut survey = Survey {
        searched: search.paths.iter().map(|path| path.dir.clone()).collect(),
        unreadable: Vec::new(),
        found: Vec::new(),
        usable: Vec::new(),
        selected: None,
        wanted: search.wanted.map(str::to_owned),
    };
    let mut usable = Vec::new();
    let mut seen = HashSet::new();
    for path in search.paths {
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
            let (found, kernel) = survey.look_at(file, &search);
            usable.extend(kernel.map(|kernel| (survey.found.len(), kernel)));
            survey.found.push(found);
        }
    }
    survey.select(usable, search.choose);
    survey
}

impl Survey {
    /// The plugin to use, opened and checked.
    pub fn selected(&self) -> Result<Kernel, NoKernel> {
        self.selected
            .clone()
            .ok_or_else(|| NoKernel(self.to_string()))
    }

    /// All that could be used, the selected one included.
    pub fn usable(&self) -> &[Kernel] {
        &self.usable
    }

    /// Tries a file and says what became of it; the kernel comes back if it
    /// is usable.
    fn look_at(&self, path: PathBuf, search: &Search<'_>) -> (Found, Option<Kernel>) {
        let mut found = Found {
            path,
            sha256: None,
            identity: None,
            state: State::Usable,
        };
        let kernel = match self.try_file(&mut found, search) {
            Ok(kernel) => Some(kernel),
            Err(rejection) => {
                found.state = match rejection {
                    Rejection::Refused(reason) => State::Refused { reason },
                    Rejection::Unusable(reason) => State::Unusable { reason },
                    Rejection::Failed(reason) => State::Failed { reason },
                };
                None
            }
        };
        (found, kernel)
    }

    fn try_file(&self, found: &mut Found, search: &Search<'_>) -> Result<Kernel, Rejection> {
        let file = PluginFile::read(&found.path, search.allowed)?;
        found.sha256 = Some(file.sha256());
        let tried = (search.trial)(&file);
        found.identity = tried.identity;
        tried.outcome?;
        let kernel = file.open(&mut |_| {})?;
        found.identity = Some(Identity::of(&kernel));
        match self.holder_of(kernel.name()) {
            None => Ok(kernel),
            Some(holder) => {
                let reason = format!("has the name of {}", holder.display());
                Err(Rejection::Refused(reason))
            }
        }
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
    fn select(
        &mut self,
        usable: Vec<(usize, Kernel)>,
        choose: &mut dyn FnMut(&[Kernel]) -> Option<Choice>,
    ) {
        let (places, kernels): (Vec<usize>, Vec<Kernel>) = usable.into_iter().unzip();
        let choice = match &self.wanted {
            Some(wanted) => kernels
                .iter()
                .position(|kernel| kernel.name() == wanted)
                .map(|index| Choice {
                    index,
                    why: "configured by name".to_owned(),
                }),
            None if kernels.len() > 1 => choose(&kernels).or_else(|| highest_score(&kernels)),
            None => highest_score(&kernels),
        };
        if let Some(Choice { index, why }) = choice
            && let (Some(place), Some(kernel)) = (places.get(index), kernels.get(index))
        {
            self.found[*place].state = State::Selected { why };
            self.selected = Some(kernel.clone());
        }
        self.usable = kernels;
    }
}

/// The first of equals, so that the choice doesn't depend on chance.
fn highest_score(kernels: &[Kernel]) -> Option<Choice> {
    let best = (0..kernels.len()).reduce(|best, next| {
        match kernels[next].score() > kernels[best].score() {
            true => next,
            false => best,
        }
    })?;
    let score = kernels[best].score();
    let why = match kernels.len() {
        1 => "the only one usable".to_owned(),
        usable => format!("highest score ({score}) of {usable} usable"),
    };
    Some(Choice { index: best, why })
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
    /// That of an opened plugin.
    pub fn of(kernel: &Kernel) -> Identity {
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

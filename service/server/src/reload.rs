//! Files that are read again when they change, while everything goes on.

use std::{
    convert::Infallible,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often files are looked at. Looking works on every kind of mount, and
/// when Kubernetes swaps the link to a secret's directory.
const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one state of a file from another. `None` if it isn't there.
type Stamp = Option<(u64, u64, u64, SystemTime)>;

/// Files as they were when they were first looked at.
#[derive(Debug)]
pub(crate) struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Stamp>,
}

impl Watched {
    /// To be made before the files are read: what changes after is noticed.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Watched {
        Watched {
            seen: stamps(&paths),
            paths,
        }
    }

    /// Calls `reload` whenever one of the files has changed. Never returns.
    pub(crate) async fn follow(mut self, reload: impl Fn() + Clone + Send + 'static) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = stamps(&self.paths);
            if now != self.seen {
                self.seen = now;
                let reload = reload.clone();
                if tokio::task::spawn_blocking(reload).await.is_err() {
                    tracing::error!("reading changed files failed");
                }
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), data.modified().ok()?))
}

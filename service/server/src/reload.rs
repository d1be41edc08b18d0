//! Files that are read again when they change, while everything goes on.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often files are looked at. Looking works on every kind of mount, and
/// when Kubernetes swaps the link to a secret's directory.
const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one state of a file from another. `None` if it isn't there.
type Stamp = Option<(u64, u64, u64, SystemTime)>;

/// Calls `reload` whenever one of the files has changed. Never returns.
pub(crate) async fn watch(
    paths: Vec<PathBuf>,
    reload: impl Fn() + Clone + Send + 'static,
) -> std::convert::Infallible {
    let mut seen = stamps(&paths);
    loop {
        tokio::time::sleep(INTERVAL).await;
        // Before the files are read: a change meanwhile is seen next time.
        let now = stamps(&paths);
        if now != seen {
            seen = now;
            let reload = reload.clone();
            if tokio::task::spawn_blocking(reload).await.is_err() {
                tracing::error!("reading changed files failed");
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

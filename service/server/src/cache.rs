//! Where the server keeps what its next start can use again.

use std::path::{Path, PathBuf};

use ternion_kernel_host::CacheDir;

use crate::settings::CacheDirectory;

/// Opens the cache, creating it if need be. A server without one computes
/// everything anew, so that a cache which can't be used is a line of the log
/// and not an error.
pub(crate) fn open(setting: &CacheDirectory) -> Option<CacheDir> {
    let path = match setting {
        CacheDirectory::Off => return None,
        CacheDirectory::At(path) => path.clone(),
        CacheDirectory::Users => users(|name| std::env::var_os(name).map(PathBuf::from))?,
    };
    match CacheDir::open(&path) {
        Ok(cache) => Some(cache),
        Err(error) => {
            // Asked for by name, it was meant to work.
            match setting {
                CacheDirectory::At(_) => tracing::warn!(%error, "goes without its cache"),
                _ => tracing::info!(%error, "goes without a cache"),
            }
            None
        }
    }
}

/// By the XDG Base Directory Specification, which has relative paths ignored.
fn users(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    // A service's home is often `/`, which is nobody's place for a cache.
    let home = || absolute("HOME").filter(|home| home != Path::new("/"));
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(home()?.join(".cache")))
        .map(|cache| cache.join("ternion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_cache_is_where_xdg_says() {
        let of = |variables: &[(&str, &str)]| {
            users(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let both = [("XDG_CACHE_HOME", "/x"), ("HOME", "/home/a")];
        assert_eq!(of(&both), Some("/x/ternion".into()));
        let relative = [("XDG_CACHE_HOME", "x"), ("HOME", "/home/a")];
        assert_eq!(of(&relative), Some("/home/a/.cache/ternion".into()));
        assert_eq!(of(&[("HOME", "/")]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_cache_that_cannot_be_is_gone_without() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("file");
        std::fs::write(&file, "").expect("writable");
        assert!(open(&CacheDirectory::At(file.join("cache"))).is_none());
        assert!(open(&CacheDirectory::Off).is_none());
        let path = root.path().join("cache");
        let cache = open(&CacheDirectory::At(path.clone())).expect("it can be created");
        assert_eq!(cache.path(), path);
    }
}

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// All of a file is in memory, so that reading it delays no request.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads a file of one JSON value a line, each of which `parse` makes
/// something of. Empty lines are passed over; an error names its line.
pub(crate) fn read<L: DeserializeOwned, T>(
    path: &Path,
    parse: impl FnMut(L) -> Result<T, String>,
) -> Result<Vec<T>, Failure> {
    let unreadable = |source| Failure::Prompt {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.metadata().map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        let message = format!("has {bytes} bytes, at most {MAX_FILE_BYTES} may be");
        return Err(unreadable(io::Error::other(message)));
    }
    lines(BufReader::new(file), parse).map_err(unreadable)
}

pub(crate) fn lines<L: DeserializeOwned, T>(
    file: impl BufRead,
    mut parse: impl FnMut(L) -> Result<T, String>,
) -> io::Result<Vec<T>> {
    let mut values = Vec::new();
    for (i, line) in file.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line)
            .map_err(|error| error.to_string())
            .and_then(&mut parse)
            .map_err(|error| io::Error::other(format!("line {}: {error}", i + 1)))?;
        values.push(value);
    }
    match values.is_empty() {
        true => Err(io::Error::other("holds no line")),
        false => Ok(values),
    }
}

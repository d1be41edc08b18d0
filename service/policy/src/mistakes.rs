//! What is wrong with a tenants file.

use std::fmt;

/// Mistakes that are spelled out. Whoever has more starts with these.
const MAX_SPELLED_OUT: usize = 100;

/// Everything that is wrong with a tenants file, in the order of the file.
/// Its text is a line for each. Holds nothing that may be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsError {
    mistakes: Vec<Mistake>,
    more: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where in the file, as in `tenants[1].keys[0].hash`; empty for a text
    /// that isn't TOML.
    pub path: String,
    /// Line of the text, from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl TenantsError {
    /// What is wrong, in the order of the file: at most a hundred.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl std::error::Error for TenantsError {}

impl fmt::Display for TenantsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let line = if index == 0 { "" } else { "\n" };
            write!(f, "{line}{mistake}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{} (line {})", self.message, self.line)
    }
}

/// Mistakes while they are found.
#[derive(Debug)]
pub(crate) struct Mistakes<'t> {
    text: &'t str,
    /// With their places in the text, in bytes.
    found: Vec<(usize, Mistake)>,
    more: usize,
}

impl<'t> Mistakes<'t> {
    pub(crate) fn in_text(text: &'t str) -> Mistakes<'t> {
        Mistakes {
            text,
            found: Vec::new(),
            more: 0,
        }
    }

    /// Notes a mistake at a byte of the text.
    pub(crate) fn add(&mut self, path: &str, at: usize, message: impl Into<String>) {
        if self.found.len() == MAX_SPELLED_OUT {
            self.more += 1;
            return;
        }
        let mistake = Mistake {
            path: path.to_owned(),
            line: self.line(at),
            message: message.into(),
        };
        self.found.push((at, mistake));
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// What was read, if it is without mistakes.
    pub(crate) fn none_or<T>(mut self, read: T) -> Result<T, TenantsError> {
        if self.found.is_empty() {
            return Ok(read);
        }
        self.found.sort_by_key(|(at, _)| *at);
        Err(TenantsError {
            mistakes: self.found.into_iter().map(|(_, mistake)| mistake).collect(),
            more: self.more,
        })
    }
}

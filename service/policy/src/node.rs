//! A value of a TOML document, which knows its place.

use std::fmt::Write;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{key_hash::KEY_PREFIX, mistakes::Mistakes};

/// Characters of the file that a message repeats at most.
const MAX_QUOTED: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    pub(crate) path: String,
    /// Place in the text, in bytes.
    pub(crate) at: usize,
    value: &'a DeValue<'a>,
}

/// A table of which only known keys are there.
#[derive(Debug, Clone)]
pub(crate) struct Table<'a> {
    pub(crate) path: String,
    pub(crate) at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Node<'a> {
    fn new(path: String, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        Node {
            path,
            at: value.span().start,
            value: value.get_ref(),
        }
    }

    pub(crate) fn table(&self, known: &[&str], mistakes: &mut Mistakes<'_>) -> Option<Table<'a>> {
        let entries = self.of_type("a table", DeValue::as_table, mistakes)?;
        Some(Table::new(
            self.path.clone(),
            self.at,
            entries,
            known,
            mistakes,
        ))
    }

    /// At most `max` items.
    pub(crate) fn array(&self, max: usize, mistakes: &mut Mistakes<'_>) -> Option<Vec<Node<'a>>> {
        let array = self.of_type("an array", DeValue::as_array, mistakes)?;
        if array.len() > max {
            let message = format!("has {} items, at most {max} may be", array.len());
            mistakes.add(&self.path, self.at, message);
        }
        let items = array.iter().take(max).enumerate();
        let node = |(index, item)| Node::new(format!("{}[{index}]", self.path), item);
        Some(items.map(node).collect())
    }

    /// Tables that are each written as `[[path]]`.
    pub(crate) fn tables(&self, max: usize, mistakes: &mut Mistakes<'_>) -> Option<Vec<Node<'a>>> {
        if self.value.is_table() {
            let header: String = self.path.split(['[', ']']).step_by(2).collect();
            let message = format!("must be a list of tables, each headed [[{header}]]");
            mistakes.add(&self.path, self.at, message);
            return None;
        }
        self.array(max, mistakes)
    }

    pub(crate) fn string(&self, mistakes: &mut Mistakes<'_>) -> Option<&'a str> {
        self.of_type("a string", DeValue::as_str, mistakes)
    }

    /// A whole number from 1 to `max`. Who got that wrong is told what holds
    /// if it is absent.
    pub(crate) fn number(
        &self,
        max: u64,
        absent: &str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<u64> {
        let integer = self.of_type("a whole number", DeValue::as_integer, mistakes)?;
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| (1..=max).contains(number));
        if number.is_none() {
            let message = format!("must be from 1 to {max}; {absent}");
            mistakes.add(&self.path, self.at, message);
        }
        number
    }

    fn of_type<T>(
        &self,
        expected: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<T> {
        let converted = convert(self.value);
        if converted.is_none() {
            let got = self.value.type_str();
            let article = if got.starts_with(['a', 'i']) {
                "an"
            } else {
                "a"
            };
            let message = format!("must be {expected}, not {article} {got}");
            mistakes.add(&self.path, self.at, message);
        }
        converted
    }
}

impl<'a> Table<'a> {
    /// A whole document.
    pub(crate) fn root(
        document: &'a Spanned<DeTable<'a>>,
        known: &[&str],
        mistakes: &mut Mistakes<'_>,
    ) -> Table<'a> {
        Table::new(String::new(), 0, document.get_ref(), known, mistakes)
    }

    fn new(
        path: String,
        at: usize,
        entries: &'a DeTable<'a>,
        known: &[&str],
        mistakes: &mut Mistakes<'_>,
    ) -> Table<'a> {
        let table = Table { path, at, entries };
        for key in entries.keys() {
            let name = key.get_ref();
            if !known.contains(&name.as_ref()) {
                let path = table.path_of(&shown(name));
                mistakes.add(&path, key.span().start, unknown(name, known));
            }
        }
        table
    }

    pub(crate) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.entries.get(key)?;
        Some(Node::new(self.path_of(key), value))
    }

    pub(crate) fn required(&self, key: &str, mistakes: &mut Mistakes<'_>) -> Option<Node<'a>> {
        let node = self.get(key);
        if node.is_none() {
            mistakes.add(&self.path_of(key), self.at, "is missing");
        }
        node
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

fn unknown(name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .filter(|_| name.len() <= MAX_QUOTED)
        .map(|known| (strsim::osa_distance(name, known), known))
        // Beyond that it is a different word altogether.
        .filter(|(edits, known)| *edits <= known.len().div_ceil(4))
        .min();
    match nearest {
        Some((_, nearest)) => format!("is not known; did you mean {nearest}?"),
        None => format!("is not known; known are {}", known.join(", ")),
    }
}

/// A key as TOML would spell it, cut if it is long.
fn shown(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let hide = key.contains(KEY_PREFIX);
    match !hide && !key.is_empty() && key.len() <= MAX_QUOTED && key.bytes().all(bare) {
        true => key.to_owned(),
        false => quoted(key),
    }
}

/// A text of the file, in quotes and without control characters, cut if it is
/// long, hidden if there may be a key in it.
pub(crate) fn quoted(text: &str) -> String {
    if text.contains(KEY_PREFIX) {
        return format!("\"{KEY_PREFIX}…\"");
    }
    let mut quoted = String::from("\"");
    for char in text.chars().take(MAX_QUOTED) {
        write!(quoted, "{}", char.escape_debug()).expect("a string takes everything");
    }
    if text.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    quoted.push('"');
    quoted
}

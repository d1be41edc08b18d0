//! How large a value of a template is when everything in it is written out.

use minijinja::{
    Error, ErrorKind, State,
    value::{Value, ValueKind},
};

/// Far more than any context holds as text.
const MAX_BYTES: usize = 16 << 20;

/// A conversation takes about six for each message.
const MAX_NODES: usize = 1 << 18;

/// Conversations and tools are nested half a dozen deep. What is walked by recursion, and freed by it, must not be
/// deeper than a stack can bear.
const MAX_DEPTH: usize = 64;

/// Looking at so many values costs as much as a step.
const NODES_PER_FUEL: usize = 16;

/// Refuses a value that has grown out of bounds, and charges for having looked.
pub(super) fn check(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if is_small(value) {
        return Ok(());
    }
    let mut extent = Extent::default();
    extent.add(value, 0)?;
    state.consume_fuel((extent.nodes / NODES_PER_FUEL) as u64)
}

/// Refuses what a namespace must not hold, too.
pub(super) fn check_stored(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if is_small(value) {
        return Ok(());
    }
    let mut extent = Extent {
        only_data: true,
        ..Extent::default()
    };
    extent.add(value, 0)?;
    state.consume_fuel((extent.nodes / NODES_PER_FUEL) as u64)
}

/// Refuses to multiply a list: however long it becomes, that is one step.
pub(super) fn factor(value: Value) -> Result<Value, Error> {
    match value.as_object() {
        None => Ok(value),
        Some(_) => Err(refused("the product of a list".to_owned())),
    }
}

fn is_small(value: &Value) -> bool {
    match value.as_str() {
        Some(text) => text.len() <= MAX_BYTES,
        None => value.as_object().is_none(),
    }
}

#[derive(Default)]
struct Extent {
    nodes: usize,
    bytes: usize,
    only_data: bool,
}

impl Extent {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.nodes += 1;
        self.bytes += value.as_str().map_or(0, str::len) + size_of::<Value>();
        if self.nodes > MAX_NODES || self.bytes > MAX_BYTES {
            return Err(refused(format!(
                "a value of more than {MAX_BYTES} bytes or {MAX_NODES} parts"
            )));
        }
        if depth > MAX_DEPTH {
            return Err(refused(format!("a value nested deeper than {MAX_DEPTH}")));
        }
        if self.only_data && is_alive(value) {
            return Err(refused(
                "a namespace, a macro or a loop inside a namespace".to_owned(),
            ));
        }
        match value.kind() {
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    self.add(&key, depth + 1)?;
                    self.add(&value.get_item(&key)?, depth + 1)?;
                }
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    self.add(&item?, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether something can be changed or holds what can be: all but text, numbers, lists and maps.
fn is_alive(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        let name = object.type_name();
        value.kind() == ValueKind::Plain
            || ["Namespace", "Macro", "Loop"]
                .iter()
                .any(|it| name.contains(it))
    })
}

fn refused(what: String) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("the template makes {what}"),
    )
}

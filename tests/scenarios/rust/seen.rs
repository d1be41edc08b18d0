//! What a client was told, in the words of the scenarios.

use std::sync::LazyLock;

use anyhow::{Context, Result};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value, json};
use ternion_client::{Error, Event};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(ternion_proto::FILE_DESCRIPTOR_SET).expect("made by the build")
});

/// The events of one request.
pub(crate) struct Seen {
    events: Vec<Value>,
    tokens: u64,
    stop_after: Option<u64>,
}

impl Seen {
    pub(crate) fn new(stop_after: Option<u64>) -> Seen {
        Seen {
            events: Vec::new(),
            tokens: 0,
            stop_after,
        }
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    pub(crate) fn events(self) -> Value {
        self.events.into()
    }

    /// Whether the runner is to read on.
    pub(crate) fn goes_on(&mut self, event: &Event) -> Result<bool> {
        match event {
            Event::Queued(queued) => self.events.push(json!({"queued": shown(queued)})),
            Event::Started(started) => {
                let (model, kernel) = (&started.model, &started.kernel);
                let started = json!({"started": {"model": model, "kernel": kernel}});
                self.events.push(started);
            }
            Event::Delta(delta) => {
                self.tokens += delta.token_ids.len() as u64;
                self.join(shown(delta))?;
            }
            Event::Finished(finished) => {
                let mut finished = shown(finished);
                finished
                    .as_object_mut()
                    .context("a message")?
                    .remove("timings");
                self.events.push(json!({"finished": finished}));
            }
        }
        let stops = self.stop_after.is_some_and(|tokens| self.tokens >= tokens);
        if stops {
            self.events.push(json!({"stopped": {}}));
        }
        Ok(!stops)
    }

    pub(crate) fn failed(&mut self, failed: &Error) {
        self.events.push(error(failed));
    }

    /// Adds a delta to the one before, if that is what came before.
    fn join(&mut self, delta: Value) -> Result<()> {
        let before = self
            .events
            .last_mut()
            .and_then(|event| event.get_mut("delta"));
        let Some(before) = before else {
            self.events.push(json!({"delta": delta}));
            return Ok(());
        };
        let before = before.as_object_mut().context("a message")?;
        for (field, more) in delta.as_object().context("a message")? {
            match (before.get_mut(field), more) {
                (None, more) => {
                    before.insert(field.clone(), more.clone());
                }
                (Some(Value::String(text)), Value::String(more)) => text.push_str(more),
                (Some(Value::Array(list)), Value::Array(more)) => list.extend(more.clone()),
                (Some(_), _) => anyhow::bail!("{field} of a delta can't be joined"),
            }
        }
        Ok(())
    }
}

/// An error as an event.
pub(crate) fn error(error: &Error) -> Value {
    let kind = match error {
        Error::InvalidArgument { .. } => "invalid_argument",
        Error::NotFound { .. } => "not_found",
        Error::Denied { .. } => "denied",
        Error::ResourceExhausted { .. } => "resource_exhausted",
        Error::Unavailable { .. } => "unavailable",
        Error::DeadlineExceeded { .. } => "deadline_exceeded",
        Error::Cancelled { .. } => "cancelled",
        Error::Internal { .. } => "internal",
        _ => "transport",
    };
    // `InvalidArgument` as the protocol writes it.
    let mut code = String::new();
    for (i, c) in format!("{:?}", error.code()).chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            code.push('_');
        }
        code.push(c.to_ascii_uppercase());
    }
    let mut shown = Map::new();
    shown.insert("kind".into(), kind.into());
    shown.insert("code".into(), code.into());
    let fields: Vec<&str> = error
        .violations()
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    if !fields.is_empty() {
        shown.insert("fields".into(), fields.into());
    }
    if error.retry_after().is_some() {
        shown.insert("retry_after".into(), true.into());
    }
    json!({"error": shown})
}

/// A message in proto3 JSON, with the names of the .proto file.
pub(crate) fn shown<M: Message + Name>(message: &M) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    DynamicMessage::decode(descriptor::<M>(), message.encode_to_vec().as_slice())
        .expect("the same message")
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("JSON holds every message")
}

/// A message from proto3 JSON; an absent one is empty.
pub(crate) fn parsed<M: Message + Name + Default>(json: &Value) -> Result<M> {
    if json.is_null() {
        return Ok(M::default());
    }
    let message = DynamicMessage::deserialize(descriptor::<M>(), json)?;
    Ok(M::decode(message.encode_to_vec().as_slice())?)
}

fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name())
        .expect("a message of the protocol")
}

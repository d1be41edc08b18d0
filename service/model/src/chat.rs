mod extent;
mod watched;

use std::{fmt, time::SystemTime};

use minijinja::{
    Environment, ErrorKind, State, Value, context, escape_formatter, syntax::SyntaxConfig,
    value::Kwargs,
};
use serde::Serialize as _;

use crate::{ModelError, Tokenizer, strftime::strftime};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
}

/// The Jinja template with which a model was taught to converse.
///
/// Templates are part of a model file and therefore not trusted: they run without access to
/// anything, and with limits on the work they may do and on the memory they may take. The engine
/// charges fuel for both, a unit for each step and for each 64 bytes; `watched.rs` is about what
/// that leaves open.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("this model has no chat template")]
    NoTemplate,

    #[error("the chat template has {bytes} bytes, the limit is {MAX_SOURCE}")]
    TooLarge { bytes: usize },

    #[error("no memory could be set aside for reading the chat template: {0}")]
    NoStack(String),

    #[error("the chat template does not parse: {0}")]
    Syntax(String),

    #[error("the chat template multiplies a list")]
    ListProduct,

    /// What the template itself says about the messages, through `raise_exception`.
    #[error("{0}")]
    Refused(String),

    #[error("the chat template needs more than {MAX_FUEL} steps, or 64 bytes for each of them")]
    TooLong,

    #[error("the chat template failed: {0}")]
    Failed(String),
}

/// A turn costs the usual templates under a hundred steps, and six units for each 64 bytes of text.
const MAX_FUEL: u64 = 1_000_000;

/// The longest published ones, with tools, have 20 kB.
const MAX_SOURCE: usize = 64 << 10;

/// The engine reads `a + b + c` by recursion, so a source that is nothing else takes this much to
/// read. It is only reserved; what others need of it stays below a page or two.
const READING_STACK: usize = 128 << 20;

/// The template of bitnet-b1.58-2B-4T. Its GGUF carries a placeholder that was never trained.
pub(crate) const BITNET_2B_4T: &str = "\
{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim \
+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/// How `raise_exception` is told from other failures of a template.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// A template by its text, and how the tokens it may name are written.
    pub fn new(
        source: String,
        bos_token: String,
        eos_token: String,
    ) -> Result<ChatTemplate, TemplateError> {
        if source.len() > MAX_SOURCE {
            let bytes = source.len();
            return Err(TemplateError::TooLarge { bytes });
        }
        let environment = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("chat-template".to_owned())
                .stack_size(READING_STACK)
                .spawn_scoped(scope, || environment(&source))
                .map_err(|error| TemplateError::NoStack(error.to_string()))?
                .join()
                .expect("the engine answers with errors")
        })?;
        Ok(ChatTemplate {
            environment,
            source,
            bos_token,
            eos_token,
        })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as one text, BOS and all, exactly as the template writes it. With
    /// `add_generation_prompt` it ends where the model's answer begins.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template("chat")
            .expect("the template was added when this was made");
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect();
        let context = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        template.render(context).map_err(blame)
    }

    /// The ids of the rendered conversation, with exactly one BOS if the model wants one.
    ///
    /// The text is encoded as a whole, because words merge across the seam between the template's
    /// header and a message. What the messages say is guarded first, so that a message can spell
    /// a special token without writing one.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
    ) -> Result<Vec<u32>, ModelError> {
        let texts = messages.iter().flat_map(|m| [&*m.role, &*m.content]);
        let guard = tokenizer.guard_for(texts)?;
        let guarded: Vec<ChatMessage> = messages
            .iter()
            .map(|message| ChatMessage {
                role: tokenizer.guarded(&message.role, guard),
                content: tokenizer.guarded(&message.content, guard),
            })
            .collect();
        let rendered = self.render(&guarded, true)?;
        let ids = tokenizer.encode_guarded(&rendered, Some(guard))?;
        Ok(tokenizer.with_bos(ids))
    }
}

fn environment(source: &str) -> Result<Environment<'static>, TemplateError> {
    let watched = watched::watched(source, syntax()).map_err(|refused| match refused {
        watched::Refused::Syntax(error) => TemplateError::Syntax(error.to_string()),
        watched::Refused::ListProduct => TemplateError::ListProduct,
    })?;
    let mut environment = engine();
    environment
        .add_template_owned("chat", watched)
        .map_err(|error| TemplateError::Syntax(error.to_string()))?;
    Ok(environment)
}

/// What transformers sets, so that templates lose the same white space here.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the delimiters are the default ones")
}

fn engine() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax());
    environment.set_fuel(Some(MAX_FUEL));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        extent::check(state, value)?;
        escape_formatter(out, state, value)
    });
    environment.add_filter(watched::WATCH, |state: &State<'_, '_>, value: Value| {
        extent::check(state, &value).map(|()| value)
    });
    environment.add_filter(watched::FACTOR, extent::factor);
    environment.add_filter(watched::STORE, |state: &State<'_, '_>, value: Value| {
        extent::check_stored(state, &value).map(|()| value)
    });
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| {
        strftime(format, SystemTime::now())
    });
    environment.add_filter("tojson", tojson);
    environment
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .finish_non_exhaustive()
    }
}

fn blame(error: minijinja::Error) -> TemplateError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::TooLong,
        _ => TemplateError::Failed(error.to_string()),
    }
}

/// The methods of Python's types. What they are given is looked at first, and pieces of a text, which
/// take more room than the text, are paid for before they are made.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, minijinja::Error> {
    for given in std::iter::once(value).chain(arguments) {
        extent::check(state, given)?;
    }
    if let Some(text) = value.as_str()
        && name.starts_with("split")
    {
        state.consume_fuel(text.len() as u64 / 2)?;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    let error = minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception was called");
    Err(error.with_source(Raised(message)))
}

/// JSON as Python writes it, which is what templates were trained with: a space after commas and
/// colons, and nothing escaped for HTML, unlike the filter that minijinja has.
fn tojson(value: Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => {
            let mut json = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
            value.serialize(&mut json)
        }
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes, pretty,
            ))
        }
    };
    written.map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(String::from_utf8(bytes).expect("serde_json writes UTF-8"))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;

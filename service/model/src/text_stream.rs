/// Turns the bytes of tokens, as they come, into text.
///
/// A token may end in the middle of a character; those bytes wait for the next token. What is no
/// UTF-8 becomes U+FFFD exactly where `String::from_utf8_lossy` of all the bytes would put it.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character: at most three bytes.
    waiting: Vec<u8>,
    ready: String,
}

impl TextStream {
    pub fn new() -> TextStream {
        TextStream::default()
    }

    /// Adds the bytes of one token (or several) and returns the text that became certain.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.ready.clear();
        self.waiting.extend_from_slice(bytes);
        let mut rest = self.waiting.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.ready.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.ready.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(len) = error.error_len() else { break };
                    self.ready.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[len..];
                }
            }
        }
        let done = self.waiting.len() - rest.len();
        self.waiting.drain(..done);
        &self.ready
    }

    /// What is left when no more tokens come: nothing, or one U+FFFD for an unfinished character.
    pub fn finish(mut self) -> String {
        let text = String::from_utf8_lossy(&self.waiting).into_owned();
        self.waiting.clear();
        text
    }
}

#[cfg(test)]
mod tests;

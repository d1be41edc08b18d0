//! Bytes of tokens as they come: a length below 16, then so many bytes, and again.

use ternion_model::TextStream;

pub fn run(data: &[u8]) -> bool {
    let (mut all, mut text) = (Vec::new(), String::new());
    let mut stream = TextStream::new();
    let mut rest = data;
    while let Some((&len, after)) = rest.split_first() {
        let (token, after) = after.split_at(after.len().min(usize::from(len % 16)));
        all.extend_from_slice(token);
        text.push_str(stream.push(token));
        let ready = String::from_utf8_lossy(&all);
        assert!(ready.starts_with(&text), "{text:?} of {ready:?}");
        rest = after;
    }
    text.push_str(&stream.finish());
    assert_eq!(text, String::from_utf8_lossy(&all));
    true
}

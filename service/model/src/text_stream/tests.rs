use proptest::prelude::*;

use super::TextStream;

fn streamed(bytes: &[u8], cuts: &[usize]) -> String {
    let mut stream = TextStream::new();
    let mut text = String::new();
    let mut rest = bytes;
    for cut in cuts {
        let (now, later) = rest.split_at(*cut % (rest.len() + 1));
        text.push_str(stream.push(now));
        rest = later;
    }
    text.push_str(stream.push(rest));
    text + &stream.finish()
}

#[test]
fn a_character_waits_for_its_last_byte() {
    let mut stream = TextStream::new();
    assert_eq!(stream.push(b"a\xf0\x9f"), "a");
    assert_eq!(stream.push(b"\x98"), "");
    assert_eq!(stream.push(b"\x80!"), "\u{1f600}!");
    assert_eq!(stream.push(b"\xe4\xbd"), "");
    assert_eq!(stream.push(b"x\xff"), "\u{fffd}x\u{fffd}");
    assert_eq!(stream.push(b"\xe4"), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

proptest! {
    #[test]
    fn pieces_add_up_to_the_lossy_whole(
        parts in prop::collection::vec(
            prop_oneof![".{0,3}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..4)],
            0..12,
        ),
        cuts in prop::collection::vec(0_usize..9, 0..24),
    ) {
        let bytes = parts.concat();
        prop_assert_eq!(streamed(&bytes, &cuts), String::from_utf8_lossy(&bytes));
    }
}

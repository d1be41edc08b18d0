//! Stop strings in a text that arrives in pieces.
//!
//! A text may be shown up to where a stop string begins, or might turn out to
//! have begun. Both are answered by the Knuth-Morris-Pratt automaton of each
//! stop string: its state is the length of the longest suffix of the text that
//! is a prefix of the stop string. The text itself need not be kept, and a byte
//! costs amortised constant time for each stop string.
//!
//! Bytes are looked at one by one, so the answer does not depend on how the
//! text was cut into tokens. For the same reason the match that *ends* first
//! wins, not the one that begins first: with stop strings `abc` and `b`, the
//! text `ab` has ended whether or not a `c` would follow.

/// Watches a text for stop strings.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    patterns: Vec<Pattern>,
    text_len: usize,
}

/// A stop string in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopMatch {
    /// Which stop string.
    pub(crate) index: usize,
    /// Its first byte in the text.
    pub(crate) begin: usize,
    /// One past its last byte.
    pub(crate) end: usize,
}

impl StopMatcher {
    /// None of the stop strings may be empty.
    pub(crate) fn new(stop: Vec<Vec<u8>>) -> StopMatcher {
        StopMatcher {
            patterns: stop.into_iter().map(Pattern::new).collect(),
            text_len: 0,
        }
    }

    /// Appends to the text. Ends at the first match, without the bytes behind
    /// it, unless `may_stop` is false: then a complete stop string is text like
    /// any other.
    pub(crate) fn push(&mut self, bytes: &[u8], may_stop: bool) -> Option<StopMatch> {
        for &byte in bytes {
            self.text_len += 1;
            let found = self.advance(byte);
            if may_stop && found.is_some() {
                return found;
            }
        }
        None
    }

    /// The longest stop string that ends with this byte; of equal ones the
    /// first.
    fn advance(&mut self, byte: u8) -> Option<StopMatch> {
        let mut longest: Option<StopMatch> = None;
        for (index, pattern) in self.patterns.iter_mut().enumerate() {
            if pattern.advance(byte) {
                let begin = self.text_len - pattern.bytes.len();
                if longest.is_none_or(|found| begin < found.begin) {
                    longest = Some(StopMatch {
                        index,
                        begin,
                        end: self.text_len,
                    });
                }
            }
        }
        longest
    }

    /// Bytes of the text that no stop string can begin in any more.
    pub(crate) fn safe_len(&self) -> usize {
        let held_back = self.patterns.iter().map(|pattern| pattern.matched).max();
        self.text_len - held_back.unwrap_or(0)
    }

    /// Bytes of the text.
    pub(crate) fn text_len(&self) -> usize {
        self.text_len
    }
}

#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each prefix but the empty one, the length of its longest proper
    /// prefix that is also its suffix.
    borders: Vec<usize>,
    /// Length of the longest suffix of the text that is a proper prefix.
    matched: usize,
}

impl Pattern {
    fn new(bytes: Vec<u8>) -> Pattern {
        let mut borders = vec![0; bytes.len()];
        for end in 1..bytes.len() {
            let mut border = borders[end - 1];
            while border > 0 && bytes[border] != bytes[end] {
                border = borders[border - 1];
            }
            borders[end] = border + usize::from(bytes[border] == bytes[end]);
        }
        Pattern {
            bytes,
            borders,
            matched: 0,
        }
    }

    /// Whether the text ends with the stop string after this byte.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        let complete = self.matched == self.bytes.len();
        if complete {
            self.matched = self.borders[self.matched - 1];
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes tokens until one completes a stop string; the text that may be
    /// shown after each token, then the match.
    fn show(stop: &[&str], tokens: &[&[u8]]) -> (Vec<usize>, Option<StopMatch>) {
        let stop = stop.iter().map(|stop| stop.as_bytes().to_vec()).collect();
        let mut matcher = StopMatcher::new(stop);
        let mut shown = Vec::new();
        for token in tokens {
            if let Some(found) = matcher.push(token, true) {
                return (shown, Some(found));
            }
            shown.push(matcher.safe_len());
        }
        (shown, None)
    }

    fn found(index: usize, begin: usize, end: usize) -> Option<StopMatch> {
        Some(StopMatch { index, begin, end })
    }

    #[test]
    fn aab_is_found_in_aaab() {
        assert_eq!(show(&["aab"], &[b"aaab"]), (vec![], found(0, 1, 4)));
        assert_eq!(
            show(&["aab"], &[b"a", b"a", b"a", b"b"]),
            (vec![0, 0, 1], found(0, 1, 4))
        );
    }

    #[test]
    fn a_stop_string_across_three_tokens() {
        assert_eq!(
            show(&["</s>"], &[b"x<", b"/s", b">y"]),
            (vec![1, 1], found(0, 1, 5))
        );
    }

    #[test]
    fn a_false_beginning_is_shown_once_it_is_known_to_be_one() {
        assert_eq!(
            show(&["\nUser:"], &[b"hi\n", b"Us", b"ed\n", b"!"]),
            (vec![2, 2, 7, 9], None)
        );
    }

    #[test]
    fn a_character_split_over_tokens() {
        // "é" is c3 a9, "→" is e2 86 92.
        assert_eq!(
            show(&["é→"], &[b"\xc3", b"\xa9\xe2", b"\x86", b"\x92"]),
            (vec![0, 0, 0], found(0, 0, 5))
        );
    }

    #[test]
    fn the_match_that_ends_first_wins_and_the_longest_of_those() {
        assert_eq!(show(&["abc", "b"], &[b"abc"]).1, found(1, 1, 2));
        assert_eq!(show(&["b", "ab", "cab"], &[b"cab"]).1, found(2, 0, 3));
        assert_eq!(show(&["x", "ab", "ab"], &[b"ab"]).1, found(1, 0, 2));
    }

    #[test]
    fn a_match_that_may_not_stop_is_text_and_its_end_can_begin_another() {
        let mut matcher = StopMatcher::new(vec![b"aba".to_vec()]);
        assert_eq!(matcher.push(b"aba", false), None);
        assert_eq!(matcher.safe_len(), 2);
        assert_eq!(matcher.push(b"ba", true), found(0, 2, 5));
    }

    /// All of the text seen so far, searched from scratch.
    fn naive_match(stop: &[Vec<u8>], text: &[u8]) -> Option<StopMatch> {
        for end in 1..=text.len() {
            let ending = |(index, stop): (usize, &Vec<u8>)| {
                let begin = end.checked_sub(stop.len())?;
                (text[begin..end] == **stop).then_some(StopMatch { index, begin, end })
            };
            let all = stop.iter().enumerate().filter_map(ending);
            if let Some(found) = all.min_by_key(|found| (found.begin, found.index)) {
                return Some(found);
            }
        }
        None
    }

    fn naive_safe_len(stop: &[Vec<u8>], text: &[u8]) -> usize {
        let may_begin = |begin: &usize| {
            let suffix = &text[*begin..];
            stop.iter()
                .any(|stop| stop.len() > suffix.len() && stop.starts_with(suffix))
        };
        (0..text.len()).find(may_begin).unwrap_or(text.len())
    }

    fn over_ab(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"ab".to_vec()), len)
    }

    proptest! {
        #[test]
        fn agrees_with_a_search_of_the_whole_text(
            stop in prop::collection::vec(over_ab(1..6), 0..4),
            tokens in prop::collection::vec(over_ab(0..5), 0..20),
        ) {
            let mut matcher = StopMatcher::new(stop.clone());
            let mut text = Vec::new();
            for token in &tokens {
                text.extend_from_slice(token);
                let found = matcher.push(token, true);
                prop_assert_eq!(found, naive_match(&stop, &text));
                if found.is_some() {
                    break;
                }
                prop_assert_eq!(matcher.text_len(), text.len());
                prop_assert_eq!(matcher.safe_len(), naive_safe_len(&stop, &text));
            }
        }
    }
}

//! What a request must be answered, found without an engine: one token after
//! the other from the whole history, with the whole text searched each time.

use super::fake::{END, FakeVocabulary, VOCAB_SIZE, logits_after};
use crate::sampling::{Choice, Sampler};
use crate::{FinishReason, Request, Row, Vocabulary};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) tokens: Vec<u32>,
    /// Bytes of text that may be shown after each token.
    pub(super) text_ends: Vec<usize>,
    pub(super) reason: FinishReason,
}

pub(super) fn answer(request: &Request) -> Answer {
    let stopping = &request.stopping;
    let mut sampler = Sampler::default();
    let (mut tokens, mut text_ends, mut text) = (Vec::new(), Vec::new(), Vec::new());
    // Where the text of the tokens ends that must not end the sequence.
    let mut text_of_first = 0;
    loop {
        let may_end = tokens.len() >= stopping.min_tokens;
        let token = choose(&mut sampler, request, &tokens, may_end);
        tokens.push(token);
        let ends = if stopping.stop_tokens.contains(&token) {
            Some(FinishReason::StopToken { token })
        } else if token == END && !stopping.ignore_eos {
            Some(FinishReason::EndOfSequence { token })
        } else {
            text.extend_from_slice(FakeVocabulary.token_bytes(token));
            None
        };
        if !may_end {
            text_of_first = text.len();
        }
        let (reason, text_end) = if ends.is_some() {
            (ends, text.len())
        } else if let Some((index, begin, end)) = first_stop(&stopping.stop, &text, text_of_first) {
            let text_end = if stopping.include_stop { end } else { begin };
            (Some(FinishReason::StopString { index }), text_end)
        } else if tokens.len() == stopping.max_tokens {
            (Some(FinishReason::Length), text.len())
        } else {
            (None, no_stop_begins_after(&stopping.stop, &text))
        };
        text_ends.push(text_end);
        if let Some(reason) = reason {
            return Answer {
                tokens,
                text_ends,
                reason,
            };
        }
    }
}

fn choose(sampler: &mut Sampler, request: &Request, generated: &[u32], may_end: bool) -> u32 {
    let stopping = &request.stopping;
    let choice = Choice {
        sampling: &request.sampling,
        prompt: &request.prompt,
        generated,
        forbidden: [
            if may_end || stopping.ignore_eos {
                &[]
            } else {
                &[END]
            },
            if may_end { &[] } else { &stopping.stop_tokens },
        ],
    };
    let history = request.prompt.iter().chain(generated).copied();
    let logits = &logits_after(history)[..VOCAB_SIZE];
    sampler.sample(Row::Whole(logits), &choice).unwrap().token
}

/// Index, begin and end of the stop string that ends first behind `after`; of
/// those that end together the longest.
fn first_stop(stop: &[Vec<u8>], text: &[u8], after: usize) -> Option<(usize, usize, usize)> {
    (after + 1..=text.len()).find_map(|end| {
        let ending = (0..stop.len()).filter(|&index| text[..end].ends_with(&stop[index]));
        let longest = ending.min_by_key(|&index| (end - stop[index].len(), index))?;
        Some((longest, end - stop[longest].len(), end))
    })
}

fn no_stop_begins_after(stop: &[Vec<u8>], text: &[u8]) -> usize {
    let may_begin = |begin: &usize| {
        let suffix = &text[*begin..];
        stop.iter()
            .any(|stop| stop.len() > suffix.len() && stop.starts_with(suffix))
    };
    (0..text.len()).find(may_begin).unwrap_or(text.len())
}

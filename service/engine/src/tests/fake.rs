//! A model without arithmetic: logits are a hash of a sequence's tokens, as
//! read back from the pages they were written to. A wrong block table, a wrong
//! position or a page that belongs to two sequences changes what is generated.

use std::sync::Arc;

use crate::sampling::{Choice, Sampler};
use crate::{
    Batch, BlockCopy, BlockId, Crew, Draw, Executor, ExecutorError, Logits, Row, Sampling, Sought,
    Span, TokenLogit, Vocabulary, Wanted,
};

pub(super) const END: u32 = 0;

/// Text of the tokens: much overlap for stop strings, a two-byte character in
/// halves, an end token and one without text.
const TEXT: [&[u8]; 12] = [
    b"</s>", b"a", b"b", b"ab", b"ba", b"aa", b"bb", b"\xc3", b"\xa9", b"abb", b"", b"b",
];

pub(super) const VOCAB_SIZE: usize = TEXT.len();

/// Output heads are padded to round sizes.
pub(super) const ROW_LEN: usize = 16;

#[derive(Debug)]
pub(super) struct FakeVocabulary;

impl Vocabulary for FakeVocabulary {
    fn token_bytes(&self, token: u32) -> &[u8] {
        TEXT[token as usize]
    }

    fn size(&self) -> usize {
        VOCAB_SIZE
    }

    fn is_end(&self, token: u32) -> bool {
        token == END
    }
}

/// A prompt that begins with this is answered by text that repeats itself, with
/// a slip now and then.
pub(super) const REPETITIVE: u32 = 11;

/// The row of logits that follows some tokens. The padding is the largest.
pub(super) fn logits_after(tokens: impl IntoIterator<Item = u32>) -> [f32; ROW_LEN] {
    let mut tokens = tokens.into_iter().peekable();
    let repetitive = tokens.peek() == Some(&REPETITIVE);
    let begin = (0xcbf2_9ce4_8422_2325, 0);
    let (hash, last) = tokens.fold(begin, |(hash, _), token| {
        (scramble(hash ^ u64::from(token) ^ 0x100), token)
    });
    let liked = 1 + last as usize % 3;
    std::array::from_fn(|token| match token {
        0..VOCAB_SIZE => {
            let noise = (scramble(hash ^ token as u64) % 1000) as f32 / 250.0 - 2.0;
            let is_liked = repetitive && token == liked;
            noise + if is_liked { 2.5 } else { 0.0 }
        }
        _ => 9.0,
    })
}

fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The step fails.
    Step,
    /// Steps fail that have a sequence which begins with this token.
    Beginning(u32),
    /// The first row of logits, if there is one, holds NaN.
    NanInFirstRow,
    /// There are no logits.
    NoLogits,
}

#[derive(Debug)]
pub(super) struct FakeModel {
    block_size: usize,
    /// One token a slot, never cleared: what is stale stays readable.
    pages: Vec<Option<u32>>,
    logits: Logits,
    pub(super) fault: Fault,
    /// The batch of the last step, whole where parts of it were run again.
    pub(super) last: Batch,
    /// What was copied before it.
    pub(super) copied: Vec<BlockCopy>,
}

impl FakeModel {
    pub(super) fn new(num_blocks: usize, block_size: usize) -> FakeModel {
        FakeModel {
            block_size,
            pages: vec![None; num_blocks * block_size],
            logits: Logits::default(),
            fault: Fault::None,
            last: Batch::default(),
            copied: Vec::new(),
        }
    }

    /// Sequences may share what they read, and nothing that one of them writes.
    fn check_spans(&self, batch: &Batch) {
        let mut tables = vec![0; self.pages.len() / self.block_size];
        for span in &batch.spans {
            assert!(span.len > 0 && span.num_logits <= span.len, "{span:?}");
            assert!(span.table_len * self.block_size >= span.position + span.len);
            for block in batch.table_of(span) {
                tables[block.0 as usize] += 1;
            }
        }
        for span in &batch.spans {
            let written = &batch.table_of(span)[span.position / self.block_size..];
            for block in written {
                let tables = tables[block.0 as usize];
                assert_eq!(tables, 1, "{block:?} is written and in other tables");
            }
        }
    }
}

/// No more of a span's row than its reader asked for; which of the rows it is
/// matters to a draw.
fn some_of(row: &[f32], place: usize, batch: &Batch, span: &Span) -> Option<Vec<TokenLogit>> {
    let Wanted::Some { sought, among, .. } = span.wanted else {
        return None;
    };
    let named = batch.named_of(span);
    let others = (0..among as u32).filter(|token| !named.contains(token));
    let mut sought: Vec<u32> = match sought {
        Sought::Largest(count) => {
            let mut sorted: Vec<f32> = others.clone().map(|token| row[token as usize]).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let last = sorted.get(count - 1).copied().unwrap_or(f32::NEG_INFINITY);
            others
                .filter(|token| row[*token as usize] >= last)
                .collect()
        }
        Sought::Winner(draw) if draw.is_cut() => {
            assert!(named.is_empty(), "what is penalised may be cut or not");
            vec![drawn_from(&row[..among], draw.later(place))]
        }
        Sought::Winner(draw) => {
            let race = draw.later(place).race();
            let standing = |token: &u32| race.standing(*token, row[*token as usize]);
            others.max_by_key(standing).into_iter().collect()
        }
    };
    sought.extend(named.iter().filter(|token| (**token as usize) < among));
    sought.sort_unstable();
    sought.dedup();
    let entry = |token: u32| TokenLogit {
        token,
        logit: row[token as usize],
    };
    Some(sought.into_iter().map(entry).collect())
}

/// As sampling does it.
fn drawn_from(row: &[f32], draw: Draw) -> u32 {
    let sampling = Sampling {
        temperature: draw.temperature,
        top_p: draw.top_p,
        min_p: draw.min_p,
        seed: draw.seed,
        ..Sampling::default()
    };
    let choice = Choice {
        sampling: &sampling,
        prompt: &[],
        generated: &vec![0; draw.index as usize],
        forbidden: [&[], &[]],
    };
    let sampled = Sampler::default().sample(Row::Whole(row), &choice);
    sampled.expect("a row of numbers").token
}

/// Three that take turns, from the last item to the first.
struct Backwards;

impl Crew for Backwards {
    fn size(&self) -> usize {
        3
    }

    fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        (0..count).rev().for_each(|item| work(item % 3, item));
    }
}

impl Executor for FakeModel {
    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        for copy in copies {
            assert_ne!(copy.from, copy.to);
            let begin = |block: BlockId| block.0 as usize * self.block_size;
            let from = begin(copy.from)..begin(copy.from) + self.block_size;
            self.pages.copy_within(from, begin(copy.to));
        }
        self.copied.extend_from_slice(copies);
    }

    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError> {
        self.check_spans(batch);
        if self.last.spans.is_empty() {
            self.last.clone_from(batch);
        }
        let mut rows = Vec::new();
        for span in &batch.spans {
            let table = batch.table_of(span);
            let slot = |position: usize| {
                table[position / self.block_size].0 as usize * self.block_size
                    + position % self.block_size
            };
            let end = span.position + span.len;
            for (position, &token) in (span.position..end).zip(batch.tokens_of(span)) {
                self.pages[slot(position)] = Some(token);
            }
            for (place, end) in (end - span.num_logits + 1..=end).enumerate() {
                let read = |position| self.pages[slot(position)].expect("the slot was written");
                rows.push((span, place, logits_after((0..end).map(read))));
            }
        }
        let begins_with = |token| {
            let first = |span| batch.table_of(span)[0].0 as usize * self.block_size;
            let mut firsts = batch.spans.iter().map(|span| self.pages[first(span)]);
            firsts.any(|first| first == Some(token))
        };
        let fails = match self.fault {
            Fault::Step => true,
            Fault::Beginning(token) => begins_with(token),
            _ => false,
        };
        match self.fault {
            _ if fails => {
                let message = "the fake was told to fail".to_owned();
                return Err(ExecutorError { message });
            }
            Fault::None | Fault::Step | Fault::Beginning(_) => {}
            Fault::NanInFirstRow => rows.iter_mut().take(1).for_each(|row| row.2[0] = f32::NAN),
            Fault::NoLogits => rows.clear(),
        }
        // A row that holds what is no number is given as it is.
        let some =
            rows.iter().map(
                |(span, place, row)| match row.iter().any(|logit| logit.is_nan()) {
                    true => None,
                    false => some_of(row, *place, batch, span),
                },
            );
        let some: Vec<_> = some.collect();
        let whole: Vec<f32> = rows
            .iter()
            .zip(&some)
            .filter(|(_, some)| some.is_none())
            .flat_map(|((_, _, row), _)| *row)
            .collect();
        self.logits
            .begin(ROW_LEN, whole.len() / ROW_LEN)
            .copy_from_slice(&whole);
        for some in some {
            match some {
                None => self.logits.push_whole(),
                Some(entries) => self.logits.push_some(entries),
            }
        }
        Ok(&self.logits)
    }

    fn vocab_size(&self) -> usize {
        ROW_LEN
    }

    fn crew(&self) -> Option<Arc<dyn Crew>> {
        Some(Arc::new(Backwards))
    }
}

//! What is timed: prompts and generation, straight on the executor.

use std::time::{Duration, Instant};

use ternion_compute::{Candidates, CpuExecutor, HeadChoice, LoadedModel};
use ternion_engine::{Batch, BlockId, Executor, Span, Wanted};

pub(super) const BLOCK_SIZE: usize = 16;
/// Prompt tokens in a step.
pub(super) const PROMPT_CHUNK: usize = 512;

/// What one run took.
pub(super) struct Run {
    pub(super) tokens: usize,
    /// Packed ternary weights, and of the head what is used: bytes of a pass
    /// times passes.
    pub(super) weight_bytes: usize,
    /// Keys and values of the context.
    pub(super) kv_bytes: usize,
    pub(super) candidates: Option<f64>,
    pub(super) took: Duration,
}

/// An executor, and what its steps read.
pub(super) struct Bench {
    pub(super) executor: CpuExecutor,
    pub(super) batch: Batch,
    pub(super) ternary_bytes: usize,
    pub(super) head: HeadUse,
    /// Keys and values of a token.
    pub(super) token_bytes: usize,
    pub(super) vocab: usize,
    pub(super) wanted: Wanted,
}

/// What a step reads of the head.
pub(super) struct HeadUse {
    choice: HeadChoice,
    /// Of it as the model has it.
    bytes: usize,
    row_bytes: usize,
    state_bytes: usize,
}

impl HeadUse {
    pub(super) fn of(loaded: &LoadedModel, vocab: usize) -> HeadUse {
        HeadUse {
            choice: loaded.head(),
            bytes: loaded.head_bytes(),
            row_bytes: loaded.head_bytes() / vocab,
            state_bytes: loaded.head_state_bytes(),
        }
    }

    /// Bytes of `steps` steps in which so many rows were looked up.
    fn read(&self, steps: usize, screened: Candidates) -> usize {
        match self.choice {
            HeadChoice::Int8 => steps * self.state_bytes,
            HeadChoice::Screened if screened.positions > 0 => {
                steps * self.state_bytes + screened.rows as usize * self.row_bytes
            }
            _ => steps * self.bytes,
        }
    }
}

/// What was looked up since `before`.
fn since(before: Candidates, now: Candidates) -> Candidates {
    Candidates {
        positions: now.positions - before.positions,
        rows: now.rows - before.rows,
    }
}

/// Rows looked up for each position.
fn mean(screened: Candidates) -> Option<f64> {
    (screened.positions > 0).then(|| screened.rows as f64 / screened.positions as f64)
}

impl Bench {
    /// A prompt of `len` tokens after `depth` others, without logits but for the
    /// last.
    pub(super) fn prompt(&mut self, depth: usize, len: usize) -> anyhow::Result<Run> {
        let before = self.executor.candidates();
        let begin = Instant::now();
        let (mut steps, mut kv_bytes) = (0, 0);
        let last = depth + len;
        for position in (depth..last).step_by(PROMPT_CHUNK) {
            let end = last.min(position + PROMPT_CHUNK);
            let num_logits = usize::from(end == last);
            self.batch.clear();
            self.add_span(
                0,
                position,
                end - position,
                num_logits,
                last.div_ceil(BLOCK_SIZE),
            );
            self.executor.execute(&self.batch)?;
            steps += 1;
            kv_bytes += position * self.token_bytes;
        }
        let took = begin.elapsed();
        let screened = since(before, self.executor.candidates());
        Ok(Run {
            tokens: len,
            weight_bytes: steps * self.ternary_bytes + self.head.read(1, screened),
            candidates: mean(screened),
            kv_bytes,
            took,
        })
    }

    /// `len` tokens in each of `sequences`, from contexts of `depth` tokens.
    pub(super) fn generation(
        &mut self,
        sequences: usize,
        depth: usize,
        len: usize,
    ) -> anyhow::Result<Run> {
        let before = self.executor.candidates();
        let begin = Instant::now();
        let table_len = (depth + len).div_ceil(BLOCK_SIZE);
        let mut kv_bytes = 0;
        for position in depth..depth + len {
            self.batch.clear();
            for sequence in 0..sequences {
                self.add_span(sequence, position, 1, 1, table_len);
            }
            self.executor.execute(&self.batch)?;
            kv_bytes += sequences * position * self.token_bytes;
        }
        let took = begin.elapsed();
        let screened = since(before, self.executor.candidates());
        Ok(Run {
            tokens: sequences * len,
            weight_bytes: len * self.ternary_bytes + self.head.read(len, screened),
            candidates: mean(screened),
            kv_bytes,
            took,
        })
    }

    /// Median seconds of a step that generates a token in each of `sequences`,
    /// whose contexts have `depth` tokens, and computes `prompt` tokens of
    /// another in the middle of a prompt of `depth`.
    pub(super) fn step(
        &mut self,
        sequences: usize,
        depth: usize,
        prompt: usize,
        repeat: usize,
    ) -> anyhow::Result<f64> {
        let table_len = (depth + 1).max(prompt).div_ceil(BLOCK_SIZE);
        self.batch.clear();
        for sequence in 0..sequences {
            self.add_span(sequence, depth, 1, 1, table_len);
        }
        if prompt > 0 {
            let position = depth.saturating_sub(prompt) / 2;
            self.add_span(sequences, position, prompt, 0, table_len);
        }
        // The first may find its scratch too small.
        self.executor.execute(&self.batch)?;
        let mut times = Vec::with_capacity(repeat);
        for _ in 0..repeat {
            let begin = Instant::now();
            self.executor.execute(&self.batch)?;
            times.push(begin.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn add_span(
        &mut self,
        sequence: usize,
        position: usize,
        len: usize,
        num_logits: usize,
        table_len: usize,
    ) {
        let batch = &mut self.batch;
        let vocab = self.vocab;
        let span = Span {
            token_begin: batch.tokens.len(),
            len,
            position,
            table_begin: batch.block_tables.len(),
            table_len,
            num_logits,
            wanted: self.wanted,
        };
        // Different tokens, so that no embedding row stays in a cache.
        let tokens =
            (position..position + len).map(|p| ((p * 7919 + sequence * 104_729) % vocab) as u32);
        batch.tokens.extend(tokens);
        let first = sequence * table_len;
        batch
            .block_tables
            .extend((first..first + table_len).map(|block| BlockId(block as u32)));
        batch.spans.push(span);
    }
}

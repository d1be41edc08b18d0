//! What the engine asks of whoever runs the model.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use crate::block_pool::BlockId;
use crate::{Crew, Draw, Logits};

/// One sequence's share of a step: `len` tokens at consecutive positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// First of its tokens in [`Batch::tokens`].
    pub token_begin: usize,
    /// Number of tokens, at least 1.
    pub len: usize,
    /// Position of the first token in its sequence; all positions before it
    /// are in the KV pages already.
    pub position: usize,
    /// First entry of its block table in [`Batch::block_tables`].
    pub table_begin: usize,
    /// Entries of its block table: enough for `position + len` tokens.
    pub table_len: usize,
    /// How many of its last positions need logits: 0 while a prompt is not
    /// through, 1 for the position that is sampled from, and one more for each
    /// token behind it that is only guessed to follow.
    pub num_logits: usize,
    /// Which of their logits; the same for each of them, but for a draw, which
    /// is the first one's, and a place [later](Draw::later) for each after it.
    pub wanted: Wanted,
}

/// Which logits of a position its reader looks at. An executor may always give
/// more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// All.
    All,
    /// Those of some tokens that are named, and of the others what is sought.
    Some {
        /// What is, of the others.
        sought: Sought,
        /// Tokens to look among: what lies behind them pads the matrix.
        among: usize,
        /// First of the named ones in [`Batch::named_tokens`].
        named_begin: usize,
        /// How many are named; one may be so more than once.
        named_len: usize,
    },
}

/// Which of a position's logits can matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sought {
    /// So many of the largest, at least 1.
    Largest(usize),
    /// That of the token which is drawn; and of no other where the draw is
    /// [cut](Draw::is_cut), since no part of the rest shows what was.
    Winner(Draw),
}

impl Sought {
    /// The draw, if it is one that is cut.
    pub fn cut_draw(self) -> Option<Draw> {
        match self {
            Sought::Winner(draw) => Some(draw).filter(|draw| draw.is_cut()),
            Sought::Largest(_) => None,
        }
    }
}

/// What one step computes. Reused from step to step.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Batch {
    /// Token ids of all spans, one after the other.
    pub tokens: Vec<u32>,
    /// One entry a sequence, in scheduling order.
    pub spans: Vec<Span>,
    /// Block tables of all spans, one after the other.
    pub block_tables: Vec<BlockId>,
    /// Tokens whose logits are [`Wanted`] however small they are.
    pub named_tokens: Vec<u32>,
}

impl Batch {
    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.block_tables.clear();
        self.named_tokens.clear();
    }

    /// Tokens of a span.
    pub fn tokens_of(&self, span: &Span) -> &[u32] {
        &self.tokens[span.token_begin..][..span.len]
    }

    /// Block table of a span.
    pub fn table_of(&self, span: &Span) -> &[BlockId] {
        &self.block_tables[span.table_begin..][..span.table_len]
    }

    /// What a span's reader names, whatever its logit is.
    pub fn named_of(&self, span: &Span) -> &[u32] {
        match span.wanted {
            Wanted::All => &[],
            Wanted::Some {
                named_begin,
                named_len,
                ..
            } => &self.named_tokens[named_begin..][..named_len],
        }
    }

    /// Rows of logits that the step produces.
    pub fn num_logits(&self) -> usize {
        self.spans.iter().map(|span| span.num_logits).sum()
    }

    /// A batch of some of the spans.
    pub(crate) fn part(&self, places: Range<usize>) -> Batch {
        let mut part = Batch::default();
        for span in &self.spans[places] {
            let (token_begin, table_begin) = (part.tokens.len(), part.block_tables.len());
            let named_begin = part.named_tokens.len();
            part.tokens.extend_from_slice(self.tokens_of(span));
            part.block_tables.extend_from_slice(self.table_of(span));
            part.named_tokens.extend_from_slice(self.named_of(span));
            let mut span = Span {
                token_begin,
                table_begin,
                ..*span
            };
            if let Wanted::Some {
                named_begin: at, ..
            } = &mut span.wanted
            {
                *at = named_begin;
            }
            part.spans.push(span);
        }
        part
    }
}

/// What a sequence begins with that another one has computed, in a block that
/// is not full: it gets one of its own, to write behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// Where it is.
    pub from: BlockId,
    /// Where it goes.
    pub to: BlockId,
}

/// Why a step could not be run. The engine runs its halves then, so that it
/// ends only sequences that can't be run alone either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExecutorError {
    /// What went wrong, for the log.
    pub message: String,
}

/// Runs batches: writes keys and values of every token into its sequence's
/// pages and returns logits.
///
/// The result for a position depends on the tokens at and before it in its
/// own sequence only, to the bit: never on batch mates, chunk lengths or
/// which blocks it was given. What a step that failed left in the pages is
/// written anew before it is read.
pub trait Executor {
    /// Copies keys and values of whole blocks, one after the other: what is
    /// copied to may be copied from by a later one. A step follows.
    fn copy_blocks(&mut self, copies: &[BlockCopy]);

    /// Runs one step. Returns `batch.num_logits()` rows, in the order of the
    /// spans and, inside one, of positions.
    fn execute(&mut self, batch: &Batch) -> Result<&Logits, ExecutorError>;

    /// Length of a whole row of logits.
    fn vocab_size(&self) -> usize;

    /// Threads that have nothing to do between steps; `None`: there are none
    /// but the caller's.
    fn crew(&self) -> Option<Arc<dyn Crew>> {
        None
    }
}

/// What somebody said who panicked.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", said.as_deref().unwrap_or("no message"))
}

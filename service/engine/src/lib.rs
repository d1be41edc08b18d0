//! The engine: sequences, a block pool, a scheduler and a sampler, as a pure
//! state machine.
//!
//! It is told what happens ([`Engine::submit`], [`Engine::cancel`],
//! [`Engine::set_credit`]) and asked to take a step ([`Engine::step`]). A step
//! expires deadlines, chooses which sequences run and how many tokens each
//! computes, has an [`Executor`] run them, samples a token wherever a sequence
//! has caught up with itself, and says what happened as [`Event`]s and a
//! [`StepReport`].
//!
//! Five things explain most of the code:
//!
//! - **There are no phases.** A sequence knows `num_tokens` tokens, of which
//!   `num_computed_tokens` have keys and values in its pages. A step closes
//!   gaps under budgets of tokens and of time: a wide gap is prefill, a gap of
//!   one is decode, a gap the budgets cut short is chunked prefill, and a
//!   preempted sequence is one whose gap became wide again. See [`Limits`] for
//!   the budgets.
//! - **Guesses are verified.** A step that only decodes may take along tokens
//!   that are likely to come next; sampling goes along them while it chooses
//!   the same, so they change when tokens come and never which.
//! - **Tenants are served by turns.** Each has a counter of the time that was
//!   spent on it; where not all can be served, the least one is. Order within a
//!   tenant is by priority and arrival.
//! - **Every claim on a page is counted.** A page is in as many block tables as
//!   share what is in it, and in the prefix cache besides, if it is full and
//!   its [salt](Request::salt) allows. Claims are made and taken back by the
//!   pool only and are not `Clone`, so that free and held blocks always add up.
//! - **A token depends on its own sequence only.** Logits do by the contract of
//!   [`Executor`]; sampling does because its random numbers are a function of
//!   the request's seed and the token's index. Neither load nor preemption
//!   changes what a request is answered.
//!
//! What is absent on purpose: the engine reads no clock (time is an argument),
//! does no I/O, waits for nobody, starts no thread, and knows neither
//! transports nor tenants' names. Text is bytes here; whole characters are the
//! caller's business.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod block_pool;
mod crew;
mod drafting;
mod engine;
mod event;
mod executor;
mod exp;
mod fairness;
mod forecast;
mod lifecycle;
mod limits;
mod logits;
mod lru;
mod prefix_cache;
mod race;
mod random;
mod ranking;
mod request;
mod samples;
mod sampling;
mod scheduler;
mod sequence;
mod step_cost;
mod step_report;
mod stop;
mod vocabulary;
mod whole_rows;

#[cfg(test)]
mod tests;

pub use block_pool::BlockId;
pub use crew::Crew;
pub use engine::Engine;
pub use event::{Event, FinishReason, Timings, TokenLogprob, Usage};
pub use executor::{
    Batch, BlockCopy, Executor, ExecutorError, Sought, Span, Wanted, panic_message,
};
pub use fairness::Share;
pub use forecast::{Ahead, Forecast};
pub use limits::Limits;
pub use logits::{Logits, Row, TokenLogit};
pub use race::{Draw, Race, Standing};
pub use request::{Request, Sampling, Stopping, SubmitError};
pub use sequence::SequenceId;
pub use step_report::StepReport;
pub use vocabulary::Vocabulary;

/// A moment, as the time since an origin that the caller chooses and keeps.
pub type Time = std::time::Duration;

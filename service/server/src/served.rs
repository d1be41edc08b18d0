//! What is served: everything that the services share.

use std::{sync::Arc, time::Duration};

use ternion_engine::{Sampling, Vocabulary};
use ternion_model::Model;
use ternion_policy::Ticket;
use ternion_proto::v1;

use crate::{
    access::Access,
    drain::Drain,
    engine_loop::EngineHandle,
    live_requests::LiveRequests,
    metrics::Metrics,
    prompt::Prompts,
    public_prompts::PublicPrompts,
    queue::{Place, Queue, QueueFull},
    refusal::{RETRY_DELAY, Refusal},
    request::Bounds,
    retained::RetainedRequests,
};

/// Longest model name that is repeated in an error.
const MAX_SHOWN_NAME_CHARS: usize = 100;

/// Sooner nobody need try again.
const LEAST_RETRY_DELAY: Duration = Duration::from_millis(50);

pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) model: Arc<Model>,
    pub(crate) parameters: u64,
    /// Name and instruction set of the kernel in use.
    pub(crate) kernel: String,
    /// What became of each plugin, for AdminService.
    pub(crate) kernels: Vec<v1::Kernel>,
    pub(crate) default_sampling: Sampling,
    pub(crate) bounds: Bounds,
    pub(crate) prompts: Prompts,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) engine: EngineHandle,
    pub(crate) access: Arc<Access>,
    pub(crate) live: Arc<LiveRequests>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) metrics: Metrics,
    pub(crate) outbox_capacity: usize,
    pub(crate) queue: Arc<Queue>,
    /// How long frames may wait for a reader that takes none.
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) retained: Arc<RetainedRequests>,
    /// Whether requests share what is computed of their prompts.
    pub(crate) prefix_cache: bool,
    pub(crate) public_prompts: PublicPrompts,
    /// Requests that one Session stream may have at once.
    pub(crate) max_stream_requests: usize,
}

impl Served {
    /// Places in the queue for a tenant's request.
    pub(crate) fn place(&self, ticket: &Ticket) -> Result<Place, Refusal> {
        let samples = usize::try_from(ticket.samples()).unwrap_or(usize::MAX);
        let entered = self.queue.enter(ticket.tenant_number(), samples);
        entered.map_err(|full| self.full(full))
    }

    /// Room in the queue for its prompt.
    pub(crate) fn queue_tokens(&self, place: &mut Place, tokens: usize) -> Result<(), Refusal> {
        place.take(tokens).map_err(|full| self.full(full))
    }

    fn full(&self, full: QueueFull) -> Refusal {
        let forecast = self.engine.load().forecast;
        let room = forecast.room(full.tokens_over()).max(LEAST_RETRY_DELAY);
        let retry_after = match forecast.is_founded() {
            // Rounded up, as a wait must be.
            true => Duration::from_millis(room.as_millis() as u64 + 1),
            false => RETRY_DELAY,
        };
        Refusal::QueueFull { full, retry_after }
    }

    /// Accepts the name of the model that is served, or none.
    pub(crate) fn check_model(&self, name: &str) -> Result<(), Refusal> {
        match name.is_empty() || name == self.name {
            true => Ok(()),
            false => Err(Refusal::UnknownModel {
                name: name.chars().take(MAX_SHOWN_NAME_CHARS).collect(),
                served: self.name.clone(),
            }),
        }
    }
}

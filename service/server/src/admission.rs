//! The way in: from a client's message to a running request.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use ternion_engine::{Request, Share};
use ternion_policy::{MaxOutput, Ticket};
use ternion_proto::v1;

use crate::{
    audit::Audit,
    live_requests::Claim,
    meter::Meter,
    refusal::Refusal,
    request::{Bounds, Checked, DEFAULT_MAX_TOKENS, check},
    request_span::RequestSpan,
    request_stream::{Facts, RequestStream, Taken, Wanted},
    served::Served,
};

/// Tonic answers CANCELLED when a call's headers are not out by its deadline.
/// So much earlier, the right answer can still be given.
const ANSWER_MARGIN: Duration = Duration::from_millis(5);

/// Checks, tokenises and submits a request, or says why not.
pub(crate) async fn admit(
    served: &Served,
    request: v1::GenerateRequest,
    ticket: Ticket,
    claim: &Claim,
    deadline: Option<Instant>,
    span: &RequestSpan,
    audit: &Audit,
) -> Result<RequestStream, Refusal> {
    let admission = admit_in_time(served, request, ticket, claim, deadline, span, audit);
    let Some(deadline) = deadline else {
        return admission.await;
    };
    let latest = deadline.checked_sub(ANSWER_MARGIN).unwrap_or(deadline);
    tokio::time::timeout_at(latest.into(), admission)
        .await
        .unwrap_or(Err(Refusal::DeadlineExceeded))
}

async fn admit_in_time(
    served: &Served,
    request: v1::GenerateRequest,
    ticket: Ticket,
    claim: &Claim,
    deadline: Option<Instant>,
    span: &RequestSpan,
    audit: &Audit,
) -> Result<RequestStream, Refusal> {
    let mut place = served.place(&ticket)?;
    served.check_model(&request.model)?;
    let stop = request
        .stopping
        .as_ref()
        .map_or_else(Vec::new, |stopping| stopping.stop.clone());
    let drawn = random();
    let checked = check(request, &served.bounds, &served.default_sampling, drawn)?;
    span.asked(&checked);
    let limit = served.bounds.context_limit;
    served.prompts.check_size(&checked.input, limit)?;

    let field = checked.input.field();
    let prompt = served.prompts.encode(checked.input.clone()).await?;
    if prompt.len() >= limit {
        let got = prompt.len();
        return Err(Refusal::TooLong { field, got, limit });
    }
    let prompt_tokens = prompt.len();
    served.queue_tokens(&mut place, prompt_tokens)?;
    let seed = checked.sampling.seed;
    let asked = checked.stopping.max_tokens as u64;
    let output = match checked.max_tokens_given {
        true => MaxOutput::Asked(asked),
        false => MaxOutput::AtMost(default_max_tokens(&served.bounds, prompt_tokens) as u64),
    };
    let admitted = ticket
        .admit(prompt_tokens as u64, output, served.access.now())
        .map_err(|refused| Refusal::quota(field, refused))?;
    let salt = served.prefix_cache.then(|| admitted.cache_salt());
    let request = engine_request(served, checked, prompt, salt, deadline);
    let submitted = Instant::now();
    let accepted = served
        .engine
        .submit(request, admitted, served.outbox_capacity)
        .await?;
    let origin = served.access.origin();
    let meter = Meter::new(accepted.admitted, audit.clone(), origin, prompt_tokens);
    span.accepted(submitted, prompt_tokens);

    let facts = Facts {
        request_id: claim.id().to_owned(),
        model: served.name.clone(),
        kernel: served.kernel.clone(),
        seed,
        stop,
    };
    Ok(RequestStream::new(
        Taken {
            place,
            waiting: accepted.waiting,
            first: accepted.first,
            samples: accepted.samples,
            events: accepted.events,
        },
        meter,
        served.vocabulary.clone(),
        facts,
        Wanted::new(claim.cancel.clone(), served.drain.clone()),
        span.clone(),
    ))
}

fn engine_request(
    served: &Served,
    checked: Checked,
    prompt: Vec<u32>,
    salt: Option<u128>,
    deadline: Option<Instant>,
) -> Request {
    let mut stopping = checked.stopping;
    if !checked.max_tokens_given {
        stopping.max_tokens = default_max_tokens(&served.bounds, prompt.len());
        stopping.min_tokens = stopping.min_tokens.min(stopping.max_tokens);
    }
    Request {
        num_public: served.public_prompts.in_common(&prompt),
        prompt,
        sampling: checked.sampling,
        stopping,
        // The engine's handle sets it from what the tenant was admitted with.
        share: Share::default(),
        priority: checked.priority,
        salt,
        deadline: deadline.map(|at| served.engine.time(at)),
        // The engine's thread sets it from the outbox that it makes.
        credit: 0,
    }
}

/// What the context leaves to a prompt that fits into it, and the KV cache: a
/// request that doesn't ask for more than there is must not be refused for it.
fn default_max_tokens(bounds: &Bounds, prompt_tokens: usize) -> usize {
    let context = bounds.context_limit - prompt_tokens;
    // The last token is never computed, so it needs no room. A prompt that
    // doesn't fit is the engine's to refuse.
    let kv = (bounds.kv_tokens + 1).saturating_sub(prompt_tokens).max(1);
    context.min(kv).min(DEFAULT_MAX_TOKENS)
}

/// A seed or an id for those who bring none. The standard library's hasher
/// keys are random; nothing here needs more than that no two are alike.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

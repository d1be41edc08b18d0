//! Requests that outlive their readers: found by id where a client's stream
//! broke, and by idempotency key where it asks again. Each belongs to a tenant,
//! and nobody else finds it.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost::Message;
use ternion_policy::TenantId;
use ternion_proto::v1;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    live_requests::{AlreadyLive, Claim},
    reader::Reader,
    refusal::Refusal,
    request::{Violation, Violations},
};

/// Longest idempotency key.
const MAX_KEY_BYTES: usize = 128;

/// Readers that may wait for a request at once: of those that do, the last one
/// gets it.
const MAX_ATTACHING: usize = 4;

/// How long, and how much of them, requests are kept for their readers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// From the break of the stream, or the end of the request.
    pub(crate) grace: Duration,
    /// Whether requests go on without a reader. If not, they are parked.
    pub(crate) goes_on: bool,
    /// Most bytes of a request's frames.
    pub(crate) request_bytes: usize,
    /// Most bytes of all requests that have ended.
    pub(crate) finished_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct RetainedRequests {
    pub(crate) retention: Retention,
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Name, Arc<Line>>,
    by_key: HashMap<Name, Keyed>,
    /// Those that have ended, oldest first, with their bytes.
    finished: VecDeque<(Arc<Line>, usize)>,
    finished_bytes: usize,
}

/// An id or a key, which is its tenant's.
type Name = (TenantId, String);

#[derive(Debug)]
struct Keyed {
    line: Arc<Line>,
    fields: Fields,
}

/// How a request's task is reached.
#[derive(Debug)]
pub(crate) struct Line {
    attach: mpsc::Sender<Attach>,
    id: Name,
    key: Option<Name>,
    is_finished: AtomicBool,
    /// Told when others need its place.
    pub(crate) leave: Notify,
}

/// A reader on its way to a request.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) reader: Reader,
    /// Sequence number of the last frame that it has.
    pub(crate) last: Option<u64>,
    /// Its own id for the request, if it has one.
    pub(crate) claim: Option<Claim>,
    pub(crate) reply: oneshot::Sender<Result<(), Refusal>>,
}

/// A request's place in the table, until dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    requests: Arc<RetainedRequests>,
    pub(crate) line: Arc<Line>,
    pub(crate) attaching: mpsc::Receiver<Attach>,
}

/// What a message asks for.
#[derive(Debug)]
pub(crate) enum Begin {
    /// A request that ends with its stream.
    Ordinary,
    /// One that is kept for its readers.
    Retained(Registration),
    /// To go on reading one that is there.
    Attach {
        line: Arc<Line>,
        last: Option<u64>,
        by: By,
    },
}

/// How a reader came to a request that was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Resume,
    IdempotencyKey,
}

impl By {
    pub(crate) const ALL: [By; 2] = [By::Resume, By::IdempotencyKey];

    pub(crate) fn name(self) -> &'static str {
        match self {
            By::Resume => "resume",
            By::IdempotencyKey => "idempotency_key",
        }
    }
}

impl RetainedRequests {
    pub(crate) fn new(retention: Retention) -> RetainedRequests {
        RetainedRequests {
            retention,
            hasher: RandomState::new(),
            table: Mutex::default(),
        }
    }

    /// Looks at what a message of a tenant asks for, and makes room for it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        tenant: &TenantId,
        id: &str,
        request: &v1::GenerateRequest,
    ) -> Result<Begin, Refusal> {
        if let Some(resume) = &request.resume {
            return self.resume(tenant, resume, request);
        }
        let key = &request.idempotency_key;
        if key.is_empty() && !request.resumable {
            return Ok(Begin::Ordinary);
        }
        if key.len() > MAX_KEY_BYTES {
            let len = key.len();
            let range = format!("has {len} bytes, at most {MAX_KEY_BYTES}");
            return Err(Violations::one("idempotency_key", range).into());
        }
        let key = (!key.is_empty()).then(|| (tenant.clone(), key.clone()));
        let fields = Fields::of(request, &self.hasher);
        let mut table = self.table();
        if let Some(keyed) = key.as_ref().and_then(|key| table.by_key.get(key)) {
            keyed.fields.same_as(&fields)?;
            return Ok(Begin::Attach {
                line: keyed.line.clone(),
                last: None,
                by: By::IdempotencyKey,
            });
        }
        let name = (tenant.clone(), id.to_owned());
        if let Some(line) = table.by_id.get(&name).cloned() {
            if !line.is_finished.load(Ordering::Relaxed) {
                let id = id.to_owned();
                return Err(AlreadyLive { id }.into());
            }
            table.remove(&line);
        }
        let (attach, attaching) = mpsc::channel(MAX_ATTACHING);
        let line = Arc::new(Line {
            attach,
            id: name.clone(),
            key: key.clone(),
            is_finished: AtomicBool::new(false),
            leave: Notify::new(),
        });
        table.by_id.insert(name, line.clone());
        if let Some(key) = key {
            let line = line.clone();
            table.by_key.insert(key, Keyed { line, fields });
        }
        Ok(Begin::Retained(Registration {
            requests: self.clone(),
            line,
            attaching,
        }))
    }

    fn resume(
        &self,
        tenant: &TenantId,
        resume: &v1::Resume,
        request: &v1::GenerateRequest,
    ) -> Result<Begin, Refusal> {
        if request.input.is_some() {
            return Err(Violations::one("input", "must be absent beside resume").into());
        }
        let name = (tenant.clone(), resume.request_id.clone());
        match self.table().by_id.get(&name) {
            Some(line) => Ok(Begin::Attach {
                line: line.clone(),
                last: resume.last_seq,
                by: By::Resume,
            }),
            None => Err(Refusal::NotResumable {
                id: resume.request_id.clone(),
            }),
        }
    }

    /// A request has ended and keeps so many bytes. Those that ended before it
    /// make room.
    pub(crate) fn finished(&self, line: &Arc<Line>, bytes: usize) {
        let mut table = self.table();
        line.is_finished.store(true, Ordering::Relaxed);
        table.finished.push_back((line.clone(), bytes));
        table.finished_bytes += bytes;
        while table.finished_bytes > self.retention.finished_bytes
            && let Some((oldest, _)) = table.finished.front().cloned()
        {
            table.remove(&oldest);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes a request out, so that nobody finds it any more.
    fn remove(&mut self, line: &Arc<Line>) {
        let is_it = |other: &Arc<Line>| Arc::ptr_eq(other, line);
        if self.by_id.get(&line.id).is_some_and(is_it) {
            self.by_id.remove(&line.id);
        }
        if let Some(key) = &line.key
            && self.by_key.get(key).is_some_and(|keyed| is_it(&keyed.line))
        {
            self.by_key.remove(key);
        }
        if let Some(place) = self.finished.iter().position(|(other, _)| is_it(other))
            && let Some((_, bytes)) = self.finished.remove(place)
        {
            self.finished_bytes -= bytes;
        }
        line.leave.notify_one();
    }
}

impl Line {
    pub(crate) fn request_id(&self) -> &str {
        &self.id.1
    }

    /// Hands a reader over, or says why it can't be.
    pub(crate) async fn attach(
        &self,
        reader: Reader,
        last: Option<u64>,
        claim: Option<Claim>,
    ) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let attach = Attach {
            reader,
            last,
            claim,
            reply,
        };
        // It may end, or be refused, just now.
        let gone = || Refusal::JustGone {
            id: self.id.1.clone(),
        };
        self.attach.send(attach).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Registration {
    pub(crate) fn retention(&self) -> Retention {
        self.requests.retention
    }

    pub(crate) fn finished(&self, bytes: usize) {
        self.requests.finished(&self.line, bytes);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.requests.table().remove(&self.line);
    }
}

/// What two requests are told apart by, field by field.
#[derive(Debug, PartialEq, Eq)]
struct Fields([(&'static str, u64); 9]);

impl Fields {
    fn of(request: &v1::GenerateRequest, hasher: &RandomState) -> Fields {
        // All of them are named, so that a new one is not forgotten.
        let v1::GenerateRequest {
            model,
            input,
            sampling,
            stopping,
            parse_special,
            add_bos,
            priority,
            logprobs,
            n,
            request_id: _,
            idempotency_key: _,
            resumable: _,
            resume: _,
        } = request;
        let input = v1::GenerateRequest {
            input: input.clone(),
            ..v1::GenerateRequest::default()
        };
        let sampling = sampling.as_ref().map(Message::encode_to_vec);
        let stopping = stopping.as_ref().map(Message::encode_to_vec);
        Fields([
            ("model", hasher.hash_one(model)),
            ("input", hasher.hash_one(input.encode_to_vec())),
            ("sampling", hasher.hash_one(sampling)),
            ("stopping", hasher.hash_one(stopping)),
            ("parse_special", hasher.hash_one(parse_special)),
            ("add_bos", hasher.hash_one(add_bos)),
            ("priority", hasher.hash_one(priority)),
            ("logprobs", hasher.hash_one(logprobs)),
            ("n", hasher.hash_one(n)),
        ])
    }

    /// Names the fields that another request under the same key has otherwise.
    fn same_as(&self, other: &Fields) -> Result<(), Violations> {
        let differ = self.0.iter().zip(&other.0).filter(|(a, b)| a != b);
        let violations: Vec<Violation> = differ
            .map(|((field, _), _)| Violation {
                field: (*field).to_owned(),
                description: "differs from that of the request that has this idempotency_key"
                    .to_owned(),
            })
            .collect();
        match violations.is_empty() {
            true => Ok(()),
            false => Err(Violations(violations)),
        }
    }
}

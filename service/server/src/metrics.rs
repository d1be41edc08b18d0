//! What is measured. Every name, its unit and its meaning stand in
//! `service/server/METRICS.md`, and a test holds that list against a scrape.
//!
//! Two kinds of instruments. Gauges and the engine's own counters are read when
//! somebody collects, from the [`Load`](crate::load::Load) that the engine's
//! thread publishes anyway. What belongs to a request is recorded by that
//! request's task. So measuring costs the engine's thread nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};
use ternion_kernel_host::{Kernel, State, Survey};
use tonic::Code;

use crate::{
    drain::Phase, energy::Energy, engine_loop::EngineHandle, kernel_choice::Measured, load::Load,
    loading::Loading, processors::Placement, retained::By, semconv, status::code_name,
    vitals::Vitals,
};

/// The GenAI conventions' bounds of a request's duration, ...
const GEN_AI_DURATION_BOUNDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
/// ... of its time to first token, ...
const GEN_AI_FIRST_TOKEN_BOUNDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// ... and of its time per output token.
const GEN_AI_PER_TOKEN_BOUNDS: [f64; 13] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
/// Ours go further at both ends: small models are faster than the conventions'
/// authors had in mind, and a queue or a long answer on a CPU is slower.
const DURATION_BOUNDS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48,
    40.96, 81.92, 163.84, 327.68,
];
const PER_TOKEN_BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
/// The RPC conventions' bounds, and some more for streams.
const RPC_BOUNDS: [f64; 18] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

/// Instruments that requests and calls are recorded with.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    model: String,
    input_tokens: Counter<u64>,
    output_tokens: Counter<u64>,
    requests: Counter<u64>,
    refused: Counter<u64>,
    attached: Counter<u64>,
    duration: Histogram<f64>,
    queue_time: Histogram<f64>,
    prefill_time: Histogram<f64>,
    decode_time: Histogram<f64>,
    time_to_first_token: Histogram<f64>,
    inter_token_time: Histogram<f64>,
    gen_ai_duration: Histogram<f64>,
    gen_ai_time_to_first_token: Histogram<f64>,
    gen_ai_time_per_output_token: Histogram<f64>,
    rpc_call_duration: Histogram<f64>,
}

fn histogram(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    bounds: &[f64],
) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_unit("s")
        .with_description(description)
        .with_boundaries(bounds.to_vec())
        .build()
}

fn counter(
    meter: &Meter,
    name: &'static str,
    unit: &'static str,
    what: &'static str,
) -> Counter<u64> {
    meter
        .u64_counter(name)
        .with_unit(unit)
        .with_description(what)
        .build()
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, model: &str) -> Metrics {
        let time = |name, what| histogram(meter, name, what, &DURATION_BOUNDS);
        let metrics = Instruments {
            model: model.to_owned(),
            input_tokens: counter(
                meter,
                "ternion.input_tokens",
                "{token}",
                "Prompt tokens of accepted requests.",
            ),
            output_tokens: counter(
                meter,
                "ternion.output_tokens",
                "{token}",
                "Tokens generated for requests.",
            ),
            requests: counter(
                meter,
                "ternion.requests",
                "{request}",
                "Accepted requests that ended, by how.",
            ),
            refused: counter(
                meter,
                "ternion.requests.refused",
                "{request}",
                "Requests that were not accepted, by why.",
            ),
            attached: counter(
                meter,
                "ternion.requests.attached",
                "{reader}",
                "Readers that went on with a request that was there.",
            ),
            duration: time(
                "ternion.request.duration",
                "From a request's arrival to its end, by how it ended.",
            ),
            queue_time: time(
                "ternion.request.queue_time",
                "From submission until a request was given its first pages.",
            ),
            prefill_time: time(
                "ternion.request.prefill_time",
                "From a request's first pages to its first token.",
            ),
            decode_time: time(
                "ternion.request.decode_time",
                "From a request's first token to its end.",
            ),
            time_to_first_token: time(
                "ternion.time_to_first_token",
                "From a request's arrival to its first token.",
            ),
            inter_token_time: histogram(
                meter,
                "ternion.inter_token_time",
                "Between two tokens of a request.",
                &PER_TOKEN_BOUNDS,
            ),
            gen_ai_duration: histogram(
                meter,
                semconv::SERVER_REQUEST_DURATION,
                "Generative AI server request duration.",
                &GEN_AI_DURATION_BOUNDS,
            ),
            gen_ai_time_to_first_token: histogram(
                meter,
                semconv::SERVER_TIME_TO_FIRST_TOKEN,
                "Time to generate the first token of successful responses.",
                &GEN_AI_FIRST_TOKEN_BOUNDS,
            ),
            gen_ai_time_per_output_token: histogram(
                meter,
                semconv::SERVER_TIME_PER_OUTPUT_TOKEN,
                "Time per output token after the first one of successful responses.",
                &GEN_AI_PER_TOKEN_BOUNDS,
            ),
            rpc_call_duration: histogram(
                meter,
                semconv::RPC_SERVER_CALL_DURATION,
                "Duration of an incoming call, to the end of its stream.",
                &RPC_BOUNDS,
            ),
        };
        let metrics = Metrics(Arc::new(metrics));
        // So that a scrape has them before anybody comes back.
        for by in By::ALL {
            metrics.add_attached(by, 0);
        }
        metrics
    }

    /// A reader came to a request that was there already.
    pub(crate) fn attached(&self, by: By) {
        self.add_attached(by, 1);
    }

    fn add_attached(&self, by: By, count: u64) {
        let model = KeyValue::new(semconv::MODEL, self.0.model.clone());
        let by = KeyValue::new("by", by.name());
        self.0.attached.add(count, &[model, by]);
    }

    /// The metrics of one request.
    pub(crate) fn request(&self, operation: &'static str) -> RequestMetrics {
        // What a request is told apart by. Whatever is added here must come
        // from a bounded list: a tenant by its configured name, say, but never
        // an id or a text that a client chose.
        let labels = vec![KeyValue::new(semconv::MODEL, self.0.model.clone())];
        let gen_ai = vec![
            KeyValue::new(semconv::OPERATION_NAME, operation),
            KeyValue::new(semconv::PROVIDER_NAME, semconv::PROVIDER),
            KeyValue::new(semconv::REQUEST_MODEL, self.0.model.clone()),
            KeyValue::new(semconv::RESPONSE_MODEL, self.0.model.clone()),
        ];
        RequestMetrics {
            instruments: self.0.clone(),
            labels,
            gen_ai,
        }
    }

    /// A request was refused before there was anything to trace.
    pub(crate) fn refused(&self, reason: &str) {
        let model = KeyValue::new(semconv::MODEL, self.0.model.clone());
        let reason = KeyValue::new(semconv::REASON, reason.to_owned());
        self.0.refused.add(1, &[model, reason]);
    }

    /// A call to `method` ended.
    pub(crate) fn called(&self, method: &'static str, code: Code, took: Duration) {
        let mut labels = vec![
            KeyValue::new(semconv::RPC_SYSTEM_NAME, semconv::GRPC),
            KeyValue::new(semconv::RPC_METHOD, method),
            KeyValue::new(semconv::RPC_STATUS_CODE, code_name(code)),
        ];
        if semconv::is_server_error(code) {
            labels.push(KeyValue::new(semconv::ERROR_TYPE, code_name(code)));
        }
        self.0.rpc_call_duration.record(took.as_secs_f64(), &labels);
    }
}

/// How a request spent its time, as far as it came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Phases {
    pub(crate) queue: Option<Duration>,
    pub(crate) prefill: Option<Duration>,
    pub(crate) decode: Option<Duration>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) reason: &'static str,
    pub(crate) code: Code,
    /// From its arrival.
    pub(crate) after: Duration,
    /// Of all samples.
    pub(crate) output_tokens: u64,
    pub(crate) samples: u64,
    pub(crate) phases: Phases,
}

/// Records one request.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    instruments: Arc<Instruments>,
    labels: Vec<KeyValue>,
    /// Those of the conventions' metrics.
    gen_ai: Vec<KeyValue>,
}

impl RequestMetrics {
    fn with(&self, more: &[(&'static str, &'static str)]) -> Vec<KeyValue> {
        let more = more
            .iter()
            .map(|(name, value)| KeyValue::new(*name, *value));
        self.labels.iter().cloned().chain(more).collect()
    }

    pub(crate) fn accepted(&self, input_tokens: usize) {
        self.instruments
            .input_tokens
            .add(input_tokens as u64, &self.labels);
        // So that the series is there before its first token.
        self.instruments.output_tokens.add(0, &self.labels);
    }

    pub(crate) fn refused(&self, reason: &str, code: Code, after: Duration) {
        let mut labels = self.labels.clone();
        labels.push(KeyValue::new(semconv::REASON, reason.to_owned()));
        self.instruments.refused.add(1, &labels);
        self.gen_ai_ended(code, after);
    }

    pub(crate) fn first_token(&self, after: Duration) {
        let seconds = after.as_secs_f64();
        self.instruments.output_tokens.add(1, &self.labels);
        self.instruments
            .time_to_first_token
            .record(seconds, &self.labels);
        self.instruments
            .gen_ai_time_to_first_token
            .record(seconds, &self.gen_ai);
    }

    /// Whose time says nothing.
    pub(crate) fn one_more_token(&self) {
        self.instruments.output_tokens.add(1, &self.labels);
    }

    pub(crate) fn next_token(&self, after_last: Duration) {
        self.instruments.output_tokens.add(1, &self.labels);
        self.instruments
            .inter_token_time
            .record(after_last.as_secs_f64(), &self.labels);
    }

    pub(crate) fn ended(&self, end: &End) {
        let instruments = &self.instruments;
        let reason = (semconv::FINISH_REASON, end.reason);
        let code = (semconv::CODE, code_name(end.code));
        instruments.requests.add(1, &self.with(&[reason, code]));
        instruments
            .duration
            .record(end.after.as_secs_f64(), &self.with(&[reason]));
        let phases = [
            (&instruments.queue_time, end.phases.queue),
            (&instruments.prefill_time, end.phases.prefill),
            (&instruments.decode_time, end.phases.decode),
        ];
        for (histogram, time) in phases {
            if let Some(time) = time {
                histogram.record(time.as_secs_f64(), &self.labels);
            }
        }
        // Of a sample: they run side by side.
        let tokens_after_first = end.output_tokens.saturating_sub(end.samples);
        if let (Code::Ok, Some(decode), 1..) = (end.code, end.phases.decode, tokens_after_first) {
            let per_token = decode.as_secs_f64() * end.samples as f64 / tokens_after_first as f64;
            instruments
                .gen_ai_time_per_output_token
                .record(per_token, &self.gen_ai);
        }
        self.gen_ai_ended(end.code, end.after);
    }

    fn gen_ai_ended(&self, code: Code, after: Duration) {
        let mut labels = self.gen_ai.clone();
        if code != Code::Ok {
            labels.push(KeyValue::new(semconv::ERROR_TYPE, code_name(code)));
        }
        self.instruments
            .gen_ai_duration
            .record(after.as_secs_f64(), &labels);
    }
}

/// Observes what is true of the process from its first moment.
pub(crate) fn observe_process(meter: &Meter, vitals: Arc<Vitals>) {
    let build = [
        KeyValue::new("version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("arch", std::env::consts::ARCH),
    ];
    meter
        .u64_observable_gauge("ternion.build.info")
        .with_description("Always 1; the labels tell the build.")
        .with_callback(move |observer| observer.observe(1, &build))
        .build();
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    meter
        .f64_observable_gauge("process.start_time")
        .with_unit("s")
        .with_description("When the process started, in Unix time.")
        .with_callback(move |observer| observer.observe(started, &[]))
        .build();
    let drain = vitals.drain.clone();
    meter
        .u64_observable_gauge("ternion.drain.phase")
        .with_description("0 serving, 1 leaving, 2 draining, 3 ending what still runs.")
        .with_callback(move |observer| {
            let phase = match drain.phase() {
                Phase::Serving => 0,
                Phase::Leaving => 1,
                Phase::Draining => 2,
                Phase::Ending => 3,
            };
            observer.observe(phase, &[]);
        })
        .build();
    meter
        .f64_observable_gauge("ternion.heartbeat.age")
        .with_unit("s")
        .with_description("Since the engine's thread last came round.")
        .with_callback(move |observer| {
            if let Some(age) = vitals.heartbeat_age() {
                observer.observe(age.as_secs_f64(), &[]);
            }
        })
        .build();
}

/// How many threads compute, and why so many.
pub(crate) fn observe_threads(meter: &Meter, placement: &Placement) {
    let threads = placement.threads as u64;
    let labels = [
        KeyValue::new("limited_by", placement.limit.name()),
        KeyValue::new("pinned", placement.is_pinned),
    ];
    meter
        .u64_observable_gauge("ternion.compute.threads")
        .with_unit("{thread}")
        .with_description("Compute threads; the labels tell where their number comes from.")
        .with_callback(move |observer| observer.observe(threads, &labels))
        .build();
}

/// What the machine's counters of energy have counted.
pub(crate) fn observe_energy(meter: &Meter, energy: Arc<Mutex<Energy>>) {
    meter
        .f64_observable_counter("ternion.energy")
        .with_unit("J")
        .with_description("Used by the machine's packages and their memory, by all processes.")
        .with_callback(move |observer| {
            let mut energy = energy.lock().unwrap_or_else(PoisonError::into_inner);
            energy.sample();
            for (domain, joules) in energy.joules_by_domain() {
                observer.observe(joules, &[KeyValue::new("domain", domain.to_owned())]);
            }
        })
        .build();
}

/// What the labels of `ternion.kernel.info` tell.
pub(crate) struct KernelInfo<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) model: &'a str,
    pub(crate) digest: String,
}

pub(crate) fn observe_kernel(meter: &Meter, info: &KernelInfo<'_>) {
    let labels = [
        KeyValue::new("kernel", info.kernel.name().to_owned()),
        KeyValue::new("isa", info.kernel.isa().to_owned()),
        KeyValue::new("version", info.kernel.version().to_owned()),
        KeyValue::new(semconv::MODEL, info.model.to_owned()),
        KeyValue::new("digest", info.digest.clone()),
    ];
    meter
        .u64_observable_gauge("ternion.kernel.info")
        .with_description("Always 1; the labels tell the kernel in use and the model.")
        .with_callback(move |observer| observer.observe(1, &labels))
        .build();
}

/// What became of the plugin files that were found at the start.
pub(crate) fn observe_plugins(meter: &Meter, survey: &Survey) {
    let count = |state: &'static str| {
        let found = survey
            .found
            .iter()
            .filter(|found| found.state.name() == state);
        ([KeyValue::new("state", state)], found.count() as u64)
    };
    let counts = State::NAMES.map(count);
    meter
        .u64_observable_gauge("ternion.kernel.plugins")
        .with_unit("{file}")
        .with_description("Plugin files found at the start, by what became of them.")
        .with_callback(move |observer| {
            for (labels, count) in &counts {
                observer.observe(*count, labels);
            }
        })
        .build();
}

/// What kernels were chosen by. Nothing, where there was no choice.
pub(crate) fn observe_timing(meter: &Meter, measured: &Measured, model: &str) {
    let observations: Vec<([KeyValue; 3], f64)> = measured
        .kernels
        .iter()
        .flat_map(|kernel| {
            kernel.layers().into_iter().map(|(batch, seconds)| {
                let labels = [
                    KeyValue::new("kernel", kernel.name.clone()),
                    KeyValue::new("batch", batch as i64),
                    KeyValue::new(semconv::MODEL, model.to_owned()),
                ];
                (labels, seconds)
            })
        })
        .collect();
    meter
        .f64_observable_gauge("ternion.kernel.layer_time")
        .with_unit("s")
        .with_description("A layer's ternary products, as timed to choose among kernels.")
        .with_callback(move |observer| {
            for (labels, seconds) in &observations {
                observer.observe(*seconds, labels);
            }
        })
        .build();
}

/// Describes how the model was loaded.
pub(crate) fn observe_loading(meter: &Meter, loading: &Loading, model: &str) {
    let model = KeyValue::new(semconv::MODEL, model.to_owned());
    let packed = [model.clone(), KeyValue::new("cache", loading.cache())];
    let bytes = loading.packed_bytes as u64;
    meter
        .u64_observable_gauge("ternion.weights.packed")
        .with_unit("By")
        .with_description("Packed ternary weights; the label tells what came of the cache.")
        .with_callback(move |observer| observer.observe(bytes, &packed))
        .build();
    let stages: Vec<_> = loading
        .stages
        .iter()
        .map(|(stage, took)| {
            let stage = KeyValue::new("stage", stage.name());
            (took.as_secs_f64(), [model.clone(), stage])
        })
        .collect();
    meter
        .f64_observable_gauge("ternion.load.time")
        .with_unit("s")
        .with_description("What loading the model took, by stage.")
        .with_callback(move |observer| {
            for (seconds, labels) in &stages {
                observer.observe(*seconds, labels);
            }
        })
        .build();
}

/// A gauge or counter of the load: name, unit, description, value.
type LoadMetric = (&'static str, &'static str, &'static str, fn(&Load) -> u64);

const LOAD_GAUGES: [LoadMetric; 7] = [
    (
        "ternion.requests.running",
        "{request}",
        "Requests with pages and a reader that has room.",
        |load| load.running as u64,
    ),
    (
        "ternion.requests.waiting",
        "{request}",
        "Requests that wait for pages or a place in the batch.",
        |load| load.waiting as u64,
    ),
    (
        "ternion.queue.tokens",
        "{token}",
        "Tokens of the prompts of requests that were not started.",
        |load| load.queued_tokens as u64,
    ),
    (
        "ternion.requests.parked",
        "{request}",
        "Requests that wait for their readers.",
        |load| load.parked as u64,
    ),
    (
        "ternion.kv.pages.used",
        "{page}",
        "Pages of the KV cache in use.",
        |load| (load.kv_pages - load.kv_pages_free) as u64,
    ),
    (
        "ternion.kv.pages.capacity",
        "{page}",
        "Pages of the KV cache.",
        |load| load.kv_pages as u64,
    ),
    (
        "ternion.prefix_cache.pages",
        "{page}",
        "Pages that are kept for prompts that begin the same way, whether in use or not.",
        |load| load.prefix_cache.pages as u64,
    ),
];

const LOAD_COUNTERS: [LoadMetric; 11] = [
    (
        "ternion.steps",
        "{step}",
        "Steps of the engine that ran a batch.",
        |load| load.steps,
    ),
    (
        "ternion.computed_tokens",
        "{token}",
        "Tokens run through the model, those computed again included.",
        |load| load.computed_tokens,
    ),
    (
        "ternion.preemptions",
        "{preemption}",
        "Times that a request gave up its pages to others.",
        |load| load.preemptions,
    ),
    (
        "ternion.guesses",
        "{token}",
        "Guesses at next tokens that were computed along.",
        |load| load.guesses,
    ),
    (
        "ternion.guesses.true",
        "{token}",
        "Guesses at next tokens that came true.",
        |load| load.true_guesses,
    ),
    (
        "ternion.reruns",
        "{batch}",
        "Parts of batches that failed, which were run again.",
        |load| load.reruns,
    ),
    (
        "ternion.prefix_cache.prompt_tokens",
        "{token}",
        "Tokens of prompts that were begun, and so looked up in the prefix cache.",
        |load| load.prefix_cache.prompt_tokens,
    ),
    (
        "ternion.prefix_cache.cached_tokens",
        "{token}",
        "Those of them that were there, and not computed.",
        |load| load.prefix_cache.cached_tokens,
    ),
    (
        "ternion.prefix_cache.hits",
        "{request}",
        "Requests that found some of their prompt in the prefix cache.",
        |load| load.prefix_cache.hits,
    ),
    (
        "ternion.prefix_cache.resumed_tokens",
        "{token}",
        "Tokens that preempted requests found in the prefix cache, and did not compute again.",
        |load| load.prefix_cache.resumed_tokens,
    ),
    (
        "ternion.prefix_cache.evictions",
        "{page}",
        "Pages that the prefix cache gave up to requests.",
        |load| load.prefix_cache.evictions,
    ),
];

/// Observes the engine's load.
pub(crate) fn observe_load(meter: &Meter, engine: &EngineHandle, model: &str) {
    let labels = [KeyValue::new(semconv::MODEL, model.to_owned())];
    for (name, unit, description, value) in LOAD_GAUGES {
        let (engine, labels) = (engine.clone(), labels.clone());
        meter
            .u64_observable_gauge(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| observer.observe(value(&engine.load()), &labels))
            .build();
    }
    for (name, unit, description, value) in LOAD_COUNTERS {
        let (engine, labels) = (engine.clone(), labels.clone());
        meter
            .u64_observable_counter(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| observer.observe(value(&engine.load()), &labels))
            .build();
    }
    let (waits, model) = (engine.clone(), labels.clone());
    meter
        .f64_observable_gauge("ternion.queue.wait")
        .with_unit("s")
        .with_description("How long the last of those that wait can be expected to.")
        .with_callback(move |observer| {
            let load = waits.load();
            observer.observe(load.expected_wait().as_secs_f64(), &model);
        })
        .build();
    let (longest, longest_labels) = (engine.clone(), labels.clone());
    meter
        .f64_observable_gauge("ternion.step.longest")
        .with_unit("s")
        .with_description("The longest step of the engine since the start.")
        .with_callback(move |observer| {
            let longest = longest.load().longest_step.as_secs_f64();
            observer.observe(longest, &longest_labels);
        })
        .build();
    let engine = engine.clone();
    meter
        .f64_observable_gauge("ternion.kv.usage")
        .with_unit("1")
        .with_description("Share of the KV cache's pages in use.")
        .with_callback(move |observer| {
            let load = engine.load();
            let used = load.kv_pages - load.kv_pages_free;
            observer.observe(used as f64 / load.kv_pages.max(1) as f64, &labels);
        })
        .build();
}

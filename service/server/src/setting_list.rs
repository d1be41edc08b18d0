//! Every setting of the server, as data: the configuration file, environment,
//! flags, `--help` and `ternion-server config` all read this list.

use ternion_compute::{HeadChoice, KvPrecision};

use crate::{
    energy::POWERCAP,
    preset::Preset,
    processors::{Numa, Pinning},
    setting_kind::Kind,
};

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Where it stands in a configuration file; a dot is a table.
    pub(crate) key: &'static str,
    /// Flag of the command line, without the dashes.
    pub(crate) flag: &'static str,
    pub(crate) kind: Kind,
    /// As one would write it in the environment. `None`: unset.
    pub(crate) default: Option<&'static str>,
    pub(crate) help: &'static str,
}

impl Setting {
    /// `kv.block_size` is `TERNION_KV__BLOCK_SIZE`: with one underscore
    /// between tables, `kv.block_size` and `kv_block.size` would be one name.
    pub(crate) fn variable(&self) -> String {
        variable(self.key)
    }
}

/// Name of the environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("TERNION_{}", key.replace('.', "__").to_uppercase())
}

const GIB: u64 = 1 << 30;

pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        flag: "listen",
        kind: Kind::Address,
        // Whoever starts the server without thinking serves nobody else.
        default: Some("127.0.0.1:50051"),
        help: "Address to serve on; port 0 takes a free one",
    },
    Setting {
        key: "model",
        flag: "model",
        kind: Kind::Path,
        default: None,
        help: "Model to serve: a Hugging Face directory or a GGUF file. Unset: the embedded demo",
    },
    Setting {
        key: "model_name",
        flag: "model-name",
        kind: Kind::Name,
        default: None,
        help: "Name to serve it under. Unset: the model's own",
    },
    Setting {
        key: "plugin_dirs",
        flag: "plugin-dir",
        kind: Kind::Directories,
        default: None,
        help: "Directories of kernel plugins, absolute, searched instead of those beside the \
               server (flag: repeatable; environment: separated by ':')",
    },
    Setting {
        key: "plugin_sha256",
        flag: "plugin-sha256",
        kind: Kind::Digests,
        default: None,
        help: "SHA-256 of the plugin files that may be loaded; others are refused \
               (flag: repeatable; environment: separated by ','). Unset: no such rule",
    },
    Setting {
        key: "plugin_timeout",
        flag: "plugin-timeout",
        kind: Kind::Age { max_seconds: 3600 },
        // A trial takes some tens of milliseconds, under emulation seconds.
        default: Some("20s"),
        help: "How long a plugin's trial in a process of its own may take before it is refused",
    },
    Setting {
        key: "kernel",
        flag: "kernel",
        kind: Kind::Name,
        default: None,
        help: "Kernel plugin to use, by name. Unset: the fastest that works",
    },
    Setting {
        key: "kernel_timing_budget",
        flag: "kernel-timing-budget",
        kind: Kind::Duration { max_seconds: 3600 },
        default: Some("300ms"),
        help: "How long the kernels that work may be timed at startup, all together, to choose \
               the fastest; 0 chooses by what they say of themselves",
    },
    Setting {
        key: "cache_dir",
        flag: "cache-dir",
        kind: Kind::DirectoryOrOff,
        default: None,
        help: "Directory for what a start computes and the next one can use again; off for none. \
               Unset: ternion in the user's cache directory (XDG_CACHE_HOME, ~/.cache)",
    },
    Setting {
        key: "packed_cache_bytes",
        flag: "packed-cache",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 50,
        },
        // Dozens of 2B models, some of the largest.
        default: Some("16GiB"),
        help: "Most bytes of packed weights in cache_dir, of all models and kernels: those used \
               longest ago are removed for new ones. 0 keeps none",
    },
    Setting {
        key: "head",
        flag: "head",
        kind: Kind::Choice(&HeadChoice::NAMES),
        default: Some("auto"),
        help: "Output head: f16 computes it as the model has it; screened gives the same answers \
               from fewer bytes; auto is the faster of the two; int8 rounds it, and answers \
               differently",
    },
    Setting {
        key: "preset",
        flag: "preset",
        kind: Kind::Choice(&Preset::NAMES),
        default: None,
        help: "Where this server runs: mobile, edge, server or cloud. Bounds threads, memory_limit \
               and context_limit and sets the scheduler's batch, but for what is set explicitly; \
               bench --advise explains them",
    },
    Setting {
        key: "threads",
        flag: "threads",
        kind: Kind::Count { min: 1, max: 1024 },
        default: None,
        help: "Compute threads. Unset: the processors this process may use, by affinity and cgroup \
               quota, and the same number on each memory node",
    },
    Setting {
        key: "pin_threads",
        flag: "pin-threads",
        kind: Kind::Choice(&Pinning::NAMES),
        default: Some("auto"),
        help: "Whether each compute thread stays on a processor of its own: auto does so where \
               this process was given some of the machine's processors, without a quota for less, \
               and has a thread for each; always, or never",
    },
    Setting {
        key: "numa",
        flag: "numa",
        kind: Kind::Choice(&Numa::NAMES),
        default: Some("auto"),
        help: "Where a machine has several memory nodes: auto keeps threads that fit one there, \
               and otherwise spreads memory over all; never leaves both to the system",
    },
    Setting {
        key: "memory_limit",
        flag: "memory-limit",
        kind: Kind::Bytes {
            min: 1,
            max: 1 << 50,
        },
        default: None,
        help: "Memory to plan with, such as 4GiB, for the KV cache's default size and its check. \
               Unset: the machine's, or its cgroup's limit",
    },
    Setting {
        key: "context_limit",
        flag: "context-limit",
        kind: Kind::Count {
            min: 2,
            max: 1 << 24,
        },
        default: None,
        help: "Most tokens of a request, prompt and output together, \
               at most the model's context. Unset: that",
    },
    Setting {
        key: "drain_timeout",
        flag: "drain-timeout",
        kind: Kind::Duration { max_seconds: 86400 },
        // Kubernetes kills after 30 s unless told otherwise; the rest is for
        // the answers of those requests that did not get through.
        default: Some("25s"),
        help: "How long running requests may go on after SIGTERM",
    },
    Setting {
        key: "drain_delay",
        flag: "drain-delay",
        kind: Kind::Duration { max_seconds: 3600 },
        // Who balances over nothing has nothing to wait for.
        default: Some("0s"),
        help: "How long new requests are still served after SIGTERM, while health says \
               NOT_SERVING already, so that balancers notice before requests are refused",
    },
    Setting {
        key: "tenants",
        flag: "tenants",
        kind: Kind::Path,
        default: None,
        help: "File of tenants (TOML): their keys, certificates, roles and limits; read again when \
               it changes. Set: every call needs a credential",
    },
    Setting {
        key: "anonymous",
        flag: "anonymous",
        kind: Kind::Choice(&["loopback", "anywhere"]),
        default: Some("loopback"),
        help: "Who may call without a credential while no tenants are configured: loopback, \
               and then the server listens nowhere else, or anywhere",
    },
    Setting {
        key: "reflection",
        flag: "reflection",
        kind: Kind::Switch,
        default: Some("on"),
        help: "Whether anyone may ask for the list of services and messages, as grpcurl does: \
               on or off",
    },
    Setting {
        key: "tls.certificate",
        flag: "tls-certificate",
        kind: Kind::Path,
        default: None,
        help: "Certificate to serve TLS with, and its chain (PEM); read again when it changes. \
               Unset: no TLS",
    },
    Setting {
        key: "tls.key",
        flag: "tls-key",
        kind: Kind::Path,
        default: None,
        help: "Private key of tls.certificate (PEM)",
    },
    Setting {
        key: "tls.client_ca",
        flag: "tls-client-ca",
        kind: Kind::Path,
        default: None,
        help: "Authorities whose client certificates are accepted (PEM). Unset: none is asked for",
    },
    Setting {
        key: "tls.client_auth",
        flag: "tls-client-auth",
        kind: Kind::Choice(&["required", "optional"]),
        default: Some("required"),
        help: "With tls.client_ca: whether a client certificate is required or optional",
    },
    Setting {
        key: "kv.block_size",
        flag: "kv-block-size",
        kind: Kind::Count { min: 1, max: 1024 },
        default: Some("16"),
        help: "Tokens of a page of the KV cache",
    },
    Setting {
        key: "kv.pages",
        flag: "kv-pages",
        kind: Kind::Count {
            min: 1,
            max: 1 << 31,
        },
        default: None,
        help: "Pages of the KV cache",
    },
    Setting {
        key: "kv.type",
        flag: "kv",
        kind: Kind::Choice(KvPrecision::NAMES),
        default: None,
        help: "What keys and values are kept as: f32, f16, or int8 with a scale for each head and \
               token. Unset: as where the model's reference answers come from, f16 for GGUF and \
               f32 for Hugging Face directories",
    },
    Setting {
        key: "kv.memory_bytes",
        flag: "kv-memory",
        kind: Kind::Bytes {
            min: 1,
            max: 1 << 50,
        },
        default: None,
        help: "Memory of the KV cache instead of pages, such as 2GiB. Both unset: what \
               scheduler.max_num_seqs full contexts take, but at most a quarter of the memory \
               this process may use, and three quarters of what of it is left beside weights, \
               output head and buffers",
    },
    Setting {
        key: "kv.prefix_cache",
        flag: "prefix-cache",
        kind: Kind::Switch,
        default: Some("on"),
        help: "Whether requests use what is computed of prompts that begin the same way: those of \
               one tenant, and of a cache_group of tenants: on or off",
    },
    Setting {
        key: "kv.public_prompts",
        flag: "public-prompts",
        kind: Kind::Path,
        default: None,
        help: "File of prompts that are nobody's secret: what is computed of them is used for all \
               tenants. One JSON object a line, {\"system\": \"...\"} or {\"text\": \"...\"}",
    },
    Setting {
        key: "scheduler.max_num_seqs",
        flag: "max-num-seqs",
        kind: Kind::Count { min: 1, max: 4096 },
        default: Some("16"),
        help: "Most requests in one step",
    },
    Setting {
        key: "scheduler.max_num_batched_tokens",
        flag: "max-num-batched-tokens",
        kind: Kind::Count {
            min: 1,
            max: 1 << 20,
        },
        // A step of 256 tokens takes a few hundred ms on two cores with a 2B
        // model: the longest that a new request waits for it.
        default: Some("256"),
        help: "Most tokens in one step",
    },
    Setting {
        key: "scheduler.step_budget",
        flag: "step-budget",
        kind: Kind::Duration { max_seconds: 3600 },
        default: None,
        help: "How long a step should take that computes prompts beside running streams, such as \
               100ms: they get what the streams leave of it, and a quarter of the streams' time at \
               least; more makes prompts faster and streams less even. Unset: twice what the \
               streams take alone",
    },
    Setting {
        key: "scheduler.max_draft_tokens",
        flag: "max-draft-tokens",
        kind: Kind::Count { min: 0, max: 63 },
        default: Some("15"),
        help: "Most tokens guessed ahead of a request where text repeats itself and that pays; 0 for none",
    },
    Setting {
        key: "scheduler.max_queued",
        flag: "max-queued",
        kind: Kind::Count {
            min: 0,
            max: 1 << 20,
        },
        default: Some("256"),
        help: "Most requests waiting beyond scheduler.max_num_seqs; further ones are refused",
    },
    Setting {
        key: "scheduler.max_queued_tokens",
        flag: "max-queued-tokens",
        kind: Kind::Count {
            min: 1,
            max: 1 << 40,
        },
        // Minutes of work for a 2B model on few cores.
        default: Some("65536"),
        help: "Most tokens of the prompts of waiting requests, all together; further ones are \
               refused. A single one may be longer",
    },
    Setting {
        key: "outbox.capacity",
        flag: "outbox-capacity",
        kind: Kind::Count {
            min: 1,
            max: 1 << 16,
        },
        default: Some("64"),
        help: "Tokens kept for a slow reader before its request is parked",
    },
    Setting {
        key: "outbox.read_timeout",
        flag: "read-timeout",
        kind: Kind::Duration { max_seconds: 86400 },
        // Somebody who reads in a pager may read on after a while.
        default: Some("300s"),
        help: "How long a reader may take nothing that waits for it before its request fails; \
               0 for ever",
    },
    Setting {
        key: "resume.grace",
        flag: "resume-grace",
        kind: Kind::Duration { max_seconds: 86400 },
        default: Some("30s"),
        help: "How long a resumable request waits for its client after its stream broke, and how \
               long what it said is kept after its end",
    },
    Setting {
        key: "resume.detached",
        flag: "resume-detached",
        kind: Kind::Choice(&["park", "run"]),
        // No work without a reader, as with everybody else.
        default: Some("park"),
        help: "What a resumable request does meanwhile: park once its outbox is full, or run on",
    },
    Setting {
        key: "resume.request_bytes",
        flag: "resume-request-bytes",
        kind: Kind::Bytes { min: 0, max: GIB },
        // Some six thousand tokens, if each came in a frame of its own.
        default: Some("1MiB"),
        help: "Most bytes kept of what a resumable request said; the oldest are forgotten",
    },
    Setting {
        key: "resume.finished_bytes",
        flag: "resume-finished-bytes",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 40,
        },
        default: Some("64MiB"),
        help: "Most bytes kept of all resumable requests that have ended; the oldest are forgotten",
    },
    Setting {
        key: "limits.max_message_bytes",
        flag: "max-message-bytes",
        kind: Kind::Bytes {
            min: 1024,
            max: GIB,
        },
        default: Some("4MiB"),
        help: "Largest message a client may send",
    },
    Setting {
        key: "limits.max_samples",
        flag: "max-samples",
        kind: Kind::Count { min: 1, max: 128 },
        default: Some("16"),
        help: "Most samples of one request (its n)",
    },
    Setting {
        key: "limits.max_concurrent_streams",
        flag: "max-concurrent-streams",
        kind: Kind::Count {
            min: 1,
            max: 1 << 20,
        },
        default: Some("256"),
        help: "Most calls at once on one connection",
    },
    Setting {
        key: "limits.max_connections",
        flag: "max-connections",
        kind: Kind::Count {
            min: 1,
            max: 1 << 20,
        },
        default: None,
        help: "Most connections at once; further ones wait to be accepted. Unset: no limit",
    },
    Setting {
        key: "limits.max_connection_age",
        flag: "max-connection-age",
        kind: Kind::Age { max_seconds: 86400 },
        default: None,
        help: "After this time, give or take a tenth, a connection is told to go (GOAWAY), so that \
               its client connects again and balancers spread anew; what runs on it goes on. \
               Unset: never",
    },
    Setting {
        key: "operations.listen",
        flag: "operations-listen",
        kind: Kind::AddressOrOff,
        // Where Prometheus looks for exporters of OpenTelemetry.
        default: Some("127.0.0.1:9464"),
        help: "Address for the platform, plain text: /metrics, /livez, /readyz and gRPC health; \
               port 0 takes a free one, off turns it off",
    },
    Setting {
        key: "operations.stall_timeout",
        flag: "stall-timeout",
        kind: Kind::Duration { max_seconds: 86400 },
        // A step takes seconds at the very most, on any machine that serves.
        default: Some("60s"),
        help: "How long one step of the engine may take before the server calls itself not live; \
               at least 1s",
    },
    Setting {
        key: "telemetry.otlp_endpoint",
        flag: "otlp-endpoint",
        kind: Kind::HttpEndpoint,
        default: None,
        help: "OTLP/gRPC collector to send traces and metrics to, such as http://127.0.0.1:4317 \
               (plain http only). Unset: none",
    },
    Setting {
        key: "telemetry.otlp_metrics_interval",
        flag: "otlp-metrics-interval",
        kind: Kind::Duration { max_seconds: 86400 },
        // OpenTelemetry's own default.
        default: Some("60s"),
        help: "How often metrics are sent to the collector; 0 means the default",
    },
    Setting {
        key: "telemetry.vllm_metric_names",
        flag: "vllm-metric-names",
        kind: Kind::Switch,
        default: Some("off"),
        help: "Whether /metrics also has the names that vLLM gives to these metrics, for \
               endpoint pickers, autoscalers and dashboards that know no others",
    },
    Setting {
        key: "telemetry.powercap_dir",
        flag: "powercap-dir",
        kind: Kind::DirectoryOrOff,
        default: Some(POWERCAP),
        help: "Directory of the machine's counters of energy (RAPL), or where it is mounted; off \
               for none. Without counters that may be read there is no such metric",
    },
    Setting {
        key: "telemetry.service_name",
        flag: "service-name",
        kind: Kind::Name,
        default: Some("ternion"),
        help: "service.name in traces and metrics",
    },
    Setting {
        key: "telemetry.log_format",
        flag: "log-format",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("text"),
        help: "Form of the log on standard error",
    },
    Setting {
        key: "telemetry.log_filter",
        flag: "log-filter",
        kind: Kind::LogFilter,
        default: Some("info"),
        help: "What is logged: a level, or directives such as ternion_server=debug",
    },
];

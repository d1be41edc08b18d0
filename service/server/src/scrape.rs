//! The metrics as Prometheus reads them.

use prometheus::{Encoder, Registry, TextEncoder, proto::MetricFamily};

/// Metrics that have a name in vLLM, with the same meaning and unit. Its names
/// are what endpoint pickers, autoscalers and dashboards ask for.
const VLLM_NAMES: [(&str, &str); 13] = [
    ("ternion_requests_running", "vllm:num_requests_running"),
    ("ternion_requests_waiting", "vllm:num_requests_waiting"),
    ("ternion_kv_usage_ratio", "vllm:kv_cache_usage_perc"),
    ("ternion_preemptions_total", "vllm:num_preemptions_total"),
    (
        "ternion_prefix_cache_prompt_tokens_total",
        "vllm:prefix_cache_queries_total",
    ),
    (
        "ternion_prefix_cache_cached_tokens_total",
        "vllm:prefix_cache_hits_total",
    ),
    ("ternion_input_tokens_total", "vllm:prompt_tokens_total"),
    (
        "ternion_output_tokens_total",
        "vllm:generation_tokens_total",
    ),
    (
        "ternion_time_to_first_token_seconds",
        "vllm:time_to_first_token_seconds",
    ),
    (
        "ternion_inter_token_time_seconds",
        "vllm:inter_token_latency_seconds",
    ),
    (
        "ternion_request_queue_time_seconds",
        "vllm:request_queue_time_seconds",
    ),
    (
        "ternion_request_prefill_time_seconds",
        "vllm:request_prefill_time_seconds",
    ),
    (
        "ternion_request_decode_time_seconds",
        "vllm:request_decode_time_seconds",
    ),
];

/// What the model's name is called there.
const VLLM_MODEL_LABEL: &str = "model_name";

pub(crate) struct Scrape {
    pub(crate) registry: Registry,
    /// Whether the names of vLLM are there as well.
    pub(crate) vllm_names: bool,
}

impl Scrape {
    pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

    pub(crate) fn text(&self) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        if self.vllm_names {
            let aliases: Vec<MetricFamily> = families.iter().filter_map(alias).collect();
            families.extend(aliases);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        // Names and labels were texts before.
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn alias(family: &MetricFamily) -> Option<MetricFamily> {
    let (_, name) = VLLM_NAMES.iter().find(|(ours, _)| *ours == family.name())?;
    let mut alias = family.clone();
    alias.set_name((*name).to_owned());
    for metric in alias.mut_metric() {
        for label in metric.mut_label() {
            if label.name() == crate::semconv::MODEL {
                label.set_name(VLLM_MODEL_LABEL.to_owned());
            }
        }
    }
    Some(alias)
}

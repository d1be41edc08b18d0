//! Logs to standard error; traces and metrics to an OTLP collector; metrics to
//! whoever scrapes them.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider},
    trace::TracerProvider,
};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::SdkTracerProvider,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::Targets,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    json_log::JsonLog,
    scrape::Scrape,
    settings::{LogFormat, TelemetrySettings},
};

/// Libraries under us, quiet unless asked for by name. Not only noise: what
/// the exporter's own connection logs would be exported, which logs again.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,\
                     opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn";

/// How long the last spans and metrics may take to get out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The instrumentation scope of all that we make.
pub(crate) const SCOPE: &str = "ternion-server";

/// The running exporters. Without a collector there are traces all the same,
/// which nobody is sent: the log tells their ids.
pub(crate) struct Telemetry {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    pub(crate) scrape: Arc<Scrape>,
}

/// Starts logging, tracing and measuring. Must be called on the tokio runtime,
/// which the exporters' connections live on.
pub(crate) fn start(settings: &TelemetrySettings) -> anyhow::Result<Telemetry> {
    let resource = Resource::builder()
        .with_service_name(settings.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let tracers = tracers(settings, resource.clone())?;
    let registry = prometheus::Registry::new();
    let meters = meters(settings, resource, &registry)?;
    opentelemetry::global::set_tracer_provider(tracers.clone());
    // Only our own request spans are exported, whatever is logged.
    let traces = tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer(SCOPE))
        .with_filter(Targets::new().with_target("ternion_server", LevelFilter::INFO));
    Registry::default()
        .with(traces)
        .with(log_layer(settings)?)
        .try_init()
        .context("a log is already set up")?;
    Ok(Telemetry {
        tracers,
        meters,
        scrape: Arc::new(Scrape {
            registry,
            vllm_names: settings.vllm_metric_names,
        }),
    })
}

fn log_layer<S>(settings: &TelemetrySettings) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    // Of two directives for one target the later counts: the operator's.
    let filter = format!("{QUIET},{}", settings.log_filter);
    let filter = EnvFilter::builder().parse(filter)?;
    let layer = fmt::layer().with_writer(std::io::stderr);
    Ok(match settings.log_format {
        LogFormat::Text => layer
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(JsonLog::new())
            .with_filter(filter)
            .boxed(),
    })
}

fn tracers(settings: &TelemetrySettings, resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    let provider = SdkTracerProvider::builder().with_resource(resource);
    let Some(endpoint) = &settings.otlp_endpoint else {
        return Ok(provider.build());
    };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("can't export traces to {endpoint}"))?;
    Ok(provider.with_batch_exporter(exporter).build())
}

/// One provider with two readers: whoever scrapes, and the collector.
fn meters(
    settings: &TelemetrySettings,
    resource: Resource,
    registry: &prometheus::Registry,
) -> anyhow::Result<SdkMeterProvider> {
    let scraped = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        // There is one scope, and its labels on every series tell nothing.
        .scope_info_enabled(false)
        .build()
        .context("can't set up the metrics")?;
    let provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(scraped);
    let Some(endpoint) = &settings.otlp_endpoint else {
        return Ok(provider.build());
    };
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("can't export metrics to {endpoint}"))?;
    let pushed = PeriodicReader::builder(exporter)
        .with_interval(settings.otlp_metrics_interval)
        .build();
    Ok(provider.with_reader(pushed).build())
}

impl Telemetry {
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter(SCOPE)
    }

    /// Sends what is left. Blocks, so that the process must not end before it
    /// returns: the last batch would be lost.
    pub(crate) fn stop(self) {
        let Telemetry {
            tracers, meters, ..
        } = &self;
        // Both at once, since an orchestrator's patience has an end.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = tracers.shutdown_with_timeout(FLUSH_TIMEOUT) {
                    tracing::warn!(%error, "the last traces may be lost");
                }
            });
            if let Err(error) = meters.shutdown_with_timeout(FLUSH_TIMEOUT) {
                tracing::warn!(%error, "the last metrics may be lost");
            }
        });
    }
}

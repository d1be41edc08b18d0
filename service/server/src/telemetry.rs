//! Logs to standard error and traces to an OTLP collector.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::settings::{LogFormat, TelemetrySettings};

/// Libraries under us, quiet unless asked for by name. Not only noise: what
/// the exporter's own connection logs would be exported, which logs again.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn,\
                     opentelemetry=warn,opentelemetry_sdk=warn,opentelemetry-otlp=warn";

/// How long the last spans may take to get out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The running exporter, if there is one.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts logging and, where an endpoint is configured, tracing. Must be
/// called on the tokio runtime, which the exporter's connection lives on.
pub(crate) fn start(settings: &TelemetrySettings) -> anyhow::Result<Telemetry> {
    let provider = settings
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| provider(endpoint, &settings.service_name))
        .transpose()?;
    // Only our own request spans are exported, whatever is logged.
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("ternion-server"))
            .with_filter(Targets::new().with_target("ternion_server", LevelFilter::INFO))
    });
    Registry::default()
        .with(traces)
        .with(log_layer(settings)?)
        .try_init()
        .context("a log is already set up")?;
    Ok(Telemetry { provider })
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
        LogFormat::Json => layer.json().with_filter(filter).boxed(),
    })
}

fn provider(endpoint: &str, service_name: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("can't export traces to {endpoint}"))?;
    let resource = Resource::builder()
        .with_service_name(service_name.to_owned())
        .with_attribute(opentelemetry::KeyValue::new(
            "service.version",
            env!("CARGO_PKG_VERSION"),
        ))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// Sends what is left. Blocks, so that the process must not end before it
    /// returns: the last batch would be lost.
    pub(crate) fn stop(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

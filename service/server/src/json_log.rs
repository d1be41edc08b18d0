//! Log lines as JSON, with the ids by which they are found.

use std::fmt;

use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::{Event, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
    },
    registry::LookupSpan,
};

/// The field of a request's span that is told beside its trace.
const REQUEST_ID: &str = "request_id";

/// The usual JSON line. Within a request it begins with the `trace_id` and
/// `span_id` of that request's span and its `request_id`, where log pipelines
/// look for them.
pub(crate) struct JsonLog(Format<Json>);

impl JsonLog {
    pub(crate) fn new() -> JsonLog {
        JsonLog(Format::default().json())
    }
}

impl<S, N> FormatEvent<S, N> for JsonLog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let trace = Span::current().context();
        let trace = trace.span().span_context().clone();
        if !trace.is_valid() {
            return writer.write_str(&line);
        }
        let Ok(Value::Object(rest)) = serde_json::from_str(&line) else {
            return writer.write_str(&line);
        };
        let mut with_ids = Map::new();
        with_ids.insert("trace_id".to_owned(), trace.trace_id().to_string().into());
        with_ids.insert("span_id".to_owned(), trace.span_id().to_string().into());
        if let Some(id) = rest.get("span").and_then(|span| span.get(REQUEST_ID)) {
            with_ids.insert(REQUEST_ID.to_owned(), id.clone());
        }
        with_ids.extend(rest);
        writeln!(writer, "{}", Value::Object(with_ids))
    }
}

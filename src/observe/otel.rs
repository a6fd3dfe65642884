//! Traces in the OpenTelemetry protocol, over HTTP, for builds with cargo feature `otel`.
//!
//! One span per SMTP session, per tunnel session and per attempt to deliver; the events of the log that happen inside are
//! in them, with their fields, so that a search for an item's id finds the session that brought it and the one that
//! fetched it. Fields are those of the log: addresses are masked, and there is no body and no key in them.
//!
//! Policy: mail never waits for a collector. Spans wait in a bounded queue for a thread of their own; what does not fit
//! in is lost. A collector that does not answer is said once in the log, and once when it does again.
//!
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_EXPORTER_OTLP_HEADERS` count as everywhere.

mod client;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::log::LogError;
use super::traces::{TraceSettings, target};
use client::Collector;

/// Longest time one request to the collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the service where the environment names none.
const SERVICE: &str = "waystation";

/// Spans that were not sent yet. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends what waits, within `limit`; what comes after is lost.
    pub(super) fn flush(&self, limit: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(limit) {
            tracing::warn!(event = "relay.traces.lost", %error, "the last traces were not sent: {error}");
        }
    }
}

/// The layer that makes spans, and what is left to flush at the end.
///
/// # Errors
/// [`LogError::Traces`].
pub(super) fn layer<S>(settings: &TraceSettings) -> Result<(impl Layer<S>, Traces), LogError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let wrong = |problem: String| LogError::Traces { endpoint: settings.endpoint.clone(), problem };
    let endpoint = target(&settings.endpoint).map_err(|problem| wrong(problem.to_owned()))?;
    let collector = Collector::new(EXPORT_TIMEOUT).map_err(|error| wrong(error.to_string()))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(collector)
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let share = settings.sample_percent.min(100) as f64 / 100.0;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
        .with_resource(resource(settings))
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(FilterFn::new(is_ours));
    Ok((layer, Traces(provider)))
}

/// Our spans, and the events that operators are told.
fn is_ours(meta: &Metadata<'_>) -> bool {
    meta.target().starts_with(env!("CARGO_PKG_NAME")) && (meta.is_span() || *meta.level() <= Level::INFO)
}

fn resource(settings: &TraceSettings) -> Resource {
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(SERVICE);
    }
    resource
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("host.name", settings.hostname.clone()))
        .build()
}

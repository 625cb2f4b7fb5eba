//! Traces for a collector, by OTLP over gRPC. What makes spans: the gate (a call) and the node ([`berth_node::TRACE`]).

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{Layer, Registry};

/// What is not told by then is lost.
const END: Duration = Duration::from_secs(2);

/// Spans on their way to the collector.
pub struct Traces {
    provider: SdkTracerProvider,
    /// Its own: the log begins before the agent's runtime and ends behind it.
    runtime: tokio::runtime::Runtime,
}

impl Traces {
    /// Nothing is connected before there is a span.
    ///
    /// # Errors
    /// When the endpoint is none, or there can be no thread.
    pub fn open(endpoint: &str) -> Result<Traces, String> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("otel").enable_all().build();
        let runtime = runtime.map_err(|e| format!("a thread for traces: {e}"))?;
        let within = runtime.enter();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.map_err(|e| format!("otel.endpoint: {e}"))?;
        let resource = Resource::builder()
            .with_service_name("berthd")
            .with_attribute(KeyValue::new("service.version", crate::version::version()))
            .with_attribute(KeyValue::new("host.name", berth_sys::store::uname().hostname))
            .build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
        drop(within);
        Ok(Traces { provider, runtime })
    }

    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        layer(&self.provider)
    }

    /// Hands over what is there, within two seconds.
    pub fn end(self) {
        if let Err(e) = self.provider.shutdown_with_timeout(END) {
            tracing::warn!("traces were lost: {e}");
        }
        self.runtime.shutdown_background();
    }
}

fn layer(provider: &SdkTracerProvider) -> Box<dyn Layer<Registry> + Send + Sync> {
    // No others: the exporter's own calls would make spans for ever.
    let ours = Targets::new().with_target(berth_node::TRACE, LevelFilter::DEBUG);
    tracing_opentelemetry::layer().with_tracer(provider.tracer("berthd")).with_filter(ours).boxed()
}

/// The span of a call, below the caller's.
pub fn continue_from(span: &Span, caller: &berth::trace::TraceParent) {
    let flags = if caller.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, parent) = (TraceId::from_bytes(caller.trace), SpanId::from_bytes(caller.span));
    let remote = SpanContext::new(trace, parent, flags, true, TraceState::default());
    // Err: nobody wants spans.
    let _ = span.set_parent(Context::new().with_remote_span_context(remote));
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};
    use std::sync::{Arc, Mutex};
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn spans_of_a_call_are_in_the_callers_trace() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let subscriber = tracing_subscriber::registry().with(layer(&provider));
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let call = crate::gate::span("/berth.v1.Containers/Start", Some(&caller));
            let work = async {
                tracing::debug_span!(target: berth_node::TRACE, "mount").in_scope(|| tracing::info!("not a span"));
                tracing::debug_span!("another's").in_scope(|| ());
            };
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work.instrument(call.clone()));
            call.record("code", "OK");
        });
        let spans = kept.0.lock().unwrap();
        let by_name = |name: &str| spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}: {spans:?}"));
        let (call, mount) = (by_name("/berth.v1.Containers/Start"), by_name("mount"));
        assert_eq!(spans.len(), 2, "{spans:?}");
        assert_eq!(call.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(call.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(mount.span_context.trace_id(), call.span_context.trace_id());
        assert_eq!(mount.parent_span_id, call.span_context.span_id());
        assert!(call.attributes.iter().any(|a| a.key.as_str() == "code" && a.value.as_str() == "OK"), "{call:?}");
    }
}

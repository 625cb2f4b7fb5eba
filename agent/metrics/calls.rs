//! Calls by method and code. The methods are those that have a rule: what callers invent makes no new series.

use super::page::Page;
use crate::auth::{self, RULES};
use crate::status;
use berth_node::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::Code;

/// Codes of gRPC, 0 to 16.
const CODES: usize = 17;

const BOUNDS: [Duration; 7] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2500),
    Duration::from_secs(30),
];

/// 12 KiB; made where figures are wanted.
pub struct Calls {
    methods: Vec<Method>,
    /// Of methods that there are not.
    unknown: AtomicU64,
    under_way: AtomicU64,
}

struct Method {
    codes: [AtomicU64; CODES],
    took: Histogram,
}

impl Default for Calls {
    fn default() -> Self {
        let method = || Method { codes: Default::default(), took: Histogram::new(&BOUNDS) };
        Calls {
            methods: RULES.iter().map(|_| method()).collect(),
            unknown: AtomicU64::default(),
            under_way: AtomicU64::default(),
        }
    }
}

impl Calls {
    pub fn begun(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Once for each that has begun.
    pub fn ended(&self, path: &str, code: Code, took: Duration) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let Some(method) = auth::index(path).and_then(|index| self.methods.get(index)) else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Some(count) = method.codes.get(code as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        method.took.add(took);
    }

    pub fn write(&self, page: &mut Page) {
        let under_way = self.under_way.load(Ordering::Relaxed);
        page.gauge("berth_grpc_calls_in_flight", "Calls under way, streams counted.").one(under_way);
        let named = || {
            RULES.iter().zip(&self.methods).filter_map(|(rule, method)| {
                let (service, name) = rule.path.trim_start_matches('/').split_once('/')?;
                Some((service, name, method))
            })
        };
        let mut handled = page.counter("grpc_server_handled", "Calls that ended, by method and code.");
        for (service, name, method) in named() {
            for (code, count) in method.codes.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let code = status::code_name(Code::from_i32(i32::try_from(code).unwrap_or_default()));
                    handled.with(&[("grpc_service", service), ("grpc_method", name), ("grpc_code", code)], count);
                }
            }
        }
        let unknown = self.unknown.load(Ordering::Relaxed);
        handled
            .with(&[("grpc_service", "unknown"), ("grpc_method", "unknown"), ("grpc_code", "UNIMPLEMENTED")], unknown);
        let mut took = page.histogram("grpc_server_handling_seconds", "How long calls took, streams to their end.");
        for (service, name, method) in named() {
            let d = method.took.read();
            if d.count > 0 {
                took.distribution(&[("grpc_service", service), ("grpc_method", name)], &d);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::Format;
    use super::*;

    #[test]
    fn only_methods_that_there_are_make_series() {
        let calls = Calls::default();
        for (path, code) in [
            ("/berth.v1.Node/Info", Code::Ok),
            ("/berth.v1.Node/Info", Code::Ok),
            ("/berth.v1.Node/Info", Code::Unauthenticated),
            ("/berth.v1.Node/Made\"Up", Code::Unimplemented),
        ] {
            calls.begun();
            calls.ended(path, code, Duration::from_millis(2));
        }
        calls.begun();
        let mut page = Page::new(Format::Text);
        calls.write(&mut page);
        let text = page.finish();
        let info = "{grpc_service=\"berth.v1.Node\",grpc_method=\"Info\"";
        for line in [
            &format!("grpc_server_handled_total{info},grpc_code=\"OK\"}} 2"),
            &format!("grpc_server_handled_total{info},grpc_code=\"UNAUTHENTICATED\"}} 1"),
            &format!("grpc_server_handling_seconds_bucket{info},le=\"0.001\"}} 0"),
            &format!("grpc_server_handling_seconds_bucket{info},le=\"0.005\"}} 3"),
            "grpc_server_handled_total{grpc_service=\"unknown\",grpc_method=\"unknown\",grpc_code=\"UNIMPLEMENTED\"} 1",
            "berth_grpc_calls_in_flight 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("Made") && !text.contains("Inspect"), "{text}");
    }
}

//! What Prometheus reads: the text format 0.0.4, and OpenMetrics 1.0 for those who prefer it.
//!
//! Sources: "Exposition formats" of Prometheus' documentation; the OpenMetrics specification 1.0.0. The two differ in how counters are
//! named in the head of a family, and in the last line.

use berth_node::Distribution;
use std::fmt::Write as _;

/// Longer values of labels are cut: a name of an image may be as long as its maker likes.
const LABEL_BYTES: usize = 200;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    /// What the reader likes best, by its `Accept` header (RFC 9110, section 12.5.1). The text where nothing is said.
    pub fn accepted(accept: &str) -> Format {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, "1.0.0");
            for (key, value) in parts.filter_map(|p| p.split_once('=')) {
                match key.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse::<f32>().unwrap_or(0.0),
                    "version" => version = value.trim().trim_matches('"'),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if version == "1.0.0" => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One answer, family by family.
pub struct Page {
    format: Format,
    text: String,
}

/// The samples of one name.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    pub fn new(format: Format) -> Page {
        Page { format, text: String::with_capacity(16 << 10) }
    }

    /// `name` without `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", "_total", help)
    }

    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", "", help)
    }

    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", "", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, suffix: &'static str, help: &str) -> Family<'_> {
        let headed = if self.format == Format::Text { suffix } else { "" };
        // A String takes everything.
        let _ = writeln!(self.text, "# HELP {name}{headed} {help}\n# TYPE {name}{headed} {kind}");
        Family { text: &mut self.text, name, suffix }
    }

    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    pub fn one(&mut self, value: impl Into<Value>) {
        self.with(&[], value);
    }

    pub fn with(&mut self, labels: Labels<'_>, value: impl Into<Value>) {
        self.line(self.suffix, labels, None, value.into());
    }

    pub fn distribution(&mut self, labels: Labels<'_>, d: &Distribution) {
        for (bound, count) in &d.buckets {
            self.line("_bucket", labels, Some(&bound.to_string()), Value::Whole(*count));
        }
        self.line("_bucket", labels, Some("+Inf"), Value::Whole(d.count));
        self.line("_sum", labels, None, Value::Real(d.sum_seconds));
        self.line("_count", labels, None, Value::Whole(d.count));
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: Value) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(le.map(|le| ("le", le))) {
            text.push(separator);
            separator = ',';
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = match value {
            Value::Whole(n) => writeln!(text, " {n}"),
            Value::Real(n) => writeln!(text, " {n}"),
        };
    }
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Value::Whole(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Value::Whole(n.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Whole(b.into())
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Self {
        Value::Real(n)
    }
}

/// Both formats escape backslash, quote and line feed.
fn escape(text: &mut String, value: &str) {
    let end = value.floor_char_boundary(LABEL_BYTES);
    for c in value[..end].chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    if end < value.len() {
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_get_what_they_like_best() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open) in [
            ("", false),
            ("*/*", false),
            ("text/html, */*;q=0.1", false),
            ("text/plain; version=0.0.4", false),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=\"1.0.0\"", true),
            ("application/openmetrics-text; version=0.0.1, text/plain;q=0.1", false),
            ("application/openmetrics-text;version=2.0.0", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.3, text/plain;q=0.8", false),
            ("Application/OpenMetrics-Text; Version=1.0.0; Q=0.8, text/plain;q=0.3", true),
            (prometheus, true),
        ] {
            assert_eq!(Format::accepted(accept) == Format::OpenMetrics, open, "{accept}");
        }
    }

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.gauge("up", "It is there.").one(true);
        let mut seen = page.counter("calls", "Calls.");
        seen.with(&[("name", "a\"b\\c\nd"), ("code", "OK")], 3_u64);
        seen.with(&[("name", "")], 0.5);
        let d = Distribution { buckets: vec![(0.001, 1), (2.5, 3)], count: 4, sum_seconds: 12.25 };
        page.histogram("took_seconds", "Time.").distribution(&[("rpc", "x")], &d);
        page.finish()
    }

    #[test]
    fn the_two_formats() {
        let text = "# HELP up It is there.\n# TYPE up gauge\nup 1\n\
            # HELP calls_total Calls.\n# TYPE calls_total counter\n\
            calls_total{name=\"a\\\"b\\\\c\\nd\",code=\"OK\"} 3\ncalls_total{name=\"\"} 0.5\n\
            # HELP took_seconds Time.\n# TYPE took_seconds histogram\n\
            took_seconds_bucket{rpc=\"x\",le=\"0.001\"} 1\ntook_seconds_bucket{rpc=\"x\",le=\"2.5\"} 3\n\
            took_seconds_bucket{rpc=\"x\",le=\"+Inf\"} 4\ntook_seconds_sum{rpc=\"x\"} 12.25\ntook_seconds_count{rpc=\"x\"} 4\n";
        assert_eq!(page(Format::Text), text);
        let open = text.replace("HELP calls_total", "HELP calls").replace("TYPE calls_total", "TYPE calls") + "# EOF\n";
        assert_eq!(page(Format::OpenMetrics), open);
    }

    #[test]
    fn labels_are_bounded() {
        let mut text = String::new();
        escape(&mut text, &"é".repeat(1000));
        assert_eq!(text, format!("{}…", "é".repeat(LABEL_BYTES / 2)));
    }
}

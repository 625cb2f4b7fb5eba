//! Events as entries of systemd's journal, by its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): one datagram each.
//!
//! Fields of an event become fields of its entry: `container` as Docker's journal driver names it, so that what the agent says of a
//! container is found beside what the container says; `trace_id` as TRACE_ID; others with BERTH_ in front. Those of the spans around
//! it come with it. An entry that journald does not take at once is written to standard error: the agent never waits for its log.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Longer values are cut, so that an entry fits into a datagram.
const VALUE_BYTES: usize = 16 << 10;
/// Of one entry, those of its spans counted.
const FIELDS: usize = 48;

pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// # Errors
    /// When there can be no socket. Whether journald is there is seen with each entry: it may be restarted.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Journal { socket, path: path.to_owned() })
    }
}

/// Name and value, in the order in which they were given.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.0.len() < FIELDS {
            let mut text = String::new();
            // A String takes everything.
            let _ = write!(text, "{value:?}");
            self.put(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }
}

impl Fields {
    fn put(&mut self, field: &Field, mut value: String) {
        if self.0.len() < FIELDS {
            value.truncate(value.floor_char_boundary(VALUE_BYTES));
            self.0.push((field.name(), value));
        }
    }

    /// The sentence, with what belongs to it behind.
    fn message(&self) -> String {
        let said = self.0.iter().find(|(name, _)| *name == "message").map_or("", |(_, text)| text);
        let mut text = said.to_owned();
        for (name, value) in self.0.iter().filter(|(name, _)| *name != "message") {
            let _ = write!(text, "{}{name}={value}", if text.is_empty() { "" } else { " " });
        }
        text.truncate(text.floor_char_boundary(VALUE_BYTES));
        text
    }
}

/// sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// `KEY=value`, or the form with a length where a line's end is in the value.
fn put(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// A field under the journal's name of it: capitals, digits and underscores.
fn put_field(out: &mut Vec<u8>, name: &str, value: &str) {
    match name {
        "message" => {}
        "trace_id" => put(out, "TRACE_ID", value),
        // Some are told by a name.
        "container" if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) => {
            put(out, "CONTAINER_ID", &value[..12]);
            put(out, "CONTAINER_ID_FULL", value);
        }
        "container" => put(out, "CONTAINER_NAME", value),
        _ => {
            let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            let name: String = "BERTH_".chars().chain(name.chars().take(50).map(upper)).collect();
            put(out, &name, value);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (meta, message) = (event.metadata(), fields.message());
        let priority = priority(*meta.level());
        let mut out = Vec::with_capacity(512);
        put(&mut out, "MESSAGE", &message);
        put(&mut out, "PRIORITY", &priority.to_string());
        put(&mut out, "SYSLOG_IDENTIFIER", "berthd");
        put(&mut out, "BERTH_TARGET", meta.target());
        if let (Some(file), Some(line)) = (meta.file(), meta.line()) {
            put(&mut out, "CODE_FILE", file);
            put(&mut out, "CODE_LINE", &line.to_string());
        }
        if let Some(module) = meta.module_path() {
            put(&mut out, "CODE_MODULE", module);
        }
        for (name, value) in &fields.0 {
            put_field(&mut out, name, value);
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Fields(around)) = span.extensions().get::<Fields>() {
                around.iter().for_each(|(name, value)| put_field(&mut out, name, value));
            }
        }
        if self.socket.send_to(&out, &self.path).is_err() {
            // Behind a stream to the journal the mark in front is understood, too (sd-daemon(3)).
            let _ = writeln!(io::stderr(), "<{priority}>{}", message.replace('\n', " "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_field(&mut out, name, value);
        out
    }

    #[test]
    fn fields_have_the_journals_names() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(
            field("container", &id),
            format!("CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL={id}\n").into_bytes()
        );
        assert_eq!(field("container", "web"), b"CONTAINER_NAME=web\n");
        assert_eq!(field("trace_id", "ab"), b"TRACE_ID=ab\n");
        assert_eq!(field("otel.kind", "x"), b"BERTH_OTEL_KIND=x\n");
        assert_eq!(field("error", "a\nb"), b"BERTH_ERROR\n\x03\0\0\0\0\0\0\0a\nb\n");
        assert_eq!(field("message", "said already"), b"");
    }
}

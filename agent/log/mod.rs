//! The agent's own log: to the journal with fields of its own where standard error is the journal's, else lines on standard error.

mod journal;
#[cfg(feature = "otel")]
pub mod otel;

use crate::config::{Config, Log, LogFormat, LogTarget};
use journal::Journal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// What has to be told when the agent ends.
#[derive(Default)]
pub struct Started {
    #[cfg(feature = "otel")]
    traces: Option<otel::Traces>,
}

impl Started {
    /// Before the process ends, or becomes another program.
    pub fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

/// Starts it. `RUST_LOG` goes before the configuration.
///
/// # Errors
/// When the level is none, or the journal was asked for and a socket cannot be made.
pub fn start(whole: &Config) -> Result<Started, String> {
    let (config, socket) = (&whole.log, whole.logs.journald_socket.as_path());
    let directives = std::env::var("RUST_LOG").ok().filter(|s| !s.is_empty()).unwrap_or_else(|| config.level.clone());
    let filter = EnvFilter::try_new(&directives).map_err(|e| format!("log level {directives:?}: {e}"))?;
    let out = out(config, socket)?.with_filter(filter);
    let mut layers = vec![out.boxed()];
    let started = start_traces(whole, &mut layers)?;
    tracing_subscriber::registry().with(layers).try_init().map_err(|e| format!("the log cannot be started: {e}"))?;
    Ok(started)
}

type Layers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

#[cfg(feature = "otel")]
fn start_traces(whole: &Config, layers: &mut Layers) -> Result<Started, String> {
    let traces = whole.otel.endpoint.as_deref().map(otel::Traces::open).transpose()?;
    layers.extend(traces.iter().map(otel::Traces::layer));
    Ok(Started { traces })
}

/// A program without traces: the configuration was refused if it asks for them.
#[cfg(not(feature = "otel"))]
fn start_traces(_: &Config, _: &mut Layers) -> Result<Started, String> {
    Ok(Started::default())
}

fn out(config: &Log, socket: &Path) -> Result<Box<dyn Layer<Registry> + Send + Sync>, String> {
    let journal = match config.target {
        LogTarget::Auto => stderr_is_journal() && config.format() == LogFormat::Text,
        LogTarget::Journald => true,
        LogTarget::Stderr => false,
    };
    if journal {
        return Ok(Journal::open(socket).map_err(|e| format!("a socket for the journal: {e}"))?.boxed());
    }
    let lines = fmt::layer().with_writer(std::io::stderr);
    Ok(match config.format() {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    })
}

/// Standard error is the very file that JOURNAL_STREAM names (systemd.exec(5)): programs that the agent's caller started in between
/// may have handed the variable down with another one.
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok().and_then(|v| parse_stream(&v));
    let there = || std::fs::metadata("/proc/self/fd/2").map(|m| (m.dev(), m.ino())).ok();
    named.is_some_and(|named| there() == Some(named))
}

/// `device:inode`, both decimal.
fn parse_stream(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_stream_as_systemd_writes_it() {
        assert_eq!(parse_stream("8:1234"), Some((8, 1234)));
        for bad in ["", "8", "8:", ":8", "a:1", "8:1:2"] {
            assert_eq!(parse_stream(bad), None, "{bad}");
        }
    }
}

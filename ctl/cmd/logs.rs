//! `logs`.

use crate::complete;
use crate::connect::Connection;
use crate::error::Result;
use crate::fanout::Fleet;
use crate::output::{Sink, To, print};
use crate::units::{parse_time, time, wire_time};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

#[derive(Debug, Args)]
#[command(
    after_help = "Times are RFC 3339 (2026-01-02T15:04:05Z), Unix seconds, or durations before now (10m, 1h30m).\n\n\
    Example:\n  berthctl logs -f --since 10m --tail 100 web"
)]
pub struct Logs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only what was written at or after this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<jiff::Timestamp>,
    /// Only what was written before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<jiff::Timestamp>,
    /// Only the last NUMBER lines, or all
    #[arg(short = 'n', long, value_name = "NUMBER", default_value = "all", value_parser = parse_tail)]
    tail: Tail,
    /// Show the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// json: one object a line
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
}

/// `None`: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail(Option<u64>);

fn parse_tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        n => n.parse().map(|n| Tail(Some(n))).map_err(|_| "must be a number of lines, or all".into()),
    }
}

pub async fn logs(fleet: &Fleet, args: Logs) -> Result<u8> {
    let request = v1::LogsRequest {
        container: args.container,
        follow: args.follow,
        tail: args.tail.0,
        since: args.since.map(wire_time),
        until: args.until.map(wire_time),
        stdout: true,
        stderr: true,
        ..v1::LogsRequest::default()
    };
    let (labels, json) = (fleet.clone(), args.output == "json");
    let call = move |c: Connection| {
        let request = request.clone();
        let mut writer = Writer {
            sink: Sink::new(labels.label(&c.label)),
            host: labels.labelled.then(|| c.label.clone()),
            timestamps: args.timestamps,
            json,
            inside: [false; 2],
        };
        async move {
            let mut stream =
                c.retry(async || c.containers().logs(c.request(request.clone(), None)).await).await?.into_inner();
            while let Some(answer) = stream.message().await.map_err(|s| c.error(&s))? {
                writer.entries(&answer.entries)?;
            }
            writer.sink.finish()
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Joins the parts of lines, for each stream by itself.
struct Writer {
    sink: Sink,
    host: Option<String>,
    timestamps: bool,
    json: bool,
    /// A line of stdout or stderr has begun and not ended.
    inside: [bool; 2],
}

impl Writer {
    fn entries(&mut self, entries: &[v1::LogEntry]) -> Result<()> {
        if self.json {
            return entries.iter().try_for_each(|e| self.object(e));
        }
        // One write for each run of lines of one stream, in their order.
        let mut run: Vec<u8> = Vec::new();
        let mut to = To::Stdout;
        for entry in entries {
            let next = if entry.stream() == v1::Stream::Stderr { To::Stderr } else { To::Stdout };
            if next != to {
                self.sink.write(to, &std::mem::take(&mut run))?;
                to = next;
            }
            self.append(&mut run, entry, to);
        }
        self.sink.write(to, &run)
    }

    fn append(&mut self, out: &mut Vec<u8>, entry: &v1::LogEntry, to: To) {
        let inside = &mut self.inside[to as usize];
        if self.timestamps
            && !*inside
            && let Some(t) = time(entry.time.as_ref())
        {
            out.extend_from_slice(format!("{t:.9} ").as_bytes());
        }
        out.extend_from_slice(&entry.line);
        *inside = entry.partial;
        if !entry.partial {
            out.push(b'\n');
        }
    }

    fn object(&self, entry: &v1::LogEntry) -> Result<()> {
        let mut value = json!({
            "Time": time(entry.time.as_ref()).map(|t| t.to_string()),
            "Stream": if entry.stream() == v1::Stream::Stderr { "stderr" } else { "stdout" },
            "Line": String::from_utf8_lossy(&entry.line),
            "Partial": entry.partial,
        });
        if let Some(host) = &self.host {
            value["Host"] = host.clone().into();
        }
        print(format!("{value}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined_by_stream() {
        let mut w = Writer { sink: Sink::default(), host: None, timestamps: true, json: false, inside: [false; 2] };
        let entry = |line: &'static str, partial| v1::LogEntry {
            time: Some(prost_types::Timestamp { seconds: 1, nanos: 5 }),
            stream: v1::Stream::Stdout.into(),
            line: line.into(),
            partial,
            ..v1::LogEntry::default()
        };
        let mut out = Vec::new();
        for e in [entry("a", true), entry("b", true), entry("c", false), entry("", false)] {
            w.append(&mut out, &e, To::Stdout);
        }
        let time = "1970-01-01T00:00:01.000000005Z";
        assert_eq!(String::from_utf8_lossy(&out), format!("{time} abc\n{time} \n"));
    }

    #[test]
    fn tails() {
        assert_eq!(parse_tail("all"), Ok(Tail(None)));
        assert_eq!(parse_tail("0"), Ok(Tail(Some(0))));
        assert!(parse_tail("-1").is_err());
    }
}

//! `logs`.

use crate::complete;
use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Sink, To, print};
use crate::units::{parse_time, time, wire_time};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;
use std::collections::VecDeque;
use std::rc::Rc;
use tonic::Streaming;

#[derive(Debug, Args)]
#[command(
    after_help = "Times are RFC 3339 (2026-01-02T15:04:05Z), Unix seconds, or durations before now (10m, 1h30m).\n\n\
    Example:\n  berthctl logs -f --since 10m --tail 100 web\n  berthctl logs -f web db"
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
    /// With several containers: no names in front of the lines
    #[arg(long)]
    no_log_prefix: bool,
    /// With several containers: no colours
    #[arg(long)]
    no_color: bool,
    /// Containers; what several wrote is merged by time, or with --follow as it comes
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
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
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let mut sources: Vec<Source> = (0..args.containers.len()).map(|n| Source::new(&labels, &c, &args, n)).collect();
        let (c, follow, labelled) = (c.clone(), args.follow, labels.labelled);
        async move {
            match (sources.len(), sources.pop()) {
                (1, Some(only)) => only.through(c).await,
                (_, last) => {
                    sources.extend(last);
                    match follow {
                        true => tokio::task::LocalSet::new().run_until(followed(&c, sources, labelled)).await,
                        false => merged(&c, sources).await,
                    }
                }
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// One container's output on its way here.
struct Source {
    request: v1::LogsRequest,
    writer: Writer,
    stream: Option<Streaming<v1::LogsResponse>>,
    patience: Patience,
    /// Entries that have come and are not shown yet.
    waiting: VecDeque<v1::LogEntry>,
}

impl Source {
    fn new(labels: &Fleet, c: &Connection, args: &Logs, n: usize) -> Source {
        let container = args.containers[n].clone();
        let several = args.containers.len() > 1;
        let host = labels.label(&c.label).unwrap_or_default();
        let label = match several {
            false => labels.label(&c.label),
            // An empty one, too: lines are kept whole.
            true if args.no_log_prefix => Some(host),
            true => Some(format!("{host}{}", prefix(args, n)).into()),
        };
        let writer = Writer {
            sink: Sink::new(label),
            host: labels.labelled.then(|| c.label.clone()),
            container: several.then(|| container.clone()),
            timestamps: args.timestamps,
            json: args.output == "json",
            inside: [false; 2],
        };
        let request = v1::LogsRequest {
            container,
            follow: args.follow,
            tail: args.tail.0,
            since: args.since.map(wire_time),
            until: args.until.map(wire_time),
            stdout: true,
            stderr: true,
            ..v1::LogsRequest::default()
        };
        Source { request, writer, stream: None, patience: Patience::default(), waiting: VecDeque::new() }
    }

    async fn open(&mut self, c: &Connection) -> Result<()> {
        let opened = c.retry(async || c.containers().logs(c.request(self.request.clone(), None)).await).await?;
        self.stream = Some(opened.into_inner());
        Ok(())
    }

    /// The next message; false: there is no more.
    async fn fetch(&mut self, c: &Connection) -> Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        match stream.message().await {
            Ok(Some(answer)) => {
                self.patience.rest();
                if let Some(last) = answer.entries.last().filter(|e| !e.cursor.is_empty()) {
                    (self.request.after_cursor, self.request.tail) = (last.cursor.clone(), None);
                }
                self.waiting.extend(answer.entries);
            }
            Ok(None) => self.stream = None,
            // The next stream goes on behind what has come.
            Err(status) => {
                self.patience.wait(c, &status).await?;
                self.open(c).await?;
            }
        }
        Ok(self.stream.is_some())
    }

    fn show(&mut self, count: usize) -> Result<()> {
        let entries: Vec<v1::LogEntry> = self.waiting.drain(..count).collect();
        self.writer.entries(&entries)
    }

    async fn through(mut self, c: Connection) -> Result<()> {
        self.open(&c).await?;
        while self.fetch(&c).await? {
            self.show(self.waiting.len())?;
        }
        self.writer.sink.finish()
    }
}

/// All of them at once, lines as they come.
async fn followed(c: &Connection, sources: Vec<Source>, labelled: bool) -> Result<()> {
    let running: Vec<_> =
        sources.into_iter().map(|source| tokio::task::spawn_local(source.through(c.clone()))).collect();
    let mut failed = Vec::new();
    for task in running {
        if let Err(e) = task.await.map_err(|e| Error::new(format!("a stream's task ended: {e}")))? {
            failed.push(e);
        }
    }
    if !labelled {
        failed.iter().for_each(Error::report);
    }
    super::together(failed, labelled)
}

/// All of them in the order of time; each stream is in order by itself.
async fn merged(c: &Connection, mut sources: Vec<Source>) -> Result<()> {
    for source in &mut sources {
        source.open(c).await?;
    }
    loop {
        for source in &mut sources {
            while source.waiting.is_empty() && source.fetch(c).await? {}
        }
        let Some((n, count)) = next_run(sources.iter().map(|s| &s.waiting)) else { break };
        sources[n].show(count)?;
    }
    sources.iter_mut().try_for_each(|s| s.writer.sink.finish())
}

/// Whose entries come next, and how many of them before another's.
fn next_run<'a>(queues: impl Iterator<Item = &'a VecDeque<v1::LogEntry>>) -> Option<(usize, usize)> {
    let at = |e: &v1::LogEntry| e.time.as_ref().map(|t| (t.seconds, t.nanos)).unwrap_or_default();
    let mut heads: Vec<(_, usize, &VecDeque<v1::LogEntry>)> =
        queues.enumerate().filter_map(|(n, q)| Some((at(q.front()?), n, q))).collect();
    heads.sort_by_key(|(time, n, _)| (*time, *n));
    let (_, n, queue) = *heads.first()?;
    let limit = heads.get(1).map(|(time, ..)| *time);
    let count = queue.iter().take_while(|e| limit.is_none_or(|limit| at(e) <= limit)).count();
    Some((n, count.max(1)))
}

/// `web | `, as wide as the widest name, in a colour of its own on a terminal.
fn prefix(args: &Logs, n: usize) -> String {
    use anstyle::{AnsiColor, Style};
    const COLOURS: [AnsiColor; 6] =
        [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::Red];
    let width = args.containers.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let text = format!("{:<width$} | ", crate::output::printable(&args.containers[n]));
    let plain = args.no_color || anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
    if plain {
        return text;
    }
    let colour = Style::new().fg_color(Some(COLOURS[n % COLOURS.len()].into()));
    format!("{colour}{text}{colour:#}")
}

/// Joins the parts of lines, for each stream by itself.
struct Writer {
    sink: Sink,
    host: Option<String>,
    /// Where there are several.
    container: Option<String>,
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
        if let Some(container) = &self.container {
            value["Container"] = container.clone().into();
        }
        print(output::json(&value) + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_lines_are_joined_by_stream() {
        let mut w = Writer {
            sink: Sink::default(),
            host: None,
            container: None,
            timestamps: true,
            json: false,
            inside: [false; 2],
        };
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
    fn what_several_wrote_comes_in_the_order_of_time() {
        let queue = |times: &[i64]| -> VecDeque<v1::LogEntry> {
            let entry = |t: &i64| v1::LogEntry {
                time: Some(prost_types::Timestamp { seconds: *t, nanos: 0 }),
                ..v1::LogEntry::default()
            };
            times.iter().map(entry).collect()
        };
        let next = |queues: &[VecDeque<v1::LogEntry>]| next_run(queues.iter());
        assert_eq!(next(&[queue(&[5, 6]), queue(&[1, 2, 5, 7])]), Some((1, 3)));
        assert_eq!(next(&[queue(&[5]), queue(&[5])]), Some((0, 1)));
        assert_eq!(next(&[queue(&[]), queue(&[3, 4])]), Some((1, 2)));
        assert_eq!(next(&[queue(&[]), queue(&[])]), None);
        // A clock that went back does not hold everything up.
        assert_eq!(next(&[queue(&[5, 1]), queue(&[6])]), Some((0, 2)));
    }

    #[test]
    fn tails() {
        assert_eq!(parse_tail("all"), Ok(Tail(None)));
        assert_eq!(parse_tail("0"), Ok(Tail(Some(0))));
        assert!(parse_tail("-1").is_err());
    }
}

//! `stats`: what containers use, as a table that stays in its place, or a line for each measurement.

use crate::complete;
use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Format, Listing, Shape, Show, print};
use crate::{term, view, yaml};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const SHAPE: Shape = Shape {
    columns: &[
        ("CONTAINER ID", "ID"),
        ("NAME", "Name"),
        ("CPU %", "CPUPerc"),
        ("MEM USAGE / LIMIT", "MemUsage"),
        ("MEM %", "MemPerc"),
        ("NET I/O", "NetIO"),
        ("BLOCK I/O", "BlockIO"),
        ("PIDS", "PIDs"),
    ],
    name: "Name",
};

/// With many hosts the screen is drawn no more often than this.
const DRAW: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(after_help = "100 % of CPU is one CPU. Memory is without the file cache that is free to go.\n\
    Fields for --format beside the columns: State, NetPackets, CPUPressure, MemPressure, IOPressure (percent of the last 10 s, \
    cgroup v2), and the raw counters that -o json shows.\n\n\
    Examples:\n  berthctl stats --no-stream\n  berthctl --all stats -o json | jq .CPUPerc")]
pub struct Stats {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only one measurement, over a second
    #[arg(long)]
    no_stream: bool,
    /// Seconds between measurements
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    show: Show,
    /// Containers [default: all that run]
    #[arg(value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

pub async fn stats(fleet: &Fleet, args: Stats) -> Result<u8> {
    let format = args.show.format()?;
    if !args.no_stream && format == Format::Yaml {
        return Err(Error::usage("--output yaml: a stream is shown as table, json or name; --no-stream ends it"));
    }
    let request = v1::StatsRequest {
        containers: args.containers,
        all: args.all,
        // A rate needs two.
        count: if args.no_stream { 2 } else { 0 },
        interval_seconds: if args.no_stream { 1 } else { args.interval },
    };
    let host_width = fleet.labelled.then(|| fleet.width());
    let table = matches!(format, Format::Table | Format::TableTemplate(_));
    if args.no_stream {
        return once(fleet, request, format, host_width, !args.no_trunc).await;
    }
    let live = table && term::stdout_is_terminal();
    let screen =
        Rc::new(RefCell::new(Screen { format, host_width, live, hosts: BTreeMap::new(), drawn: None, headed: false }));
    let call = move |c: Connection| {
        let (request, screen) = (request.clone(), screen.clone());
        async move {
            let mut measured = Measured::open(&c, request, !args.no_trunc).await?;
            let winch = |e| Error::io("waiting for signals", &e);
            let mut resized = signal(SignalKind::window_change()).map_err(winch)?;
            loop {
                tokio::select! {
                    rows = measured.next(&c) => match rows? {
                        // The first one has no rates yet: a table shows it all the same.
                        Some(rows) if live || measured.count > 1 => screen.borrow_mut().show(&c.label, rows)?,
                        Some(_) => {}
                        None => return Ok(()),
                    },
                    _ = resized.recv() => screen.borrow_mut().draw()?,
                }
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// The second of two measurements, of all hosts.
async fn once(
    fleet: &Fleet,
    request: v1::StatsRequest,
    format: Format,
    host_width: Option<usize>,
    truncate: bool,
) -> Result<u8> {
    let call = move |c: Connection| {
        let request = request.clone();
        async move {
            let mut measured = Measured::open(&c, request, truncate).await?;
            let mut last = Vec::new();
            while let Some(rows) = measured.next(&c).await? {
                last = rows;
            }
            Ok(last)
        }
    };
    let mut list = Listing::new(SHAPE, format, host_width);
    let code = fleet.each(call, |host, rows| list.add(host, rows)).await?;
    list.finish()?;
    Ok(code)
}

/// The measurements of one host, as rows. A stream that breaks is asked for anew.
struct Measured {
    request: v1::StatsRequest,
    /// None: it broke.
    stream: Option<tonic::Streaming<v1::StatsResponse>>,
    patience: Patience,
    before: HashMap<String, v1::ContainerStats>,
    truncate: bool,
    count: u64,
    /// Of a measurement that has not all come yet.
    part: Vec<v1::ContainerStats>,
}

impl Measured {
    async fn open(c: &Connection, request: v1::StatsRequest, truncate: bool) -> Result<Measured> {
        let ask = async || c.containers().stats(c.request(request.clone(), None)).await;
        let stream = Some(c.retry(ask).await?.into_inner());
        let (before, part) = (HashMap::new(), Vec::new());
        Ok(Measured { request, stream, patience: Patience::default(), before, truncate, count: 0, part })
    }

    /// `None`: there are no more. May be dropped while it waits.
    async fn next(&mut self, c: &Connection) -> Result<Option<Vec<Value>>> {
        loop {
            let Some(stream) = &mut self.stream else {
                match c.containers().stats(c.request(self.request.clone(), None)).await {
                    Ok(answer) => self.stream = Some(answer.into_inner()),
                    Err(status) => self.patience.wait(c, &status).await?,
                }
                continue;
            };
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    self.part.clear();
                    self.patience.wait(c, &status).await?;
                    continue;
                }
            };
            self.patience.rest();
            self.part.extend(answer.containers);
            if answer.more {
                continue;
            }
            self.count += 1;
            let mut now = std::mem::take(&mut self.part);
            now.sort_by(|a, b| a.name.cmp(&b.name));
            let row =
                |s: &v1::ContainerStats| view::stats(s, self.before.get(&s.id), answer.time.as_ref(), self.truncate);
            let rows = now.iter().map(row).collect();
            self.before = now.into_iter().map(|s| (s.id.clone(), s)).collect();
            return Ok(Some(rows));
        }
    }
}

/// What is seen of all hosts.
struct Screen {
    format: Format,
    host_width: Option<usize>,
    /// A table on a terminal, drawn in its place again and again.
    live: bool,
    hosts: BTreeMap<String, Vec<Value>>,
    drawn: Option<Instant>,
    headed: bool,
}

impl Screen {
    fn show(&mut self, host: &str, mut rows: Vec<Value>) -> Result<()> {
        if self.host_width.is_some() {
            rows.iter_mut().for_each(|row| row["Host"] = host.into());
        }
        if !self.live {
            return self.lines(host, &rows);
        }
        self.hosts.insert(host.to_owned(), rows);
        match self.drawn {
            Some(drawn) if self.hosts.len() > 1 && drawn.elapsed() < DRAW => Ok(()),
            _ => self.draw(),
        }
    }

    /// One measurement below the other.
    fn lines(&mut self, host: &str, rows: &[Value]) -> Result<()> {
        let prefix = self.host_width.map_or(String::new(), |w| format!("{host:<w$} | "));
        let text = match &self.format {
            Format::Json | Format::JsonLines => rows.iter().map(|row| output::json(row) + "\n").collect(),
            Format::Yaml => yaml::emit(&Value::Array(rows.to_vec())),
            Format::Name => rows
                .iter()
                .map(|r| format!("{prefix}{}\n", output::printable(&crate::template::shown(&r[SHAPE.name]))))
                .collect(),
            Format::Template(t) => {
                let mut text = String::new();
                for row in rows {
                    text.push_str(&format!("{prefix}{}\n", t.render(row).map_err(Error::usage)?));
                }
                text
            }
            Format::Table | Format::TableTemplate(_) => {
                let text = Listing::table(SHAPE, &self.format, self.host_width, rows.to_vec())?;
                let body = text.split_once('\n').map_or("", |(_, body)| body).to_owned();
                if std::mem::replace(&mut self.headed, true) { body } else { text }
            }
        };
        print(text)
    }

    /// The table from the screen's first line on, cut to its size.
    fn draw(&mut self) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        let rows = self.hosts.values().flatten().cloned().collect();
        let text = Listing::table(SHAPE, &self.format, self.host_width, rows)?;
        let size = term::size();
        let (height, width) = size.map_or((24, 80), |s| (s.rows as usize, s.columns as usize));
        // Clears the screen once; then each line is written over the one before, so that nothing flickers.
        let mut out = String::from(if self.drawn.is_none() { "\x1b[2J\x1b[H" } else { "\x1b[H" });
        for line in text.lines().take(height.saturating_sub(1).max(1)) {
            out.extend(line.chars().take(width));
            out.push_str("\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        self.drawn = Some(Instant::now());
        print(out)
    }
}

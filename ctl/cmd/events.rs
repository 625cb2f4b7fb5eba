//! `events`.

use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Format, Show, Sink, print};
use crate::units::{parse_time, wire_time};
use crate::view;
use berth::v1::{self, events_response::Kind};
use clap::Args;
use std::rc::Rc;
use tonic::{Status, Streaming};

#[derive(Debug, Args)]
#[command(
    after_help = "Times are RFC 3339 (2026-01-02T15:04:05Z), Unix seconds, or durations before now (10m, 1h30m).\n\n\
    Example:\n  berthctl --all events --since 1h --filter event=die -o json"
)]
pub struct Events {
    /// Begin with the events at or after this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<jiff::Timestamp>,
    /// End at this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<jiff::Timestamp>,
    /// Begin behind this cursor (see -o json)
    #[arg(long, value_name = "NUMBER", conflicts_with = "since")]
    cursor: Option<u64>,
    /// Only events that fit: type=, event=, container=, image=, network=, volume=, label=, node= (the name of the host)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    show: Show,
}

pub async fn events(fleet: &Fleet, args: Events) -> Result<u8> {
    let found =
        super::list::filters(&args.filter, &["type", "event", "container", "image", "network", "label", "node"])?;
    let request = v1::EventsRequest {
        cursor: args.cursor.unwrap_or(0),
        since: args.since.map(wire_time),
        until: args.until.map(wire_time),
        filters: found.into_iter().map(|f| v1::EventFilter { key: f.key, value: f.value }).collect(),
        tell_begin: true,
    };
    let format = match args.show.format()? {
        Format::Json => Format::JsonLines,
        Format::Yaml => return Err(Error::usage("--output yaml: a stream is shown as table, json or name")),
        Format::TableTemplate(t) => Format::Template(t),
        other => other,
    };
    let (labels, format) = (fleet.clone(), Rc::new(format));
    let call = move |c: Connection| {
        let (mut request, format) = (request.clone(), format.clone());
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let mut patience = Patience::default();
            let mut stream = None;
            loop {
                let answer = match next(&c, &mut stream, &request).await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return Ok(()),
                    // The next stream goes on behind what was shown.
                    Err(status) => {
                        patience.wait(&c, &status).await?;
                        stream = None;
                        continue;
                    }
                };
                patience.rest();
                match answer.kind {
                    Some(Kind::Event(event)) => {
                        show(&c.label, &event, &format, &sink)?;
                        (request.cursor, request.since) = (event.cursor, None);
                    }
                    Some(Kind::Begin(begin)) => request.cursor = begin.cursor,
                    Some(Kind::HistoryLost(lost)) => sink.say(&format!(
                        "warning: events between the cursors {} and {} are no longer kept",
                        lost.asked, lost.oldest
                    )),
                    None => {}
                }
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// The next answer, of a new stream when there is none.
async fn next(
    c: &Connection,
    stream: &mut Option<Streaming<v1::EventsResponse>>,
    request: &v1::EventsRequest,
) -> Result<Option<v1::EventsResponse>, Status> {
    let open = match stream {
        Some(open) => open,
        None => stream.insert(c.node().events(c.request(request.clone(), None)).await?.into_inner()),
    };
    open.message().await
}

fn show(host: &str, event: &v1::Event, format: &Format, sink: &Sink) -> Result<()> {
    let value = || {
        let mut value = view::event(event);
        if sink.labelled() {
            value["Host"] = host.into();
        }
        value
    };
    match format {
        Format::JsonLines => print(output::json(&value()) + "\n"),
        Format::Name => sink.line(&output::printable(&event.subject)),
        Format::Template(t) => sink.line(&t.render(&value()).map_err(Error::usage)?),
        _ => sink.line(&view::event_line(event)),
    }
}

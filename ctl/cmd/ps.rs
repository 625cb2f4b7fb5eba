//! `ps`.

use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, Listing, Shape, Show};
use crate::view;
use berth::v1;
use clap::Args;
use jiff::Timestamp;

pub const SHAPE: Shape = Shape {
    columns: &[
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ],
    name: "Names",
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  berthctl ps -a --filter status=exited\n  berthctl -g web ps --format 'table {{.Names}}\\t{{.Status}}'"
)]
pub struct Ps {
    /// Not only running containers
    #[arg(short, long)]
    all: bool,
    /// Only containers that fit: id=, name=, label=, status=, ancestor=, exited=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// The newest NUMBER containers, running or not
    #[arg(short = 'n', long, value_name = "NUMBER")]
    last: Option<u32>,
    /// The newest container, running or not
    #[arg(short, long, conflicts_with = "last")]
    latest: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

/// Docker's filter keys; a wrong one is refused here, with the right ones.
pub fn filters(given: &[String], known: &[&str]) -> Result<Vec<(String, String)>> {
    given
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if known.contains(&key) && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
            Some((key, _)) if !known.contains(&key) => {
                Err(Error::usage(format!("--filter {text:?}: unknown key {key:?}; there are {}", known.join(", "))))
            }
            _ => Err(Error::usage(format!("--filter {text:?}: write KEY=VALUE"))),
        })
        .collect()
}

pub async fn ps(fleet: &Fleet, args: Ps) -> Result<u8> {
    let found = filters(&args.filter, &["id", "name", "label", "status", "ancestor", "exited"])?;
    let limit = if args.latest { 1 } else { args.last.unwrap_or(0) };
    // Docker: asking for a state or for the newest ones asks for stopped ones too.
    let all = args.all || limit > 0 || found.iter().any(|(k, _)| k == "status" || k == "exited");
    let request = v1::ListContainersRequest {
        all,
        limit,
        filters: found.into_iter().map(|(key, value)| v1::ListFilter { key, value }).collect(),
    };
    let (shape, format) = match args.quiet {
        true => (Shape { name: "ID", ..SHAPE }, Format::Name),
        false => (SHAPE, args.show.format()?),
    };
    let mut list = Listing::new(shape, format, fleet.labelled.then(|| fleet.width()));
    let call = move |c: Connection| {
        let request = request.clone();
        async move {
            let now = Timestamp::now();
            let mut rows = Vec::new();
            let mut stream = c
                .retry(async || c.containers().list(c.request(request.clone(), Some(UNARY_TIMEOUT))).await)
                .await?
                .into_inner();
            while let Some(answer) = stream.message().await.map_err(|s| c.error(&s))? {
                if let Some(summary) = answer.container {
                    rows.push(view::container(&summary, now, !args.no_trunc));
                }
            }
            Ok(rows)
        }
    };
    let code = fleet.each(call, |host, rows| list.add(host, rows)).await?;
    list.finish()?;
    Ok(code)
}

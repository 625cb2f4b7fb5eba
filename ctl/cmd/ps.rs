//! `ps`.

use super::list;
use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Shape, Show};
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

const WITH_SIZE: Shape = Shape {
    columns: &[
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
        ("SIZE", "Size"),
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
    /// Only containers that fit: id=, name=, label=, status=, health=, ancestor=, exited=, before=, since=, volume=, network=, publish=, expose=
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
    /// Count the bytes of each container's own files (reads its folders)
    #[arg(short, long)]
    size: bool,
    /// Only ids
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

const FILTERS: [&str; 13] = [
    "id", "name", "label", "status", "health", "ancestor", "exited", "before", "since", "volume", "network", "publish",
    "expose",
];

pub async fn ps(fleet: &Fleet, args: Ps) -> Result<u8> {
    if args.filter.iter().any(|f| f.starts_with("is-task=")) {
        return Err(Error::usage("--filter is-task: tasks are a swarm's, and there is none here"));
    }
    let limit = if args.latest { 1 } else { args.last.unwrap_or(0) };
    // Docker: asking for the newest ones asks for stopped ones too; the agent knows it of filters.
    let request = v1::ListContainersRequest {
        all: args.all || limit > 0,
        limit,
        filters: list::filters(&args.filter, &FILTERS)?,
        sizes: args.size && !args.quiet,
    };
    let shape = if args.size { WITH_SIZE } else { SHAPE };
    // Reading folders takes its time.
    let deadline = if request.sizes { None } else { Some(UNARY_TIMEOUT) };
    list::show(fleet, list::shape(shape, args.quiet, &args.show)?, move |c: Connection| {
        let request = request.clone();
        async move {
            let now = Timestamp::now();
            c.retry(async || {
                let mut rows = Vec::new();
                let mut stream = c.containers().list(c.request(request.clone(), deadline)).await?.into_inner();
                while let Some(answer) = stream.message().await? {
                    if let Some(summary) = answer.container {
                        rows.push(view::container(&summary, now, !args.no_trunc));
                    }
                }
                Ok(rows)
            })
            .await
        }
    })
    .await
}

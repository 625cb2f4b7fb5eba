//! `system df`.

use super::list;
use crate::connect::Connection;
use crate::error::Result;
use crate::fanout::Fleet;
use crate::output::{Shape, Show};
use crate::progress::short;
use crate::units::{human_size, time};
use crate::view;
use berth::v1::{self, DiskUsageKind, disk_usage_response::Kind};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

const SUMS: Shape = Shape {
    columns: &[
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ],
    name: "Type",
};
const ITEMS: Shape = Shape {
    columns: &[
        ("TYPE", "Type"),
        ("ID", "ID"),
        ("NAME", "Name"),
        ("SIZE", "Size"),
        ("SHARED SIZE", "SharedSize"),
        ("CONTAINERS", "Containers"),
        ("IN USE", "Active"),
        ("CREATED", "CreatedSince"),
    ],
    name: "ID",
};

#[derive(Debug, Args)]
#[command(
    after_help = "A layer that several images share counts once in the sums. Images: their layers; Containers: what they wrote; \
        Layer store: manifests, and layers of no image.\n\nExample:\n  berthctl system df -v"
)]
pub struct Df {
    /// Every image, container and layer, the largest first
    #[arg(short, long)]
    verbose: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    show: Show,
}

pub async fn df(fleet: &Fleet, args: Df) -> Result<u8> {
    let shape = if args.verbose { ITEMS } else { SUMS };
    let shown = list::shape(shape, false, &args.show)?;
    list::show(fleet, shown, move |c: Connection| {
        let (verbose, truncate) = (args.verbose, !args.no_trunc);
        async move {
            let request = v1::DiskUsageRequest { items: verbose };
            let (mut items, sums) = c
                .retry(async || {
                    let mut stream = c.node().disk_usage(c.request(request, None)).await?.into_inner();
                    let (mut items, mut sums) = (Vec::new(), Vec::new());
                    while let Some(answer) = stream.message().await? {
                        match answer.kind {
                            Some(Kind::Item(item)) => items.push(item),
                            Some(Kind::Total(total)) => sums = total.sums,
                            None => {}
                        }
                    }
                    Ok((items, sums))
                })
                .await?;
            if !verbose {
                return Ok(sums.iter().map(sum).collect());
            }
            items.sort_by_key(|i| (i.kind, std::cmp::Reverse(i.bytes), i.id.clone()));
            let now = Timestamp::now();
            Ok(items.iter().map(|i| item(i, now, truncate)).collect())
        }
    })
    .await
}

fn kind(kind: DiskUsageKind) -> &'static str {
    match kind {
        DiskUsageKind::Unspecified => "Other",
        DiskUsageKind::Images => "Images",
        DiskUsageKind::Containers => "Containers",
        DiskUsageKind::Logs => "Logs",
        DiskUsageKind::LayerStore => "Layer store",
        DiskUsageKind::Volumes => "Local Volumes",
        DiskUsageKind::Database => "Database",
    }
}

fn sum(s: &v1::DiskUsageSum) -> Value {
    let percent = (s.reclaimable_bytes * 100).checked_div(s.bytes).unwrap_or(0);
    json!({
        "Type": kind(s.kind()),
        "TotalCount": s.count,
        "Active": s.active,
        "Size": human_size(s.bytes),
        "SizeBytes": s.bytes,
        "Reclaimable": format!("{} ({percent}%)", human_size(s.reclaimable_bytes)),
        "ReclaimableBytes": s.reclaimable_bytes,
    })
}

fn item(i: &v1::DiskUsageItem, now: Timestamp, truncate: bool) -> Value {
    let image = i.kind() == DiskUsageKind::Images;
    let names: Vec<String> = i
        .names
        .iter()
        .map(|n| {
            n.parse::<berth_model::Reference>().map_or(n.clone(), |r| if image { r.familiar() } else { n.clone() })
        })
        .collect();
    json!({
        "Type": kind(i.kind()),
        "ID": if truncate { short(&i.id) } else { &i.id },
        "Name": if names.is_empty() { "<none>".to_owned() } else { names.join(", ") },
        "Image": i.image,
        "Size": human_size(i.bytes),
        "SizeBytes": i.bytes,
        "SharedSize": if image { human_size(i.shared_bytes) } else { String::new() },
        "SharedSizeBytes": i.shared_bytes,
        "Containers": if image { i.containers.to_string() } else { String::new() },
        "Active": i.active,
        "CreatedSince": view::ago(time(i.created.as_ref()), now),
    })
}

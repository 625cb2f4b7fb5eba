//! `volume`: create, ls, inspect, rm, prune, export, import, clone and df.

mod export;
mod import;

use super::{details, for_names, list, prune};
use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, Shape, Show};
use crate::units::{human_size, time};
use berth::v1::{self, volumes_client::VolumesClient};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Make a volume
    Create(Create),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show everything about volumes
    Inspect(Inspect),
    /// Remove volumes with their files
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove volumes that no container refers to
    Prune(prune::Volumes),
    /// Write a volume's files out as a tar
    Export(Export),
    /// Make a volume of a tar, or fill or replace one
    Import(Import),
    /// Make a volume with the files of another one
    Clone(Clone),
    /// Show what volumes take of the disk
    Df(Df),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Options: size=10g is as much as the volume may take. Where the disk that volumes are on has project quotas (ext4 or xfs, mounted with \
        prjquota) it is one, and nothing is reserved; else the volume gets a file system of that size, reserved at once. backing=quota or \
        backing=loop chooses.\ntype=, device= and o= are those of Docker's local driver \
        and need a permission of their own.\n\nExamples:\n  berthctl volume create data\n  berthctl volume create --opt size=1g small\n  \
        berthctl volume create --opt type=nfs --opt o=addr=10.0.0.1,rw --opt device=:/srv/data shared"
)]
pub struct Create {
    /// Label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Option: size=, backing=, type=, device=, o=
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Driver
    #[arg(short, long, value_parser = ["local"], default_value = "local")]
    driver: String,
    /// Name [default: one is made up]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only volumes that fit: name=, label=, label!=, dangling=, driver=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Count the bytes of their files, too
    #[arg(short, long)]
    size: bool,
    /// Only names
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Shape of the output
    #[arg(short, long, value_parser = ["json", "yaml"], default_value = "json")]
    output: String,
    /// Count the bytes of its files, too
    #[arg(short, long)]
    size: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// One that is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    volumes: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A volume that is in use is read while it is written: stop its containers for a copy that belongs together.\n\nWhen the agent is \
        restarted in between, the tar goes on at the byte where it broke off. Where the volume has changed meanwhile, a file is written anew, and \
        a pipe is cut off, which is an error.\n\nExamples:\n  \
        berthctl volume export -o data.tar data\n  berthctl -H a volume export data | berthctl -H b volume import data"
)]
pub struct Export {
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Volume
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    volume: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "When the agent is restarted in between, the import goes on where it was: the host keeps what has arrived, and needs room for \
        the tar beside its files. A file of 16 MiB or more goes on there also when this command was ended in the middle and is started again within an \
        hour, as long as the file is the same.\n\nExample:\n  berthctl volume import data data.tar"
)]
pub struct Import {
    /// What the volume has goes; else it must be empty
    #[arg(long)]
    replace: bool,
    /// Send a file in one go: the host needs no room for the tar beside its files, and what breaks begins anew
    #[arg(long)]
    direct: bool,
    /// Volume; made when it is not there
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    volume: String,
    /// Tar; -: standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Clone {
    /// Label in the place of the source's
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Volume
    #[arg(add = ArgValueCompleter::new(complete::volumes))]
    source: String,
    /// Name of the new one
    target: String,
}

#[derive(Debug, Args)]
pub struct Df {
    #[command(flatten)]
    show: Show,
}

const SHAPE: Shape = Shape { columns: &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")], name: "Name" };
const SIZED: Shape =
    Shape { columns: &[("DRIVER", "Driver"), ("VOLUME NAME", "Name"), ("SIZE", "Size")], name: "Name" };
const DISK: Shape = Shape {
    columns: &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size"), ("LIMIT", "Limit")],
    name: "Name",
};

fn row(v: &v1::Volume) -> Value {
    let or_none = |bytes: u64| if bytes == 0 { String::new() } else { human_size(bytes) };
    json!({
        "Name": v.name,
        "Driver": "local",
        "Scope": "local",
        "CreatedAt": time(v.created.as_ref()).map(|t| t.to_string()),
        "Labels": v.labels,
        "Options": v.options,
        "Anonymous": v.anonymous,
        "Mountpoint": v.mountpoint,
        "Containers": v.containers,
        "Links": v.containers.len(),
        "Size": v.size_bytes.map(human_size),
        "SizeBytes": v.size_bytes,
        "Limit": or_none(v.limit_bytes),
        "LimitBytes": v.limit_bytes,
        "LimitedBy": v.limited_by,
        "Used": v.used_bytes.map(human_size),
        "UsedBytes": v.used_bytes,
    })
}

pub async fn run(fleet: &Fleet, args: Volume) -> Result<u8> {
    match args {
        Volume::Create(a) => create(fleet, a).await,
        Volume::Ls(a) => ls(fleet, a).await,
        Volume::Inspect(a) => inspect(fleet, a).await,
        Volume::Rm(a) => rm(fleet, a).await,
        Volume::Prune(a) => prune::volumes(fleet, a).await,
        Volume::Export(a) => export::export(fleet, a).await,
        Volume::Import(a) => import::import(fleet, a).await,
        Volume::Clone(a) => clone(fleet, a).await,
        Volume::Df(a) => df(fleet, a).await,
    }
}

fn map(flag: &str, given: &[String], needs_value: bool) -> Result<HashMap<String, String>> {
    let mut map = HashMap::new();
    for text in given {
        let (key, value) = match text.split_once('=') {
            Some(pair) => pair,
            None if needs_value => return Err(Error::usage(format!("{flag} {text:?}: write KEY=VALUE"))),
            None => (text.as_str(), ""),
        };
        if key.is_empty() {
            return Err(Error::usage(format!("{flag} {text:?}: there is no key")));
        }
        map.insert(key.to_owned(), value.to_owned());
    }
    Ok(map)
}

async fn create(fleet: &Fleet, args: Create) -> Result<u8> {
    let (labels, options) = (map("--label", &args.label, false)?, map("--opt", &args.opt, true)?);
    for_names(fleet, vec![args.name.unwrap_or_default()], move |c, name| {
        let (labels, options) = (labels.clone(), options.clone());
        async move {
            let request = v1::CreateVolumeRequest { request_id: request_id()?, name, labels, options };
            // Making a file system takes its time.
            let answer = c.retry(async || c.volumes().create(c.request(request.clone(), None)).await).await?;
            Ok(vec![answer.into_inner().volume.unwrap_or_default().name])
        }
    })
    .await
}

async fn all(c: &Connection, filters: Vec<v1::ListFilter>, sizes: bool) -> Result<Vec<v1::Volume>> {
    let request = v1::ListVolumesRequest { filters, sizes };
    let timeout = (!sizes).then_some(UNARY_TIMEOUT);
    c.retry(async || {
        let mut stream = c.volumes().list(c.request(request.clone(), timeout)).await?.into_inner();
        let mut volumes = Vec::new();
        while let Some(answer) = stream.message().await? {
            volumes.extend(answer.volume);
        }
        Ok(volumes)
    })
    .await
}

async fn ls(fleet: &Fleet, args: Ls) -> Result<u8> {
    let filters = list::filters(&args.filter, &["name", "label", "label!", "dangling", "driver"])?;
    let shape = if args.size { SIZED } else { SHAPE };
    let shown = if args.quiet { (shape, Format::Name) } else { (shape, args.show.format()?) };
    list::show(fleet, shown, move |c: Connection| {
        let (filters, size) = (filters.clone(), args.size);
        async move { Ok(all(&c, filters, size).await?.iter().map(row).collect()) }
    })
    .await
}

async fn df(fleet: &Fleet, args: Df) -> Result<u8> {
    let shown = (DISK, args.show.format()?);
    list::show(fleet, shown, move |c: Connection| async move {
        let mut volumes = all(&c, Vec::new(), true).await?;
        volumes.sort_by_key(|v| std::cmp::Reverse(v.size_bytes));
        Ok(volumes.iter().map(row).collect())
    })
    .await
}

async fn inspect(fleet: &Fleet, args: Inspect) -> Result<u8> {
    let format = details::format(args.format.as_deref(), &args.output)?;
    let size = args.size;
    details::show(fleet, format, args.volumes, move |c, volume| async move {
        let request = v1::InspectVolumeRequest { volume, size };
        let timeout = (!size).then_some(UNARY_TIMEOUT);
        let answer = c.retry(async || c.volumes().inspect(c.request(request.clone(), timeout)).await).await?;
        answer
            .into_inner()
            .volume
            .as_ref()
            .map(row)
            .ok_or_else(|| Error::new("the agent sent an answer without a volume"))
    })
    .await
}

async fn rm(fleet: &Fleet, args: Rm) -> Result<u8> {
    for_names(fleet, args.volumes, move |c, volume| async move {
        let request = v1::RemoveVolumeRequest { request_id: request_id()?, volume: volume.clone() };
        let call = async || c.volumes().remove(c.request(request.clone(), None)).await;
        // Asked again it may be gone by the first time, whose answer was lost.
        let (answer, unsure) = c.retry_unsure(call).await?;
        if !answer.into_inner().removed && !unsure && !args.force {
            return Err(
                Error::new(format!("no such volume: {volume}")).hint("berthctl volume ls lists what the host has")
            );
        }
        Ok(vec![volume])
    })
    .await
}

async fn clone(fleet: &Fleet, args: Clone) -> Result<u8> {
    let labels = map("--label", &args.label, false)?;
    for_names(fleet, vec![args.target], move |c, target| {
        let labels = (!labels.is_empty()).then(|| v1::VolumeLabels { labels: labels.clone() });
        let source = args.source.clone();
        async move {
            let request = v1::CloneVolumeRequest { request_id: request_id()?, source, target: target.clone(), labels };
            c.retry(async || VolumesClient::clone(&mut c.volumes(), c.request(request.clone(), None)).await).await?;
            Ok(vec![target])
        }
    })
    .await
}

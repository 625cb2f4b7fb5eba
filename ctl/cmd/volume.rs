//! `volume`: create, ls, inspect, rm, prune, export, import, clone and df.

use super::changes::Out;
use super::{details, for_names, list, prune};
use crate::complete;
use crate::connect::{Connection, Patience, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, Shape, Show, Sink};
use crate::replay::Replay;
use crate::units::{human_size, time};
use berth::hex;
use berth::v1::{self, volumes_client::VolumesClient};
use bytes::Bytes;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of one frame of a tar.
const PIECE: usize = 128 << 10;
/// Frames that wait for the agent.
const QUEUE: usize = 4;
/// Bytes of standard input that an import keeps. How much of a tar has arrived is not known before all of it has: what is longer cannot be sent
/// again to an agent that was restarted in between.
const KEPT: usize = 16 << 20;

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
    after_help = "Options: size=10g gives the volume a file system of that size; type=, device= and o= are those of Docker's local driver \
        and need a permission of their own.\n\nExamples:\n  berthctl volume create data\n  berthctl volume create --opt size=1g small\n  \
        berthctl volume create --opt type=nfs --opt o=addr=10.0.0.1,rw --opt device=:/srv/data shared"
)]
pub struct Create {
    /// Label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Option: size=, type=, device=, o=
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
    after_help = "A volume that is in use is read while it is written: stop its containers for a copy that belongs together.\n\nExamples:\n  \
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
    after_help = "When the agent is restarted in between, a file is sent again from its beginning, and so is standard input of at most 16 MiB.\n\n\
        Example:\n  berthctl volume import data data.tar"
)]
pub struct Import {
    /// What the volume has goes; else it must be empty
    #[arg(long)]
    replace: bool,
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
    })
}

pub async fn run(fleet: &Fleet, args: Volume) -> Result<u8> {
    match args {
        Volume::Create(a) => create(fleet, a).await,
        Volume::Ls(a) => ls(fleet, a).await,
        Volume::Inspect(a) => inspect(fleet, a).await,
        Volume::Rm(a) => rm(fleet, a).await,
        Volume::Prune(a) => prune::volumes(fleet, a).await,
        Volume::Export(a) => export(fleet, a).await,
        Volume::Import(a) => import(fleet, a).await,
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
        let tries = Cell::new(0);
        let call = async || {
            tries.set(tries.get() + 1);
            c.volumes().remove(c.request(request.clone(), None)).await
        };
        // Asked again it may be gone by the first time, whose answer was lost.
        if !c.retry(call).await?.into_inner().removed && tries.get() == 1 && !args.force {
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

/// Why a transfer ended too early.
enum Cut {
    Local(Error),
    Remote(tonic::Status),
}

async fn export(fleet: &Fleet, args: Export) -> Result<u8> {
    if fleet.hosts.len() > 1 {
        return Err(Error::usage("the tars of several hosts do not go into one").hint("export from one host: -H HOST"));
    }
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::usage("a tar is nothing for a terminal").hint("-o FILE writes it to a file"));
    }
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let (args, sink) = (args.clone(), Sink::new(labels.label(&c.label)));
        async move {
            let going = super::cp::Going::new(&sink, args.output.is_none(), "Exporting");
            let mut patience = Patience::default();
            let done = loop {
                let mut out = None;
                let cut = match exported(&c, &args, &mut out, &going).await {
                    Ok(()) => break out.map_or(Ok(()), Out::finish),
                    Err(Cut::Local(error)) => break Err(error),
                    Err(Cut::Remote(status)) => status,
                };
                // What standard output has cannot be taken back; a file begins anew.
                if let Some(bytes) = out.as_ref().and_then(Out::given) {
                    let mut error = c.error(&cut);
                    error.message = format!("{}; the tar is cut off after {bytes} bytes", error.message);
                    let hint = "-o FILE writes a file that is whole or not there, and begins again by itself";
                    break Err(error.hint(hint));
                }
                drop(out);
                if let Err(e) = patience.wait(&c, &cut).await {
                    break Err(e);
                }
            };
            going.end();
            done
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// One try. What comes is hashed, and must be what the agent says of it at the end.
async fn exported(c: &Connection, args: &Export, out: &mut Option<Out>, going: &super::cp::Going) -> Result<(), Cut> {
    use v1::export_volume_response::Kind;
    let request = c.request(v1::ExportVolumeRequest { volume: args.volume.clone() }, None);
    let mut frames = c.volumes().export(request).await.map_err(Cut::Remote)?.into_inner();
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    while let Some(frame) = frames.message().await.map_err(Cut::Remote)? {
        match frame.kind {
            Some(Kind::Tar(tar)) => {
                let to = match &mut *out {
                    Some(to) => to,
                    none => none.insert(Out::open(args.output.as_deref()).map_err(Cut::Local)?),
                };
                hash.update(&tar);
                going.add(tar.len());
                to.write(&tar).map_err(Cut::Local)?;
            }
            Some(Kind::End(end)) => {
                let is = hex::encode(hash.finish().as_ref());
                if is != end.sha256 {
                    return Err(Cut::Local(Error::new(format!(
                        "what came is not what {} sent: its digest is {is}, and should be {}",
                        c.label, end.sha256
                    ))));
                }
                return Ok(());
            }
            None => {}
        }
    }
    Err(Cut::Local(Error::new(format!("{} ended the tar before its digest: it is a part", c.label))))
}

async fn import(fleet: &Fleet, args: Import) -> Result<u8> {
    let stdin = args.file.as_os_str() == "-";
    if stdin && fleet.hosts.len() > 1 {
        return Err(Error::usage("standard input can go to one host only").hint("write the tar to a file first"));
    }
    if stdin && std::io::stdin().is_terminal() {
        return Err(Error::usage("a terminal gives no tar").hint("name a file, or send one to standard input: < FILE"));
    }
    if !stdin {
        // Before any host is asked.
        std::fs::File::open(&args.file).map_err(|e| Error::io(format!("opening {}", args.file.display()), &e))?;
    }
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let (args, sink) = (args.clone(), Sink::new(labels.label(&c.label)));
        async move {
            let start =
                v1::ImportVolumeStart { request_id: request_id()?, volume: args.volume.clone(), replace: args.replace };
            let going = super::cp::Going::new(&sink, false, "Importing");
            let mut patience = Patience::default();
            let kept = stdin.then(|| Arc::new(Replay::new(KEPT)));
            let done = loop {
                match imported(&c, &args, start.clone(), kept.clone(), &going).await {
                    Ok(done) => break Ok(done),
                    Err(Cut::Local(error)) => break Err(error),
                    Err(Cut::Remote(status)) if kept.as_ref().is_some_and(|k| k.is_lost()) => {
                        break Err(not_again(&c, &status));
                    }
                    // The volume is as it was: the tar is sent once more from its beginning.
                    Err(Cut::Remote(status)) => {
                        if let Err(e) = patience.wait(&c, &status).await {
                            break Err(e);
                        }
                    }
                }
            };
            going.end();
            let done = done?;
            for name in done.skipped {
                super::warn(&sink, &[format!("the device {name} was left out")]);
            }
            sink.line(&args.volume)
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// The tar is longer than what is kept of it.
fn not_again(c: &Connection, status: &tonic::Status) -> Error {
    let error = c.error(status);
    if !c.worth_repeating(status) {
        return error;
    }
    error.hint(
        "the volume is as it was, and standard input cannot be read again: begin anew, or import a file, which is sent again by itself",
    )
}

/// `kept`: standard input; without it, a file.
async fn imported(
    c: &Connection,
    args: &Import,
    start: v1::ImportVolumeStart,
    kept: Option<Arc<Replay>>,
    going: &super::cp::Going,
) -> Result<v1::ImportVolumeResponse, Cut> {
    use v1::import_volume_request::Kind;
    let frame = |kind| v1::ImportVolumeRequest { kind: Some(kind) };
    let (frames, stream) = mpsc::channel(QUEUE);
    let _ = frames.send(frame(Kind::Start(start))).await;
    let (file, going) = (args.file.clone(), going.clone());
    let (told, read) = tokio::sync::oneshot::channel();
    // A thread of its own: nobody waits at the end for one that waits for a pipe.
    let thread = std::thread::Builder::new().name("read".into()).spawn(move || {
        let work = || -> std::io::Result<()> {
            let (mut from, kept): (Box<dyn Read>, _) = match kept {
                Some(kept) => (Box::new(std::io::stdin()), kept),
                None => (Box::new(std::fs::File::open(&file)?), Arc::default()),
            };
            let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
            let mut bytes = 0;
            // Not taken: the agent has ended the call, and says why.
            let whole = kept.read(&mut *from, PIECE, |piece, is_first| {
                hash.update(piece);
                bytes += piece.len() as u64;
                if is_first {
                    going.add(piece.len());
                }
                frames.blocking_send(frame(Kind::Tar(Bytes::copy_from_slice(piece)))).is_ok()
            })?;
            if whole {
                let end = v1::VolumeTarEnd { sha256: hex::encode(hash.finish().as_ref()), bytes };
                let _ = frames.blocking_send(frame(Kind::End(end)));
            }
            Ok(())
        };
        let _ = told.send(work());
    });
    thread.map_err(|e| Cut::Local(Error::io("starting a thread", &e)))?;
    match c.volumes().import(c.request(ReceiverStream::new(stream), None)).await {
        Ok(answer) => Ok(answer.into_inner()),
        // Its own trouble comes first: it is why the agent got no whole tar.
        Err(status) => match tokio::time::timeout(std::time::Duration::from_millis(200), read).await {
            Ok(Ok(Err(e))) => Err(Cut::Local(Error::io(format!("reading {}", args.file.display()), &e))),
            _ => Err(Cut::Remote(status)),
        },
    }
}

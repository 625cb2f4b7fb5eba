//! `cp`: files between a container and this machine, as tars, by Docker's rules. Who receives decides where things go.

use crate::connect::{Connection, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::local::{self, Destination, Source};
use crate::output::Sink;
use crate::units;
use berth::v1::{self, copy_from_response, copy_to_request};
use berth_tar::Owner;
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Pieces on their way between the disk and the network.
const QUEUE: usize = 8;
/// How long the reading side may take to notice that nobody takes its pieces any more.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(
    override_usage = "berthctl cp [OPTIONS] CONTAINER:SRC DEST|-\n       berthctl cp [OPTIONS] SRC|- CONTAINER:DEST",
    after_help = "A folder is copied into DEST when that is there, and becomes DEST when it is not; SRC/. copies what is in it. The folder \
        above DEST must be there. -: a tar on standard input or output.\n\
        In a container files belong to root, here to whoever copies; --archive keeps owners and set-id bits.\n\
        A container that does not run has its own files only: what is mounted into it is there while it runs.\n\
        /proc, /sys and their like come empty; read their files with exec.\n\n\
        Examples:\n  berthctl cp web:/var/log/nginx .\n  berthctl -g web cp ./site/. web:/usr/share/nginx/html\n  \
        tar c conf | berthctl cp - web:/etc/app"
)]
pub struct Cp {
    /// Keep owners and set-id bits
    #[arg(short, long)]
    archive: bool,
    /// Copy what a symbolic link at SRC names
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    /// What is copied: CONTAINER:PATH, PATH, or -
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    source: std::ffi::OsString,
    /// Where to: CONTAINER:PATH, PATH, or -
    #[arg(value_name = "DEST", allow_hyphen_values = true)]
    destination: std::ffi::OsString,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Place {
    Stream,
    Here(PathBuf),
    Container(String, Vec<u8>),
}

/// `CONTAINER:PATH`; what begins with a slash or a dot is a path of this machine, whatever colons it has.
fn place(text: &std::ffi::OsStr) -> Result<Place> {
    let bytes = text.as_bytes();
    if bytes == b"-" {
        return Ok(Place::Stream);
    }
    let here = || Place::Here(PathBuf::from(text));
    let Some(colon) = bytes.iter().position(|b| *b == b':') else { return Ok(here()) };
    if colon == 0 || matches!(bytes[0], b'/' | b'.') {
        return Ok(here());
    }
    let name = String::from_utf8(bytes[..colon].to_vec()).map_err(|_| Error::usage("a container's name is UTF-8"))?;
    let path = &bytes[colon + 1..];
    if path.is_empty() {
        return Err(Error::usage(format!("{name}: has no path")).hint(format!("{name}:/ is the container's root")));
    }
    // Paths of a container begin at its root.
    let path = if path.starts_with(b"/") { path.to_vec() } else { [b"/", path].concat() };
    Ok(Place::Container(name, path))
}

/// How far a copy is: a line on a terminal, for one host.
#[derive(Clone, Debug)]
pub(super) struct Going {
    bar: ProgressBar,
    what: &'static str,
}

impl Going {
    pub(super) fn new(sink: &Sink, quiet: bool, what: &'static str) -> Going {
        let shown = !quiet && !sink.labelled() && crate::term::stderr_is_terminal();
        let bar = if shown { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Going { bar, what }
    }

    /// So many bytes more of the tar.
    pub(super) fn add(&self, bytes: usize) {
        if !self.bar.is_hidden() {
            self.bar.inc(bytes as u64);
            self.bar.set_message(format!("{} - {}", self.what, units::human_size(self.bar.position())));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

pub async fn cp(fleet: &Fleet, args: Cp) -> Result<u8> {
    let several = fleet.hosts.len() > 1;
    match (place(&args.source)?, place(&args.destination)?) {
        (Place::Container(..), Place::Container(..)) => {
            Err(Error::usage("copying between containers is not supported")
                .hint("berthctl cp ONE:PATH - | berthctl cp - OTHER:FOLDER"))
        }
        (source @ (Place::Stream | Place::Here(_)), Place::Container(container, path)) => {
            if source == Place::Stream && several {
                return Err(Error::usage("standard input can be copied to one host only")
                    .hint("write the tar to a folder first, and copy that"));
            }
            let source = match source {
                Place::Here(path) => Some(path),
                _ => None,
            };
            // Before any host is asked.
            let source = Source::look(source.as_deref(), args.follow_link)?;
            to_container(fleet, args, source, container, path).await
        }
        (Place::Container(container, path), destination @ (Place::Stream | Place::Here(_))) => {
            if several {
                return Err(Error::usage("files of several hosts would have the same names here")
                    .hint("copy from one host at a time: -H HOST"));
            }
            from_container(fleet, args, container, path, destination).await
        }
        _ => Err(Error::usage("one side must be a container: CONTAINER:PATH")),
    }
}

async fn to_container(fleet: &Fleet, args: Cp, source: Source, container: String, path: Vec<u8>) -> Result<u8> {
    let (labels, work) = (fleet.clone(), Rc::new((args, source, container, path)));
    let call = move |c: Connection| {
        let work = work.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let (args, source, container, path) = &*work;
            let start = v1::CopyToStart {
                request_id: request_id()?,
                container: container.clone(),
                path: path.clone().into(),
                source: source.kind().into(),
                name: source.name().to_vec().into(),
                keep_owner: args.archive,
            };
            let going = Going::new(&sink, args.quiet, "Copying to container");
            let done = upload(&c, start, source.clone(), &going).await;
            going.end();
            let done = done?;
            if !args.quiet {
                let shown = String::from_utf8_lossy(path);
                let size = units::human_size(done.bytes);
                sink.say(&crate::output::printable(&format!("Successfully copied {size} to {container}:{shown}")));
            }
            Ok(())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

async fn upload(c: &Connection, start: v1::CopyToStart, source: Source, going: &Going) -> Result<v1::CopyToResponse> {
    let (frames, stream) = mpsc::channel(QUEUE);
    let frame = |kind| v1::CopyToRequest { kind: Some(kind) };
    let _ = frames.send(frame(copy_to_request::Kind::Start(start))).await;
    let (read, ended) = oneshot::channel();
    let going = going.clone();
    // A thread of its own: nobody waits at the end for one that waits for a terminal.
    let thread = std::thread::Builder::new().name("read".into()).spawn(move || {
        let send = |bytes: Bytes| {
            going.add(bytes.len());
            frames.blocking_send(frame(copy_to_request::Kind::Tar(bytes))).is_ok()
        };
        let done = source.read(&send);
        if done.is_ok() {
            let _ = frames.blocking_send(frame(copy_to_request::Kind::Done(v1::CopyDone {})));
        }
        let _ = read.send(done);
    });
    thread.map_err(|e| Error::io("starting a thread", &e))?;
    match c.files().copy_to(c.request(ReceiverStream::new(stream), None)).await {
        Ok(answer) => Ok(answer.into_inner()),
        // Its own trouble comes first: it is why the agent got no whole tar.
        Err(status) => match tokio::time::timeout(SETTLE, ended).await {
            Ok(Ok(Err(e))) if !e.quiet => Err(e),
            _ => Err(c.error(&status)),
        },
    }
}

async fn from_container(fleet: &Fleet, args: Cp, container: String, path: Vec<u8>, to: Place) -> Result<u8> {
    if to == Place::Stream && std::io::stdout().is_terminal() {
        return Err(Error::usage("a tar is nothing for a terminal").hint("send it to a file or a pipe: > FILE"));
    }
    let (labels, work) = (fleet.clone(), Rc::new((args, container, path, to)));
    let call = move |c: Connection| {
        let work = work.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let (args, container, path, to) = &*work;
            let request = v1::CopyFromRequest {
                container: container.clone(),
                path: path.clone().into(),
                follow_link: args.follow_link,
            };
            let quiet = args.quiet || *to == Place::Stream;
            let going = Going::new(&sink, quiet, "Copying from container");
            let done = download(&c, request, to, args.archive, &going).await;
            going.end();
            let (bytes, skipped) = done?;
            for name in skipped {
                super::warn(&sink, &[format!("the device {name} was left out")]);
            }
            if !args.quiet
                && let Place::Here(to) = to
            {
                let size = units::human_size(bytes);
                sink.say(&crate::output::printable(&format!("Successfully copied {size} to {}", to.display())));
            }
            Ok(())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Bytes of the files, and what was left out.
async fn download(
    c: &Connection,
    request: v1::CopyFromRequest,
    to: &Place,
    archive: bool,
    going: &Going,
) -> Result<(u64, Vec<String>)> {
    use copy_from_response::Kind;
    let (mut frames, first) = c
        .retry(async || {
            let mut frames = c.files().copy_from(c.request(request.clone(), None)).await?.into_inner();
            let first = frames.message().await?;
            Ok((frames, first))
        })
        .await?;
    let Some(Kind::Start(start)) = first.and_then(|f| f.kind) else {
        return Err(Error::new(format!("{} did not say what it sends", c.label)));
    };
    let (pieces, incoming) = mpsc::channel::<Bytes>(QUEUE);
    let owner = if archive { Owner::Kept } else { Owner::Mine };
    let writing = match to {
        Place::Here(path) => {
            let destination = Destination::find(path, &start)?;
            tokio::task::spawn_blocking(move || destination.write(incoming, owner))
        }
        _ => tokio::task::spawn_blocking(move || local::to_stdout(incoming).map(|n| (n, Vec::new()))),
    };
    let mut broken = None;
    loop {
        match frames.message().await {
            Ok(None) => break,
            Ok(Some(frame)) => {
                if let Some(Kind::Tar(bytes)) = &frame.kind {
                    going.add(bytes.len());
                }
                if let Some(Kind::Tar(bytes)) = frame.kind
                    && !bytes.is_empty()
                    && pieces.send(bytes).await.is_err()
                {
                    break;
                }
            }
            Err(status) => {
                broken = Some(c.error(&status));
                break;
            }
        }
    }
    // An empty piece says that all has come: without it what is here is a part.
    if broken.is_none() {
        let _ = pieces.send(Bytes::new()).await;
    }
    drop(pieces);
    let written = writing.await.map_err(|e| Error::new(format!("writing what was copied: {e}")))?;
    match (broken, written) {
        (Some(e), _) => Err(e),
        (None, written) => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides() {
        let container = |n: &str, p: &str| Place::Container(n.into(), p.into());
        for (text, want) in [
            ("web:/etc", container("web", "/etc")),
            ("web:etc/.", container("web", "/etc/.")),
            ("web:a:b", container("web", "/a:b")),
            ("./web:x", Place::Here("./web:x".into())),
            ("/a:b", Place::Here("/a:b".into())),
            ("a/b", Place::Here("a/b".into())),
            ("-", Place::Stream),
        ] {
            assert_eq!(place(std::ffi::OsStr::new(text)).expect(text), want, "{text}");
        }
        assert!(place(std::ffi::OsStr::new("web:")).is_err());
    }
}

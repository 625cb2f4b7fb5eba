//! `volume import`: a tar on its way to a volume.

mod parts;
mod source;

use self::source::Source;
use super::Import;
use crate::cmd::cp::Going;
use crate::connect::{Connection, Patience, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use crate::replay::Replay;
use berth::hex;
use berth::v1;
use bytes::Bytes;
use std::io::{IsTerminal, Read};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of one frame of a tar.
const PIECE: usize = 128 << 10;
/// Frames that wait for the agent.
const QUEUE: usize = 4;
/// Bytes of standard input that are kept for an agent that does not say how much of it has arrived: what is longer cannot be sent again to one
/// that was restarted in between.
const KEPT: usize = 16 << 20;

/// Why a try ended too early.
enum Cut {
    Local(Error),
    Remote(tonic::Status),
}

pub async fn import(fleet: &Fleet, args: Import) -> Result<u8> {
    let stdin = args.file.as_os_str() == "-";
    if stdin && fleet.hosts.len() > 1 {
        return Err(Error::usage("standard input can go to one host only").hint("write the tar to a file first"));
    }
    if stdin && std::io::stdin().is_terminal() {
        return Err(Error::usage("a terminal gives no tar").hint("name a file, or send one to standard input: < FILE"));
    }
    if stdin && args.direct {
        return Err(Error::usage("--direct: standard input cannot be sent again; name a file"));
    }
    let tar_key = match stdin || args.direct {
        true => None,
        // Before any host is asked.
        false => source::key(&args.file).map_err(|e| Error::io(format!("opening {}", args.file.display()), &e))?,
    };
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let (args, sink) = (args.clone(), Sink::new(labels.label(&c.label)));
        let tar_key = tar_key.clone();
        async move {
            let in_parts = stdin || tar_key.is_some();
            let start = v1::ImportVolumeStart {
                request_id: request_id()?,
                volume: args.volume.clone(),
                replace: args.replace,
                tar_key: tar_key.unwrap_or_default(),
            };
            let going = Going::new(&sink, false, "Importing");
            let source = if stdin { Source::Stdin } else { Source::File(args.file.clone()) };
            if in_parts
                && let Some(done) = parts::import(&c, &start, source, &going).await.inspect_err(|_| going.end())?
            {
                going.end();
                return told(&sink, &args.volume, done);
            }
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
            told(&sink, &args.volume, done?)
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

fn told(sink: &Sink, volume: &str, done: v1::ImportVolumeResponse) -> Result<()> {
    for name in done.skipped {
        crate::cmd::warn(sink, &[format!("the device {name} was left out")]);
    }
    sink.line(volume)
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
    going: &Going,
) -> std::result::Result<v1::ImportVolumeResponse, Cut> {
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

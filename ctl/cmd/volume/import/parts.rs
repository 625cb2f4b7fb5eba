//! Standard input on its way to a volume: it cannot be read a second time, so the agent says how much of it is safe, and the rest is kept here.

use super::{Cut, PIECE, QUEUE};
use crate::cmd::cp::Going;
use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::session::Input;
use aws_lc_rs::digest::{Context, SHA256};
use berth::hex;
use berth::v1::{self, import_volume_progress, import_volume_request::Kind};
use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Bytes that are kept while the agent does not have them safely. It says so every 8 MiB: this is room for the next ones meanwhile.
const HELD: u64 = 32 << 20;

/// Standard input, over all tries.
struct Tar {
    /// What a thread reads; `None`: nobody reads yet.
    input: Option<mpsc::Receiver<io::Result<Bytes>>>,
    feed: Feed,
    hash: Context,
    bytes: u64,
    ended: bool,
}

impl Tar {
    /// A thread of its own: nobody waits at the end for one that waits for a pipe.
    fn begin(&mut self) -> io::Result<()> {
        if self.input.is_some() {
            return Ok(());
        }
        let (send, receive) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("read".into()).spawn(move || {
            let mut from = io::stdin().lock();
            loop {
                let mut piece = vec![0; PIECE];
                let read = match from.read(&mut piece) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let item = read.map(|n| {
                    piece.truncate(n);
                    Bytes::from(piece)
                });
                let last = !matches!(&item, Ok(piece) if !piece.is_empty());
                if send.blocking_send(item).is_err() || last {
                    return;
                }
            }
        })?;
        self.input = Some(receive);
        Ok(())
    }

    fn wants_more(&self) -> bool {
        !self.ended && self.input.is_some() && self.feed.has_room()
    }

    /// Empty bytes: the end.
    async fn more(&mut self) -> Option<io::Result<Bytes>> {
        self.input.as_mut()?.recv().await
    }

    fn push(&mut self, piece: Bytes, going: &Going) {
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        self.ended |= piece.is_empty();
        going.add(piece.len());
        self.feed.push(piece);
    }

    fn frame(&mut self) -> Option<v1::ImportVolumeRequest> {
        let kind = match self.feed.next()? {
            Input::Stdin(bytes) => Kind::Tar(bytes),
            _ => {
                let sha256 = hex::encode(self.hash.clone().finish().as_ref());
                Kind::End(v1::VolumeTarEnd { sha256, bytes: self.bytes })
            }
        };
        Some(v1::ImportVolumeRequest { kind: Some(kind) })
    }
}

/// `None`: the agent is older, and knows no such import; nothing was read.
pub(super) async fn import(
    c: &Connection,
    start: &v1::ImportVolumeStart,
    going: &Going,
) -> Result<Option<v1::ImportVolumeResponse>> {
    let feed = Feed::with_window(HELD);
    let mut tar = Tar { input: None, feed, hash: Context::new(&SHA256), bytes: 0, ended: false };
    let mut patience = Patience::default();
    loop {
        match some(c, start, &mut tar, going, &mut patience).await {
            Ok(done) => return Ok(Some(done)),
            Err(Cut::Local(error)) => return Err(error),
            Err(Cut::Remote(status)) if status.code() == Code::Unimplemented && tar.input.is_none() => return Ok(None),
            Err(Cut::Remote(status)) => patience.wait(c, &status).await?,
        }
    }
}

/// One try: it goes on where the agent says.
async fn some(
    c: &Connection,
    start: &v1::ImportVolumeStart,
    tar: &mut Tar,
    going: &Going,
    patience: &mut Patience,
) -> std::result::Result<v1::ImportVolumeResponse, Cut> {
    use import_volume_progress::Kind as Told;
    let (frames, stream) = mpsc::channel(QUEUE);
    let _ = frames.send(v1::ImportVolumeRequest { kind: Some(Kind::Start(start.clone())) }).await;
    let request = c.request(ReceiverStream::new(stream), None);
    let mut answers = c.volumes().import_in_parts(request).await.map_err(Cut::Remote)?.into_inner();
    let mut begun = false;
    loop {
        let ready = begun && tar.feed.is_ready();
        let wants = begun && tar.wants_more();
        tokio::select! {
            answer = answers.message() => match answer.map_err(Cut::Remote)?.and_then(|a| a.kind) {
                Some(Told::SafeBytes(at)) if begun => tar.feed.accepted(at),
                Some(Told::SafeBytes(at)) => {
                    begun = true;
                    patience.rest();
                    tar.begin().map_err(|e| Cut::Local(Error::io("starting a thread", &e)))?;
                    if at > tar.bytes || !tar.feed.go_on_at(at) {
                        return Err(Cut::Local(lost(c, at, tar.bytes)));
                    }
                }
                Some(Told::Done(done)) => return Ok(done),
                None => return Err(Cut::Local(Error::new(format!("{} ended the import without an answer", c.label)))),
            },
            // Not taken: the call has ended, and its answer says why.
            Ok(place) = frames.reserve(), if ready => {
                if let Some(frame) = tar.frame() {
                    place.send(frame);
                }
            }
            piece = tar.more(), if wants => {
                let piece = piece.unwrap_or_else(|| Ok(Bytes::new()));
                tar.push(piece.map_err(|e| Cut::Local(Error::io("reading standard input", &e)))?, going);
            }
        }
    }
}

fn lost(c: &Connection, has: u64, read: u64) -> Error {
    Error::new(format!("{} has {has} bytes of the tar, of which {read} were read: it cannot go on", c.label))
        .hint("the volume is as it was: begin anew")
}

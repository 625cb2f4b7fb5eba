//! A tar on its way to a volume in parts: the agent says how much of it is safe, and the rest is kept here. Standard input cannot be read a second time;
//! a file may have been begun by an earlier run of this program.

use super::source::Source;
use super::{Cut, QUEUE};
use crate::cmd::cp::Going;
use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::session::Input;
use aws_lc_rs::digest::{Context, SHA256};
use berth::hex;
use berth::v1::{self, import_volume_progress, import_volume_request::Kind};
use bytes::Bytes;
use std::io;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

/// Bytes that are kept while the agent does not have them safely. It says so every 8 MiB: this is room for the next ones meanwhile.
const HELD: u64 = 32 << 20;

/// A tar, over all tries.
struct Tar {
    source: Source,
    /// What a thread reads; `None`: nobody reads yet.
    input: Option<mpsc::Receiver<io::Result<Bytes>>>,
    feed: Feed,
    /// The agent has these first bytes from an earlier import: they are read for the digest only.
    skipped: u64,
    hash: Context,
    bytes: u64,
    ended: bool,
}

impl Tar {
    fn new(source: Source) -> Tar {
        let (feed, hash) = (Feed::with_window(HELD), Context::new(&SHA256));
        Tar { source, input: None, feed, skipped: 0, hash, bytes: 0, ended: false }
    }

    /// The agent has so many bytes of it. `false`: what is behind them cannot be had any more.
    fn go_on_at(&mut self, at: u64) -> io::Result<bool> {
        let begun = self.input.is_some();
        let file = matches!(self.source, Source::File(_));
        if begun && at <= self.bytes.max(self.skipped) && self.feed.go_on_at(at) {
            return Ok(true);
        }
        if !file && (begun || at > 0) {
            return Ok(false);
        }
        // A file can be read from its beginning once more.
        *self = Tar { input: Some(self.source.read()?), ..Tar::new(self.source.clone()) };
        (self.feed, self.skipped) = (Feed::behind(at, HELD), at);
        Ok(true)
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
        going.add(piece.len());
        let there = self.skipped.saturating_sub(self.bytes).min(piece.len() as u64);
        self.bytes += piece.len() as u64;
        self.ended |= piece.is_empty();
        if self.ended || there < piece.len() as u64 {
            self.feed.push(piece.slice(there as usize..));
        }
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
    source: Source,
    going: &Going,
) -> Result<Option<v1::ImportVolumeResponse>> {
    let mut tar = Tar::new(source);
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
                    let read = tar.bytes;
                    let goes_on = tar.go_on_at(at);
                    if !goes_on.map_err(|e| Cut::Local(Error::io(tar.source.reading(), &e)))? {
                        return Err(Cut::Local(lost(c, at, read)));
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
                tar.push(piece.map_err(|e| Cut::Local(Error::io(tar.source.reading(), &e)))?, going);
            }
        }
    }
}

fn lost(c: &Connection, has: u64, read: u64) -> Error {
    Error::new(format!("{} has {has} bytes of the tar, of which {read} were read: it cannot go on", c.label))
        .hint("the volume is as it was: begin anew")
}

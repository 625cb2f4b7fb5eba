//! One connection carried as frames in both directions of a gRPC stream: what both ends of `Containers.PortForward` do.
//!
//! Many connections share one HTTP/2 connection, and one that nobody reads must not hold up the others. So neither end ever lets frames wait in
//! HTTP/2: it takes them as they come, and keeps what its own connection does not accept yet. That this stays small is the sender's duty: it has
//! at most [`WINDOW`] bytes under way that were not confirmed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Bytes that may be under way in one direction: what each end keeps at most for a connection, and 50 MB/s at 10 ms of round trip.
pub const WINDOW: u64 = 512 << 10;
/// Bytes of one frame at most.
const CHUNK: usize = 64 << 10;
/// So much is confirmed at once. Less than the window by far, so that the sender never waits for a confirmation that waits for it.
const CONFIRM: u64 = WINDOW / 4;
/// A stream that is closed in one direction says why in the other within this.
const BOTH_HALVES: Duration = Duration::from_secs(1);

/// What goes over the stream behind its first frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    Data(Bytes),
    /// Nothing more comes from there; the other direction goes on.
    End,
    /// So many bytes of all have been accepted.
    Taken(u64),
}

/// Why a connection did not end well.
#[derive(Debug)]
pub enum Broken {
    /// The connection at this end.
    Here(io::Error),
    /// The stream ended before the connection did; with the reason, where one was told.
    There(Option<Status>),
    /// The other end sent what does not go together.
    Rules(&'static str),
}

/// When a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// Both directions have ended: for the agent, whose end closes the stream.
    BothEnd,
    /// The stream was closed behind that: for the caller, who would take back what is still on its way by leaving sooner.
    ThereCloses,
    /// The other end has nothing more to say: for a reader here that cannot be told so but by our own end.
    ThereEnds,
}

/// Bytes that went each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    pub sent: u64,
    pub received: u64,
}

/// One direction: from the connection here into frames.
struct Outward {
    piece: BytesMut,
    ready: Option<Bytes>,
    sent: u64,
    confirmed: u64,
    ended: bool,
    end_sent: bool,
}

impl Outward {
    fn room(&self) -> usize {
        usize::try_from(WINDOW - (self.sent - self.confirmed)).unwrap_or(0).min(CHUNK)
    }

    fn reads(&self) -> bool {
        !self.ended && self.ready.is_none() && self.room() > 0
    }

    fn read(&mut self, n: usize) {
        if n == 0 {
            self.ended = true;
            return;
        }
        self.sent += n as u64;
        self.ready = Some(self.piece.split().freeze());
        self.piece.reserve(CHUNK);
    }

    fn confirm(&mut self, taken: u64) -> Result<(), Broken> {
        if taken > self.sent || taken < self.confirmed {
            return Err(Broken::Rules("it confirms what was not sent"));
        }
        self.confirmed = taken;
        Ok(())
    }
}

/// The other direction: from frames into the connection here.
#[derive(Default)]
struct Inward {
    waiting: BytesMut,
    written: u64,
    told: u64,
    ended: bool,
    shut: bool,
}

impl Inward {
    fn data(&mut self, bytes: &Bytes) -> Result<(), Broken> {
        if self.ended {
            return Err(Broken::Rules("it sends behind its end"));
        }
        if (self.waiting.len() + bytes.len()) as u64 > WINDOW {
            return Err(Broken::Rules("it sends more than may be under way"));
        }
        self.waiting.extend_from_slice(bytes);
        Ok(())
    }

    fn has_work(&self) -> bool {
        !self.waiting.is_empty() || (self.ended && !self.shut)
    }

    fn owes(&self) -> bool {
        self.written - self.told >= CONFIRM && !self.ended
    }
}

/// Writes some of what waits. None: there was nothing, and the connection is shut in this direction.
async fn give(writer: &mut (impl AsyncWrite + Unpin), waiting: &[u8]) -> io::Result<Option<usize>> {
    if !waiting.is_empty() {
        return writer.write(waiting).await.map(Some);
    }
    match writer.shutdown().await {
        Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(e),
        _ => Ok(None),
    }
}

fn next(out: &mut Outward, inward: &mut Inward) -> Option<Frame> {
    if inward.owes() {
        inward.told = inward.written;
        return Some(Frame::Taken(inward.told));
    }
    if let Some(bytes) = out.ready.take() {
        return Some(Frame::Data(bytes));
    }
    (out.ended && !std::mem::replace(&mut out.end_sent, true)).then_some(Frame::End)
}

/// Carries bytes both ways until the connection is over. `wrap` makes a message of a frame.
///
/// # Errors
/// The connection, the stream, or the other end's manners broke: what was under way is lost, and the connection here should say so to its peer.
pub async fn carry<R, W, F, T>(
    mut reader: R,
    mut writer: W,
    mut frames: F,
    sender: &mpsc::Sender<T>,
    wrap: impl Fn(Frame) -> T,
    until: Until,
) -> Result<Carried, Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    F: Stream<Item = Result<Frame, Status>> + Unpin,
{
    let piece = BytesMut::with_capacity(CHUNK);
    let mut out = Outward { piece, ready: None, sent: 0, confirmed: 0, ended: false, end_sent: false };
    let mut inward = Inward::default();
    let (mut closed, mut heard) = (false, true);
    loop {
        let ended = match until {
            Until::BothEnd => out.end_sent,
            Until::ThereCloses => !heard,
            Until::ThereEnds => true,
        };
        if ended && inward.shut {
            return Ok(Carried { sent: out.sent, received: inward.written });
        }
        let sends = !closed && (inward.owes() || out.ready.is_some() || (out.ended && !out.end_sent));
        let (reads, room) = (out.reads(), out.room());
        let mut piece = (&mut out.piece).limit(room);
        tokio::select! {
            frame = frames.next(), if heard => match frame {
                Some(Ok(Frame::Data(bytes))) => inward.data(&bytes)?,
                Some(Ok(Frame::End)) => inward.ended = true,
                Some(Ok(Frame::Taken(taken))) => out.confirm(taken)?,
                Some(Err(status)) => return Err(Broken::There(Some(status))),
                None if inward.ended => heard = false,
                None => return Err(Broken::There(None)),
            },
            permit = sender.reserve(), if sends => match permit {
                Ok(permit) => {
                    if let Some(frame) = next(&mut out, &mut inward) {
                        permit.send(wrap(frame));
                    }
                }
                // Why is told in the other direction.
                Err(_) => closed = true,
            },
            () = tokio::time::sleep(BOTH_HALVES), if closed => return Err(Broken::There(None)),
            read = reader.read_buf(&mut piece), if reads => {
                out.read(read.map_err(Broken::Here)?);
            }
            given = give(&mut writer, &inward.waiting), if inward.has_work() => match given {
                Ok(Some(0)) => return Err(Broken::Here(io::ErrorKind::WriteZero.into())),
                Ok(Some(n)) => {
                    inward.waiting.advance(n);
                    inward.written += n as u64;
                }
                Ok(None) => inward.shut = true,
                Err(e) => return Err(Broken::Here(e)),
            },
            // The window is full, and who could confirm some of it has gone.
            else => return Err(Broken::There(None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;
    use tokio_stream::wrappers::ReceiverStream;

    type Sent = mpsc::Sender<Result<Frame, Status>>;

    /// An end whose frames the test writes and reads.
    fn one_end(
        until: Until,
    ) -> (DuplexStream, Sent, mpsc::Receiver<Frame>, tokio::task::JoinHandle<Result<Carried, Broken>>) {
        let (near, far) = tokio::io::duplex(1024);
        let (to, frames) = mpsc::channel(64);
        let (sender, from) = mpsc::channel(4);
        let task = tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(far);
            carry(reader, writer, ReceiverStream::new(frames), &sender, |f| f, until).await
        });
        (near, to, from, task)
    }

    #[tokio::test]
    async fn who_goes_with_a_full_window_is_gone() {
        let (mut near, to, mut from, task) = one_end(Until::BothEnd);
        let fills = tokio::spawn(async move { while near.write_all(&[0; 1000]).await.is_ok() {} });
        let drained = tokio::spawn(async move { while from.recv().await.is_some() {} });
        to.send(Ok(Frame::End)).await.expect("sent");
        drop(to);
        assert!(matches!(task.await.expect("no panic"), Err(Broken::There(None))));
        drained.await.expect("drained");
        fills.await.expect("filled");
    }

    #[tokio::test]
    async fn two_ends_carry_both_ways_and_each_half_ends_alone() {
        let (mut client, near) = tokio::io::duplex(1000);
        let (mut server, far) = tokio::io::duplex(1000);
        let (a, from_a) = mpsc::channel(2);
        let (b, from_b) = mpsc::channel(2);
        let end = |io: DuplexStream, frames, sender: Sent, until| {
            tokio::spawn(async move {
                let (reader, writer) = tokio::io::split(io);
                carry(reader, writer, ReceiverStream::new(frames), &sender, Ok, until).await.expect("carried")
            })
        };
        let (one, other) = (end(near, from_b, a, Until::ThereCloses), end(far, from_a, b, Until::BothEnd));
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let talk = tokio::spawn(async move {
            client.write_all(&sent).await.expect("written");
            client.shutdown().await.expect("shut");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("read");
            answer
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("read");
        assert_eq!(received, bytes);
        // The other direction is still open.
        server.write_all(b"thank you").await.expect("written");
        server.shutdown().await.expect("shut");
        assert_eq!(talk.await.expect("talk"), b"thank you");
        assert_eq!(one.await.expect("one"), Carried { sent: 3_000_000, received: 9 });
        assert_eq!(other.await.expect("other"), Carried { sent: 9, received: 3_000_000 });
    }

    #[tokio::test]
    async fn no_more_is_read_than_may_be_under_way() {
        let (mut near, to, mut from, task) = one_end(Until::BothEnd);
        let flood = tokio::spawn(async move {
            let _ = near.write_all(&vec![7; 4 << 20]).await;
            near
        });
        let mut got = 0;
        while got < WINDOW {
            let Some(Frame::Data(bytes)) = from.recv().await else { panic!("no data") };
            got += bytes.len() as u64;
        }
        assert_eq!(got, WINDOW);
        assert!(tokio::time::timeout(Duration::from_millis(100), from.recv()).await.is_err(), "it goes on unconfirmed");
        to.send(Ok(Frame::Taken(10))).await.expect("sent");
        assert!(matches!(from.recv().await, Some(Frame::Data(bytes)) if bytes.len() <= 10));
        to.send(Ok(Frame::Taken(WINDOW * 9))).await.expect("sent");
        assert!(matches!(task.await.expect("task"), Err(Broken::Rules(_))));
        flood.abort();
    }

    #[tokio::test]
    async fn bad_manners_and_lost_streams_end_it() {
        let piece = Bytes::from(vec![1; CHUNK]);
        let (_near, to, _from, task) = one_end(Until::BothEnd);
        for _ in 0..WINDOW / CHUNK as u64 + 2 {
            let _ = to.send(Ok(Frame::Data(piece.clone()))).await;
        }
        assert!(matches!(task.await.expect("task"), Err(Broken::Rules(_))), "more than the window");
        let (_near, to, _from, task) = one_end(Until::BothEnd);
        to.send(Ok(Frame::End)).await.expect("sent");
        to.send(Ok(Frame::Data(piece))).await.expect("sent");
        assert!(matches!(task.await.expect("task"), Err(Broken::Rules(_))), "behind the end");
        let (_near, to, _from, task) = one_end(Until::BothEnd);
        drop(to);
        assert!(matches!(task.await.expect("task"), Err(Broken::There(None))));
        let (near, to, from, task) = one_end(Until::BothEnd);
        drop(from);
        drop(near);
        assert!(matches!(task.await.expect("task"), Err(Broken::There(None))), "nobody hears the end");
        drop(to);
    }

    #[tokio::test]
    async fn the_other_ends_end_may_be_enough() {
        let (mut near, to, _from, task) = one_end(Until::ThereEnds);
        to.send(Ok(Frame::Data(Bytes::from_static(b"bye")))).await.expect("sent");
        to.send(Ok(Frame::End)).await.expect("sent");
        assert_eq!(task.await.expect("task").expect("carried"), Carried { sent: 0, received: 3 });
        let mut text = String::new();
        near.read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "bye");
    }
}

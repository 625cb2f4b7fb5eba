//! A request on its way in: no message is larger than its call needs, none takes for ever, and the large ones of all callers together have
//! a bound.

use crate::auth::LITTLE;
use crate::room::{Bytes as Room, Receiving};
use crate::status;
use bytes::Bytes;
use http_body::Frame;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

/// For a whole message, from the moment that somebody waits for the rest of it: 4 MiB at 1.1 Mbit/s.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A flag and four bytes of length: gRPC over HTTP/2, "Length-Prefixed-Message".
const HEAD: usize = 5;

/// Where messages begin and end.
#[derive(Default)]
struct Framing {
    head: [u8; HEAD],
    have: usize,
    /// Of the message that came last.
    length: usize,
    left: usize,
    messages: u64,
}

impl Framing {
    /// Walks over what has come. Err: the length of a message that is larger than `most`.
    fn walk(&mut self, mut data: &[u8], most: usize) -> Result<(), usize> {
        while !data.is_empty() {
            let wanted = if self.left > 0 { self.left } else { HEAD - self.have };
            let (now, rest) = data.split_at(wanted.min(data.len()));
            data = rest;
            if self.left > 0 {
                self.left -= now.len();
                continue;
            }
            self.head[self.have..self.have + now.len()].copy_from_slice(now);
            self.have += now.len();
            if self.have == HEAD {
                let [_, length @ ..] = self.head;
                self.length = u32::from_be_bytes(length) as usize;
                if self.length > most {
                    return Err(self.length);
                }
                (self.have, self.left) = (0, self.length);
                self.messages += 1;
            }
        }
        Ok(())
    }

    fn between(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// Who sends, and what it may.
pub struct Sender {
    pub caller: String,
    /// Past what all callers share.
    pub first: bool,
    /// Bytes of one message.
    pub most: usize,
    /// One message is all that there is: it has to come.
    pub one: bool,
    pub patience: Duration,
}

/// The body of a request.
pub struct Request {
    inner: Body,
    sender: Sender,
    receiving: Arc<Receiving>,
    framing: Framing,
    late: Option<Pin<Box<Sleep>>>,
    asking: Option<Pin<Box<dyn Future<Output = Option<Room>> + Send>>>,
    /// Waits for room.
    held: Option<Frame<Bytes>>,
    /// Of the message with this number.
    room: Option<(u64, Room)>,
    ended: bool,
}

impl Request {
    pub fn new(inner: Body, sender: Sender, receiving: Arc<Receiving>) -> Request {
        Request {
            inner,
            sender,
            receiving,
            framing: Framing::default(),
            late: None,
            asking: None,
            held: None,
            room: None,
            ended: false,
        }
    }

    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.inner = Body::empty();
        (self.asking, self.held, self.room) = (None, None, None);
        Poll::Ready(Some(Err(status)))
    }

    /// Looks at what has come, and asks for room for the rest of a large message.
    fn look(&mut self, data: &[u8]) -> Result<(), Status> {
        let (most, before) = (self.sender.most, self.framing.messages);
        self.framing.walk(data, most).map_err(|length| status::request_too_large(length, most))?;
        let Framing { messages, left, length, .. } = self.framing;
        if !self.sender.one && (self.framing.between() || messages != before) {
            self.late = None;
        }
        if left == 0 || self.room.as_ref().is_some_and(|(of, _)| *of != messages) {
            self.room = None;
        }
        if left > 0 && length > LITTLE && self.room.is_none() {
            let Sender { caller, first, .. } = &self.sender;
            self.asking = Some(Box::pin(self.receiving.clone().take(caller.clone(), *first, length)));
        }
        Ok(())
    }

    /// The rest has not come: it has so long from now on.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.sender.one && self.framing.between() {
            return Poll::Pending;
        }
        let patience = self.sender.patience;
        self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience))).as_mut().poll(cx)
    }
}

impl http_body::Body for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.asking.is_none() {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(Err(status)) = frame.data_ref().map(|data| this.look(data)) {
                        return this.end(status);
                    }
                    if this.asking.is_none() {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    this.held = Some(frame);
                }
                Poll::Pending if this.wait(cx).is_ready() => {
                    return this.end(status::request_late(this.sender.patience));
                }
                other => return other,
            }
        }
        let Some(asking) = &mut this.asking else { return Poll::Pending };
        match asking.as_mut().poll(cx) {
            Poll::Ready(Some(room)) => {
                this.asking = None;
                this.room = Some((this.framing.messages, room));
                Poll::Ready(this.held.take().map(Ok))
            }
            Poll::Ready(None) => this.end(status::no_room()),
            Poll::Pending if this.wait(cx).is_ready() => this.end(status::no_room()),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.held.is_none() && self.inner.is_end_stream())
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

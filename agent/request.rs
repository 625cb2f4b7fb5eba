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
    /// Walks over what has come. Ok: where in it the message begins that came last; 0 as well when it began before. Err: the length of a
    /// message that is larger than `most`.
    fn walk(&mut self, mut data: &[u8], most: usize) -> Result<usize, usize> {
        let (all, mut head, mut begins) = (data.len(), 0, 0);
        while !data.is_empty() {
            if self.between() {
                head = all - data.len();
            }
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
                begins = head;
            }
        }
        Ok(begins)
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
    /// The beginning of a large message. It waits for room, which is asked for when somebody wants it and not before.
    held: Option<Bytes>,
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

    /// Looks at what has come. A large message of which there is more to come is held from its beginning on; what is before it goes on its way,
    /// because who sends waits for an answer to that, or works on it. `None`: there is nothing before it.
    fn look(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Status> {
        let (most, before) = (self.sender.most, self.framing.messages);
        let begins = self.framing.walk(&data, most).map_err(|length| status::request_too_large(length, most))?;
        let Framing { messages, left, length, .. } = self.framing;
        if !self.sender.one && (self.framing.between() || messages != before) {
            self.late = None;
        }
        if left == 0 || self.room.as_ref().is_some_and(|(of, _)| *of != messages) {
            self.room = None;
        }
        if left == 0 || length <= LITTLE || self.room.is_some() {
            return Ok(Some(data));
        }
        self.held = Some(data.split_off(begins));
        Ok((!data.is_empty()).then_some(data))
    }

    /// What is held, when there is room for its message.
    fn make_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (Sender { caller, first, .. }, length) = (&self.sender, self.framing.length);
        let receiving = &self.receiving;
        let ask = || -> Pin<Box<dyn Future<Output = Option<Room>> + Send>> {
            Box::pin(receiving.clone().take(caller.clone(), *first, length))
        };
        match self.asking.get_or_insert_with(ask).as_mut().poll(cx) {
            Poll::Ready(Some(room)) => {
                self.asking = None;
                self.room = Some((self.framing.messages, room));
                Poll::Ready(self.held.take().map(|data| Ok(Frame::data(data))))
            }
            Poll::Ready(None) => self.end(status::no_room()),
            Poll::Pending if self.wait(cx).is_ready() => self.end(status::no_room()),
            Poll::Pending => Poll::Pending,
        }
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
        if this.held.is_none() {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data().map(|data| this.look(data)) {
                    Ok(Ok(None)) => {}
                    Ok(Ok(Some(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(Err(status)) => return this.end(status),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Pending if this.wait(cx).is_ready() => {
                    return this.end(status::request_late(this.sender.patience));
                }
                other => return other,
            }
        }
        this.make_room(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.held.is_none() && self.inner.is_end_stream())
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

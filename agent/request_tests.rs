//! Requests that are cut into every size of piece, stop in the middle, or are more than there is room for.

use super::*;
use http_body::Body as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

const SHORT: Duration = Duration::from_millis(300);

/// What a caller sends.
struct Pieces(ReceiverStream<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = std::pin::pin!(self.0.next());
        next.poll(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn message(length: usize) -> Vec<u8> {
    [&[0][..], &u32::try_from(length).unwrap().to_be_bytes(), &vec![7; length]].concat()
}

fn request(one: bool, receiving: &Arc<Receiving>) -> (mpsc::Sender<Bytes>, Request) {
    let (send, pieces) = mpsc::channel(64);
    let sender = Sender { caller: "alice".into(), first: false, most: 4 << 20, one, patience: SHORT };
    let inner = Body::new(Pieces(ReceiverStream::new(pieces)));
    (send, Request::new(inner, sender, receiving.clone()))
}

async fn next(request: &mut Request) -> Option<Result<Bytes, Status>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *request).poll_frame(cx)).await;
    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
}

async fn soon(request: &mut Request) -> Option<Option<Result<Bytes, Status>>> {
    tokio::time::timeout(SHORT / 3, next(request)).await.ok()
}

#[test]
fn messages_are_found_however_they_are_cut() {
    let all = [message(0), message(300), message(1), message(70)].concat();
    for size in 1..all.len() {
        let mut framing = Framing::default();
        for (n, piece) in all.chunks(size).enumerate() {
            framing.walk(piece, 300).unwrap();
            let ends = [5, 310, 316, all.len()].contains(&(n * size + piece.len()));
            assert_eq!(framing.between(), ends, "pieces of {size}, behind {n}");
        }
        assert_eq!(framing.messages, 4);
    }
    let mut framing = Framing::default();
    assert_eq!(
        all.chunks(7).try_for_each(|piece| framing.walk(piece, 299).map(drop)),
        Err(300),
        "before a byte of it is kept"
    );
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_given_up() {
    let receiving = Arc::new(Receiving::new(4 << 20));
    let begun = std::time::Instant::now();
    let (send, mut late) = request(true, &receiving);
    send.try_send(message(100)[..50].to_vec().into()).unwrap();
    next(&mut late).await.unwrap().unwrap();
    assert_eq!(next(&mut late).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert!((SHORT..SHORT * 5).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(next(&mut late).await.is_none());
    // A byte now and then is not enough.
    let (send, mut slow) = request(true, &receiving);
    let begun = std::time::Instant::now();
    tokio::spawn(async move {
        for byte in message(100) {
            let _ = send.try_send(vec![byte].into());
            tokio::time::sleep(SHORT / 6).await;
        }
    });
    while let Some(Ok(_)) = next(&mut slow).await {}
    assert!(begun.elapsed() < SHORT * 5, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_stream_may_be_silent_between_messages_only() {
    let (send, mut stream) = request(false, &Arc::new(Receiving::new(4 << 20)));
    for _ in 0..3 {
        send.try_send(message(10).into()).unwrap();
        next(&mut stream).await.unwrap().unwrap();
        assert!(tokio::time::timeout(SHORT * 2, next(&mut stream)).await.is_err(), "it goes on");
    }
    send.try_send(vec![0, 0].into()).unwrap();
    next(&mut stream).await.unwrap().unwrap();
    assert_eq!(next(&mut stream).await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn messages_that_follow_each_other_have_their_time_each() {
    let (send, mut stream) = request(false, &Arc::new(Receiving::new(4 << 20)));
    let all = [message(95), message(95), message(95), message(95)].concat();
    let begun = std::time::Instant::now();
    // No piece ends where a message does.
    for piece in all.chunks(60) {
        send.try_send(piece.to_vec().into()).unwrap();
        next(&mut stream).await.unwrap().unwrap();
        assert!(soon(&mut stream).await.is_none());
    }
    assert!(begun.elapsed() > SHORT, "longer than one may take");
}

#[tokio::test]
async fn large_messages_wait_for_room_and_give_it_back() {
    let receiving = Arc::new(Receiving::new(4 << 20));
    let mut held = Vec::new();
    for _ in 0..4 {
        let (send, mut one) = request(false, &receiving);
        send.try_send(message(4 << 20)[..1000].to_vec().into()).unwrap();
        soon(&mut one).await.expect("there is room").unwrap().unwrap();
        held.push((send, one));
    }
    let (small, mut one) = request(false, &receiving);
    small.try_send(message(LITTLE).into()).unwrap();
    assert!(soon(&mut one).await.expect("small ones do not wait").unwrap().is_ok());
    let (send, mut fifth) = request(false, &receiving);
    send.try_send(message(4 << 20)[..1000].to_vec().into()).unwrap();
    assert!(soon(&mut fifth).await.is_none(), "it waits");
    // The first one's message is whole, and its stream goes on.
    let (rest, one) = &mut held[0];
    rest.try_send(message(4 << 20)[1000..].to_vec().into()).unwrap();
    next(one).await.unwrap().unwrap();
    assert_eq!(soon(&mut fifth).await.expect("now there is").unwrap().unwrap().len(), 1000);
    let (send, mut sixth) = request(false, &receiving);
    send.try_send(message(4 << 20)[..1000].to_vec().into()).unwrap();
    let status = next(&mut sixth).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "not for ever");
}

#[tokio::test]
async fn a_whole_message_does_not_wait_for_the_one_behind_it() {
    let receiving = Arc::new(Receiving::new(4 << 20));
    // One piece has the end of a message and the beginning of a large one, as of callers that fill their frames.
    let joint = || Bytes::from([&message(100), &message(4 << 20)[..1000]].concat());
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let (send, mut one) = request(false, &receiving);
        send.try_send(joint()).unwrap();
        assert_eq!(soon(&mut one).await.expect("it is whole").unwrap().unwrap(), message(100));
        stalled.push((send, one));
    }
    // They work on what they have, and nobody has asked for more.
    let mut held = Vec::new();
    for _ in 0..4 {
        let (send, mut large) = request(false, &receiving);
        send.try_send(message(4 << 20)[..1000].to_vec().into()).unwrap();
        soon(&mut large).await.expect("who does not read takes no room").unwrap().unwrap();
        held.push((send, large));
    }
    let (_send, mut first) = stalled.remove(0);
    assert!(soon(&mut first).await.is_none(), "now it waits for room");
    held.pop();
    assert_eq!(soon(&mut first).await.expect("there is room").unwrap().unwrap(), message(4 << 20)[..1000]);
    let (send, mut second) = stalled.remove(0);
    drop(send);
    assert!(!second.is_end_stream(), "there is more, though nothing comes any more");
    assert_eq!(next(&mut second).await.unwrap().unwrap_err().code(), Code::ResourceExhausted, "not for ever");
}

#[tokio::test]
async fn every_byte_comes_through_in_its_order() {
    let mut all = [message(30), message(LITTLE + 9), message(0), message(LITTLE * 2), message(9)].concat();
    for (n, byte) in all.iter_mut().enumerate().filter(|(_, byte)| **byte == 7) {
        *byte = n.to_le_bytes()[0] | 8;
    }
    for size in [1021, 4099, 16_384, 65_536, 70_001, all.len()] {
        let (send, mut stream) = request(false, &Arc::new(Receiving::new(4 << 20)));
        let (mut come, mut pieces) = (Vec::new(), all.chunks(size));
        while come.len() < all.len() {
            if let Some(piece) = pieces.next() {
                send.try_send(piece.to_vec().into()).unwrap();
            }
            come.extend(soon(&mut stream).await.expect("there is room").unwrap().unwrap());
        }
        assert!(come == all, "pieces of {size}");
    }
}

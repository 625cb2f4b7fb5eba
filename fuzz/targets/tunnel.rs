//! A forwarded port's frames, in whatever order the other end sends them, beside a connection that takes and gives as it likes: bytes come in the
//! order they were sent, no more is kept or under way than the window, and whoever breaks the rules is cut off.
#![no_main]

use berth::tunnel::{Broken, Frame, Until, WINDOW, carry};
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::Status;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

/// Takes a few bytes at a time, and at most so many in all.
struct Slow {
    step: usize,
    room: usize,
    shut: bool,
    taken: Vec<u8>,
}

impl AsyncWrite for &mut Slow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.shut, "it writes behind the end");
        let n = bytes.len().min(self.step).min(self.room - self.taken.len());
        if n == 0 {
            return Poll::Pending;
        }
        self.taken.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Two bytes for each frame: what it is, and how long.
fn script(bytes: &[u8]) -> Vec<Frame> {
    let mut at = 0u8;
    let mut data = |len: usize| {
        let bytes: Vec<u8> = (0..len).map(|n| at.wrapping_add(n as u8)).collect();
        at = at.wrapping_add(len as u8);
        Bytes::from(bytes)
    };
    let mut frame = |pair: &[u8]| match pair[0] % 8 {
        0..=3 => Frame::Data(data(usize::from(pair[1]))),
        4 => Frame::Data(data(usize::from(pair[1]) << 10)),
        5 => Frame::Taken(u64::from(pair[1])),
        6 => Frame::Taken(u64::from(pair[1]) << 12),
        _ => Frame::End,
    };
    bytes.as_chunks::<2>().0.iter().map(|pair| frame(pair)).take(64).collect()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(([how, step, room, size], rest)) = bytes.split_first_chunk() else { return };
    let frames = script(rest);
    let mut writer = Slow { step: usize::from(*step) + 1, room: usize::from(*room) << 12, shut: false, taken: Vec::new() };
    // More than the window, at times.
    let here = vec![7; usize::from(*size) << 12];
    let until = [Until::BothEnd, Until::ThereCloses, Until::ThereEnds][usize::from(how % 3)];
    let (sender, mut from) = mpsc::channel(4);
    let there = tokio_stream::iter(frames.clone().into_iter().map(Ok::<_, Status>));
    let (ended, sent) = RUNTIME.block_on(async {
        let mut sent = Vec::new();
        let work = carry(&here[..], &mut writer, there.chain(tokio_stream::pending()), &sender, |f| f, until);
        tokio::pin!(work);
        // When nothing has happened for so long, nothing will: nobody waits for a clock.
        let mut idle = 0;
        let ended = loop {
            tokio::select! {
                biased;
                Some(frame) = from.recv() => { sent.push(frame); idle = 0; }
                ended = &mut work => break Some(ended),
                () = tokio::task::yield_now() => idle += 1,
            }
            if idle > 64 {
                break None;
            }
        };
        while let Ok(frame) = from.try_recv() {
            sent.push(frame);
        }
        (ended, sent)
    });
    let pieces = frames.iter().filter_map(|f| if let Frame::Data(bytes) = f { Some(&bytes[..]) } else { None });
    let came: Vec<u8> = pieces.flatten().copied().collect();
    assert!(came.starts_with(&writer.taken), "other bytes than came");
    let confirmed = frames.iter().filter_map(|f| if let Frame::Taken(n) = f { Some(*n) } else { None }).max().unwrap_or(0);
    let mut out = 0;
    for (n, frame) in sent.iter().enumerate() {
        match frame {
            Frame::Data(bytes) => out += bytes.len() as u64,
            Frame::Taken(n) => assert!(*n <= writer.taken.len() as u64, "it confirms what was not taken"),
            Frame::End => assert!(!sent[n + 1..].iter().any(|f| matches!(f, Frame::Data(_))), "data behind the end"),
        }
    }
    assert!(out <= here.len() as u64 && out <= WINDOW + confirmed, "{out} bytes under way");
    match ended {
        Some(Ok(carried)) => {
            assert_eq!(carried.received, writer.taken.len() as u64);
            // Who ends with the other end may have read more by then.
            assert!(carried.sent == out || (until == Until::ThereEnds && carried.sent > out));
            assert!(writer.shut && frames.contains(&Frame::End));
        }
        Some(Err(Broken::Rules(_))) | None => {}
        // Nothing of the connection or the stream breaks here.
        Some(Err(other)) => panic!("{other:?}"),
    }
    let end = frames.iter().position(|f| *f == Frame::End).unwrap_or(frames.len());
    let lawful = !frames[end..].iter().any(|f| matches!(f, Frame::Data(_))) && came.len() as u64 <= WINDOW && confirmed == 0;
    assert!(!lawful || !matches!(ended, Some(Err(_))), "cut off for nothing");
});

//! The stream of `Node.Events`.

use super::filter::EventFilter;
use super::{Answers, QUEUE, encode};
use crate::status;
use berth::v1::{self, events_response::Kind};
use berth_model::Timestamp;
use berth_model::event::{Event, EventKind};
use berth_node::{EventItem, NodeError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What fits the filter, until `until`; first the cursor where it begins, when that is asked for.
pub fn stream(
    mut source: mpsc::Receiver<Result<EventItem, NodeError>>,
    until: Option<Timestamp>,
    filter: EventFilter,
    begin: Option<u64>,
) -> Answers<v1::EventsResponse> {
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(async move {
        if let Some(cursor) = begin {
            let begin = Kind::Begin(v1::EventsBegin { cursor });
            let _ = answers.send(Ok(v1::EventsResponse { kind: Some(begin) })).await;
        }
        let end = async {
            match until {
                Some(until) => tokio::time::sleep(left(until)).await,
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        // History comes out of a queue that is filled meanwhile: an `until` of the past is not over before all of it.
        let mut caught_up = false;
        loop {
            let item = tokio::select! {
                biased;
                () = answers.closed() => return,
                item = source.recv() => item,
                () = &mut end, if caught_up => return,
            };
            let answer = match item {
                None => return,
                Some(Err(e)) => {
                    let _ = answers.send(Err(status::from_node(e))).await;
                    return;
                }
                Some(Ok(EventItem::HistoryLost { asked, oldest })) => {
                    Kind::HistoryLost(v1::HistoryLost { asked, oldest })
                }
                Some(Ok(EventItem::CaughtUp)) => {
                    caught_up = true;
                    continue;
                }
                Some(Ok(EventItem::Event(event))) if until.is_some_and(|until| event.time > until) => return,
                Some(Ok(EventItem::Event(event))) if filter.fits(&event) => Kind::Event(event_message(&event)),
                Some(Ok(EventItem::Event(_))) => continue,
            };
            if answers.send(Ok(v1::EventsResponse { kind: Some(answer) })).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(stream))
}

fn left(until: Timestamp) -> Duration {
    SystemTime::from(until).duration_since(SystemTime::now()).unwrap_or_default()
}

fn event_message(event: &Event) -> v1::Event {
    v1::Event {
        cursor: event.cursor,
        time: Some(encode::time(event.time)),
        kind: match event.kind {
            EventKind::Container => v1::EventKind::Container,
            EventKind::Image => v1::EventKind::Image,
            EventKind::Node => v1::EventKind::Node,
            EventKind::Network => v1::EventKind::Network,
            EventKind::Volume => v1::EventKind::Volume,
        } as i32,
        action: event.action.clone(),
        subject: event.subject.clone(),
        attributes: event.attributes.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio_stream::StreamExt;

    #[allow(clippy::result_large_err, reason = "what the stream under test carries")]
    fn event(cursor: u64, time: i64) -> Result<EventItem, NodeError> {
        Ok(EventItem::Event(Arc::new(Event {
            cursor,
            time: Timestamp(time),
            kind: EventKind::Node,
            action: "start".into(),
            subject: String::new(),
            attributes: Default::default(),
        })))
    }

    #[tokio::test]
    async fn a_time_in_the_past_ends_the_stream_behind_the_history() {
        let (send, source) = mpsc::channel(8);
        for n in 1..=3 {
            send.send(event(n, n as i64)).await.unwrap();
        }
        let answers: Vec<_> = stream(source, Some(Timestamp(2)), EventFilter::default(), None).collect().await;
        assert_eq!(answers.len(), 2);
        let (send, source) = mpsc::channel(8);
        send.send(Ok(EventItem::CaughtUp)).await.unwrap();
        let answers: Vec<_> = stream(source, Some(Timestamp(2)), EventFilter::default(), None).collect().await;
        assert!(answers.is_empty(), "nothing there, and the time is over");
    }
}

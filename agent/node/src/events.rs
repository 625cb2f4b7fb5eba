//! The node's history: a bounded ring in memory, the same in the store, and its watchers.

use crate::view::EventItem;
use crate::{NodeError, store};
use berth_model::event::{Event, EventKind};
use berth_model::{ContainerRecord, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, mpsc};

/// Entries that wait for the slowest watcher before it is cut off; one pointer each.
const WATCH_QUEUE: usize = 1024;

/// How far the cursor jumps after a crash of the whole host: more events than can have been in the page cache, so that no cursor is
/// given twice.
pub(crate) const CRASH_GAP: u64 = 1 << 16;

/// Bytes of labels in one event. Thousands of events are kept, and callers may give a container megabytes of labels.
const LABEL_BYTES: usize = 4 << 10;
/// Bytes of any other attribute: the command of an exec may be as long as a message.
const ATTRIBUTE_BYTES: usize = 1 << 10;

/// At most [`ATTRIBUTE_BYTES`]; what is cut ends with an ellipsis.
fn cut(value: &str) -> String {
    if value.len() <= ATTRIBUTE_BYTES {
        return value.to_owned();
    }
    let end = value.floor_char_boundary(ATTRIBUTE_BYTES - '…'.len_utf8());
    format!("{}…", &value[..end])
}

pub(crate) struct Events {
    ring: Mutex<Ring>,
    live: broadcast::Sender<Arc<Event>>,
}

struct Ring {
    entries: VecDeque<Arc<Event>>,
    /// Cursor of the newest event ever.
    newest: u64,
    keep: usize,
}

impl Events {
    /// `entries` oldest first; `newest` is the last cursor that may have been given.
    pub fn new(entries: Vec<Event>, newest: u64, keep: usize) -> Self {
        let keep = keep.max(1);
        let skip = entries.len().saturating_sub(keep);
        let entries: VecDeque<_> = entries.into_iter().skip(skip).map(Arc::new).collect();
        let newest = newest.max(entries.back().map_or(0, |e| e.cursor));
        Events { ring: Mutex::new(Ring { entries, newest, keep }), live: broadcast::Sender::new(WATCH_QUEUE) }
    }

    /// Adds an event and tells the watchers. The caller hands the write to the store, with the record that it belongs to.
    pub fn add(
        &self,
        kind: EventKind,
        action: &str,
        subject: &str,
        attributes: BTreeMap<String, String>,
    ) -> store::Write {
        let mut ring = self.ring.lock().expect("ring of events");
        ring.newest += 1;
        let event = Arc::new(Event {
            cursor: ring.newest,
            time: Timestamp::now(),
            kind,
            action: action.to_owned(),
            subject: subject.to_owned(),
            attributes,
        });
        if ring.entries.len() >= ring.keep {
            ring.entries.pop_front();
        }
        ring.entries.push_back(event.clone());
        // Under the lock: watchers see events in the order of their cursors. Err: nobody watches.
        let _ = self.live.send(event.clone());
        store::Write::Event(event)
    }

    /// An event of a container, with its name, image and labels.
    pub fn add_container(&self, record: &ContainerRecord, action: &str, more: &[(&str, String)]) -> store::Write {
        let mut room = LABEL_BYTES;
        let mut attributes = BTreeMap::new();
        for (key, value) in &record.spec.labels {
            // Whole or not at all: half a value would be another one.
            if let Some(left) = room.checked_sub(key.len() + value.len()) {
                room = left;
                attributes.insert(key.clone(), value.clone());
            }
        }
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.insert("image".to_owned(), record.spec.image.clone());
        for (key, value) in more {
            attributes.insert((*key).to_owned(), cut(value));
        }
        self.add(EventKind::Container, action, record.id.as_str(), attributes)
    }

    /// Cursor of the newest event.
    pub fn newest(&self) -> u64 {
        self.ring.lock().expect("ring of events").newest
    }

    /// How many watch.
    pub fn watchers(&self) -> u64 {
        self.live.receiver_count() as u64
    }

    /// Entries behind `cursor` (0: none, unless `since` says from when), `CaughtUp`, then live ones, until the receiver goes.
    pub fn watch(
        &self,
        cursor: u64,
        since: Option<Timestamp>,
    ) -> Result<mpsc::Receiver<Result<EventItem, NodeError>>, NodeError> {
        let (backlog, lost, mut live) = {
            let ring = self.ring.lock().expect("ring of events");
            if cursor > ring.newest {
                return Err(NodeError::CursorInFuture { asked: cursor, newest: ring.newest });
            }
            let oldest = ring.entries.front().map_or(ring.newest + 1, |e| e.cursor);
            let lost = (cursor > 0 && cursor + 1 < oldest).then_some(oldest);
            let wanted = |e: &&Arc<Event>| e.cursor > cursor && since.is_none_or(|s| e.time >= s);
            let backlog: Vec<_> = if cursor == 0 && since.is_none() {
                Vec::new()
            } else {
                ring.entries.iter().filter(wanted).cloned().collect()
            };
            (backlog, lost, self.live.subscribe())
        };
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(async move {
            if let Some(oldest) = lost
                && send.send(Ok(EventItem::HistoryLost { asked: cursor, oldest })).await.is_err()
            {
                return;
            }
            for event in backlog {
                if send.send(Ok(EventItem::Event(event))).await.is_err() {
                    return;
                }
            }
            if send.send(Ok(EventItem::CaughtUp)).await.is_err() {
                return;
            }
            loop {
                let item = tokio::select! {
                    _ = send.closed() => return,
                    item = live.recv() => item,
                };
                let item = match item {
                    Ok(event) => Ok(EventItem::Event(event)),
                    Err(broadcast::error::RecvError::Lagged(_)) => Err(NodeError::WatchTooSlow),
                    Err(broadcast::error::RecvError::Closed) => Err(NodeError::Stopping),
                };
                let last = item.is_err();
                if send.send(item).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(receive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_bounded() {
        assert_eq!(cut("sh -c true"), "sh -c true");
        for long in ["x".repeat(5000), "ä".repeat(5000)] {
            let short = cut(&long);
            assert!(short.len() <= ATTRIBUTE_BYTES && short.len() > ATTRIBUTE_BYTES - 4 && short.ends_with('…'));
        }
        let mut record = crate::testing::container_record(1);
        record.spec.labels = (0..100).map(|n| (format!("label-{n:02}"), "v".repeat(1000))).collect();
        let crate::store::Write::Event(event) =
            Events::new(Vec::new(), 0, 10).add_container(&record, "exec_start", &[("command", "c".repeat(1 << 20))])
        else {
            panic!("no event")
        };
        let bytes: usize = event.attributes.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert!(bytes < 6 << 10 && event.attributes["label-00"].len() == 1000, "{bytes}");
        assert_eq!(event.attributes["name"], record.name);
    }

    fn add(events: &Events, action: &str) {
        events.add(EventKind::Node, action, "node", BTreeMap::new());
    }

    async fn next(rx: &mut mpsc::Receiver<Result<EventItem, NodeError>>) -> String {
        match rx.recv().await {
            Some(Ok(EventItem::Event(e))) => format!("{}:{}", e.cursor, e.action),
            Some(Ok(EventItem::HistoryLost { asked, oldest })) => format!("lost {asked} {oldest}"),
            Some(Ok(EventItem::CaughtUp)) => "caught up".to_owned(),
            Some(Err(e)) => e.to_string(),
            None => "end".to_owned(),
        }
    }

    #[tokio::test]
    async fn backlog_then_live() {
        let events = Events::new(Vec::new(), 0, 10);
        for a in ["a", "b", "c"] {
            add(&events, a);
        }
        let mut from_one = events.watch(1, None).unwrap();
        let mut live_only = events.watch(0, None).unwrap();
        let mut all = events.watch(0, Some(Timestamp(0))).unwrap();
        add(&events, "d");
        for want in ["2:b", "3:c", "caught up", "4:d"] {
            assert_eq!(next(&mut from_one).await, want);
        }
        for want in ["caught up", "4:d"] {
            assert_eq!(next(&mut live_only).await, want);
        }
        assert_eq!(next(&mut all).await, "1:a");
    }

    #[tokio::test]
    async fn lost_history_and_the_future() {
        let events = Events::new(Vec::new(), 0, 2);
        for a in ["a", "b", "c", "d"] {
            add(&events, a);
        }
        let mut rx = events.watch(1, None).unwrap();
        assert_eq!(next(&mut rx).await, "lost 1 3");
        assert_eq!(next(&mut rx).await, "3:c");
        let mut rx = events.watch(2, None).unwrap();
        assert_eq!(next(&mut rx).await, "3:c", "everything behind 2 is there");
        assert!(matches!(events.watch(5, None), Err(NodeError::CursorInFuture { asked: 5, newest: 4 })));
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_is_cut_off() {
        let events = Events::new(Vec::new(), 0, 2);
        let mut rx = events.watch(0, None).unwrap();
        for _ in 0..(WATCH_QUEUE + 200) {
            add(&events, "x");
        }
        let mut last = String::new();
        loop {
            match next(&mut rx).await {
                end if end == "end" => break,
                other => last = other,
            }
        }
        assert_eq!(last, NodeError::WatchTooSlow.to_string());
    }

    #[test]
    fn cursors_go_on() {
        let events = Events::new(Vec::new(), 41, 2);
        add(&events, "x");
        assert_eq!(events.newest(), 42);
    }
}

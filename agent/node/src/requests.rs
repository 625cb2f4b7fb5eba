//! Requests that were seen before: the same id from the same caller gets the same answer.

use crate::NodeError;
use crate::store::{REQUEST_SECS, REQUESTS_MAX, RequestRow, Write};
use crate::view::Requester;
use berth_model::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

type Key = (String, String);

/// What was asked, and how far it is.
struct Entry {
    rpc: &'static str,
    fingerprint: u64,
    state: State,
}

enum State {
    /// Closed without a value when it failed: the next may try.
    UnderWay(watch::Receiver<Option<Arc<str>>>),
    Answered(Arc<str>),
}

#[derive(Default)]
struct Table {
    entries: HashMap<Key, Entry>,
    /// Answered ones, oldest first.
    /// With when they were answered, by the clock that nobody sets: a jump of the other one must not make a request be done twice.
    order: VecDeque<(Key, Instant)>,
}

#[derive(Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<Table>>);

/// What to do with a request.
pub(crate) enum Begin {
    /// It is new: do it, and tell the ticket.
    New(Ticket),
    /// It was done; this was the answer.
    Answered(Arc<str>),
}

/// The right to do a request. Dropped without an answer, the request may be tried again.
pub(crate) struct Ticket {
    table: Requests,
    /// None: the caller gave no id.
    key: Option<(Key, &'static str, u64)>,
    answer: watch::Sender<Option<Arc<str>>>,
    answered: bool,
}

impl Requests {
    pub fn new(rows: Vec<RequestRow>) -> Self {
        let mut table = Table::default();
        for row in rows {
            let Some(rpc) = RPCS.iter().find(|r| **r == row.rpc) else { continue };
            let key = (row.caller, row.id);
            let state = State::Answered(row.result.into());
            table.entries.insert(key.clone(), Entry { rpc, fingerprint: row.fingerprint, state });
            // A time ahead of now is of a clock that was set back: as old as can be told, not at all.
            let age = Timestamp::now().nanos().saturating_sub(row.time.nanos()).max(0);
            let answered = Instant::now().checked_sub(Duration::from_nanos(age.unsigned_abs()));
            table.order.push_back((key, answered.unwrap_or_else(Instant::now)));
        }
        Requests(Arc::new(Mutex::new(table)))
    }

    /// Begins a request, or waits for the same one that is under way.
    ///
    /// # Errors
    /// `RequestIdReused`: the id came with another RPC or other content.
    pub async fn begin(&self, who: &Requester, rpc: &'static str, fingerprint: u64) -> Result<Begin, NodeError> {
        debug_assert!(RPCS.contains(&rpc), "{rpc} is not in RPCS");
        let (answer, receiver) = watch::channel(None);
        if who.request_id.is_empty() {
            return Ok(Begin::New(Ticket { table: self.clone(), key: None, answer, answered: false }));
        }
        let key = (who.caller.clone(), who.request_id.clone());
        loop {
            let mut under_way = {
                let mut table = self.0.lock().expect("table of requests");
                table.forget_old(Instant::now());
                match table.entries.get(&key) {
                    None => {
                        let state = State::UnderWay(receiver);
                        table.entries.insert(key.clone(), Entry { rpc, fingerprint, state });
                        let key = Some((key, rpc, fingerprint));
                        return Ok(Begin::New(Ticket { table: self.clone(), key, answer, answered: false }));
                    }
                    Some(e) if e.rpc != rpc || e.fingerprint != fingerprint => return Err(NodeError::RequestIdReused),
                    Some(Entry { state: State::Answered(result), .. }) => return Ok(Begin::Answered(result.clone())),
                    Some(Entry { state: State::UnderWay(rx), .. }) => rx.clone(),
                }
            };
            // Err: it failed; look again.
            if let Ok(result) = under_way.wait_for(Option::is_some).await
                && let Some(result) = result.clone()
            {
                return Ok(Begin::Answered(result));
            }
        }
    }

    /// Forgets a request whose result is no longer there, so that it can be done again.
    pub fn forget(&self, who: &Requester) {
        let key = (who.caller.clone(), who.request_id.clone());
        let mut table = self.0.lock().expect("table of requests");
        if matches!(table.entries.get(&key), Some(Entry { state: State::Answered(_), .. })) {
            table.entries.remove(&key);
            table.order.retain(|(k, _)| *k != key);
        }
    }
}

impl Requests {
    /// Forgets the request that made a container which is gone without having run.
    pub fn undone(&self, request: Option<&(String, String)>) -> Option<Write> {
        let (caller, request_id) = request?.clone();
        self.forget(&Requester { caller: caller.clone(), request_id: request_id.clone(), first: false });
        Some(Write::ForgetRequest(caller, request_id))
    }
}

impl Table {
    fn forget_old(&mut self, now: Instant) {
        let kept = Duration::from_secs(REQUEST_SECS.unsigned_abs());
        while let Some((key, time)) = self.order.front()
            && (now.saturating_duration_since(*time) > kept || self.order.len() > REQUESTS_MAX)
        {
            self.entries.remove(key);
            self.order.pop_front();
        }
    }
}

impl Ticket {
    /// The request is done: whoever asks again gets `result`. Gives what the store should keep, if anything.
    pub fn done(mut self, result: &str) -> Option<Write> {
        self.answered = true;
        let (key, rpc, fingerprint) = self.key.take()?;
        let result: Arc<str> = result.into();
        let time = Timestamp::now();
        let row = RequestRow {
            caller: key.0.clone(),
            id: key.1.clone(),
            rpc: rpc.to_owned(),
            fingerprint,
            result: (*result).to_owned(),
            time,
        };
        {
            let mut table = self.table.0.lock().expect("table of requests");
            if let Some(entry) = table.entries.get_mut(&key) {
                entry.state = State::Answered(result.clone());
            }
            table.order.push_back((key, Instant::now()));
        }
        self.answer.send_replace(Some(result));
        Some(Write::Request(row))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let (false, Some((key, _, _))) = (self.answered, self.key.take()) {
            self.table.0.lock().expect("table of requests").entries.remove(&key);
        }
    }
}

/// The calls whose answers are kept.
const RPCS: &[&str] = &[
    "CreateVolume",
    "RemoveVolume",
    "PruneVolumes",
    "ImportVolume",
    "CloneVolume",
    "Create",
    "Pull",
    "Start",
    "Stop",
    "Kill",
    "Remove",
    "Exec",
    "Restart",
    "Pause",
    "Unpause",
    "Rename",
    "CopyTo",
    "Commit",
    "Update",
    "UpdatePorts",
    "PruneContainers",
    "PruneImages",
    "CollectGarbage",
    "StopAll",
    "NetworkCreate",
    "NetworkRemove",
    "NetworkConnect",
    "NetworkDisconnect",
    "PruneNetworks",
];

/// FNV-1a over JSON: the same over restarts and versions of the compiler. It tells mistakes, not attacks.
pub(crate) fn fingerprint(value: &impl serde::Serialize) -> u64 {
    struct Fnv(u64);
    impl std::io::Write for Fnv {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for b in bytes {
                self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    // Only maps with keys that are no strings can fail here, and there are none.
    let _ = serde_json::to_writer(&mut hash, value);
    hash.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(id: &str) -> Requester {
        Requester { caller: "me".to_owned(), request_id: id.to_owned(), first: false }
    }

    #[tokio::test]
    async fn the_same_request_is_done_once() {
        let requests = Requests::default();
        let Begin::New(ticket) = requests.begin(&who("a"), "Create", 1).await.unwrap() else { panic!("new") };
        let second = {
            let requests = requests.clone();
            tokio::spawn(async move { requests.begin(&who("a"), "Create", 1).await })
        };
        tokio::task::yield_now().await;
        let write = ticket.done("id");
        assert!(matches!(write, Some(Write::Request(_))));
        assert!(matches!(second.await.unwrap().unwrap(), Begin::Answered(r) if &*r == "id"));
        assert!(matches!(requests.begin(&who("a"), "Create", 2).await, Err(NodeError::RequestIdReused)));
        assert!(matches!(requests.begin(&who("a"), "Stop", 1).await, Err(NodeError::RequestIdReused)));
        assert!(matches!(requests.begin(&who("b"), "Create", 2).await, Ok(Begin::New(_))));
        requests.forget(&who("a"));
        assert!(matches!(requests.begin(&who("a"), "Create", 2).await, Ok(Begin::New(_))));
    }

    #[tokio::test]
    async fn a_failed_request_may_be_tried_again() {
        let requests = Requests::default();
        let Begin::New(ticket) = requests.begin(&who("a"), "Create", 1).await.unwrap() else { panic!("new") };
        let second = {
            let requests = requests.clone();
            tokio::spawn(async move { requests.begin(&who("a"), "Create", 1).await })
        };
        tokio::task::yield_now().await;
        drop(ticket);
        assert!(matches!(second.await.unwrap().unwrap(), Begin::New(_)));
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_forgets_nothing() {
        let ahead = Timestamp(Timestamp::now().nanos() + 86_400_000_000_000);
        let row = |id: &str, time| RequestRow {
            caller: "me".to_owned(),
            id: id.to_owned(),
            rpc: "Create".to_owned(),
            fingerprint: 1,
            result: "id".to_owned(),
            time,
        };
        let requests = Requests::new(vec![row("a", ahead), row("b", Timestamp::now())]);
        for id in ["a", "b"] {
            assert!(matches!(requests.begin(&who(id), "Create", 1).await, Ok(Begin::Answered(_))), "{id}");
        }
        let late = Instant::now() + Duration::from_secs(REQUEST_SECS.unsigned_abs() + 1);
        requests.0.lock().unwrap().forget_old(late);
        assert!(requests.0.lock().unwrap().entries.is_empty(), "and then they go");
    }

    #[test]
    fn fingerprints_do_not_change() {
        assert_eq!(fingerprint(&"a"), 0xd427_2417_d7c7_7eea);
        assert_ne!(fingerprint(&("a", 1)), fingerprint(&("a", 2)));
    }
}

//! How many denied calls of one caller have a record of their own: what is denied costs the caller nothing, and must not wash away what
//! others have done.

use crate::audit::{Record, Verdict};
use crate::auth;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Records of denied calls of one caller in a minute; of the rest there is one with the number of each RPC's.
const EACH: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Callers with denied calls in one minute; more are told as one.
const CALLERS: usize = 1024;
/// The name of those, which no certificate has.
const OTHERS: &str = "";

#[derive(Default)]
pub struct Denials(Mutex<BTreeMap<String, Minute>>);

/// One caller's.
struct Minute {
    begun: Instant,
    records: u32,
    /// By RPC: the last one that had no record, and the number of them.
    left_out: BTreeMap<&'static str, (Record, u64)>,
}

impl Denials {
    /// The record when it is to be written, or nothing when it was counted.
    pub fn admit(&self, record: Record, now: Instant) -> Option<Record> {
        if record.verdict == Verdict::Allowed {
            return Some(record);
        }
        let mut callers = self.callers();
        let known = callers.contains_key(&record.caller) || callers.len() < CALLERS;
        let caller = if known { record.caller.clone() } else { OTHERS.to_owned() };
        let new = || Minute { begun: now, records: 0, left_out: BTreeMap::new() };
        let minute = callers.entry(caller).or_insert_with(new);
        if minute.records < EACH {
            minute.records += 1;
            return Some(record);
        }
        // What callers invent is one.
        let rpc = auth::rule(&record.rpc).map_or("unknown", |rule| rule.path);
        let count = minute.left_out.get(rpc).map_or(0, |(_, count)| *count) + 1;
        minute.left_out.insert(rpc, (record, count));
        None
    }

    /// What was left out in minutes that are over, or in all of them: one record for each caller and RPC.
    pub fn over(&self, now: Instant, all: bool) -> Vec<Record> {
        let mut told = Vec::new();
        self.callers().retain(|caller, minute| {
            if !all && now.duration_since(minute.begun) < WINDOW {
                return true;
            }
            told.extend(std::mem::take(&mut minute.left_out).into_iter().map(|(rpc, (record, count))| Record {
                event: "left_out",
                caller: if caller == OTHERS { "(others)".to_owned() } else { caller.clone() },
                rpc: rpc.to_owned(),
                object: String::new(),
                needs: Vec::new(),
                request_id: String::new(),
                trace_id: None,
                duration_ms: None,
                count: Some(count),
                ..record
            }));
            // What is told before the end does not begin a new minute.
            now.duration_since(minute.begun) < WINDOW
        });
        told
    }

    /// When the next minute is over.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let next = self.callers().values().map(|minute| minute.begun + WINDOW).min();
        next.map(|at| at.saturating_duration_since(now))
    }

    fn callers(&self) -> MutexGuard<'_, BTreeMap<String, Minute>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::record;

    fn denied(caller: &str, rpc: &str) -> Record {
        Record { caller: caller.into(), rpc: rpc.into(), verdict: Verdict::Denied, ..record(1) }
    }

    #[test]
    fn a_minute_of_one_caller_has_so_many_records_and_the_number_of_the_rest() {
        const KILL: &str = "/berth.v1.Containers/Kill";
        let (denials, begun) = (Denials::default(), Instant::now());
        let written = (0..5000).filter_map(|_| denials.admit(denied("mallory", KILL), begun)).count();
        assert_eq!(written, EACH as usize);
        for n in 0..100 {
            assert!(denials.admit(denied("mallory", &format!("/made/up{n}")), begun).is_none());
        }
        assert!(denials.admit(denied("alice", KILL), begun).is_some(), "another caller has its own");
        let allowed = Record { verdict: Verdict::Allowed, ..denied("mallory", KILL) };
        assert!(denials.admit(allowed, begun).is_some(), "what is done is always on record");
        assert!(denials.over(begun, false).is_empty());
        assert_eq!(denials.next(begun), Some(WINDOW));
        let over = denials.over(begun + WINDOW, false);
        let told: Vec<_> = over.iter().map(|r| (&r.caller[..], &r.rpc[..], r.event, r.count)).collect();
        let kills = 5000 - u64::from(EACH);
        assert_eq!(told, [("mallory", KILL, "left_out", Some(kills)), ("mallory", "unknown", "left_out", Some(100))]);
        assert_eq!(denials.next(begun), None, "nothing is kept of who is quiet");
        assert!(denials.admit(denied("mallory", KILL), begun + WINDOW).is_some(), "the next minute");
    }

    #[test]
    fn what_is_told_early_is_told_once_and_the_minute_goes_on() {
        let (denials, begun) = (Denials::default(), Instant::now());
        for _ in 0..EACH + 5 {
            denials.admit(denied("mallory", "x"), begun);
        }
        assert_eq!(denials.over(begun, true)[0].count, Some(5));
        assert!(denials.over(begun, true).is_empty());
        assert!(denials.admit(denied("mallory", "x"), begun).is_none());
        for n in 0..CALLERS * 2 {
            denials.admit(denied(&format!("m{n}"), "x"), begun);
        }
        assert!(denials.callers().len() <= CALLERS + 1, "names do not fill the memory");
    }
}

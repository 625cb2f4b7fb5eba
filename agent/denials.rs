//! How many calls of one caller that came to nothing have a record of their own: they cost the caller nothing, and must not wash away what
//! others have done.

use crate::audit::{Record, Verdict};
use crate::auth;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Records of such calls of one caller in a minute; of the rest there is one with the number of each RPC's and result's.
const EACH: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);
/// Callers with such calls in one minute; more are told as one.
const CALLERS: usize = 1024;
/// The name of those, which no certificate has.
const OTHERS: &str = "";
/// A call that gets nowhere has ended by then: the start of any other is on record.
const KEPT_BACK: Duration = Duration::from_secs(1);
/// Long calls of one caller whose start is kept back at once: no more than may be under way.
const STARTED: usize = 1024;

/// Results of calls that changed nothing.
const NOTHING: &[&str] = &[
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
];
/// Those of a long call that never got as far as its work. With the others it may have done some of it: a copy that broke off in the middle.
const NOWHERE: &[&str] = &["ALREADY_EXISTS", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"];

#[derive(Default)]
pub struct Denials(Mutex<BTreeMap<String, Minute>>);

/// One caller's.
struct Minute {
    begun: Instant,
    records: u32,
    /// By RPC and result: the last one that had no record, and the number of them.
    left_out: BTreeMap<(&'static str, String), (Record, u64)>,
    /// Starts of long calls and when they came, until it is known what comes of them.
    started: Vec<(Instant, Record)>,
}

impl Minute {
    fn new(begun: Instant) -> Minute {
        Minute { begun, records: 0, left_out: BTreeMap::new(), started: Vec::new() }
    }

    /// The start of the call that ends here, where it was kept back. Of calls that are all alike it is any one's.
    fn start_of(&mut self, end: &Record) -> Option<Record> {
        let same = |(_, start): &(Instant, Record)| {
            (&start.caller, &start.rpc, &start.object, &start.peer, &start.request_id)
                == (&end.caller, &end.rpc, &end.object, &end.peer, &end.request_id)
        };
        let at = self.started.iter().position(same).filter(|_| end.event == "end")?;
        Some(self.started.remove(at).1)
    }

    fn count(&mut self, record: Record) {
        // What callers invent is one.
        let rpc = auth::rule(&record.rpc).map_or("unknown", |rule| rule.path);
        let key = (rpc, record.result.clone().unwrap_or_default());
        let count = self.left_out.get(&key).map_or(0, |(_, count)| *count) + 1;
        self.left_out.insert(key, (record, count));
    }
}

fn came_to(record: &Record, results: &[&str]) -> bool {
    record.verdict == Verdict::Denied || record.result.as_deref().is_some_and(|result| results.contains(&result))
}

impl Denials {
    /// What is to be written now: the record, and its call's start when that was kept back; nothing when it was counted.
    pub fn admit(&self, record: Record, now: Instant) -> Vec<Record> {
        let mut callers = self.callers();
        let known = callers.contains_key(&record.caller) || callers.len() < CALLERS;
        let caller = if known { record.caller.clone() } else { OTHERS.to_owned() };
        if record.event == "start" {
            let full = |minute: &&mut Minute| minute.records >= EACH && minute.started.len() < STARTED;
            let Some(minute) = callers.get_mut(&caller).filter(full) else { return vec![record] };
            minute.started.push((now, record));
            return Vec::new();
        }
        let start = callers.get_mut(&caller).and_then(|minute| minute.start_of(&record));
        if !came_to(&record, NOTHING) {
            return start.into_iter().chain([record]).collect();
        }
        let minute = callers.entry(caller).or_insert_with(|| Minute::new(now));
        if minute.records < EACH {
            minute.records += 1;
            return start.into_iter().chain([record]).collect();
        }
        let told = start.filter(|_| !came_to(&record, NOWHERE)).into_iter().collect();
        minute.count(record);
        told
    }

    /// What was left out in minutes that are over, or in all of them: one record for each caller, RPC and result; before them the starts of
    /// calls that go on, of any minute.
    pub fn over(&self, now: Instant, all: bool) -> Vec<Record> {
        let mut told = Vec::new();
        self.callers().retain(|caller, minute| {
            let ends = all || now.duration_since(minute.begun) >= WINDOW;
            let due = minute.started.extract_if(.., |(at, _)| ends || now.duration_since(*at) >= KEPT_BACK);
            told.extend(due.map(|(_, start)| start));
            if !ends {
                return true;
            }
            told.extend(std::mem::take(&mut minute.left_out).into_iter().map(|((rpc, _), (record, count))| Record {
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

    /// When the next minute is over, or a start is due.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let due = |minute: &Minute| minute.started.first().map(|(at, _)| *at + KEPT_BACK);
        let next =
            self.callers().values().flat_map(|minute| [Some(minute.begun + WINDOW), due(minute)]).flatten().min();
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
        let written = (0..5000).flat_map(|_| denials.admit(denied("mallory", KILL), begun)).count();
        assert_eq!(written, EACH as usize);
        for n in 0..100 {
            assert!(denials.admit(denied("mallory", &format!("/made/up{n}")), begun).is_empty());
        }
        assert_eq!(denials.admit(denied("alice", KILL), begun).len(), 1, "another caller has its own");
        let allowed = Record { verdict: Verdict::Allowed, ..denied("mallory", KILL) };
        assert_eq!(denials.admit(allowed, begun).len(), 1, "what is done is always on record");
        assert!(denials.over(begun, false).is_empty());
        assert_eq!(denials.next(begun), Some(WINDOW));
        let over = denials.over(begun + WINDOW, false);
        let told: Vec<_> = over.iter().map(|r| (&r.caller[..], &r.rpc[..], r.event, r.count)).collect();
        let kills = 5000 - u64::from(EACH);
        assert_eq!(told, [("mallory", KILL, "left_out", Some(kills)), ("mallory", "unknown", "left_out", Some(100))]);
        assert_eq!(denials.next(begun), None, "nothing is kept of who is quiet");
        assert_eq!(denials.admit(denied("mallory", KILL), begun + WINDOW).len(), 1, "the next minute");
    }

    fn ended(event: &'static str, result: &str) -> Record {
        Record { caller: "mallory".into(), event, result: Some(result.into()), ..record(1) }
    }

    #[test]
    fn calls_that_fail_are_counted_by_their_results_and_others_never() {
        let (denials, begun) = (Denials::default(), Instant::now());
        for n in 0..EACH + 200 {
            let written = denials.admit(ended("call", "NOT_FOUND"), begun).len();
            assert_eq!(written, usize::from(n < EACH), "{n}");
        }
        for result in NOTHING {
            assert!(denials.admit(ended("call", result), begun).is_empty(), "{result}");
        }
        for result in ["OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL", "ABORTED"] {
            assert_eq!(denials.admit(ended("call", result), begun).len(), 1, "{result} may have changed something");
        }
        let over = denials.over(begun + WINDOW, false);
        assert_eq!(over.len(), NOTHING.len());
        let missing = over.iter().find(|r| r.result.as_deref() == Some("NOT_FOUND")).expect("it is told");
        assert_eq!((missing.count, missing.object.as_str()), (Some(201), ""));
    }

    #[test]
    fn the_start_of_a_long_call_is_left_out_only_when_it_got_nowhere() {
        let (denials, begun) = (Denials::default(), Instant::now());
        let start = || Record { result: None, ..ended("start", "") };
        let events = |records: Vec<Record>| records.iter().map(|r| r.event).collect::<Vec<_>>();
        assert_eq!(events(denials.admit(start(), begun)), ["start"], "at once, as long as there is no flood");
        assert_eq!(events(denials.admit(ended("end", "NOT_FOUND"), begun)), ["end"]);
        for _ in 1..EACH {
            denials.admit(ended("call", "NOT_FOUND"), begun);
        }
        let cases: [(&str, &[&str]); 4] = [
            ("NOT_FOUND", &[]),
            ("INVALID_ARGUMENT", &["start"]),
            ("OK", &["start", "end"]),
            ("CANCELLED", &["start", "end"]),
        ];
        for (result, want) in cases {
            assert!(denials.admit(start(), begun).is_empty(), "{result}: kept back");
            let other = Record { object: "other".into(), ..ended("end", "OK") };
            assert_eq!(events(denials.admit(other, begun)), ["end"], "it is another one's end");
            assert_eq!(events(denials.admit(ended("end", result), begun)), want, "{result}");
        }
        assert!(denials.admit(start(), begun).is_empty());
        assert_eq!(denials.next(begun), Some(KEPT_BACK));
        assert!(denials.over(begun, false).is_empty());
        assert_eq!(
            events(denials.over(begun + KEPT_BACK, false)),
            ["start"],
            "it goes on: on record before it can do much"
        );
        assert_eq!(denials.next(begun), Some(WINDOW));
        denials.admit(start(), begun + WINDOW - Duration::from_millis(1));
        let over = events(denials.over(begun + WINDOW, false));
        assert_eq!(over, ["start", "left_out", "left_out"], "what goes on is told before the numbers");
        assert_eq!(events(denials.admit(ended("end", "OK"), begun + WINDOW)), ["end"]);
    }

    #[test]
    fn what_is_told_early_is_told_once_and_the_minute_goes_on() {
        let (denials, begun) = (Denials::default(), Instant::now());
        for _ in 0..EACH + 5 {
            denials.admit(denied("mallory", "x"), begun);
        }
        assert_eq!(denials.over(begun, true)[0].count, Some(5));
        assert!(denials.over(begun, true).is_empty());
        assert!(denials.admit(denied("mallory", "x"), begun).is_empty());
        for n in 0..CALLERS * 2 {
            denials.admit(denied(&format!("m{n}"), "x"), begun);
        }
        assert!(denials.callers().len() <= CALLERS + 1, "names do not fill the memory");
    }
}

//! Restart policies: whether a container that has ended is started again, when, and that it is.
//!
//! The decision is pure and made with the record of the end, in one write: a restart that was decided is not forgotten when the agent
//! dies, and the next agent goes on with it. Until it is due it costs an entry in the timers.

use crate::container::{Container, Gate};
use crate::node::Inner;
use crate::start;
use crate::store::{Durability, Write};
use crate::timers::Kind;
use crate::{NodeError, after, cause};
use berth_model::supervision::{EndingKind, RestartPolicy};
use berth_model::{ContainerId, ContainerRecord, ExitStatus, Phase, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// The pause before the first restart; each further one is twice as long. Docker's figures, here and below.
const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE_MS: u64 = 60_000;
/// After a run of this length the pause begins anew.
const GOOD_RUN_NANOS: i64 = 10_000_000_000;

/// What follows from the end of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// A person wanted it.
    pub stopped: bool,
    /// It is started again after so many milliseconds.
    pub pause_ms: Option<u64>,
}

/// Pure: every case is in the table of its test. `record` is that of the run that ended with `status`.
pub(crate) fn decide(record: &ContainerRecord, status: &ExitStatus) -> Outcome {
    let policy = record.spec.restart;
    let ending = cause::ending_of(record, status).map(|e| e.kind);
    let stopped = match ending {
        Some(EndingKind::Stop | EndingKind::Kill) => true,
        Some(EndingKind::Signal) => policy == RestartPolicy::UnlessStopped,
        _ => record.supervision.stopped,
    };
    let wanted = match ending {
        Some(EndingKind::UnhealthyRestart) => true,
        Some(EndingKind::Stop | EndingKind::Kill | EndingKind::Shutdown | EndingKind::UnhealthyStop) => false,
        _ => match policy {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !stopped,
            RestartPolicy::OnFailure { max } => status.code != 0 && (max == 0 || record.supervision.restarts < max),
        },
    };
    let ran = record.started.map_or(0, |s| status.finished.nanos().saturating_sub(s.nanos()));
    let last = if ran >= GOOD_RUN_NANOS { 0 } else { record.supervision.pause_ms };
    let pause_ms = (wanted && !record.spec.auto_remove).then(|| longer(last));
    Outcome { stopped, pause_ms }
}

/// The pause behind one of `last` milliseconds.
fn longer(last: u64) -> u64 {
    if last == 0 { FIRST_PAUSE_MS } else { last.saturating_mul(2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS) }
}

/// Whether a container that has ended is started when the agent comes up, beside those whose restart is pending.
pub(crate) fn starts_with_agent(record: &ContainerRecord) -> bool {
    let s = &record.supervision;
    if record.phase != Phase::Exited || record.starts == 0 || record.spec.auto_remove || s.next.is_some() {
        return false;
    }
    let shut_down = s.ending.as_ref().is_some_and(|e| e.kind == EndingKind::Shutdown);
    match record.spec.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !s.stopped,
        RestartPolicy::OnFailure { .. } => shut_down && !s.stopped,
    }
}

/// Puts the decision into the record of an end.
pub(crate) fn note(record: &mut ContainerRecord, outcome: Outcome) {
    let supervision = &mut record.supervision;
    supervision.stopped = outcome.stopped;
    supervision.networks.clear();
    plan_next(record, outcome.pause_ms);
}

fn plan_next(record: &mut ContainerRecord, pause_ms: Option<u64>) {
    let supervision = &mut record.supervision;
    supervision.next = pause_ms.map(|ms| {
        supervision.restarts += 1;
        supervision.pause_ms = ms;
        let nanos = i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        Timestamp(Timestamp::now().nanos().saturating_add(nanos))
    });
}

/// Sets the timer for a restart that the record plans.
pub(crate) fn arm(inner: &Inner, container: &Container) {
    let record = container.record();
    let Some(next) = record.supervision.next.filter(|_| record.phase == Phase::Exited) else { return };
    // Never longer than the longest pause, whatever the clock did meanwhile.
    let left = next.nanos().saturating_sub(Timestamp::now().nanos());
    let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0)).min(Duration::from_millis(LONGEST_PAUSE_MS));
    inner.timers.set(&container.id, Kind::Restart, Instant::now() + left);
}

/// Takes a planned restart back; true: there was one. The caller hands the record to the store.
pub(crate) fn cancel(inner: &Inner, gate: &mut Gate) -> bool {
    let planned = gate.container.record().supervision.next.is_some();
    if planned {
        gate.change(|r| r.supervision.next = None);
        inner.timers.clear(&gate.container.id, Kind::Restart);
    }
    planned
}

/// The pause is over.
pub(crate) fn due(inner: &Arc<Inner>, id: &ContainerId) {
    let Ok(container) = inner.containers.find(id.as_str()) else { return };
    let inner_ = inner.clone();
    inner.watchers.spawn(async move { in_turn(&inner_, container).await });
}

/// Waits for what the container starts after, then for its turn, and has it started.
pub(crate) async fn in_turn(inner: &Arc<Inner>, container: Arc<Container>) {
    let met = after::ready(inner, &container, ContainerRecord::is_restarting).await;
    let permit = tokio::select! {
        permit = inner.restarts.clone().acquire_owned() => permit,
        () = inner.stop.cancelled() => return,
    };
    let Ok(permit) = permit else { return };
    let inner_ = inner.clone();
    inner.tasks.spawn(async move { again(&inner_, &container, met, permit).await });
}

/// Starts it, if that is still wanted; a start that fails is planned again.
pub(crate) async fn again(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    met: Result<(), NodeError>,
    _permit: OwnedSemaphorePermit,
) {
    if inner.stop.is_cancelled() {
        return;
    }
    let gate = container.enter_first().await;
    let record = container.record();
    let Some(planned) = record.supervision.next.filter(|_| record.phase == Phase::Exited) else { return };
    let started = match met {
        Ok(()) => start::start_again(inner, gate).await.map(drop),
        Err(e) => start::refuse(inner, gate, e).await,
    };
    let error = match started {
        Ok(()) => return,
        Err(NodeError::Stopping) => return,
        Err(e) => e,
    };
    tracing::warn!(container = %container.id, error = %error, "starting a container again");
    let mut gate = container.enter_first().await;
    let record = container.record();
    if record.phase != Phase::Exited || record.supervision.next != Some(planned) {
        return;
    }
    let over = matches!(record.spec.restart, RestartPolicy::OnFailure { max } if max > 0 && record.supervision.restarts >= max);
    let pause_ms = (!over).then(|| longer(record.supervision.pause_ms));
    let record = gate.change(|r| {
        r.supervision.failed_starts = r.supervision.failed_starts.saturating_add(1);
        plan_next(r, pause_ms);
    });
    if let Err(e) = inner.store.submit(vec![Write::PutContainer(record)], Durability::Quick).await {
        tracing::error!(container = %container.id, error = %e, "a planned restart could not be written down");
    }
    arm(inner, container);
    drop(gate);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::container_record;
    use RestartPolicy::*;
    use berth_model::supervision::Ending;

    fn exited(policy: RestartPolicy, ending: Option<EndingKind>) -> ContainerRecord {
        let mut record = container_record(1);
        record.spec.restart = policy;
        record.phase = Phase::Exited;
        record.starts = 1;
        record.started = Some(Timestamp(0));
        record.supervision.ending =
            ending.map(|kind| Ending { by: "alice".into(), kind, signal: 15, time: Timestamp(0) });
        record
    }

    #[test]
    fn who_is_started_again() {
        let never = OnFailure { max: 0 };
        // policy, code, ending -> restarted, stopped by a person
        for (policy, code, ending, again, stopped) in [
            (No, 1, None, false, false),
            (Always, 0, None, true, false),
            (Always, 1, Some(EndingKind::Stop), false, true),
            (Always, 1, Some(EndingKind::Kill), false, true),
            (Always, 1, Some(EndingKind::Signal), true, false),
            (Always, 0, Some(EndingKind::Shutdown), false, false),
            (UnlessStopped, 0, None, true, false),
            (UnlessStopped, 0, Some(EndingKind::Stop), false, true),
            (UnlessStopped, 0, Some(EndingKind::Signal), false, true),
            (UnlessStopped, 137, Some(EndingKind::UnhealthyKill), true, false),
            (UnlessStopped, 137, Some(EndingKind::UnhealthyStop), false, false),
            (never, 0, None, false, false),
            (never, 1, None, true, false),
            (never, 1, Some(EndingKind::Stop), false, true),
            (No, 0, Some(EndingKind::UnhealthyRestart), true, false),
        ] {
            let record = exited(policy, ending);
            let outcome = decide(&record, &ExitStatus { code, ..ExitStatus::default() });
            assert_eq!((outcome.pause_ms.is_some(), outcome.stopped), (again, stopped), "{policy} {code} {ending:?}");
        }
        let mut record = exited(OnFailure { max: 2 }, None);
        let failed = ExitStatus { code: 1, ..ExitStatus::default() };
        for again in [true, true, false] {
            let outcome = decide(&record, &failed);
            assert_eq!(outcome.pause_ms.is_some(), again, "{}", record.supervision.restarts);
            note(&mut record, outcome);
        }
        let mut record = exited(Always, None);
        record.spec.auto_remove = true;
        assert_eq!(decide(&record, &failed).pause_ms, None);
    }

    #[test]
    fn the_pause_grows_and_begins_anew() {
        let mut record = exited(Always, None);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let outcome = decide(&record, &ExitStatus::default());
            pauses.extend(outcome.pause_ms);
            note(&mut record, outcome);
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!((pauses[9], pauses[10], pauses[11]), (51_200, 60_000, 60_000));
        let long = ExitStatus { finished: Timestamp(GOOD_RUN_NANOS), ..ExitStatus::default() };
        assert_eq!(decide(&record, &long).pause_ms, Some(100));
    }

    #[test]
    fn who_comes_with_the_agent() {
        for (policy, ending, stopped, comes) in [
            (No, None, false, false),
            (Always, Some(EndingKind::Stop), true, true),
            (UnlessStopped, Some(EndingKind::Stop), true, false),
            (UnlessStopped, Some(EndingKind::Shutdown), false, true),
            (OnFailure { max: 0 }, None, false, false),
            (OnFailure { max: 0 }, Some(EndingKind::Shutdown), false, true),
        ] {
            let mut record = exited(policy, ending);
            record.supervision.stopped = stopped;
            assert_eq!(starts_with_agent(&record), comes, "{policy} {ending:?}");
            record.starts = 0;
            assert!(!starts_with_agent(&record), "one that never ran is nobody's but its maker's");
        }
    }
}

//! Health checks: a command that is run in the container again and again, and what follows from how it ends.
//!
//! No task for a container that nothing is asked of at the moment: a probe that is due is an entry in the timers. Probes take no gate
//! while they run, so that they hold up no stop and no removal; they live in a cgroup of their own below the container's, so that a
//! probe that takes too long ends with all its children, and so that a new agent ends what the last one left in the middle.

use crate::container::{Container, Gate};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::timers::Kind;
use crate::{NodeError, exec, stop};
use berth_model::image::ImageConfig;
use berth_model::spec::ExecSpec;
use berth_model::supervision::{EndingKind, HealthAction, HealthState, HealthStatus, ProbeResult};
use berth_model::{ContainerId, ContainerSpec, Phase, Timestamp};
use berth_runtime::{ExecRequest, Output, Shim};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Probes under way on this node. Each is two processes; most of them wait. More wait for their turn, first come first served.
pub(crate) const PROBES_AT_ONCE: usize = 64;
/// Docker's defaults.
const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const START_INTERVAL_MS: u64 = 5_000;
const RETRIES: u32 = 3;
/// An image that asks for less gets this: a probe costs milliseconds of a processor.
const LEAST_MS: u64 = 100;
/// Results kept, and bytes of output of each; Docker's.
const RESULTS: usize = 5;
const OUTPUT_BYTES: usize = 4096;
/// What is still in the pipes when the probe's process has ended comes within this.
const DRAIN: Duration = Duration::from_millis(300);
/// From SIGKILL to the end of a probe's processes.
const KILL: Duration = Duration::from_secs(2);

/// A health check with everything filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    pub command: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

/// Docker's object in the image's configuration; durations in nanoseconds.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct OfImage {
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

/// The check of a container: the request's over the image's, field by field, as Docker does. `None`: there is none.
pub(crate) fn resolve(spec: &ContainerSpec, image: &ImageConfig) -> Option<Check> {
    // What cannot be read is no health check; the image runs all the same.
    let of_image =
        image.healthcheck.clone().and_then(|v| serde_json::from_value::<OfImage>(v).ok()).unwrap_or_default();
    let asked = &spec.health;
    let test = if asked.test.is_empty() { &of_image.test } else { &asked.test };
    let (kind, arguments) = test.split_first()?;
    let command: Vec<String> = match kind.as_str() {
        "CMD" => arguments.to_vec(),
        "CMD-SHELL" => ["/bin/sh", "-c"].map(str::to_owned).into_iter().chain(arguments.first().cloned()).collect(),
        _ => return None,
    };
    if command.is_empty() || command.len() == 2 && kind == "CMD-SHELL" {
        return None;
    }
    let ms = |asked: u64, of_image: i64, default: u64| {
        let of_image = u64::try_from(of_image / 1_000_000).unwrap_or(0);
        [asked, of_image].into_iter().find(|n| *n > 0).unwrap_or(default)
    };
    let at_least = |n: u64| Duration::from_millis(n.max(LEAST_MS));
    let retries = [asked.retries, u32::try_from(of_image.retries).unwrap_or(0)].into_iter().find(|n| *n > 0);
    Some(Check {
        command,
        interval: at_least(ms(asked.interval_ms, of_image.interval, INTERVAL_MS)),
        timeout: at_least(ms(asked.timeout_ms, of_image.timeout, TIMEOUT_MS)),
        start_period: Duration::from_millis(ms(asked.start_period_ms, of_image.start_period, 0)),
        start_interval: at_least(ms(asked.start_interval_ms, of_image.start_interval, START_INTERVAL_MS)),
        retries: retries.unwrap_or(RETRIES),
    })
}

/// The state behind a result. Pure; Docker's rules: within the start period failures do not count, until the first success.
pub(crate) fn judge(check: &Check, before: &HealthState, started: Timestamp, result: ProbeResult) -> HealthState {
    let mut after = before.clone();
    let since_start = u64::try_from(result.start.nanos().saturating_sub(started.nanos())).unwrap_or(0);
    if result.exit_code == 0 {
        after.failing_streak = 0;
        after.status = HealthStatus::Healthy;
    } else if before.status != HealthStatus::Starting || Duration::from_nanos(since_start) >= check.start_period {
        after.failing_streak = before.failing_streak.saturating_add(1);
        if after.failing_streak >= check.retries {
            after.status = HealthStatus::Unhealthy;
        }
    }
    let surplus = (after.log.len() + 1).saturating_sub(RESULTS);
    after.log.drain(..surplus);
    after.log.push(result);
    after
}

/// From the end of one probe to the next.
fn pause(check: &Check, status: HealthStatus, since_start: Duration) -> Duration {
    match status {
        HealthStatus::Starting if since_start < check.start_period => check.start_interval,
        _ => check.interval,
    }
}

fn since_start(container: &Container) -> Duration {
    let started = container.record().started.unwrap_or_default();
    Duration::from_nanos(u64::try_from(Timestamp::now().nanos().saturating_sub(started.nanos())).unwrap_or(0))
}

/// Sets the timer of the next probe of a container that runs.
pub(crate) fn arm(inner: &Inner, container: &Container) {
    let Some(check) = &container.check else { return };
    let status = container.health.borrow().as_ref().map(|h| h.status).unwrap_or_default();
    inner.timers.set(&container.id, Kind::Probe, Instant::now() + pause(check, status, since_start(container)));
}

/// The same for one that a new agent has found: at a moment of its own within the interval, so that not all come at once. What the last
/// agent left of a probe ends.
pub(crate) fn adopt(inner: &Arc<Inner>, container: &Arc<Container>) {
    let Some(check) = &container.check else { return };
    // The id is random.
    let part = u64::from_str_radix(&container.id.as_str()[..8], 16).unwrap_or_default();
    let status = container.health.borrow().as_ref().map(|h| h.status).unwrap_or_default();
    let pause = pause(check, status, since_start(container)).mul_f64(part as f64 / f64::from(u32::MAX));
    let (inner_, id) = (inner.clone(), container.id.clone());
    inner.tasks.spawn(async move {
        clear(&inner_, &id).await;
        inner_.timers.set(&id, Kind::Probe, Instant::now() + pause);
    });
}

/// Ends what is left of a probe.
async fn clear(inner: &Arc<Inner>, id: &ContainerId) {
    let (runtime, id_) = (inner.runtime.clone(), id.clone());
    if let Err(e) = inner.blocking(move || Ok(runtime.kill_probe(&id_, KILL)?)).await {
        tracing::warn!(container = %id, error = %e, "ending a health check");
    }
}

/// A probe is due.
pub(crate) fn due(inner: &Arc<Inner>, id: &ContainerId) {
    let Ok(container) = inner.containers.find(id.as_str()) else { return };
    let inner_ = inner.clone();
    inner.watchers.spawn(async move {
        let stop = inner_.stop.clone();
        tokio::select! {
            () = turn(&inner_, &container) => {}
            // The processes are ended by the next agent, if they have not ended by then.
            () = stop.cancelled() => {}
        }
    });
}

async fn turn(inner: &Arc<Inner>, container: &Arc<Container>) {
    let Some(check) = container.check.clone() else { return };
    let Ok(_permit) = inner.probes.acquire().await else { return };
    let Ok(shim) = container.running_shim() else { return };
    let record = container.record();
    if record.paused {
        return arm(inner, container);
    }
    let result = probe(inner, container, &check, shim).await;
    note(inner, container, &check, record.starts, result).await;
}

/// One run of the command, bounded; whatever it leaves is gone behind it.
async fn probe(inner: &Arc<Inner>, container: &Arc<Container>, check: &Check, shim: Shim) -> ProbeResult {
    let start = Timestamp::now();
    let late = Arc::new(AtomicBool::new(false));
    let mut output = Vec::new();
    let ended = tokio::time::timeout(check.timeout, run(inner, container, check, shim, &late, &mut output)).await;
    // Before the kill: a process that is only just being made finds it and ends itself.
    late.store(true, Ordering::SeqCst);
    clear(inner, &container.id).await;
    let exit_code = match ended {
        Ok(Ok(code)) => code,
        Ok(Err(e)) => {
            let code = if let NodeError::Runtime(e) = &e { e.exit_code() } else { -1 };
            output = e.to_string().into_bytes();
            code
        }
        Err(_) => {
            let said = String::from_utf8_lossy(&output).into_owned();
            output = format!("Health check exceeded timeout ({:?}): {said}", check.timeout).into_bytes();
            -1
        }
    };
    ProbeResult { start, end: Timestamp::now(), exit_code, output: shown(&output) }
}

/// What is kept of a probe's output.
pub(crate) fn shown(output: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(output).into_owned();
    text.truncate(text.floor_char_boundary(OUTPUT_BYTES));
    text
}

async fn run(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    check: &Check,
    shim: Shim,
    late: &Arc<AtomicBool>,
    output: &mut Vec<u8>,
) -> Result<i32, NodeError> {
    let spec = ExecSpec { command: check.command.clone(), ..ExecSpec::default() };
    let (inner_, container_, late) = (inner.clone(), container.clone(), late.clone());
    let mut exec = inner
        .blocking(move || {
            let process = shim.pid();
            let record = container_.record();
            let (passwd, group) = exec::users(process)?;
            let exec = inner_.runtime.exec(ExecRequest {
                id: &container_.id,
                process,
                container: &record.spec,
                image: &container_.image.config,
                spec: &spec,
                passwd: passwd.as_deref(),
                group: group.as_deref(),
                probe: true,
                session: None,
                run_dir: &inner_.paths(&container_.id).run,
                ids: record.userns.range,
                labels: inner_.runtime.labels(&record.selinux),
            })?;
            if late.load(Ordering::SeqCst) {
                inner_.runtime.kill_probe(&container_.id, KILL)?;
            }
            Ok(exec)
        })
        .await?;
    let mut keep = |piece: Output| {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = piece else { return };
        let room = OUTPUT_BYTES.saturating_sub(output.len());
        output.extend_from_slice(&bytes[..bytes.len().min(room)]);
    };
    let Some(mut streams) = exec.attachment.take() else { return Ok(exec.wait().await?.code) };
    let code = loop {
        tokio::select! {
            status = exec.wait() => break status?.code,
            Some(Ok(piece)) = streams.next() => keep(piece),
        }
    };
    let rest = async {
        while let Some(Ok(piece)) = streams.next().await {
            keep(piece);
        }
    };
    let _ = tokio::time::timeout(DRAIN, rest).await;
    Ok(code)
}

/// Takes a result up, unless the run that it belongs to is over.
async fn note(inner: &Arc<Inner>, container: &Arc<Container>, check: &Check, run: u32, result: ProbeResult) {
    let mut gate = container.enter_first().await;
    let record = container.record();
    if record.phase != Phase::Running || record.starts != run {
        return;
    }
    let before = container.health.borrow().clone().unwrap_or_default();
    let after = judge(check, &before, record.started.unwrap_or_default(), result);
    container.health.send_replace(Some(after.clone()));
    let turned = after.status != before.status;
    if turned || after.failing_streak != before.failing_streak {
        let status = after.status;
        let record = gate.change(|r| r.supervision.health = Some(after));
        let mut writes = vec![Write::PutContainer(record.clone())];
        if turned {
            // Docker's word.
            writes.push(inner.events.add_container(&record, &format!("health_status: {}", status.name()), &[]));
        }
        if let Err(e) = inner.store.submit(writes, Durability::Quick).await {
            tracing::error!(container = %container.id, error = %e, "a state of health could not be written down");
        }
        if turned {
            inner.nets.touch();
        }
        if turned && status == HealthStatus::Unhealthy {
            act(inner, container);
        }
    }
    drop(gate);
    arm(inner, container);
}

/// The state of a run that begins; the caller puts it into the record.
pub(crate) fn begin(gate: &Gate) -> Option<HealthState> {
    let state = gate.container.check.as_ref().map(|_| HealthState::default());
    gate.container.health.send_replace(state.clone());
    state
}

/// What the container asks for when it is unhealthy.
fn act(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (kind, timeout_secs) = match container.record().spec.health_on_failure {
        HealthAction::None => return,
        HealthAction::Restart => (EndingKind::UnhealthyRestart, None),
        HealthAction::Stop => (EndingKind::UnhealthyStop, None),
        HealthAction::Kill => (EndingKind::UnhealthyKill, Some(0)),
    };
    tracing::info!(container = %container.id, ?kind, "unhealthy");
    let (inner_, container) = (inner.clone(), container.clone());
    inner.tasks.spawn(async move {
        if let Err(e) = stop::stop_for(&inner_, &container, timeout_secs, None, "", kind).await {
            tracing::warn!(container = %container.id, error = %e, "ending an unhealthy container");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthStatus::*;
    use berth_model::supervision::HealthCheck;

    fn image(json: serde_json::Value) -> ImageConfig {
        ImageConfig { healthcheck: Some(json), ..ImageConfig::default() }
    }

    fn asked(health: HealthCheck) -> ContainerSpec {
        ContainerSpec { health, ..ContainerSpec::default() }
    }

    #[test]
    fn the_request_goes_over_the_image() {
        let plain = ContainerSpec::default();
        assert_eq!(resolve(&plain, &ImageConfig::default()), None);
        let of_image = image(serde_json::json!({
            "Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 5_000_000_000i64, "Retries": 7, "Other": true,
        }));
        let check = resolve(&plain, &of_image).unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "curl -f localhost"]);
        assert_eq!(
            (check.interval, check.timeout, check.retries),
            (Duration::from_secs(5), Duration::from_secs(30), 7)
        );
        let check = resolve(&asked(HealthCheck { timeout_ms: 2000, ..Default::default() }), &of_image).unwrap();
        assert_eq!((check.timeout, check.retries), (Duration::from_secs(2), 7));
        let own = HealthCheck { test: vec!["CMD".into(), "true".into()], retries: 1, ..Default::default() };
        let check = resolve(&asked(own), &of_image).unwrap();
        assert_eq!((check.command.as_slice(), check.retries), (&["true".to_owned()][..], 1));
        let none = HealthCheck { test: vec!["NONE".into()], ..Default::default() };
        assert_eq!(resolve(&asked(none), &of_image), None);
        for nonsense in [
            serde_json::json!({"Test": ["NONE"]}),
            serde_json::json!({"Test": []}),
            serde_json::json!({"Test": ["CMD"]}),
            serde_json::json!({"Test": ["CMD-SHELL"]}),
            serde_json::json!({"Test": "true"}),
            serde_json::json!([1]),
        ] {
            assert_eq!(resolve(&plain, &image(nonsense.clone())), None, "{nonsense}");
        }
        let hasty = image(serde_json::json!({"Test": ["CMD", "x"], "Interval": 1, "Timeout": -5}));
        let check = resolve(&plain, &hasty).unwrap();
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(30), Duration::from_secs(30)));
    }

    #[test]
    fn states_follow_results() {
        let check = Check {
            command: vec!["x".into()],
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(1),
            start_period: Duration::from_secs(10),
            start_interval: Duration::from_secs(2),
            retries: 2,
        };
        let mut state = HealthState::default();
        // second, code -> status, streak
        for (second, code, status, streak) in [
            (1, 1, Starting, 0),
            (9, 1, Starting, 0),
            (10, 1, Starting, 1),
            (11, 0, Healthy, 0),
            (12, 1, Healthy, 1),
            (13, -1, Unhealthy, 2),
            (14, 1, Unhealthy, 3),
            (15, 0, Healthy, 0),
        ] {
            let time = Timestamp(second * 1_000_000_000);
            let result = ProbeResult { start: time, end: time, exit_code: code, output: second.to_string() };
            state = judge(&check, &state, Timestamp(0), result);
            assert_eq!((state.status, state.failing_streak), (status, streak), "second {second}");
        }
        let kept: Vec<&str> = state.log.iter().map(|r| r.output.as_str()).collect();
        assert_eq!(kept, ["11", "12", "13", "14", "15"]);
        // A success within the start period ends it.
        let success = ProbeResult { start: Timestamp(1), end: Timestamp(1), exit_code: 0, output: String::new() };
        assert_eq!(judge(&check, &HealthState::default(), Timestamp(0), success).status, Healthy);
        assert_eq!(pause(&check, Starting, Duration::from_secs(1)), check.start_interval);
        assert_eq!(pause(&check, Starting, Duration::from_secs(10)), check.interval);
        assert_eq!(pause(&check, Healthy, Duration::from_secs(1)), check.interval);
    }
}

//! What keeps a container going, from the wire and back.

use super::decode::{Fields, MAX_ARGUMENT, MAX_NAME};
use super::encode::time;
use berth::v1::{self, after::Condition, restart_policy::Mode};
use berth_model::supervision::{
    After, AfterCondition, HealthAction, HealthCheck, HealthState, HealthStatus, RestartPolicy,
};

/// Containers that one starts after.
const MAX_AFTER: usize = 64;
/// A day, in milliseconds: for intervals and timeouts.
const MAX_MS: u64 = 86_400_000;
/// Oftener than this a check costs more than what it watches.
const MIN_MS: u64 = 100;

/// A restart policy.
pub fn restart(f: &mut Fields, policy: Option<v1::RestartPolicy>, auto_remove: bool) -> RestartPolicy {
    let Some(policy) = policy else { return RestartPolicy::No };
    let decoded = match Mode::try_from(policy.mode) {
        Ok(Mode::Unspecified | Mode::No) => RestartPolicy::No,
        Ok(Mode::Always) => RestartPolicy::Always,
        Ok(Mode::OnFailure) => RestartPolicy::OnFailure { max: policy.max_retries },
        Ok(Mode::UnlessStopped) => RestartPolicy::UnlessStopped,
        Err(_) => {
            f.wrong("restart.mode", format!("{} is no restart policy", policy.mode));
            RestartPolicy::No
        }
    };
    let counted = matches!(decoded, RestartPolicy::OnFailure { .. });
    f.check(policy.max_retries == 0 || counted, "restart.max_retries", "goes with on-failure only");
    f.check(!auto_remove || decoded == RestartPolicy::No, "restart", "does not go with auto_remove");
    decoded
}

pub fn encode_restart(policy: RestartPolicy) -> Option<v1::RestartPolicy> {
    let (mode, max_retries) = match policy {
        RestartPolicy::No => return None,
        RestartPolicy::Always => (Mode::Always, 0),
        RestartPolicy::OnFailure { max } => (Mode::OnFailure, max),
        RestartPolicy::UnlessStopped => (Mode::UnlessStopped, 0),
    };
    Some(v1::RestartPolicy { mode: mode.into(), max_retries })
}

/// A health check.
pub fn health(f: &mut Fields, health: Option<v1::HealthCheck>) -> HealthCheck {
    let Some(h) = health else { return HealthCheck::default() };
    f.count("health.test", h.test.len(), 4096);
    for (n, argument) in h.test.iter().enumerate() {
        f.text(format!("health.test[{n}]"), argument, MAX_ARGUMENT);
    }
    let good = match h.test.first().map(String::as_str) {
        None => true,
        Some("NONE") => h.test.len() == 1,
        Some("CMD") => h.test.len() > 1 && !h.test[1].is_empty(),
        Some("CMD-SHELL") => h.test.len() == 2 && !h.test[1].is_empty(),
        Some(_) => false,
    };
    f.check(good, "health.test", "must be NONE, CMD with a program, or CMD-SHELL with a line");
    for (name, ms, least) in [
        ("interval_ms", h.interval_ms, MIN_MS),
        ("timeout_ms", h.timeout_ms, MIN_MS),
        ("start_period_ms", h.start_period_ms, 0),
        ("start_interval_ms", h.start_interval_ms, MIN_MS),
    ] {
        let good = ms == 0 || (least..=MAX_MS).contains(&ms);
        f.check(good, format!("health.{name}"), "must be 0, or at least 100 ms and at most a day");
    }
    f.check(h.retries <= 1000, "health.retries", "must be at most 1000");
    HealthCheck {
        test: h.test,
        interval_ms: h.interval_ms,
        timeout_ms: h.timeout_ms,
        start_period_ms: h.start_period_ms,
        start_interval_ms: h.start_interval_ms,
        retries: h.retries,
    }
}

pub fn encode_health(health: &HealthCheck) -> Option<v1::HealthCheck> {
    (*health != HealthCheck::default()).then(|| v1::HealthCheck {
        test: health.test.clone(),
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        start_period_ms: health.start_period_ms,
        start_interval_ms: health.start_interval_ms,
        retries: health.retries,
    })
}

/// What becomes of an unhealthy container.
pub fn health_action(f: &mut Fields, action: i32) -> HealthAction {
    match v1::HealthAction::try_from(action) {
        Ok(v1::HealthAction::Unspecified | v1::HealthAction::None) => HealthAction::None,
        Ok(v1::HealthAction::Restart) => HealthAction::Restart,
        Ok(v1::HealthAction::Stop) => HealthAction::Stop,
        Ok(v1::HealthAction::Kill) => HealthAction::Kill,
        Err(_) => {
            f.wrong("health_on_failure", format!("{action} is no such action"));
            HealthAction::None
        }
    }
}

pub fn encode_health_action(action: HealthAction) -> v1::HealthAction {
    match action {
        HealthAction::None => v1::HealthAction::Unspecified,
        HealthAction::Restart => v1::HealthAction::Restart,
        HealthAction::Stop => v1::HealthAction::Stop,
        HealthAction::Kill => v1::HealthAction::Kill,
    }
}

/// What a container starts after.
pub fn after(f: &mut Fields, list: Vec<v1::After>) -> Vec<After> {
    f.count("after", list.len(), MAX_AFTER);
    let one = |(n, after): (usize, v1::After)| {
        let at = format!("after[{n}].container");
        f.check(!after.container.is_empty(), &at, "must not be empty");
        f.line(&at, &after.container, MAX_NAME);
        let condition = match Condition::try_from(after.condition) {
            Ok(Condition::Unspecified | Condition::Started) => AfterCondition::Started,
            Ok(Condition::Healthy) => AfterCondition::Healthy,
            Ok(Condition::Completed) => AfterCondition::Completed,
            Err(_) => {
                f.wrong(format!("after[{n}].condition"), format!("{} is no condition", after.condition));
                AfterCondition::Started
            }
        };
        After { container: after.container, condition }
    };
    list.into_iter().enumerate().map(one).collect()
}

pub fn encode_after(list: &[After]) -> Vec<v1::After> {
    let condition = |c| match c {
        AfterCondition::Started => Condition::Started,
        AfterCondition::Healthy => Condition::Healthy,
        AfterCondition::Completed => Condition::Completed,
    };
    list.iter()
        .map(|a| v1::After { container: a.container.clone(), condition: condition(a.condition).into() })
        .collect()
}

pub fn health_status(status: Option<HealthStatus>) -> v1::HealthStatus {
    match status {
        None => v1::HealthStatus::Unspecified,
        Some(HealthStatus::Starting) => v1::HealthStatus::Starting,
        Some(HealthStatus::Healthy) => v1::HealthStatus::Healthy,
        Some(HealthStatus::Unhealthy) => v1::HealthStatus::Unhealthy,
    }
}

pub fn health_state(state: &HealthState) -> v1::Health {
    let result = |r: &berth_model::supervision::ProbeResult| v1::HealthResult {
        start: Some(time(r.start)),
        end: Some(time(r.end)),
        exit_code: r.exit_code,
        output: r.output.clone(),
    };
    v1::Health {
        status: health_status(Some(state.status)).into(),
        failing_streak: state.failing_streak,
        log: state.log.iter().map(result).collect(),
    }
}

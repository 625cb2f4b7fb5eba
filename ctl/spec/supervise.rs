//! What keeps a container going: `--restart`, `--health-…`, `--after`.

use super::Create;
use crate::error::{Error, Result};
use berth::v1::{self, after::Condition, restart_policy::Mode};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum OnFailure {
    None,
    Restart,
    Stop,
    Kill,
}

pub fn on_failure(action: Option<OnFailure>) -> v1::HealthAction {
    match action {
        None => v1::HealthAction::Unspecified,
        Some(OnFailure::None) => v1::HealthAction::None,
        Some(OnFailure::Restart) => v1::HealthAction::Restart,
        Some(OnFailure::Stop) => v1::HealthAction::Stop,
        Some(OnFailure::Kill) => v1::HealthAction::Kill,
    }
}

/// The `--health-…` flags; `None`: the image's check as it is.
pub fn health(flags: &Create) -> Result<Option<v1::HealthCheck>> {
    let ms = |flag: &str, given: Option<Duration>| match given {
        None => Ok(0),
        Some(d) if d.is_zero() => Ok(0),
        Some(d) => match u64::try_from(d.as_millis()) {
            Ok(ms) if ms > 0 => Ok(ms),
            _ => Err(Error::usage(format!("--{flag} {d:?}: must be at least 1ms"))),
        },
    };
    let test = match (&flags.health_cmd, flags.no_healthcheck) {
        (_, true) => vec!["NONE".to_owned()],
        // As Docker: the word none is no command.
        (Some(line), _) if line == "none" => vec!["NONE".to_owned()],
        (Some(line), _) if line.is_empty() => return Err(Error::usage("--health-cmd: must not be empty")),
        (Some(line), _) => vec!["CMD-SHELL".to_owned(), line.clone()],
        (None, _) => Vec::new(),
    };
    let check = v1::HealthCheck {
        test,
        interval_ms: ms("health-interval", flags.health_interval)?,
        timeout_ms: ms("health-timeout", flags.health_timeout)?,
        start_period_ms: ms("health-start-period", flags.health_start_period)?,
        start_interval_ms: ms("health-start-interval", flags.health_start_interval)?,
        retries: flags.health_retries.unwrap_or(0),
    };
    Ok((check != v1::HealthCheck::default()).then_some(check))
}

/// `NAME[:started|healthy|completed]`.
pub fn after(text: &str) -> Result<v1::After> {
    let (name, word) = text.split_once(':').unwrap_or((text, "started"));
    let condition = match word {
        "started" => Condition::Started,
        "healthy" => Condition::Healthy,
        "completed" => Condition::Completed,
        _ => {
            return Err(Error::usage(format!("--after {text:?}: {word:?} must be started, healthy or completed")));
        }
    };
    if name.is_empty() {
        return Err(Error::usage(format!("--after {text:?}: write NAME or NAME:CONDITION")));
    }
    Ok(v1::After { container: name.to_owned(), condition: condition.into() })
}

/// `no`, `always`, `on-failure[:MAX]`, `unless-stopped`.
pub fn restart(text: &str) -> Result<v1::RestartPolicy> {
    let bad = || {
        Error::usage(format!("--restart {text:?}: must be no, always, on-failure, on-failure:MAX or unless-stopped"))
    };
    let (word, max) = text.split_once(':').map_or((text, None), |(word, max)| (word, Some(max)));
    let mode = match (word, max) {
        ("no", None) => Mode::No,
        ("always", None) => Mode::Always,
        ("unless-stopped", None) => Mode::UnlessStopped,
        ("on-failure", _) => Mode::OnFailure,
        _ => return Err(bad()),
    };
    let max_retries = max.map_or(Ok(0), str::parse).map_err(|_| bad())?;
    Ok(v1::RestartPolicy { mode: mode.into(), max_retries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::state::{after_words, restart_words};

    #[test]
    fn dependencies() {
        for (text, shown) in [("db", "db:started"), ("db:healthy", "db:healthy"), ("m:completed", "m:completed")] {
            assert_eq!(after_words(&after(text).expect(text)), shown);
        }
        for bad in ["", ":healthy", "db:", "db:ready"] {
            after(bad).expect_err(bad);
        }
    }

    #[test]
    fn policies() {
        for (text, word, max) in [
            ("no", "no", 0),
            ("always", "always", 0),
            ("unless-stopped", "unless-stopped", 0),
            ("on-failure", "on-failure", 0),
            ("on-failure:3", "on-failure", 3),
        ] {
            assert_eq!(restart_words(Some(&restart(text).expect(text))), (word, max));
        }
        for bad in ["", "yes", "always:3", "on-failure:", "on-failure:-1", "on-failure:x"] {
            restart(bad).expect_err(bad);
        }
    }
}

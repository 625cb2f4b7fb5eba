//! What keeps a container going, from the wire and back.

use super::decode::Fields;
use berth::v1::{self, restart_policy::Mode};
use berth_model::supervision::RestartPolicy;

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

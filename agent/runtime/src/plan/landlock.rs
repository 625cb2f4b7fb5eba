//! The Landlock domain of a container's processes.

use crate::RuntimeError;
use crate::host::Host;
use berth_model::ContainerSpec;
use berth_model::network::NetworkMode;
use berth_model::wire::Step;
use berth_sys::landlock;

/// The step that enters it; behind everything that mounts, and ahead of the credentials.
pub(super) fn step(spec: &ContainerSpec, host: &Host) -> Result<Option<Step<'static>>, RuntimeError> {
    if spec.landlock != Some(true) {
        return Ok(None);
    }
    let abi = host.landlock_abi().map_err(|why| RuntimeError::spec("landlock", why))?;
    let scopes = wanted(spec) & landlock::scopes(abi);
    Ok(Some(Step::Landlock { rights: landlock::rights(abi), scopes }))
}

/// Two execs are in domains of their own, side by side: a scope also stands between them. So only where there is something of the host to reach.
fn wanted(spec: &ContainerSpec) -> u64 {
    let sockets = if spec.network == NetworkMode::Host { landlock::SCOPE_ABSTRACT_SOCKETS } else { 0 };
    let signals = if spec.host_pid { landlock::SCOPE_SIGNALS } else { 0 };
    sockets | signals
}

/// What an older kernel leaves open.
pub(super) fn warning(spec: &ContainerSpec, host: &Host) -> Option<String> {
    let abi = host.landlock_abi().ok().filter(|_| spec.landlock == Some(true))?;
    let missing = wanted(spec) & !landlock::scopes(abi);
    let what = match (missing & landlock::SCOPE_ABSTRACT_SOCKETS != 0, missing & landlock::SCOPE_SIGNALS != 0) {
        (false, false) => return None,
        (true, false) => "abstract sockets of the host",
        (false, true) => "signals to the host's processes",
        (true, true) => "abstract sockets of the host and signals to its processes",
    };
    Some(format!("Landlock of this kernel (ABI {abi}) does not keep the container from {what}: Linux 6.12 does"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_where_the_host_is() {
        let spec = |network, host_pid| ContainerSpec { network, host_pid, ..ContainerSpec::default() };
        assert_eq!(wanted(&spec(NetworkMode::Bridge, false)), 0);
        assert_eq!(wanted(&spec(NetworkMode::Host, false)), landlock::SCOPE_ABSTRACT_SOCKETS);
        assert_eq!(wanted(&spec(NetworkMode::None, true)), landlock::SCOPE_SIGNALS);
    }
}

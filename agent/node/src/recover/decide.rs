//! What becomes of a container that an agent finds at its start.

use crate::exit::killed_shim;
use berth_model::supervision::ExitCause;
use berth_model::{ContainerRecord, ExitStatus, Phase, Timestamp};

/// What is found of a container when the node is opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Findings {
    /// Its shim answers.
    pub shim: bool,
    /// What a shim left.
    pub exit: Option<ExitStatus>,
    /// The host has not been booted since.
    pub same_boot: bool,
}

/// What becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Keep,
    /// It has ended and that is written down: the shim may go, and what is left of the run.
    Settle,
    /// It runs: take it over.
    Adopt,
    /// It has ended, and this is how.
    End(ExitStatus),
    /// Its start was cut before anybody was told of it: what there is is killed, and it is as before.
    Revert,
    /// It goes, or goes on going.
    Remove,
}

/// Pure: every case is in the table of its test.
pub(super) fn decide(record: &ContainerRecord, found: &Findings) -> Action {
    let auto_remove = record.spec.auto_remove;
    match record.phase {
        Phase::Creating | Phase::Removing => Action::Remove,
        Phase::Created => Action::Keep,
        Phase::Exited if auto_remove => Action::Remove,
        Phase::Exited => Action::Settle,
        // Nobody knows its address: it was not told of yet, so it is not missed.
        Phase::Starting if found.shim && record.spec.network.is_own() && record.networks.is_empty() => {
            revert(auto_remove)
        }
        Phase::Starting | Phase::Running if found.shim => Action::Adopt,
        Phase::Starting | Phase::Running => match &found.exit {
            Some(exit) => Action::End(exit.clone()),
            None if !found.same_boot => Action::End(rebooted()),
            None if record.phase == Phase::Starting => revert(auto_remove),
            None => Action::End(killed_shim()),
        },
    }
}

fn revert(auto_remove: bool) -> Action {
    if auto_remove { Action::Remove } else { Action::Revert }
}

fn rebooted() -> ExitStatus {
    ExitStatus {
        code: 128 + berth_runtime::signal::SIGKILL,
        signal: None,
        oom_killed: false,
        reason: Some("the host was rebooted while it ran".to_owned()),
        finished: Timestamp::now(),
        cause: ExitCause::HostRebooted,
        ..ExitStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::container_record;
    use berth_model::network::{NetworkAttachment, NetworkMode};

    fn exit() -> ExitStatus {
        ExitStatus { code: 3, ..ExitStatus::default() }
    }

    /// An action without its times.
    fn word(action: &Action) -> &'static str {
        match action {
            Action::Keep => "keep",
            Action::Settle => "settle",
            Action::Adopt => "adopt",
            Action::End(e) if e.code == 3 => "end",
            Action::End(e) if e.reason.as_ref().is_some_and(|r| r.contains("rebooted")) => "rebooted",
            Action::End(_) => "shim killed",
            Action::Revert => "revert",
            Action::Remove => "remove",
        }
    }

    #[test]
    fn every_case() {
        use Phase::*;
        let address = NetworkAttachment {
            network: "bridge".to_owned(),
            bridge: "berth0".to_owned(),
            host_interface: "veth0".to_owned(),
            interface: "eth0".to_owned(),
            address: [172, 31, 240, 2].into(),
            prefix_len: 20,
            gateway: [172, 31, 240, 1].into(),
            ipv6: None,
            mac: String::new(),
            default_route: true,
            aliases: Vec::new(),
            ports: Vec::new(),
            cni: None,
        };
        // phase, auto-remove, network, its address is known, shim, exit file, same boot -> action
        let bridge = NetworkMode::Bridge;
        let none = NetworkMode::None;
        for (phase, auto, network, known, shim, left, same_boot, want) in [
            (Creating, false, &none, false, false, false, true, "remove"),
            (Creating, true, &none, false, true, false, true, "remove"),
            (Created, false, &bridge, false, false, false, true, "keep"),
            (Created, true, &none, false, false, false, false, "keep"),
            (Starting, false, &none, false, true, false, true, "adopt"),
            (Starting, false, &bridge, true, true, false, true, "adopt"),
            (Starting, true, &bridge, true, true, false, true, "adopt"),
            (Starting, false, &bridge, false, true, false, true, "revert"),
            (Starting, true, &bridge, false, true, false, true, "remove"),
            (Starting, false, &none, false, false, true, true, "end"),
            (Starting, false, &none, false, false, false, true, "revert"),
            (Starting, true, &none, false, false, false, true, "remove"),
            (Starting, false, &none, false, false, false, false, "rebooted"),
            (Running, false, &none, false, true, false, true, "adopt"),
            (Running, false, &bridge, true, true, false, true, "adopt"),
            (Running, false, &none, false, false, true, true, "end"),
            (Running, true, &none, false, false, true, true, "end"),
            (Running, false, &none, false, false, true, false, "end"),
            (Running, false, &none, false, false, false, true, "shim killed"),
            (Running, true, &none, false, false, false, true, "shim killed"),
            (Running, false, &none, false, false, false, false, "rebooted"),
            (Exited, false, &none, false, false, false, true, "settle"),
            (Exited, false, &none, false, true, false, true, "settle"),
            (Exited, true, &none, false, false, false, true, "remove"),
            (Removing, false, &none, false, true, true, true, "remove"),
            (Removing, true, &none, false, false, false, false, "remove"),
        ] {
            let mut record = container_record(1);
            record.phase = phase;
            record.spec.auto_remove = auto;
            record.spec.network = network.clone();
            record.networks = known.then(|| address.clone()).into_iter().collect();
            let found = Findings { shim, exit: left.then(exit), same_boot };
            assert_eq!(word(&decide(&record, &found)), want, "{phase} auto_remove={auto} {network:?} {found:?}");
        }
    }
}

//! What is different in a user namespace: what only the host may do is done before it is joined, and handed over as detached mounts.

use super::{GivenDevice, ROOT, bytes, mounts};
use crate::RuntimeError;
use crate::host::Host;
use crate::user::User;
use berth_model::ContainerSpec;
use berth_model::userns::IdRange;
use berth_model::wire::Step;
use berth_model::wire::plan::Node;
use berth_sys::process;
use std::collections::BTreeMap;

/// Places of trees.
pub(super) const SYS: u8 = 255;
pub(super) const PROC: u8 = 254;
pub(super) const DEV: u8 = 253;
pub(super) const MQUEUE: u8 = 252;
/// Devices outside of /dev: from here on.
const DEVICES: u8 = mounts::FIRST_OWN_SLOT;
const MAX_DEVICES: usize = (MQUEUE - DEVICES) as usize;

/// Whether a user and its groups are among the container's ids.
pub(crate) fn has(ids: IdRange, user: &User) -> Result<(), RuntimeError> {
    let missing = |what: &str, id: u32| {
        let size = ids.size;
        let message = format!(
            "{what} {id} is none of the {size} ids of the container's user namespace: ask for more with --userns=auto:size=N"
        );
        Err(RuntimeError::spec("user", message))
    };
    if ids.host_uid(user.uid).is_none() {
        return missing("user", user.uid);
    }
    match [user.gid].iter().chain(&user.groups).find(|g| ids.host_gid(**g).is_none()) {
        Some(gid) => missing("group", *gid),
        None => Ok(()),
    }
}

pub(super) fn root(ids: IdRange) -> (u32, u32) {
    (ids.host_uid(0).unwrap_or(ids.base), ids.host_gid(0).unwrap_or(ids.base))
}

/// So that the container's root may open what its standard streams lead to.
pub(crate) fn own_streams(ids: IdRange) -> Step<'static> {
    let (uid, gid) = root(ids);
    Step::OwnStreams { uid, gid }
}

/// What is inherited and cannot be had inside.
pub(super) fn host_rights(spec: &ContainerSpec, host: &Host, ids: IdRange) -> Vec<Step<'static>> {
    let mut steps = vec![own_streams(ids)];
    for limit in &spec.ulimits {
        let Some((_, resource)) = process::RESOURCES.iter().find(|(n, _)| *n == limit.name) else { continue };
        let max = host.hard_limit(*resource);
        if limit.hard > max && host.can_raise_limits() {
            steps.push(Step::RaiseLimit { resource: *resource, hard: limit.hard });
        }
    }
    steps
}

fn is_below_dev(device: &GivenDevice) -> bool {
    device.path.starts_with("/dev/")
}

fn elsewhere(given: &[GivenDevice]) -> impl Iterator<Item = (u8, &GivenDevice)> {
    (DEVICES..MQUEUE).zip(given.iter().filter(|d| !is_below_dev(d)))
}

/// What is done before the user namespace is joined, in the container's network.
pub(super) fn outside(spec: &ContainerSpec, host: &Host, ids: IdRange, given: &[GivenDevice]) -> Vec<Step<'static>> {
    let (uid, gid) = root(ids);
    let mut steps = host_rights(spec, host, ids);
    // It shows a network that may be somebody else's.
    steps.push(Step::KernelTree { slot: SYS, fs_type: bytes("sysfs"), read_only: true });
    steps.push(mounts::hosts_proc(PROC));
    if spec.host_ipc {
        steps.push(Step::KernelTree { slot: MQUEUE, fs_type: bytes("mqueue"), read_only: false });
    }
    let node = |path: String, d: &GivenDevice| Node {
        path: bytes(path),
        block: d.node.block,
        mode: d.node.mode,
        major: d.node.major,
        minor: d.node.minor,
        uid: ids.host_uid(d.node.uid).unwrap_or(uid),
        gid: ids.host_gid(d.node.gid).unwrap_or(gid),
    };
    let defaults = mounts::NODES.iter().map(|(name, major, minor)| Node {
        path: bytes(*name),
        block: false,
        mode: 0o666,
        major: *major,
        minor: *minor,
        uid,
        gid,
    });
    let below = |d: &GivenDevice| node(d.path.trim_start_matches("/dev/").to_owned(), d);
    let nodes = defaults.chain(given.iter().filter(|d| is_below_dev(d)).map(below)).collect();
    let data = vec![(bytes("mode"), bytes("755")), (bytes("size"), bytes("65536k"))];
    steps.push(Step::DeviceTree { slot: DEV, data, uid, gid, nodes, pick: false });
    for (slot, device) in elsewhere(given) {
        let (nodes, data) = (vec![node("node".into(), device)], vec![(bytes("size"), bytes("4k"))]);
        steps.push(Step::DeviceTree { slot, data, uid, gid, nodes, pick: true });
    }
    steps
}

/// From the birth inside to a root with /proc, /sys and /dev.
pub(super) fn inside(spec: &ContainerSpec, given: &[GivenDevice]) -> Vec<Step<'static>> {
    let mut steps = vec![Step::BecomeRoot, Step::EnterRoot { fd: ROOT }];
    let attach = |slot: u8, target: &str| Step::AttachTree { slot, target: bytes(target) };
    steps.push(if spec.host_pid { attach(PROC, "/proc") } else { Step::OwnProc { slot: PROC } });
    steps.extend([attach(SYS, "/sys"), attach(DEV, "/dev")]);
    steps.extend(elsewhere(given).map(|(slot, d)| attach(slot, &d.path)));
    steps
}

/// The container's settings as the kernel takes them in its user namespace: groups who may send pings have to be groups that there are, so that the
/// usual range of all groups ends with the container's last one.
pub(super) fn sysctls(spec: &ContainerSpec, ids: Option<IdRange>) -> Result<BTreeMap<String, String>, RuntimeError> {
    const PING: &str = "net.ipv4.ping_group_range";
    let mut sysctls = spec.sysctls.clone();
    let Some(ids) = ids else { return Ok(sysctls) };
    for (_, value) in sysctls.iter_mut().filter(|(key, _)| key.replace('/', ".") == PING) {
        let numbers: Vec<u32> = value.split_whitespace().map_while(|n| n.parse().ok()).collect();
        match numbers[..] {
            [first, last] if first <= last && first >= ids.size => {
                let why =
                    format!("{PING}: {first} is none of the container's {} groups: see --userns=auto:size=N", ids.size);
                return Err(RuntimeError::spec("sysctls", why));
            }
            [first, last] if first <= last => *value = format!("{first} {}", last.min(ids.size - 1)),
            // What it means is the kernel's to say.
            _ => {}
        }
    }
    Ok(sysctls)
}

/// What is too much.
pub(super) fn too_many(given: &[GivenDevice]) -> bool {
    given.iter().filter(|d| !is_below_dev(d)).count() > MAX_DEVICES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_ping_are_the_containers() {
        let ids = Some(IdRange { base: 3_000_000_000, size: 1000, keep: None });
        let get = |key: &str, value: &str, ids| {
            let spec =
                ContainerSpec { sysctls: [(key.to_owned(), value.to_owned())].into(), ..ContainerSpec::default() };
            sysctls(&spec, ids).map(|mut found| found.remove(key).unwrap()).map_err(|e| e.to_string())
        };
        let ping = "net.ipv4.ping_group_range";
        for (asked, told) in [("0 2147483647", "0 999"), ("5\t7", "5 7"), ("1 0", "1 0"), ("7", "7"), ("0 x", "0 x")] {
            assert_eq!(get(ping, asked, ids).as_deref(), Ok(told), "{asked}");
            assert_eq!(get("net/ipv4/ping_group_range", asked, ids).as_deref(), Ok(told), "{asked}");
            assert_eq!(get(ping, asked, None).as_deref(), Ok(asked));
            assert_eq!(get("net.core.somaxconn", asked, ids).as_deref(), Ok(asked));
        }
        let wrong = get(ping, "1000 2000", ids).unwrap_err();
        assert!(wrong.contains("1000 is none of") && wrong.starts_with("sysctls"), "{wrong}");
    }
}

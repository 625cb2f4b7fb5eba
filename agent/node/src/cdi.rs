//! What CDI devices add to a container, looked up at its start: drivers are upgraded, and devices come and go, between one run and the next.

use crate::NodeError;
use crate::node::Inner;
use berth_cdi::{DeviceNode, Edits, Hook, Name, Registry};
use berth_model::ContainerSpec;
use berth_model::selinux::Relabel;
use berth_model::spec::{Device, Mount, MountKind, NodeAttributes, Propagation};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(crate) type Hooks = Map<String, Value>;

fn edits(inner: &Inner, spec: &ContainerSpec) -> Result<Edits, NodeError> {
    let names: Result<Vec<Name>, String> = spec.cdi_devices.iter().map(|name| name.parse()).collect();
    let names = names.map_err(|why| NodeError::Invalid(vec![("cdi_devices".to_owned(), why)]))?;
    // Those that are started by berth-shim have nobody who runs hooks: they are told an OCI bundle, which there is none of.
    let hooks = !spec.runtime.is_empty();
    Ok(Registry::read(&inner.cdi_dirs).edits(&names, hooks)?)
}

/// Whether all that a new container asks for is there.
pub(crate) async fn check(inner: &Arc<Inner>, spec: &ContainerSpec) -> Result<(), NodeError> {
    if spec.cdi_devices.is_empty() {
        return Ok(());
    }
    let (inner_, spec) = (inner.clone(), spec.clone());
    inner.blocking(move || edits(&inner_, &spec).map(drop)).await
}

/// The spec with what its CDI devices stand for, and their hooks as an OCI configuration has them. `None`: it asks for none. Blocking.
pub(crate) fn resolved(inner: &Inner, spec: &ContainerSpec) -> Result<Option<(ContainerSpec, Hooks)>, NodeError> {
    if spec.cdi_devices.is_empty() {
        return Ok(None);
    }
    let edits = edits(inner, spec)?;
    let mut spec = spec.clone();
    spec.env.extend(edits.env);
    spec.groups.extend(edits.additional_gids.iter().map(u32::to_string));
    spec.devices.extend(edits.device_nodes.into_iter().map(device));
    spec.mounts.extend(edits.mounts.iter().map(mount));
    Ok(Some((spec, hooks(&edits.hooks))))
}

fn hooks(of: &[Hook]) -> Hooks {
    let mut all = Hooks::new();
    for hook in of {
        let mut one = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
        if let Some(seconds) = hook.timeout {
            one["timeout"] = seconds.into();
        }
        if let Value::Array(list) = all.entry(&hook.hook_name).or_insert_with(|| json!([])) {
            list.push(one);
        }
    }
    all
}

fn device(node: DeviceNode) -> Device {
    Device {
        host_path: node.host_path.unwrap_or_else(|| node.path.clone()),
        container_path: node.path,
        permissions: node.permissions.filter(|p| !p.is_empty()).unwrap_or_else(|| "rwm".to_owned()),
        node: NodeAttributes { mode: node.file_mode.map(|m| m & 0o7777), uid: node.uid, gid: node.gid },
    }
}

fn mount(mount: &berth_cdi::Mount) -> Mount {
    let word = mount.options.iter().rev().find_map(|option| {
        Some(match option.as_str() {
            "private" => Propagation::Private,
            "rprivate" => Propagation::Rprivate,
            "slave" => Propagation::Slave,
            "rslave" => Propagation::Rslave,
            "shared" => Propagation::Shared,
            "rshared" => Propagation::Rshared,
            _ => return None,
        })
    });
    let kind = MountKind::Bind {
        source: mount.host_path.clone(),
        propagation: word.unwrap_or(Propagation::Rprivate),
        recursive: mount.has("rbind"),
        create_source: false,
        writable_below: false,
        within: None,
        idmap: None,
        nosuid_nodev: mount.has("nosuid"),
    };
    Mount { target: mount.container_path.clone(), read_only: mount.has("ro"), kind, relabel: Relabel::Keep }
}

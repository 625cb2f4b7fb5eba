//! One file: what a vendor says of the devices of one kind.

use crate::name;
use serde::Deserialize;

/// A file's bytes: those of real GPUs take some hundred KiB.
pub const MAX_BYTES: usize = 2 << 20;
const MAX_ENTRIES: usize = 1024;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    cdi_version: String,
    pub kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "words for people")]
    annotations: serde::de::IgnoredAny,
    pub devices: Vec<Device>,
    /// For whichever of its devices is asked for, once.
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "words for people")]
    annotations: serde::de::IgnoredAny,
    #[serde(default)]
    pub container_edits: Edits,
}

/// What a container gets with a device.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    /// `NAME=VALUE`
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    pub hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    pub intel_rdt: Option<serde_json::Value>,
    pub net_devices: Vec<serde_json::Value>,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    pub path: String,
    pub host_path: Option<String>,
    /// `c`, `u`, `b`; what the host has decides.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub file_mode: Option<u32>,
    /// Letters of `rwm`.
    pub permissions: Option<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

/// A program of the host, as an OCI configuration has it (runtime-spec, config.md, "POSIX-platform Hooks").
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// One of [`HOOKS`].
    pub hook_name: String,
    pub path: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    /// Seconds, more than none.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// When a hook can run.
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Reads a file's text, of JSON or YAML, and checks all but what is on the host.
///
/// # Errors
/// What is wrong with it, by field.
pub fn parse(text: &str, yaml: bool) -> Result<Spec, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("has more than {MAX_BYTES} bytes"));
    }
    let spec: Spec = match yaml {
        true => serde_saphyr::from_str(text).map_err(|e| first_line(&e.to_string()))?,
        false => serde_json::from_str(text).map_err(|e| e.to_string())?,
    };
    let version = spec.cdi_version.strip_prefix('v').unwrap_or(&spec.cdi_version);
    let numbers: Vec<Option<u32>> = version.split('.').map(|n| n.parse().ok()).collect();
    if !matches!(numbers[..], [Some(0), Some(1..=99), Some(_)] | [Some(1), Some(_), Some(_)]) {
        return Err(format!("cdiVersion {:?} is none that this agent knows: 0.1.0 to 1.x", spec.cdi_version));
    }
    name::check_kind(&spec.kind)?;
    if spec.devices.len() > MAX_ENTRIES {
        return Err(format!("devices: more than {MAX_ENTRIES}"));
    }
    for (n, device) in spec.devices.iter().enumerate() {
        name::check_device(&device.name).map_err(|why| format!("devices[{n}].name: {why}"))?;
        if spec.devices[..n].iter().any(|other| other.name == device.name) {
            return Err(format!("devices[{n}].name: {:?} is there twice", device.name));
        }
        check(&device.container_edits).map_err(|why| format!("devices[{n}].containerEdits.{why}"))?;
    }
    check(&spec.container_edits).map_err(|why| format!("containerEdits.{why}"))?;
    Ok(spec)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn check(edits: &Edits) -> Result<(), String> {
    let counts = [edits.env.len(), edits.device_nodes.len(), edits.mounts.len(), edits.additional_gids.len()];
    if counts.into_iter().chain([edits.hooks.len()]).any(|n| n > MAX_ENTRIES) {
        return Err(format!("…: more than {MAX_ENTRIES}"));
    }
    for (n, env) in edits.env.iter().enumerate() {
        if env.starts_with('=') || !env.contains('=') || env.contains('\0') {
            return Err(format!("env[{n}]: {env:?} is no NAME=VALUE"));
        }
    }
    for (n, node) in edits.device_nodes.iter().enumerate() {
        path(&node.path).map_err(|why| format!("deviceNodes[{n}].path: {why}"))?;
        path(node.host_path.as_deref().unwrap_or("/")).map_err(|why| format!("deviceNodes[{n}].hostPath: {why}"))?;
        let letters = node.permissions.as_deref().unwrap_or_default();
        if letters.len() > 3 || letters.bytes().any(|b| !b"rwm".contains(&b)) {
            return Err(format!("deviceNodes[{n}].permissions: {letters:?} must be letters of rwm"));
        }
        if node.file_mode.is_some_and(|mode| mode & !0o60000 > 0o7777) {
            return Err(format!("deviceNodes[{n}].fileMode: must be at most 4095 (07777)"));
        }
    }
    for (n, hook) in edits.hooks.iter().enumerate() {
        if !HOOKS.contains(&hook.hook_name.as_str()) {
            let known = HOOKS.join(", ");
            return Err(format!("hooks[{n}].hookName: {:?} is none of {known}", hook.hook_name));
        }
        path(&hook.path).map_err(|why| format!("hooks[{n}].path: {why}"))?;
        if hook.timeout.is_some_and(|seconds| seconds <= 0) {
            return Err(format!("hooks[{n}].timeout: must be at least 1 (seconds)"));
        }
        if hook.args.len().max(hook.env.len()) > MAX_ENTRIES {
            return Err(format!("hooks[{n}]: more than {MAX_ENTRIES} args or env"));
        }
    }
    for (n, mount) in edits.mounts.iter().enumerate() {
        path(&mount.host_path).map_err(|why| format!("mounts[{n}].hostPath: {why}"))?;
        path(&mount.container_path).map_err(|why| format!("mounts[{n}].containerPath: {why}"))?;
    }
    Ok(())
}

fn path(text: &str) -> Result<(), String> {
    let good =
        text.starts_with('/') && text.len() < 4096 && !text.contains('\0') && !text.split('/').any(|p| p == "..");
    if good { Ok(()) } else { Err(format!("{text:?} must be an absolute path without '..'")) }
}

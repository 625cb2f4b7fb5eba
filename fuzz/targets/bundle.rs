//! config.json of a bundle, to the plan of a container: what is taken stays in its place.
#![no_main]

extern crate self as berth_runtime;

#[path = "../../agent/oci/src/config.rs"]
#[allow(dead_code)]
mod config;
#[path = "../../agent/oci/src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../agent/oci/src/plan/mod.rs"]
#[allow(dead_code, unused_imports)]
mod plan;
#[path = "../../agent/runtime/src/seccomp/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod seccomp;
#[path = "../../agent/runtime/src/sysctl.rs"]
#[allow(dead_code)]
pub mod sysctl;

use std::path::{Component, Path};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(process) = config::parse::<config::Process>("process.json", &text) {
        let _ = plan::process(&process, None, &mut Vec::new());
    }
    let Ok(config) = config::parse::<config::Config>("config.json", &text) else { return };
    let inside = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if let Ok(plan) = plan::plan(&config, Path::new("/bundle"), "c1", true, &mut Vec::new()) {
        let scope = plan.scope.expect("systemd makes it");
        assert!(inside(&scope.path()) && scope.unit.ends_with(".scope") && !scope.unit.contains('/'), "{scope:?}");
    }
    let Ok(plan) = plan::plan(&config, Path::new("/bundle"), "c1", false, &mut Vec::new()) else { return };
    assert!(inside(&plan.cgroup) && plan.cgroup.components().any(|c| matches!(c, Component::Normal(_))));
    for (path, _) in &plan.sysctls {
        let parts: Vec<&str> = path.split('/').collect();
        assert!(!parts.contains(&"..") && !parts.contains(&""), "{path}");
        let own = ["net", "kernel", "fs", "user"];
        assert!(own.contains(&parts[0]), "{path} is of no namespace");
    }
    let rooted = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    assert!(plan.mounts.iter().all(|m| rooted(&m.target) && !plan::same(&m.target, "/")));
    assert!(plan.devices.iter().all(|d| rooted(&d.path)));
    assert!(plan.masked.iter().chain(&plan.read_only).all(|p| p.starts_with('/')));
    assert!([plan.process.uid, plan.process.gid].iter().chain(&plan.process.groups).all(|id| *id <= i32::MAX as u32));
    assert!(plan.process.rlimits.iter().all(|(_, soft, hard)| soft <= hard));
    let caps = plan.process.capabilities;
    assert_eq!((caps.effective & !caps.permitted, caps.ambient & !caps.inheritable), (0, 0));
    if let Some(program) = plan.process.seccomp {
        assert!(program.program.len().is_multiple_of(8) && program.program.len() <= 8 * 4096);
    }
});

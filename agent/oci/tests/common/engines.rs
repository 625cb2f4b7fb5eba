//! What the tests of Podman and of containerd share: whether they are here, and what their containers have left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether the host has all these programs. Where tests/fixtures/setup.sh has installed what the tests need (tests/check.sh says so by
/// BERTH_TEST_INSTALLED), one that is missing is an error, and elsewhere it is said.
pub fn are_here(programs: &[&str]) -> bool {
    for program in programs {
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        if !found {
            let must = std::env::var_os("BERTH_TEST_INSTALLED").is_some();
            assert!(!must, "{program} is missing: tests/fixtures/setup.sh installs it");
            eprintln!("skipped: {program} is not installed (tests/fixtures/setup.sh)");
            return false;
        }
    }
    true
}

/// Whether systemd shall make the groups (BERTH_TEST_CGROUPS=systemd): on cgroup v2, with a systemd as first process (tests/vm-engines.sh).
pub fn systemd() -> bool {
    std::env::var("BERTH_TEST_CGROUPS").is_ok_and(|by| by == "systemd")
}

/// The slice of that name goes, which systemd would keep without anything in it.
pub fn stop_slice(name: &str) {
    let _ = Command::new("systemctl").args(["stop", &format!("{name}.slice")]).status();
}

/// Control groups that have this name, in every hierarchy.
pub fn groups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).unwrap().flatten().map(|e| e.path());
    hierarchies.chain([top.to_owned()]).map(|h| h.join(name)).filter(|g| g.is_dir()).collect()
}

/// Waits until nothing is left of an engine that kept all its things below `at`, and its containers' groups in the one called `group`:
/// no process that was told of the folder, no mount, no container of berth-runtime's, no group (and so no process in one).
/// `tidy` removes what is the engine's to leave, again and again, since its helpers end in their own time.
#[track_caller]
pub fn nothing_is_left(at: &Path, group: &str, tidy: impl Fn()) {
    let began = Instant::now();
    loop {
        tidy();
        let left = left(at.to_str().unwrap(), group);
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "left behind: {left:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn left(at: &str, group: &str) -> Vec<String> {
    let mentions = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
    let mut all = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(at)) {
        all.push(format!("mount {line}"));
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        let command = mentions(&entry.path().join("cmdline")).unwrap_or_default();
        if command.contains(at) {
            all.push(format!("process {name}: {command}"));
        }
    }
    for entry in fs::read_dir("/run/berth-runtime").into_iter().flatten().flatten() {
        if mentions(&entry.path().join("state.json")).is_ok_and(|text| text.contains(at)) {
            all.push(format!("container {}", entry.path().display()));
        }
    }
    for group in groups(group).into_iter().chain(groups(&format!("{group}.slice"))) {
        all.push(format!("cgroup {}", group.display()));
    }
    all
}

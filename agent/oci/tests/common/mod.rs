//! Bundles made of a static busybox, and the program under test.
#![allow(dead_code, reason = "not every test file uses everything")]

pub mod engines;

use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The program under test: cargo's, or that of the folder BERTH_TEST_BINARIES (an installed package, say).
pub fn runtime() -> String {
    let given = std::env::var("BERTH_TEST_BINARIES").map(|folder| format!("{folder}/berth-runtime"));
    given.unwrap_or_else(|_| env!("CARGO_BIN_EXE_berth-runtime").to_owned())
}

/// Where bundles are: a disk, because owners of a root that is an overlay cannot be mapped everywhere.
pub fn folder() -> PathBuf {
    std::env::var_os("BERTH_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), |dir| PathBuf::from(dir).join("run"))
}

/// Makes a root with a static busybox.
pub fn busybox(root: &Path) {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("a static busybox (Debian: busybox-static)");
    for applet in [
        "sh", "sleep", "cat", "echo", "id", "ls", "mount", "stat", "touch", "head", "grep", "hostname", "tty", "pwd",
        "env", "true", "kill", "mkdir", "ps", "readlink", "stty", "nslookup", "dd", "test",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
    }
    for folder in ["proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program with the attacks that a shell cannot make (tests/fixtures/escape.c), built once for all tests of this source.
pub fn attacks() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/escape.c");
    let mut hash = DefaultHasher::new();
    std::fs::read(source).unwrap().hash(&mut hash);
    std::fs::create_dir_all(folder()).unwrap();
    let target = folder().join(format!("oci-attacks-{:016x}", hash.finish()));
    if !target.exists() {
        let made = target.with_extension(std::process::id().to_string());
        let status = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&made).arg(source).status();
        assert!(status.unwrap().success());
        std::fs::rename(&made, &target).unwrap();
    }
    target
}

/// A folder with a bundle and a state folder; everything is gone with it.
pub struct Bench {
    pub at: PathBuf,
    name: String,
}

impl Bench {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("oci{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let at = folder().join(&name);
        busybox(&at.join("bundle/rootfs"));
        Bench { at, name }
    }

    pub fn id(&self) -> String {
        self.name.clone()
    }

    pub fn bundle(&self) -> PathBuf {
        self.at.join("bundle")
    }

    pub fn state_folder(&self) -> PathBuf {
        self.at.join("state")
    }

    /// Writes config.json: `spec`'s, without a terminal, in a group of its own, with a change.
    pub fn config(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let path = self.bundle().join("config.json");
        let _ = std::fs::remove_file(&path);
        ok(self.runtime(&["spec", "--bundle", self.bundle().to_str().unwrap()]));
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/berth-oci-test/{}", self.name));
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(runtime());
        command.arg("--root").arg(self.state_folder()).args(args).current_dir(self.bundle());
        command.stdin(Stdio::null());
        command
    }

    pub fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// `create`, with output that does not keep this process waiting for the container.
    pub fn create(&self, more: &[&str]) -> Output {
        let id = self.id();
        let args = [&["create"], more, &[id.as_str()]].concat();
        let (out, err) = (self.at.join("out"), self.at.join("err"));
        let file = |p: &Path| std::fs::File::create(p).unwrap();
        let status = self.command(&args).stdout(file(&out)).stderr(file(&err)).status().unwrap();
        Output { status, stdout: Vec::new(), stderr: std::fs::read(err).unwrap() }
    }

    /// What the container has written by now.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.at.join("out")).unwrap()
    }

    /// Waits until it has said this, and nothing else.
    pub fn says(&self, text: &str) {
        let began = Instant::now();
        while self.output() != text {
            assert!(began.elapsed() < Duration::from_secs(10), "never {text:?}: {:?}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn run(&self) -> Output {
        self.runtime(&["run", &self.id()])
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&ok(self.runtime(&["state", &self.id()]))).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn wait_for(&self, status: &str) {
        let began = Instant::now();
        while self.status() != status {
            assert!(began.elapsed() < Duration::from_secs(10), "never {status}: {}", self.state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn groups(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut look = |p: PathBuf| all.extend(p.is_dir().then_some(p));
        look(Path::new("/sys/fs/cgroup/berth-oci-test").join(&self.name));
        for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            look(entry.path().join("berth-oci-test").join(&self.name));
        }
        all
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.runtime(&["delete", "--force", &self.id()]);
        let left = self.groups();
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Another test may have its group there.
            let _ = std::fs::remove_dir(entry.path().join("berth-oci-test"));
        }
        let _ = std::fs::remove_dir("/sys/fs/cgroup/berth-oci-test");
        let _ = std::fs::remove_dir_all(&self.at);
        if !std::thread::panicking() {
            assert!(left.is_empty(), "cgroups are left: {left:?}");
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a command that succeeded.
#[track_caller]
pub fn ok(out: Output) -> String {
    assert!(out.status.success(), "{}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Standard error of a command that failed.
#[track_caller]
pub fn fails(out: Output, says: &str) {
    let said = text(&out.stderr);
    assert!(!out.status.success() && said.contains(says), "{}: {said:?} does not say {says:?}", out.status);
}

/// Nothing but cgroup v2 is mounted here.
pub fn only_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

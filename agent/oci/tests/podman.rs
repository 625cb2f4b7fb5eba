//! Debian's Podman runs its containers with berth-runtime. Skipped, by a line that says so, where podman is missing.

mod common;

use common::{ok, runtime, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Podman {
    at: PathBuf,
}

impl Podman {
    /// `None`: there is no podman here.
    fn new(name: &str) -> Option<Self> {
        if !Command::new("podman").arg("--version").output().is_ok_and(|o| o.status.success()) {
            eprintln!("skipped: podman is not installed");
            return None;
        }
        let at = PathBuf::from(format!("/var/tmp/berth-podman-{}-{name}", std::process::id()));
        std::fs::create_dir_all(at.join("rootfs/bin")).unwrap();
        std::fs::create_dir(at.join("rootfs/tmp")).unwrap();
        let podman = Podman { at };
        let program = runtime();
        std::fs::write(
            podman.at.join("containers.conf"),
            format!("[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\nruntime_supports_json = [\"berth-runtime\"]\n[engine.runtimes]\nberth-runtime = [{program:?}]\n"),
        )
        .unwrap();
        podman.image();
        Some(podman)
    }

    /// The registry's busybox where the tests have one, else a tar of the host's.
    fn image(&self) {
        if let Ok(registry) = std::env::var("BERTH_TEST_REGISTRY") {
            let image = format!("{registry}/busybox:latest");
            if self.run(&["pull", "--quiet", "--tls-verify=false", &image]).status.success() {
                ok(self.run(&["tag", &image, "localhost/box"]));
                return;
            }
        }
        let bin = self.at.join("rootfs/bin");
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in ["sh", "sleep", "cat", "echo", "id", "tty", "true", "hostname"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let tar = self.at.join("image.tar");
        let made = Command::new("tar").arg("-C").arg(self.at.join("rootfs")).arg("-cf").arg(&tar).arg(".").status();
        assert!(made.unwrap().success());
        ok(self.run(&["import", "--quiet", tar.to_str().unwrap(), "localhost/box:latest"]));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", self.at.join("containers.conf")).stdin(Stdio::null());
        let folder = |name: &str| self.at.join(name);
        command
            .arg("--root")
            .arg(folder("root"))
            .arg("--runroot")
            .arg(folder("run"))
            .arg("--tmpdir")
            .arg(folder("tmp"));
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]).args(["--runtime", "berth-runtime"]);
        command.args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]);
        for mount in ["root/overlay", "run"] {
            let _ = Command::new("umount").arg("-q").arg(self.at.join(mount)).stderr(Stdio::null()).status();
        }
        remove(&self.at);
    }
}

fn remove(at: &Path) {
    let _ = std::fs::remove_dir_all(at);
}

#[test]
fn run_exec_logs_stop_and_rm() {
    let Some(podman) = Podman::new("life") else { return };
    let box_ = "localhost/box";
    let out = podman.run(&["run", "--rm", "--network", "none", box_, "sh", "-c", "echo hi; id -u; exit 5"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(5), "hi\n0\n".into()), "{}", text(&out.stderr));
    assert_eq!(podman.run(&["run", "--rm", "--network", "none", box_, "nosuch"]).status.code(), Some(127));
    assert_eq!(podman.run(&["run", "--rm", "--network", "none", box_, "/etc"]).status.code(), Some(126));

    ok(podman.run(&[
        "run",
        "-d",
        "--name",
        "a",
        "--network",
        "none",
        "--hostname",
        "inside",
        "--memory",
        "64m",
        box_,
        "sh",
        "-c",
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done",
    ]));
    assert!(ok(podman.run(&["ps", "--format", "{{.Names}} {{.Status}}"])).starts_with("a Up"));
    assert!(ok(podman.run(&["inspect", "a", "--format", "{{.OCIRuntime}}"])).contains("berth-runtime"));
    assert_eq!(ok(podman.run(&["exec", "a", "hostname"])), "inside\n");
    assert_eq!(podman.run(&["exec", "a", "sh", "-c", "exit 4"]).status.code(), Some(4));
    assert_eq!(podman.run(&["exec", "a", "nosuch"]).status.code(), Some(127));
    assert_eq!(
        ok(podman.run(&["exec", "-u", "7:8", "-e", "A=b", "-w", "/tmp", "a", "sh", "-c", "id -u; echo $A; pwd"])),
        "7\nb\n/tmp\n"
    );
    ok(podman.run(&["pause", "a"]));
    assert_eq!(ok(podman.run(&["inspect", "a", "--format", "{{.State.Status}}"])), "paused\n");
    ok(podman.run(&["unpause", "a"]));
    assert!(ok(podman.run(&["top", "a", "pid"])).contains('1'));
    ok(podman.run(&["stop", "--time", "5", "a"]));
    assert_eq!(ok(podman.run(&["inspect", "a", "--format", "{{.State.ExitCode}}"])), "3\n");
    assert_eq!(ok(podman.run(&["logs", "a"])), "up\nbye\n");
    ok(podman.run(&["start", "a"]));
    ok(podman.run(&["kill", "a"]));
    assert_eq!(ok(podman.run(&["wait", "a"])), "137\n");
    ok(podman.run(&["rm", "a"]));
    assert_eq!(ok(podman.run(&["ps", "-aq"])), "");
}

#[test]
fn volumes_users_and_privileges() {
    let Some(podman) = Podman::new("options") else { return };
    let run = |args: &[&str]| podman.run(&[&["run", "--rm", "--network", "none"], args].concat());
    let shared = podman.at.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/v", shared.display());
    ok(run(&["-v", &volume, "localhost/box", "sh", "-c", "echo x > /v/made"]));
    assert_eq!(std::fs::read_to_string(shared.join("made")).unwrap(), "x\n");
    let ro = format!("{volume}:ro");
    assert!(!run(&["-v", &ro, "localhost/box", "sh", "-c", "echo y > /v/made"]).status.success());
    assert_eq!(ok(run(&["--user", "12:34", "localhost/box", "sh", "-c", "id -u; id -g"])), "12\n34\n");
    assert!(ok(run(&["--privileged", "localhost/box", "cat", "/proc/self/status"])).contains("Seccomp:\t0"));
    assert!(ok(run(&["localhost/box", "cat", "/proc/self/status"])).contains("Seccomp:\t2"));
    assert!(!run(&["--read-only", "localhost/box", "sh", "-c", "echo x > /file"]).status.success());
    ok(run(&["--tmpfs", "/t:size=1m", "localhost/box", "sh", "-c", "echo x > /t/file"]));
    ok(run(&["--pid", "host", "--ipc", "host", "--uts", "host", "localhost/box", "true"]));
    ok(run(&["--sysctl", "net.ipv4.ip_forward=1", "localhost/box", "true"]));
    let map =
        ["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536", "localhost/box", "cat", "/proc/self/uid_map"];
    assert!(ok(run(&map)).contains("300000"));
}

#[test]
fn terminals() {
    let Some(podman) = Podman::new("tty") else { return };
    let out = podman.run(&["run", "--rm", "-t", "--network", "none", "localhost/box", "tty"]);
    assert_eq!(text(&out.stdout), "/dev/pts/0\r\n", "{}", text(&out.stderr));
    ok(podman.run(&["run", "-d", "--name", "t", "--network", "none", "localhost/box", "sleep", "1000"]));
    let mut child =
        podman.command(&["exec", "-i", "-t", "t", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"echo a$((1+1))b; exit 6\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(text(&out.stdout).contains("a2b"), "{}", text(&out.stdout));
    assert_eq!(out.status.code(), Some(6));
}

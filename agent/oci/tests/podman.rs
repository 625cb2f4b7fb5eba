//! Debian's Podman runs its containers with berth-runtime: an installation of its own, on this kernel, with cgroups in cgroupfs or, where that is
//! asked for, in systemd's scopes.

mod common;

use common::{engines, ok, runtime, text, until};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const BOX: &str = "localhost/box";
const CAP_SYS_ADMIN: u32 = 21;

struct Podman {
    at: PathBuf,
    name: String,
}

impl Podman {
    /// With an image of a busybox. `None`: there is no podman here.
    fn new(name: &str) -> Option<Self> {
        if !engines::are_here(&["podman", "conmon"]) {
            return None;
        }
        // As a slice it would be below others for each "-"; and Podman's folders may have names of 50 characters.
        let name = format!("berthp_{}_{name}", std::process::id());
        let podman = Podman { at: common::folder().join(&name), name };
        common::busybox(&podman.at.join("rootfs"));
        let program = runtime();
        let ulimits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]";
        let engine = "[engine]\nruntime_supports_json = [\"berth-runtime\"]";
        let text = format!("{ulimits}\n{engine}\n[engine.runtimes]\nberth-runtime = [{program:?}]\n");
        fs::write(podman.at.join("containers.conf"), text).unwrap();
        let tar = podman.at.join("image.tar");
        let made = Command::new("tar").arg("-C").arg(podman.at.join("rootfs")).arg("-cf").arg(&tar).arg(".").status();
        assert!(made.unwrap().success());
        podman.ok(&["import", "--quiet", tar.to_str().unwrap(), &format!("{BOX}:latest")]);
        Some(podman)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        // conmon notes in its working folder that a process had no memory left.
        command.env("CONTAINERS_CONF", self.at.join("containers.conf")).stdin(Stdio::null()).current_dir(&self.at);
        for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.at.join(folder));
        }
        let manager = if engines::systemd() { "systemd" } else { "cgroupfs" };
        command.args(["--cgroup-manager", manager, "--events-backend", "none", "--runtime", "berth-runtime"]);
        command.args(args);
        command
    }

    fn podman(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        ok(self.podman(args))
    }

    /// What `run` and `create` need, so that groups are where they are looked for and nothing of the host's network changes.
    fn options(&self) -> [String; 3] {
        ["--network=none".into(), self.parent(), "--log-driver=k8s-file".into()]
    }

    fn parent(&self) -> String {
        let name = &self.name;
        if engines::systemd() { format!("--cgroup-parent={name}.slice") } else { format!("--cgroup-parent=/{name}") }
    }

    /// `podman run` with more options, to its end.
    fn run(&self, args: &[&str]) -> Output {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.podman(&[&["run", "--rm"], &options[..], args].concat())
    }

    /// `podman run` in the background.
    #[track_caller]
    fn start(&self, name: &str, args: &[&str]) {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.ok(&[&["run", "--detach", "--name", name], &options[..], args].concat());
    }

    fn inspect(&self, name: &str, format: &str) -> String {
        self.ok(&["inspect", name, "--format", format]).trim_end().to_owned()
    }

    /// A file of the container's group, by its names on cgroup v1 and v2.
    fn limit(&self, name: &str, v1: (&str, &str), v2: &str) -> String {
        let pid = self.inspect(name, "{{.State.Pid}}");
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let at = |controller: &str| {
            let line = groups.lines().find(|l| l.split(':').nth(1).unwrap().split(',').any(|c| c == controller));
            line.unwrap().splitn(3, ':').nth(2).unwrap().trim_start_matches('/').to_owned()
        };
        let top = PathBuf::from("/sys/fs/cgroup");
        let file = if common::only_v2() { top.join(at("")).join(v2) } else { top.join(v1.0).join(at(v1.0)).join(v1.1) };
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }

    /// Removes what runs. Podman 4.3's command may find that conmon's clean-up is not through yet, whatever the runtime: then once more.
    fn remove(&self, name: &str) -> Output {
        let args = ["rm", "--force", "--time", "0", name];
        (0..4).map(|_| self.podman(&args)).find(|out| out.status.success()).unwrap_or_else(|| self.podman(&args))
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed = self.remove("--all");
        if engines::systemd() {
            engines::stop_slice(&self.name);
        }
        // Podman's own: groups for its conmons, and mounts that keep its folders private.
        let tidy = || {
            for group in engines::groups(&self.name) {
                let _ = fs::remove_dir(group.join("conmon"));
                let _ = fs::remove_dir(group);
            }
            for mount in ["root/overlay", "run"] {
                let _ = Command::new("umount").arg("-q").arg(self.at.join(mount)).stderr(Stdio::null()).status();
            }
        };
        if std::thread::panicking() {
            tidy();
        } else {
            ok(removed);
            engines::nothing_is_left(&self.at, &self.name, tidy);
        }
        let _ = fs::remove_dir_all(&self.at);
    }
}

#[test]
fn a_life_from_run_to_rm() {
    let Some(podman) = Podman::new("life") else { return };
    let out = podman.run(&[BOX, "sh", "-c", "echo hi; echo no >&2; id -u; exit 5"]);
    assert_eq!((out.status.code(), &*text(&out.stdout), &*text(&out.stderr)), (Some(5), "hi\n0\n", "no\n"));
    // Podman knows these two by the runtime's words.
    assert_eq!(podman.run(&[BOX, "nosuch"]).status.code(), Some(127));
    assert_eq!(podman.run(&[BOX, "/etc"]).status.code(), Some(126));
    // By its path, which needs no line in containers.conf.
    let options = podman.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let by_path = |program: &str| {
        podman
            .podman(&[&["--runtime", &runtime(), "run", "--rm"], &options[..], &[BOX, program]].concat())
            .status
            .code()
    };
    assert_eq!((by_path("true"), by_path("nosuch")), (Some(0), Some(127)));

    let script = "trap 'echo bye; exit 3' TERM; trap 'echo usr1' USR1; echo up; while :; do sleep 0.1; done";
    podman.start("a", &["--hostname", "inside", BOX, "sh", "-c", script]);
    assert!(podman.ok(&["ps", "--format", "{{.Names}} {{.Status}}"]).starts_with("a Up"));
    assert!(podman.inspect("a", "{{.OCIRuntime}}").contains("berth-runtime"));
    let logs = |name: &str| podman.ok(&["logs", name]);
    until("up", || logs("a") == "up\n");
    podman.ok(&["kill", "--signal", "USR1", "a"]);
    until("usr1", || logs("a") == "up\nusr1\n");
    podman.ok(&["pause", "a"]);
    assert_eq!(podman.inspect("a", "{{.State.Status}}"), "paused");
    podman.ok(&["unpause", "a"]);
    assert!(podman.ok(&["top", "a", "pid", "comm"]).contains("1           sh"));
    podman.ok(&["stop", "--time", "5", "a"]);
    assert_eq!(podman.inspect("a", "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    assert_eq!(logs("a"), "up\nusr1\nbye\n");
    podman.ok(&["start", "a"]);
    podman.ok(&["restart", "--time", "5", "a"]);
    podman.ok(&["kill", "a"]);
    assert_eq!(podman.ok(&["wait", "a"]), "137\n");
    podman.ok(&["rm", "a"]);

    // Deaf to SIGTERM: killed when the time is over. And removed while it runs.
    podman.start("deaf", &[BOX, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    podman.ok(&["stop", "--time", "1", "deaf"]);
    assert_eq!(podman.inspect("deaf", "{{.State.ExitCode}}"), "137");
    podman.ok(&["start", "deaf"]);
    ok(podman.remove("deaf"));
    // Made, and never started.
    podman.ok(&[&["create", "--name", "idle"], &options[..], &[BOX, "true"]].concat());
    podman.ok(&["init", "idle"]);
    assert_eq!(podman.inspect("idle", "{{.State.Status}}"), "initialized");
    ok(podman.remove("idle"));
    assert_eq!(podman.ok(&["ps", "-aq"]), "");
}

#[test]
fn exec_and_copies() {
    let Some(podman) = Podman::new("exec") else { return };
    podman.start("a", &["--hostname", "inside", "--env", "OF=image", BOX, "sleep", "1000"]);
    assert_eq!(podman.ok(&["exec", "a", "hostname"]), "inside\n");
    let code = |args: &[&str]| podman.podman(&[&["exec", "a"], args].concat()).status.code();
    assert_eq!(code(&["sh", "-c", "exit 4"]), Some(4));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["nosuch"]), Some(127));
    assert_eq!(code(&["/etc"]), Some(126));
    let more = ["-u", "7:8", "-e", "A=b", "-w", "/tmp", "a", "sh", "-c", "id -u; id -g; echo $A $OF; pwd"];
    assert_eq!(podman.ok(&[&["exec"], &more[..]].concat()), "7\n8\nb image\n/tmp\n");
    let mut child = podman.spawn(&["exec", "-i", "a", "sh", "-c", "cat; echo end >&2"]);
    child.stdin.take().unwrap().write_all(b"through\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!((&*text(&out.stdout), &*text(&out.stderr)), ("through\n", "end\n"));
    podman.ok(&["exec", "--detach", "a", "sh", "-c", "echo later > /tmp/later"]);
    until("a detached exec", || podman.podman(&["exec", "a", "cat", "/tmp/later"]).stdout == b"later\n");
    let rights = |more: &[&str]| {
        let said = podman.ok(&[&["exec"], more, &["a", "grep", "-E", "CapEff|Seccomp:", "/proc/self/status"]].concat());
        let (sets, filter) = said.trim().split_once('\n').unwrap();
        let sets = u64::from_str_radix(sets.trim_start_matches("CapEff:\t"), 16).unwrap();
        (sets & (1 << CAP_SYS_ADMIN) != 0, filter.to_owned())
    };
    // As with runc, the container's filter stays.
    assert_eq!(rights(&["--privileged"]), (true, "Seccomp:\t2".into()));
    assert_eq!(rights(&[]), (false, "Seccomp:\t2".into()));
    // Podman joins the container's namespaces by itself for these.
    fs::write(podman.at.join("file"), "copied").unwrap();
    podman.ok(&["cp", podman.at.join("file").to_str().unwrap(), "a:/tmp/file"]);
    assert_eq!(podman.ok(&["exec", "a", "cat", "/tmp/file"]), "copied");
    assert!(podman.ok(&["diff", "a"]).contains("A /tmp/file"));
}

#[test]
fn limits_are_the_groups() {
    let Some(podman) = Podman::new("limits") else { return };
    let memory = (("memory", "memory.limit_in_bytes"), "memory.max");
    let pids = (("pids", "pids.max"), "pids.max");
    let quota = (("cpu", "cpu.cfs_quota_us"), "cpu.max");
    let of = |(v1, v2)| podman.limit("a", v1, v2);
    let limits = ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--cpu-shares", "512"];
    podman.start("a", &[&limits[..], &[BOX, "sleep", "1000"]].concat());
    assert_eq!((of(memory), of(pids)), ("67108864".into(), "50".into()));
    assert!(of(quota).starts_with("50000"));
    let told = podman.inspect("a", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.NanoCpus}}");
    assert_eq!(told, "67108864 50 500000000");
    let stats = podman.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}|{{.PIDs}}", "a"]);
    assert!(stats.contains("/ 67.11MB|1"), "{stats}");
    podman.ok(&["update", "--memory", "32m", "--cpus", "0.25", "a"]);
    assert_eq!(of(memory), "33554432");
    assert!(of(quota).starts_with("25000"));
    assert_eq!(of(pids), "50", "what is left out stays");
    ok(podman.remove("a"));
    // More than it has: the kernel ends the process, and Podman sees how.
    let eats = "x=a; while :; do x=$x$x; done";
    let ended = podman.run(&["--memory", "16m", "--memory-swap", "16m", BOX, "sh", "-c", eats]);
    assert_eq!(ended.status.code(), Some(137), "{}", text(&ended.stderr));
}

#[test]
fn volumes_users_and_privileges() {
    let Some(podman) = Podman::new("opts") else { return };
    let run = |args: &[&str]| podman.run(args);
    let shared = podman.at.join("shared");
    fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/v", shared.display());
    ok(run(&["-v", &volume, BOX, "sh", "-c", "echo x > /v/made"]));
    assert_eq!(fs::read_to_string(shared.join("made")).unwrap(), "x\n");
    let ro = format!("{volume}:ro");
    assert!(!run(&["-v", &ro, BOX, "sh", "-c", "echo y > /v/made"]).status.success());
    ok(run(&["-v", "named:/n", BOX, "sh", "-c", "echo kept > /n/file"]));
    assert_eq!(ok(run(&["-v", "named:/n", BOX, "cat", "/n/file"])), "kept\n");
    assert_eq!(ok(run(&["--user", "12:34", BOX, "sh", "-c", "id -u; id -g"])), "12\n34\n");
    assert!(ok(run(&["--privileged", BOX, "cat", "/proc/self/status"])).contains("Seccomp:\t0"));
    assert!(ok(run(&[BOX, "cat", "/proc/self/status"])).contains("Seccomp:\t2"));
    let bare = ok(run(&["--cap-drop", "all", "--security-opt", "no-new-privileges", BOX, "cat", "/proc/self/status"]));
    assert!(bare.contains("CapBnd:\t0000000000000000") && bare.contains("NoNewPrivs:\t1"), "{bare}");
    assert!(!run(&["--read-only", BOX, "sh", "-c", "echo x > /file"]).status.success());
    ok(run(&["--tmpfs", "/t:size=1m", BOX, "sh", "-c", "echo x > /t/file"]));
    ok(run(&["--device", "/dev/null:/dev/mine:rw", BOX, "sh", "-c", "echo x > /dev/mine && test -c /dev/mine"]));
    ok(run(&["--pid", "host", "--ipc", "host", "--uts", "host", BOX, "true"]));
    ok(run(&["--sysctl", "net.ipv4.ip_forward=1", BOX, "true"]));
    assert_eq!(
        ok(run(&[
            "--ulimit",
            "core=512:1024",
            "--ulimit",
            "nofile=99:99",
            "--ulimit",
            "nproc=99:99",
            BOX,
            "sh",
            "-c",
            "ulimit -c; ulimit -Hc"
        ])),
        "1\n2\n"
    );
}

#[test]
fn user_namespaces_roots_and_shared_namespaces() {
    let Some(podman) = Podman::new("userns") else { return };
    let map = ["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536"];
    let shown = "cat /proc/self/uid_map; stat -c %u /bin; touch /made && stat -c %u /made";
    let said = ok(podman.run(&[&map[..], &[BOX, "sh", "-c", shown]].concat()));
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "65536", "0", "0"]);
    // A folder of the host's as the root.
    let root = podman.at.join("rootfs");
    ok(podman.run(&["--rootfs", root.to_str().unwrap(), "touch", "/touched"]));
    assert!(root.join("touched").exists());
    // One that joins the namespaces of another, as in a pod, and execs there; with a map both times.
    podman.start("first", &[&map[..], &["--hostname", "together", BOX, "sleep", "1000"]].concat());
    let share = ["--network=container:first", "--ipc=container:first", "--uts=container:first"];
    let joined = ["--pid=container:first", "--userns=container:first", BOX, "sh", "-c", "hostname; cat /proc/1/comm"];
    let parent = podman.parent();
    let said = podman.ok(&[&["run", "--rm", &parent], &share[..], &joined[..]].concat());
    assert_eq!(said, "together\nsleep\n");
    assert_eq!(podman.ok(&["exec", "first", "id", "-u"]), "0\n");
}

#[test]
fn the_host_s_network_and_one_that_is_made_before() {
    let Some(podman) = Podman::new("net") else { return };
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let parent = podman.parent();
    let of = |network: &str| {
        let link = ["readlink", "/proc/self/ns/net"];
        podman.ok(&[&["run", "--rm", &parent, network, BOX], &link[..]].concat()).trim_end().to_owned()
    };
    assert_eq!(of("--network=host"), own);
    // Podman's own networks come to the runtime like this one.
    let namespace = podman.at.join("netns");
    fs::write(&namespace, "").unwrap();
    let make = format!("--net={}", namespace.display());
    let made = Command::new("unshare").args([&make, "readlink", "/proc/self/ns/net"]).output().unwrap();
    let seen = of(&format!("--network=ns:{}", namespace.display()));
    assert!(Command::new("umount").arg(&namespace).status().unwrap().success());
    assert_eq!(seen, ok(made).trim_end());
    assert_ne!(seen, own);
}

#[test]
fn terminals() {
    let Some(podman) = Podman::new("tty") else { return };
    let out = podman.run(&["--tty", BOX, "sh", "-c", "tty; test -t 2 && echo yes"]);
    assert_eq!(text(&out.stdout), "/dev/pts/0\r\nyes\r\n", "{}", text(&out.stderr));
    podman.start("t", &[BOX, "sleep", "1000"]);
    let mut child = podman.spawn(&["exec", "-i", "-t", "t", "sh"]);
    child.stdin.as_mut().unwrap().write_all(b"echo a$((1+1))b; exit 6\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(text(&out.stdout).contains("a2b"), "{}", text(&out.stdout));
    assert_eq!(out.status.code(), Some(6));
    // A shell in the background whose terminal somebody attaches to later.
    podman.start("shell", &["--interactive", "--tty", BOX, "sh"]);
    let mut child = podman.spawn(&["attach", "shell"]);
    child.stdin.as_mut().unwrap().write_all(b"echo c$((1+2))d; exit 7\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(text(&out.stdout).contains("c3d"), "{} {}", text(&out.stdout), text(&out.stderr));
    assert_eq!(podman.ok(&["wait", "shell"]), "7\n");
}

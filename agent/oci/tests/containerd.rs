//! Debian's containerd runs its containers with berth-runtime, by its shim for runc: a daemon of its own, driven by `ctr` and, for what ctr
//! has no command for, by a call to the shim.

mod common;

use common::{engines, fails, ok, runtime, text, until};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const BOX: &str = "localhost/box:latest";

struct Containerd {
    at: PathBuf,
    name: String,
    daemon: Child,
}

impl Containerd {
    /// With an image of a busybox. `None`: there is no containerd here.
    fn new(name: &str) -> Option<Self> {
        if !engines::are_here(&["containerd", "ctr"]) {
            return None;
        }
        // As a slice it would be below others for each "-".
        let name = format!("berth_containerd_{}_{name}", std::process::id());
        let at = common::folder().join(&name);
        common::busybox(&at.join("rootfs"));
        let folder = |f: &str| at.join(f).display().to_string();
        // Neither the door for Kubernetes, which wants networks of the host, nor the folder /opt/containerd.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[debug]\nlevel = \"warn\"\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            folder("root"),
            folder("state"),
            folder("sock"),
            folder("ttrpc"),
        );
        fs::write(at.join("config.toml"), config).unwrap();
        fs::create_dir(at.join("bin")).unwrap();
        symlink(runtime(), at.join("bin/runc")).unwrap();
        let daemon = daemon(&at);
        let containerd = Containerd { at, name, daemon };
        containerd.is_ready();
        let image = containerd.image();
        containerd.ok(&["images", "import", &image]);
        Some(containerd)
    }

    fn is_ready(&self) {
        until("containerd answers", || self.ctr(&["version"]).status.success());
    }

    /// An archive as `docker save` writes it.
    fn image(&self) -> String {
        let image = self.at.join("image");
        fs::create_dir(&image).unwrap();
        let tar = |folder: &str, to: &str, what: &[&str]| {
            let folder = self.at.join(folder);
            ok(Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(self.at.join(to)).args(what).output().unwrap());
        };
        tar("rootfs", "image/layer.tar", &["."]);
        let sum = ok(Command::new("sha256sum").arg(image.join("layer.tar")).output().unwrap());
        let layer = format!("sha256:{}", sum.split(' ').next().unwrap());
        let process = json!({"Env": ["PATH=/bin", "OF=image"], "Cmd": ["sh"]});
        let root = json!({"type": "layers", "diff_ids": [layer]});
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": architecture, "os": "linux", "config": process, "rootfs": root});
        fs::write(image.join("config.json"), config.to_string()).unwrap();
        let manifest = json!([{"Config": "config.json", "RepoTags": [BOX], "Layers": ["layer.tar"]}]);
        fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
        tar("image", "image.tar", &["manifest.json", "config.json", "layer.tar"]);
        self.at.join("image.tar").display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.at.join("sock")).args(["--namespace", &self.name]).args(args);
        command.stdin(Stdio::null());
        command
    }

    fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        ok(self.ctr(args))
    }

    /// What makes a container with berth-runtime, with its group and its state where they are looked for.
    fn options(&self, id: &str) -> Vec<String> {
        let state = self.at.join("runc").display().to_string();
        let by_systemd = format!("{}.slice:berth:{id}", self.name);
        let group = if engines::systemd() { by_systemd } else { format!("/{}/{id}", self.name) };
        let options = ["--runc-binary", &runtime(), "--runc-root", &state, "--cgroup", &group].map(str::to_owned);
        options.into_iter().chain(engines::systemd().then(|| "--runc-systemd-cgroup".to_owned())).collect()
    }

    /// Groups of containers that are there.
    fn groups(&self) -> Vec<PathBuf> {
        if !engines::systemd() {
            return engines::groups(&self.name);
        }
        let slice = PathBuf::from(format!("/sys/fs/cgroup/{}.slice", self.name));
        let below = fs::read_dir(slice).into_iter().flatten().flatten().map(|e| e.path());
        below.filter(|path| path.extension().is_some_and(|e| e == "scope")).collect()
    }

    /// Arguments of `ctr run`: first what it shall do, then the image and what comes behind it.
    fn arguments(&self, id: &str, more: &[&str], image: &[&str], args: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        [owned(&["run"]), self.options(id), owned(more), owned(image), owned(&[id]), owned(args)].concat()
    }

    fn run_of(&self, more: &[&str], image: &[&str], args: &[&str]) -> Output {
        let arguments = self.arguments("once", &[&["--rm"], more].concat(), image, args);
        self.ctr(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `ctr run --rm` of the image.
    fn run(&self, more: &[&str], args: &[&str]) -> Output {
        self.run_of(more, &[BOX], args)
    }

    /// `ctr run --detach` of the image.
    #[track_caller]
    fn start(&self, id: &str, more: &[&str], args: &[&str]) {
        let arguments = self.arguments(id, &[&["--detach"], more].concat(), &[BOX], args);
        self.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn exec(&self, id: &str, more: &[&str], args: &[&str]) -> Output {
        self.ctr(&[&["tasks", "exec", "--exec-id", "more"], more, &[id], args].concat())
    }

    /// Pid and status of a task, as `ctr tasks list` tells them.
    fn task(&self, id: &str) -> Option<(u32, String)> {
        let all = self.ok(&["tasks", "list"]);
        let mut words = all.lines().find_map(|l| l.strip_prefix(id))?.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
    }

    #[track_caller]
    fn until(&self, id: &str, status: &str) {
        until(status, || self.task(id).is_some_and(|(_, is)| is == status));
    }

    #[track_caller]
    fn remove(&self, id: &str) {
        self.ok(&["tasks", "delete", "--force", id]);
        self.ok(&["containers", "delete", id]);
    }

    /// A limit of a container's, by its names on cgroup v1 and v2.
    fn limit(&self, id: &str, v1: &str, v2: &str) -> String {
        let top = PathBuf::from("/sys/fs/cgroup");
        let group = match (engines::systemd(), common::only_v2()) {
            (true, _) => top.join(format!("{}.slice/berth-{id}.scope", self.name)),
            (false, true) => top.join(&self.name).join(id),
            (false, false) => top.join(v1.split('.').next().unwrap()).join(&self.name).join(id),
        };
        let file = group.join(if common::only_v2() { v2 } else { v1 });
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    }

    /// Whether a process of the shim's runs for this daemon.
    fn shim(&self) -> Option<u32> {
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            let ours = command.starts_with("/usr/bin/containerd-shim-runc-v2") && command.contains(&self.name);
            entry.file_name().to_str()?.parse().ok().filter(|_| ours)
        })
    }

    fn end_daemon(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

/// Where its shims look for runc they find berth-runtime: `ctr --uidmap` loses what `--runc-binary` says (1.6).
fn daemon(at: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(at.join("log")).unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(at.join("config.toml")).stdin(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", at.join("bin").display()));
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let all = text(&self.ctr(&["containers", "list", "--quiet"]).stdout);
        for id in all.lines() {
            let _ = self.ctr(&["tasks", "delete", "--force", id]);
            let _ = self.ctr(&["containers", "delete", id]);
        }
        self.end_daemon();
        if engines::systemd() {
            engines::stop_slice(&self.name);
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.at.join("log")).unwrap_or_default());
        } else {
            for state in [self.at.join("runc"), "/run/containerd/runc".into()] {
                let state = state.join(&self.name);
                let kept: Vec<_> = fs::read_dir(&state).into_iter().flatten().flatten().map(|e| e.path()).collect();
                assert!(kept.is_empty(), "berth-runtime has kept {kept:?}");
                let _ = fs::remove_dir(state);
            }
            engines::nothing_is_left(&self.at, &self.name, || {});
        }
        let _ = fs::remove_dir_all(&self.at);
    }
}

#[test]
fn a_life_from_run_to_delete() {
    let Some(containerd) = Containerd::new("life") else { return };
    let out = containerd.run(&[], &["sh", "-c", "echo hi; echo no >&2; id -u; echo $OF; exit 5"]);
    assert_eq!((out.status.code(), &*text(&out.stdout)), (Some(5), "hi\n0\nimage\n"), "{}", text(&out.stderr));
    assert!(text(&out.stderr).starts_with("no\n"));
    fails(containerd.run(&[], &["nosuch"]), "exec: \"nosuch\": executable file not found in $PATH");
    fails(containerd.run(&[], &["/etc"]), "permission denied");

    let script = "trap 'exit 3' TERM; echo up > /tmp/up; while :; do sleep 0.1; done";
    let pid_file = containerd.at.join("pid");
    containerd.start("a", &["--pid-file", pid_file.to_str().unwrap()], &["sh", "-c", script]);
    let (pid, status) = containerd.task("a").unwrap();
    assert_eq!((fs::read_to_string(pid_file).unwrap(), &*status), (pid.to_string(), "RUNNING"));
    let root = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_ne!(root, fs::read_link("/proc/self/ns/pid").unwrap());
    let state = containerd.at.join("runc").join(&containerd.name);
    let listed = Command::new(runtime()).arg("--root").arg(state).args(["list", "--quiet"]).output().unwrap();
    assert_eq!(ok(listed), "a\n", "it is berth-runtime's");
    assert!(containerd.ok(&["tasks", "ps", "a"]).contains(&pid.to_string()));
    until("up", || containerd.exec("a", &[], &["cat", "/tmp/up"]).status.success());
    assert_eq!(containerd.exec("a", &[], &["sh", "-c", "exit 4"]).status.code(), Some(4));
    fails(containerd.exec("a", &[], &["nosuch"]), "executable file not found in $PATH");
    let out = containerd.exec("a", &["--user", "7:8", "--cwd", "/tmp"], &["sh", "-c", "id -u; id -g; pwd; echo $OF"]);
    assert_eq!(ok(out), "7\n8\n/tmp\nimage\n");
    containerd.ok(&["tasks", "pause", "a"]);
    containerd.until("a", "PAUSED");
    containerd.ok(&["tasks", "resume", "a"]);
    containerd.until("a", "RUNNING");
    fails(containerd.ctr(&["tasks", "delete", "a"]), "must be stopped");
    containerd.ok(&["tasks", "kill", "--signal", "SIGTERM", "a"]);
    containerd.until("a", "STOPPED");
    let deleted = containerd.ctr(&["tasks", "delete", "a"]);
    assert!(text(&deleted.stderr).contains("non-zero exit code 3"), "{}", text(&deleted.stderr));
    assert!(containerd.task("a").is_none() && containerd.shim().is_none());
    assert!(containerd.groups().is_empty(), "the group goes with the task");
    // The container is still known, and starts again.
    containerd.ok(&["tasks", "start", "--detach", "a"]);
    containerd.ok(&["tasks", "kill", "--all", "--signal", "SIGKILL", "a"]);
    containerd.until("a", "STOPPED");
    containerd.remove("a");
    // Removed while it runs.
    containerd.start("b", &[], &["sleep", "1000"]);
    containerd.remove("b");
}

#[test]
fn terminals() {
    let Some(containerd) = Containerd::new("tty") else { return };
    // ctr wants a terminal itself.
    let on_terminal = |args: &[String], input: &str| {
        let ctr = containerd.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let words = ctr.get_args().map(|a| format!("'{}'", a.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &format!("ctr {words}"), "/dev/null"]);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.code(), text(&out.stdout))
    };
    let run = containerd.arguments("once", &["--rm", "--tty"], &[BOX], &["sh", "-c", "tty; exit 6"]);
    let (code, said) = on_terminal(&run, "");
    assert!(code == Some(6) && said.contains("/dev/pts/0"), "{code:?} {said}");
    containerd.start("a", &[], &["sleep", "1000"]);
    let exec = ["tasks", "exec", "--exec-id", "more", "--tty", "a", "sh"].map(str::to_owned);
    let (code, said) = on_terminal(&exec, "stty size\necho a$((1+1))b; exit 7\n");
    assert!(code == Some(7) && said.contains("a2b"), "{code:?} {said}");
}

#[test]
fn limits_and_what_is_used() {
    let Some(containerd) = Containerd::new("limits") else { return };
    let start = || containerd.start("a", &["--memory-limit", "67108864", "--cpus", "0.5"], &["sleep", "1000"]);
    start();
    // On cgroup v1 containerd's shim asks once for the mounts of all hierarchies that there are, and tells no figures where somebody else has one that
    // is mounted in another namespace just then.
    for _ in 0..5 {
        if containerd.ctr(&["tasks", "metrics", "a"]).status.success() {
            break;
        }
        containerd.remove("a");
        start();
    }
    let memory = || containerd.limit("a", "memory.limit_in_bytes", "memory.max");
    let quota = || containerd.limit("a", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(memory(), "67108864");
    assert!(quota().starts_with("50000"));
    let metrics = containerd.ok(&["tasks", "metrics", "a"]);
    let limit = if common::only_v2() { "memory.usage_limit" } else { "memory.limit_in_bytes" };
    let row = metrics.lines().find(|l| l.starts_with(limit)).unwrap_or_else(|| panic!("{metrics}"));
    assert_eq!(row.split_whitespace().nth(1), Some("67108864"), "{metrics}");
    containerd.update("a", &json!({"memory": {"limit": 33_554_432}, "pids": {"limit": 40}}));
    assert_eq!((memory(), containerd.limit("a", "pids.max", "pids.max")), ("33554432".into(), "40".into()));
    assert!(quota().starts_with("50000"), "what is left out stays");
    let eats = "x=a; while :; do x=$x$x; done";
    assert_eq!(containerd.run(&["--memory-limit", "16777216"], &["sh", "-c", eats]).status.code(), Some(137));
}

#[test]
fn options_roots_and_user_namespaces() {
    let Some(containerd) = Containerd::new("options") else { return };
    let run = |more: &[&str], args: &[&str]| containerd.run(more, args);
    let shared = containerd.at.join("shared");
    fs::create_dir(&shared).unwrap();
    let mount = format!("type=bind,src={},dst=/v,options=rbind:rw", shared.display());
    ok(run(&["--mount", &mount], &["sh", "-c", "echo x > /v/made"]));
    assert_eq!(fs::read_to_string(shared.join("made")).unwrap(), "x\n");
    let mount = mount.replace(":rw", ":ro");
    assert!(!run(&["--mount", &mount], &["sh", "-c", "echo y > /v/made"]).status.success());
    assert!(!run(&["--read-only"], &["sh", "-c", "echo x > /file"]).status.success());
    let status = |more: &[&str]| ok(run(more, &["cat", "/proc/self/status"]));
    let plain = status(&[]);
    assert!(plain.contains("Seccomp:\t0") && plain.contains("NoNewPrivs:\t1"), "{plain}");
    assert!(status(&["--seccomp"]).contains("Seccomp:\t2"));
    assert!(status(&["--allow-new-privs"]).contains("NoNewPrivs:\t0"));
    ok(run(&["--privileged", "--net-host"], &["true"]));
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(ok(run(&["--with-ns", "network:/proc/self/ns/net"], &["readlink", "/proc/self/ns/net"])).trim(), own);
    assert_ne!(ok(run(&[], &["readlink", "/proc/self/ns/net"])).trim(), own);
    ok(run(&["--device", "/dev/null"], &["test", "-c", "/dev/null"]));

    let root = containerd.at.join("rootfs");
    ok(containerd.run_of(&["--rootfs"], &[root.to_str().unwrap()], &["/bin/touch", "/touched"]));
    assert!(root.join("touched").exists());
    // With these ctr (1.6) gives a task options of its own, which take the place of those with --runc-systemd-cgroup: the last --cgroup counts.
    let group = format!("/{}/once", containerd.name);
    let map = ["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536", "--cgroup", &group];
    let shown = ["sh", "-c", "cat /proc/self/uid_map; stat -c %u /bin; touch /made && stat -c %u /made"];
    let said = ok(run(&map, &shown));
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "300000", "65536", "0", "0"]);
}

#[test]
fn what_dies_around_a_container() {
    let Some(mut containerd) = Containerd::new("dies") else { return };
    containerd.start("a", &[], &["sleep", "1000"]);
    let before = containerd.task("a").unwrap();
    // The daemon: the container goes on, and is found again.
    containerd.daemon.kill().unwrap();
    containerd.daemon.wait().unwrap();
    containerd.daemon = daemon(&containerd.at);
    containerd.is_ready();
    assert_eq!(containerd.task("a").unwrap(), before);
    assert_eq!(ok(containerd.exec("a", &[], &["echo", "here"])), "here\n");
    // The shim: containerd has berth-runtime delete what it has left.
    let shim = containerd.shim().unwrap();
    assert!(Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap().success());
    until("the task is gone", || containerd.task("a").is_none());
    until("its process is gone", || !PathBuf::from(format!("/proc/{}/root", before.0)).exists());
    until("its group is gone", || containerd.groups().is_empty());
}

impl Containerd {
    /// containerd's `Update`, at the shim's socket: it has berth-runtime do `update --resources -`.
    #[track_caller]
    fn update(&self, id: &str, resources: &serde_json::Value) {
        let task = self.at.join("state/io.containerd.runtime.v2.task").join(&self.name).join(id);
        let address = fs::read_to_string(task.join("address")).unwrap();
        let kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
        let any = [field(1, kind.as_bytes()), field(2, resources.to_string().as_bytes())].concat();
        let request = [field(1, id.as_bytes()), field(2, &any)].concat();
        let call = [field(1, b"containerd.task.v2.Task"), field(2, b"Update"), field(3, &request)].concat();
        // ttrpc: length, stream 1, a request (1), no flags.
        let header = [&(call.len() as u32).to_be_bytes()[..], &1_u32.to_be_bytes(), &[1, 0]].concat();
        let mut shim = UnixStream::connect(address.trim_start_matches("unix://")).unwrap();
        shim.write_all(&[header, call].concat()).unwrap();
        let mut header = [0; 10];
        shim.read_exact(&mut header).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
        shim.read_exact(&mut answer).unwrap();
        // Its first field is an error's.
        assert!(answer.first() != Some(&0x0a) || answer.get(1) == Some(&0), "update: {}", text(&answer));
    }
}

/// A field of a protobuf message that has bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

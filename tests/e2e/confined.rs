//! What berth's own processes beside the agent still may do: the shim of a container that runs, and the server that answers for names. They serve
//! strangers for as long as these live. Whoever has taken one over is played by `fixtures/inject.c`, which has it make single calls.

use crate::harness::{Node, capability_sets, eventually, runtimes, until};
use berth_sys::{cap, landlock};
use std::fs;
use std::process::{Child, Command, Stdio};

const IDLE: &str = "while :; do sleep 1; done";

fn status(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_else(|e| panic!("the status of {pid}: {e}"))
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}")).trim()
}

/// The shim of a process that it has made.
fn shim_of(pid: u32) -> u32 {
    let shim = field(&status(pid), "PPid:").parse().expect("a pid");
    assert_eq!(field(&status(shim), "Name:"), "berth-shim");
    shim
}

fn shim(node: &Node, container: &str) -> u32 {
    let pid = node.inspect(container)["State"]["Pid"].as_u64().expect("a pid");
    shim_of(pid as u32)
}

/// The host's pid of the only process with this command line.
fn running(command: &[&str]) -> u32 {
    let line: Vec<u8> = command.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
    eventually("the process is there", || {
        let mut pids =
            fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.find(|pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l == line))
    })
}

fn bits(names: &[&str]) -> u64 {
    names.iter().fold(0, |all, name| all | cap::bit(name).expect("a name"))
}

/// It has these capabilities, can get no others, and has a filter.
#[track_caller]
fn has_only(what: &str, pid: u32, names: &[&str]) {
    // The agent hears of the start before the shim gives up its rights.
    until(&format!("the filter of {what}"), || field(&status(pid), "Seccomp:") == "2");
    let (status, kept) = (status(pid), bits(names));
    assert_eq!(capability_sets(&status), [0, kept, kept, kept, 0], "{what}: {status}");
    assert_eq!(field(&status, "NoNewPrivs:"), "1", "{what}");
}

#[test]
fn a_shim_keeps_one_capability_once_its_container_runs() {
    let node = Node::with_busybox("confined-shim");
    let ways: [&[&str]; 8] = [
        &[],
        &["--userns", "host"],
        &["-t"],
        &["-i", "-u", "nobody"],
        &["--init"],
        &["--privileged"],
        &["--log-driver", "none"],
        &["--log-driver", "json-file"],
    ];
    let inits = runtimes::has("--init");
    for way in ways.into_iter().filter(|way| inits || way != &["--init"]) {
        node.detached(&[&["--name", "it"], way].concat(), IDLE);
        has_only(&format!("a container with {way:?}"), shim(&node, "it"), &["KILL"]);
        node.ok(&["rm", "-f", "it"]);
    }
    node.detached(&["--name", "it"], IDLE);
    node.ok(&["exec", "-d", "it", "sleep", "4711"]);
    node.ok(&["exec", "-d", "-t", "-u", "nobody", "it", "sleep", "4712"]);
    for seconds in ["4711", "4712"] {
        has_only("an exec", shim_of(running(&["sleep", seconds])), &["KILL"]);
    }
    // What the container itself may do was decided before.
    let given = capability_sets(&node.sh(&[], "cat /proc/self/status"))[3];
    let own = node.inspect("it")["State"]["Pid"].as_u64().expect("a pid") as u32;
    assert!(given & bits(&["CHOWN", "SETUID"]) == bits(&["CHOWN", "SETUID"]), "{given:x}");
    assert_eq!(capability_sets(&status(own)), [0, given, given, given, 0]);
    node.finish();
}

/// A folder that was given to somebody who collects logs is written to all the same.
#[test]
fn a_log_folder_of_somebody_elses_is_written_to() {
    let node = Node::with_busybox("confined-log");
    let id = node.detached(&["--name", "it"], "echo first; exit");
    until("it ends", || node.inspect("it")["State"]["Status"] == "exited");
    let path = node.inspect("it")["LogPath"].as_str().expect("a path").to_owned();
    assert!(path.contains(&id), "{path}");
    for place in [path.clone()]
        .into_iter()
        .chain(fs::read_dir(&path).expect("log").flatten().map(|e| e.path().display().to_string()))
    {
        std::os::unix::fs::chown(&place, Some(4321), Some(4321)).expect("chown");
    }
    node.ok(&["start", "it"]);
    until("the second line", || node.ok(&["logs", "it"]) == "first\nfirst");
    node.finish();
}

/// Nobody gets its rights by way of it: what has fewer capabilities than the shim had, and no fewer than it has now, does not look into it.
#[test]
fn a_container_with_the_hosts_processes_does_not_look_into_a_shim() {
    let node = Node::with_busybox("confined-look");
    node.detached(&["--name", "it"], IDLE);
    let shim = shim(&node, "it");
    has_only("the shim", shim, &["KILL"]);
    let weak = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all,+kill", "sleep", "4713"];
    let mut control = Command::new("setpriv").args(weak).stdin(Stdio::null()).spawn().expect("setpriv");
    let control_pid = running(&["sleep", "4713"]);
    let look = |pid: u32| {
        let options = ["--pid", "host", "--userns", "host"];
        node.sh_output(
            &options,
            &format!("readlink /proc/{pid}/fd/0 && cat /proc/{pid}/environ >/dev/null && echo seen"),
        )
        .stdout
    };
    assert!(look(control_pid).contains("seen"), "the control is not looked into");
    assert_eq!(look(shim), "");
    control.kill().expect("kill");
    control.wait().expect("wait");
    node.finish();
}

/// A process of the host's that may do everything, to see that a call does what it is meant to.
struct Control(Child);

impl Control {
    fn start() -> Self {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
        until("it sleeps", || {
            fs::read_to_string(format!("/proc/{}/syscall", child.id())).is_ok_and(|s| s.contains("0x"))
        });
        Control(child)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What comes of a call that another process makes: its number and arguments as `inject.c` takes them.
fn made_by(pid: u32, call: &[&str]) -> String {
    let output =
        Command::new(crate::escapes::built("inject")).arg(pid.to_string()).args(call).output().expect("inject");
    assert!(output.status.success(), "{call:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

// Numbers of x86_64.
const MMAP: &str = "9";
const SOCKET: &str = "41";
const CONNECT: &str = "42";
const EXECVE: &str = "59";
const KILL: &str = "62";
const SETRESUID: &str = "117";
const OPENAT: &str = "257";
const UNSHARE: &str = "272";

const HERE: &str = "-100";
const NO_SUCH_CALL: &str = "-38";
const NOT_PERMITTED: &str = "-13";
const SIGSYS: &str = "killed 31";

/// Refused to `pid` with these answers, and possible for the control.
#[track_caller]
fn refused(pid: u32, control: &Control, calls: &[(&[&str], &str)]) {
    for (call, answer) in calls {
        let possible = made_by(control.0.id(), call);
        assert!(!possible.starts_with('-') && possible.parse::<i64>().is_ok(), "{call:?} is nothing: {possible}");
        assert_eq!(&made_by(pid, call), answer, "{call:?}");
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "calls are injected by the registers of x86_64")]
fn whoever_takes_a_shim_over_gets_nothing_of_the_host() {
    let node = Node::with_busybox("confined-taken-shim");
    node.detached(&["--name", "it"], "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2; done");
    let (shim, control) = (shim(&node, "it"), Control::start());
    has_only("the shim", shim, &["KILL"]);
    let pid = control.0.id().to_string();
    refused(
        shim,
        &control,
        &[
            (&[SOCKET, "2", "1", "0"], NO_SUCH_CALL),
            (&[SOCKET, "1", "1", "0"], NO_SUCH_CALL),
            (&[KILL, &pid, "0"], NO_SUCH_CALL),
            (&[SETRESUID, "0", "0", "0"], NO_SUCH_CALL),
            // PROT_READ and PROT_EXEC; private and anonymous.
            (&[MMAP, "0", "4096", "5", "0x22", "-1", "0"], NO_SUCH_CALL),
        ],
    );
    if landlock::abi().is_some() {
        refused(
            shim,
            &control,
            &[
                (&[OPENAT, HERE, "s:/etc/shadow", "0"], NOT_PERMITTED),
                (&[OPENAT, HERE, "s:/etc/passwd", "1"], NOT_PERMITTED),
                (&[OPENAT, HERE, "s:/proc/1/status", "0"], NOT_PERMITTED),
            ],
        );
    }
    // It goes on with what it is there for.
    let lines = || node.ok(&["logs", "it"]).lines().count();
    let before = lines();
    until("more output", || lines() > before + 1);
    assert_eq!(node.ok(&["exec", "it", "echo", "in"]), "in");
    assert_eq!(made_by(control.0.id(), &[UNSHARE, "0"]), "0");
    assert_eq!(made_by(shim, &[UNSHARE, "0"]), SIGSYS);
    until("the container ends with its shim", || node.inspect("it")["State"]["Status"] == "exited");
    node.detached(&["--name", "other"], IDLE);
    let other = self::shim(&node, "other");
    has_only("the shim", other, &["KILL"]);
    assert_eq!(made_by(other, &[EXECVE, "s:/bin/true", "0", "0"]), SIGSYS);
    node.finish();
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "calls are injected by the registers of x86_64")]
fn whoever_takes_the_server_for_names_over_gets_nothing_of_the_host() {
    let node = Node::with_busybox("confined-taken-names");
    node.ok(&["network", "create", "front"]);
    let front = ["--network", "front"];
    node.detached(&[&["--name", "one"], &front[..]].concat(), IDLE);
    node.detached(&[&["--name", "two"], &front[..]].concat(), IDLE);
    let finds = || node.ctl(&["exec", "one", "nslookup", "two"]).code == 0;
    until("names are answered", finds);
    let (server, control) = (crate::names::server(&node).expect("a server"), Control::start());
    has_only("the server", server, &["NET_BIND_SERVICE", "NET_RAW"]);
    assert_eq!(field(&status(server), "Uid:").split_whitespace().collect::<Vec<_>>(), ["65534"; 4]);
    refused(
        server,
        &control,
        &[
            // What NET_RAW is good for: packets, and raw sockets of the Internet's families.
            (&[SOCKET, "17", "3", "0"], NO_SUCH_CALL),
            (&[SOCKET, "2", "3", "1"], NO_SUCH_CALL),
            (&[SOCKET, "1", "1", "0"], NO_SUCH_CALL),
            (&[SOCKET, "16", "3", "0"], NO_SUCH_CALL),
            (&[KILL, &control.0.id().to_string(), "0"], NO_SUCH_CALL),
            (&[MMAP, "0", "4096", "5", "0x22", "-1", "0"], NO_SUCH_CALL),
        ],
    );
    let abi = landlock::abi();
    if abi.is_some() {
        refused(
            server,
            &control,
            &[
                (&[OPENAT, HERE, "s:/usr/bin/env", "0"], NOT_PERMITTED),
                (&[OPENAT, HERE, "s:/proc/1/status", "0"], NOT_PERMITTED),
                (&[OPENAT, HERE, "s:/tmp", "0x410002", "0600"], NOT_PERMITTED),
            ],
        );
    }
    if abi.is_some_and(|abi| abi >= 4) {
        // Port 9 of 127.0.0.1, where nobody listens.
        let to = "b:020000097f0000010000000000000000";
        for (pid, answer) in [(control.0.id(), "-111"), (server, NOT_PERMITTED)] {
            let socket = made_by(pid, &[SOCKET, "2", "1", "0"]);
            assert_eq!(made_by(pid, &[CONNECT, &socket, to, "16"]), answer);
        }
    }
    assert!(finds(), "it goes on with what it is there for");
    assert_eq!(made_by(server, &[EXECVE, "s:/bin/true", "0", "0"]), SIGSYS);
    until("another server answers", || crate::names::server(&node).is_some_and(|pid| pid != server) && finds());
    node.finish();
}

//! Processes that have the pid of one that berth knew: they are nobody's containers, and nothing happens to them.

use crate::harness::agent::signal;
use crate::harness::disk::tool;
use crate::harness::{LONG, Node, until};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const IDLE: &str = "while :; do sleep 1; done";

fn state(node: &Node, key: &str) -> u64 {
    node.inspect("box")["State"][key].as_u64().expect("pid")
}

fn gone(pid: u64) {
    until(&format!("{pid} is free"), || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// Field 22 of proc_pid_stat(5).
fn start_time(pid: u64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    stat.rsplit(") ").next().expect("fields").split(' ').nth(19).expect("field").parse().expect("number")
}

/// Somebody else's process, with a pid that was another's.
struct Foreign(Child);

impl Foreign {
    /// The kernel gives the next free pid behind the last one, which may be written (proc_sys_kernel(5), ns_last_pid).
    fn with_pid(pid: u64) -> Foreign {
        let begun = Instant::now();
        loop {
            std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("ns_last_pid");
            let mut command = Command::new("sleep");
            let mut child = command.arg("100000").stdin(Stdio::null()).spawn().expect("sleep");
            if u64::from(child.id()) == pid {
                return Foreign(child);
            }
            // Another process was quicker.
            child.kill().expect("kill");
            child.wait().expect("wait");
            assert!(begun.elapsed() < LONG, "the pid {pid} cannot be had");
        }
    }

    /// It runs, has had no signal, and is in the group that it was made in.
    fn unharmed(&mut self) {
        assert!(self.0.try_wait().expect("wait").is_none(), "the foreign process has ended");
        let pid = self.0.id();
        let of = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
        assert_eq!(of(&pid.to_string()), of("self"));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        assert!(stat.contains(") S "), "it sleeps as before: {stat}");
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that would reach a process of the container.
fn nothing_runs(node: &Node) {
    let inspect = node.inspect("box");
    assert_eq!((&inspect["State"]["Status"], &inspect["State"]["Pid"]), (&"exited".into(), &0.into()), "{inspect}");
    for arguments in [
        &["exec", "box", "true"][..],
        &["kill", "-s", "TERM", "box"],
        &["kill", "box"],
        &["pause", "box"],
        &["top", "box"],
        &["attach", "box"],
    ] {
        let output = node.ctl(arguments);
        assert!(output.code != 0 && output.stderr.contains("not running"), "{arguments:?}: {output:?}");
    }
    node.ok(&["stop", "-t", "0", "box"]);
    node.ok(&["stats", "--no-stream", "box"]);
}

/// The agent and the container are gone without a word, both pids are others', and the record says that these are the container's.
#[test]
fn a_record_that_fits_a_foreign_process_makes_it_no_container() {
    let mut node = Node::with_busybox("reuse-record");
    node.detached(&["--name", "box"], IDLE);
    let (pid, shim) = (state(&node, "Pid"), state(&node, "ShimPid"));
    node.kill_agent();
    signal(shim as u32, "KILL");
    signal(pid as u32, "KILL");
    gone(pid);
    gone(shim);
    let mut foreign = [Foreign::with_pid(pid), Foreign::with_pid(shim)];
    let times = [("start_time", start_time(pid)), ("shim_start_time", start_time(shim))];
    let forged: String = times.map(|(key, time)| format!(", '$.process.{key}', {time}")).concat();
    let path = node.data().join("node.db").display().to_string();
    let sql = format!(
        "update containers set json = json_set(json{forged}); select json_extract(json, '$.process.pid', '$.process.start_time') from containers"
    );
    assert_eq!(tool("sqlite3", &[&path, &sql]), format!("[{pid},{}]", times[0].1), "the record is forged");
    node.spawn();
    until("it has ended", || node.inspect("box")["State"]["Status"] == "exited");
    nothing_runs(&node);
    foreign.iter_mut().for_each(Foreign::unharmed);
    // It can be started, and removed by force.
    node.ok(&["start", "box"]);
    assert_ne!(state(&node, "Pid"), pid);
    node.ok(&["rm", "-f", "box"]);
    foreign.iter_mut().for_each(Foreign::unharmed);
    drop(foreign);
    node.finish();
}

/// The container ends while there is no agent, and its pid is taken before one comes: the shim knows how it ended.
#[test]
fn a_pid_that_is_taken_between_two_agents_is_not_the_containers() {
    let mut node = Node::with_busybox("reuse-between");
    node.detached(&["--name", "box"], IDLE);
    let pid = state(&node, "Pid");
    node.kill_agent();
    signal(pid as u32, "KILL");
    gone(pid);
    let mut foreign = Foreign::with_pid(pid);
    node.spawn();
    until("it has ended", || node.inspect("box")["State"]["Status"] == "exited");
    assert_eq!(state(&node, "ExitCode"), 137);
    nothing_runs(&node);
    node.ok(&["rm", "-f", "box"]);
    foreign.unharmed();
    drop(foreign);
    node.finish();
}

/// The agent has not heard of the end yet when it is told to kill: what has the pid by then is not hit.
#[test]
fn a_kill_that_comes_too_late_hits_nobody() {
    let node = Node::with_busybox("reuse-late");
    for verb in [&["kill", "box"][..], &["stop", "-t", "0", "box"], &["exec", "box", "true"], &["rm", "-f", "box"]] {
        node.detached(&["--name", "box"], IDLE);
        let pid = state(&node, "Pid");
        signal(node.pid(), "STOP");
        let mut command = node.ctl_command(verb);
        let mut late = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("berthctl");
        signal(pid as u32, "KILL");
        gone(pid);
        let mut foreign = Foreign::with_pid(pid);
        signal(node.pid(), "CONT");
        late.wait().expect("wait");
        foreign.unharmed();
        node.ok(&["rm", "-f", "box"]);
        foreign.unharmed();
    }
    node.finish();
}

//! Random operations of several clients with a model beside them, while the agent is killed all the time. `soak` has the same without kills.
//!
//! BERTH_CAMPAIGN_OPS operations (default 60) by BERTH_CAMPAIGN_CLIENTS clients (4), a SIGKILL BERTH_CAMPAIGN_KILL_MS milliseconds (50)
//! after the agent serves, longer by what it has to wait for a processor; every third one anywhere in its start. Half-way the agent is
//! upgraded to another build under the clients' hands, and from then on the file that it runs from is deleted. Figures are printed (cargo
//! nextest run --no-capture).

use crate::harness::agent::{Output, run};
use crate::harness::{Node, image, size};
use crate::upgrade::{running, signed, unkeyed};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Numbers that are the same in every run (Knuth's MMIX generator).
pub struct Random(u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What all clients share.
pub struct Field {
    config: PathBuf,
    pub busybox: String,
    /// Operations that are still to do.
    left: AtomicUsize,
    /// The soak ends with the clock, and has more kinds of operations.
    pub until: Option<Instant>,
    /// The first of the ports that clients publish.
    pub ports: u16,
    /// Behind each operation of a client.
    pub pause: Duration,
    /// Clients of another round do other things.
    pub round: u64,
    pub done: AtomicUsize,
    pub failures: Mutex<Vec<String>>,
}

impl Field {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::harness::pki::ctl_binary());
        // An agent that serves for 50 ms at a time, of which a loaded machine gives it a few, is met by chance.
        command.env("BERTH_CONFIG", &self.config).env("BERTH_RECONNECT", "150s");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    pub fn wrong(&self, what: String) {
        self.failures.lock().expect("failures").push(what);
    }

    /// The command must end so, with this on standard output.
    pub fn expect(&self, arguments: &[&str], code: i32, stdout: Option<&str>) -> Option<Output> {
        let output = self.ctl(arguments);
        if output.code == code && stdout.is_none_or(|wanted| output.stdout == wanted) {
            return Some(output);
        }
        let start = |text: &str| text.chars().take(300).collect::<String>();
        self.wrong(format!(
            "{arguments:?}: code {} (not {code}), stdout {:?} (not {:?}), stderr {:?}",
            output.code,
            start(&output.stdout),
            stdout.map(start),
            start(&output.stderr)
        ));
        None
    }

    fn more(&self) -> bool {
        let time = self.until.is_none_or(|until| Instant::now() < until);
        let taken = |left: usize| left.checked_sub(1);
        time && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }
}

fn numbers(count: u64) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

/// One client: a few containers of its own, each operation checked against what must have come of it.
pub fn client(field: &Field, number: u64) {
    let mut random = Random(number + 1 + field.round * 1000);
    let mut round = 0;
    while field.more() {
        round += 1;
        let name = format!("c{number}-{}-{round}", field.round);
        let lines = 1 + random.below(60);
        let code = random.below(100) as i32;
        let script = format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; usleep 2000; done; exit {code}");
        let of = |options: &[&str], script: &str| -> Vec<String> {
            let mut arguments: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            let network = if number.is_multiple_of(2) { "none" } else { "bridge" };
            arguments
                .extend(["--name", &name, "--network", network, &field.busybox, "sh", "-c", script].map(str::to_owned));
            arguments
        };
        let call = |arguments: &[String], code: i32, stdout: Option<&str>| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            field.expect(&arguments, code, stdout)
        };
        match random.below(if field.until.is_some() { 16 } else { 8 }) {
            0 => {
                call(&of(&["run", "--rm"], &script), code, Some(&numbers(lines)));
            }
            1 => {
                call(&of(&["run"], &script), code, Some(&numbers(lines)));
                field.expect(&["logs", &name], 0, Some(&numbers(lines)));
                once(field, &name, Some(code));
                field.expect(&["rm", &name], 0, None);
            }
            2 => {
                call(&of(&["run", "-d"], &script), 0, None);
                field.expect(&["logs", "-f", &name], 0, Some(&numbers(lines)));
                field.expect(&["wait", &name], 0, Some(&format!("{code}\n")));
                once(field, &name, Some(code));
            }
            3 => {
                call(&of(&["create"], &script), 0, None);
                field.expect(&["start", &name], 0, Some(&format!("{name}\n")));
                field.expect(&["wait", &name], 0, Some(&format!("{code}\n")));
                field.expect(&["logs", &name], 0, Some(&numbers(lines)));
                once(field, &name, Some(code));
            }
            4 => {
                call(&of(&["run", "-d"], "while :; do sleep 1; done"), 0, None);
                field.expect(
                    &["exec", &name, "sh", "-c", &format!("echo {name}; exit {code}")],
                    code,
                    Some(&format!("{name}\n")),
                );
                field.expect(&["stop", "-t", "0", &name], 0, Some(&format!("{name}\n")));
                field.expect(&["wait", &name], 0, Some("137\n"));
                once(field, &name, Some(137));
            }
            5 => {
                let line = format!("echo {name} >> /tmp/lines");
                field.expect(&["exec", "-d", "keeper", "sh", "-c", &line], 0, None);
                let output = field.ctl(&["exec", "keeper", "sh", "-c", &script]);
                if output.code != code || output.stdout != numbers(lines) {
                    field.wrong(format!("exec: {output:?}, not {lines} lines and {code}"));
                }
            }
            6 => {
                field.expect(&["pull", "-q", &field.busybox], 0, None);
            }
            8.. => crate::soak::operation(field, &mut random, number, &name),
            _ => {
                call(&of(&["run", "-d"], "while :; do sleep 1; done"), 0, None);
                field.expect(&["rm", "-f", &name], 0, Some(&format!("{name}\n")));
                let output = field.ctl(&["inspect", &name]);
                if output.code != 1 || !output.stderr.contains("no container and no image") {
                    field.wrong(format!("{name} after its removal: {output:?}"));
                }
            }
        }
        field.done.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(field.pause);
    }
}

/// It was started once, and ended so.
fn once(field: &Field, name: &str, code: Option<i32>) {
    let Some(output) = field.expect(&["inspect", "-o", "json", name], 0, None) else { return };
    let value: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let value = value.as_array().and_then(|list| list.first()).unwrap_or(&value);
    let state = &value["State"];
    let ended = code.is_none_or(|code| state["Status"] == "exited" && state["ExitCode"] == code);
    if state["StartCount"] != 1 || !ended {
        field.wrong(format!("{name}: {state}, not started once and ended with {code:?}"));
    }
}

pub fn field(node: &Node, operations: usize) -> Field {
    Field {
        config: node.dir.join("config.toml"),
        busybox: image("busybox"),
        left: AtomicUsize::new(operations),
        until: None,
        ports: 0,
        pause: Duration::ZERO,
        round: 0,
        done: AtomicUsize::new(0),
        failures: Mutex::default(),
    }
}

fn pid(node: &Node, container: &str) -> u64 {
    node.inspect(container)["State"]["Pid"].as_u64().expect("pid")
}

/// No detached exec twice, no address of two containers.
pub fn at_the_end(node: &Node, field: &Field) {
    let lines = node.ctl(&["exec", "keeper", "cat", "/tmp/lines"]).stdout;
    let mut unique: Vec<&str> = lines.lines().collect();
    let all = unique.len();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all, "an exec ran twice: {lines}");
    node.ctl(&["exec", "keeper", "rm", "-f", "/tmp/lines"]);
    let list: serde_json::Value = serde_json::from_str(&node.ok(&["ps", "-a", "-o", "json"])).expect("JSON");
    for container in list.as_array().expect("list") {
        let state = container["State"].as_str().unwrap_or_default();
        assert!(matches!(state, "created" | "running" | "exited"), "half done: {container}");
    }
    let failures = field.failures.lock().expect("failures");
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        field.done.load(Ordering::Relaxed),
        failures.join("\n")
    );
}

/// How much longer this process takes than on a machine of its own: its threads' time on a processor and in the queue for one, over the
/// former (/proc/PID/schedstat, Documentation/scheduler/sched-stats.rst). A kill must find it where it would have found it there.
fn contention(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let (mut on, mut queued) = (0.0_f64, 0.0_f64);
    for text in tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok()) {
        let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(0.0));
        on += numbers.next().unwrap_or(0.0);
        queued += numbers.next().unwrap_or(0.0);
    }
    if on > 0.0 { (1.0 + queued / on).min(40.0) } else { 1.0 }
}

/// Another build takes over while the clients work.
fn upgrade(node: &Node, file: &Path) {
    let file = file.to_str().expect("utf-8");
    let output = node.ctl(&["agent", "upgrade", "--confirm-within", "30s", file]);
    assert_eq!(output.code, 0, "{output:?}\n{}", node.agent_log());
    assert_eq!(running(node), "9.0.0");
}

#[test]
fn operations_under_sigkill_lose_and_leak_nothing() {
    let mut node = unkeyed("campaign", true);
    node.ok(&["pull", "-q", &image("busybox")]);
    let operations = size("BERTH_CAMPAIGN_OPS", 60) as usize;
    let pause = Duration::from_millis(size("BERTH_CAMPAIGN_KILL_MS", 50));
    node.detached(&["--name", "keeper"], "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done");
    let neighbours: Vec<String> = (0..3)
        .map(|n| {
            node.detached(
                &["--name", &format!("web{n}"), "--network", "bridge", "-p", &format!("{}:80", node.slot.port(n))],
                "sleep 100000",
            )
        })
        .collect();
    let address = |node: &Node, id: &str| {
        node.inspect(id)["NetworkSettings"]["IPAddress"].as_str().unwrap_or_default().to_owned()
    };
    let before: Vec<_> = neighbours.iter().map(|id| (pid(&node, id), address(&node, id))).collect();
    let keeper = pid(&node, "keeper");
    let field = field(&node, operations);
    let mut kills = 0u64;
    let (mut paused, mut pauses) = (Duration::ZERO, 0u32);
    let port = node.slot.agent_port();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..size("BERTH_CAMPAIGN_CLIENTS", 4))
            .map(|number| {
                let field = &field;
                scope.spawn(move || client(field, number))
            })
            .collect();
        let mut random = Random(7);
        let mut newer: Option<PathBuf> = None;
        let mut slower = 1.0;
        while !clients.iter().all(|c| c.is_finished()) {
            if random.below(3) == 0 {
                let part = random.below(pause.as_millis() as u64 * 2 + 1);
                std::thread::sleep(Duration::from_millis(part).mul_f64(slower));
            } else {
                let begun = Instant::now();
                while std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
                    && begun.elapsed() < Duration::from_secs(10)
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                slower = contention(node.pid());
                paused += pause.mul_f64(slower);
                pauses += 1;
                std::thread::sleep(pause.mul_f64(slower));
            }
            node.kill_agent();
            kills += 1;
            if newer.is_none() && field.done.load(Ordering::Relaxed) * 2 > operations {
                node.spawn();
                let file = signed(&node, "version=9.0.0");
                upgrade(&node, &file);
                newer = Some(file);
                continue;
            }
            if let Some(file) = &newer {
                std::fs::copy(file, node.program()).expect("the program");
            }
            node.spawn_without_waiting();
            if newer.is_some() {
                std::fs::remove_file(node.program()).expect("the running agent's program");
            }
        }
        let newer = newer.expect("an upgrade in the middle");
        node.kill_agent();
        std::fs::copy(newer, node.program()).expect("the program");
        node.spawn();
    });
    eprintln!(
        "campaign: {} operations, {kills} kills, {} ms behind the first answer at the mean, 1 upgrade, {} wrong",
        field.done.load(Ordering::Relaxed),
        paused.checked_div(pauses).unwrap_or_default().as_millis(),
        field.failures.lock().expect("failures").len()
    );
    assert_eq!(pid(&node, "keeper"), keeper);
    let after: Vec<_> = neighbours.iter().map(|id| (pid(&node, id), address(&node, id))).collect();
    assert_eq!(after, before, "a neighbour has changed");
    let log = node.ok(&["logs", "keeper"]);
    for (at, line) in log.lines().enumerate() {
        assert_eq!(line, (at + 1).to_string(), "a line of the keeper is lost or doubled");
    }
    at_the_end(&node, &field);
    node.finish();
}

//! Hours of random operations with a model beside them, and an agent that stays as small as it was.
//!
//! BERTH_SOAK_SECS seconds (20) of the campaign's operations and more kinds, by two clients that pause for BERTH_SOAK_PAUSE_MS
//! milliseconds (0) behind each. Every minute what is wrong, the agent's memory, descriptors, threads and its time on a processor are
//! printed (cargo nextest run --no-capture). The first third of the time fills pools and caches; what is there then is what may be there at
//! the end.

use crate::campaign::{Field, Random, at_the_end, client, field};
use crate::harness::{LONG, Node, image, size, until};
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const IDLE: &str = "while :; do sleep 1; done";
/// Ports of the node that clients publish: its last ones.
const PORT: u16 = 16;

/// Memory that is its own (KiB), descriptors, threads.
fn resources(pid: u32) -> [u64; 3] {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    [number("RssAnon:"), count(Path::new(&format!("/proc/{pid}/fd"))), number("Threads:")]
}

fn count(dir: &Path) -> u64 {
    std::fs::read_dir(dir).map_or(0, Iterator::count) as u64
}

/// Seconds on a processor, its own and the kernel's for it (proc_pid_stat(5), in 1/100 s).
fn processor(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of the agent's records.
fn records(node: &Node) -> u64 {
    let files = std::fs::read_dir(node.data()).expect("data").flatten().filter_map(|e| e.metadata().ok());
    files.filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// Asks until `good`, or says that it never was.
fn awaited(field: &Field, what: &str, mut good: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !good() {
        if begun.elapsed() > LONG {
            return field.wrong(format!("{what}: waited in vain"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One of the operations that only the soak has.
pub fn operation(field: &Field, random: &mut Random, number: u64, name: &str) {
    let run = |options: &[&str], script: &str| {
        let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "none"] };
        let of = ["--name", name];
        let command = [field.busybox.as_str(), "sh", "-c", script];
        field.expect(&[&["run"], options, &of, network, &command].concat(), 0, None);
    };
    let gone = || drop(field.expect(&["rm", "-f", name], 0, Some(&format!("{name}\n"))));
    let told = |template: &str| field.ctl(&["inspect", "--format", template, name]).stdout.trim().to_owned();
    match random.below(8) {
        0 => {
            run(&["-d", "--health-cmd", "true", "--health-interval", "200ms"], IDLE);
            awaited(field, &format!("{name} is healthy"), || told("{{.State.Health.Status}}") == "healthy");
            gone();
        }
        1 => {
            run(&["-d"], IDLE);
            field.expect(&["pause", name], 0, None);
            field.expect(&["stats", "--no-stream", name], 0, None);
            field.expect(&["top", name], 0, None);
            field.expect(&["unpause", name], 0, None);
            field.expect(&["stop", "-t", "0", name], 0, None);
            gone();
        }
        2 => {
            run(&["-d"], IDLE);
            let folder = std::env::temp_dir();
            let (there, back) = (folder.join(format!("berth-{name}-in")), folder.join(format!("berth-{name}-out")));
            let bytes: Vec<u8> = (0..200_000 + random.below(100_000)).map(|n| n as u8).collect();
            std::fs::write(&there, &bytes).expect("file");
            let (there, back) = (there.display().to_string(), back.display().to_string());
            field.expect(&["cp", &there, &format!("{name}:/there")], 0, None);
            field.expect(&["cp", &format!("{name}:/there"), &back], 0, None);
            if std::fs::read(&back).ok().as_ref() != Some(&bytes) {
                field.wrong(format!("{name}: another file comes back"));
            }
            field.expect(&["diff", name], 0, Some("A /there\n"));
            field.expect(&["export", "-o", &back, name], 0, None);
            gone();
            let _ = (std::fs::remove_file(there), std::fs::remove_file(back));
        }
        3 => {
            let made = format!("made:{name}");
            run(&[], &format!("echo {name} >/made"));
            field.expect(&["commit", name, &made], 0, None);
            let read = ["run", "--rm", "--pull", "never", "--network", "none", &made, "cat", "/made"];
            field.expect(&read, 0, Some(&format!("{name}\n")));
            gone();
            field.expect(&["rmi", &made], 0, None);
        }
        4 => {
            run(&["-d", "--restart", "on-failure:2"], "echo run; exit 3");
            awaited(field, &format!("{name} is given up"), || {
                told("{{.RestartCount}} {{.State.Status}}") == "2 exited"
            });
            field.expect(&["logs", name], 0, Some("run\nrun\nrun\n"));
            gone();
        }
        5 => {
            run(&["-d", "--memory", "64m"], IDLE);
            field.expect(&["update", "--memory", "96m", name], 0, None);
            let other = format!("{name}-too");
            field.expect(&["rename", name, &other], 0, None);
            field.expect(&["restart", "-t", "0", &other], 0, None);
            field.expect(&["rename", &other, name], 0, None);
            let found = told("{{.State.StartCount}} {{.HostConfig.Memory}}");
            if found != format!("2 {}", 96 << 20) {
                field.wrong(format!("{name}: {found} after update and restart"));
            }
            gone();
        }
        6 => {
            let port = field.ports + u16::try_from(number).expect("few clients");
            let options = ["-d", "--network", "bridge", "-p", &format!("{port}:80")];
            run(&options, "while :; do echo here | nc -l -p 80; done");
            awaited(field, &format!("{name} answers"), || {
                let mut text = String::new();
                let stream = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
                    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                    stream.read_to_string(&mut text)
                });
                stream.is_ok() && text == "here\n"
            });
            gone();
        }
        _ => {
            for arguments in [&["info"][..], &["ps", "-a"], &["images"], &["system", "df"], &["version"]] {
                field.expect(arguments, 0, None);
            }
            // Callers that go away in the middle.
            for arguments in [&["logs", "-f", "keeper"][..], &["stats", "keeper"], &["events"], &["attach", "keeper"]] {
                let mut command = field.command(arguments);
                let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("berthctl");
                std::thread::sleep(Duration::from_millis(200));
                child.kill().expect("kill");
                child.wait().expect("wait");
            }
        }
    }
}

#[test]
fn an_agent_stays_as_small_as_it_was() {
    // What is kept for long is soon full.
    let node = Node::builder("soak").top("event_history = 1000").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node.detached(&["--name", "keeper"], IDLE);
    let agent = node.pid();
    let seconds = size("BERTH_SOAK_SECS", 20);
    let mut field = field(&node, usize::MAX);
    field.ports = node.slot.port(PORT);
    field.pause = Duration::from_millis(size("BERTH_SOAK_PAUSE_MS", 0));
    let begun = Instant::now();
    let round = |field: &mut Field, to: Duration| {
        while begun.elapsed() < to {
            field.round += 1;
            field.until = Some((Instant::now() + Duration::from_secs(60)).min(begun + to));
            std::thread::scope(|scope| {
                for number in 0..2 {
                    let field = &*field;
                    scope.spawn(move || client(field, number));
                }
            });
            for id in node.ok(&["ps", "-a", "-q", "--filter", "status=exited"]).split_whitespace() {
                node.ok(&["rm", id]);
            }
            let [memory, files, threads] = resources(agent);
            eprintln!(
                "soak: {} s, {} operations, {} wrong; {memory} KiB, {files} descriptors, {threads} threads; {:.1} s of a processor, {} KiB of records",
                begun.elapsed().as_secs(),
                field.done.load(Ordering::Relaxed),
                field.failures.lock().expect("failures").len(),
                processor(agent),
                records(&node) >> 10,
            );
        }
    };
    round(&mut field, Duration::from_secs(seconds / 3));
    let before = resources(agent);
    round(&mut field, Duration::from_secs(seconds));
    // What is kept for a moment goes: sessions, idle threads, reapers.
    let allowed = [before[0] + before[0] / 4 + 4096, before[1] + 16, before[2] + 8];
    until(&format!("the agent falls to {allowed:?} (had {before:?})"), || {
        resources(agent).iter().zip(allowed).all(|(now, most)| *now <= most)
    });
    eprintln!(
        "soak: {} operations in {seconds} s; KiB, descriptors, threads {before:?} -> {:?}",
        field.done.load(Ordering::Relaxed),
        resources(agent)
    );
    at_the_end(&node, &field);
    node.finish();
}

//! Streams of `run`, `exec`, `attach`, `logs -f`, `events` and `wait` go on when the agent dies.

use crate::harness::pty::{self, Step};
use crate::harness::{Node, image, until};
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A command that runs beside the test.
struct Beside(Child);

impl Beside {
    fn start(node: &Node, arguments: &[&str]) -> Beside {
        let mut command = node.ctl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Beside(command.spawn().expect("berthctl"))
    }

    fn end(mut self) -> (i32, String, String) {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().expect("wait");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}

#[track_caller]
fn numbered(text: &str, count: usize) {
    for (at, line) in text.lines().enumerate() {
        assert_eq!(line, (at + 1).to_string(), "a line is lost or doubled");
    }
    assert_eq!(text.lines().count(), count);
}

/// Kills and starts the agent until `done`, at least `least` times.
fn kill_until(node: &mut Node, least: u32, done: impl Fn() -> bool) {
    let mut kills = 0;
    while kills < least || !done() {
        std::thread::sleep(Duration::from_millis(150));
        node.kill_agent();
        node.spawn();
        kills += 1;
        assert!(kills < 500, "no end in sight");
    }
}

#[test]
fn output_and_exit_code_of_a_run_survive_the_agent() {
    let mut node = Node::with_busybox("resume-run");
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; echo $i >&2; usleep 5000; done; exit 23";
    for rm in [true, false] {
        let busybox = image("busybox");
        let mut arguments = vec!["run", "--network", "none"];
        if rm {
            arguments.push("--rm");
        }
        arguments.extend([busybox.as_str(), "sh", "-c", script]);
        let run = Beside::start(&node, &arguments);
        kill_until(&mut node, 6, || node_is_quiet(&run));
        let (code, stdout, stderr) = run.end();
        assert_eq!(code, 23, "{stderr}");
        numbered(&stdout, 300);
        numbered(&stderr, 300);
    }
    node.finish();
}

/// The command has ended by itself.
fn node_is_quiet(run: &Beside) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", run.0.id())).unwrap_or_default();
    stat.contains(") Z ")
}

#[test]
fn more_output_than_fits_anywhere_survives_the_agent() {
    let mut node = Node::with_busybox("resume-big");
    let run = Beside::start(
        &node,
        &["run", "--rm", "--network", "none", &image("busybox"), "sh", "-c", "seq 1 2000000; exit 4"],
    );
    // Its output must be taken meanwhile.
    let ended = AtomicBool::new(false);
    let (code, stdout, stderr) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let output = run.end();
            ended.store(true, Ordering::Relaxed);
            output
        });
        kill_until(&mut node, 3, || ended.load(Ordering::Relaxed));
        reader.join().expect("reader")
    });
    assert_eq!(code, 4, "{stderr}");
    numbered(&stdout, 2_000_000);
    node.finish();
}

#[test]
fn input_of_an_exec_survives_the_agent() {
    let mut node = Node::with_busybox("resume-stdin");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let mut exec = Beside::start(&node, &["exec", "-i", "box", "sh", "-c", "cat; exit 9"]);
    let mut stdin = exec.0.stdin.take().expect("stdin");
    let ended = AtomicBool::new(false);
    let (code, stdout, stderr) = std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1..=40_000 {
                writeln!(stdin, "{number}").expect("write");
                if number % 400 == 0 {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        let reader = scope.spawn(|| {
            let output = exec.end();
            ended.store(true, Ordering::Relaxed);
            output
        });
        kill_until(&mut node, 4, || ended.load(Ordering::Relaxed));
        reader.join().expect("reader")
    });
    assert_eq!(code, 9, "{stderr}");
    numbered(&stdout, 40_000);
    node.finish();
}

#[test]
fn a_terminal_goes_on_and_is_sized_again() {
    let mut node = Node::with_busybox("resume-tty");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let command = node.ctl_command(&["exec", "-it", "box", "sh"]);
    let session = std::thread::scope(|scope| {
        let terminal = scope.spawn(|| {
            pty::run(
                &command,
                &[
                    Step::Expect("#"),
                    Step::Send(
                        "x=kept; echo ready-$((1+1)) > /tmp/ready; while [ ! -e /tmp/go ]; do usleep 9999; done\r",
                    ),
                    Step::Send("echo $x-$((40+2)); sleep 1; stty size\r"),
                    Step::Expect("kept-42"),
                    Step::Resize(31, 99),
                    Step::Expect("31 99"),
                    Step::Send("exit 5\r"),
                ],
            )
        });
        until("the shell waits", || node.ctl(&["exec", "box", "cat", "/tmp/ready"]).stdout == "ready-2\n");
        node.restart();
        node.restart();
        node.ok(&["exec", "box", "touch", "/tmp/go"]);
        terminal.join().expect("terminal")
    });
    assert_eq!((session.code, session.restored), (5, true), "{}", session.output);
    node.finish();
}

#[test]
fn what_was_typed_before_the_detach_keys_arrives_and_an_exec_goes_on() {
    let node = Node::with_busybox("resume-detach");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let command = node.ctl_command(&["exec", "-it", "box", "sh"]);
    let session =
        pty::run(&command, &[Step::Expect("#"), Step::Send("sleep 1; echo typed > /tmp/typed; sleep 1000\r\x10\x11")]);
    assert!(session.restored, "{}", session.output);
    until("the last line was typed", || node.ctl(&["exec", "box", "cat", "/tmp/typed"]).stdout == "typed\n");
    until("no word of a hang-up", || node.ok(&["exec", "box", "ps"]).contains("sleep 1000"));
    node.finish();
}

#[test]
fn a_detached_exec_runs_once() {
    let mut node = Node::with_busybox("resume-detached");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let command = || node_command(&node.dir);
        let worker = scope.spawn({
            let command = command();
            let ended = &ended;
            move || {
                for number in 1..=25 {
                    let line = format!("echo {number} >> /tmp/lines");
                    let output = command(&["exec", "-d", "box", "sh", "-c", &line]);
                    // Refused at the door: nothing was asked yet.
                    if output.stderr.contains("connecting to") || output.stderr.contains("handshake") {
                        continue;
                    }
                    assert_eq!(output.code, 0, "{output:?}");
                }
                ended.store(true, Ordering::Relaxed);
            }
        });
        kill_until(&mut node, 3, || ended.load(Ordering::Relaxed));
        worker.join().expect("worker");
    });
    std::thread::sleep(Duration::from_millis(300));
    let lines = node.ok(&["exec", "box", "cat", "/tmp/lines"]);
    let mut unique: Vec<&str> = lines.lines().collect();
    let all = unique.len();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), all, "an exec ran twice: {lines}");
    node.finish();
}

/// `berthctl` without the node: it is being killed meanwhile.
fn node_command(dir: &std::path::Path) -> impl Fn(&[&str]) -> crate::harness::agent::Output + Send + 'static {
    let config = dir.join("config.toml");
    move |arguments| {
        let mut command = std::process::Command::new(crate::harness::pki::ctl_binary());
        crate::harness::agent::run(command.env("BERTH_CONFIG", &config).args(arguments).stdin(Stdio::null()))
    }
}

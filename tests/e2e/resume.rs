//! Streams of `run`, `exec`, `attach`, `logs -f`, `events` and `wait` go on when the agent dies.

use crate::harness::pty::{self, Step};
use crate::harness::{Node, image, until};
use berth::v1::{self, containers_client::ContainersClient};
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_types::StatusExt;

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
    // What berthctl says about an agent that is away for long is its own.
    let own = |line: &&str| !line.contains("does not answer; trying") && *line != "going on";
    let lines: Vec<&str> = text.lines().filter(own).collect();
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(*line, (at + 1).to_string(), "a line is lost or doubled");
    }
    assert_eq!(lines.len(), count);
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

#[test]
fn output_and_exit_code_of_an_attached_start_survive_the_agent() {
    let mut node = Node::with_busybox("resume-start");
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; usleep 5000; done; exit 23";
    node.ok(&["create", "--name", "box", "--network", "none", &image("busybox"), "sh", "-c", script]);
    for _ in 0..2 {
        let start = Beside::start(&node, &["start", "-a", "box"]);
        kill_until(&mut node, 4, || node_is_quiet(&start));
        let (code, stdout, stderr) = start.end();
        assert_eq!(code, 23, "{stderr}");
        numbered(&stdout, 300);
    }
    // Each was one start.
    assert_eq!(node.ok(&["logs", "box"]).lines().count(), 600);
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
            let ended = Ends(&ended);
            move || {
                for number in 1..=25 {
                    let line = format!("echo {number} >> /tmp/lines");
                    let output = command(&["exec", "-d", "box", "sh", "-c", &line]);
                    assert_eq!(output.code, 0, "{output:?}");
                }
                drop(ended);
            }
        });
        kill_until(&mut node, 3, || ended.load(Ordering::Relaxed));
        worker.join().expect("worker");
    });
    until("every exec has run", || node.ok(&["exec", "box", "cat", "/tmp/lines"]).lines().count() >= 25);
    std::thread::sleep(Duration::from_millis(300));
    let lines = node.ok(&["exec", "box", "cat", "/tmp/lines"]);
    let mut unique: Vec<&str> = lines.lines().collect();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!((unique.len(), lines.lines().count()), (25, 25), "an exec ran twice: {lines}");
    node.finish();
}

/// Says so when it is dropped, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `berthctl` without the node: it is being killed meanwhile.
fn node_command(dir: &std::path::Path) -> impl Fn(&[&str]) -> crate::harness::agent::Output + Send + 'static {
    let config = dir.join("config.toml");
    move |arguments| {
        let mut command = std::process::Command::new(crate::harness::pki::ctl_binary());
        command.env("BERTH_CONFIG", &config).env("BERTH_RECONNECT", "60s");
        crate::harness::agent::run(command.args(arguments).stdin(Stdio::null()))
    }
}

#[test]
fn an_agent_that_stays_away_is_given_up() {
    let mut node = Node::with_busybox("resume-given-up");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let mut command = node.ctl_command(&["exec", "box", "sh", "-c", "touch /tmp/runs; sleep 1000"]);
    command.env("BERTH_RECONNECT", "1s").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let exec = Beside(command.spawn().expect("berthctl"));
    until("the exec runs", || node.ctl(&["exec", "box", "test", "-e", "/tmp/runs"]).code == 0);
    node.kill_agent();
    let (code, _, stderr) = exec.end();
    assert!(code == 125 && stderr.contains("(tried again for 1 s)"), "{code}: {stderr}");
    // At the door: not at all, for a moment, or for as long as it takes.
    let version = |patience: &str| {
        let mut command = node.ctl_command(&["version"]);
        command.env("BERTH_RECONNECT", patience).stdin(Stdio::null());
        command
    };
    for patience in ["0", "100ms", ""] {
        let output = crate::harness::agent::run(&mut version(patience));
        assert!(output.code == 1 && output.stderr.contains("connecting to"), "{patience:?}: {output:?}");
    }
    let output = crate::harness::agent::run(&mut version("soon"));
    assert!(output.code == 125 && output.stderr.contains("BERTH_RECONNECT"), "{output:?}");
    let patient = Beside(version("60s").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("berthctl"));
    std::thread::sleep(Duration::from_secs(3));
    node.spawn();
    let (code, _, stderr) = patient.end();
    assert!(code == 0 && stderr.contains("does not answer"), "{code}: {stderr}");
    node.finish();
}

/// Sooner than sessions are kept for a caller whose agent died (40 s).
fn soon(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(25), "{what}: not within 25 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_caller_that_was_killed_holds_nothing_back() {
    let node = Node::with_busybox("resume-killed");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let is_there = |file: &str| node.ctl(&["exec", "box", "test", "-e", file]).code == 0;
    // Nobody reads what it writes.
    let mut exec =
        Beside::start(&node, &["exec", "box", "sh", "-c", "touch /tmp/runs; seq 1 2000000; touch /tmp/done"]);
    until("the exec runs", || is_there("/tmp/runs"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!is_there("/tmp/done"), "its output went nowhere");
    exec.0.kill().expect("kill");
    exec.0.wait().expect("wait");
    soon("the exec goes on", || is_there("/tmp/done"));

    let script = "trap 'touch /tmp/hup; exit' HUP; echo rea\"\"dy; while :; do sleep 0.1; done";
    let command = node.ctl_command(&["exec", "-it", "box", "sh", "-c", script]);
    pty::run(&command, &[Step::Expect("ready"), Step::Signal(9)]);
    soon("the terminal hangs up", || is_there("/tmp/hup"));
    node.finish();
}

/// An exec of `cat` with a session of this name: its first frames until the session is there, or why there is none.
async fn cat(
    channel: Channel,
    session: &str,
    resume: Option<v1::Resume>,
) -> Result<(mpsc::Sender<v1::ExecRequest>, Streaming<v1::ExecResponse>), Status> {
    use v1::exec_request::Kind;
    let (sender, receiver) = mpsc::channel(4);
    let start = v1::ExecStart {
        request_id: session.into(),
        container: "box".into(),
        command: vec!["cat".into()],
        attach_stdin: true,
        session_id: session.into(),
        resume,
        ..Default::default()
    };
    sender.send(v1::ExecRequest { kind: Some(Kind::Start(start)) }).await.expect("queue");
    let mut frames = ContainersClient::new(channel).exec(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(frame) = frames.message().await? {
        if matches!(frame.kind, Some(v1::exec_response::Kind::Session(_))) {
            return Ok((sender, frames));
        }
    }
    panic!("no session");
}

#[test]
fn nobody_else_takes_a_session() {
    use v1::{exec_request::Kind, exec_response};
    let node = Node::with_busybox("resume-owner");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let begun = || Some(v1::Resume { started: true, stdout: 0, stderr: 0 });
    let first = runtime.block_on(async { cat(node.channel().await, "secret", None).await.expect("exec") });
    let others = [node.pki.identity("operator"), node.pki.odd("another", "admin", |_| {})];
    runtime.block_on(async {
        for other in &others {
            let channel = node.channel_as(other).await.expect("channel");
            let status = cat(channel, "secret", begun()).await.expect_err("a session of somebody else");
            assert_eq!(status.get_error_details().error_info().expect("info").reason, "SESSION_LOST", "{status}");
        }
        // Its owner is not disturbed by that, also on another connection.
        let (sender, mut frames) = cat(node.channel().await, "secret", begun()).await.expect("its owner");
        sender.send(v1::ExecRequest { kind: Some(Kind::Stdin("mine\n".into())) }).await.expect("stdin");
        while let Some(frame) = frames.message().await.expect("frame") {
            if let Some(exec_response::Kind::Stdout(bytes)) = frame.kind {
                assert_eq!(bytes, "mine\n");
                break;
            }
        }
        sender.send(v1::ExecRequest { kind: Some(Kind::Leave(v1::Leave { hang_up: false })) }).await.expect("leave");
        while frames.message().await.is_ok_and(|frame| frame.is_some()) {}
    });
    drop(first);
    drop(runtime);
    node.finish();
}

/// Attached without input, a caller may be one who may not write: it does not come back as one that does.
#[test]
fn a_session_goes_on_as_it_was_begun() {
    use v1::{attach_request::Kind, attach_response};
    async fn attach(
        channel: Channel,
        stdin: bool,
        resume: Option<v1::Resume>,
    ) -> (mpsc::Sender<v1::AttachRequest>, Streaming<v1::AttachResponse>) {
        let (sender, receiver) = mpsc::channel(4);
        let start =
            v1::AttachStart { container: "box".into(), stdin, session_id: "once".into(), resume, ..Default::default() };
        sender.send(v1::AttachRequest { kind: Some(Kind::Start(start)) }).await.expect("queue");
        let attached = ContainersClient::new(channel).attach(ReceiverStream::new(receiver)).await.expect("attach");
        let mut frames = attached.into_inner();
        while let Some(frame) = frames.message().await.expect("frame") {
            if matches!(frame.kind, Some(attach_response::Kind::Session(_))) {
                return (sender, frames);
            }
        }
        panic!("no session");
    }
    let node = Node::with_busybox("resume-stdin");
    node.detached(&["--name", "box", "-i"], "cat");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let first = runtime.block_on(async { attach(node.channel().await, false, None).await });
    runtime.block_on(async {
        let begun = Some(v1::Resume { started: true, stdout: 0, stderr: 0 });
        let (sender, mut frames) = attach(node.channel().await, true, begun).await;
        sender.send(v1::AttachRequest { kind: Some(Kind::Stdin("mine\n".into())) }).await.expect("stdin");
        let status = loop {
            match tokio::time::timeout(Duration::from_secs(20), frames.message()).await.expect("an answer") {
                Ok(Some(frame)) => {
                    assert!(!matches!(frame.kind, Some(attach_response::Kind::Stdout(_))), "the input was taken")
                }
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => break status,
            }
        };
        assert!(status.message().contains("standard input is not attached"), "{status}");
    });
    drop(first);
    drop(runtime);
    node.finish();
}

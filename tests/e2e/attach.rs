//! Terminals and attachments, through a real pty.

use crate::harness::pty::{self, Step};
use crate::harness::{Node, image, until};

#[test]
fn an_interactive_shell_works_and_the_terminal_is_restored() {
    let node = Node::with_busybox("attach-it");
    let command = node.ctl_command(&["run", "-it", "--rm", "--network", "none", &image("busybox"), "sh"]);
    let session = pty::run(
        &command,
        &[
            Step::Expect("#"),
            Step::Send("stty size; tty\r"),
            Step::Expect("24 80"),
            Step::Expect("/dev/pts/0"),
            Step::Resize(33, 101),
            Step::Send("sleep 0.3; stty size\r"),
            Step::Expect("33 101"),
            // ^C ends the command, not the session. It is the command that says that it is there: the shell itself lets a ^C pass.
            Step::Send("sh -c 'echo go-$((1+1)); exec sleep 1000'\r"),
            Step::Expect("go-2"),
            Step::Send("\x03"),
            Step::Send("echo still-$((40+2))\r"),
            Step::Expect("still-42"),
            Step::Send("exit 6\r"),
        ],
    );
    assert_eq!(session.code, 6, "{}", session.output);
    assert!(session.restored, "the terminal was left raw");
    node.finish();
}

#[test]
fn detach_keys_leave_the_container_running_and_attach_joins_again() {
    let node = Node::with_busybox("attach-detach");
    let command = node.ctl_command(&["run", "-it", "--name", "box", "--network", "none", &image("busybox"), "sh"]);
    let session = pty::run(
        &command,
        &[Step::Expect("#"), Step::Send("x=kept; echo $x-1\r"), Step::Expect("kept-1"), Step::Send("\x10\x11")],
    );
    assert!(session.restored, "{}", session.output);
    assert_eq!(node.inspect("box")["State"]["Status"], "running");
    let command = node.ctl_command(&["attach", "box"]);
    let session = pty::run(&command, &[Step::Send("echo $x-$x\r"), Step::Expect("kept-kept"), Step::Send("exit 4\r")]);
    assert_eq!((session.code, session.restored), (4, true), "{}", session.output);
    node.finish();
}

#[test]
fn exec_with_a_terminal() {
    let node = Node::with_busybox("attach-exec");
    node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let command = node.ctl_command(&["exec", "-it", "box", "sh"]);
    let session = pty::run(
        &command,
        &[
            Step::Expect("#"),
            Step::Resize(40, 120),
            Step::Send("sleep 0.3; stty size\r"),
            Step::Expect("40 120"),
            Step::Send("exit 3\r"),
        ],
    );
    assert_eq!((session.code, session.restored), (3, true), "{}", session.output);
    node.finish();
}

#[test]
fn a_failed_run_restores_the_terminal() {
    let node = Node::with_busybox("attach-fail");
    let command = node.ctl_command(&["run", "-it", "--rm", "--network", "none", &image("busybox"), "no-such"]);
    let session = pty::run(&command, &[]);
    assert_eq!((session.code, session.restored), (127, true), "{}", session.output);
    node.finish();
}

#[test]
fn signals_to_the_ctl_reach_the_container() {
    let node = Node::with_busybox("attach-signals");
    let script = "trap 'echo got-term; exit 21' TERM; echo ready; while :; do sleep 0.1; done";
    let command = node.ctl_command(&["run", "--rm", "--network", "none", &image("busybox"), "sh", "-c", script]);
    let session = pty::run(&command, &[Step::Expect("ready"), Step::Signal(15), Step::Expect("got-term")]);
    assert_eq!(session.code, 21, "{}", session.output);
    node.finish();
}

#[test]
fn two_attachments_see_the_same() {
    let node = Node::with_busybox("attach-two");
    node.ok(&[
        "create",
        "-i",
        "--name",
        "box",
        "--network",
        "none",
        &image("busybox"),
        "sh",
        "-c",
        "read x; echo got $x; echo end",
    ]);
    node.ok(&["start", "box"]);
    let watch = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| node.ctl(&["attach", "--no-stdin", "box"]));
        // The watcher has to be there before the line is sent: its connection is seen in the agent's descriptors.
        until("the watcher has attached", || {
            node.ok(&["events", "--since", "1h", "--until", "0s", "-o", "json"]).contains("attach")
        });
        let output = node.ctl_stdin(&["attach", "box"], "line\n");
        assert!(output.stdout.contains("got line"), "{output:?}");
        watcher.join().expect("watcher")
    });
    assert!(watch.stdout.contains("got line\nend\n"), "{watch:?}");
    node.finish();
}

#[test]
fn a_start_attaches_from_the_first_byte_and_ends_with_the_container() {
    let node = Node::with_busybox("attach-start");
    let busybox = image("busybox");
    let create = |name: &str, options: &[&str], command: &[&str]| {
        let arguments = [&["create", "--name", name, "--network", "none"], options, &[busybox.as_str()], command];
        node.ok(&arguments.concat());
    };
    create("box", &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    // The second time it is one that has ended before.
    for _ in 0..2 {
        let output = node.ctl(&["start", "-a", "box"]);
        assert_eq!((output.code, &*output.stdout, &*output.stderr), (7, "out\n", "err\n"));
    }
    create("cat", &["-i"], &["sh", "-c", "cat; exit 3"]);
    for text in ["first\n", "second\n"] {
        let output = node.ctl_stdin(&["start", "-ai", "cat"], text);
        assert_eq!((output.code, &*output.stdout), (3, text), "{output:?}");
    }
    // Without -i standard input is not sent: it stays open in the container.
    let mut watching = node.ctl_command(&["start", "--attach", "cat"]);
    let mut watching = watching.stdin(std::process::Stdio::null()).spawn().expect("berthctl");
    until("it runs", || node.inspect("cat")["State"]["Running"] == true);
    // One that runs is joined.
    let output = node.ctl_stdin(&["start", "-i", "cat"], "third\n");
    assert_eq!((output.code, &*output.stdout), (3, "third\n"), "{output:?}");
    assert_eq!(watching.wait().expect("wait").code(), Some(3));
    create("once", &["--rm"], &["sh", "-c", "echo gone; exit 5"]);
    let output = node.ctl(&["start", "-a", "once"]);
    assert_eq!((output.code, &*output.stdout), (5, "gone\n"), "{output:?}");
    create("none", &[], &["no-such"]);
    assert!(node.fails(127, &["start", "-a", "none"]).contains("no-such"));
    assert!(node.fails(125, &["start", "-a", "nobody"]).contains("nobody"));
    assert!(node.fails(125, &["start", "-a", "box", "cat"]).contains("one container"));
    assert!(node.fails(125, &["start", "--detach-keys", "ctrl-a", "box"]).contains("-a or -i"));
    node.finish();
}

#[test]
fn a_start_with_a_terminal_takes_keys_and_signals() {
    let node = Node::with_busybox("attach-start-tty");
    let busybox = image("busybox");
    node.ok(&["create", "-it", "--name", "shell", "--network", "none", &busybox, "sh"]);
    let command = node.ctl_command(&["start", "-ai", "shell"]);
    let keys = [Step::Expect("#"), Step::Send("stty size; x=kept\r"), Step::Expect("24 80"), Step::Send("\x10\x11")];
    let session = pty::run(&command, &keys);
    assert!(session.code == 0 && session.restored, "{}", session.output);
    // It runs still: the same shell.
    let keys = [Step::Send("echo $x-$x\r"), Step::Expect("kept-kept"), Step::Send("exit 4\r")];
    let session = pty::run(&command, &keys);
    assert_eq!((session.code, session.restored), (4, true), "{}", session.output);
    let script = "trap 'echo got-term; exit 21' TERM; echo ready; while :; do sleep 0.1; done";
    node.ok(&["create", "--name", "trap", "--network", "none", &busybox, "sh", "-c", script]);
    let command = node.ctl_command(&["start", "-a", "trap"]);
    let session = pty::run(&command, &[Step::Expect("ready"), Step::Signal(15), Step::Expect("got-term")]);
    assert_eq!(session.code, 21, "{}", session.output);
    node.finish();
}

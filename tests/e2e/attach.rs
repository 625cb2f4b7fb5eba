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
            // ^C ends the command, not the session.
            Step::Send("echo go-$((1+1)); sleep 1000\r"),
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

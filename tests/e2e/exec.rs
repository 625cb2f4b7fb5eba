//! One more process in a running container.

use crate::harness::{Node, until};

const IDLE: &str = "while :; do sleep 1; done";

#[test]
fn exec_has_the_containers_namespaces_environment_and_limits() {
    let node = Node::with_busybox("exec-basic");
    let id = node.detached(&["--name", "box", "-e", "A=container", "-w", "/etc", "--hostname", "box"], IDLE);
    assert_eq!(node.ok(&["exec", "box", "sh", "-c", "hostname; pwd; echo $A"]), "box\n/etc\ncontainer");
    assert_eq!(node.ok(&["exec", "-e", "A=exec", "-w", "/tmp", "box", "sh", "-c", "pwd; echo $A"]), "/tmp\nexec");
    assert_eq!(node.ok(&["exec", "-u", "nobody", "box", "id", "-un"]), "nobody");
    let namespaces = "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done";
    let text = node.ok(&["exec", "box", "sh", "-c", namespaces]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.chunks(2).all(|pair| pair[0] == pair[1]) && lines.len() == 12, "{text}");
    let status = node.ok(&["exec", "box", "cat", "/proc/self/status"]);
    assert!(status.contains("CapEff:\t00000000a80425fb") && status.contains("Seccomp:\t2"), "{status}");
    let cgroups = node.ok(&["exec", &id, "sh", "-c", "cat /proc/self/cgroup; echo; cat /proc/1/cgroup"]);
    let (own, first) = cgroups.split_once("\n\n").expect("two");
    assert_eq!(own.trim(), first.trim());
    node.finish();
}

#[test]
fn exit_codes_streams_and_detach() {
    let node = Node::with_busybox("exec-streams");
    node.detached(&["--name", "box"], IDLE);
    assert_eq!(node.ctl(&["exec", "box", "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(node.ctl(&["exec", "box", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(node.ctl(&["exec", "box", "no-such"]).code, 127);
    assert_eq!(node.ctl(&["exec", "box", "/etc/passwd"]).code, 126);
    let output = node.ctl_stdin(&["exec", "-i", "box", "sh", "-c", "cat; echo err >&2"], "through\n");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("through\n", "err\n"));
    node.ok(&["exec", "-d", "box", "sh", "-c", "echo done > /tmp/detached"]);
    until("the detached exec has written", || node.ctl(&["exec", "box", "cat", "/tmp/detached"]).stdout == "done\n");
    let big = node.ok(&["exec", "box", "sh", "-c", "head -c 2000000 /dev/zero | tr '\\0' y"]);
    assert_eq!(big.len(), 2_000_000);
    node.finish();
}

#[test]
fn exec_into_what_does_not_run_is_refused() {
    let node = Node::with_busybox("exec-refused");
    let id = node.detached(&[], "exit 0");
    node.ok(&["wait", &id]);
    let error = node.fails(125, &["exec", &id, "true"]);
    assert!(error.contains("not running"), "{error}");
    assert!(node.fails(125, &["exec", "nobody", "true"]).contains("nobody"));
    node.finish();
}

#[test]
fn processes_of_an_exec_end_with_the_container() {
    let node = Node::with_busybox("exec-end");
    node.detached(&["--name", "box"], "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    node.ok(&["exec", "-d", "box", "sh", "-c", "trap '' TERM; while :; do sleep 1; done"]);
    node.ok(&["stop", "-t", "5", "box"]);
    node.finish();
}

#[test]
fn many_execs_at_once() {
    let node = Node::with_busybox("exec-many");
    node.detached(&["--name", "box"], IDLE);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|n| {
                let node = &node;
                scope.spawn(move || {
                    for round in 0..5 {
                        assert_eq!(node.ok(&["exec", "box", "echo", &format!("{n}-{round}")]), format!("{n}-{round}"));
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("worker"));
    });
    until("no process of an exec is left", || {
        node.ok(&["exec", "box", "sh", "-c", "ls /proc | grep -c '^[0-9]'"]).parse::<u32>().is_ok_and(|n| n <= 5)
    });
    node.finish();
}

//! Landlock around containers: what it takes, what it leaves alone, and who may be without. The attack that it is for is in `weakened.rs`.

use crate::escapes;
use crate::harness::agent::Output;
use crate::harness::{Node, image, until};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

const ON: [&str; 2] = ["--security-opt", "landlock=on"];
const IDLE: &str = "while :; do sleep 1; done";

fn with<'a>(options: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [options, more].concat()
}

/// A domain is seen by what it takes: a mount, from who may mount otherwise.
fn mounts(node: &Node, options: &[&str]) -> bool {
    let output = node.sh_output(options, "mount -t tmpfs none /tmp");
    assert!(output.code == 0 || output.stderr.contains("permission denied"), "{options:?}: {output:?}");
    output.code == 0
}

#[test]
fn a_container_works_as_ever() {
    let node = Node::with_busybox("landlock");
    let admin = ["--cap-add", "SYS_ADMIN"];
    assert!(mounts(&node, &admin) && !mounts(&node, &with(&ON, &admin)));
    let share = format!("{}:/share", node.scratch().display());
    let script = "set -e; cat </dev/stdin; echo out >/dev/stdout; mkdir /a /b; echo x >/a/f; mv /a/f /b/g; ln /b/g /a/h; rm /b/g
        cat /a/h; mkfifo /b/p; ln -s /a/h /b/s; cat /b/s; echo y >>/share/y; cat /share/y; echo z >/v/z; cat /v/z; echo t >/tmp/t
        : >/a/h; chmod 700 /a; chown 1 /a; cat /proc/self/comm; ls /dev/shm /sys/class/net; head -c 1 /dev/zero | wc -c; exec 5</proc/self/ns/net
        (cd /a; rm -r /a /b; echo gone); /bin/busybox true; kill -0 1";
    let plain = with(&["-v", &share, "-v", "data:/v"], &[]);
    let sh = |more: &[&str]| {
        std::fs::remove_file(node.scratch().join("y")).ok();
        let output = node.sh_output(&with(&plain, more), script);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{more:?}: {output:?}");
        output.stdout
    };
    let usual = sh(&[]);
    let nnp = ["--security-opt", "no-new-privileges"];
    for more in [&[][..], &["--init"], &nnp, &["--userns", "host"]] {
        assert_eq!(sh(&with(&ON, more)).replace('\r', ""), usual, "{more:?}");
    }
    node.ok(&["volume", "rm", "data"]);
    let script = "echo one >/dev/tty; echo two >/dev/stdout; echo three >/dev/console; stty size 2>&1";
    let terminal = |options: &[&str]| node.sh_output(&with(options, &["-t"]), script).stdout;
    assert_eq!(terminal(&ON), terminal(&[]));
    assert!(terminal(&ON).starts_with("one\r\ntwo\r\nthree\r\n"), "{}", terminal(&ON));
    let typed =
        node.ctl_stdin(&["run", "--rm", "-i", "--network", "none", ON[0], ON[1], &image("busybox"), "cat"], "typed");
    assert_eq!(typed.stdout, "typed");
    node.finish();
}

#[test]
fn each_process_in_it_is_in_a_domain() {
    let node = Node::with_busybox("landlock-exec");
    let mount = "mount -t tmpfs none /tmp";
    let check = format!("{mount} && exit 0; cat </dev/stdin; exit 7");
    let options =
        ["--cap-add", "SYS_ADMIN", "--health-cmd", &check, "--health-interval", "100ms", "--health-retries", "1"];
    let id = node.detached(&with(&ON, &options), "trap 'exit 5' TERM; while :; do sleep 0.1; done");
    let exec =
        |options: &[&str], script: &str| node.ctl(&[&["exec"], options, &[id.as_str(), "sh", "-c", script]].concat());
    let refused = exec(&[], mount);
    assert!(refused.code != 0 && refused.stderr.contains("permission denied"), "{refused:?}");
    assert_eq!(
        exec(&["-t"], "echo hi >$(tty); cat /etc/passwd >/dev/null && echo read").stdout.replace('\r', ""),
        "hi\nread\n"
    );
    assert_eq!(exec(&["-u", "1", "-w", "/tmp"], "echo x >x; cat x </dev/null").stdout, "x\n");
    // All walls down: it has a permission of its own.
    assert_eq!(exec(&["--privileged"], &format!("{mount} && echo mounted")).stdout, "mounted\n");
    until("the health check fails to mount", || {
        let status = node.ok(&["inspect", "--format", "{{.State.Health.Status}}", &id]);
        assert_ne!(status, "healthy");
        status == "unhealthy"
    });
    // Two domains side by side: no looking into the other, but signals.
    assert_eq!(exec(&[], "cat /proc/self/environ | head -c 4").code, 0);
    let other = exec(&[], "cat /proc/1/environ");
    assert!(other.code != 0 && other.stderr.contains("denied"), "{other:?}");
    assert_eq!(exec(&[], "kill -TERM 1").code, 0);
    assert_eq!(node.ok(&["wait", &id]), "5");
    node.ok(&["rm", &id]);
    node.finish();
}

/// With the host's network and the host's processes there is something to reach.
#[test]
fn abstract_sockets_and_processes_of_the_host_are_out_of_reach() {
    let node = Node::with_busybox("landlock-scopes");
    let name = format!("berth-landlock-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("bind");
    let program = format!("{}:/escape:ro", escapes::program().display());
    let connect = format!("/escape abstract {name}");
    let net = ["--network", "host", "-v", &program];
    assert_eq!(node.sh(&net, &connect), "connected");
    assert_eq!(node.sh(&with(&ON, &net), &connect), "Operation not permitted");
    let signal = format!("kill -0 {} && echo reached", std::process::id());
    let pid = ["--pid", "host"];
    assert_eq!(node.sh(&pid, &signal), "reached");
    let output = node.sh_output(&with(&ON, &pid), &signal);
    assert!(output.code != 0 && output.stderr.contains("not permitted"), "{output:?}");
    // Its own are its own.
    assert_eq!(node.sh(&with(&ON, &pid), "sleep 9 & kill $! && echo reached"), "reached");
    node.finish();
}

#[test]
fn an_agent_may_have_it_around_all() {
    let node = Node::builder("landlock-default").table("[isolation]\nlandlock = true").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let shown = |options: &[&str]| {
        let id = node.detached(options, IDLE);
        let mount = node.ctl(&["exec", &id, "mount", "-t", "tmpfs", "none", "/tmp"]).code == 0;
        let shown = node.ok(&["inspect", "--format", "{{.HostConfig.SecurityOpt}}", &id]);
        node.ok(&["rm", "-f", &id]);
        (shown.contains("landlock=on"), shown.contains("landlock=off"), mount)
    };
    assert_eq!(shown(&[]), (true, false, false));
    // What may mount is left alone, unless it asks for it.
    assert_eq!(shown(&["--cap-add", "SYS_ADMIN"]), (false, false, true));
    assert_eq!(shown(&["--privileged"]), (false, false, true));
    assert_eq!(shown(&with(&ON, &["--cap-add", "SYS_ADMIN"])), (true, false, false));
    assert_eq!(shown(&["--security-opt", "landlock=off"]), (false, true, false));
    let refused = node.fails(125, &["run", "--rm", "--privileged", ON[0], ON[1], &image("busybox"), "true"]);
    assert!(refused.contains("--security-opt landlock") && refused.contains("privileged"), "{refused}");
    if crate::harness::runtimes::there().iter().any(|(name, _)| *name == "crun") {
        let refused = node.fails(125, &["run", "--rm", "--runtime", "crun", &image("busybox"), "true"]);
        assert!(refused.contains("the runtime crun has none"), "{refused}");
    }
    let info = node.ok(&["info"]);
    assert!(info.contains("Landlock:") && info.contains("around every container by default"), "{info}");
    assert!(node.ok(&["node", "doctor"]).contains("landlock"));
    without_needs_a_permission(&node);
    node.finish();
}

fn without_needs_a_permission(node: &Node) {
    let operator = node.pki.identity("operator");
    let run = |options: &[&str]| -> Output {
        let image = image("busybox");
        node.ctl_as(&operator, &[&["run", "--rm", "--network", "none"], options, &[image.as_str(), "true"]].concat())
    };
    assert_eq!(run(&[]).code, 0);
    assert_eq!(run(&ON).code, 0);
    let refused = run(&["--security-opt", "landlock=off"]);
    assert!(refused.code == 125 && refused.stderr.contains("policy.operator.landlock"), "{refused:?}");
    // Nor is somebody else's container without it a way around.
    let id = node.detached(&["--security-opt", "landlock=off"], IDLE);
    let refused = node.ctl_as(&operator, &["exec", &id, "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("policy.operator.landlock"), "{refused:?}");
    node.ok(&["rm", "-f", &id]);
}

/// Where it is no default, to be without is no option that reaches anything.
#[test]
fn off_is_for_everybody_where_it_is_the_default() {
    let node = Node::with_busybox("landlock-off");
    let image = image("busybox");
    let off = ["run", "--rm", "--network", "none", "--security-opt", "landlock=off", &image, "true"];
    assert_eq!(node.ctl_as(&node.pki.identity("operator"), &off).code, 0);
    node.finish();
}

//! One container from the registry to its exit: what a fresh machine or an odd kernel is tried with first.

use crate::harness::{Node, image};

#[test]
fn a_container_runs_and_its_exit_code_comes_back() {
    let node = Node::start("smoke");
    let output = node.ctl(&[
        "run",
        "--rm",
        "--network",
        "none",
        &image("busybox"),
        "sh",
        "-c",
        "echo hello; echo oops >&2; exit 7",
    ]);
    assert_eq!((output.code, output.stdout.as_str()), (7, "hello\n"), "{}", output.stderr);
    assert!(output.stderr.contains("oops"), "{}", output.stderr);
    node.finish();
}

#[test]
fn limits_namespaces_exec_and_stop_work() {
    let node = Node::with_busybox("smoke-limits");
    let id = node.detached(&["--memory", "64m", "--pids-limit", "50", "--name", "web"], "while :; do sleep 1; done");
    let pid = node.inspect("web")["State"]["Pid"].as_u64().expect("pid");
    let namespace = |of: &str, kind: &str| std::fs::read_link(format!("/proc/{of}/ns/{kind}")).expect("ns");
    for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind), "{kind}");
    }
    let limit = node.inspect("web")["CgroupPaths"].as_array().expect("cgroups").iter().find_map(|path| {
        let path = path.as_str()?;
        ["memory.max", "memory.limit_in_bytes"]
            .iter()
            .find_map(|file| std::fs::read_to_string(format!("{path}/{file}")).ok())
    });
    assert_eq!(limit.as_deref().map(str::trim), Some("67108864"));
    assert_eq!(node.ok(&["exec", "web", "hostname"]), &id[..12]);
    assert_eq!(node.ctl(&["exec", "web", "sh", "-c", "exit 3"]).code, 3);
    node.ok(&["stop", "-t", "1", "web"]);
    assert_eq!(node.ok(&["wait", "web"]), "137");
    node.finish();
}

//! Looking at containers: waits, filters, several logs at once, Docker's view, and names that are not there.

use crate::harness::{Node, image, until};
use std::process::Stdio;

#[test]
fn waits_for_every_condition() {
    let node = Node::with_busybox("look-wait");
    let busybox = image("busybox");
    let wait = |condition: &str, name: &str| {
        let mut command = node.ctl_command(&["wait", "--condition", condition, name]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("wait")
    };
    let answer = |child: std::process::Child| {
        let output = child.wait_with_output().expect("wait");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    node.ok(&[
        "create",
        "--name",
        "ww",
        "--network",
        "none",
        &busybox,
        "sh",
        "-c",
        "trap 'exit 7' TERM; while :; do sleep 0.1; done",
    ]);
    let (running, gone) = (wait("running", "ww"), wait("removed", "ww"));
    let next = wait("next-exit", "ww");
    std::thread::sleep(std::time::Duration::from_millis(300));
    node.ok(&["start", "ww"]);
    assert_eq!(answer(running), (Some(0), "ww".to_owned()));
    assert_eq!(node.ok(&["wait", "--condition", "running", "ww"]), "ww", "it runs already");
    node.until_trapped("ww", "trap 'exit 7;' TERM");
    node.ok(&["stop", "--timeout", "20", "ww"]);
    assert_eq!(answer(next), (Some(0), "7".to_owned()));
    assert_eq!(node.ok(&["wait", "ww", "ww"]), "7\n7");
    let again = wait("next-exit", "ww");
    std::thread::sleep(std::time::Duration::from_millis(300));
    node.ok(&["start", "ww"]);
    node.ok(&["kill", "ww"]);
    assert_eq!(answer(again), (Some(0), "137".to_owned()), "not the end of the run before");
    node.ok(&["rm", "ww"]);
    assert_eq!(answer(gone), (Some(0), "137".to_owned()));
    node.fails(1, &["wait", "--condition", "running", "ww"]);
    node.finish();
}

#[test]
fn what_is_not_there_is_said_so() {
    let node = Node::with_busybox("look-none");
    for command in [&["rm", "nope"][..], &["stop", "nope"], &["rmi", "nope"], &["kill", "nope"], &["wait", "nope"]] {
        let error = node.fails(1, command);
        assert!(error.contains("no such") && error.contains("nope"), "{command:?}: {error}");
    }
    node.ok(&["rm", "-f", "nope"]);
    let output = node.ctl(&["rmi", "-f", "nope"]);
    assert!(output.code == 0 && output.stderr.contains("no such image: nope"), "{output:?}");
    node.ok(&["create", "--name", "made", "--network", "none", &image("busybox")]);
    node.ok(&["stop", "made"]);
    let error = node.fails(125, &["run", "--name", "-", &image("busybox")]);
    assert!(error.contains("--name") && !error.contains("config."), "{error}");
    node.finish();
}

#[test]
fn lists_are_filtered() {
    let node = Node::with_busybox("look-filters");
    let busybox = image("busybox");
    node.ok(&["create", "--name", "first", "-p", "18080:80", "-l", "app=a", &busybox]);
    node.ok(&["create", "--name", "second", "--network", "none", "--tmpfs", "/scratch", &busybox]);
    let names = |filters: &[&str]| {
        let mut arguments = vec!["ps", "-a", "-o", "name"];
        filters.iter().for_each(|f| arguments.extend(["--filter", f]));
        node.ok(&arguments)
    };
    assert_eq!(names(&["before=second"]), "first");
    assert_eq!(names(&["since=first"]), "second");
    assert_eq!(names(&["publish=18000-19000/tcp"]), "first");
    assert_eq!(names(&["expose=80"]), "first");
    assert_eq!(names(&["network=none"]), "second");
    assert_eq!(names(&["volume=/scratch"]), "second");
    assert_eq!(names(&["volume=/scratch", "label=app"]), "");
    assert!(node.fails(125, &["ps", "--filter", "is-task=true"]).contains("swarm"));
    assert!(node.fails(1, &["ps", "--filter", "before=nobody"]).contains("nobody"));
    node.ok(&["pull", "-q", &image("layered")]);
    let images = |filter: &str| node.ok(&["images", "-o", "name", "--filter", filter]);
    assert_eq!(images("dangling=true"), "");
    assert_eq!(images("reference=*layered*"), image("layered"));
    assert!(images("label!=nothing").contains("busybox"));
    assert_eq!(images("until=2000-01-01"), "");
    let all = node.ok(&["events", "--until", "0s", "--filter", "event=create"]);
    assert_eq!(all.lines().count(), 2, "{all}");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("hostname");
    let here = format!("node={}", host.trim());
    assert_eq!(node.ok(&["events", "--until", "0s", "--filter", "event=create", "--filter", &here]), all);
    assert_eq!(node.ok(&["events", "--until", "0s", "--filter", "node=elsewhere"]), "");
    node.finish();
}

#[test]
fn several_logs_are_one() {
    let node = Node::with_busybox("look-logs");
    let busybox = image("busybox");
    // One line of each after the other, however slow the machine is.
    let script =
        |first: &str, second: &str| format!("echo {first}; until [ -e /go ]; do sleep 0.05; done; echo {second}");
    for (name, script) in [("aa", script("1", "3")), ("bb", script("2", "4"))] {
        node.ok(&["run", "-d", "--name", name, "--network", "none", &busybox, "sh", "-c", &script]);
        until("the first line is there", || node.ok(&["logs", name]).lines().count() == 1);
    }
    let follow = node.ctl_command(&["logs", "-f", "aa", "bb"]).stdout(Stdio::piped()).spawn().expect("logs");
    node.ok(&["exec", "aa", "touch", "/go"]);
    until("the second line is there", || node.ok(&["logs", "aa"]).lines().count() == 2);
    node.ok(&["exec", "bb", "touch", "/go"]);
    let followed = follow.wait_with_output().expect("logs");
    let followed = String::from_utf8_lossy(&followed.stdout).into_owned();
    let mut lines: Vec<&str> = followed.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["aa | 1", "aa | 3", "bb | 2", "bb | 4"]);
    node.ok(&["wait", "aa", "bb"]);
    assert_eq!(node.ok(&["logs", "aa", "bb"]), "aa | 1\nbb | 2\naa | 3\nbb | 4");
    assert_eq!(node.ok(&["logs", "--no-log-prefix", "--tail", "1", "aa", "bb"]), "3\n4");
    assert_eq!(node.ok(&["logs", "aa"]), "1\n3");
    assert!(node.fails(1, &["logs", "aa", "nobody"]).contains("nobody"));
    let json = node.ok(&["logs", "-o", "json", "aa", "bb"]);
    assert!(json.lines().all(|l| l.contains("\"Container\"")), "{json}");
    node.finish();
}

#[test]
fn several_followed_logs_go_on_behind_a_new_agent() {
    let mut node = Node::with_busybox("look-logs-resume");
    for name in ["one", "two"] {
        let script =
            "for n in $(seq 200); do echo $n; sleep 0.02; done; while [ ! -e /go ]; do sleep 0.05; done; echo end";
        node.detached(&["--name", name], script);
    }
    let mut follow = node.ctl_command(&["logs", "-f", "one", "two"]);
    let follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("logs");
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(700));
        node.restart();
    }
    for name in ["one", "two"] {
        node.ok(&["exec", name, "touch", "/go"]);
    }
    let output = follow.wait_with_output().expect("logs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let whole: Vec<String> = (1..=200).map(|n| n.to_string()).chain(["end".to_owned()]).collect();
    for name in ["one | ", "two | "] {
        let lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(name)).collect();
        assert_eq!(lines, whole, "{name}");
    }
    node.finish();
}

#[test]
fn templates_for_docker_work() {
    let node = Node::with_busybox("look-docker");
    node.detached(&["--name", "web", "--network", "bridge", "-p", "18081:80"], "while :; do sleep 1; done");
    let shown = |template: &str| node.ok(&["inspect", "-f", template, "web"]);
    assert_eq!(shown("{{.State.Status}} {{.State.Running}} {{.State.Paused}}"), "running true false");
    assert!(shown("{{.NetworkSettings.Networks.bridge.IPAddress}}").contains('.'));
    assert_eq!(shown("{{.HostConfig.RestartPolicy.Name}}"), "no");
    assert_eq!(node.ok(&["inspect", "-o", "docker", "-f", "{{.Name}}", "web"]), "/web");
    let value: serde_json::Value = serde_json::from_str(&node.ok(&["inspect", "-o", "docker", "web"])).expect("JSON");
    let web = &value[0];
    assert_eq!(web["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], "18081", "{web}");
    assert!(web["State"]["Pid"].as_u64().is_some_and(|pid| pid > 0) && web["State"].get("ShimPid").is_none(), "{web}");
    let value = node.ok(&["inspect", "-o", "docker", &image("busybox")]);
    let value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
    assert_eq!(value[0]["RootFS"]["Type"], "layers", "{value}");
    until("the container is up", || node.ctl(&["ps", "-q"]).stdout.lines().count() == 1);
    node.finish();
}

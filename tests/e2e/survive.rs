//! The agent dies; containers do not notice.

use crate::harness::agent::signal;
use crate::harness::{Node, eventually, image, until};
use std::io::{Read, Write};

fn pid(node: &Node, container: &str) -> u64 {
    node.inspect(container)["State"]["Pid"].as_u64().expect("pid")
}

#[test]
fn a_container_outlives_the_agent_with_its_log_and_its_address() {
    let mut node = Node::with_busybox("survive-basic");
    let port = node.slot.port(0);
    node.detached(
        &["--name", "box", "--network", "bridge", "-p", &format!("{port}:80")],
        "httpd -p 80 -h /var/www; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done",
    );
    let before = pid(&node, "box");
    let address = node.inspect("box")["NetworkSettings"]["IPAddress"].clone();
    let serves = || -> bool {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
        let mut text = String::new();
        write!(stream, "GET / HTTP/1.0\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok()
            && text.contains("hello")
    };
    until("it serves", serves);
    for round in 0..3 {
        if round == 2 {
            assert!(node.stop_agent().success());
        } else {
            node.kill_agent()
        }
        assert!(serves(), "it serves without an agent");
        std::thread::sleep(std::time::Duration::from_millis(200));
        node.spawn();
        assert_eq!((pid(&node, "box"), &node.inspect("box")["NetworkSettings"]["IPAddress"]), (before, &address));
        assert!(serves());
        assert_eq!(node.ok(&["exec", "box", "echo", "again"]), "again");
    }
    let log = node.ok(&["logs", "box"]);
    for (at, line) in log.lines().enumerate() {
        assert_eq!(line, (at + 1).to_string(), "a line is lost or doubled");
    }
    node.ok(&["stop", "-t", "1", "box"]);
    node.finish();
}

#[test]
fn exit_codes_of_the_time_without_an_agent_are_known() {
    let mut node = Node::with_busybox("survive-exit");
    let gate = node.scratch().join("gate");
    std::fs::create_dir_all(&gate).expect("gate");
    let script = "while [ ! -e /gate/go ]; do sleep 0.05; done; echo said while dead; exit 17";
    let id = node.detached(&["-v", &format!("{}:/gate", gate.display())], script);
    let auto = node.detached(&["--rm", "-v", &format!("{}:/gate", gate.display())], script);
    let process = pid(&node, &id);
    node.kill_agent();
    std::fs::write(gate.join("go"), "").expect("go");
    until("it has ended", || !std::path::Path::new(&format!("/proc/{process}")).exists());
    node.spawn();
    assert_eq!(node.ok(&["wait", &id]), "17");
    assert_eq!(node.ok(&["logs", &id]), "said while dead");
    until("--rm is kept, too", || node.ctl(&["inspect", &auto]).code != 0);
    node.finish();
}

#[test]
fn attach_and_stdin_work_again_after_a_restart() {
    let mut node = Node::with_busybox("survive-attach");
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
        "while read line; do echo got $line; [ $line = end ] && exit 8; done",
    ]);
    node.ok(&["start", "box"]);
    node.restart();
    let output = node.ctl_stdin(&["attach", "box"], "one\nend\n");
    assert_eq!((output.code, output.stdout.as_str()), (8, "got one\ngot end\n"), "{output:?}");
    node.finish();
}

#[test]
fn limits_stay_and_stop_works_after_a_restart() {
    let mut node = Node::with_busybox("survive-stop");
    node.detached(
        &["--name", "box", "--memory", "64m", "--stop-signal", "USR1"],
        "trap 'exit 6' USR1; while :; do sleep 0.05; done",
    );
    node.restart();
    node.ok(&["stop", "box"]);
    assert_eq!(node.ok(&["wait", "box"]), "6");
    node.ok(&["start", "box"]);
    node.ok(&["kill", "box"]);
    assert_eq!(node.ok(&["wait", "box"]), "137");
    node.finish();
}

#[test]
fn a_killed_shim_ends_its_container_and_is_reported() {
    let node = Node::with_busybox("survive-shim");
    let id = node.detached(&["--name", "box"], "while :; do sleep 1; done");
    let inspect = node.inspect("box");
    let (process, shim) =
        (inspect["State"]["Pid"].as_u64().expect("pid"), inspect["State"]["ShimPid"].as_u64().expect("shim"));
    signal(u32::try_from(shim).expect("pid"), "KILL");
    eventually("the container is said to have ended", || {
        (node.inspect(&id)["State"]["Status"] == "exited").then_some(())
    });
    until("its process is gone", || !std::path::Path::new(&format!("/proc/{process}")).exists());
    let exit = node.inspect("box")["State"].clone();
    assert!(exit["Reason"].as_str().is_some_and(|r| r.contains("shim")), "{exit}");
    node.finish();
}

/// The shim that waits for the next container.
fn spare(node: &Node) -> Option<u32> {
    let entries = std::fs::read_dir(format!("/proc/{}/task", node.pid())).expect("threads").flatten();
    let children = entries.filter_map(|e| std::fs::read_to_string(e.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|c| c.split_whitespace().map(|p| p.parse().expect("pid")).collect::<Vec<_>>()).collect();
    children.into_iter().find(|pid| command_of(*pid).contains("spare-"))
}

fn command_of(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

#[test]
fn a_shim_stands_ready_for_the_next_container() {
    let mut node = Node::with_busybox("survive-spare");
    let loops = "while :; do sleep 1; done";
    node.detached(&["--name", "first"], loops);
    // Its process is there a moment before the agent has it at hand: longer on a machine that has much to do.
    let (ready, id) = [300, 1000, 3000]
        .into_iter()
        .find_map(|ms| {
            let ready = eventually("a shim stands ready", || spare(&node));
            std::thread::sleep(std::time::Duration::from_millis(ms));
            let second = node.inspect(&node.detached(&["--name", "second"], loops));
            let took = second["State"]["ShimPid"].as_u64() == Some(ready.into());
            if !took {
                node.ok(&["rm", "-f", "second"]);
            }
            took.then(|| (ready, second["Id"].as_str().expect("id").to_owned()))
        })
        .expect("the one that stood ready takes a container");
    assert_eq!(command_of(ready), format!("berth-shim {id} "), "it is called by its container");

    // One that was killed is nobody's loss.
    let killed = eventually("the next stands ready", || spare(&node));
    signal(killed, "KILL");
    until("it has ended", || command_of(killed).is_empty());
    assert_eq!(node.sh(&[], "echo still here"), "still here");
    assert_eq!(node.ok(&["exec", "second", "echo", "inside"]), "inside");

    // It goes with its agent, however that ends; containers do not.
    let left = eventually("one more stands ready", || spare(&node));
    node.kill_agent();
    until("the spare one has gone", || command_of(left).is_empty());
    node.spawn();
    for name in ["first", "second"] {
        assert_eq!(node.inspect(name)["State"]["Status"], "running");
    }
    node.finish();
}

#[test]
fn kills_in_the_middle_of_much_work_lose_and_leak_nothing() {
    let mut node = Node::with_busybox("survive-campaign");
    let busybox = image("busybox");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let kills = std::env::var("BERTH_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let keeper = node.detached(&["--name", "keeper"], "while :; do sleep 1; done");
    let keeper_pid = pid(&node, &keeper);
    let config = node.dir.join("config.toml");
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (stop, busybox, config) = (&stop, &busybox, &config);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let name = format!("w{worker}-{round}");
                    let ctl = |arguments: &[&str]| {
                        let mut command = std::process::Command::new(crate::harness::pki::ctl_binary());
                        crate::harness::agent::run(
                            command.env("BERTH_CONFIG", config).args(arguments).stdin(std::process::Stdio::null()),
                        )
                    };
                    // Each may fail for want of an agent; none may do half.
                    ctl(&["run", "-d", "--name", &name, "--network", "none", busybox, "sh", "-c", "sleep 0.1; exit 9"]);
                    ctl(&["exec", &name, "true"]);
                    ctl(&["stop", "-t", "0", &name]);
                    if round % 2 == 0 {
                        ctl(&["rm", "-f", &name]);
                    }
                }
            });
        }
        for _ in 0..kills {
            std::thread::sleep(std::time::Duration::from_millis(350));
            node.kill_agent();
            node.spawn();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(pid(&node, "keeper"), keeper_pid);
    let list: serde_json::Value = serde_json::from_str(&node.ok(&["ps", "-a", "-o", "json"])).expect("JSON");
    for container in list.as_array().expect("list") {
        let state = container["State"].as_str().unwrap_or_default();
        assert!(matches!(state, "created" | "running" | "exited"), "{container}");
    }
    node.finish();
}

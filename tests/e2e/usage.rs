//! What containers use and may use: stats, top, update.

use crate::harness::agent::Output;
use crate::harness::pty::{self, Step};
use crate::harness::{Node, until};
use berth::v1;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

const IDLE: &str = "while :; do sleep 1; done";

/// A file of the container's cgroups; None: no group of it has such a file.
fn limit(node: &Node, container: &str, files: &[&str]) -> Option<String> {
    let inspect = node.inspect(container);
    let paths = inspect["CgroupPaths"].as_array().expect("cgroupPaths").iter().filter_map(Value::as_str);
    let read = |path: &str| files.iter().find_map(|file| std::fs::read_to_string(format!("{path}/{file}")).ok());
    paths.map(read).find_map(|text| text).map(|t| t.trim().to_owned())
}

fn memory(node: &Node, container: &str) -> String {
    limit(node, container, &["memory.max", "memory.limit_in_bytes"]).expect("a limit of memory")
}

/// One measurement of all that is named.
fn measure(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["stats", "--no-stream", "-o", "json"];
    all.extend(arguments);
    serde_json::from_str::<Value>(&node.ok(&all)).expect("json").as_array().expect("a list").clone()
}

#[test]
fn limits_change_while_it_runs() {
    let mut node = Node::with_busybox("usage-update");
    let id = node.detached(&["--name", "box", "--memory", "64m"], IDLE);
    node.ok(&["update", "--memory", "128m", "--pids-limit", "55", "box"]);
    assert_eq!(memory(&node, "box"), "134217728");
    assert_eq!(limit(&node, "box", &["pids.max"]).as_deref(), Some("55"));
    // Groups that its start had no need of.
    node.ok(&[
        "update",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--memory-reservation",
        "32m",
        "box",
    ]);
    let quota = limit(&node, "box", &["cpu.max", "cpu.cfs_quota_us"]).map(|t| t.replace(" 100000", ""));
    assert_eq!(quota.as_deref(), Some("50000"));
    assert_eq!(limit(&node, "box", &["cpuset.cpus"]).as_deref(), Some("0"));
    assert_eq!(limit(&node, "box", &["memory.low", "memory.soft_limit_in_bytes"]).as_deref(), Some("33554432"));
    assert_eq!(node.ok(&["exec", "box", "nproc"]), "1");
    assert_eq!(memory(&node, "box"), "134217728", "what is left out stays");
    let host = node.inspect("box")["HostConfig"].clone();
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&134_217_728.into(), &500_000_000.into()), "{host}");
    // The next start and the next agent know it.
    node.restart();
    node.ok(&["restart", "-t", "0", "box"]);
    assert_eq!(memory(&node, "box"), "134217728");
    assert_eq!(limit(&node, "box", &["pids.max"]).as_deref(), Some("55"));
    assert_eq!(node.ok(&["exec", "box", "nproc"]), "1");
    // Limits are taken away, too.
    node.ok(&[
        "update",
        "--cpus",
        "0",
        "--cpuset-cpus",
        "",
        "--pids-limit",
        "-1",
        "--memory",
        "0",
        "--memory-reservation",
        "0",
        "box",
    ]);
    let quota = limit(&node, "box", &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(matches!(quota.as_deref(), Some("-1" | "max 100000")), "{quota:?}");
    assert_eq!(limit(&node, "box", &["pids.max"]).as_deref(), Some("max"));
    assert!(memory(&node, "box") == "max" || memory(&node, "box").len() > 15, "{}", memory(&node, "box"));
    // Stopped ones get it with their start, several at once.
    node.ok(&["stop", "-t", "0", "box"]);
    node.detached(&["--name", "other"], IDLE);
    assert_eq!(node.ok(&["update", "--memory", "48m", "box", "other"]), "box\nother");
    node.ok(&["start", "box"]);
    assert_eq!((memory(&node, "box"), memory(&node, "other")), ("50331648".into(), "50331648".into()));
    assert!(node.ok(&["events", "--since", "1h", "--until", "0s", "--filter", "event=update"]).contains(&id));
    node.finish();
}

#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let node = Node::with_busybox("usage-refused");
    let script = format!("head -c 40m /dev/zero > /dev/shm/x; echo ready; {IDLE}");
    node.detached(&["--name", "box", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "50"], &script);
    until("it has its memory", || node.ok(&["logs", "box"]).contains("ready"));
    // More than that is in use, and cannot be taken back without swap: refused, not killed.
    let error = node.fails(1, &["update", "--memory", "16m", "--memory-swap", "16m", "--pids-limit", "40", "box"]);
    assert!(error.contains("memory.") && error.contains("nothing was changed"), "{error}");
    assert_eq!(memory(&node, "box"), "134217728");
    assert_eq!(limit(&node, "box", &["pids.max"]).as_deref(), Some("50"));
    // The last part is refused: those before it are taken back.
    let error =
        node.fails(1, &["update", "--memory", "256m", "--memory-swap", "256m", "--pids-limit", "99999999", "box"]);
    assert!(error.contains("pids.max") && !error.contains("in use"), "{error}");
    assert_eq!(memory(&node, "box"), "134217728");
    assert_eq!(node.inspect("box")["HostConfig"]["Memory"], 134_217_728);
    // What does not fit beside what stays is named before anything is done.
    let error = node.fails(1, &["update", "--memory", "256m", "box"]);
    assert!(error.contains("--memory-swap: "), "{error}");
    assert!(node.fails(1, &["update", "--memory", "1m", "box"]).contains("6 MiB"));
    assert!(node.fails(125, &["update", "box"]).contains("nothing to change"));
    assert_eq!(node.inspect("box")["State"]["Status"], "running");
    node.finish();
}

#[test]
fn top_shows_the_processes_as_ps_does() {
    let node = Node::with_busybox("usage-top");
    node.detached(&["--name", "box", "-t", "--user", "33"], "sleep 1000 & sleep 2000; wait");
    until("its children run", || node.ok(&["top", "box"]).lines().count() == 4);
    let table = node.ok(&["top", "box"]);
    let words: Vec<&str> = table.lines().next().expect("header").split_whitespace().collect();
    assert_eq!(words, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert!(table.contains("sleep 2000") && table.contains("pts/0"), "{table}");
    let json: Value =
        serde_json::from_str(&node.ok(&["top", "-o", "json", "box", "-o", "pid,ppid,cpid,uid,comm"])).expect("json");
    let first = &json[0];
    assert_eq!(first["PID"], node.inspect("box")["State"]["Pid"].to_string(), "{json}");
    assert_eq!((&first["CPID"], &first["UID"], &first["COMMAND"]), (&"1".into(), &"33".into(), &"sh".into()), "{json}");
    assert_eq!(json[1]["PPID"], first["PID"]);
    assert!(node.ok(&["top", "box", "aux"]).starts_with("USER"));
    assert_eq!(node.ok(&["top", "-o", "name", "box"]).lines().count(), 3);
    assert!(node.fails(125, &["top", "box", "--forest"]).contains("--forest"));
    node.ok(&["pause", "box"]);
    assert_eq!(node.ok(&["top", "box"]).lines().count(), 4, "a paused one has them, too");
    node.ok(&["stop", "-t", "0", "box"]);
    assert!(node.fails(1, &["top", "box"]).contains("not running"));
    node.finish();
}

#[test]
fn stats_count_what_is_used() {
    let node = Node::with_busybox("usage-stats");
    let port = node.slot.port(0);
    let script = "head -c 30m /dev/zero > /dev/shm/x; dd if=/dev/zero of=/var/www/big bs=1M count=3 conv=fsync 2>/dev/null; \
                  (while :; do :; done) & httpd -f -p 80 -h /var/www";
    let options = ["--name", "busy", "--memory", "128m", "--network", "bridge", "-p", &format!("{port}:80")];
    node.detached(&options, script);
    node.detached(&["--name", "idle"], IDLE);
    node.ok(&["create", "--name", "never", "--network", "none", &crate::harness::image("busybox")]);
    let fetched = || -> usize {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return 0 };
        let mut body = Vec::new();
        let asked = write!(stream, "GET /big HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_end(&mut body));
        asked.map_or(0, |_| body.len())
    };
    until("it serves the file", || fetched() > 3 << 20);
    let rows = measure(&node, &[]);
    let names: Vec<&str> = rows.iter().filter_map(|r| r["Name"].as_str()).collect();
    assert_eq!(names, ["busy", "idle"]);
    let busy = &rows[0];
    let number = |row: &Value, field: &str| row[field].as_u64().unwrap_or_else(|| panic!("{field} in {row}"));
    let percent =
        |field: &str| busy[field].as_str().expect("text").trim_end_matches('%').parse::<f64>().expect("percent");
    assert!(percent("CPUPerc") > 1.0 && number(busy, "CPUNanos") > 10_000_000, "{busy}");
    assert!((30 << 20..128 << 20).contains(&number(busy, "MemBytes")), "{busy}");
    assert_eq!(number(busy, "MemLimitBytes"), 128 << 20);
    assert!(percent("MemPerc") > 20.0, "{busy}");
    // From the container's side: it sends the file.
    assert!(number(busy, "NetSentBytes") > 3 << 20 && number(busy, "NetSentPackets") > 10, "{busy}");
    assert!(number(busy, "NetReceivedBytes") > 0 && number(busy, "NetReceivedBytes") < 1 << 20, "{busy}");
    assert!(number(busy, "BlockWrittenBytes") >= 3 << 20, "{busy}");
    // The burning shell, httpd, and perhaps one that still serves.
    assert!(matches!(busy["PIDs"].as_str(), Some("2" | "3")), "{busy}");
    let idle = &rows[1];
    assert!(number(idle, "MemLimitBytes") > 128 << 20, "the host's memory: {idle}");
    assert_eq!(idle["NetIO"], "-- / --", "it has no network");
    let all = measure(&node, &["-a"]);
    assert_eq!((all.len(), &all[2]["Name"], &all[2]["CPUPerc"]), (3, &"never".into(), &"--".into()), "{all:?}");
    assert_eq!(measure(&node, &["never", "idle"]).len(), 2);
    assert!(node.fails(1, &["stats", "--no-stream", "nobody"]).contains("nobody"));
    let line = node.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.State}}", "busy"]);
    assert_eq!(line, "busy running");
    let table = node.ok(&["stats", "--no-stream"]);
    assert!(table.starts_with("CONTAINER ID   NAME") && table.contains(" / 128MiB"), "{table}");
    node.finish();
}

#[test]
fn a_stream_of_stats_follows_what_comes_and_goes() {
    let node = Node::with_busybox("usage-stream");
    node.detached(&["--name", "first"], IDLE);
    // The agent's other descriptors come and go on their own (namespaces that wait for the next container).
    let before = node.counter_files();
    let mut child =
        node.ctl_command(&["stats", "-o", "json"]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("ctl");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut wait_for = |what: &dyn Fn(&Value) -> bool| {
        loop {
            let line = lines.next().expect("the stream goes on").expect("text");
            let row: Value = serde_json::from_str(&line).expect("a JSON object a line");
            if what(&row) {
                return row;
            }
        }
    };
    let row = wait_for(&|r| r["Name"] == "first");
    assert!(row["CPUPerc"].as_str().is_some_and(|p| p.ends_with('%')), "{row}");
    assert!(node.counter_files() > before, "its files stay open");
    node.detached(&["--name", "second"], IDLE);
    wait_for(&|r| r["Name"] == "second");
    node.ok(&["pause", "first"]);
    wait_for(&|r| r["Name"] == "first" && r["State"] == "paused");
    // Another watcher shares the sampler.
    assert_eq!(measure(&node, &[]).len(), 2);
    node.ok(&["rename", "second", "third"]);
    wait_for(&|r| r["Name"] == "third");
    // A restart begins anew.
    node.ok(&["restart", "-t", "0", "third"]);
    wait_for(&|r| r["Name"] == "third" && r["CPUPerc"].as_str().is_some_and(|p| p.ends_with('%')));
    node.ok(&["rm", "-f", "first"]);
    wait_for(&|r| r["Name"] == "third");
    child.kill().expect("kill");
    child.wait().expect("wait");
    until("nothing is measured for nobody", || node.counter_files() <= before);
    node.finish();
}

#[test]
fn the_table_stays_in_its_place_on_a_terminal() {
    let node = Node::with_busybox("usage-live");
    node.detached(&["--name", "box"], IDLE);
    let session = pty::run(
        &node.ctl_command(&["stats"]),
        &[
            Step::Expect("CPU %"),
            Step::Expect("box"),
            Step::Resize(10, 30),
            Step::Expect("\x1b[H"),
            Step::Expect("\x1b[J"),
            Step::Signal(2),
        ],
    );
    assert!(
        session.restored && session.output.contains("\x1b[2J\x1b[H") && session.output.contains("\x1b[K"),
        "{session:?}"
    );
    assert_eq!(session.output.matches("\x1b[2J").count(), 1, "it is cleared once: {session:?}");
    // Not on a pipe.
    let Output { stdout, .. } = node.ctl(&["stats", "--no-stream"]);
    assert!(!stdout.contains('\x1b'), "{stdout:?}");
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_counters_have_their_units_and_grow() {
    let node = Node::with_busybox("usage-raw");
    let id = node.detached(&["--name", "box", "--cpus", "0.2"], "while :; do :; done");
    let mut containers = node.containers().await;
    let request = v1::StatsRequest { containers: vec!["box".into()], count: 2, ..Default::default() };
    let mut stream = containers.stats(request).await.expect("stats").into_inner();
    let mut seen = Vec::new();
    while let Some(message) = stream.message().await.expect("message") {
        assert!(!message.more && message.host_cpus > 0 && message.host_memory_bytes > 0);
        seen.extend(message.containers);
    }
    let [a, b] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((a.id.as_str(), b.name.as_str(), b.state()), (id.as_str(), "box", v1::ContainerState::Running));
    let (cpu, old) = (b.cpu.expect("cpu"), a.cpu.expect("cpu"));
    assert!(cpu.usage_ns > old.usage_ns && b.clock_ns > a.clock_ns);
    assert!(cpu.usage_ns - old.usage_ns <= b.clock_ns - a.clock_ns, "one process uses one CPU at most");
    assert!(cpu.throttled_ns > 0 && cpu.periods >= cpu.throttled_periods, "{cpu:?}");
    assert_eq!(cpu.limit_nano_cpus, 200_000_000);
    let memory = b.memory.expect("memory");
    assert!(memory.used_bytes > 0 && memory.used_bytes <= memory.total_bytes && memory.limit_bytes > memory.used_bytes);
    assert_eq!(b.pids.expect("pids").current, 1);
    let bad = v1::StatsRequest { interval_seconds: 4000, ..Default::default() };
    assert_eq!(containers.stats(bad).await.expect_err("too long").code(), tonic::Code::InvalidArgument);
    drop(stream);
    drop(containers);
    node.finish();
}

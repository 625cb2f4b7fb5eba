//! Where output goes: drivers, collectors that are away or stuck, rotation and compression under readers, full disks.

use crate::harness::{Node, eventually, image, until};
use berth::v1;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn with_table(name: &str, table: &str) -> Node {
    let node = Node::builder(name).table(table).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node
}

fn log_dir(node: &Node, id: &str) -> PathBuf {
    node.data().join("containers").join(id).join("log")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("log folder").flatten();
    entries.map(|e| e.file_name().into_string().expect("name")).collect()
}

// --- formats

#[test]
fn json_file_is_dockers_format() {
    let node = Node::with_busybox("log-json");
    let options = ["--log-driver", "json-file", "--log-opt", "labels=app,none", "--log-opt", "tag={{.Name}}"];
    let options = [&options[..], &["--label", "app=shop", "--name", "web"]].concat();
    let id = node.detached(&options, "echo 'a <b> \"c\"'; echo err >&2; printf 'no end'");
    node.ok(&["wait", &id]);
    let inspected = node.inspect(&id);
    let path = inspected["LogPath"].as_str().expect("LogPath").to_owned();
    assert!(path.ends_with(&format!("/{id}-json.log")), "{path}");
    let text = std::fs::read_to_string(&path).expect("log");
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().any(|l| l["log"] == "a <b> \"c\"\n" && l["stream"] == "stdout"));
    assert!(lines.iter().any(|l| l["log"] == "err\n" && l["stream"] == "stderr"));
    assert!(lines.iter().any(|l| l["log"] == "no end"), "a part of a line has no end");
    for line in &lines {
        assert_eq!(line["attrs"], serde_json::json!({"app": "shop", "tag": "web"}));
        line["time"].as_str().expect("time").parse::<jiff::Timestamp>().expect("RFC 3339");
    }
    assert!(text.contains(r#"{"log":"a \u003cb\u003e \"c\"\n","stream":"stdout","attrs":{"#), "{text}");
    let output = node.ctl(&["logs", &id]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a <b> \"c\"\nno end", "err\n"));
    assert_eq!(inspected["HostConfig"]["LogConfig"]["Type"], "json-file");
    assert_eq!(inspected["HostConfig"]["LogConfig"]["Config"]["tag"], "{{.Name}}");
    node.finish();
}

#[test]
fn none_keeps_nothing_and_says_so() {
    let node = Node::with_busybox("log-none");
    let id = node.detached(&["--log-driver", "none"], "echo gone");
    node.ok(&["wait", &id]);
    let error = node.fails(1, &["logs", &id]);
    assert!(error.contains("is not kept") && error.contains("none"), "{error}");
    assert_eq!(names(&log_dir(&node, &id)), [""; 0]);
    assert_eq!(node.sh(&["--log-driver", "none"], "echo seen"), "seen");
    node.finish();
}

#[test]
fn unknown_drivers_and_options_are_refused_by_name() {
    let node = with_table("log-refused", "[logs]\ndriver = \"json-file\"\noptions = { max-file = \"7\" }");
    let busybox = image("busybox");
    let refused = |options: &[&str]| {
        let output = node.ctl(&[&["create"], options, &[busybox.as_str()]].concat());
        assert_ne!(output.code, 0, "{options:?}");
        output.stderr
    };
    assert!(refused(&["--log-driver", "fluentd"]).contains("fluentd"));
    let error = refused(&["--log-driver", "local", "--log-opt", "tag=x"]);
    assert!(error.contains("--log-opt tag: ") && error.contains("no option of the log driver local"), "{error}");
    let error = refused(&["--log-driver", "none", "--log-opt", "max-size=1m"]);
    assert!(error.contains("--log-opt max-size: "), "{error}");
    let error = refused(&["--log-driver", "syslog", "--log-opt", "syslog-address=tcp+tls://x:1"]);
    assert!(error.contains("tcp+tls is not supported"), "{error}");
    // Attributes go with each line: such that would be most of it are refused.
    let long = format!("app={}", "x".repeat(17 << 10));
    let error = refused(&["--label", &long, "--log-opt", "labels=app"]);
    assert!(error.contains("--log-opt labels: ") && error.contains("16384"), "{error}");
    let error = refused(&["--env", &long, "--log-opt", "env=app"]);
    assert!(error.contains("--log-opt env: "), "{error}");
    // Who says nothing gets the node's.
    let id = node.ok(&["create", &busybox]);
    let log = node.inspect(&id)["HostConfig"]["LogConfig"].clone();
    assert_eq!((&log["Type"], &log["MaxFile"]), (&"json-file".into(), &7.into()));
    // A collector of one's own is reached as root of the host: that is for admins.
    let operator = node.pki.identity("operator");
    let address = ["--log-driver", "syslog", "--log-opt", "syslog-address=unix:///run/x.sock"];
    let denied = node.ctl_as(&operator, &[&["create"], &address[..], &[busybox.as_str()]].concat());
    assert!(denied.code != 0 && denied.stderr.contains("a log collector of its own"), "{denied:?}");
    assert_eq!(node.ctl_as(&operator, &["create", "--log-driver", "syslog", &busybox]).code, 0);
    node.finish();
}

// --- rotation, compression, cursors

/// Follows as a slow client does that is cut off again and again: after some messages the agent is killed.
#[test]
fn a_slow_follower_over_thousands_of_rotations_and_kills_misses_nothing() {
    let mut node = Node::with_busybox("log-cursor");
    let options = ["--log-opt", "max-size=4k", "--log-opt", "max-file=10000"];
    let script = "for c in $(seq 0 39); do seq $((c*5000+1)) $((c*5000+5000)); sleep 0.1; done; echo end";
    let id = node.detached(&options, script);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (mut cursor, mut expected, mut ended, mut rounds) = (String::new(), 1u32, false, 0);
    while !ended {
        rounds += 1;
        assert!(rounds < 500, "at line {expected}");
        runtime.block_on(async {
            let mut client = node.containers().await;
            let request = v1::LogsRequest {
                container: id.clone(),
                follow: true,
                after_cursor: cursor.clone(),
                ..Default::default()
            };
            let mut stream = client.logs(request).await.expect("logs").into_inner();
            let messages = if rounds < 12 { 6 } else { usize::MAX };
            for _ in 0..messages {
                let Some(message) = stream.message().await.expect("message") else { break };
                for entry in message.entries {
                    assert_eq!(entry.lost_bytes, 0);
                    if &entry.line[..] == b"end" {
                        assert_eq!(expected, 200_001);
                        ended = true;
                    } else {
                        let line = String::from_utf8(entry.line.to_vec()).expect("utf-8");
                        assert_eq!(line.parse(), Ok(expected), "round {rounds}");
                        expected += 1;
                    }
                    cursor = entry.cursor;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if rounds < 12 {
            node.restart();
        }
    }
    node.ok(&["wait", &id]);
    let dir = log_dir(&node, &id);
    assert!(names(&dir).len() > 2000, "{} files", names(&dir).len());
    until("full files are compressed", || names(&dir).iter().filter(|n| n.ends_with(".zst")).count() > 100);
    // Over both kinds of files: the whole, its end, and what a time leaves.
    let whole = node.ok(&["logs", &id]);
    assert_eq!(whole.lines().count(), 200_001);
    assert_eq!(node.ok(&["logs", "--tail", "150000", &id]).lines().next(), Some("50002"));
    assert_eq!(node.ok(&["logs", "--since", "1h", &id]).lines().count(), 200_001);
    // A cursor of another container means nothing here.
    let other = node.detached(&[], "echo x");
    let error = runtime.block_on(async {
        let request = v1::LogsRequest { container: other, after_cursor: cursor, ..Default::default() };
        node.containers().await.logs(request).await.expect_err("refused")
    });
    assert!(error.message().contains("after_cursor"), "{error:?}");
    node.finish();
}

#[test]
fn the_hosts_limit_removes_the_oldest_and_counts_it() {
    let node = with_table("log-limit", "[logs]\nhost_max_bytes = 1048576");
    let options = ["--log-opt", "max-size=64k", "--log-opt", "max-file=100", "--log-opt", "compress=false"];
    let first = node.detached(&options, "seq 20000");
    node.ok(&["wait", &first]);
    let second = node.detached(&options, "seq 15000");
    node.ok(&["wait", &second]);
    let bytes = |id: &str| node.inspect(id)["Log"]["StoredBytes"].as_u64().expect("StoredBytes");
    until("the limit holds", || bytes(&first) + bytes(&second) <= 1 << 20);
    let log = node.inspect(&first)["Log"].clone();
    assert!(log["RemovedFiles"].as_u64() > Some(0) && log["RemovedBytes"].as_u64() > Some(0), "{log}");
    assert_eq!(node.inspect(&second)["Log"]["RemovedFiles"], 0, "the oldest go first");
    assert!(node.ok(&["logs", &first]).ends_with("20000"));
    assert_eq!(node.ok(&["logs", &second]).lines().count(), 15000);
    node.finish();
}

#[test]
fn old_files_go_by_age() {
    let node = Node::with_busybox("log-age");
    let options = ["--log-opt", "max-size=4k", "--log-opt", "max-file=100", "--log-opt", "max-age=3s"];
    let id = node.detached(&options, "seq 1000; sleep 4; echo last");
    node.ok(&["wait", &id]);
    until("what is old is removed", || !node.ok(&["logs", &id]).lines().any(|l| l == "1"));
    assert!(node.ok(&["logs", &id]).ends_with("last"));
    assert!(node.inspect(&id)["Log"]["RemovedFiles"].as_u64() > Some(0));
    node.finish();
}

#[test]
fn on_a_full_disk_lines_are_counted_as_lost_and_the_workload_goes_on() {
    let node = Node::builder("log-full").small_disk(64).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let script = "trap 'echo later; exit 0' TERM; echo before; while [ ! -e /dev/shm/go ]; do sleep 0.05; done; \
                  seq 3000; touch /dev/shm/wrote; while :; do sleep 0.05; done";
    let id = node.detached(&[], script);
    until("it runs", || node.ok(&["logs", &id]) == "before");
    let filler = node.data().join("filler");
    let mut file = std::fs::File::create(&filler).expect("filler");
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    node.ok(&["exec", &id, "touch", "/dev/shm/go"]);
    until("the workload goes on", || node.ctl(&["exec", &id, "ls", "/dev/shm/wrote"]).code == 0);
    drop(file);
    std::fs::remove_file(&filler).expect("filler");
    node.ok(&["stop", &id]);
    let output = node.ctl(&["logs", &id]);
    let told: Vec<&str> = output.stderr.lines().filter(|l| l.contains("lines of output were lost")).collect();
    let lost: usize = told.iter().map(|l| l.split(' ').nth(1).expect("number").parse::<usize>().expect("number")).sum();
    assert!(lost > 0);
    assert!(output.stdout.ends_with("later\n"), "{output:?}");
    assert_eq!(output.stdout.lines().count() + lost, 3002, "{told:?}");
    assert_eq!(node.inspect(&id)["Log"]["LostLines"], lost);
    node.finish();
}

// --- syslog

/// Messages of RFC 5424 in a stream, counted out as RFC 6587 has it.
pub struct Framed<S>(pub S);

impl<S: Read> Framed<S> {
    /// None: the other side has closed.
    pub fn next(&mut self) -> Option<String> {
        let mut length = 0;
        loop {
            let mut byte = [0];
            if self.0.read(&mut byte).expect("read") == 0 {
                return None;
            }
            match byte[0] {
                b' ' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        let mut message = vec![0; length];
        self.0.read_exact(&mut message).expect("message");
        Some(String::from_utf8(message).expect("utf-8"))
    }
}

/// The sequenceId and the text of a message.
pub fn parts(message: &str) -> (u64, &str) {
    let (head, text) = message.split_once("\"] ").expect("structured data");
    let (_, sequence) = head.split_once("[meta sequenceId=\"").expect("sequenceId");
    (sequence.parse().expect("number"), text)
}

pub fn syslog_options(address: &str) -> [String; 4] {
    ["--log-driver".into(), "syslog".into(), "--log-opt".into(), format!("syslog-address={address}")]
}

#[test]
fn syslog_over_tcp_goes_on_over_restarts_of_the_agent() {
    let mut node = Node::with_busybox("log-tcp");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = syslog_options(&format!("tcp://{}", listener.local_addr().expect("address")));
    let mut options: Vec<&str> = address.iter().map(String::as_str).collect();
    options.extend(["--log-opt", "tag={{.Name}}", "--log-opt", "syslog-facility=local0", "--name", "web"]);
    let id = node.detached(
        &options,
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; [ $((i%500)) = 0 ] && sleep 0.3; done",
    );
    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut restarts = 0;
    while seen.last().is_none_or(|(n, _)| *n < 3000) {
        let (stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
        let mut framed = Framed(stream);
        let mut here = 0;
        while let Some(message) = framed.next() {
            let (sequence, text) = parts(&message);
            assert!(
                message.starts_with("<134>1 20") && message.contains(&format!(" web {} stdout ", &id[..12])),
                "{message}"
            );
            assert_eq!(text, format!("line {sequence}"));
            seen.push((sequence, text.to_owned()));
            here += 1;
            if sequence == 3000 {
                break;
            }
            if here > 400 && restarts < 3 {
                restarts += 1;
                match restarts {
                    2 => node.restart(),
                    _ => {
                        node.stop_agent();
                        node.spawn();
                    }
                }
            }
        }
    }
    assert_eq!(restarts, 3);
    // Whatever came twice carries its number: without those nothing is missing and nothing is out of order.
    let mut numbers: Vec<u64> = seen.iter().map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=3000).collect::<Vec<_>>());
    until("it is written down", || node.inspect(&id)["Log"]["ForwardedEntries"] == 3000);
    assert_eq!(node.ok(&["logs", &id]).lines().count(), 3000, "read back from the own files");
    node.finish();
}

#[test]
fn in_normal_operation_syslog_has_every_line_once() {
    let node = Node::with_busybox("log-once");
    let socket = node.scratch().join("log.sock");
    let collector = UnixDatagram::bind(&socket).expect("bind");
    collector.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let options = syslog_options(&format!("unixgram://{}", socket.display()));
    let options: Vec<&str> = options.iter().map(String::as_str).chain(["--log-opt", "syslog-format=rfc3164"]).collect();
    // It removes itself: its last lines are handed over before its files go.
    let busybox = image("busybox");
    let run =
        [&["run", "-d", "--rm", "--network", "none"], &options[..], &[&busybox, "sh", "-c", "seq 2000; echo e >&2"]];
    let id = node.ok(&run.concat());
    let mut buffer = [0; 4096];
    let mut next = || {
        let n = collector.recv(&mut buffer).expect("message");
        String::from_utf8(buffer[..n].to_vec()).expect("utf-8")
    };
    let (mut out, mut err) = (1, 0);
    while out <= 2000 || err == 0 {
        let message = next();
        let text = message.split_once(&format!("[{}]: ", &id[..12])).expect("tag").1;
        if text == "e" {
            assert!(message.starts_with("<27>"), "{message}");
            err += 1;
        } else {
            assert!(message.starts_with("<30>"), "{message}");
            assert_eq!(text, out.to_string());
            out += 1;
        }
    }
    until("it is gone", || !node.ok(&["ps", "-aq", "--no-trunc"]).contains(&id));
    collector.set_nonblocking(true).expect("nonblocking");
    assert_eq!(collector.recv(&mut [0; 16]).expect_err("no more").kind(), std::io::ErrorKind::WouldBlock);
    node.finish();
}

#[test]
fn a_collector_that_comes_late_is_told_of_the_gap() {
    let node = Node::with_busybox("log-gap");
    // A port that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let options = syslog_options(&format!("tcp://{address}"));
    let options: Vec<&str> =
        options.iter().map(String::as_str).chain(["--log-opt", "max-size=4k", "--log-opt", "max-file=3"]).collect();
    let id = node.detached(&options, "seq 5000");
    node.ok(&["wait", &id]);
    until("it is said", || node.inspect(&id)["Log"]["ForwardError"].as_str().is_some_and(|e| e.contains("refused")));
    let listener = TcpListener::bind(address).expect("bind");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let mut framed = Framed(stream);
    let first = framed.next().expect("message");
    let (sequence, text) = parts(&first);
    assert_eq!(sequence, 1);
    assert!(text.starts_with("berth: ") && text.contains("bytes of output are missing here"), "{text}");
    let mut last = String::new();
    while last != "5000" {
        last = parts(&framed.next().expect("message")).1.to_owned();
    }
    let log = eventually("it is counted", || {
        let log = node.inspect(&id)["Log"].clone();
        (log["Gaps"] == 1 && log["ForwardError"] == "").then_some(log)
    });
    let lost = text.split(' ').nth(1).expect("number");
    assert_eq!(log["LostBytes"].to_string(), lost);
    node.finish();
}

#[test]
fn collectors_that_never_read_block_nobody() {
    let mut node = Node::builder("log-stuck");
    let scratch = std::env::temp_dir().join(format!("berth-stuck-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&scratch);
    let journal = UnixDatagram::bind(&scratch).expect("bind");
    node = node.table(&format!("[logs]\njournald_socket = \"{}\"", scratch.display()));
    let node = node.start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = syslog_options(&format!("tcp://{}", listener.local_addr().expect("address")));
    let tcp: Vec<&str> = address.iter().map(String::as_str).collect();
    let lines = 300_000;
    let script = format!("seq {lines}; echo done");
    for options in [&tcp[..], &["--log-driver", "journald"]] {
        let options = [options, &["--log-opt", "max-size=1m", "--log-opt", "max-file=50"]].concat();
        let id = node.detached(&options, &script);
        assert_eq!(node.ok(&["wait", &id]), "0", "it ended, though nobody took its output");
        assert_eq!(node.ok(&["logs", "--tail", "1", &id]), "done");
        assert_eq!(node.ok(&["logs", &id]).lines().count(), lines + 1);
        let handed = node.inspect(&id)["Log"]["ForwardedEntries"].as_u64().expect("entries");
        assert!(handed < lines as u64, "{handed}");
        node.ok(&["rm", &id]);
    }
    drop((journal, listener));
    std::fs::remove_file(&scratch).expect("socket");
    node.finish();
}

// --- journald

/// One entry by the native protocol, and whether it came as a sealed file: what is too large for a datagram does.
pub fn journal_entry(socket: &UnixDatagram) -> (Vec<(String, Vec<u8>)>, bool) {
    let mut buffer = vec![0; 256 << 10];
    let mut files: Vec<OwnedFd> = Vec::new();
    let n = berth_sys::socket::receive(socket.as_fd(), &mut buffer, &mut files, true).expect("datagram");
    buffer.truncate(n);
    let file = files.pop();
    let by_file = file.is_some();
    if let Some(file) = file {
        assert_eq!(n, 0);
        let file = std::fs::File::from(file);
        buffer = vec![0; file.metadata().expect("length").len() as usize];
        file.read_exact_at(&mut buffer, 0).expect("file");
        assert!(file.write_at(b"x", 0).is_err(), "it is sealed");
    }
    (journal_fields(&buffer), by_file)
}

/// What is in one datagram.
pub fn journal_fields(datagram: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut fields, mut rest) = (Vec::new(), datagram);
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let line = &rest[..end];
        let (name, value) = match line.iter().position(|b| *b == b'=') {
            Some(equals) => {
                rest = &rest[end + 1..];
                (&line[..equals], line[equals + 1..].to_vec())
            }
            None => {
                let length = u64::from_le_bytes(rest[end + 1..end + 9].try_into().expect("length")) as usize;
                let value = rest[end + 9..end + 9 + length].to_vec();
                rest = &rest[end + 10 + length..];
                (line, value)
            }
        };
        fields.push((String::from_utf8(name.to_vec()).expect("name"), value));
    }
    fields
}

#[test]
fn journald_gets_dockers_fields() {
    let socket = std::env::temp_dir().join(format!("berth-journal-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let journal = UnixDatagram::bind(&socket).expect("bind");
    journal.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    let node = with_table("log-journal", &format!("[logs]\njournald_socket = \"{}\"", socket.display()));
    let options =
        ["--log-driver", "journald", "--name", "web", "--label", "app.name=shop", "--log-opt", "labels=app.name"];
    let id =
        node.detached(&options, "echo out; sleep 0.2; echo err >&2; sleep 0.2; head -c 20000 /dev/zero | tr '\\0' z");
    let get = |fields: &[(String, Vec<u8>)], name: &str| {
        fields.iter().find(|(n, _)| n == name).map(|(_, v)| String::from_utf8(v.clone()).expect("utf-8"))
    };
    let (mut long, mut seen) = (0, Vec::new());
    while long < 20_000 {
        let (fields, _) = journal_entry(&journal);
        let is = |name: &str, value: &str| assert_eq!(get(&fields, name).as_deref(), Some(value));
        is("CONTAINER_ID", &id[..12]);
        is("CONTAINER_ID_FULL", &id);
        is("CONTAINER_NAME", "web");
        is("CONTAINER_TAG", &id[..12]);
        is("IMAGE_NAME", &image("busybox"));
        is("APP_NAME", "shop");
        is("CONTAINER_LOG_ORDINAL", &(seen.len() + 1).to_string());
        let message = get(&fields, "MESSAGE").expect("MESSAGE");
        if message.starts_with('z') {
            is("CONTAINER_PARTIAL_MESSAGE", "true");
            long += message.len();
        }
        seen.push((get(&fields, "PRIORITY").expect("PRIORITY"), message));
    }
    assert_eq!(seen[0], ("6".to_owned(), "out".to_owned()));
    assert_eq!(seen[1], ("3".to_owned(), "err".to_owned()));
    assert!(node.ctl(&["logs", &id]).stdout.starts_with("out\n"), "read back from the own files");
    drop(journal);
    std::fs::remove_file(&socket).expect("socket");
    node.finish();
}

/// systemd's journal itself, with a /run of its own.
pub struct Journal {
    process: std::process::Child,
    run: PathBuf,
}

impl Journal {
    pub fn start(run: &Path) -> Journal {
        std::fs::create_dir_all(run.join("log/journal")).expect("journal folder");
        let _ = std::fs::remove_file(run.join("systemd/journal/socket"));
        std::fs::create_dir_all(run.join("systemd/journald.conf.d")).expect("journal configuration");
        let conf = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\nForwardToWall=no\n";
        std::fs::write(run.join("systemd/journald.conf.d/test.conf"), conf).expect("journal configuration");
        let script = format!("mount --bind {} /run && exec /lib/systemd/systemd-journald", run.display());
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).stdout(std::process::Stdio::null());
        let process = command.stderr(std::process::Stdio::null()).spawn().expect("systemd-journald (package systemd)");
        let journal = Journal { process, run: run.to_owned() };
        until("journald listens (package systemd)", || journal.socket().exists());
        journal
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("systemd/journal/socket")
    }

    /// Its entries of one container, in their order.
    pub fn entries(&self, id: &str) -> Vec<serde_json::Value> {
        let mut command = std::process::Command::new("journalctl");
        command.arg("-D").arg(self.run.join("log/journal")).args(["--all", "-q", "-o", "json"]);
        let output = command.arg(format!("CONTAINER_ID_FULL={id}")).output().expect("journalctl");
        String::from_utf8_lossy(&output.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        crate::harness::agent::signal(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}

#[test]
fn systemds_journal_has_every_line_once_over_restarts_of_both() {
    let run = crate::harness::test_dir().join(format!("journal-{}", std::process::id()));
    let journal = Journal::start(&run);
    let mut node = with_table("log-systemd", &format!("[logs]\njournald_socket = \"{}\"", journal.socket().display()));
    // The rest comes when there is neither agent nor journal.
    let told = node.dir.join("told");
    std::fs::create_dir(&told).expect("told");
    let script = "for c in 0 1 2 3 4 5; do seq $((c*500+1)) $((c*500+500)); \
                  [ $c != 2 ] || while ! [ -e /told/go ]; do sleep 0.1; done; done; head -c 300000 /dev/zero | tr '\\0' z";
    let volume = format!("{}:/told", told.display());
    let id = node.detached(&["--log-driver", "journald", "--log-opt", "tag=it", "-v", &volume], script);
    until("it has begun", || !journal.entries(&id).is_empty());
    node.stop_agent();
    let state = std::fs::read(log_dir(&node, &id).join("forward.json")).expect("state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("JSON");
    let handed = state["entries"].as_u64().expect("entries") as usize;
    until("the journal has read what it was handed", || journal.entries(&id).len() == handed);
    // The journal goes away and comes back: nothing is handed over meanwhile, and nothing lost.
    drop(journal);
    std::fs::write(told.join("go"), "").expect("told");
    node.spawn();
    until("it is said", || node.inspect(&id)["Log"]["ForwardError"].as_str().is_some_and(|e| e.contains("journald")));
    let journal = Journal::start(&run);
    node.ok(&["wait", &id]);
    let entries = eventually("all of it is there", || {
        let entries = journal.entries(&id);
        let long: usize = entries.iter().skip(3000).filter_map(|e| e["MESSAGE"].as_str()).map(str::len).sum();
        (long == 300_000).then_some(entries)
    });
    for (n, entry) in entries.iter().take(3000).enumerate() {
        assert_eq!(entry["MESSAGE"], (n + 1).to_string().as_str());
        assert_eq!(entry["CONTAINER_LOG_ORDINAL"], (n + 1).to_string().as_str());
    }
    assert_eq!((&entries[0]["SYSLOG_IDENTIFIER"], &entries[0]["PRIORITY"]), (&"it".into(), &"6".into()));
    assert_eq!(node.inspect(&id)["Log"]["Gaps"], 0);
    drop(journal);
    std::fs::remove_dir_all(&run).expect("journal folder");
    node.finish();
}

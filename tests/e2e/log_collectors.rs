//! Collectors of syslog over UDP and a Unix stream, and entries of the journal that are larger than a datagram.

use crate::harness::disk::tool;
use crate::harness::{LONG, Node, eventually, image, until};
use crate::log_drivers::{Framed, Journal, journal_entry, parts, syslog_options, with_table};
use std::net::UdpSocket;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// A folder of the host that is /gate in the container.
fn gate(node: &Node) -> (PathBuf, String) {
    let path = node.scratch().join("gate");
    std::fs::create_dir_all(&path).expect("gate");
    let volume = format!("{}:/gate", path.display());
    (path, volume)
}

#[test]
fn syslog_over_udp_is_a_datagram_a_line() {
    let mut node = Node::with_busybox("log-udp");
    let collector = UdpSocket::bind("127.0.0.1:0").expect("bind");
    collector.set_read_timeout(Some(LONG)).expect("timeout");
    let at = collector.local_addr().expect("address");
    let (gate, volume) = gate(&node);
    let address = syslog_options(&format!("udp://{at}"));
    let options: Vec<&str> = address.iter().map(String::as_str).chain(["-v", &volume, "--name", "web"]).collect();
    // In parts that a socket's buffer holds: nobody slows a sender of datagrams down.
    let script = "for c in 0 1 2 3; do seq $((c*100+1)) $((c*100+100)); while [ ! -e /gate/$c ]; do usleep 20000; done; done; \
        head -c 12000 /dev/zero | tr '\\0' z; echo; sleep 0.3; echo e >&2; while [ ! -e /gate/away ]; do usleep 20000; done; \
        for i in 1 2 3 4 5; do echo late $i; sleep 0.3; done";
    let id = node.detached(&options, script);
    let mut buffer = vec![0; 64 << 10];
    let mut next = |collector: &UdpSocket| {
        let n = collector.recv(&mut buffer).expect("datagram");
        String::from_utf8(buffer[..n].to_vec()).expect("utf-8")
    };
    for part in 0..4 {
        for n in part * 100 + 1..=part * 100 + 100 {
            let message = next(&collector);
            assert!(
                message.starts_with("<30>1 20") && message.contains(&format!(" {} stdout ", &id[..12])),
                "{message}"
            );
            assert_eq!(parts(&message), (n, n.to_string().as_str()));
        }
        // The number goes on with the next agent, whether the last one knew that it ends or not.
        until("it is written down", || node.inspect(&id)["Log"]["ForwardedEntries"] == part * 100 + 100);
        match part {
            1 => node.restart(),
            2 => {
                assert!(node.stop_agent().success());
                node.spawn();
            }
            _ => {}
        }
        std::fs::write(gate.join(part.to_string()), "").expect("gate");
    }
    let long = next(&collector);
    assert_eq!(parts(&long), (401, "z".repeat(12_000).as_str()), "one datagram");
    let error = next(&collector);
    assert!(error.starts_with("<27>1 20") && parts(&error) == (402, "e"), "{error}");
    // A collector that is away answers with ICMP behind the first datagram, which nobody can know to be lost.
    drop(collector);
    std::fs::write(gate.join("away"), "").expect("gate");
    until("it is said", || node.inspect(&id)["Log"]["ForwardError"].as_str().is_some_and(|e| e.contains("refused")));
    let collector = UdpSocket::bind(at).expect("bind");
    collector.set_read_timeout(Some(LONG)).expect("timeout");
    let first = parts(&next(&collector)).0;
    assert!((403..=406).contains(&first), "{first}");
    for n in first + 1..=407 {
        assert_eq!(parts(&next(&collector)), (n, format!("late {}", n - 402).as_str()));
    }
    until("it is said no more", || node.inspect(&id)["Log"]["ForwardError"] == "");
    assert_eq!(node.ok(&["wait", &id]), "0");
    node.finish();
}

#[test]
fn syslog_over_a_unix_stream_goes_on_over_restarts_of_both() {
    let mut node = Node::with_busybox("log-stream");
    let path = node.scratch().join("log.sock");
    let mut listener = Some(UnixListener::bind(&path).expect("bind"));
    let address = syslog_options(&format!("unix://{}", path.display()));
    let options: Vec<&str> = address.iter().map(String::as_str).collect();
    let id = node.detached(
        &options,
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; [ $((i%500)) = 0 ] && sleep 0.3; done; true",
    );
    let (mut seen, mut round) = (Vec::new(), 0);
    while seen.last().is_none_or(|n| *n < 3000) {
        let (stream, _) = listener.as_ref().expect("listener").accept().expect("accept");
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        let mut framed = Framed(stream);
        let mut here = 0;
        while let Some(message) = framed.next() {
            let (sequence, text) = parts(&message);
            assert!(message.starts_with("<30>1 20") && text == format!("line {sequence}"), "{message}");
            seen.push(sequence);
            here += 1;
            if sequence == 3000 {
                break;
            }
            if here > 400 && round < 3 {
                round += 1;
                match round {
                    1 => node.restart(),
                    2 => {
                        assert!(node.stop_agent().success());
                        node.spawn();
                    }
                    // The collector dies in the middle of what it has not read, and another one comes later.
                    _ => {
                        drop(listener.take());
                        break;
                    }
                }
            }
        }
        if listener.is_none() {
            drop(framed);
            let error = |e: &str| {
                e.contains("refused") || e.contains("ended before") || e.contains("Broken pipe") || e.contains("reset")
            };
            until("it is said", || node.inspect(&id)["Log"]["ForwardError"].as_str().is_some_and(error));
            std::fs::remove_file(&path).expect("socket");
            listener = Some(UnixListener::bind(&path).expect("bind"));
        }
    }
    assert_eq!(round, 3);
    // Whatever came twice carries its number.
    seen.sort_unstable();
    seen.dedup();
    let missing: Vec<u64> = (1..=3000).filter(|n| seen.binary_search(n).is_err()).collect();
    assert!(missing.is_empty(), "{} are missing, the first one is {}", missing.len(), missing[0]);
    until("it is written down", || node.inspect(&id)["Log"]["ForwardedEntries"] == 3000);
    assert_eq!(node.inspect(&id)["Log"]["Gaps"], 0);
    node.finish();
}

/// From now on the agent's socket to the journal takes no datagram of more than some KB.
fn shrink(node: &Node, journal: &Path) {
    let script = crate::harness::source_dir().join("tests/e2e/small_buffer.py");
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let bytes = tool("python3", &[&text(&script), &node.pid().to_string(), &text(journal)]);
    assert!(bytes.parse::<u64>().expect("bytes") < 12_000, "{bytes}");
}

/// A word; then, when it is told to, lines of 12,000 bytes, the last with an end of a line in it.
const LONG_LINES: &str = "echo first; while [ ! -e /gate/go ]; do usleep 20000; done; \
    for c in x y z; do head -c 12000 /dev/zero | tr '\\0' $c; echo; done; echo last";

fn long_lines(node: &Node) -> (String, PathBuf) {
    let (gate, volume) = gate(node);
    (node.detached(&["--log-driver", "journald", "-v", &volume], LONG_LINES), gate.join("go"))
}

#[test]
fn an_entry_that_is_too_large_for_a_datagram_is_a_sealed_file() {
    let socket = std::env::temp_dir().join(format!("berth-journal-large-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let journal = UnixDatagram::bind(&socket).expect("bind");
    journal.set_read_timeout(Some(LONG)).expect("timeout");
    let node = with_table("log-memfd", &format!("[logs]\njournald_socket = \"{}\"", socket.display()));
    let (id, go) = long_lines(&node);
    let next = || {
        let (fields, by_file) = journal_entry(&journal);
        let get = |name: &str| fields.iter().find(|(n, _)| n == name).expect("field").1.clone();
        assert_eq!(get("CONTAINER_ID_FULL"), id.as_bytes());
        (String::from_utf8(get("MESSAGE")).expect("utf-8"), by_file)
    };
    assert_eq!(next(), ("first".to_owned(), false));
    shrink(&node, &socket);
    std::fs::write(go, "").expect("gate");
    for letter in ["x", "y", "z"] {
        assert_eq!(next(), (letter.repeat(12_000), true));
    }
    assert_eq!(next(), ("last".to_owned(), false));
    until("it is written down", || node.inspect(&id)["Log"]["ForwardedEntries"] == 5);
    drop(journal);
    std::fs::remove_file(&socket).expect("socket");
    node.finish();
}

#[test]
fn systemds_journal_takes_entries_that_are_too_large_for_a_datagram() {
    let run = crate::harness::test_dir().join(format!("journal-large-{}", std::process::id()));
    let journal = Journal::start(&run);
    let socket = journal.socket();
    let node = with_table("log-large", &format!("[logs]\njournald_socket = \"{}\"", socket.display()));
    let (id, go) = long_lines(&node);
    until("it has begun", || journal.entries(&id).len() == 1);
    // Its name as the journal bound it, in a mount namespace of its own.
    shrink(&node, Path::new("/run/systemd/journal/socket"));
    std::fs::write(go, "").expect("gate");
    let entries = eventually("all are there", || {
        let entries = journal.entries(&id);
        (entries.len() == 5).then_some(entries)
    });
    let messages: Vec<&str> = entries.iter().map(|e| e["MESSAGE"].as_str().expect("MESSAGE")).collect();
    let long = ["x", "y", "z"].map(|letter| letter.repeat(12_000));
    assert_eq!(messages, ["first", &long[0], &long[1], &long[2], "last"]);
    assert_eq!(node.inspect(&id)["Log"]["ForwardError"], "");
    drop(journal);
    std::fs::remove_dir_all(&run).expect("journal folder");
    node.finish();
}

/// What is mounted in a stopped container is not there: its own files are exported and copied, those on mounts are refused in words.
#[test]
fn exports_and_copies_of_stopped_containers_with_mounts() {
    let node = Node::with_busybox("cp-mounts");
    let host = node.scratch().join("host");
    std::fs::create_dir_all(&host).expect("folder");
    std::fs::write(host.join("file"), "of the host").expect("file");
    let volume = format!("{}:/mounted", host.display());
    let script = "echo own >/own; echo more >/mounted/more; echo gone >/scratch/gone";
    let busybox = image("busybox");
    let run = [
        "run",
        "--name",
        "box",
        "--network",
        "none",
        "-v",
        &volume,
        "--tmpfs",
        "/scratch",
        &busybox,
        "sh",
        "-c",
        script,
    ];
    node.ok(&run);
    let file = |name: &str| node.scratch().join(name).display().to_string();
    node.ok(&["export", "-o", &file("all.tar"), "box"]);
    let listed = tool("tar", &["tf", &file("all.tar")]);
    let names: Vec<&str> = listed.lines().map(|l| l.trim_start_matches("./").trim_end_matches('/')).collect();
    assert!(names.contains(&"own") && names.contains(&"mounted"), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("mounted/") || n.starts_with("scratch/")), "{names:?}");
    node.ok(&["cp", "box:/own", &file("own")]);
    assert_eq!(std::fs::read_to_string(file("own")).expect("file"), "own\n");
    node.ok(&["cp", &file("own"), "box:/back"]);
    let error = node.fails(1, &["cp", "box:/mounted/file", &file("x")]);
    assert!(error.contains("on the mount /mounted") && error.contains("while it runs"), "{error}");
    let error = node.fails(1, &["cp", "box:/scratch/gone", &file("x")]);
    assert!(error.contains("on the mount /scratch") && error.contains("while it runs"), "{error}");
    let error = node.fails(1, &["cp", &file("own"), "box:/mounted/new"]);
    assert!(error.contains("mount") && error.contains("while it runs"), "{error}");
    assert!(!host.join("new").exists() && !Path::new(&file("x")).exists());
    assert_eq!(std::fs::read_to_string(host.join("more")).expect("file"), "more\n");
    // While it runs they are there.
    node.ok(&["rm", "box"]);
    node.detached(&["--name", "box", "-v", &volume], "while :; do sleep 1; done");
    node.ok(&["cp", "box:/mounted/file", &file("x")]);
    assert_eq!(std::fs::read_to_string(file("x")).expect("file"), "of the host");
    node.finish();
}

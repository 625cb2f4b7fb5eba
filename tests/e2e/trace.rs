//! What an operator follows a call by: the trace in the agent's log and in the audit record, and the journal's fields.

use crate::harness::{Node, image, until};
use crate::log_drivers::journal_fields;
use serde_json::Value;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A command that belongs to the trace.
#[track_caller]
fn traced(node: &Node, arguments: &[&str]) {
    let mut command = node.ctl_command(arguments);
    let output = command.env("TRACEPARENT", format!("00-{TRACE}-00f067aa0ba902b7-01")).output().expect("berthctl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn audit(node: &Node) -> Vec<Value> {
    let text = std::fs::read_to_string(node.data().join("audit.log")).unwrap_or_default();
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

#[test]
fn a_trace_is_in_the_log_and_in_the_audit_record() {
    // The harness leaves off in the middle of [log].
    let mut node = Node::builder("trace").table("format = \"json\"").start();
    node.set_env("RUST_LOG", Some("info,berth_node=debug"));
    node.restart();
    node.ok(&["pull", "-q", &image("busybox")]);
    traced(&node, &["run", "--name", "traced", "--network", "none", &image("busybox"), "true"]);
    let mut other = node.ctl_command(&["run", "--rm", "--network", "none", &image("busybox"), "true"]);
    assert!(other.env("TRACEPARENT", "00-nonsense").status().expect("berthctl").success(), "what is none is ignored");

    let started = || -> Vec<Value> {
        let log = node.agent_log();
        let lines = log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.filter(|l| l["message"] == "started").collect()
    };
    until("both starts are told", || started().len() == 2);
    let traces = |line: &Value| -> Vec<String> {
        let spans = line["spans"].as_array().cloned().unwrap_or_default();
        spans.iter().filter_map(|s| s["trace_id"].as_str().map(str::to_owned)).collect()
    };
    let lines = started();
    assert_eq!(traces(&lines[0]), [TRACE], "the start happens in a task of its own: {lines:?}");
    assert!(traces(&lines[1]).is_empty(), "{lines:?}");
    until("the calls are on record", || {
        audit(&node).iter().filter(|r| r["rpc"] == "/berth.v1.Containers/Run").count() == 4
    });
    let runs: Vec<Value> = audit(&node).into_iter().filter(|r| r["rpc"] == "/berth.v1.Containers/Run").collect();
    assert_eq!((&runs[0]["trace_id"], &runs[1]["trace_id"]), (&TRACE.into(), &TRACE.into()), "{runs:?}");
    assert_eq!((&runs[2]["trace_id"], &runs[3]["trace_id"]), (&Value::Null, &Value::Null), "{runs:?}");
    node.ok(&["rm", "traced"]);
    node.finish();
}

type Entry = HashMap<String, String>;

/// Takes what is sent to a socket, as journald does.
struct Journal {
    path: PathBuf,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Journal {
    fn new(name: &str) -> Journal {
        let path = std::env::temp_dir().join(format!("berth-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
        let entries = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::downgrade(&entries);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            while let Some(taken) = taken.upgrade() {
                if let Ok(n) = socket.recv(&mut buffer) {
                    let fields = journal_fields(&buffer[..n]).into_iter();
                    let entry = fields.map(|(k, v)| (k, String::from_utf8(v).expect("UTF-8"))).collect();
                    taken.lock().expect("entries").push(entry);
                }
            }
        });
        Journal { path, entries }
    }

    fn find(&self, message: &str) -> Option<Entry> {
        let entries = self.entries.lock().expect("entries");
        entries.iter().find(|e| e["MESSAGE"].starts_with(message)).cloned()
    }

    #[track_caller]
    fn wait(&self, message: &str) -> Entry {
        until("an entry of the journal", || self.find(message).is_some());
        self.find(message).expect("it is there")
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn with_journal(name: &str, journal: &Path, target: &str) -> Node {
    let table = format!("target = \"{target}\"\n[logs]\njournald_socket = \"{}\"", journal.display());
    Node::builder(name).table(&table).start()
}

#[test]
fn the_journal_gets_fields() {
    let journal = Journal::new("journal-fields");
    let mut node = with_journal("journal-fields", &journal.path, "journald");
    let ready = journal.wait("ready");
    for (name, value) in [("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", "berthd"), ("CODE_FILE", "agent/run.rs")] {
        assert_eq!(ready[name], value, "{ready:?}");
    }
    assert!(ready["CODE_LINE"].parse::<u32>().is_ok() && ready["BERTH_VERSION"].contains('.'), "{ready:?}");
    assert!(!node.agent_log().contains("ready"), "not twice");
    node.set_env("RUST_LOG", Some("info,berth_node=debug"));
    node.restart();
    node.ok(&["pull", "-q", &image("busybox")]);
    traced(&node, &["run", "-d", "--name", "web", "--network", "none", &image("busybox"), "sleep", "1000"]);
    let started = journal.wait("started");
    let id = node.ok(&["ps", "-q", "--no-trunc"]);
    let fields = [("CONTAINER_ID", &id[..12]), ("CONTAINER_ID_FULL", &id), ("TRACE_ID", TRACE), ("PRIORITY", "7")];
    for (name, value) in fields {
        assert_eq!(started[name], value, "{name} in {started:?}");
    }
    node.ok(&["rm", "-f", "web"]);
    node.finish();
}

#[test]
fn the_journal_is_known_by_its_stream() {
    let journal = Journal::new("journal-stream");
    let mut node = with_journal("journal-stream", &journal.path, "auto");
    assert!(node.agent_log().contains("ready"), "its error stream is a file");
    // The variable of somebody else: what is there is another file.
    node.set_env("JOURNAL_STREAM", Some("1:1"));
    node.restart();
    assert!(journal.find("ready").is_none());
    let log = std::fs::metadata(node.dir.join("agent.log")).expect("agent.log");
    node.set_env("JOURNAL_STREAM", Some(&format!("{}:{}", log.dev(), log.ino())));
    let before = node.agent_log().matches("ready").count();
    node.restart();
    journal.wait("ready");
    assert_eq!(node.agent_log().matches("ready").count(), before);
    // Without journald nothing is lost: it goes where standard error goes, with the level in front.
    std::fs::remove_file(&journal.path).expect("remove");
    node.restart();
    until("it goes to standard error", || node.agent_log().contains("<6>ready"));
    node.finish();
}

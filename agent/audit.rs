//! The audit record: who asked for what, what was decided, what came of it.
//!
//! One JSON line for each call that changes something (long streams: one at their start, one at their end) and for
//! each call that was denied. A thread of its own writes them through a bounded queue. When the queue is full the
//! caller waits a moment; a record that still finds no room is counted, and the count is written with the next one:
//! nothing is lost in silence. Of one caller's calls that were denied or failed without changing anything some in each minute have a line
//! (`denials.rs`), the rest of them their number.

use crate::denials::Denials;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Some 1 MB of records: a disk that stands still for a second at 1,000 calls a second loses nothing.
const QUEUE: usize = 2048;
/// How long a call may wait for the audit log's queue.
const PATIENCE: Duration = Duration::from_millis(200);
/// Written with one write(2).
const BATCH_BYTES: usize = 256 << 10;
/// A broken disk is reported this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What was decided about a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allowed,
    Denied,
}

/// One line. Never holds credentials, environment variables or what was sent over a stream.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// RFC 3339, UTC.
    pub time: String,
    /// `call`: the whole call. `start` and `end`: of a long stream. `left_out`: of so many calls as `count` says that were denied or
    /// failed without changing anything; the caller's address, its certificate, the verdict and the reason are the last one's.
    pub event: &'static str,
    pub caller: String,
    pub role: &'static str,
    /// Of the certificate; empty on the Unix socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    pub peer: String,
    /// `/package.Service/Method`.
    pub rpc: String,
    /// Container, image or reference as the caller named it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// Options that reach the host, by the permissions that they need.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    pub verdict: Verdict,
    /// gRPC's name of the status code; absent at the start of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The error's stable reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Of the trace that the caller's `traceparent` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Where the records go.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    pub file: Option<PathBuf>,
    pub file_bytes: u64,
    pub files: u32,
    pub log: bool,
}

/// The way in: cheap to clone. Records written before [`AuditLog::close`] are on disk behind it.
#[derive(Clone)]
pub struct AuditLog {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    denials: Arc<Denials>,
}

enum Message {
    Record(Box<Record>),
    Flush(SyncSender<()>),
    /// Something is due sooner.
    Look,
}

impl AuditLog {
    /// Opens the file (0600) and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened: an agent that cannot keep records must not start.
    pub fn open(config: AuditConfig) -> io::Result<AuditLog> {
        let (queue, incoming) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let sink = config.file.as_deref().map(|path| Sink::open(path, config.file_bytes, config.files)).transpose()?;
        let denials = Arc::new(Denials::default());
        let writer = Writer { sink, log: config.log, lost: lost.clone(), denials: denials.clone(), complained: None };
        std::thread::Builder::new().name("audit".into()).stack_size(128 << 10).spawn(move || writer.run(&incoming))?;
        Ok(AuditLog { queue, lost, denials })
    }

    /// Hands a record to the writer; waits at most 200 ms for room.
    pub fn write(&self, record: Record) {
        // Here, so that what is left out does not fill the queue.
        let start = record.event == "start";
        let told = self.denials.admit(record, Instant::now());
        // A start that is kept back: the writer has to know when it is due. Without room in the queue it is awake.
        if start && told.is_empty() {
            let _ = self.queue.try_send(Message::Look);
        }
        told.into_iter().for_each(|record| self.hand_over(record));
    }

    fn hand_over(&self, record: Record) {
        let mut message = Message::Record(Box::new(record));
        let begun = Instant::now();
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) if begun.elapsed() < PATIENCE => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(_) => {
                    if self.lost.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::error!("an audit record was lost: the audit log does not keep up");
                    }
                    return;
                }
            }
        }
    }

    /// Waits until everything is written, at most `patience`.
    pub fn close(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(patience).is_err() {
            tracing::error!("the audit log could not be written to its end in {patience:?}");
        }
    }
}

struct Writer {
    sink: Option<Sink>,
    log: bool,
    lost: Arc<AtomicU64>,
    denials: Arc<Denials>,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, incoming: &Receiver<Message>) {
        loop {
            // Without a timeout this thread sleeps until there is something to write.
            let first = match self.denials.next(Instant::now()) {
                None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(left) => incoming.recv_timeout(left),
            };
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let mut text = String::new();
            let mut records = 0;
            let mut flushed = Vec::new();
            let mut next = first.ok();
            while let Some(message) = next {
                match message {
                    Message::Record(record) => {
                        self.render(&record, &mut text);
                        records += 1;
                    }
                    Message::Flush(done) => flushed.push(done),
                    Message::Look => {}
                }
                next = if text.len() < BATCH_BYTES { incoming.try_recv().ok() } else { None };
            }
            for record in self.denials.over(Instant::now(), !flushed.is_empty()) {
                self.render(&record, &mut text);
                records += record.count.unwrap_or(1);
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                text.push_str(&format!("{{\"time\":\"{}\",\"event\":\"lost\",\"count\":{lost}}}\n", now()));
            }
            self.append(&text, records + lost);
            for done in flushed {
                let _ = done.try_send(());
            }
        }
    }

    fn render(&self, record: &Record, text: &mut String) {
        match serde_json::to_string(record) {
            Ok(line) => {
                if self.log {
                    tracing::info!(target: "audit", "{line}");
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(e) => tracing::error!("an audit record cannot be written as JSON: {e}"),
        }
    }

    /// `records`: how many are lost when this fails.
    fn append(&mut self, text: &str, records: u64) {
        let Some(sink) = &mut self.sink else { return };
        if text.is_empty() {
            return;
        }
        if let Err(e) = sink.append(text) {
            if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                tracing::error!(records, "writing the audit log {}: {e}", sink.path.display());
                self.complained = Some(Instant::now());
            }
            self.lost.fetch_add(records, Ordering::Relaxed);
        } else {
            self.complained = None;
        }
    }
}

/// The file and its older ones: `audit.log`, `audit.log.1`, …
struct Sink {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    files: u32,
}

impl Sink {
    fn open(path: &Path, max_bytes: u64, files: u32) -> io::Result<Sink> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::options().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Sink { path: path.into(), file, bytes, max_bytes, files })
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + text.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let older = |n: u32| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..self.files.saturating_sub(1)).rev() {
            match std::fs::rename(older(n), older(n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if self.files > 1 {
            std::fs::rename(&self.path, older(1))?;
        } else {
            std::fs::remove_file(&self.path)?;
        }
        *self = Sink::open(&self.path, self.max_bytes, self.files)?;
        Ok(())
    }
}

/// The time now as records have it: RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn record(n: usize) -> Record {
        Record {
            time: now(),
            event: "call",
            caller: "alice\n".into(),
            role: "admin",
            serial: "0a".into(),
            peer: "127.0.0.1:1".into(),
            rpc: "/berth.v1.Containers/Stop".into(),
            object: format!("web{n}"),
            needs: Vec::new(),
            verdict: Verdict::Allowed,
            result: Some("OK".into()),
            reason: None,
            request_id: String::new(),
            trace_id: None,
            duration_ms: Some(1.5),
            count: None,
        }
    }

    #[test]
    fn denied_calls_do_not_wash_away_what_was_done() {
        wash("denied", || Record { verdict: Verdict::Denied, ..record(2) });
    }

    #[test]
    fn calls_that_fail_do_not_wash_away_what_was_done() {
        wash("failed", || Record { result: Some("NOT_FOUND".into()), ..record(2) });
    }

    fn wash(name: &str, call: impl Fn() -> Record) {
        let dir = std::env::temp_dir().join(format!("berthd-audit-{name}-{}", std::process::id()));
        let config = AuditConfig { file: Some(dir.join("audit.log")), file_bytes: 100_000, files: 2, log: false };
        let log = AuditLog::open(config).unwrap();
        log.write(record(1));
        for _ in 0..20_000 {
            log.write(Record { caller: "mallory".into(), ..call() });
        }
        log.close(Duration::from_secs(5));
        let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0]["object"], "web1", "it is still there");
        let (last, single) = lines[1..].split_last().unwrap();
        assert_eq!((&last["event"], &last["caller"]), (&"left_out".into(), &"mallory".into()));
        assert_eq!(last["count"].as_u64().unwrap() + single.len() as u64, 20_000, "none is missing from the count");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn every_record_is_a_line_and_old_ones_go() {
        let dir = std::env::temp_dir().join(format!("berthd-audit-{}", std::process::id()));
        let path = dir.join("audit.log");
        let config = AuditConfig { file: Some(path.clone()), file_bytes: 2000, files: 3, log: false };
        let log = AuditLog::open(config).unwrap();
        for n in 0..100 {
            log.write(record(n));
            // One at a time, so that each is checked against the size.
            log.close(Duration::from_secs(5));
        }
        let files: Vec<String> = ["audit.log.2", "audit.log.1", "audit.log"]
            .iter()
            .map(|f| std::fs::read_to_string(dir.join(f)).unwrap())
            .collect();
        assert!(!dir.join("audit.log.3").exists());
        assert!(files.iter().all(|f| f.len() <= 2000));
        let objects: Vec<String> = files
            .concat()
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["object"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(objects.last().unwrap(), "web99");
        let first: usize = objects[0].strip_prefix("web").unwrap().parse().unwrap();
        assert_eq!(objects, (first..100).map(|n| format!("web{n}")).collect::<Vec<_>>(), "in order, none missing");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        // /dev/full takes every open and no write.
        let config = AuditConfig { file: Some("/dev/full".into()), file_bytes: 1 << 20, files: 2, log: false };
        let log = AuditLog::open(config).unwrap();
        log.write(record(1));
        log.write(record(2));
        log.close(Duration::from_secs(5));
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
        for _ in 0..5000 {
            log.write(Record { result: Some("NOT_FOUND".into()), ..record(3) });
        }
        log.close(Duration::from_secs(5));
        assert_eq!(log.lost.load(Ordering::Relaxed), 5002, "one record of so many is so many");
    }
}

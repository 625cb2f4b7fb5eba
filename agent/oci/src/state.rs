//! What is known about a container between two commands: a folder of its own below the root, root's alone.
//!
//! `state.json` is written whole or not at all, before the step that it tells about; `config.json` is the bundle's as it was at `create`;
//! `start.sock` is listened on by the first process until its execve, and by nobody behind it, which is how "created" is told from
//! "running"; `lock` is held by whoever changes the container.

use crate::error::Error;
use berth_sys::{process, socket};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub const OCI_VERSION: &str = "1.2.0";

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    /// 0: there is no process yet.
    pub pid: u32,
    /// Ticks since boot, so that another process with the same pid is not taken for this one.
    pub start_time: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub annotations: BTreeMap<String, String>,
    /// Below the hierarchies' roots.
    pub cgroup: PathBuf,
    /// The unit of systemd that the group is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// `--no-new-keyring`: its processes keep their caller's session keyring.
    pub no_new_keyring: bool,
}

impl Record {
    /// The name of the session keyring that all processes of the container join, as runc calls it.
    pub fn keyring(&self) -> Option<CString> {
        if self.no_new_keyring { None } else { CString::new(format!("_ses.{}", self.id)).ok() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's folder.
#[derive(Clone, Debug)]
pub struct Home {
    pub id: String,
    pub path: PathBuf,
}

impl Home {
    /// The folder of `id`, there or not.
    pub fn of(root: &Path, id: &str) -> Result<Self, Error> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
        if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(good) {
            let message = format!("{id:?} is no name: letters, digits, '_', '+', '-' and '.' are");
            return Err(Error::field("container id", message));
        }
        Ok(Home { id: id.into(), path: root.join(id) })
    }

    /// Makes the folder, and holds its lock. An error when the id is taken.
    pub fn make(&self) -> Result<File, Error> {
        if let Some(root) = self.path.parent() {
            let act = format!("making {}", root.display());
            DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(Error::io(act))?;
        }
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::State(format!("container with given ID already exists: {}", self.id)))
            }
            other => other.map_err(Error::io(format!("making {}", self.path.display()))),
        }?;
        self.lock(false)
    }

    /// Waits until nobody else changes the container; with `now` that is an error instead.
    pub fn lock(&self, now: bool) -> Result<File, Error> {
        let path = self.path.join("lock");
        let act = || format!("locking {}", path.display());
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| if e.kind() == io::ErrorKind::NotFound { self.missing() } else { Error::io(act())(e) })?;
        if !now {
            file.lock().map_err(Error::io(act()))?;
            // Whoever had it may have deleted the container meanwhile.
            return if path.exists() { Ok(file) } else { Err(self.missing()) };
        }
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::State(format!("container {} is being changed by another command", self.id)))
            }
            Err(fs::TryLockError::Error(e)) => Err(Error::io(act())(e)),
        }
    }

    pub fn missing(&self) -> Error {
        Error::State(format!("container {:?} does not exist", self.id))
    }

    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let text = serde_json::to_vec(record).map_err(|e| Error::field("state", e.to_string()))?;
        self.put("state.json", &text)
    }

    /// Puts a file there, whole or not at all.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        write_whole(&path, content).map_err(Error::io(format!("writing {}", path.display())))
    }

    /// `None`: the folder is there, but a `create` has not come so far, or never will.
    pub fn load(&self) -> Result<Option<Record>, Error> {
        match fs::read(self.path.join("state.json")) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(record) => Ok(Some(record)),
                Err(e) => Err(Error::field(self.path.join("state.json").display().to_string(), e.to_string())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.path.is_dir() => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.missing()),
            Err(e) => Err(Error::io(format!("reading the state of {}", self.id))(e)),
        }
    }

    /// The record of a container that is made.
    pub fn record(&self) -> Result<Record, Error> {
        self.load()?.ok_or_else(|| Error::State(format!("container {} is not made yet", self.id)))
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("start.sock")
    }

    /// Listens for `start`; by way of a descriptor, because paths of sockets end at 107 bytes.
    pub fn listen(&self) -> Result<OwnedFd, Error> {
        let (folder, short) = self.short()?;
        let listener = socket::listen(&short).map_err(Error::io(format!("listening on {}", self.socket().display())));
        drop(folder);
        listener
    }

    /// `None`: nobody listens, so the container is started or has ended.
    pub fn connect(&self) -> Result<Option<OwnedFd>, Error> {
        let (folder, short) = self.short()?;
        let connected = socket::connect(&short);
        drop(folder);
        match connected {
            Ok(socket) => Ok(Some(socket)),
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(None),
            Err(e) => Err(Error::io(format!("connecting to {}", self.socket().display()))(e)),
        }
    }

    /// Does anybody listen for `start`? Never waits: who listens may be in a hook, with a queue that is full of such looks.
    fn is_listened(&self) -> Result<bool, Error> {
        let (_folder, short) = self.short()?;
        match socket::connect_at_once(&short) {
            Ok(_) => Ok(true),
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock => Ok(true),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(false),
                _ => Err(Error::io(format!("connecting to {}", self.socket().display()))(e)),
            },
        }
    }

    fn short(&self) -> Result<(File, PathBuf), Error> {
        let folder = File::open(&self.path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => Error::io(format!("opening {}", self.path.display()))(e),
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/start.sock", folder.as_raw_fd()));
        Ok((folder, path))
    }

    /// Everything is gone; called with the lock.
    pub fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", self.path.display()))(e))
            }
            _ => Ok(()),
        }
    }
}

/// A new file beside it that takes its place.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    fs::write(&draft, content)?;
    fs::rename(&draft, path)
}

/// Is the process of the record there and no zombie?
pub fn is_alive(record: &Record) -> bool {
    if record.pid == 0 || process::start_time(record.pid).ok() != Some(record.start_time) {
        return false;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", record.pid)).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X' | 'x'))
}

/// What the container is doing.
pub fn status(home: &Home, record: &Record) -> Result<Status, Error> {
    if record.pid == 0 {
        return Ok(Status::Creating);
    }
    if !is_alive(record) {
        return Ok(Status::Stopped);
    }
    // First, because the kernel answers for a frozen listener, too. Between the last look and this one it may have ended.
    if crate::cgroup::Group::find(&record.cgroup)?.is_frozen() && is_alive(record) {
        return Ok(Status::Paused);
    }
    if home.is_listened()? {
        return Ok(Status::Created);
    }
    Ok(Status::Running)
}

/// The state as the specification's JSON (runtime.md, "State"); hooks get it, too.
pub fn json(record: &Record, status: Status) -> serde_json::Value {
    let mut value = serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status.name(),
        "bundle": record.bundle,
    });
    // REQUIRED when created or running; of a stopped one the number may be another's by now.
    if record.pid != 0 && status != Status::Stopped {
        value["pid"] = record.pid.into();
    }
    if !record.annotations.is_empty() {
        value["annotations"] = serde_json::json!(record.annotations);
    }
    value
}

/// As [`json`], with what runc tells beside it.
pub fn json_with_more(record: &Record, status: Status) -> serde_json::Value {
    let mut value = json(record, status);
    value["pid"] = if status == Status::Stopped { 0.into() } else { record.pid.into() };
    value["rootfs"] = serde_json::json!(record.rootfs);
    value["created"] = record.created.clone().into();
    value["owner"] = "".into();
    value
}

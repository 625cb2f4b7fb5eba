//! A connection to systemd: its own socket, or the system's bus where that is not there.

use crate::SystemdError;
use crate::auth;
use crate::wire::{self, Arg, Call, Message};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// systemd's own socket, root's alone: it is there as long as systemd is, whatever becomes of the bus.
const PRIVATE: &str = "/run/systemd/private";
const BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// For an answer and for a job: a busy systemd, or one that reloads hundreds of units, takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A job that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ended {
    job: String,
    result: String,
}

pub struct Bus {
    stream: UnixStream,
    serial: u32,
    ended: Vec<Ended>,
}

impl Bus {
    pub fn connect() -> Result<Self, SystemdError> {
        Self::connect_to(PRIVATE, BUS, PATIENCE)
    }

    /// Who listens and does not answer is there: that is no reason to do without it.
    fn connect_to(private: &'static str, bus: &'static str, patience: Duration) -> Result<Self, SystemdError> {
        let open = |path| berth_sys::socket::connect_stream_within(Path::new(path), patience).map(UnixStream::from);
        let busy = |path, e: io::Error| SystemdError::io(format!("connecting to systemd at {path}"))(e);
        let (stream, private) = match open(private) {
            Ok(stream) => (stream, true),
            Err(source) if source.kind() == io::ErrorKind::TimedOut => return Err(busy(private, source)),
            Err(source) => match open(bus) {
                Ok(stream) => (stream, false),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(busy(bus, e)),
                Err(_) => return Err(SystemdError::Absent { path: private, source }),
            },
        };
        let mut bus = Bus { stream, serial: 0, ended: Vec::new() };
        bus.authenticate().map_err(SystemdError::io("introducing oneself to systemd"))?;
        if !private {
            let daemon = |member| Call {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member,
            };
            let rule = "type='signal',sender='org.freedesktop.systemd1',member='JobRemoved'";
            bus.exchange(daemon("Hello"), &[], "greeting the system's bus")?;
            bus.exchange(daemon("AddMatch"), &[Arg::Text(rule)], "listening for systemd's jobs")?;
            bus.manager("Subscribe", &[], "listening for systemd's jobs")?;
        }
        Ok(bus)
    }

    /// EXTERNAL: the kernel says who this is (the specification, "Authentication Protocol").
    ///
    /// BEGIN goes in the same write, as sd-bus itself does it. A call that systemd reads together with a later BEGIN lies in its buffer until
    /// something else comes on the socket, which is never.
    fn authenticate(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        let uid = std::fs::metadata("/proc/self")?.uid().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
        auth::let_in(&mut self.stream)
    }

    /// Calls a method of the manager's; the texts of the answer.
    pub fn manager(&mut self, member: &str, args: &[Arg<'_>], act: &str) -> Result<Vec<String>, SystemdError> {
        let call = Call { destination: SYSTEMD, path: MANAGER_PATH, interface: MANAGER, member };
        self.exchange(call, args, act)
    }

    /// A property of the manager's that is a text.
    pub fn property(&mut self, name: &str) -> Result<String, SystemdError> {
        let act = format!("asking systemd for its {name}");
        let call = Call { destination: SYSTEMD, path: MANAGER_PATH, interface: PROPERTIES, member: "Get" };
        let mut texts = self.exchange(call, &[Arg::Text(MANAGER), Arg::Text(name)], &act)?;
        texts.pop().ok_or(SystemdError::Answer { act })
    }

    fn exchange(&mut self, call: Call<'_>, args: &[Arg<'_>], act: &str) -> Result<Vec<String>, SystemdError> {
        self.serial += 1;
        let serial = self.serial;
        let sent = self.stream.write_all(&wire::call(serial, call, args));
        sent.map_err(SystemdError::io(act))?;
        let unreadable = || SystemdError::Answer { act: act.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline, act)?;
            match message.kind {
                wire::REPLY if message.reply_to == serial => return message.texts().ok_or_else(unreadable),
                wire::ERROR if message.reply_to == serial => {
                    let text = message.texts().and_then(|mut t| t.pop()).unwrap_or_default();
                    return Err(SystemdError::Refused { act: act.to_owned(), name: message.error, message: text });
                }
                _ => self.hear(&message),
            }
        }
    }

    /// Notes the end of a job; other signals are nobody's here.
    fn hear(&mut self, message: &Message) {
        if message.kind == wire::SIGNAL
            && message.member == "JobRemoved"
            && let Some([job, _unit, result]) = message.texts().as_deref()
        {
            self.ended.push(Ended { job: job.clone(), result: result.clone() });
        }
    }

    /// How a job ended: "done", or another word.
    pub fn wait(&mut self, job: &str, act: &str) -> Result<String, SystemdError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.ended.iter().position(|e| e.job == job) {
                return Ok(self.ended.swap_remove(at).result);
            }
            let message = self.receive(deadline, act)?;
            self.hear(&message);
        }
    }

    fn receive(&mut self, deadline: Instant, act: &str) -> Result<Message, SystemdError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        if left.is_zero() {
            return Err(SystemdError::io(act)(timed_out()));
        }
        let mut fixed = [0; wire::FIXED];
        let read = |bytes: &mut [u8], mut stream: &UnixStream| match stream.read_exact(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(timed_out()),
            other => other,
        };
        self.stream
            .set_read_timeout(Some(left))
            .and_then(|()| read(&mut fixed, &self.stream))
            .map_err(SystemdError::io(act))?;
        let unreadable = || SystemdError::Answer { act: act.to_owned() };
        let mut rest = vec![0; wire::rest(&fixed).ok_or_else(unreadable)?];
        read(&mut rest, &self.stream).map_err(SystemdError::io(act))?;
        Message::parse(&fixed, &rest).ok_or_else(unreadable)
    }
}

#[cfg(test)]
impl Bus {
    /// On a connection that is made and known.
    pub fn on(stream: UnixStream) -> Self {
        Bus { stream, serial: 0, ended: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_and_does_not_answer_is_not_waited_for_forever() {
        let name = std::env::temp_dir().join(format!("berth-bus-{}", std::process::id()));
        let path: &'static str = name.to_str().unwrap().to_owned().leak();
        let patience = Duration::from_millis(200);
        let connect = || Bus::connect_to(path, "/nowhere", patience).err().unwrap();
        assert!(matches!(connect(), SystemdError::Absent { .. }));
        let _listener = berth_sys::socket::listen_for_streams(&name).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = berth_sys::socket::connect_stream_within(&name, Duration::from_millis(20)) {
            waiting.push(stream);
        }
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(Bus::connect_to(path, "/nowhere", patience).err()));
        let error = receive.recv_timeout(Duration::from_secs(10)).expect("it waits for room in the queue");
        assert!(matches!(&error, Some(SystemdError::Io { source, .. }) if source.kind() == io::ErrorKind::TimedOut));
        drop(waiting);
        std::fs::remove_file(&name).unwrap();
    }
}

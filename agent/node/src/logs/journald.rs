//! systemd's journal by its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL), with Docker's fields.

use super::forward::{Item, goes_on};
use berth_model::log::{LogConfig, LogFacts};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

/// A journal that takes nothing for so long is away.
const STUCK: Duration = Duration::from_secs(30);
/// syslog(3).
const PRIORITY_ERR: &str = "3";
const PRIORITY_INFO: &str = "6";

pub(super) struct Journald {
    path: PathBuf,
    /// What every entry has.
    fields: Vec<u8>,
    socket: Option<UnixDatagram>,
}

/// `KEY=value`, or the form with a length where a line's end is in the value.
fn put(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(key.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A field's name: capitals, digits and underscores, a letter first, at most 64. None: nothing is left of it.
fn field_name(name: &str) -> Option<String> {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_uppercase());
    (!name.is_empty()).then(|| name.chars().take(64).collect())
}

impl Journald {
    pub fn new(path: &Path, log: &LogConfig, facts: &LogFacts) -> Self {
        let mut fields = Vec::new();
        let tag = log.tag_of(facts);
        for (key, value) in [
            ("CONTAINER_ID", facts.id.get(..12).unwrap_or(&facts.id)),
            ("CONTAINER_ID_FULL", &facts.id),
            ("CONTAINER_NAME", &facts.name),
            ("CONTAINER_TAG", &tag),
            ("IMAGE_NAME", &facts.image),
            ("SYSLOG_IDENTIFIER", &tag),
            // With the ordinal below: the same entry has the same pair, however often it is sent.
            ("CONTAINER_LOG_EPOCH", &facts.id),
        ] {
            put(&mut fields, key, value.as_bytes());
        }
        for (name, value) in log.attributes(facts) {
            if let Some(name) = field_name(&name).filter(|n| n != "TAG") {
                put(&mut fields, &name, value.as_bytes());
            }
        }
        Journald { path: path.to_owned(), fields, socket: None }
    }

    pub async fn send(&mut self, items: &[Item<'_>], stop: &CancellationToken) -> (usize, io::Result<()>) {
        for (n, item) in items.iter().enumerate() {
            if let Err(e) = goes_on(stop) {
                return (n, Err(e));
            }
            let datagram = self.datagram(item);
            let sent = tokio::time::timeout(STUCK, self.send_one(&datagram)).await;
            let sent = sent.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "takes nothing")));
            if let Err(e) = sent {
                self.socket = None;
                return (n, Err(io::Error::new(e.kind(), format!("journald at {}: {e}", self.path.display()))));
            }
        }
        (items.len(), Ok(()))
    }

    fn datagram(&self, item: &Item<'_>) -> Vec<u8> {
        let entry = item.entry;
        let mut out = Vec::with_capacity(self.fields.len() + entry.line.len() + 200);
        put(&mut out, "MESSAGE", &entry.line);
        put(&mut out, "PRIORITY", if entry.stderr { PRIORITY_ERR } else { PRIORITY_INFO }.as_bytes());
        if entry.partial {
            put(&mut out, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        let time = jiff::Timestamp::from_nanosecond(entry.time.nanos().into()).unwrap_or_default();
        put(&mut out, "SYSLOG_TIMESTAMP", format!("{time:.9}").as_bytes());
        put(&mut out, "CONTAINER_LOG_ORDINAL", item.sequence.to_string().as_bytes());
        out.extend_from_slice(&self.fields);
        out
    }

    async fn send_one(&mut self, datagram: &[u8]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                none.insert(socket)
            }
        };
        match socket.send(datagram).await {
            Ok(_) => Ok(()),
            // EMSGSIZE, and ENOBUFS where the socket's buffer is the bound.
            Err(e) if matches!(e.raw_os_error(), Some(EMSGSIZE | ENOBUFS)) => {
                let file = berth_sys::memfd::sealed("berth-log", datagram, false)?;
                let send = || berth_sys::socket::send(socket.as_fd(), &[IoSlice::new(&[])], &[file.as_fd()], false);
                socket.async_io(Interest::WRITABLE, send).await
            }
            Err(e) => Err(e),
        }
    }
}

/// errno(3), the same on every architecture of Linux that there is a shim for.
const EMSGSIZE: i32 = 90;
const ENOBUFS: i32 = 105;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut out = Vec::new();
        put(&mut out, "A", b"b");
        put(&mut out, "MESSAGE", b"x\ny");
        assert_eq!(out, b"A=b\nMESSAGE\n\x03\0\0\0\0\0\0\0x\ny\n");
        assert_eq!(field_name("com.example.app-1").as_deref(), Some("COM_EXAMPLE_APP_1"));
        assert_eq!(field_name("_9x").as_deref(), Some("X"), "leading underscores are the journal's own");
        assert_eq!(field_name("123"), None);
    }
}

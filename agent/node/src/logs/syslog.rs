//! Collectors of syslog: RFC 5424 (or RFC 3164) over Unix sockets, UDP (RFC 5426), and TCP with octet counting (RFC 6587).
//!
//! Syslog has no acknowledgement. On a stream a batch counts as handed over when the other side's kernel has all of it (TCP) or its
//! process has read it (Unix); a connection that ends before has it again. Datagrams count when the kernel has taken them.

use super::forward::{Item, goes_on};
use berth_model::log::{LogConfig, LogFacts, SyslogAddress, SyslogFormat};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio_util::sync::CancellationToken;

const CONNECT: Duration = Duration::from_secs(10);
/// A collector that takes nothing for so long is away: the connection is made anew.
const STUCK: Duration = Duration::from_secs(60);
const LOOK_MIN: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Where a host's own syslog listens.
const LOCAL: &str = "/dev/log";
/// RFC 5424 section 7.3.1: the highest sequenceId; 1 comes behind it.
const SEQUENCE_MAX: u64 = 2_147_483_647;

pub(super) struct Syslog {
    address: SyslogAddress,
    look: Look,
    connection: Option<Connection>,
}

/// How messages look.
struct Look {
    format: SyslogFormat,
    facility: u8,
    host: String,
    /// APP-NAME, or the tag of RFC 3164.
    app: String,
    /// PROCID: the container's short id.
    process: String,
    /// Each message is counted out (streams of RFC 5424); otherwise a line's end is its end there.
    counted: bool,
}

enum Connection {
    UnixDatagram(UnixDatagram),
    Udp(UdpSocket),
    UnixStream(UnixStream),
    Tcp(TcpStream),
}

/// Printable ASCII of at most `max` bytes; `-` (nil) when nothing is left.
fn printable(text: &str, max: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).take(max).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

impl Look {
    fn message(&self, item: &Item<'_>) -> Vec<u8> {
        let entry = item.entry;
        let severity = if entry.stderr { 3 } else { 6 };
        let priority = u32::from(self.facility) * 8 + severity;
        let time = jiff::Timestamp::from_nanosecond(entry.time.nanos().into()).unwrap_or_default();
        let Look { host, app, process, .. } = self;
        let sequence = (item.sequence - 1) % SEQUENCE_MAX + 1;
        let stream = if entry.stderr { "stderr" } else { "stdout" };
        let head = match self.format {
            SyslogFormat::Rfc3164 => {
                let time = time.strftime("%b %e %H:%M:%S");
                format!("<{priority}>{time} {host} {app}[{process}]: ")
            }
            SyslogFormat::Rfc5424 => {
                format!("<{priority}>1 {time:.0} {host} {app} {process} {stream} [meta sequenceId=\"{sequence}\"] ")
            }
            SyslogFormat::Rfc5424micro => {
                format!("<{priority}>1 {time:.6} {host} {app} {process} {stream} [meta sequenceId=\"{sequence}\"] ")
            }
        };
        [head.as_bytes(), &entry.line].concat()
    }

    /// A message in a stream.
    fn frame(&self, item: &Item<'_>, out: &mut Vec<u8>) {
        let message = self.message(item);
        if self.counted {
            out.extend_from_slice(format!("{} ", message.len()).as_bytes());
            out.extend_from_slice(&message);
        } else {
            out.extend_from_slice(&message);
            out.push(b'\n');
        }
    }
}

impl Syslog {
    pub fn new(log: &LogConfig, facts: &LogFacts, host: &str) -> Self {
        let look = Look {
            format: log.syslog.format,
            facility: log.syslog.facility,
            host: printable(host, 255),
            // RFC 5424 has 48 bytes for APP-NAME.
            app: printable(&log.tag_of(facts), 48),
            process: printable(facts.id.get(..12).unwrap_or(&facts.id), 128),
            counted: log.syslog.format != SyslogFormat::Rfc3164,
        };
        Syslog { address: log.syslog.address.clone(), look, connection: None }
    }

    pub async fn send(&mut self, items: &[Item<'_>], stop: &CancellationToken) -> (usize, io::Result<()>) {
        let (count, outcome) = self.try_send(items, stop).await;
        let outcome = outcome.map_err(|e| {
            self.connection = None;
            io::Error::new(e.kind(), format!("{}: {e}", self.address))
        });
        (count, outcome)
    }

    async fn try_send(&mut self, items: &[Item<'_>], stop: &CancellationToken) -> (usize, io::Result<()>) {
        // One that the other side has closed since the last batch is not written to.
        if self.connection.as_ref().is_some_and(Connection::has_ended) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => match connect(&self.address).await {
                Ok(connection) => none.insert(connection),
                Err(e) => return (0, Err(e)),
            },
        };
        let mut frames = Vec::new();
        match connection {
            Connection::UnixDatagram(_) | Connection::Udp(_) => {
                for (n, item) in items.iter().enumerate() {
                    if let Err(e) = goes_on(stop) {
                        return (n, Err(e));
                    }
                    if let Err(e) = connection.send_datagram(&self.look.message(item)).await {
                        return (n, Err(e));
                    }
                }
                (items.len(), Ok(()))
            }
            Connection::UnixStream(_) | Connection::Tcp(_) => {
                items.iter().for_each(|item| self.look.frame(item, &mut frames));
                match connection.send_stream(&frames).await {
                    Ok(()) => (items.len(), Ok(())),
                    Err(e) => (0, Err(e)),
                }
            }
        }
    }
}

async fn connect(address: &SyslogAddress) -> io::Result<Connection> {
    let datagram = |path: &str| -> io::Result<Connection> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Connection::UnixDatagram(socket))
    };
    let connecting = async {
        Ok(match address {
            SyslogAddress::Local => match datagram(LOCAL) {
                // EPROTOTYPE: it is a stream there.
                Err(_) => Connection::UnixStream(UnixStream::connect(LOCAL).await?),
                connected => connected?,
            },
            SyslogAddress::UnixDatagram(path) => datagram(path)?,
            SyslogAddress::UnixStream(path) => Connection::UnixStream(UnixStream::connect(path).await?),
            SyslogAddress::Udp(host, port) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for target in tokio::net::lookup_host((host.as_str(), *port)).await? {
                    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).await?;
                    match socket.connect(target).await {
                        Ok(()) => return Ok(Connection::Udp(socket)),
                        Err(e) => last = e,
                    }
                }
                return Err(last);
            }
            SyslogAddress::Tcp(host, port) => Connection::Tcp(TcpStream::connect((host.as_str(), *port)).await?),
        })
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "does not answer")),
    }
}

impl Connection {
    /// A stream whose other side is gone.
    fn has_ended(&self) -> bool {
        let mut buffer = [0; 256];
        let read = match self {
            Connection::UnixDatagram(_) | Connection::Udp(_) => return false,
            Connection::UnixStream(s) => s.try_read(&mut buffer),
            Connection::Tcp(s) => s.try_read(&mut buffer),
        };
        match read {
            Ok(n) => n == 0,
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// SO_ERROR of socket(7).
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Connection::UnixDatagram(s) => s.take_error(),
            Connection::Udp(s) => s.take_error(),
            Connection::UnixStream(s) => s.take_error(),
            Connection::Tcp(s) => s.take_error(),
        }
    }

    async fn send_datagram(&mut self, message: &[u8]) -> io::Result<()> {
        let sending = async {
            match self {
                Connection::UnixDatagram(s) => s.send(message).await.map(drop),
                Connection::Udp(s) => s.send(message).await.map(drop),
                Connection::UnixStream(_) | Connection::Tcp(_) => Ok(()),
            }
        };
        tokio::time::timeout(STUCK, sending).await.unwrap_or_else(|_| Err(stuck()))
    }

    /// Writes all of it and waits until the other side has it.
    async fn send_stream(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let writing = async {
                match self {
                    Connection::UnixStream(s) => s.write(bytes).await,
                    Connection::Tcp(s) => s.write(bytes).await,
                    Connection::UnixDatagram(_) | Connection::Udp(_) => Ok(0),
                }
            };
            match tokio::time::timeout(STUCK, writing).await.unwrap_or_else(|_| Err(stuck()))? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        let (mut before, mut waited, mut pause) = (u32::MAX, Duration::ZERO, LOOK_MIN);
        loop {
            let unsent = match self {
                Connection::UnixStream(s) => berth_sys::socket::unsent(s.as_fd())?,
                Connection::Tcp(s) => berth_sys::socket::unsent(s.as_fd())?,
                Connection::UnixDatagram(_) | Connection::Udp(_) => 0,
            };
            if unsent == 0 {
                // A socket that is closed or reset throws away what nobody has read, which looks like this, too; but the kernel says so first
                // (unix_release_sock in net/unix/af_unix.c, tcp_reset in net/ipv4/tcp_input.c).
                return self.take_error()?.map_or(Ok(()), Err);
            }
            if self.has_ended() {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "ended before it had everything"));
            }
            if unsent < before {
                (before, waited, pause) = (unsent, Duration::ZERO, LOOK_MIN);
            }
            if waited >= STUCK {
                return Err(stuck());
            }
            tokio::time::sleep(pause).await;
            waited += pause;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

fn stuck() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "takes nothing")
}

#[cfg(test)]
mod tests {
    use super::super::position::LogPosition;
    use super::*;
    use crate::view::LogEntry;
    use berth_model::Timestamp;

    fn look(format: SyslogFormat) -> Look {
        Look {
            format,
            facility: 16,
            host: "h".into(),
            app: "web".into(),
            process: "0123456789ab".into(),
            counted: format != SyslogFormat::Rfc3164,
        }
    }

    #[test]
    fn messages_of_all_formats() {
        let entry = LogEntry {
            time: Timestamp(1_795_285_518_123_456_789),
            stderr: true,
            line: b"a b".to_vec(),
            partial: false,
            position: LogPosition::At(9),
            lost_bytes: 0,
        };
        let text = |format, sequence| {
            let mut out = Vec::new();
            look(format).frame(&Item { entry: &entry, sequence }, &mut out);
            String::from_utf8(out).unwrap()
        };
        let message = "<131>1 2026-11-21T18:25:18.123456Z h web 0123456789ab stderr [meta sequenceId=\"7\"] a b";
        assert_eq!(text(SyslogFormat::Rfc5424micro, 7), format!("{} {message}", message.len()));
        let message = "<131>1 2026-11-21T18:25:18Z h web 0123456789ab stderr [meta sequenceId=\"1\"] a b";
        assert_eq!(text(SyslogFormat::Rfc5424, SEQUENCE_MAX + 1), format!("{} {message}", message.len()));
        assert_eq!(text(SyslogFormat::Rfc3164, 1), "<131>Nov 21 18:25:18 h web[0123456789ab]: a b\n");
    }

    #[test]
    fn names_are_printable() {
        assert_eq!(printable("a b/\u{fc}", 48), "a_b/_");
        assert_eq!(printable("", 48), "-");
        assert_eq!(printable(&"x".repeat(100), 48).len(), 48);
    }
}

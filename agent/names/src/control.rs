//! What the agent says: which network's file to read, which one is gone; and what it hears.
//!
//! One message each way on a `SOCK_SEQPACKET` socket: `load NETWORK`, `drop NETWORK`, `status`. The answer's first word is `ok` or `error`. Behind a `load`
//! lines `redirect ADDRESS udp|tcp PORT` may follow: port 53 is somebody else's there, and that port is listened on instead.

use crate::server::{Listener, Network, Server, Token};
use crate::slab::{Key, Slab};
use crate::zone::{Index, MAX_BYTES, Zone};
use berth_sys::inet::{self, Kind};
use berth_sys::socket;
use std::fmt::Write;
use std::io::{self, IoSlice, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

/// Agents at a time: one, and one that is being replaced.
const MAX_AGENTS: usize = 16;
const PORT: u16 = 53;
/// What may wait to be read on a socket: some ten thousand questions.
const QUEUE_BYTES: u32 = 4 << 20;
/// Ending of a network's file.
const ENDING: &str = ".zone";

pub(crate) struct Agents {
    listener: OwnedFd,
    build: String,
    connections: Slab<OwnedFd>,
}

impl Agents {
    pub fn new(listener: OwnedFd, build: String) -> Self {
        Agents { listener, build, connections: Slab::new(MAX_AGENTS) }
    }
}

impl Server {
    pub(crate) fn accept_agent(&mut self) {
        let Ok(fd) = socket::accept(self.agents.listener.as_fd()) else { return };
        if let Some(key) = self.agents.connections.next_key()
            && self.epoll.add(fd.as_fd(), Token::Agent(key).bits(), true, false).is_ok()
        {
            self.agents.connections.insert(fd);
        }
    }

    pub(crate) fn hear_agent(&mut self, key: Key) {
        let Some(fd) = self.agents.connections.get(key) else { return };
        let mut buffer = [0; 512];
        let n = match socket::receive(fd.as_fd(), &mut buffer, &mut Vec::new(), false) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(n) if n > 0 => n,
            _ => return drop(self.agents.connections.remove(key)),
        };
        let answer = self.obey(&buffer[..n]);
        if let Some(fd) = self.agents.connections.get(key) {
            // Err: it does not want to know any more.
            let _ = socket::send(fd.as_fd(), &[IoSlice::new(answer.as_bytes())], &[], false);
        }
    }

    fn obey(&mut self, message: &[u8]) -> String {
        let text = String::from_utf8_lossy(message);
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("load", stem) => self.load(stem),
            ("drop", stem) => {
                self.drop_network(stem);
                "ok".into()
            }
            ("status", _) => self.status(),
            _ => "error unknown".into(),
        }
    }

    fn status(&self) -> String {
        let c = &self.counts;
        format!(
            "ok\nbuild {}\nnetworks {}\nquestions {}\nforwarded {}\nfailed {}\nover {}\nasking {}\nstreams {}\n",
            self.agents.build,
            self.networks.len(),
            c.questions,
            c.forwarded,
            c.failed,
            c.over,
            self.asking.len(),
            self.streams.len()
        )
    }

    /// Reads what is in the folder. Files that make no sense are left: the agent writes them anew.
    pub(crate) fn load_all(&mut self) -> io::Result<()> {
        for entry in std::fs::read_dir(".")?.flatten() {
            if let Some(stem) = entry.file_name().to_str().and_then(|name| name.strip_suffix(ENDING)) {
                self.load(stem);
            }
        }
        Ok(())
    }

    fn load(&mut self, stem: &str) -> String {
        match read(stem) {
            Ok(zone) => self.put(stem, zone),
            Err(why) => format!("error reading {stem}{ENDING}: {why}"),
        }
    }

    fn put(&mut self, stem: &str, zone: Zone) -> String {
        let index = Index::new(zone);
        let place = match self.networks.iter().position(|n| n.stem == stem) {
            Some(place) => {
                self.networks[place].index = index;
                place
            }
            None => {
                let network = Network { stem: stem.into(), index, listeners: Vec::new(), failed: None };
                self.networks.push(network);
                self.networks.len() - 1
            }
        };
        self.listen(place);
        let network = &self.networks[place];
        let mut answer = match &network.failed {
            None => String::from("ok\n"),
            Some(why) => format!("error {why}\n"),
        };
        for listener in network.listeners.iter().filter_map(|key| self.listeners.get(*key)) {
            if listener.port != PORT {
                let kind = if listener.kind == Kind::Udp { "udp" } else { "tcp" };
                let _ = writeln!(answer, "redirect {} {kind} {}", listener.address, listener.port);
            }
        }
        answer
    }

    fn drop_network(&mut self, stem: &str) {
        let Some(place) = self.networks.iter().position(|n| n.stem == stem) else { return };
        for key in self.networks.remove(place).listeners {
            self.listeners.remove(key);
        }
        for (_, listener) in self.listeners.iter_mut().filter(|(_, l)| l.network > place) {
            listener.network -= 1;
        }
    }

    /// Tries again what could not be listened on.
    pub(crate) fn listen_again(&mut self) {
        for place in 0..self.networks.len() {
            if self.networks[place].failed.is_some() {
                self.listen(place);
            }
        }
    }

    /// Opens the sockets that a network wants and does not have, and closes those that it does not want.
    fn listen(&mut self, place: usize) {
        let zone = &self.networks[place].index.zone;
        let device = zone.device.clone();
        let number = inet::interface_index(&device);
        let mut wanted: Vec<(IpAddr, Kind)> =
            zone.listen.iter().flat_map(|a| [(*a, Kind::Udp), (*a, Kind::Tcp)]).collect();
        let mut kept = Vec::new();
        for key in std::mem::take(&mut self.networks[place].listeners) {
            let fits = self.listeners.get(key).is_some_and(|l| {
                Some(l.device.1) == number && l.device.0 == device && wanted.contains(&(l.address, l.kind))
            });
            match self.listeners.get(key).filter(|_| fits) {
                Some(l) => {
                    wanted.retain(|w| *w != (l.address, l.kind));
                    kept.push(key);
                }
                None => drop(self.listeners.remove(key)),
            }
        }
        let mut failed = None;
        for (address, kind) in wanted {
            let opened = number.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such interface"));
            let opened = opened.and_then(|number| self.open_listener(place, address, kind, (device.clone(), number)));
            match opened {
                Ok(key) => kept.push(key),
                Err(e) => failed = Some(format!("listening on {address} port {PORT} of {device}: {e}")),
            }
        }
        self.networks[place].listeners = kept;
        self.networks[place].failed = failed;
    }

    fn open_listener(&mut self, network: usize, address: IpAddr, kind: Kind, device: (String, u32)) -> io::Result<Key> {
        let open = |port| inet::listen(SocketAddr::new(address, port), kind, &device.0, QUEUE_BYTES);
        // A server of the host's that listens on all its addresses: any other port, and the agent leads packets there.
        let fd = match open(PORT) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => open(0)?,
            other => other?,
        };
        let port = inet::local_address(fd.as_fd())?.port();
        let full = || io::Error::from(io::ErrorKind::QuotaExceeded);
        let key = self.listeners.next_key().ok_or_else(full)?;
        self.epoll.add(fd.as_fd(), Token::Listener(key).bits(), true, false)?;
        self.listeners.insert(Listener { fd, network, kind, address, port, device }).ok_or_else(full)
    }
}

fn read(stem: &str) -> Result<Zone, String> {
    if stem.is_empty() || stem.contains('/') {
        return Err("not a file's name".into());
    }
    let mut text = String::new();
    let file = std::fs::File::open(format!("{stem}{ENDING}")).map_err(|e| e.to_string())?;
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Zone::parse(&text).map_err(|e| e.to_string())
}

//! The program that turns connections to `[::1]` into connections to 127.0.0.1, for ports that only an IPv4 address answers.
//!
//! It runs where a process of the host connects (type BPF_PROG_TYPE_CGROUP_SOCK_ADDR at BPF_CGROUP_INET6_CONNECT, Linux 4.17), before the kernel looks
//! at the address: an IPv6 socket that connects to `::ffff:127.0.0.1` speaks IPv4 (ipv6(7)), and goes from there on where any connection to 127.0.0.1
//! goes. Other addresses, other ports and other network namespaces are none of its business. It stays at the root of the cgroup v2 tree when the
//! process that attached it ends.

use crate::bpf::{
    ADD, AND, CALL, EXIT, Insn, JUMP_EQUAL, JUMP_NOT_EQUAL, JUMP_NOT_EQUAL_REG, LOAD_IMMEDIATE, LOAD_LONG, LOAD_WORD,
    MOV, MOV_REG, NAME, OR_REG, SHIFT_RIGHT, SHIFT_RIGHT_REG, STORE_WORD, TO_BIG_ENDIAN, bpf, insn, load, owned, pair,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Bits of the table: a port of TCP, or one of UDP.
const PORTS: usize = 2 << 16;
const WORDS: usize = PORTS / 64;

const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;

const MAP_LOOKUP: i32 = 1;
const GET_NETNS_COOKIE: i32 = 122;
/// The source of a wide immediate that is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;

/// Fields of struct bpf_sock_addr (linux/bpf.h).
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// Jumps that leave the program, before their distance is known.
const OUT: i16 = i16::MAX;

fn program(map: RawFd, namespace: u64) -> Vec<Insn> {
    let wide = |register: u8, source: u8, value: u64| {
        [insn(LOAD_IMMEDIATE, register, source, 0, value as u32 as i32), insn(0, 0, 0, 0, (value >> 32) as i32)]
    };
    let mut code = vec![insn(MOV_REG, 6, 1, 0, 0)];
    for (word, value) in [(0, 0), (1, 0), (2, 0), (3, 1u32.to_be() as i32)] {
        code.extend([insn(LOAD_WORD, 2, 6, USER_IP6 + 4 * word, 0), insn(JUMP_NOT_EQUAL, 2, 0, OUT, value)]);
    }
    code.extend([
        insn(LOAD_WORD, 2, 6, PROTOCOL, 0),
        insn(MOV, 7, 0, 0, 0),
        insn(JUMP_EQUAL, 2, 0, 2, TCP),
        insn(JUMP_NOT_EQUAL, 2, 0, OUT, UDP),
        insn(MOV, 7, 0, 0, 1 << 16),
        insn(MOV_REG, 1, 6, 0, 0),
        insn(CALL, 0, 0, 0, GET_NETNS_COOKIE),
    ]);
    code.extend(wide(1, 0, namespace));
    code.extend([
        insn(JUMP_NOT_EQUAL_REG, 0, 1, OUT, 0),
        insn(LOAD_WORD, 2, 6, USER_PORT, 0),
        insn(TO_BIG_ENDIAN, 2, 0, 0, 16),
        insn(OR_REG, 7, 2, 0, 0),
        insn(MOV_REG, 2, 7, 0, 0),
        insn(SHIFT_RIGHT, 2, 0, 0, 6),
        insn(STORE_WORD, 10, 2, -4, 0),
        insn(MOV_REG, 2, 10, 0, 0),
        insn(ADD, 2, 0, 0, -4),
    ]);
    code.extend(wide(1, PSEUDO_MAP_FD, map as u64));
    code.extend([
        insn(CALL, 0, 0, 0, MAP_LOOKUP),
        insn(JUMP_EQUAL, 0, 0, OUT, 0),
        insn(LOAD_LONG, 1, 0, 0, 0),
        insn(AND, 7, 0, 0, 63),
        insn(SHIFT_RIGHT_REG, 1, 7, 0, 0),
        insn(AND, 1, 0, 0, 1),
        insn(JUMP_EQUAL, 1, 0, OUT, 0),
        insn(MOV, 1, 0, 0, 0xffffu32.to_be() as i32),
        insn(STORE_WORD, 6, 1, USER_IP6 + 8, 0),
        insn(MOV, 1, 0, 0, 0x7f00_0001_u32.to_be() as i32),
        insn(STORE_WORD, 6, 1, USER_IP6 + 12, 0),
        // 1: the connection may be made.
        insn(MOV, 0, 0, 0, 1),
        insn(EXIT, 0, 0, 0, 0),
    ]);
    let end = code.len() - 2;
    for (at, i) in code.iter_mut().enumerate() {
        if i.offset == OUT {
            i.offset = (end - at - 1) as i16;
        }
    }
    code
}

/// The program at its place, and its table of ports.
#[derive(Debug)]
pub struct Loopback6 {
    map: OwnedFd,
    words: Box<[u64; WORDS]>,
}

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_FD_BY_ID: libc::c_long = 13;
const OBJ_INFO: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const TYPE_ARRAY: u64 = 2;
const TYPE_SOCK_ADDR: u64 = 18;
const INET6_CONNECT: u64 = 11;
const ALLOW_MULTI: u64 = 2;
const REPLACE: u64 = 4;
/// More programs nobody attaches to one group (BPF_CGROUP_MAX_PROGS).
const PROGRAMS: usize = 64;
impl Loopback6 {
    /// Loads the program for the network namespace of the calling thread, with these ports, and puts it at the root of the cgroup v2 tree, in the place
    /// of one with the same name. A name is at most 15 letters and digits.
    pub fn attach(name: &str, ports: impl Iterator<Item = (bool, u16)>) -> io::Result<Self> {
        let root = root()?;
        let mut words = Box::new([0; WORDS]);
        ports.for_each(|(udp, port)| {
            let (word, bit) = place(udp, port);
            words[word] |= bit;
        });
        let mut map = Loopback6 { map: map()?, words };
        for (word, _) in map.words.clone().iter().enumerate().filter(|(_, bits)| **bits != 0) {
            map.write(word)?;
        }
        let code = program(map.map.as_raw_fd(), namespace()?);
        let program = load(TYPE_SOCK_ADDR, &code, name, INET6_CONNECT)?;
        let old = attached(&root, name)?;
        let flags = if old.is_some() { ALLOW_MULTI | REPLACE } else { ALLOW_MULTI };
        let replaced = old.as_ref().map_or(0, |fd| fd.as_raw_fd() as u64);
        let target = pair(root.as_raw_fd() as u64, program.as_raw_fd() as u64);
        bpf(PROG_ATTACH, &mut [target, pair(INET6_CONNECT, flags), replaced])?;
        Ok(map)
    }

    /// What comes to this port is for 127.0.0.1, or no more.
    pub fn set(&mut self, udp: bool, port: u16, on: bool) -> io::Result<()> {
        let (word, bit) = place(udp, port);
        let now = if on { self.words[word] | bit } else { self.words[word] & !bit };
        if now == self.words[word] {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.words[word], now);
        self.write(word).inspect_err(|_| self.words[word] = before)
    }

    pub fn has(&self, udp: bool, port: u16) -> bool {
        let (word, bit) = place(udp, port);
        self.words[word] & bit != 0
    }

    fn write(&mut self, word: usize) -> io::Result<()> {
        let (key, value) = (word as u32, self.words[word]);
        let mut attr = [self.map.as_raw_fd() as u64, (&raw const key) as u64, (&raw const value) as u64, 0];
        bpf(MAP_UPDATE, &mut attr).map(drop)
    }
}

/// Takes the program with this name away. None there is fine.
pub fn detach(name: &str) -> io::Result<()> {
    let root = match root() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let Some(program) = attached(&root, name)? else { return Ok(()) };
    let target = pair(root.as_raw_fd() as u64, program.as_raw_fd() as u64);
    bpf(PROG_DETACH, &mut [target, pair(INET6_CONNECT, 0)]).map(drop)
}

/// Whether a program with this name is at its place.
pub fn is_attached(name: &str) -> io::Result<bool> {
    attached(&root()?, name).map(|program| program.is_some())
}

const fn place(udp: bool, port: u16) -> (usize, u64) {
    let index = (udp as usize) << 16 | port as usize;
    (index / 64, 1 << (index % 64))
}

/// The root of the v2 tree, which on a hybrid host has all processes of the host below it, too.
fn root() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let point = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ').skip(3);
        (back.starts_with("cgroup2 ") && fields.next()? == "/").then(|| fields.next()).flatten()
    });
    let none = || io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 tree is mounted");
    File::open(point.ok_or_else(none)?.replace("\\040", " "))
}

/// A number that no other network namespace of this boot has (SO_NETNS_COOKIE, Linux 5.14).
fn namespace() -> io::Result<u64> {
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: both live through the call, and len is the number's length.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

fn map() -> io::Result<OwnedFd> {
    let (key, value) = (size_of::<u32>() as u64, size_of::<u64>() as u64);
    owned(MAP_CREATE, &mut [pair(TYPE_ARRAY, key), pair(value, WORDS as u64), 0])
}

/// The program with this name at the group.
fn attached(group: &File, name: &str) -> io::Result<Option<OwnedFd>> {
    let mut ids = [0u32; PROGRAMS];
    let mut attr = [pair(group.as_raw_fd() as u64, INET6_CONNECT), 0, ids.as_mut_ptr() as u64, PROGRAMS as u64];
    bpf(PROG_QUERY, &mut attr)?;
    let count = (attr[3] as u32 as usize).min(PROGRAMS);
    for id in ids.into_iter().take(count) {
        let program = match owned(PROG_FD_BY_ID, &mut [id.into()]) {
            // Gone since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if program_name(&program)? == name {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

/// struct bpf_prog_info, up to the name.
fn program_name(program: &OwnedFd) -> io::Result<String> {
    const OFFSET: usize = 64;
    let mut info = [0u8; OFFSET + NAME];
    let mut attr = [pair(program.as_raw_fd() as u64, info.len() as u64), info.as_mut_ptr() as u64];
    bpf(OBJ_INFO, &mut attr)?;
    let name = info[OFFSET..].split(|b| *b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

    /// Against the kernel, in a network namespace of its own: nobody else's connections are looked at.
    #[test]
    fn connections_to_these_ports_come_to_ipv4() {
        std::thread::spawn(|| {
            crate::net::unshare_network().unwrap();
            assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            let name = format!("t{}", std::process::id());
            let ports = [(false, 80), (false, 8080), (true, 8080), (false, 65535)];
            let mut map = match Loopback6::attach(&name, ports.into_iter()) {
                Err(e) if crate::bpf::may_not(&e) => return,
                other => other.unwrap(),
            };
            let listeners = [80, 81, 8080, 65535].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
            let connect = |port| TcpStream::connect((Ipv6Addr::LOCALHOST, port));
            for port in [80, 8080, 65535] {
                let peer = connect(port).unwrap().peer_addr().unwrap();
                assert_eq!(peer, SocketAddr::from(("::ffff:127.0.0.1".parse::<Ipv6Addr>().unwrap(), port)));
            }
            assert!(connect(81).is_err() && TcpStream::connect((Ipv6Addr::from(2), 80)).is_err());
            // UDP's ports are others.
            let server = UdpSocket::bind("127.0.0.1:8080").unwrap();
            let client = UdpSocket::bind("[::]:0").unwrap();
            client.connect((Ipv6Addr::LOCALHOST, 8080)).unwrap();
            client.send(b"x").unwrap();
            assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
            // The table can be changed, and another of the same name takes this one's place.
            map.set(false, 81, true).unwrap();
            map.set(false, 80, false).unwrap();
            assert!(connect(81).is_ok() && connect(80).is_err() && map.has(false, 81) && !map.has(true, 81));
            let _other = Loopback6::attach(&name, std::iter::once((false, 80))).unwrap();
            assert!(connect(80).is_ok() && connect(81).is_err() && is_attached(&name).unwrap());
            detach(&name).unwrap();
            assert!(connect(80).is_err() && !is_attached(&name).unwrap());
            detach(&name).unwrap();
            drop(listeners);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn another_network_namespace_is_not_meant() {
        std::thread::spawn(|| {
            let up = || {
                assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success())
            };
            crate::net::unshare_network().unwrap();
            up();
            let name = format!("o{}", std::process::id());
            let _map = match Loopback6::attach(&name, std::iter::once((false, 80))) {
                Err(e) if crate::bpf::may_not(&e) => return,
                other => other.unwrap(),
            };
            crate::net::unshare_network().unwrap();
            up();
            let _listener = TcpListener::bind("127.0.0.1:80").unwrap();
            let there = TcpStream::connect((Ipv6Addr::LOCALHOST, 80));
            detach(&name).unwrap();
            assert!(there.is_err());
        })
        .join()
        .unwrap();
    }
}

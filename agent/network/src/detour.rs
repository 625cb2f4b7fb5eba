//! The interface by which a packet that the host's input rules have let through comes in a second time.
//!
//! A pair of veths, both ends here. What is sent out of the first never arrives at the second: a program at the way out sends it back to where
//! it once came in (`berth_sys::detour_bpf`). Interface and program stay when the agent ends; the rules go on using them.

use crate::error::NetworkError;
use crate::link::Links;
use crate::netlink::{ACK, CREATE, EXCL, Failure, Messages, REPLACE, Socket};
use berth_sys::detour_bpf;
use berth_sys::net::NetlinkFamily;
use std::os::fd::AsRawFd;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_NOARP: u32 = 0x80;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

/// The largest packet of IP: nothing that came in is too large for the way back.
const MTU: u32 = 65535;

/// Names of both ends, by the table's name: each agent of a host has its own.
fn names(table: &str) -> [String; 2] {
    ["bti", "btj"].map(|kind| hashed(kind, table))
}

/// A short name of an agent's own.
pub fn hashed(kind: &str, table: &str) -> String {
    // FNV-1a.
    let hash = table.bytes().fold(0x811c_9dc5u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{kind}{hash:08x}")
}

/// One of the calling thread's namespace; /sys shows that of its mount.
fn index(name: &str) -> Result<Option<u32>, NetworkError> {
    Ok(Links::open()?.find(name)?.map(|link| link.index))
}

/// Whether this is the interface's index.
pub fn is_there(table: &str, device: u32) -> Result<bool, NetworkError> {
    Ok(index(&names(table)[0])? == Some(device))
}

/// Index of the interface, made unless it is there, and its program anew in any case: an agent that died in between leaves an interface without
/// one, and another agent's may be an older one. The calling thread is in the host's namespace.
pub fn ensure(table: &str) -> Result<u32, NetworkError> {
    let [name, peer] = names(table);
    let there = index(&name)?.is_some();
    let act = |what: &str| {
        format!("making the interface {name}, by which published ports respect the host's input rules: {what}")
    };
    let error = |what: &str, failure: Failure| NetworkError::Detour { act: act(what), source: failure.into_io() };
    let mut socket = Socket::open(NetlinkFamily::Route).map_err(|e| error("opening rtnetlink", Failure::Io(e)))?;
    let mut m = Messages::new();
    let flags = IFF_UP | IFF_NOARP;
    m.begin(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, 0)).text(IFLA_IFNAME, &name);
    m.attribute(IFLA_MTU, &MTU.to_ne_bytes()).nest(IFLA_LINKINFO, |m| {
        m.text(1, "veth").nest(2, |m| {
            m.nest(VETH_INFO_PEER, |m| {
                m.raw(&link_header(0, 0)).text(IFLA_IFNAME, &peer).attribute(IFLA_MTU, &MTU.to_ne_bytes());
            });
        });
    });
    if !there
        && let Err(failure) = socket.exchange(&mut m, false)
        && failure.errno() != EEXIST
    {
        return Err(error("veth", failure));
    }
    let mut m = Messages::new();
    for end in [&name, &peer] {
        m.begin(RTM_NEWLINK, ACK, &link_header(0, flags)).text(IFLA_IFNAME, end);
    }
    socket.exchange(&mut m, false).map_err(|failure| error("veth", failure))?;
    let Some(index) = index(&name)? else {
        return Err(error("veth", Failure::Io(std::io::ErrorKind::NotFound.into())));
    };
    attach(&mut socket, index).map_err(|(what, failure)| {
        if !there {
            let _ = remove(table);
        }
        error(what, failure)
    })?;
    Ok(index)
}

/// The program at the interface's way out (tc-bpf(8): `tc qdisc add dev X clsact`, `tc filter add dev X egress bpf direct-action`).
fn attach(socket: &mut Socket, index: u32) -> Result<(), (&'static str, Failure)> {
    const CLSACT: u32 = 0xffff_fff1;
    const CLSACT_HANDLE: u32 = 0xffff_0000;
    const EGRESS: u32 = 0xffff_fff3;
    const EVERY_PROTOCOL: u32 = 3;
    let mut m = Messages::new();
    m.begin(RTM_NEWQDISC, ACK | CREATE | EXCL, &tc_header(index, CLSACT_HANDLE, CLSACT, 0)).text(1, "clsact");
    match socket.exchange(&mut m, false) {
        Err(failure) if failure.errno() != EEXIST => {
            return Err(("the kernel's clsact (CONFIG_NET_SCH_INGRESS)", failure));
        }
        _ => {}
    }
    let program = detour_bpf::load().map_err(|e| ("loading its program (CONFIG_BPF_SYSCALL)", Failure::Io(e)))?;
    let info = 1 << 16 | (EVERY_PROTOCOL as u16).to_be() as u32;
    let mut m = Messages::new();
    m.begin(RTM_NEWTFILTER, ACK | CREATE | REPLACE, &tc_header(index, 1, EGRESS, info)).text(1, "bpf").nest(2, |m| {
        // Direct action.
        m.attribute(6, &program.as_raw_fd().to_ne_bytes()).text(7, "berth").attribute(8, &1u32.to_ne_bytes());
    });
    socket.exchange(&mut m, false).map(drop).map_err(|failure| ("attaching its program (CONFIG_NET_CLS_BPF)", failure))
}

/// Gone already is fine.
pub fn remove(table: &str) -> Result<(), NetworkError> {
    let [name, _] = names(table);
    if index(&name)?.is_none() {
        return Ok(());
    }
    let error = |failure: Failure| NetworkError::Detour {
        act: format!("deleting interface {name}"),
        source: failure.into_io(),
    };
    let mut socket = Socket::open(NetlinkFamily::Route).map_err(|e| error(Failure::Io(e)))?;
    let mut m = Messages::new();
    m.begin(RTM_DELLINK, ACK, &link_header(0, 0)).text(IFLA_IFNAME, &name);
    match socket.exchange(&mut m, false) {
        Err(failure) if failure.errno() != ENODEV => Err(error(failure)),
        _ => Ok(()),
    }
}

/// `struct ifinfomsg`: these flags set, no other changed.
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct tcmsg`.
fn tc_header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        header[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

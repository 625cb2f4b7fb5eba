//! Notices when somebody else takes the agent's rules away, and puts them back: NFNLGRP_NFTABLES of nfnetlink.
//!
//! One thread (`berth-nft-watch`), started with the first rules. It sleeps until nftables change.

use crate::error::NetworkError;
use crate::netlink::{Socket, find};
use crate::networks::{Inner, lock};
use berth_sys::net::NetlinkFamily;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

/// linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
/// NFT_MSG_DEL{TABLE,CHAIN,RULE,SET,SETELEM}: each names its table first.
const DELETIONS: [u16; 5] = [2, 5, 8, 11, 14];
/// Somebody who takes them away again and again does not keep the agent busy.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// What failed is tried again, for as long as it takes: without the rules containers reach the host's own loopback.
const AGAIN: Duration = Duration::from_secs(1);

/// Starts the thread. The calling thread is in the host's network namespace.
pub fn start(inner: &Arc<Inner>) -> Result<(), NetworkError> {
    let error = |source| NetworkError::Nftables { act: "listening for changes of nftables".into(), source };
    let mut socket = open().map_err(error)?;
    let weak = Arc::downgrade(inner);
    let started = thread::Builder::new().name("berth-nft-watch".into()).spawn(move || run(&mut socket, &weak));
    started.map(drop).map_err(error)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::open(NetlinkFamily::Netfilter)?;
    socket.listen(GROUP)?;
    Ok(socket)
}

fn run(socket: &mut Socket, inner: &Weak<Inner>) {
    loop {
        let mut gone = false;
        // What did not fit into the socket may have been about this table.
        let heard = socket.notified(|kind, author, body| gone |= is_deletion(inner, kind, author, body));
        if inner.strong_count() == 0 {
            return;
        }
        let lost = match heard {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(berth_sys::net::NO_BUFFERS) => true,
            Err(error) => {
                thread::sleep(AGAIN);
                // Err: the old one is asked again, and fails again.
                let Ok(new) = open() else { continue };
                tracing::warn!(%error, "changes of nftables were not heard: listening anew");
                *socket = new;
                true
            }
        };
        if gone || lost {
            repair(inner, gone);
            thread::sleep(AT_MOST_EVERY);
        }
    }
}

/// Something of the agent's tables was deleted by somebody else.
fn is_deletion(inner: &Weak<Inner>, kind: u16, author: u32, body: &[u8]) -> bool {
    if kind >> 8 != SUBSYSTEM || !DELETIONS.contains(&(kind & 0xff)) {
        return false;
    }
    let Some(inner) = inner.upgrade() else { return false };
    let table = body.get(4..).and_then(|attributes| find(attributes, 1));
    let ours = table.and_then(|t| t.strip_suffix(&[0])) == Some(inner.config.table_name().as_bytes());
    ours && lock(&inner.rules).author() != Some(author)
}

/// Puts the rules back; returns when they are, or when nobody needs them.
/// `gone`: somebody was seen to take something; else it is not known, as messages were lost.
fn repair(inner: &Weak<Inner>, gone: bool) {
    let mut told = false;
    while let Some(inner) = inner.upgrade() {
        let mut rules = lock(&inner.rules);
        if !rules.has_networks() {
            return;
        }
        match inner.rebuild(&mut rules) {
            Ok(()) if gone => {
                tracing::warn!("somebody took nftables rules of berth's away: they are back");
                return;
            }
            Ok(()) => {
                tracing::info!("nftables changed faster than was heard: berth's rules were written anew");
                return;
            }
            Err(error) if !told => {
                tracing::error!(%error, "putting nftables rules back that somebody took away: tried again until it works");
                told = true;
            }
            Err(_) => {}
        }
        drop(rules);
        drop(inner);
        thread::sleep(AGAIN);
    }
}

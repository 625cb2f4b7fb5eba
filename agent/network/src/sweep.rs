//! What detached containers leave, cleared away behind their backs.
//!
//! A veth goes with its namespace, some time after the container's last process; deleting one takes tens of milliseconds. So nobody waits:
//! the sweep looks a little later, deletes what is still there, and only then gives the address back.

use crate::conntrack;
use crate::link::Links;
use crate::netlink::Socket;
use crate::networks::Inner;
use berth_model::network::NetworkAttachment;
use berth_sys::net::NetlinkFamily;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel takes a dead namespace apart within some 100 ms; it does several at once, which is cheaper than our deleting one by one.
pub const GRACE: Duration = Duration::from_millis(500);

/// Something to clear away.
#[derive(Debug)]
pub enum Leftover {
    /// The host's end of a veth, and whose addresses are free when it is gone. `forget`: connections to published ports too.
    Link { name: String, of: Option<Box<NetworkAttachment>>, forget: bool, due: Instant },
    /// UDP packets went to this port before it was published.
    UdpFlows { port: u16 },
}

#[derive(Default)]
pub struct Sweep {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Leftover>,
    runs: bool,
    closed: bool,
    /// The thread is at work on something that it took from the queue.
    busy: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sweep {
    /// Bounded by the containers: each has one link, and each of its ports comes once.
    pub fn push(&self, inner: &Arc<Inner>, leftover: Leftover) {
        let mut state = self.shared.lock();
        state.queue.push_back(leftover);
        if !state.runs {
            let (shared, inner) = (Arc::clone(&self.shared), Arc::downgrade(inner));
            // The new thread is in the namespace of this one: the host's.
            let started = thread::Builder::new().name("berth-sweep".into()).spawn(move || run(&shared, &inner));
            match started {
                Ok(_) => state.runs = true,
                // It stays in the queue; the next one tries again, and so does `recover`.
                Err(error) => tracing::warn!(%error, "starting the thread that clears links away"),
            }
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Makes everything due and waits until it is done: for a subnet that has run out of addresses, and for `remove_all`.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        if !state.runs {
            return;
        }
        let now = Instant::now();
        for leftover in &mut state.queue {
            if let Leftover::Link { due, .. } = leftover {
                *due = now;
            }
        }
        self.shared.wake.notify_all();
        let pending = |state: &mut State| state.runs && (state.busy || !state.queue.is_empty());
        drop(self.shared.wake.wait_while(state, pending).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

fn run(shared: &Shared, inner: &Weak<Inner>) {
    let mut sockets = match (Links::open(), Socket::open(NetlinkFamily::Netfilter)) {
        (Ok(links), socket) => Some((links, socket.ok())),
        (Err(error), _) => {
            tracing::warn!(%error, "clearing links away");
            None
        }
    };
    while let (Some((links, netfilter)), Some(leftover)) = (&mut sockets, next(shared)) {
        let Some(inner) = inner.upgrade() else { break };
        clear(&inner, links, netfilter.as_mut(), leftover);
        drop(inner);
        shared.lock().busy = false;
        shared.wake.notify_all();
    }
    let mut state = shared.lock();
    (state.runs, state.busy) = (false, false);
    drop(state);
    shared.wake.notify_all();
}

/// Waits for the first one that is due; `None` when all is over.
fn next(shared: &Shared) -> Option<Leftover> {
    let mut state = shared.lock();
    loop {
        if state.closed {
            return None;
        }
        let now = Instant::now();
        let wait = |leftover: &Leftover| match leftover {
            Leftover::Link { due, .. } => due.saturating_duration_since(now),
            Leftover::UdpFlows { .. } => Duration::ZERO,
        };
        let first = state.queue.iter().enumerate().map(|(i, l)| (wait(l), i)).min();
        state = match first {
            Some((Duration::ZERO, i)) => {
                state.busy = true;
                return state.queue.remove(i);
            }
            Some((wait, _)) => shared.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn clear(inner: &Inner, links: &mut Links, netfilter: Option<&mut Socket>, leftover: Leftover) {
    match leftover {
        Leftover::Link { name, of, forget, .. } => {
            let deleted = links.find(&name).and_then(|link| link.map_or(Ok(()), |l| links.delete(l.index, &name)));
            if let Err(error) = deleted {
                // Its address stays out of use; the next `recover` finds the link again.
                tracing::warn!(%error, interface = name, "clearing a container's link away");
                return;
            }
            if let (true, Some(address), Some(netfilter)) = (forget, of.as_ref().map(|a| a.address), netfilter)
                && let Err(failure) = conntrack::forget_answers_of(netfilter, address.into())
            {
                tracing::debug!(error = %failure.into_io(), %address, "forgetting a container's connections");
            }
            inner.link_is_gone(&name, of.as_deref());
        }
        Leftover::UdpFlows { port } => {
            if let Some(netfilter) = netfilter
                && let Err(failure) = conntrack::forget_udp_to(netfilter, port)
            {
                tracing::debug!(error = %failure.into_io(), port, "forgetting earlier packets to a published UDP port");
            }
        }
    }
}

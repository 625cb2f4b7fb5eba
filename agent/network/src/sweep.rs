//! What detached containers leave, cleared away behind their backs.
//!
//! A veth goes with its namespace, some time after the container's last process; deleting one takes tens of milliseconds. So nobody waits:
//! the sweep looks a little later, deletes what is still there, and only then gives the address back.

use crate::conntrack;
use crate::elements::SINGLE_PORTS;
use crate::link::Links;
use crate::netlink::Socket;
use crate::networks::Inner;
use berth_model::network::NetworkAttachment;
use berth_sys::net::NetlinkFamily;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel takes a dead namespace apart within some 100 ms; it does several at once, which is cheaper than our deleting one by one.
pub const GRACE: Duration = Duration::from_millis(500);

/// Far more than the kernel needs; behind it the caller finds out by itself what is still in its way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something to clear away.
#[derive(Debug)]
pub enum Leftover {
    /// The host's end of a veth, and whose addresses are free when it is gone. `forget`: connections to published ports too.
    Link { name: String, of: Option<Box<NetworkAttachment>>, forget: bool, due: Instant },
    /// UDP packets went to these ports before they were published.
    UdpFlows { ports: RangeInclusive<u16> },
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
    queue: VecDeque<(u64, Leftover)>,
    /// The number of the last one that came.
    last: u64,
    runs: bool,
    closed: bool,
    /// What the thread has taken from the queue and is at work on.
    at_work: Option<u64>,
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
        state.last += 1;
        let number = state.last;
        state.queue.push_back((number, leftover));
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

    /// Makes everything due and waits until it is done: for a subnet that has run out of addresses, and for `remove_all`. What comes meanwhile is not
    /// waited for, and the kernel for [`PATIENCE`] at most.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        if !state.runs {
            return;
        }
        let now = Instant::now();
        for (_, leftover) in &mut state.queue {
            if let Leftover::Link { due, .. } = leftover {
                *due = now;
            }
        }
        self.shared.wake.notify_all();
        let last = state.last;
        let pending = |state: &mut State| {
            let mut left = state.at_work.into_iter().chain(state.queue.iter().map(|(number, _)| *number));
            state.runs && left.any(|number| number <= last)
        };
        drop(self.shared.wake.wait_timeout_while(state, PATIENCE, pending).unwrap_or_else(PoisonError::into_inner));
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
        shared.lock().at_work = None;
        shared.wake.notify_all();
    }
    let mut state = shared.lock();
    (state.runs, state.at_work) = (false, None);
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
        let first = state.queue.iter().enumerate().map(|(i, (_, l))| (wait(l), i)).min();
        state = match first {
            Some((Duration::ZERO, i)) => {
                let (number, leftover) = state.queue.remove(i)?;
                state.at_work = Some(number);
                return Some(leftover);
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
            if let (true, Some(of), Some(netfilter)) = (forget, &of, netfilter) {
                let six = of.ipv6.as_ref().map(|six| IpAddr::V6(six.address));
                for address in six.into_iter().chain([of.address.into()]) {
                    if let Err(failure) = conntrack::forget_answers_of(netfilter, address) {
                        tracing::debug!(error = %failure.into_io(), %address, "forgetting a container's connections");
                    }
                }
            }
            inner.link_is_gone(&name, of.as_deref());
        }
        Leftover::UdpFlows { ports } => {
            let Some(netfilter) = netfilter else { return };
            // One by one each costs a walk through the table.
            let forgotten = match ports.len() > usize::from(SINGLE_PORTS) {
                true => conntrack::forget_udp(netfilter),
                false => ports.clone().try_for_each(|port| conntrack::forget_udp_to(netfilter, port)),
            };
            if let Err(failure) = forgotten {
                tracing::debug!(error = %failure.into_io(), ?ports, "forgetting earlier packets to published UDP ports");
            }
        }
    }
}

//! Network namespaces, made ahead of need.
//!
//! Making one costs more than half of an attach, so a few stand ready: lo up, a netlink socket inside. Only descriptors of the agent hold
//! them: they are gone with it, however it ends. All of it happens on threads of this module; no other thread ever changes its namespace.

use crate::error::NetworkError;
use crate::link::Links;
use crate::setting;
use berth_sys::net;
use berth_sys::userns::UserNamespace;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many stand ready: enough for the callers of one burst while the maker works on. Each costs the kernel some 100 KB.
const READY: usize = 8;
/// With fewer than this the maker does not wait.
const LOW: usize = 3;
/// The maker lets the start that took a namespace go ahead: both want the kernel's lock over all links. Without the wait an attach takes
/// 1.8 ms instead of 1.2 on two cores.
const AFTER_A_START: Duration = Duration::from_millis(30);

/// What Docker sets for every container: there is nobody else in the namespace to protect low ports or ICMP sockets from.
/// IPv6 stays off on eth0 until networks give IPv6 addresses; lo keeps ::1.
const SYSCTLS: [(&str, &str); 2] = [("ipv4/ip_unprivileged_port_start", "0"), ("ipv6/conf/default/disable_ipv6", "1")];

/// All groups of the host, so that those of every container are among them, whichever its user namespace gets.
const PING: [(&str, &str); 1] = [("ipv4/ping_group_range", "0 4294967294")];
/// Before Linux 6.4 the kernel takes no larger ones: who has ids of the host beyond needs NET_RAW for a ping.
const OLD_PING: [(&str, &str); 1] = [("ipv4/ping_group_range", "0 2147483647")];

/// A namespace with lo up, and a way to its links that needs no visit.
pub struct Namespace {
    pub fd: OwnedFd,
    pub links: Links,
    /// Whose it is, still without ids; `None`: the host's.
    pub users: Option<UserNamespace>,
}

/// The source of namespaces. Dropping it lets go of those that stand ready.
pub struct Namespaces {
    shared: Arc<Shared>,
}

struct Shared {
    host: OwnedFd,
    /// Each with a user namespace, to which it belongs.
    own_users: bool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    ready: Vec<Namespace>,
    maker_runs: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Namespaces {
    /// The host's namespace is the calling thread's. `own_users`: each has a user namespace of its own.
    pub fn open(own_users: bool) -> Result<Self, NetworkError> {
        let host = net::current_network()
            .map_err(|source| NetworkError::Namespace { act: "opening the host's network namespace", source })?;
        Ok(Namespaces { shared: Arc::new(Shared { host, own_users, state: Mutex::default(), wake: Condvar::new() }) })
    }

    /// A ready one, or one made now, on a thread of its own.
    pub fn take(&self) -> Result<Namespace, NetworkError> {
        let ready = {
            let mut state = self.shared.lock();
            if !state.maker_runs {
                state.maker_runs = self.start_maker();
            }
            state.ready.pop()
        };
        self.shared.wake.notify_one();
        if let Some(namespace) = ready {
            return Ok(namespace);
        }
        let shared = &*self.shared;
        thread::scope(|scope| {
            let made = thread::Builder::new().name("berth-netns-1".into()).spawn_scoped(scope, || make(shared));
            let made = made.map_err(|source| NetworkError::Namespace { act: "starting a thread", source })?;
            made.join().unwrap_or_else(|_| {
                Err(NetworkError::Namespace { act: "making a network namespace", source: ErrorKind::Other.into() })
            })
        })
    }

    fn start_maker(&self) -> bool {
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new().name("berth-netns".into()).spawn(move || {
            keep_ready(&shared);
            shared.lock().maker_runs = false;
        });
        if let Err(error) = &started {
            tracing::warn!(%error, "starting the thread that makes network namespaces; each start makes its own");
        }
        started.is_ok()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

fn keep_ready(shared: &Shared) {
    loop {
        let state = shared.lock();
        let full = |state: &mut State| !state.closed && state.ready.len() >= READY;
        let state = shared.wake.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        let enough = |state: &mut State| !state.closed && state.ready.len() >= LOW;
        let waited = shared.wake.wait_timeout_while(state, AFTER_A_START, enough);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.closed {
            state.ready.clear();
            return;
        }
        let missing = READY.saturating_sub(state.ready.len());
        drop(state);
        for _ in 0..missing {
            if !make_one(shared) {
                return;
            }
        }
    }
}

/// False when it could not be made, and this thread must end.
fn make_one(shared: &Shared) -> bool {
    if shared.lock().closed {
        return true;
    }
    match make(shared) {
        Ok(namespace) => {
            shared.lock().ready.push(namespace);
            true
        }
        Err(error) => {
            // The next start asks again, and reports its own error. This thread may be in the wrong namespace: it ends.
            tracing::warn!(%error, "making a network namespace ahead of need");
            false
        }
    }
}

/// Leaves the calling thread in the host's namespace, or, with an error, anywhere: only for threads that then end.
fn make(shared: &Shared) -> Result<Namespace, NetworkError> {
    let error = |act| move |source| NetworkError::Namespace { act, source };
    let (users, fd) = if shared.own_users {
        let made = UserNamespace::create(true).map_err(error("making a user and a network namespace"))?;
        let fd = made.1.ok_or(ErrorKind::NotFound.into()).map_err(error("making a network namespace"))?;
        net::enter_network(fd.as_fd()).map_err(error("entering the new network namespace"))?;
        (Some(made.0), fd)
    } else {
        net::unshare_network().map_err(error("making a network namespace"))?;
        (None, net::current_network().map_err(error("opening the new network namespace"))?)
    };
    let mut links = Links::open()?;
    links.loopback_up()?;
    setting::write(&SYSCTLS, true)?;
    setting::write(&PING, true).or_else(|_| setting::write(&OLD_PING, true))?;
    net::enter_network(shared.host.as_fd()).map_err(error("going back to the host's network namespace"))?;
    Ok(Namespace { fd, links, users })
}

/// Writes a setting of the host's namespace unless it has that value.
pub fn host_setting(path: &str, value: &'static str) -> Result<bool, NetworkError> {
    let error = |source: io::Error| NetworkError::Sysctl { key: path.into(), value, source };
    if fs::read_to_string(path).map_err(error)?.trim_end() == value {
        return Ok(false);
    }
    fs::write(path, value).map_err(error)?;
    Ok(true)
}

//! CNI: networks of containers that are made by plugins, programs of other people's that are run as root (CNI specification 0.3.0 to 1.1.0).
//!
//! Entry point: [`Cni`]. Everything blocks for as long as plugins take, each at most [`CniConfig::timeout`]: call it from blocking threads.
//!
//! - `conflist` reads and checks a configuration list, `result` what plugins answer and the shapes that the versions give it.
//! - `plugin` runs one plugin for one verb: its environment is made here, what it says and how long it takes is bounded, and what it has started
//!   ends with it.
//! - `cache` keeps one file for each attachment, which is there before the first plugin is run and goes behind the last. It has all that a DEL
//!   needs, so that whoever comes after a killed agent takes back what the plugins had done.
//! - `attach` is the order of it: ADD from the first plugin to the last, DEL backwards.
//! - `netns` gives a container's network namespace a path, which lasts until its plugins are done with it.
//!
//! Not here: who is on which network, and when. Several containers are worked on side by side; the calls for one wait for each other.
#![forbid(unsafe_code)]

mod attach;
mod cache;
mod conflist;
mod netns;
mod plugin;
mod result;

pub use attach::{Added, Wish};
pub use cache::Leftover;
pub use conflist::{BadConflist, Conflist, MAX_CONFLIST, Version};
pub use plugin::{Verb, is_plugin_name};
pub use result::{Outcome, Read};

use berth_model::ContainerId;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Where plugins are, and where what is remembered of them is kept.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// Searched in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// Must survive reboots: plugins keep what they have given out on the disk, too.
    pub state_dir: PathBuf,
    /// Names of namespaces: gone with a reboot.
    pub netns_dir: PathBuf,
    /// A plugin that takes longer is killed.
    pub timeout: Duration,
    /// Called with the name of each step, so that tests may cut in.
    pub point: fn(&'static str) -> io::Result<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum CniError {
    #[error(
        "CNI plugin {plugin} is not in {dirs}: install it (Debian: containernetworking-plugins), or name its folder in [network] cni_bin_dirs"
    )]
    NotFound { plugin: String, dirs: String },
    /// The plugin's own word.
    #[error("CNI plugin {plugin} refuses {verb}: {message} (code {code})")]
    Refused { plugin: String, verb: Verb, code: u64, message: String },
    /// It ended or answered as no plugin does.
    #[error("CNI plugin {plugin} failed at {verb}: {why}")]
    Failed { plugin: String, verb: Verb, why: String },
    #[error("CNI plugin {plugin} did not answer {verb} within {seconds} s and was killed")]
    Timeout { plugin: String, verb: Verb, seconds: u64 },
    /// The answer of the last plugin is not what was asked for.
    #[error("the CNI plugins of network {network} did not give {what}")]
    NotGiven { network: String, what: String },
    #[error("{act}: {source}")]
    Io { act: String, source: io::Error },
    /// What the agent has written itself.
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the configuration list of network {network} is damaged: {why}")]
    Conflist { network: String, why: String },
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cni {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: CniConfig,
    /// Containers whose plugins are at work.
    busy: Mutex<HashSet<ContainerId>>,
    idle: Condvar,
    /// By network. Held by who adds, and alone by who lists what is to stay: what comes in between would be given back.
    collecting: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// Nobody else runs plugins for this container.
#[derive(Debug)]
struct Turn<'a> {
    inner: &'a Inner,
    id: ContainerId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.inner.idle.notify_all();
    }
}

impl Cni {
    /// Makes nothing yet.
    pub fn new(config: CniConfig) -> Self {
        Cni {
            inner: Arc::new(Inner {
                config,
                busy: Mutex::default(),
                idle: Condvar::new(),
                collecting: Mutex::default(),
            }),
        }
    }

    fn config(&self) -> &CniConfig {
        &self.inner.config
    }

    fn point(&self, name: &'static str) -> Result<(), CniError> {
        (self.inner.config.point)(name).map_err(|source| CniError::Io { act: format!("step {name}"), source })
    }

    /// See [`Inner::collecting`]: one network's slow plugins hold up nobody on the others.
    fn collecting(&self, network: &str) -> Arc<RwLock<()>> {
        let mut all = self.inner.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(network.to_owned()).or_default().clone()
    }

    /// Waits until no plugin works for this container.
    fn turn(&self, id: &ContainerId) -> Turn<'_> {
        let busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |busy: &mut HashSet<ContainerId>| busy.contains(id);
        let mut busy = self.inner.idle.wait_while(busy, wait).unwrap_or_else(PoisonError::into_inner);
        busy.insert(id.clone());
        Turn { inner: &self.inner, id: id.clone() }
    }
}

/// `result.act(|| "reading x")`: names the act that failed.
trait Act<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, CniError>;
}

impl<T> Act<T> for io::Result<T> {
    fn act(self, act: impl FnOnce() -> String) -> Result<T, CniError> {
        self.map_err(|source| CniError::Io { act: act(), source })
    }
}

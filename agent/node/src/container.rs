//! One container: its record, its gate, and what is live of it.
//!
//! The gate is the owner of a container's state: whoever holds it may change the record, and hands every change to the store before
//! letting go, so that the store sees changes in their order. Its queue is bounded. An idle container costs a few KB: no task of its
//! own, but for the one that waits for its end.

use crate::NodeError;
use crate::health::{self, Check};
use crate::own;
use berth_model::image::ImageRecord;
use berth_model::supervision::HealthState;
use berth_model::{ContainerId, ContainerRecord, ExitStatus, Phase};
use berth_rootfs::RootMount;
use berth_runtime::{Effective, Shim};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

/// Operations on one container that wait for each other; one more is `Busy`.
const QUEUE: u32 = 16;

/// Whether there is anything to wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// It has not ended since it was made or started last.
    Open,
    Ended(ExitStatus),
    /// It was removed before it ever ran.
    Gone,
}

/// What only the holder of the gate touches.
#[derive(Default)]
pub(crate) struct Owned {
    /// Held while it runs: the overlay is unmounted with it, off the path of the exit.
    pub root: Option<RootMount>,
}

pub(crate) struct Container {
    pub id: ContainerId,
    pub image: Arc<ImageRecord>,
    pub effective: Arc<Effective>,
    /// None: it has no health check.
    pub check: Option<Arc<Check>>,
    /// With the last results, which the record has only now and then. None: as `check`, or it never ran.
    pub health: watch::Sender<Option<HealthState>>,
    record: RwLock<Arc<ContainerRecord>>,
    shim: RwLock<Option<Shim>>,
    gate: Arc<tokio::sync::Mutex<Owned>>,
    queued: AtomicU32,
    life: watch::Sender<Life>,
    /// Operations under way that start it again behind its end.
    kept: AtomicU32,
    /// Held by the reaper while it takes apart what the last run left: a start waits for it.
    teardown: Arc<tokio::sync::Mutex<()>>,
    /// Those who are about to start it.
    holds: AtomicU32,
    /// It was taken out of the index.
    gone: CancellationToken,
    /// See [`own::reach`].
    pub own: own::Reaching,
    _taken: Taken,
}

/// What nobody else has until the last of a container is gone.
#[derive(Default)]
#[expect(dead_code, reason = "kept for their drop")]
pub(crate) struct Taken {
    pub ids: Option<crate::userns::Held>,
    /// Its categories.
    pub labels: Option<crate::selinux::Held>,
}

/// While this lives, its container is not taken for one that nobody needs.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "kept for its drop")] Arc<Held>);

struct Held(Arc<Container>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.id.fmt(f)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to change a container.
pub(crate) struct Gate {
    pub container: Arc<Container>,
    pub owned: OwnedMutexGuard<Owned>,
}

impl Container {
    pub fn new(record: ContainerRecord, image: Arc<ImageRecord>, effective: Arc<Effective>, taken: Taken) -> Arc<Self> {
        let life = match (&record.exit, record.phase) {
            (Some(exit), Phase::Exited | Phase::Removing) => Life::Ended(exit.clone()),
            _ => Life::Open,
        };
        let check = health::resolve(&record.spec, &image.config).map(Arc::new);
        Arc::new(Container {
            id: record.id.clone(),
            health: watch::Sender::new(record.supervision.health.clone()),
            check,
            image,
            effective,
            record: RwLock::new(Arc::new(record)),
            shim: RwLock::new(None),
            gate: Arc::default(),
            queued: AtomicU32::new(0),
            life: watch::Sender::new(life),
            kept: AtomicU32::new(0),
            teardown: Arc::default(),
            holds: AtomicU32::new(0),
            gone: CancellationToken::new(),
            own: own::Reaching::default(),
            _taken: taken,
        })
    }

    pub fn record(&self) -> Arc<ContainerRecord> {
        self.record.read().expect("record").clone()
    }

    /// Made from it, or with a mount of it.
    pub fn uses_image(&self, id: &berth_model::Digest) -> bool {
        let mounted = |record: &ContainerRecord| crate::volumes::images_of(&record.spec).any(|i| i == id);
        self.image.id == *id || mounted(&self.record())
    }

    pub fn phase(&self) -> Phase {
        self.record.read().expect("record").phase
    }

    pub fn shim(&self) -> Option<Shim> {
        self.shim.read().expect("shim").clone()
    }

    /// The shim of a container that runs.
    pub fn running_shim(&self) -> Result<Shim, NodeError> {
        match (self.phase(), self.shim()) {
            (Phase::Running, Some(shim)) => Ok(shim),
            _ => Err(NodeError::NotRunning(self.record().name.clone())),
        }
    }

    /// Waits for the gate in a bounded queue.
    pub async fn enter(self: &Arc<Self>) -> Result<Gate, NodeError> {
        if self.queued.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(NodeError::Busy(self.record().name.clone()));
        }
        // Counted down when the caller goes away, too.
        struct Leave<'a>(&'a AtomicU32);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let _leave = Leave(&self.queued);
        Ok(self.enter_first().await)
    }

    /// The gate without the bound: for the one task that waits for the container's end.
    pub async fn enter_first(self: &Arc<Self>) -> Gate {
        Gate { owned: self.gate.clone().lock_owned().await, container: self.clone() }
    }

    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// As long as what this gives lives, the container's end does not remove it, whatever was asked for.
    pub fn keep(self: &Arc<Self>) -> Kept {
        self.kept.fetch_add(1, Ordering::SeqCst);
        Kept(self.clone())
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::SeqCst) > 0
    }

    /// Keeps prunes and collections away until the hold is dropped.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.holds.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::new(Held(self.clone())))
    }

    pub fn is_held(&self) -> bool {
        self.holds.load(Ordering::Relaxed) > 0
    }

    /// Returns when it was removed.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Held from a run's end until nothing of it is left.
    pub async fn teardown(&self) -> OwnedMutexGuard<()> {
        self.teardown.clone().lock_owned().await
    }
}

/// See [`Container::keep`].
pub(crate) struct Kept(Arc<Container>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kept.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// Changes the record in memory; the caller hands it to the store.
    pub fn change(&mut self, f: impl FnOnce(&mut ContainerRecord)) -> Arc<ContainerRecord> {
        let mut record = (*self.container.record()).clone();
        f(&mut record);
        let record = Arc::new(record);
        *self.container.record.write().expect("record") = record.clone();
        record
    }

    pub fn set_shim(&mut self, shim: Option<Shim>) {
        *self.container.shim.write().expect("shim") = shim;
    }

    pub fn set_life(&mut self, life: Life) {
        self.container.life.send_replace(life);
    }
}

/// How one that is gone already ended: auto-removed containers are asked for their status a moment later.
pub(crate) const DEPARTED_MAX: usize = 1024;

/// All containers of a node, by id and by name.
#[derive(Default)]
pub(crate) struct Containers(RwLock<Index>);

#[derive(Default)]
struct Index {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Reserved names, too: of containers that are being made.
    by_name: HashMap<String, ContainerId>,
    departed: VecDeque<(ContainerId, String, ExitStatus)>,
}

/// A name that nobody else can take until this goes.
pub(crate) struct NameReservation {
    containers: Arc<Containers>,
    name: String,
    kept: bool,
}

impl NameReservation {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for NameReservation {
    fn drop(&mut self) {
        if !self.kept {
            self.containers.0.write().expect("index").by_name.remove(&self.name);
        }
    }
}

impl Containers {
    /// Takes `name`, or makes one up.
    pub fn reserve(self: &Arc<Self>, name: Option<&str>, id: &ContainerId) -> Result<NameReservation, NodeError> {
        let mut index = self.0.write().expect("index");
        let name = match name {
            Some(name) => match index.by_name.get(name) {
                Some(by) => return Err(NodeError::NameInUse { name: name.to_owned(), by: by.clone() }),
                None => name.to_owned(),
            },
            None => {
                // The id is random: so is the name.
                let random = u64::from_str_radix(&id.as_str()[..16], 16).unwrap_or_default();
                crate::names::made_up(random, |n| index.by_name.contains_key(n))
            }
        };
        index.by_name.insert(name.clone(), id.clone());
        Ok(NameReservation { containers: self.clone(), name, kept: false })
    }

    /// The container that reserved the name has it now, and its old one is free.
    pub fn rename(&self, mut reservation: NameReservation, old: &str) {
        reservation.kept = true;
        self.0.write().expect("index").by_name.remove(old);
    }

    /// Adds a container under the name that was reserved for it.
    pub fn add(&self, mut reservation: NameReservation, container: Arc<Container>) {
        reservation.kept = true;
        self.0.write().expect("index").by_id.insert(container.id.clone(), container);
    }

    /// Adds one that the store knew.
    pub fn add_known(&self, container: Arc<Container>) {
        let mut index = self.0.write().expect("index");
        index.by_name.insert(container.record().name.clone(), container.id.clone());
        index.by_id.insert(container.id.clone(), container);
    }

    /// Takes a container out; its name is free again.
    pub fn take_out(&self, container: &Container) {
        let record = container.record();
        let mut index = self.0.write().expect("index");
        index.by_id.remove(&container.id);
        if index.by_name.get(&record.name) == Some(&container.id) {
            index.by_name.remove(&record.name);
        }
        if let Some(exit) = &record.exit {
            if index.departed.len() >= DEPARTED_MAX {
                index.departed.pop_front();
            }
            index.departed.push_back((container.id.clone(), record.name.clone(), exit.clone()));
        }
        container.gone.cancel();
    }

    /// By id, by name, by a prefix of the id that fits only one. What has the form of an id is one: whoever looked at a container and goes on with
    /// its id gets that container or none, whatever others were given as their names meanwhile.
    pub fn find(&self, name: &str) -> Result<Arc<Container>, NodeError> {
        let index = self.0.read().expect("index");
        let not_found = || NodeError::ContainerNotFound(name.to_owned());
        if name.parse::<ContainerId>().is_ok() {
            return index.by_id.get(name).cloned().ok_or_else(not_found);
        }
        if let Some(c) = index.by_name.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(c.clone());
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(not_found());
        }
        let from = (std::ops::Bound::Included(name), std::ops::Bound::Unbounded);
        let mut fits = index.by_id.range::<str, _>(from).take_while(|(id, _)| id.as_str().starts_with(name));
        match (fits.next(), fits.next()) {
            (None, _) => Err(not_found()),
            (Some((_, c)), None) => Ok(c.clone()),
            _ => Err(NodeError::Ambiguous(name.to_owned(), "container")),
        }
    }

    /// How containers ended that an earlier agent saw off, from its events, oldest first.
    pub fn remember_departed(&self, events: &[berth_model::event::Event]) {
        let mut index = self.0.write().expect("index");
        for event in events.iter().filter(|e| e.kind == berth_model::event::EventKind::Container && e.action == "die") {
            let attribute = |key: &str| event.attributes.get(key).cloned();
            let number = |key: &str| attribute(key).and_then(|text| text.parse().ok());
            let (Ok(id), Some(code)) = (event.subject.parse(), number("exit_code")) else { continue };
            let exit = ExitStatus {
                code,
                signal: number("signal"),
                oom_killed: false,
                reason: attribute("reason"),
                finished: event.time,
                ..ExitStatus::default()
            };
            if index.departed.len() >= DEPARTED_MAX {
                index.departed.pop_front();
            }
            index.departed.push_back((id, attribute("name").unwrap_or_default(), exit));
        }
    }

    /// How a container ended that was removed a short while ago.
    pub fn departed(&self, name: &str) -> Option<(ContainerId, ExitStatus)> {
        let index = self.0.read().expect("index");
        let fits = |(id, n, _): &&(ContainerId, String, ExitStatus)| id.as_str() == name || n == name;
        index.departed.iter().rev().find(fits).map(|(id, _, exit)| (id.clone(), exit.clone()))
    }

    pub fn all(&self) -> Vec<Arc<Container>> {
        self.0.read().expect("index").by_id.values().cloned().collect()
    }
}

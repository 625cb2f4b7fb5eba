//! What containers use, measured once a second for all who watch together, and not at all while nobody does.
//!
//! One task samples; its samples go to every watcher by a broadcast channel. A watcher that falls behind misses samples, never its turn.

use crate::node::Inner;
use crate::{Node, NodeError};
use berth_model::{ContainerId, ContainerRecord, Phase, Timestamp};
use berth_network::{Counters as Link, LinkCounters, counters_inside};
use berth_runtime::{CounterFiles, Counters};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;

/// The shortest time between two samples.
const TICK: Duration = Duration::from_secs(1);
/// Samples that wait for a watcher, some 100 bytes for each container.
const QUEUE: usize = 4;
/// Ticks for which the files of a container that nobody asks for stay open.
const KEPT: u64 = 60;
/// The share of the process's descriptors that may be kept open for counters.
const SHARE: u64 = 4;

/// One container in one sample.
#[derive(Clone, Debug)]
pub struct ContainerSample {
    /// As it was then: name, labels, limits.
    pub record: Arc<ContainerRecord>,
    /// When its counters were read, on a clock that never jumps; only differences mean something.
    pub clock_ns: u64,
    pub counters: Counters,
    /// Of all its own networks together, as it sees them.
    pub network: Option<Link>,
}

/// What all running containers that somebody watches used at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    pub time: Timestamp,
    /// By id.
    pub containers: Vec<ContainerSample>,
    tick: u64,
    /// Of every container that runs.
    whole: bool,
}

/// The samples of one watcher. Dropping it ends its share of the work.
pub struct StatsWatch {
    watcher: Arc<Watcher>,
    samples: broadcast::Receiver<Arc<Sample>>,
    /// One that was there already.
    first: Option<Arc<Sample>>,
}

struct Watcher {
    /// None: all.
    ids: Option<BTreeSet<ContainerId>>,
    /// In ticks.
    every: u64,
    /// The first tick that is wanted.
    from: u64,
}

impl Watcher {
    fn is_due(&self, tick: u64) -> bool {
        tick >= self.from && (tick - self.from).is_multiple_of(self.every)
    }
}

impl StatsWatch {
    /// The next sample. It may hold containers that this watcher did not ask for.
    ///
    /// # Errors
    /// `Stopping`.
    pub async fn next(&mut self) -> Result<Arc<Sample>, NodeError> {
        if let Some(sample) = self.first.take() {
            return Ok(sample);
        }
        loop {
            match self.samples.recv().await {
                Ok(sample) if self.watcher.is_due(sample.tick) => return Ok(sample),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(NodeError::Stopping),
            }
        }
    }
}

/// The sampler, if there is one.
#[derive(Default)]
pub(crate) struct Stats(Mutex<Option<Live>>);

impl Stats {
    /// How many watch.
    pub fn watchers(&self) -> u64 {
        let live = self.0.lock().expect("stats");
        live.as_ref().map_or(0, |l| l.watchers.iter().filter(|w| w.strong_count() > 0).count() as u64)
    }
}

struct Live {
    samples: broadcast::Sender<Arc<Sample>>,
    watchers: Vec<Weak<Watcher>>,
    tick: u64,
    latest: Option<Arc<Sample>>,
}

impl Node {
    /// What containers use, every `interval` (whole seconds, at least one), from now on. `ids`: None: of all that run.
    pub fn stats(&self, ids: Option<BTreeSet<ContainerId>>, interval: Duration) -> StatsWatch {
        let inner = self.inner();
        let mut live = inner.stats.0.lock().expect("stats");
        let running = live.is_some();
        let live = live.get_or_insert_with(|| Live {
            samples: broadcast::Sender::new(QUEUE),
            watchers: Vec::new(),
            tick: 0,
            latest: None,
        });
        let every = interval.as_secs().max(1);
        let fresh = |s: &&Arc<Sample>| s.whole && s.tick == live.tick;
        let first = live.latest.as_ref().filter(fresh).cloned();
        let from = live.tick + if first.is_some() { every } else { 1 };
        let watcher = Arc::new(Watcher { ids, every, from });
        live.watchers.push(Arc::downgrade(&watcher));
        let samples = live.samples.subscribe();
        if !running {
            inner.watchers.spawn(run(inner.clone()));
        }
        StatsWatch { watcher, samples, first }
    }

    /// What all running containers use now, once.
    ///
    /// # Errors
    /// `Stopping`.
    pub async fn sample(&self) -> Result<Sample, NodeError> {
        let inner = self.inner().clone();
        self.inner().blocking(move || Ok(Sampler::new(0).sample(&inner, None, 0))).await
    }
}

async fn run(inner: Arc<Inner>) {
    let budget = open_files();
    let mut sampler = Sampler::new(budget);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = inner.stop.cancelled() => {
                *inner.stats.0.lock().expect("stats") = None;
                return;
            }
        }
        let Some((tick, wanted)) = due(&inner.stats) else { return };
        let Some(wanted) = wanted else { continue };
        let inner_ = inner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let ids = wanted.as_ref();
            let sample = sampler.sample(&inner_, ids, tick);
            (sampler, sample)
        });
        let Ok((sampler_, sample)) = done.await else {
            *inner.stats.0.lock().expect("stats") = None;
            return;
        };
        sampler = sampler_;
        let sample = Arc::new(sample);
        if let Some(live) = inner.stats.0.lock().expect("stats").as_mut() {
            live.latest = Some(sample.clone());
            // Err: nobody watches any more; the next tick sees it.
            let _ = live.samples.send(sample);
        }
    }
}

/// The ids whose turn it is; None: all.
type Wanted = Option<BTreeSet<ContainerId>>;

/// Begins a tick: what is wanted, if anything. None: nobody watches, and the sampler is no more.
fn due(stats: &Stats) -> Option<(u64, Option<Wanted>)> {
    let mut guard = stats.0.lock().expect("stats");
    let live = guard.as_mut()?;
    live.tick += 1;
    let tick = live.tick;
    live.watchers.retain(|w| w.strong_count() > 0);
    if live.watchers.is_empty() {
        *guard = None;
        return None;
    }
    let mut wanted: Option<Wanted> = None;
    for watcher in live.watchers.iter().filter_map(Weak::upgrade).filter(|w| w.is_due(tick)) {
        match (&watcher.ids, wanted.get_or_insert_with(|| Some(BTreeSet::new()))) {
            (Some(ids), Some(all)) => all.extend(ids.iter().cloned()),
            (None, _) => wanted = Some(None),
            (Some(_), None) => {}
        }
    }
    Some((tick, wanted))
}

fn open_files() -> usize {
    let nofile = berth_sys::process::RESOURCES.iter().find(|(name, _)| *name == "nofile").map(|(_, n)| *n);
    let soft = nofile.and_then(|n| berth_sys::process::rlimit(n).ok()).map_or(0, |(soft, _)| soft);
    usize::try_from(soft / SHARE).unwrap_or(usize::MAX)
}

/// What one container's counters are read from.
struct Files {
    /// Which of its runs they belong to.
    run: u32,
    counters: CounterFiles,
    /// The host's ends of its interfaces, by name and index.
    interfaces: Vec<(String, Option<u32>)>,
    /// The tick in which it was there last.
    seen: u64,
}

impl Files {
    /// Looks for the host's ends where the container's networks are others than before.
    fn find_interfaces(&mut self, record: &ContainerRecord, links: Option<&LinkCounters>) {
        let names = || record.networks.iter().map(|n| n.host_interface.as_str());
        let known = self.interfaces.iter().all(|(name, index)| index.is_some() || name.is_empty());
        if !known || !names().eq(self.interfaces.iter().map(|(name, _)| name.as_str())) {
            let index = |name: &str| links.filter(|_| !name.is_empty())?.index(name);
            self.interfaces = names().map(|name| (name.to_owned(), index(name))).collect();
        }
    }

    /// The sum over its networks; a macvlan has no end on the host, and is read where it is.
    fn network(&self, record: &ContainerRecord, by_index: &HashMap<u32, Link>) -> Option<Link> {
        let one = |(attachment, (name, index)): (&berth_model::network::NetworkAttachment, &(String, Option<u32>))| {
            if name.is_empty() {
                return counters_inside(record.process.as_ref()?.pid, &attachment.interface);
            }
            by_index.get(&(*index)?).map(|link| link.other_end())
        };
        record.networks.iter().zip(&self.interfaces).filter_map(one).reduce(|sum, next| sum + next)
    }
}

struct Sampler {
    files: BTreeMap<ContainerId, Files>,
    links: Option<LinkCounters>,
    by_index: HashMap<u32, Link>,
    scratch: Vec<u8>,
    /// Descriptors that may still be kept open.
    budget: usize,
}

impl Sampler {
    fn new(budget: usize) -> Sampler {
        Sampler { files: BTreeMap::new(), links: None, by_index: HashMap::new(), scratch: Vec::new(), budget }
    }

    /// Blocking, some 50 us a container.
    fn sample(&mut self, inner: &Inner, ids: Option<&BTreeSet<ContainerId>>, tick: u64) -> Sample {
        let time = Timestamp::now();
        let mut records: Vec<Arc<ContainerRecord>> = inner.containers.all().iter().map(|c| c.record()).collect();
        records.retain(|r| r.phase == Phase::Running && ids.is_none_or(|ids| ids.contains(&r.id)));
        if records.iter().any(|r| !r.networks.is_empty()) {
            self.read_links();
        }
        let containers = records.into_iter().filter_map(|record| self.one(inner, record, tick)).collect();
        // A watcher with few ids must not close what another one needs in a second.
        let kept = tick.saturating_sub(KEPT);
        let budget = &mut self.budget;
        self.files.retain(|id, files| {
            let running = || inner.containers.find(id.as_str()).is_ok_and(|c| c.phase() == Phase::Running);
            let keep = files.seen == tick || (files.seen >= kept && running());
            if !keep {
                *budget += files.counters.open_files();
            }
            keep
        });
        Sample { time, containers, tick, whole: ids.is_none() }
    }

    fn one(&mut self, inner: &Inner, record: Arc<ContainerRecord>, tick: u64) -> Option<ContainerSample> {
        if self.files.get(&record.id).is_some_and(|f| f.run != record.starts) {
            self.close(&record.id);
        }
        if !self.files.contains_key(&record.id) {
            let counters = inner.runtime.counters(&record.id, self.budget);
            self.budget -= counters.open_files();
            let files = Files { run: record.starts, counters, interfaces: Vec::new(), seen: tick };
            self.files.insert(record.id.clone(), files);
        }
        let files = self.files.get_mut(&record.id)?;
        files.seen = tick;
        let counters = files.counters.read(&mut self.scratch);
        // One for all agents of this boot: who watches goes on over the death of one.
        let clock_ns = berth_sys::store::since_boot_ns();
        files.find_interfaces(&record, self.links.as_ref());
        let network = files.network(&record, &self.by_index);
        match counters {
            Some(counters) => Some(ContainerSample { record, clock_ns, counters, network }),
            None => {
                self.close(&record.id);
                None
            }
        }
    }

    fn close(&mut self, id: &ContainerId) {
        if let Some(files) = self.files.remove(id) {
            self.budget += files.counters.open_files();
        }
    }

    fn read_links(&mut self) {
        self.by_index.clear();
        if self.links.is_none() {
            self.links = LinkCounters::open().inspect_err(|e| tracing::warn!(error = %e, "network counters")).ok();
        }
        let Some(links) = &mut self.links else { return };
        let by_index = &mut self.by_index;
        if let Err(e) = links.read(|index, counters| {
            by_index.insert(index, counters);
        }) {
            tracing::warn!(error = %e, "network counters");
            self.links = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(watchers: &[Arc<Watcher>]) -> Stats {
        let watchers = watchers.iter().map(Arc::downgrade).collect();
        let samples = broadcast::Sender::new(QUEUE);
        Stats(Mutex::new(Some(Live { samples, watchers, tick: 0, latest: None })))
    }

    fn watcher(ids: &[u8], every: u64, from: u64) -> Arc<Watcher> {
        let ids: BTreeSet<ContainerId> = ids.iter().map(|n| ContainerId::from_bytes([*n; 32])).collect();
        Arc::new(Watcher { ids: (!ids.is_empty()).then_some(ids), every, from })
    }

    #[test]
    fn only_what_is_due_is_sampled() {
        let mut watchers = vec![watcher(&[1], 2, 1), watcher(&[2], 3, 1), watcher(&[], 10, 5)];
        let stats = live(&watchers);
        let ids = |wanted: Option<Wanted>| match wanted {
            None => "nothing".to_owned(),
            Some(None) => "all".to_owned(),
            Some(Some(ids)) => ids.iter().map(|id| id.as_str()[1..2].to_owned()).collect(),
        };
        let seen: Vec<String> = (0..7).map(|_| ids(due(&stats).expect("watched").1)).collect();
        assert_eq!(seen, ["12", "nothing", "1", "2", "all", "nothing", "12"]);
        watchers.clear();
        assert!(due(&stats).is_none() && stats.0.lock().unwrap().is_none(), "nobody watches");
    }
}

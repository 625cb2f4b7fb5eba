//! Opens a node: finds every container again, ends what is half done, removes what has no owner.

mod decide;

use self::decide::{Action, Findings};
use crate::boot;
use crate::container::{Container, Containers, Taken};
use crate::events::Events;
use crate::exit;
use crate::health;
use crate::images::{self, ImageIndex};
use crate::info::host_platform;
use crate::layers::Layers;
use crate::logs::{self, Forwarders, LogWatch};
use crate::nets::Nets;
use crate::node::{Inner, RESTARTS_AT_ONCE};
use crate::places::{self, Places};
use crate::reaper::{self, Job};
use crate::requests::Requests;
use crate::resolver::{self, Resolver};
use crate::store::{Durability, Loaded, Store, StoreError, There, Write};
use crate::timers::{self, Timers};
use crate::userns::{self, Ranges};
use crate::{NodeConfig, NodeError, cni, own, pause, selinux, session, volumes};
use berth_image::Images;
use berth_model::event::EventKind;
use berth_model::image::ImageRecord;
use berth_model::network::Attachments;
use berth_model::state::ProcessRecord;
use berth_model::{ContainerId, ContainerRecord, Digest, Phase, Timestamp};
use berth_network::Networks;
use berth_rootfs::LayerStore;
use berth_runtime::{ContainerPaths, OtherFound, Runtime, Shim};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long an agent that is being replaced may take to let go of the folder.
const LOCK: Duration = Duration::from_secs(3);
/// Processes of a container without an owner die within this.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// Layers and downloads that nobody took up are looked for so often.
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// A shim that does not answer is asked so often, for 5 s each time.
const SHIM_TRIES: u32 = 4;
const SHIM_PAUSE: Duration = Duration::from_millis(200);
/// Copies at once, a quarter for one caller and the last eighth for admins; more wait. Each has a thread (the runtime has 512) and some hundred KB.
const COPIES: usize = 64;
/// The same for diffs.
const DIFFS: usize = 32;

/// What open() needs from blocking calls.
struct Parts {
    lock: File,
    own_folders: selinux::Own,
    store: Store,
    loaded: Loaded,
    layers: Layers,
    registry: Images,
    networks: Networks,
    runtime: Runtime,
    volumes: volumes::Opened,
    boot_id: String,
    no_userns: Option<String>,
    other_runtimes: Vec<OtherFound>,
}

pub(crate) async fn open(config: NodeConfig) -> Result<Arc<Inner>, NodeError> {
    let begun = Instant::now();
    let config_ = config.clone();
    let parts = tokio::task::spawn_blocking(move || parts(&config_)).await;
    let Ok(parts) = parts else { return Err(NodeError::Stopping) };
    let Parts {
        lock,
        own_folders,
        store,
        mut loaded,
        layers,
        registry,
        networks,
        runtime,
        volumes,
        boot_id,
        no_userns,
        other_runtimes,
    } = parts?;
    let opened = begun.elapsed();
    let records = std::mem::take(&mut loaded.containers);
    let nets = Nets::new(&config, std::mem::take(&mut loaded.networks));
    nets.all().iter().filter(|n| !n.is_predefined()).for_each(|n| networks.add(n));
    // Those that are being removed, too: the reaper has them.
    let known = records.iter().map(|r| r.id.clone()).collect();
    let (reaper, jobs) = reaper::channel();
    let seen_off = Containers::default();
    seen_off.remember_departed(&loaded.events);
    let resolver = Resolver::new(&config.run_root);
    if let Some(missing) = &no_userns {
        tracing::warn!(missing, "no user namespaces for containers");
    }
    let inner = Arc::new(Inner {
        pairs: Default::default(),
        own_folders,
        userns: Ranges::new(config.userns.clone(), no_userns),
        started: Timestamp::now(),
        platform: host_platform(),
        events: Events::new(loaded.events, loaded.newest_cursor, config.event_history),
        requests: Requests::new(loaded.requests),
        containers: Arc::new(seen_off),
        cdi_dirs: config.cdi_dirs.clone(),
        cni: cni::open(&config.cni, &config.data_root, &config.run_root),
        images: ImageIndex::new(loaded.images, loaded.tags, loaded.doomed, loaded.used),
        config,
        boot_id,
        store,
        layers,
        registry,
        networks,
        nets,
        resolver,
        runtime,
        volumes: volumes.volumes,
        stats: Default::default(),
        counts: Default::default(),
        reaper,
        room_beside: Arc::new(tokio::sync::Semaphore::new(crate::node::BESIDE)),
        copies: Places::new("copies, exports, imports and commits", COPIES, places::PATIENCE),
        diffs: Places::new("diffs", DIFFS, places::PATIENCE),
        timers: Timers::default(),
        probes: tokio::sync::Semaphore::new(health::PROBES_AT_ONCE),
        restarts: Arc::new(tokio::sync::Semaphore::new(RESTARTS_AT_ONCE)),
        forwarders: Forwarders::default(),
        log_watch: Arc::new(LogWatch::new()),
        tasks: TaskTracker::new(),
        watchers: TaskTracker::new(),
        stop: CancellationToken::new(),
        spared: Mutex::default(),
        other_runtimes,
        _lock: lock,
    });
    inner.watchers.spawn(reaper::run(inner.clone(), jobs));
    inner.watchers.spawn(session::sweep(inner.clone()));
    inner.watchers.spawn(volumes::sweep_parts(inner.clone()));
    let recovered = containers(&inner, records, loaded.same_boot).await;
    if let Err(e) = recovered {
        inner.stop.cancel();
        return Err(e);
    }
    let event = inner.events.add(EventKind::Node, "start", "node", BTreeMap::new());
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    volumes::sweep(&inner, volumes.writes, volumes.leftovers).await;
    background(&inner, known, loaded.spare_unknown).await?;
    // Those that have ended, too: their last lines may not be handed over yet.
    for container in inner.containers.all() {
        Forwarders::start(&inner, &container);
    }
    inner.watchers.spawn(resolver::run(inner.clone()));
    inner.watchers.spawn(inner.log_watch.clone().run(inner.stop.clone()));
    inner.watchers.spawn(logs::keep::run(inner.clone()));
    // Not before: all that runs has its address by now, and what is due keeps to the order of the boot.
    boot::begin(&inner, loaded.same_boot).await;
    inner.watchers.spawn(timers::run(inner.clone()));
    crate::gc::at_intervals(&inner);
    tracing::info!(
        containers = inner.containers.all().len(),
        images = inner.images.count(),
        ?opened,
        ready = ?begun.elapsed(),
        last_close_clean = loaded.clean,
        "the node is open"
    );
    Ok(inner)
}

fn parts(config: &NodeConfig) -> Result<Parts, NodeError> {
    private_folder(&config.run_root)?;
    private_folder(&config.run_root.join("sessions"))?;
    for dir in [&config.data_root, &config.run_root] {
        private_folder(dir)?;
        private_folder(&dir.join("containers"))?;
    }
    let lock = lock(&config.data_root.join("lock"))?;
    let own_folders = selinux::Own::find(&[&config.data_root, &config.run_root]);
    let own_folders = own_folders.map_err(NodeError::io("looking where data_root and run_root are"))?;
    let boot_id = berth_sys::store::boot_id().map_err(NodeError::io("reading the boot id"))?;
    // The runtime compiles its filter and seals the shim beside the reading of the store.
    std::thread::scope(|scope| {
        let runtime = scope.spawn(|| Runtime::new(config.runtime.clone()));
        let (store, mut loaded) = Store::open(&config.data_root.join("node.db"), &boot_id, config.event_history)?;
        let layers = Layers::new(LayerStore::open(&config.data_root.join("layers"), config.layer_driver)?);
        let registry = Images::open(config.images.clone(), Arc::new(layers.clone()))?;
        let no_userns = userns::probe(&layers.store, &config.data_root);
        let networks = Networks::open(config.network.clone())?;
        let runtime = match runtime.join() {
            Ok(runtime) => runtime?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        selinux::label_layers(&runtime, &layers.store, &config.data_root.join("layers"))?;
        let other_runtimes = other_runtimes(&runtime);
        let volumes = volumes::open(
            &config.data_root.join("volumes"),
            config.shared_paths.clone(),
            std::mem::take(&mut loaded.volumes),
        )?;
        let boot_id = boot_id.clone();
        Ok(Parts {
            lock,
            own_folders,
            store,
            loaded,
            layers,
            registry,
            networks,
            runtime,
            volumes,
            boot_id,
            no_userns,
            other_runtimes,
        })
    })
}

/// What the configured runtimes are, for the log and for who asks later.
fn other_runtimes(runtime: &Runtime) -> Vec<OtherFound> {
    let others = runtime.others();
    for other in &others {
        match &other.version {
            Ok(version) => tracing::info!(runtime = other.name, path = other.path, version, "another runtime"),
            Err(why) => tracing::warn!(runtime = other.name, path = other.path, why, "a runtime that does not answer"),
        }
    }
    others
}

/// Makes a new database of a damaged one (blocking); `None`: it is whole. See [`crate::Repaired`].
pub(crate) fn repair(config: &NodeConfig) -> Result<Option<crate::Repaired>, NodeError> {
    let _lock = lock(&config.data_root.join("lock"))?;
    let path = config.data_root.join("node.db");
    let boot_id = berth_sys::store::boot_id().map_err(NodeError::io("reading the boot id"))?;
    match Store::open(&path, &boot_id, config.event_history) {
        // The threads end with the last handle.
        Ok(_) => return Ok(None),
        Err(StoreError::Damaged { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let container = |id: &ContainerId| config.data_root.join("containers").join(id.as_str()).is_dir();
    let layer = |d: &Digest| config.data_root.join("layers/layers").join(d.algorithm().name()).join(d.hex()).is_dir();
    let volume = |name: &str| config.data_root.join("volumes").join(name).is_dir();
    Ok(Some(crate::store::repair(&path, &There { container: &container, layer: &layer, volume: &volume })?))
}

/// 0700: what is below is nobody else's business.
fn private_folder(dir: &Path) -> Result<(), NodeError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(NodeError::io(format!("making {}", dir.display())))
}

/// flock(2): the kernel lets go of it with the process, however that ends.
fn lock(path: &Path) -> Result<File, NodeError> {
    let act = || format!("locking {}", path.display());
    let file = File::options().create(true).append(true).open(path).map_err(NodeError::io(act()))?;
    let until = Instant::now() + LOCK;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(e)) => return Err(NodeError::Io { act: act(), source: e }),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, "another agent uses this folder");
                return Err(NodeError::Io { act: act(), source });
            }
        }
    }
}

/// One container with what was found of it.
struct Found {
    container: Arc<Container>,
    shim: Option<Shim>,
    action: Action,
}

async fn containers(inner: &Arc<Inner>, records: Vec<ContainerRecord>, same_boot: bool) -> Result<(), NodeError> {
    let mut looking = JoinSet::new();
    for record in records {
        let inner = inner.clone();
        looking.spawn(async move { look(&inner, record, same_boot).await });
    }
    let mut all = Vec::new();
    while let Some(found) = looking.join_next().await {
        all.push(found.map_err(|_| NodeError::Stopping)?);
    }
    for found in &all {
        if found.action != Action::Remove {
            inner.containers.add_known(found.container.clone());
        }
        inner.volumes.known(&found.container.record(), found.shim.is_some());
    }
    let inner_ = inner.clone();
    inner
        .blocking(move || {
            volumes::detach_unused(&inner_);
            inner_.containers.all().iter().for_each(|container| own::let_go(&inner_, container));
            Ok(())
        })
        .await?;
    // Before anything is attached anew: addresses of living containers are taken.
    let live: Vec<(ContainerId, Attachments)> = all
        .iter()
        .filter(|f| f.action == Action::Adopt && !f.container.record().networks.is_empty())
        .map(|f| (f.container.id.clone(), f.container.record().networks.clone()))
        .collect();
    let inner_ = inner.clone();
    let recovered = move || {
        cni::recover(&inner_, &live);
        Ok(inner_.networks.recover(&live)?)
    };
    inner.blocking(recovered).await?;

    let mut acting = JoinSet::new();
    for found in all {
        let inner = inner.clone();
        acting.spawn(async move { act(&inner, found).await });
    }
    while acting.join_next().await.is_some() {}
    crate::network_change::recover(inner).await;
    cni::from_files(inner).await;
    Ok(())
}

async fn look(inner: &Arc<Inner>, record: ContainerRecord, same_boot: bool) -> Found {
    let paths = inner.paths(&record.id);
    let may_run = !matches!(record.phase, Phase::Created);
    let same_boot = record.process.as_ref().map_or(same_boot, |p| p.boot_id == inner.boot_id);
    let mut shim = None;
    if may_run && same_boot {
        shim = find_shim(inner, &paths, &record.id).await;
    }
    let mut exit = None;
    if shim.is_none() && matches!(record.phase, Phase::Starting | Phase::Running) {
        let runtime = inner.runtime.clone();
        let read = tokio::task::spawn_blocking(move || runtime.read_exit(&paths)).await;
        exit = match read {
            Ok(Ok(exit)) => exit,
            Ok(Err(e)) => {
                tracing::warn!(container = %record.id, error = %e, "reading what a shim left");
                None
            }
            Err(_) => None,
        };
    }
    let action = decide::decide(&record, &Findings { shim: shim.is_some(), exit, same_boot });
    let image = inner.images.get(&record.image_id).unwrap_or_else(|| lost_image(&record));
    let effective = inner.runtime.effective(&record.spec, &image.config).unwrap_or_default();
    let taken = Taken { ids: inner.userns.known(&record.userns), labels: inner.pairs.known(&record.selinux) };
    Found { container: Container::new(record, image, Arc::new(effective), taken), shim, action }
}

/// No answer is no proof that there is none: a starved host lets a shim wait for seconds, and a container that is taken for dead is killed.
async fn find_shim(inner: &Inner, paths: &ContainerPaths, id: &ContainerId) -> Option<Shim> {
    for _ in 0..SHIM_TRIES {
        match inner.runtime.reconnect(paths, id).await {
            Ok(found) => return found,
            Err(e) => tracing::warn!(container = %id, error = %e, "looking for a shim"),
        }
        tokio::time::sleep(SHIM_PAUSE).await;
    }
    None
}

/// In place of an image that the store has lost: its containers can be looked at and removed.
fn lost_image(record: &ContainerRecord) -> Arc<ImageRecord> {
    tracing::warn!(container = %record.id, image = %record.image_id, "its image is not in the store");
    Arc::new(ImageRecord {
        id: record.image_id.clone(),
        manifest: record.image_id.clone(),
        target: record.image_id.clone(),
        platform: host_platform(),
        layers: Vec::new(),
        config: Default::default(),
        created: None,
        pulled: Timestamp::default(),
        repo_digests: Vec::new(),
        author: None,
        history: Vec::new(),
        annotations: BTreeMap::new(),
    })
}

async fn act(inner: &Arc<Inner>, found: Found) {
    let Found { container, shim, action } = found;
    let id = container.id.clone();
    // What has ended is settled by every agent: nothing says whether the last one came to it, and again does no harm.
    let as_it_was = matches!(action, Action::Keep | Action::Adopt) || (action == Action::Settle && shim.is_none());
    if !as_it_was {
        tracing::info!(container = %id, ?action, phase = %container.phase(), "found half done");
    }
    match action {
        Action::Keep => {}
        Action::Adopt => adopt(inner, container, shim).await,
        Action::End(status) => {
            let status = exit::after_absence(inner, &container, status).await;
            kill_leftovers(inner, &id, None).await;
            exit::finish(inner, &container, status, None).await;
        }
        Action::Settle => {
            if let Some(shim) = shim {
                shim.release().await;
            }
            let teardown = Some(container.teardown().await);
            inner.reap(Job { container, root: None, networks: Attachments::default(), remove: false, teardown }).await;
        }
        Action::Revert => {
            let mut gate = container.enter_first().await;
            let networks = container.record().networks.clone();
            let record = gate.change(|r| {
                r.phase = if r.exit.is_some() { Phase::Exited } else { Phase::Created };
                r.error = Some("the agent ended in the middle of the start".to_owned());
                r.process = None;
                r.networks.clear();
                r.starts = r.starts.saturating_sub(1);
            });
            abandon(shim.as_ref()).await;
            let teardown = Some(container.teardown().await);
            let written = inner.store.submit(vec![Write::PutContainer(record)], Durability::Quick).await;
            if let Err(e) = written {
                tracing::error!(container = %id, error = %e, "a start that was undone could not be written down");
            }
            drop(gate);
            kill_leftovers(inner, &id, shim).await;
            inner.reap(Job { container, root: None, networks, remove: false, teardown }).await;
        }
        Action::Remove => {
            if matches!(container.phase(), Phase::Creating | Phase::Starting) {
                // It did not run as far as anybody was told: the request that made it may make it again.
                abandon(shim.as_ref()).await;
                if let Some(write) = inner.requests.undone(container.record().request.as_ref()) {
                    let _ = inner.store.submit(vec![write], Durability::Quick).await;
                }
            }
            kill_leftovers(inner, &id, shim).await;
            let networks = container.record().networks.clone();
            inner.reap(Job { container, root: None, networks, remove: true, teardown: None }).await;
        }
    }
}

async fn adopt(inner: &Arc<Inner>, container: Arc<Container>, shim: Option<Shim>) {
    let Some(shim) = shim else { return };
    let mut gate = container.enter_first().await;
    gate.set_shim(Some(shim.clone()));
    if container.phase() == Phase::Starting {
        let (pid, start_time) = shim.pid();
        let (shim_pid, shim_start_time) = shim.shim_pid();
        let boot_id = inner.boot_id.clone();
        let state = health::begin(&gate);
        let record = gate.change(|r| {
            r.phase = Phase::Running;
            r.exit = None;
            r.finished = None;
            r.process = Some(ProcessRecord { pid, start_time, shim_pid, shim_start_time, boot_id });
            r.supervision.has_started();
            r.supervision.health = state;
        });
        gate.set_life(crate::container::Life::Open);
        let writes = vec![Write::PutContainer(record.clone()), inner.events.add_container(&record, "start", &[])];
        if let Err(e) = inner.store.submit(writes, Durability::Quick).await {
            tracing::error!(container = %container.id, error = %e, "a start could not be written down");
        }
    }
    crate::commit::recover(inner, &container);
    crate::network_connect::adopt(inner, &mut gate).await;
    let frozen = inner.runtime.is_frozen(&container.id);
    if frozen != container.record().paused
        && let Err(e) = pause::tell(inner, &mut gate, frozen).await
    {
        tracing::error!(container = %container.id, error = %e, "its state could not be written down");
    }
    drop(gate);
    health::adopt(inner, &container);
    exit::watch(inner, container, shim);
}

/// Nobody may come back to what is undone.
async fn abandon(shim: Option<&Shim>) {
    if let Some(shim) = shim {
        shim.abandon().await;
    }
}

/// Kills what is in the container's cgroup, and lets its shim go.
async fn kill_leftovers(inner: &Arc<Inner>, id: &ContainerId, shim: Option<Shim>) {
    let (runtime, id_) = (inner.runtime.clone(), id.clone());
    let killed = inner.blocking(move || Ok(runtime.kill_all(&id_, LEFTOVERS)?)).await;
    if let Err(e) = killed {
        tracing::debug!(container = %id, error = %e, "killing leftovers");
    }
    if let Some(shim) = shim {
        let _ = tokio::time::timeout(Duration::from_secs(2), shim.wait()).await;
        shim.release().await;
    }
}

/// Behind the opening: things without an owner, and layers that nobody took up.
async fn background(inner: &Arc<Inner>, known: HashSet<ContainerId>, spare: bool) -> Result<(), NodeError> {
    let inner_ = inner.clone();
    // Listed before the first new container is made: what is on the list cannot be a new one's.
    let orphans = inner.blocking(move || orphans(&inner_, &known)).await?;
    let inner_ = inner.clone();
    inner.watchers.spawn(async move {
        for id in orphans {
            remove_orphan(&inner_, id, spare).await;
        }
        loop {
            if let Err(e) = images::sweep(&inner_).await {
                tracing::warn!(error = %e, "sweeping layers and downloads that nobody refers to");
            }
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = inner_.stop.cancelled() => return,
            }
        }
    });
    Ok(())
}

/// Ids with a folder or a cgroup and without a record.
fn orphans(inner: &Inner, known: &HashSet<ContainerId>) -> Result<Vec<ContainerId>, NodeError> {
    let mut ids = inner.runtime.list_cgroups()?;
    for root in [&inner.config.data_root, &inner.config.run_root] {
        let dir = root.join("containers");
        let act = || format!("listing {}", dir.display());
        for entry in std::fs::read_dir(&dir).map_err(NodeError::io(act()))? {
            let name = entry.map_err(NodeError::io(act()))?.file_name();
            if let Some(id) = name.to_str().and_then(|n| n.parse().ok()) {
                ids.push(id);
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| !known.contains(id));
    Ok(ids)
}

async fn remove_orphan(inner: &Arc<Inner>, id: ContainerId, spare: bool) {
    let paths = inner.paths(&id);
    let shim = inner.runtime.reconnect(&paths, &id).await.unwrap_or(None);
    if spare && shim.is_some() {
        tracing::warn!(container = %id, "it runs, and the repaired database does not know it: it is left alone");
        inner.spared.lock().expect("spared").push(id);
        return;
    }
    tracing::info!(container = %id, "removing what has no owner");
    kill_leftovers(inner, &id, shim).await;
    let inner_ = inner.clone();
    let id_ = id.clone();
    let removed = inner.blocking(move || {
        inner_.runtime.remove_cgroups(&id_)?;
        match std::fs::remove_dir_all(&paths.run) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(NodeError::Io { act: format!("removing {}", paths.run.display()), source: e });
            }
            _ => {}
        }
        let dir = inner_.container_dir(&id_);
        if dir.exists() {
            own::remove(&dir)?;
        }
        Ok(())
    });
    if let Err(e) = removed.await {
        tracing::warn!(container = %id, error = %e, "removing what has no owner");
    }
}

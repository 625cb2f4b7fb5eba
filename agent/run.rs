//! The agent's life: lock, node, doors, ready, and a bounded end.

use crate::api;
use crate::audit::{AuditConfig, AuditLog};
use crate::config::{Config, Shutdown};
use crate::metrics::{Calls, Certificates, Metrics, Server};
use crate::serve::Doors;
use crate::tls::TlsStore;
use crate::uninstall;
use crate::upgrade::{self, Place, Upgrades};
use crate::version::version;
use anyhow::{Context, bail};
use berth_node::{Node, Requester};
use sd_notify::NotifyState;
use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How the agent's life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Stop,
    /// Another program is in its place: this process goes on as that.
    Successor,
}

/// For systemd's watchdog, from the end of one program to the answers of the next: as long as the unit's start may take. What hangs is found by
/// the upgrade's own watcher before.
const HANDOVER_USEC: u32 = 180_000_000;

/// Runs until SIGTERM or SIGINT, or until an upgrade. Containers go on.
pub async fn run(mut config: Config, place: Place) -> anyhow::Result<End> {
    #[cfg(feature = "failpoints")]
    break_as_told();
    let _lock = lock(&config.data_root)?;
    let upgrades =
        Upgrades::open(place, config.upgrade.public_key.clone()).context("looking for an upgrade under way")?;
    upgrade::reap_inherited().context("taking over children")?;
    let tcp = config.tcp();
    let store = config.certificates().map(TlsStore::open).transpose()?.map(Arc::new);
    let audit = AuditLog::open(AuditConfig {
        file: config.audit_file(),
        file_bytes: config.audit.file_bytes,
        files: config.audit.files,
        log: config.audit.log,
    })
    .context("opening the audit log")?;
    for why in config.policy.settle() {
        tracing::warn!("policy.operator.host_paths: {why}");
    }
    let node = Node::open(config.node()).await?;
    if let Err(e) = uninstall::remember_group(&config.run_root) {
        tracing::warn!("writing down the agent's cgroup: {e}");
    }
    let addresses = tcp.map(|(addresses, _)| addresses).unwrap_or_default();
    let doors = Doors::open(&addresses, store.clone(), config.unix_socket().as_deref(), &config.limits).await?;
    if doors.names().is_empty() {
        bail!("nothing to listen on: listen.unix is empty, and there are no certificates or listen.tcp is empty");
    }
    let metrics = open_metrics(&config, &node, store, &doors).await?;
    tracing::info!(version = version(), listening = doors.names().join(" "), "ready");
    let stopping = CancellationToken::new();
    let reload = Arc::new(Notify::new());
    let counted = metrics.as_ref().map(|(_, calls)| calls.clone());
    if let Some((server, _)) = metrics {
        tokio::spawn(stopping.clone().run_until_cancelled_owned(server.run()));
    }
    let policy = Arc::new(config.policy.clone());
    let (routes, health) = api::routes(&node, &config, &upgrades).await?;
    let serving = tokio::spawn(doors.serve(routes, audit.clone(), reload.clone(), stopping.clone(), counted, policy));
    // The watchdog counts from here, as it is configured: before an upgrade in place it was given more time.
    let usual =
        sd_notify::watchdog_enabled().and_then(|t| u32::try_from(t.as_micros()).ok()).map(NotifyState::WatchdogUsec);
    let beat = usual.is_some().then_some(NotifyState::Watchdog);
    notify(&[Some(NotifyState::Ready), usual, beat].into_iter().flatten().collect::<Vec<_>>());
    upgrades.serving().context("writing down that the new agent serves")?;
    let end = tokio::select! {
        ended = signals(&reload) => ended.map(|()| End::Stop)?,
        () = upgrades.successor() => End::Successor,
    };

    // A successor takes the containers over.
    let stop_all = end == End::Stop && config.shutdown == Shutdown::Stop;
    if end == End::Stop {
        tracing::info!("stopping; containers {}", if stop_all { "are stopped" } else { "go on" });
        notify(&[NotifyState::Stopping]);
    } else {
        // "Stopping" would make systemd wait for this pid to end. It hears READY=1 again from the successor.
        let now = NotifyState::monotonic_usec_now().ok();
        // Nobody feeds the watchdog until that serves, while calls are drained and containers are found again.
        let longer = sd_notify::watchdog_enabled().map(|_| NotifyState::WatchdogUsec(HANDOVER_USEC));
        notify(&[Some(NotifyState::Reloading), now, longer].into_iter().flatten().collect::<Vec<_>>());
    }
    api::not_serving(&health).await;
    stopping.cancel();
    match tokio::time::timeout(config.limits.drain(), serving).await {
        Ok(served) => served??,
        Err(_) => tracing::warn!("calls under way did not end within {:?}", config.limits.drain()),
    }
    if stop_all {
        stop_containers(&node, Duration::from_secs(config.limits.shutdown_seconds)).await;
    }
    if tokio::time::timeout(Duration::from_secs(10), node.close()).await.is_err() {
        tracing::warn!("work under way did not end; it is taken up at the next start");
    }
    audit.close(Duration::from_secs(5));
    Ok(end)
}

/// The door for figures, where one is wanted, and what counts calls for it.
async fn open_metrics(
    config: &Config,
    node: &Node,
    store: Option<Arc<TlsStore>>,
    doors: &Doors,
) -> anyhow::Result<Option<(Server, Arc<Calls>)>> {
    let Some(address) = config.metrics.listen else { return Ok(None) };
    let calls = Arc::new(Calls::default());
    let certificates = store.filter(|_| config.metrics.tls).map(|store| Certificates { store, look: doors.look() });
    let metrics = Metrics { node: node.clone(), calls: calls.clone() };
    let server = Server::open(address, certificates, metrics).await;
    let server = server.with_context(|| format!("listening on {address} for metrics"))?;
    let over = if config.metrics.tls { "mutual TLS" } else { "this host" };
    tracing::info!(%address, over, "metrics");
    Ok(Some((server, calls)))
}

/// What a test wants to be wrong with this program.
#[cfg(feature = "failpoints")]
fn break_as_told() {
    match crate::version::trait_of("fail") {
        Some("crash") => std::process::abort(),
        Some("exit") => std::process::exit(3),
        Some("slow") => std::thread::sleep(Duration::from_secs(15)),
        Some("hang") => loop {
            std::thread::park();
        },
        _ => {}
    }
}

/// `berthd repair`.
pub fn repair(config: &Config) -> anyhow::Result<()> {
    let _lock = lock(&config.data_root).context("stop the agent first: systemctl stop berthd")?;
    let Some(repaired) = Node::repair(&config.node())? else {
        println!("the database is whole: nothing to repair");
        return Ok(());
    };
    for what in &repaired.unreadable {
        println!("not readable: {what}");
    }
    let (containers, images, names) = (repaired.containers, repaired.images, repaired.names);
    println!("{containers} containers, {images} images and {names} names are in the new database");
    println!("the damaged one is kept as {}", repaired.aside.display());
    println!("Next: start the agent; berthctl info says what it misses, berthctl pull brings images back");
    Ok(())
}

/// Whether this program could serve here, without a word: for the self-check of an upgrade.
pub fn works(config: &Config) -> anyhow::Result<()> {
    if let Some(files) = config.certificates() {
        TlsStore::open(files)?;
    }
    #[cfg(feature = "failpoints")]
    if crate::version::trait_of("fail") == Some("self-check") {
        bail!("broken as told");
    }
    Ok(())
}

/// Nobody is served any more; those that depend on others go first.
async fn stop_containers(node: &Node, within: Duration) {
    // systemd waits for as long as it may take, and for what comes behind it.
    let more = within + Duration::from_secs(30);
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(more.as_micros()).unwrap_or(u32::MAX))]);
    match node.stop_all(&Requester::default(), within).await {
        Ok(shut) => {
            for one in shut {
                if let Some(error) = one.error {
                    tracing::warn!(container = %one.id, name = one.name, error, "it could not be stopped");
                }
            }
        }
        Err(e) => tracing::error!(error = %e, "stopping all containers"),
    }
}

/// Says what would keep an agent with this configuration from starting.
pub fn check(config: &Config) -> anyhow::Result<()> {
    match config.tcp() {
        Some((addresses, files)) => {
            TlsStore::open(files)?;
            for address in addresses {
                println!("listen tcp {address}, mutual TLS");
            }
        }
        None => println!("listen tcp: none (no certificates, or listen.tcp is empty)"),
    }
    if let Some(address) = config.metrics.listen {
        if config.metrics.tls {
            config.certificates().map(TlsStore::open).transpose()?;
        }
        println!("metrics http{}://{address}/metrics", if config.metrics.tls { "s" } else { "" });
    }
    if let Some(path) = config.unix_socket() {
        println!("listen unix {}", path.display());
    }
    println!("data_root {}", config.data_root.display());
    println!("run_root {}", config.run_root.display());
    println!("configuration is good");
    Ok(())
}

/// What a killed agent leaves behind has let go of its lock within this.
const LOCK: Duration = Duration::from_secs(2);

/// One agent per data_root: the lock goes with the process, however it ends.
pub fn lock(data_root: &Path) -> anyhow::Result<File> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_root)
        // It may have been there, as a mounted disk mostly. Environments are in the store, and layers hold setuid programs of any age:
        // nothing of that is for local users.
        .and_then(|()| std::fs::set_permissions(data_root, std::fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("making data_root {}", data_root.display()))?;
    let path = data_root.join("berthd.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening the lock {}", path.display()))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that an agent has made and that shares its descriptors dies a moment after one that was killed.
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => {
                bail!("another berthd is running on {}: it holds {}", data_root.display(), path.display())
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("locking {}", path.display())),
        }
    }
}

/// Returns when the agent shall end; SIGHUP reads the certificates again, and the watchdog of systemd is fed.
async fn signals(reload: &Notify) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    // Twice in each interval, as sd_watchdog_enabled(3) advises.
    let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => {
                tracing::info!("SIGHUP: reading the certificates again; other keys need a restart");
                reload.notify_one();
            }
            () = async {
                match watchdog {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            } => notify(&[NotifyState::Watchdog]),
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("telling systemd {states:?}: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_root_is_roots_alone_and_has_one_agent() {
        let root = std::env::temp_dir().join(format!("berth-agent-root-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let first = lock(&root).unwrap();
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(lock(&root).unwrap_err().to_string().contains("another berthd"));
        drop(first);
        drop(lock(&root).unwrap());
        std::fs::remove_dir_all(&root).unwrap();
    }
}

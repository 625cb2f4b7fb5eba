//! What containers are called, for the DNS server of the host (`berth-names`): a process of its own, so that names go on while there is no agent.
//!
//! One file for each network of one's own with a container on it, in `/run/berth/names`. A start writes it before the workload runs and waits until the
//! server has read it; everything else (an end, a rename, health, connect and disconnect) is seen by one task that compares the files with the
//! records whenever [`crate::nets::Nets`] says that something has changed. The first file starts the server, the last one ends it.

mod process;

use crate::NodeError;
use crate::nets;
use crate::node::Inner;
use berth_model::network::{Attachments, DEFAULT_NETWORK, NetworkAttachment, NetworkDriver, NetworkRecord};
use berth_model::supervision::HealthStatus;
use berth_model::{ContainerId, ContainerRecord, Phase};
use berth_names::zone::{Host, Zone};
use process::Process;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// Changes that come together are one.
const TOGETHER: Duration = Duration::from_millis(10);
/// A server that ends as soon as it is started is started again with this much time between, doubled each time.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(10);

pub(crate) struct Resolver {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the files say, by the network's id.
    written: BTreeMap<String, String>,
    /// Containers that are being started: their records say later where they are.
    joining: HashMap<ContainerId, Arc<ContainerRecord>>,
    process: Option<Process>,
    /// What an agent before this one has left was looked at.
    looked: bool,
    /// Networks that cannot be served, and why.
    failed: Failed,
    /// What the hosts files of containers say of others, where no server does.
    peers: HashMap<ContainerId, String>,
}

impl Resolver {
    pub fn new(run_root: &Path) -> Self {
        Resolver { folder: run_root.join("names"), state: Mutex::default() }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.zone"))
    }

    /// Networks whose names cannot be answered, and why; for the doctor.
    pub fn failed(&self) -> Vec<(String, String)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked again: port 53 may be free by now, and the server tries by itself.
        for (id, (name, _)) in state.failed.clone() {
            let told = state.process.as_ref().and_then(|process| process.tell(&format!("load {id}")).ok());
            if let Some(answer) = told {
                note(&mut state.failed, &id, &name, &answer);
            }
        }
        state.failed.values().cloned().collect()
    }
}

/// Whether names are answered on a network: on bridges of one's own. Docker's default bridge has none, and who is on a macvlan does not reach its
/// host.
fn has_names(network: &NetworkRecord) -> bool {
    network.driver == NetworkDriver::Bridge && !network.is_predefined()
}

/// Whether they are in the hosts files of those who are on it instead.
fn has_peers(network: &NetworkRecord) -> bool {
    network.driver == NetworkDriver::Macvlan
}

fn host(record: &ContainerRecord, attachment: &NetworkAttachment) -> Host {
    let unwell = record.supervision.health.as_ref().is_some_and(|h| h.status == HealthStatus::Unhealthy);
    let v6 = attachment.ipv6.as_ref().map(|six| IpAddr::V6(six.address));
    Host {
        id: record.id.to_string(),
        name: record.name.clone(),
        aliases: attachment.aliases.iter().cloned().chain([record.id.short().to_owned()]).collect(),
        addresses: std::iter::once(IpAddr::V4(attachment.address)).chain(v6).collect(),
        servers: record.spec.dns.iter().filter(|a| !is_own(a)).copied().collect(),
        unwell,
    }
}

/// Leads to whoever asks: a container's own loopback is not that of the server, which asks in the host's namespace. connect(2) to the unspecified
/// address is to the loopback, too.
fn is_own(address: &IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

fn zone(network: &NetworkRecord, hosts: Vec<Host>) -> Zone {
    let mut zone = Zone {
        network: network.name.clone(),
        device: network.bridge.clone(),
        forward: !network.internal,
        hosts,
        ..Zone::default()
    };
    if let Some(v4) = network.ipv4 {
        zone.listen.push(v4.gateway.into());
        zone.subnets.push((v4.subnet.into(), v4.prefix_len));
    }
    if let Some(v6) = network.ipv6 {
        zone.listen.push(v6.gateway.into());
        zone.subnets.push((v6.subnet.into(), v6.prefix_len));
    }
    zone
}

/// A container is about to run: the others find it from here on, and it finds them. Blocking, some hundred microseconds; nothing for a container that
/// is on no network of one's own.
pub(crate) fn join(inner: &Arc<Inner>, record: &Arc<ContainerRecord>) {
    if record.networks.iter().all(|a| a.network == DEFAULT_NETWORK) {
        return;
    }
    let mut state = inner.resolver.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.joining.insert(record.id.clone(), record.clone());
    compare(inner, &mut state);
}

/// It does not run after all.
pub(crate) fn leave(inner: &Arc<Inner>, id: &ContainerId, attachments: &Attachments) {
    if attachments.iter().all(|a| a.network == DEFAULT_NETWORK) {
        return;
    }
    let mut state = inner.resolver.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.joining.remove(id);
    compare(inner, &mut state);
}

/// Keeps the files as the records are, until the node closes; at first with what an agent before this one has left.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut changed = inner.nets.watch();
    loop {
        let inner_ = inner.clone();
        let look = move || {
            let mut state = inner_.resolver.state.lock().unwrap_or_else(PoisonError::into_inner);
            let own = inner_.nets.all().iter().any(|n| has_names(n) || has_peers(n));
            if own || !state.peers.is_empty() || !state.looked || !state.written.is_empty() {
                compare(&inner_, &mut state);
            }
        };
        if tokio::task::spawn_blocking(look).await.is_err() || inner.stop.is_cancelled() {
            return;
        }
        tokio::select! {
            told = changed.changed() => if told.is_err() { return },
            // One more look: what has ended a moment ago is not to leave a server.
            () = inner.stop.cancelled() => continue,
        }
        tokio::time::sleep(TOGETHER).await;
    }
}

/// Who is where, by the network's name.
fn present(inner: &Inner, state: &mut State) -> BTreeMap<String, Vec<Host>> {
    let mut hosts: BTreeMap<String, Vec<Host>> = BTreeMap::new();
    let mut add = |record: &ContainerRecord| {
        for attachment in record.networks.iter().filter(|a| a.network != DEFAULT_NETWORK) {
            hosts.entry(attachment.network.clone()).or_default().push(host(record, attachment));
        }
    };
    for container in inner.containers.all() {
        let record = container.record();
        let joining = state.joining.get(&record.id);
        match (record.phase, joining) {
            // The addresses are in the record that the start has made, and nowhere else yet.
            (Phase::Starting, Some(joining)) => add(joining),
            (Phase::Running, _) => {
                state.joining.remove(&record.id);
                add(&record);
            }
            _ => drop(state.joining.remove(&record.id)),
        }
    }
    hosts.values_mut().for_each(|hosts| hosts.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id))));
    hosts
}

/// What the files are to say.
fn wanted(inner: &Inner, hosts: BTreeMap<String, Vec<Host>>) -> BTreeMap<String, (Arc<NetworkRecord>, Zone)> {
    let networks = hosts.into_iter().filter_map(|(name, hosts)| {
        let network = inner.nets.by_name(&name).filter(|n| has_names(n))?;
        Some((network.id.to_string(), (network.clone(), zone(&network, hosts))))
    });
    networks.collect()
}

/// For a container that is about to run, behind [`join`]: lines of hosts(5) with the others on its networks that no server answers for. None: it is on
/// no such network.
pub(crate) fn peers(inner: &Inner, record: &ContainerRecord) -> Option<String> {
    let on_one = |a: &NetworkAttachment| inner.nets.by_name(&a.network).is_some_and(|n| has_peers(&n));
    if !record.networks.iter().any(on_one) {
        return None;
    }
    let mut state = inner.resolver.state.lock().unwrap_or_else(PoisonError::into_inner);
    let present = present(inner, &mut state);
    let lists = present.iter().filter(|(name, _)| inner.nets.by_name(name).is_some_and(|n| has_peers(&n)));
    let lists: Vec<&[Host]> = lists.map(|(_, hosts)| hosts.as_slice()).collect();
    Some(others(record.id.as_str(), &lists))
}

/// Of the networks that `id` is on: one line for each address of each other.
fn others(id: &str, networks: &[&[Host]]) -> String {
    let mut text = String::new();
    for hosts in networks.iter().filter(|hosts| hosts.iter().any(|h| h.id == id)) {
        for host in hosts.iter().filter(|h| h.id != id) {
            for address in &host.addresses {
                text.push_str(&format!("{address}\t{}", host.name));
                host.aliases.iter().for_each(|alias| text.push_str(&format!(" {alias}")));
                text.push('\n');
            }
        }
    }
    text
}

/// Makes the hosts files of those who have no server say who else is there. One that cannot be written is left as it is until the next change.
fn write_peers(inner: &Inner, state: &mut State, present: &BTreeMap<String, Vec<Host>>) {
    let lists = present.iter().filter(|(name, _)| inner.nets.by_name(name).is_some_and(|n| has_peers(&n)));
    let lists: Vec<&[Host]> = lists.map(|(_, hosts)| hosts.as_slice()).collect();
    let ids: BTreeSet<&str> = lists.iter().flat_map(|hosts| hosts.iter().map(|h| h.id.as_str())).collect();
    state.peers.retain(|id, _| ids.contains(id.as_str()));
    for container in ids.iter().filter_map(|id| inner.containers.find(id).ok()) {
        let text = others(container.id.as_str(), &lists);
        if state.peers.get(&container.id) == Some(&text) {
            continue;
        }
        match inner.runtime.peers_changed(&nets::state_dirs(inner, &container.id), &text) {
            // One that is still being made has them from its plan.
            Ok(()) if container.phase() == Phase::Running => drop(state.peers.insert(container.id.clone(), text)),
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(container = %container.id, %error, "writing the names of others into its hosts file");
            }
        }
    }
}

/// Makes the files say what the records say, and the server read them. What fails is said in the log and tried again with the next change; a
/// container runs without names rather than not at all.
fn compare(inner: &Arc<Inner>, state: &mut State) {
    let present = present(inner, state);
    write_peers(inner, state, &present);
    let wanted = wanted(inner, present);
    if wanted.is_empty() && state.written.is_empty() && state.looked {
        return;
    }
    if let Err(e) = apply(inner, state, wanted) {
        tracing::error!(error = %e, "names of containers cannot be answered");
        if let Some(process) = state.process.take() {
            process.end();
        }
    }
}

fn apply(
    inner: &Arc<Inner>,
    state: &mut State,
    wanted: BTreeMap<String, (Arc<NetworkRecord>, Zone)>,
) -> Result<(), NodeError> {
    let resolver = &inner.resolver;
    if !state.looked {
        if wanted.is_empty() && !process::is_marked(&resolver.folder) {
            state.looked = true;
            return Ok(());
        }
        make_folder(&resolver.folder)?;
        let strangers = remove_strangers(&resolver.folder, &wanted)?;
        state.process = Process::find(&resolver.folder)?;
        state.looked = true;
        if let Some(process) = &state.process {
            guard(inner, process)?;
            tell(inner, state, &[], &strangers)?;
        }
    }
    if wanted.is_empty() {
        for id in std::mem::take(&mut state.written).into_keys() {
            remove_file(&resolver.path(&id))?;
        }
        state.failed.clear();
        if let Some(process) = state.process.take() {
            process.end();
        }
        // Gone with the last name: nothing of it is left.
        return match std::fs::remove_dir_all(&resolver.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(NodeError::Io { act: format!("removing {}", resolver.folder.display()), source: e })
            }
            _ => Ok(()),
        };
    }
    make_folder(&resolver.folder)?;
    let mut load = Vec::new();
    for (id, (network, zone)) in &wanted {
        let text = zone.render();
        if state.written.get(id) != Some(&text) {
            write_file(&resolver.path(id), &text)?;
            state.written.insert(id.clone(), text);
            load.push((id.clone(), network.name.clone()));
        }
    }
    let gone: Vec<String> = state.written.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
    for id in &gone {
        remove_file(&resolver.path(id))?;
        state.written.remove(id);
        state.failed.remove(id);
    }
    if !(load.is_empty() && gone.is_empty() && state.process.is_some()) {
        tell(inner, state, &load, &gone)?;
    }
    Ok(())
}

/// The server reads what has changed; one that is gone or stuck is replaced, once.
fn tell(inner: &Arc<Inner>, state: &mut State, load: &[(String, String)], gone: &[String]) -> Result<(), NodeError> {
    let mut told = Err(NodeError::Stopping);
    for _ in 0..2 {
        if state.process.as_ref().is_none_or(Process::has_ended) {
            if let Some(ended) = state.process.take() {
                ended.end();
            }
            let process = Process::start(&inner.resolver.folder)?;
            tracing::info!(pid = process.pid, "the DNS server of the host runs");
            guard(inner, &process)?;
            state.process = Some(process);
        }
        let Some(process) = &state.process else { break };
        told = (|| {
            for id in gone {
                process.tell(&format!("drop {id}"))?;
            }
            for (id, name) in load {
                let answer = process.tell(&format!("load {id}"))?;
                note(&mut state.failed, id, name, &answer);
            }
            Ok(())
        })();
        match &told {
            Ok(()) => break,
            Err(e) => {
                tracing::warn!(pid = process.pid, error = %e, "the DNS server does not answer: it is replaced");
                if let Some(process) = state.process.take() {
                    process.end();
                }
            }
        }
    }
    told
}

/// By the network's id, as a name may be another's by now: name, and why.
type Failed = BTreeMap<String, (String, String)>;

/// What the server could not do for a network.
fn note(failed: &mut Failed, id: &str, network: &str, answer: &str) {
    let why = answer.lines().find_map(|line| line.strip_prefix("error "));
    let moved = answer.lines().find_map(|line| line.strip_prefix("redirect "));
    let moved = moved.map(|at| {
        let address = at.split(' ').next().unwrap_or_default();
        format!("port 53 of {address} is taken by another server of this host, which listens on all addresses: let it listen on its own ones only")
    });
    match why.map(str::to_owned).or(moved) {
        Some(why) => {
            let what = (network.to_owned(), why);
            if failed.get(id) != Some(&what) {
                tracing::warn!(network, why = what.1, "names on this network are not answered");
                failed.insert(id.to_owned(), what);
            }
        }
        None => drop(failed.remove(id)),
    }
}

/// Starts the server again when it ends while it is needed.
fn guard(inner: &Arc<Inner>, process: &Process) -> Result<(), NodeError> {
    let pidfd = process.pidfd().map_err(NodeError::io("keeping a descriptor".to_owned()))?;
    let (inner_, pid) = (inner.clone(), process.pid);
    inner.watchers.spawn(async move {
        let begun = Instant::now();
        let Ok(pidfd) = watched(pidfd) else { return };
        tokio::select! {
            _ = pidfd.readable() => {}
            () = inner_.stop.cancelled() => return,
        }
        let mut pause = if begun.elapsed() < AGAIN_MOST { AGAIN } else { Duration::ZERO };
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = inner_.stop.cancelled() => return,
            }
            let inner_ = inner_.clone();
            if let Ok(true) = tokio::task::spawn_blocking(move || revive(&inner_, pid)).await {
                return;
            }
            pause = (pause.max(AGAIN) * 2).min(AGAIN_MOST);
        }
    });
    Ok(())
}

#[expect(deprecated, reason = "the descriptor stays open for as long as it is watched: the value owns it")]
fn watched(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

/// True: there is one again, or none is needed.
fn revive(inner: &Arc<Inner>, pid: u32) -> bool {
    let mut state = inner.resolver.state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.process.as_ref().is_some_and(|p| p.pid != pid) {
        return true;
    }
    if let Some(ended) = state.process.take() {
        tracing::warn!(pid, "the DNS server of the host has ended: it is started again");
        ended.end();
    }
    if state.written.is_empty() || inner.stop.is_cancelled() {
        return true;
    }
    match tell(inner, &mut state, &[], &[]) {
        Ok(()) => true,
        Err(e) => {
            tracing::error!(error = %e, "starting the DNS server of the host");
            false
        }
    }
}

/// Everybody's to read: the server is nobody. What is above is closed.
fn make_folder(folder: &Path) -> Result<(), NodeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)))
        .map_err(NodeError::io(format!("making {}", folder.display())))
}

fn write_file(path: &Path, text: &str) -> Result<(), NodeError> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o644)))
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(NodeError::io(format!("writing {}", path.display())))
}

fn remove_file(path: &Path) -> Result<(), NodeError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(NodeError::Io { act: format!("removing {}", path.display()), source: e })
        }
        _ => Ok(()),
    }
}

/// Files of networks that nobody is on any more.
fn remove_strangers<T>(folder: &Path, wanted: &BTreeMap<String, T>) -> Result<Vec<String>, NodeError> {
    let mut strangers = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|n| n.strip_suffix(".zone"));
        if let Some(stem) = stem.filter(|stem| !wanted.contains_key(*stem)) {
            remove_file(&entry.path())?;
            strangers.push(stem.to_owned());
        }
    }
    Ok(strangers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_loopback_is_not_asked() {
        for own in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(is_own(&own.parse().unwrap()), "{own}");
        }
        for other in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "169.254.1.1"] {
            assert!(!is_own(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn what_failed_is_told_of_the_network_that_has_the_name() {
        let mut failed = Failed::new();
        note(&mut failed, "1", "web", "error no room");
        // Removed and made again under the same name: the old one's failure goes with its id, and the new one's word does not hide it.
        note(&mut failed, "2", "web", "ok");
        assert_eq!(failed.values().collect::<Vec<_>>(), [&("web".to_owned(), "no room".to_owned())]);
        note(&mut failed, "1", "web", "ok\nredirect 10.0.0.1 udp 5353");
        assert!(failed["1"].1.contains("port 53 of 10.0.0.1"));
        note(&mut failed, "1", "web", "ok");
        assert!(failed.is_empty());
    }
}

//! What an agent before this one has begun with plugins, and networks that stand in files.

use crate::network_change;
use crate::node::Inner;
use crate::view::NetworkRequest;
use berth_cni::{Conflist, Leftover, MAX_CONFLIST};
use berth_model::ContainerId;
use berth_model::network::{Attachments, NetworkDriver};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a network came from that nobody has made.
const FROM_FILE: &str = "berth.cni.file";

/// Takes back what plugins have given to containers that do not run (`live` do), and has the plugins look for more (GC). In the background: a
/// start of the same container takes back by itself what is in its way.
pub(crate) fn recover(inner: &Arc<Inner>, live: &[(ContainerId, Attachments)]) {
    let owned: HashSet<(&str, &str)> = live
        .iter()
        .flat_map(|(id, all)| all.iter().filter(|a| a.is_cni()).map(|a| (id.as_str(), a.interface.as_str())))
        .collect();
    // Listed before the first new attachment is made.
    let known = inner.cni.known().unwrap_or_else(|error| {
        tracing::error!(%error, "looking for attachments to CNI networks");
        Vec::new()
    });
    let left: Vec<Leftover> =
        known.into_iter().filter(|k| !owned.contains(&(k.container.as_str(), k.interface.as_str()))).collect();
    let mut held = inner.cni.held();
    held.retain(|id| !owned.iter().any(|(owner, _)| *owner == id.as_str()));
    let any = inner.nets.all().iter().any(|n| n.driver == NetworkDriver::Cni);
    if left.is_empty() && held.is_empty() && !any {
        return;
    }
    let inner_ = inner.clone();
    inner.tasks.spawn_blocking(move || {
        for leftover in left {
            let Leftover { container, interface, network, .. } = &leftover;
            tracing::info!(%container, interface, network, "taking back what CNI plugins had given");
            if let Err(error) = inner_.cni.sweep(&leftover) {
                tracing::error!(%container, network, %error, "taking back what CNI plugins had given; the next start of the agent tries again");
            }
            held.push(container.clone());
        }
        for id in held {
            // One that has come to run meanwhile has an attachment, and keeps it.
            if let Err(error) = inner_.cni.let_go(&id) {
                tracing::warn!(container = %id, %error, "letting go of a network namespace");
            }
        }
        for network in inner_.nets.all() {
            let Some(conflist) = network.conflist.as_deref().filter(|_| !inner_.stop.is_cancelled()) else { continue };
            if let Err(error) = inner_.cni.collect(conflist, &network.name) {
                tracing::warn!(network = network.name, %error, "having CNI plugins give back what nobody has");
            }
        }
    });
}

/// Makes networks of the lists in `cni_conf_dir`, follows those that have changed, and removes those whose file is gone, unless a container is
/// on them. What is wrong with a file is logged: the agent comes up without it.
pub(crate) async fn from_files(inner: &Arc<Inner>) {
    let Some(dir) = inner.config.cni.conf_dir.clone() else { return };
    let files = match inner.blocking(move || Ok(lists(&dir))).await {
        Ok(files) => files,
        Err(_) => return,
    };
    let mut there = HashSet::new();
    for (path, text) in files {
        let shown = path.display().to_string();
        let list = match text
            .map_err(|e| e.to_string())
            .and_then(|t| Conflist::parse(&t).map(|l| (l, t)).map_err(|e| e.to_string()))
        {
            Ok(list) => list,
            Err(why) => {
                tracing::error!(file = shown, why, "a CNI configuration list is left out");
                continue;
            }
        };
        there.insert(shown.clone());
        if let Err(error) = follow(inner, &shown, list.0.name, list.1).await {
            tracing::error!(file = shown, %error, "a CNI configuration list is left out");
        }
    }
    for network in inner.nets.all() {
        let gone =
            network.options.get(FROM_FILE).is_some_and(|file| !there.contains(file) && !Path::new(file).exists());
        if gone && let Err(error) = network_change::remove(inner, &network.name).await {
            tracing::warn!(network = network.name, %error, "its CNI configuration list is gone, and it stays");
        }
    }
}

/// Makes the network of a file, or the one that is there what the file says.
async fn follow(inner: &Arc<Inner>, file: &str, name: String, text: String) -> Result<(), crate::NodeError> {
    if let Some(network) = inner.nets.by_name(&name) {
        if network.options.get(FROM_FILE).is_none_or(|f| f != file) {
            return Err(crate::NodeError::NetworkNameInUse(name));
        }
        if network.conflist.as_deref() == Some(&text) {
            return Ok(());
        }
        // In use: an error, and the old one stays until a start of the agent finds nobody on it.
        network_change::remove(inner, &name).await?;
    }
    let options = [(FROM_FILE.to_owned(), file.to_owned())].into();
    let request =
        NetworkRequest { name, driver: NetworkDriver::Cni, conflist: Some(text), options, ..NetworkRequest::default() };
    network_change::check(inner, &request).await?;
    network_change::create(inner, request).await.map(drop)
}

/// Files and what they say, by name.
fn lists(dir: &Path) -> Vec<(PathBuf, std::io::Result<String>)> {
    let entries = std::fs::read_dir(dir).inspect_err(|error| {
        tracing::error!(dir = %dir.display(), %error, "reading [network] cni_conf_dir");
    });
    let mut paths: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.retain(|p| {
        p.extension().is_some_and(|e| e == "conflist")
            && !p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
    });
    paths.sort();
    let read = |path: &PathBuf| {
        let mut text = String::new();
        // One byte more than a list may have: it is refused as too long.
        std::fs::File::open(path)?.take(MAX_CONFLIST as u64 + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    paths.into_iter().map(|p| (p.clone(), read(&p))).collect()
}

//! Completion with what is really there: containers, images, contexts and groups. A host that does not answer at once is left out.

use crate::config::{Config, Selection, default_path};
use crate::connect::{Connection, Limits};
use berth::v1;
use clap_complete::engine::CompletionCandidate;
use std::ffi::OsStr;
use std::time::Duration;

/// A person waits for a key press.
const PATIENCE: Duration = Duration::from_millis(700);

/// The hosts that the line being completed names.
fn selection() -> Selection {
    let mut selection = Selection::default();
    let mut words = std::env::args();
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((f, v)) => (f.to_owned(), Some(v.to_owned())),
            None => (word, None),
        };
        let list = match flag.as_str() {
            "-H" | "--host" => &mut selection.hosts,
            "-g" | "--group" => &mut selection.groups,
            _ => continue,
        };
        let value = value.or_else(|| words.next()).unwrap_or_default();
        list.extend(value.split(',').filter(|v| !v.is_empty()).map(str::to_owned));
    }
    selection
}

fn ask<Fut: Future<Output = Option<Vec<String>>>>(call: impl Fn(Connection) -> Fut) -> Vec<String> {
    let path = default_path();
    let folder = path.parent().unwrap_or(std::path::Path::new("."));
    let Ok(hosts) = Config::read(&path).and_then(|c| c.select(&selection(), folder)) else { return Vec::new() };
    let Some(host) = hosts.first() else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    runtime.block_on(async {
        let limits = Limits { deadline: Some(PATIENCE), reconnect: None };
        let work = async { call(Connection::open(host, limits).await.ok()?).await };
        tokio::time::timeout(PATIENCE, work).await.ok().flatten().unwrap_or_default()
    })
}

fn fitting(names: Vec<String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let start = current.to_string_lossy();
    names.into_iter().filter(|n| n.starts_with(&*start)).map(CompletionCandidate::new).collect()
}

fn names_of(all: bool) -> Vec<String> {
    ask(move |c| async move {
        let request = c.request(v1::ListContainersRequest { all, ..Default::default() }, Some(PATIENCE));
        let mut stream = c.containers().list(request).await.ok()?.into_inner();
        let mut names = Vec::new();
        while let Some(answer) = stream.message().await.ok()? {
            names.extend(answer.container.map(|c| c.name));
        }
        Some(names)
    })
}

/// Names of all containers.
pub fn containers(current: &OsStr) -> Vec<CompletionCandidate> {
    fitting(names_of(true), current)
}

/// Names of running containers.
pub fn running(current: &OsStr) -> Vec<CompletionCandidate> {
    fitting(names_of(false), current)
}

/// Images of the host, as people write them.
pub fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(|c| async move {
        let request = c.request(v1::ListImagesRequest::default(), Some(PATIENCE));
        let mut stream = c.images().list(request).await.ok()?.into_inner();
        let mut names = Vec::new();
        while let Some(answer) = stream.message().await.ok()? {
            for tag in answer.image.unwrap_or_default().tags {
                names.push(tag.parse::<berth_model::Reference>().map_or(tag, |r| r.familiar()));
            }
        }
        Some(names)
    });
    fitting(names, current)
}

/// Names of networks.
pub fn networks(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(|c| async move {
        let request = c.request(v1::ListNetworksRequest::default(), Some(PATIENCE));
        let mut stream = c.networks().list(request).await.ok()?.into_inner();
        let mut names = Vec::new();
        while let Some(answer) = stream.message().await.ok()? {
            names.extend(answer.network.map(|n| n.name));
        }
        Some(names)
    });
    fitting(names, current)
}

/// Volumes of the host.
pub fn volumes(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = ask(|c| async move {
        let request = c.request(v1::ListVolumesRequest::default(), Some(PATIENCE));
        let mut stream = c.volumes().list(request).await.ok()?.into_inner();
        let mut names = Vec::new();
        while let Some(answer) = stream.message().await.ok()? {
            names.extend(answer.volume.map(|v| v.name));
        }
        Some(names)
    });
    fitting(names, current)
}

/// Contexts of the configuration file.
pub fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let config = Config::read(&default_path()).unwrap_or_default();
    fitting(config.contexts.into_keys().collect(), current)
}

/// Groups of the configuration file.
pub fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    let config = Config::read(&default_path()).unwrap_or_default();
    fitting(config.groups.into_keys().collect(), current)
}

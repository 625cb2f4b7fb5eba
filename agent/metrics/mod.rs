//! Figures of the agent and of every container, for Prometheus. Where the configuration asks for none, none of this is made.
//!
//! `server.rs` answers `GET /metrics`; `page.rs` is the format; what is told comes from `calls.rs` (counted at the gate), `process.rs`,
//! `containers.rs` and from the node. Containers are measured when somebody scrapes, and not before.

mod calls;
mod containers;
mod page;
mod process;
mod server;

pub use calls::Calls;
pub use server::{Certificates, Server};

use crate::version::version;
use berth_model::{Phase, Timestamp};
use berth_node::{Figures, Node, NodeError, NodeInfo};
use page::{Format, Page};
use std::sync::Arc;

/// What an answer is made from.
#[derive(Clone)]
pub struct Metrics {
    pub node: Node,
    pub calls: Arc<Calls>,
}

impl Metrics {
    async fn page(&self, format: Format) -> Result<String, NodeError> {
        let running = self.node.measure().await?;
        let this = self.clone();
        // Reads files, and asks a disk for its room.
        let written = tokio::task::spawn_blocking(move || {
            let info = this.node.info();
            let mut page = Page::new(format);
            page.gauge("berth_build_info", "1, with the agent's version.").with(&[("version", version())], true);
            let started = info.started.nanos() as f64 / 1e9;
            process::write(&mut page, started, (Timestamp::now().nanos() as f64 / 1e9 - started).max(0.0));
            this.calls.write(&mut page);
            host(&mut page, &info);
            done(&mut page, &this.node.figures());
            let known = this.node.containers().into_iter().map(|v| v.record);
            let known = known.filter(|r| r.phase != Phase::Removing).collect();
            containers::write(&mut page, known, &running, info.memory_bytes);
            page.finish()
        });
        written.await.map_err(|_| NodeError::Stopping)
    }
}

fn host(page: &mut Page, info: &NodeInfo) {
    let mut containers = page.gauge("berth_containers", "Containers by what they do.");
    for (state, n) in [("created", info.created), ("running", info.running), ("exited", info.exited)] {
        containers.with(&[("state", state)], n);
    }
    page.gauge("berth_images", "Images.").one(info.images);
    page.gauge("berth_data_free_bytes", "Room left where data_root is.").one(info.disk_free_bytes);
    page.gauge("berth_data_size_bytes", "Size of the file system of data_root.").one(info.disk_total_bytes);
}

fn done(page: &mut Page, f: &Figures) {
    let mut pulls = page.counter("berth_pulls", "Pulls of images that ended.");
    pulls.with(&[("result", "ok")], f.pulls);
    pulls.with(&[("result", "failed")], f.failed_pulls);
    page.counter("berth_pull_bytes", "Fetched from registries by pulls that succeeded.").one(f.pulled_bytes);
    page.counter("berth_events", "Events since the node was made.").one(f.events);
    page.gauge("berth_event_watchers", "Callers that follow events.").one(f.event_watchers);
    page.gauge("berth_stats_watchers", "Callers that follow what containers use.").one(f.stats_watchers);
    page.counter("berth_gc_runs", "Collections and prunes.").one(f.gc_runs);
    let mut removed = page.counter("berth_gc_removed", "What they removed.");
    for (kind, n) in [("container", f.gc_containers), ("image", f.gc_images), ("layer", f.gc_layers)] {
        removed.with(&[("kind", kind)], n);
    }
    page.counter("berth_gc_freed_bytes", "Bytes that they gave back.").one(f.gc_bytes);
    page.gauge("berth_store_queue", "Writes that wait for the store.").one(f.store_queue);
    page.gauge("berth_store_queue_max", "Writes that may wait before callers do.").one(f.store_queue_max);
    page.gauge("berth_store_failing", "1: the last write to the store failed.").one(f.store_failing);
    let commits = "How long transactions of the store took.";
    page.histogram("berth_store_commit_seconds", commits).distribution(&[], &f.store_commits);
    let syncs = "How long the disk took to make them durable.";
    page.histogram("berth_store_sync_seconds", syncs).distribution(&[], &f.store_syncs);
}

/// A door for the fuzz targets: what a reader's `Accept` asks for.
#[cfg(fuzzing)]
pub fn fuzz(accept: &str) {
    let asks = accept.to_ascii_lowercase().contains("application/openmetrics-text");
    assert!(asks || Format::accepted(accept) == Format::Text);
}

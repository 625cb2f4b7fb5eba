//! Makes an image of a container: layer, configuration and manifest are on the disk before the record says so.
//!
//! The layer is doomed in the store before it is there, and spared with the record: an agent that dies in between leaves nothing. A mark
//! beside the container's socket says that it was frozen for this; the next agent lets it go on.

use crate::changes::OURS;
use crate::container::{Container, Gate};
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{CommitRequest, Committed, Requester};
use crate::{NodeError, fail, images, own};
use berth_image::{Child, Hasher, LayerSink};
use berth_model::digest::Algorithm;
use berth_model::image::ImageConfig;
use berth_model::{ContainerRecord, Digest, Phase, Timestamp};
use berth_rootfs::Upper;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes that are hashed and written at once.
const PIECE: usize = 256 << 10;
/// Ports of the longest range that is written down port by port.
const EXPOSED_RANGE: u16 = 64;

/// A layer that is written and not yet in the store.
struct Fresh {
    writer: Box<dyn berth_image::LayerWriter>,
    diff_id: Digest,
    bytes: u64,
}

/// Commits `container`.
pub(crate) async fn commit(
    inner: &Arc<Inner>,
    who: &Requester,
    container: Arc<Container>,
    request: CommitRequest,
) -> Result<Committed, NodeError> {
    let _place = inner.copies.enter(who).await?;
    let gate = container.enter().await?;
    match container.phase() {
        Phase::Created | Phase::Exited | Phase::Running => {}
        Phase::Creating | Phase::Starting | Phase::Removing => {
            return Err(NodeError::ContainerNotFound(container.record().name.clone()));
        }
    }
    // What the last run left is being taken apart, or nothing is.
    let _teardown = container.teardown().await;
    // From here on no layer goes that this counts on.
    let guard = inner.layers.begin_pull();
    let fresh = read(inner, &gate, request.pause).await?;
    drop(gate);
    let (diff_id, bytes) = (fresh.diff_id.clone(), fresh.bytes);
    let done = keep(inner, &who.caller, &container, request, fresh).await;
    drop(guard);
    if done.is_err() {
        images::forsake(inner, diff_id).await;
    }
    let (image, reference) = done?;
    Ok(Committed { image, reference, layer_bytes: bytes })
}

/// Writes the layer, while the container stands still where that is wanted.
async fn read(inner: &Arc<Inner>, gate: &Gate, pause: bool) -> Result<Fresh, NodeError> {
    let container = gate.container.clone();
    let freeze = pause && container.phase() == Phase::Running && !container.record().paused;
    let inner_ = inner.clone();
    inner
        .blocking(move || {
            let frozen = freeze.then(|| Frozen::new(&inner_, &container)).transpose()?;
            fail::point("commit.after_freeze")?;
            let fresh = layer(&inner_, &container);
            drop(frozen);
            fresh
        })
        .await
}

fn mark(inner: &Inner, container: &Container) -> PathBuf {
    inner.paths(&container.id).run.join("committing")
}

/// A container that stands still until this goes.
struct Frozen<'a> {
    inner: &'a Inner,
    container: &'a Container,
}

impl<'a> Frozen<'a> {
    fn new(inner: &'a Inner, container: &'a Container) -> Result<Self, NodeError> {
        let path = mark(inner, container);
        std::fs::write(&path, b"").map_err(NodeError::io(format!("writing {}", path.display())))?;
        let frozen = Frozen { inner, container };
        inner.runtime.freeze(&container.id)?;
        Ok(frozen)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        thaw(self.inner, self.container);
    }
}

fn thaw(inner: &Inner, container: &Container) {
    match inner.runtime.thaw(&container.id) {
        Ok(()) => _ = std::fs::remove_file(mark(inner, container)),
        Err(e) => tracing::error!(container = %container.id, error = %e, "letting a committed container go on"),
    }
}

/// Lets a container go on that an agent froze which died in its commit. Blocks.
pub(crate) fn recover(inner: &Inner, container: &Container) {
    if mark(inner, container).exists() {
        thaw(inner, container);
    }
}

/// The way of the layer's bytes: hashed, then written.
struct Tee {
    writer: Box<dyn berth_image::LayerWriter>,
    hasher: Hasher,
    bytes: u64,
    /// Why the writer refused.
    refused: Arc<std::sync::Mutex<Option<berth_image::SinkError>>>,
}

impl io::Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if let Err(e) = self.writer.write(bytes) {
            let kind = if e.disk_full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            let error = io::Error::new(kind, e.message.clone());
            *self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e);
            return Err(error);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn layer(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Fresh, NodeError> {
    let act = "writing the layer";
    let refused = Arc::default();
    let writer = LayerSink::writer(&inner.layers).map_err(|e| sink_error(act, e))?;
    let tee = Tee { writer, hasher: Hasher::new(Algorithm::Sha256), bytes: 0, refused: Arc::clone(&refused) };
    let out = io::BufWriter::with_capacity(PIECE, tee);
    let check = || if inner.stop.is_cancelled() { Err(io::Error::other("the agent is stopping")) } else { Ok(()) };
    let own = own::reach(inner, container)?;
    let written = match own.upper() {
        Some(upper) => Upper::open(&upper, OURS)?.write_layer(out, &check),
        None => berth_tar::Writer::new(out).finish().map_err(|e| disk(act, e)),
    };
    let tee = written.and_then(|out| out.into_inner().map_err(|e| disk(act, e.into_error())));
    let tee = tee.map_err(|e| {
        let refused = refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        refused.map_or_else(|| e.into(), |e| sink_error(act, e))
    })?;
    fail::point("commit.after_layer")?;
    Ok(Fresh { writer: tee.writer, diff_id: tee.hasher.finish(), bytes: tee.bytes })
}

fn disk(act: &str, source: io::Error) -> berth_rootfs::RootfsError {
    berth_rootfs::RootfsError::Io { act: act.to_owned(), source }
}

fn sink_error(act: &str, e: berth_image::SinkError) -> NodeError {
    if e.bad_layer {
        return berth_rootfs::RootfsError::Unkeepable(e.message).into();
    }
    let kind = if e.disk_full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    NodeError::Io { act: act.to_owned(), source: io::Error::new(kind, e.message) }
}

type Kept = (Arc<berth_model::image::ImageRecord>, Option<berth_model::Reference>);

/// Puts the layer into the store, writes the image's documents, and makes the image visible.
async fn keep(
    inner: &Arc<Inner>,
    caller: &str,
    container: &Arc<Container>,
    request: CommitRequest,
    fresh: Fresh,
) -> Result<Kept, NodeError> {
    let doom = Write::Doom(fresh.diff_id.clone(), Timestamp::now());
    inner.store.write(vec![doom], Durability::Durable).await?;
    let (inner_, container_) = (inner.clone(), container.clone());
    let (reference, record) = (request.reference.clone(), container.record());
    let pulled = inner
        .blocking(move || {
            let layer_bytes = fresh.writer.commit(&fresh.diff_id).map_err(|e| sink_error("committing the layer", e))?;
            fail::point("commit.after_publish")?;
            let parent = &container_.image;
            let created_by = container_.effective.args.join(" ");
            let child = Child {
                parent,
                process: process(&record, &parent.config),
                changes: &request.changes,
                diff_id: fresh.diff_id,
                layer_bytes,
                author: &request.author,
                comment: &request.message,
                created_by,
                created: Timestamp::now(),
            };
            let pulled = inner_.registry.keep_child(child)?;
            fail::point("commit.after_documents")?;
            Ok(pulled)
        })
        .await?;
    let image = images::adopt(inner, caller, container, reference.clone(), pulled).await?;
    fail::point("commit.after_record")?;
    Ok((image, reference))
}

/// What the container runs with: its image's configuration with its own over it, as Docker's commit keeps it.
fn process(record: &ContainerRecord, image: &ImageConfig) -> ImageConfig {
    let spec = &record.spec;
    let mut config = image.clone();
    if let Some(entrypoint) = &spec.entrypoint {
        config.entrypoint = Some(entrypoint.clone()).filter(|e| !e.is_empty());
        config.cmd = None;
    }
    if !spec.command.is_empty() {
        config.cmd = Some(spec.command.clone());
    }
    let key = |v: &str| v.split_once('=').map_or(v, |(k, _)| k).to_owned();
    for own in &spec.env {
        match config.env.iter_mut().find(|v| key(v) == key(own)) {
            Some(there) => there.clone_from(own),
            None => config.env.push(own.clone()),
        }
    }
    // An image's configuration has single ports; a long range says nothing of what listens there.
    let short = spec.ports.iter().filter(|p| p.count <= EXPOSED_RANGE);
    for (first, n, protocol) in short.flat_map(|p| (0..p.count).map(|n| (p.container_port, n, p.protocol))) {
        let exposed = format!("{}/{}", first.saturating_add(n), protocol.name());
        if !config.exposed_ports.contains(&exposed) {
            config.exposed_ports.push(exposed);
        }
    }
    for exposed in &spec.expose {
        if !config.exposed_ports.contains(exposed) {
            config.exposed_ports.push(exposed.clone());
        }
    }
    config.user = spec.user.clone().or(config.user);
    config.working_dir = spec.workdir.clone().or(config.working_dir);
    config.stop_signal = spec.stop_signal.clone().or(config.stop_signal);
    config.labels.extend(spec.labels.clone());
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::container_record;

    #[test]
    fn a_containers_own_goes_over_its_images() {
        let mut record = container_record(1);
        let image = ImageConfig {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            entrypoint: Some(vec!["/e".into()]),
            cmd: Some(vec!["c".into()]),
            user: Some("1".into()),
            ..ImageConfig::default()
        };
        assert_eq!(process(&record, &image), image);
        record.spec.env = vec!["A=2".into(), "B=3".into()];
        record.spec.command = vec!["own".into()];
        let made = process(&record, &image);
        assert_eq!(made.env, ["PATH=/bin", "A=2", "B=3"]);
        assert_eq!((made.entrypoint, made.cmd), (Some(vec!["/e".into()]), Some(vec!["own".into()])));
        record.spec.command.clear();
        record.spec.entrypoint = Some(Vec::new());
        let made = process(&record, &image);
        assert_eq!((made.entrypoint, made.cmd, made.user.as_deref()), (None, None, Some("1")));
    }
}

//! What a container has changed, and its whole root as a tar.

use crate::container::Container;
use crate::copy::{Outlet, give_up, send_within};
use crate::node::Inner;
use crate::store::Durability;
use crate::view::Requester;
use crate::{NodeError, Pieces, own};
use berth_model::Phase;
use berth_rootfs::{Change, Upper};
use berth_tar::{Packer, Packing};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Changes of one message.
const BATCH: usize = 256;
/// Batches and pieces that wait for a caller.
const QUEUE: usize = 4;
/// A caller that takes no changes for so long has forgotten them.
const STUCK: Duration = Duration::from_secs(60);

/// What the engine makes in a container's upper folder to mount its own things on, where the image has no such folder or file. It is no
/// change of the container's (Docker hides the same in a layer of its own).
pub(crate) const OURS: &[&str] = &["dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", ".dockerenv"];

fn present(container: &Container) -> Result<(), NodeError> {
    match container.phase() {
        Phase::Creating | Phase::Removing => Err(NodeError::ContainerNotFound(container.record().name.clone())),
        _ => Ok(()),
    }
}

/// Every change against the image, in batches.
pub(crate) async fn diff(
    inner: &Arc<Inner>,
    who: &Requester,
    container: Arc<Container>,
) -> Result<mpsc::Receiver<Result<Vec<Change>, NodeError>>, NodeError> {
    present(&container)?;
    let place = inner.diffs.enter(who).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let inner_ = inner.clone();
    inner.tasks.spawn_blocking(move || {
        let _place = place;
        let told = (|| -> Result<(), NodeError> {
            let own = own::reach(&inner_, &container)?;
            let Some(upper) = own.upper() else { return Ok(()) };
            let layers = inner_.layers.store.view(&container.record().layers, None)?;
            let mut batch = Vec::with_capacity(BATCH);
            let send = |batch: Vec<Change>| send_within(&sender, batch, STUCK);
            Upper::open(&upper, OURS)?.changes(layers.as_fd(), &mut |change| {
                batch.push(change);
                if batch.len() >= BATCH { send(std::mem::take(&mut batch)) } else { Ok(()) }
            })?;
            if batch.is_empty() { Ok(()) } else { send(batch).map_err(NodeError::io("telling the changes")) }
        })();
        if let Err(e) = told {
            give_up(&sender, e);
        }
    });
    Ok(receiver)
}

/// The whole root without what is mounted in it.
pub(crate) async fn export(
    inner: &Arc<Inner>,
    who: &Requester,
    container: Arc<Container>,
) -> Result<Pieces, NodeError> {
    present(&container)?;
    let place = inner.copies.enter(who).await?;
    let event = inner.events.add_container(&container.record(), "export", &[]);
    let _ = inner.store.submit(vec![event], Durability::Quick).await?;
    let (sender, pieces) = mpsc::channel(QUEUE);
    let inner_ = inner.clone();
    inner.tasks.spawn_blocking(move || {
        let _place = place;
        let exported = (|| -> Result<(), NodeError> {
            let own = own::reach(&inner_, &container)?;
            let view = inner_.layers.store.view(&container.record().layers, own.upper().as_deref())?;
            let name = container.record().name.clone();
            // Removed in the middle, the rest would be missing without a word.
            let check = || present(&container).map_err(|_| io::Error::other("the container was removed meanwhile"));
            let mut packer = Packer::new(Outlet::new(sender.clone()), Packing::default(), &check);
            let packed = packer.add(view.as_fd().as_fd(), b"").and_then(|()| packer.finish());
            let packed = packed.and_then(|outlet| check().map(|()| outlet)).and_then(Outlet::end);
            packed.map_err(NodeError::io(format!("exporting container {name}")))
        })();
        if let Err(e) = exported {
            give_up(&sender, e);
        }
    });
    Ok(pieces)
}

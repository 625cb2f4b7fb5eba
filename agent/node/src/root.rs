//! A container's root for the agent's own hands: as its processes see it while it runs, mounted for the purpose, with its volumes, while it does not.

use crate::NodeError;
use crate::container::{Container, Gate, Life};
use crate::node::Inner;
use crate::own::{self, Reached};
use crate::volumes::{self, Hung};
use berth_model::Phase;
use berth_model::userns::IdRange;
use berth_rootfs::{MountOptions, RootMount};
use berth_sys::mount::{AttrChange, MountAttr, mount_setattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{OwnedMutexGuard, watch};

/// A container may end between the look at its phase and the opening of its root.
const ROUNDS: u32 = 3;

/// An open root.
pub(crate) struct Root {
    fd: OwnedFd,
    hold: Hold,
}

enum Hold {
    /// Its end ends the use: nothing else may keep its files while the next run begins. With its ids, where it has a user namespace.
    Running(watch::Receiver<Life>, Option<IdRange>),
    /// It cannot be started or removed meanwhile. In the order of their drops: the mount goes first.
    Stopped {
        _mount: RootMount,
        _own: Reached,
        _volumes: Hung,
        _teardown: OwnedMutexGuard<()>,
        _gate: Box<Gate>,
        read_only: bool,
        absent: Vec<String>,
    },
}

impl Root {
    pub async fn open(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<Root, NodeError> {
        for _ in 0..ROUNDS {
            if let Ok(shim) = container.running_shim() {
                let life = container.life();
                let (pid, start_time) = shim.pid();
                let opened = inner.blocking(move || {
                    berth_sys::store::open_process_root(pid, start_time)
                        .map_err(NodeError::io(format!("opening the root of process {pid}")))
                });
                if let Some(fd) = opened.await? {
                    return Ok(Root { fd, hold: Hold::Running(life, container.record().userns.range) });
                }
                // It has ended, and whoever waits for that is about to write it down.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
            let gate = container.enter().await?;
            match container.phase() {
                Phase::Created | Phase::Exited => return Root::mount(inner, gate).await,
                Phase::Running => {}
                Phase::Creating | Phase::Starting | Phase::Removing => {
                    return Err(NodeError::ContainerNotFound(container.record().name.clone()));
                }
            }
        }
        Err(NodeError::Busy(container.record().name.clone()))
    }

    async fn mount(inner: &Arc<Inner>, gate: Gate) -> Result<Root, NodeError> {
        let container = gate.container.clone();
        let teardown = container.teardown().await;
        let record = container.record();
        let read_only = record.spec.read_only_root;
        let inner_ = inner.clone();
        let (mount, own, fd, volumes, absent) = inner
            .blocking(move || {
                if record.spec.auto_remove {
                    own::make(&inner_, &record.id, &record.spec, record.userns.range.is_some())?;
                }
                let own = own::reach(&inner_, &container)?;
                let layer = own.layer()?;
                let mount = || Ok(inner_.layers.store.mount(&record.layers, &layer, MountOptions::default())?);
                let mount = own::overlay(&inner_, &record, mount)?;
                let (fd, volumes, absent) = volumes::hang(&inner_, &container, &mount)?;
                if read_only {
                    // What asked to be read-only stays so while nothing runs that would notice; its volumes are as they were asked for.
                    let change = AttrChange { set: MountAttr::RDONLY, ..AttrChange::default() };
                    mount_setattr(fd.as_fd(), change).map_err(NodeError::io("making the root read-only"))?;
                }
                Ok((mount, own, fd, volumes, absent))
            })
            .await?;
        let hold = Hold::Stopped {
            _mount: mount,
            _own: own,
            _volumes: volumes,
            _teardown: teardown,
            _gate: Box::new(gate),
            read_only,
            absent,
        };
        Ok(Root { fd, hold })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whose numbers the owners of its files are: those of a container that does not run are as inside.
    pub fn ids(&self) -> Option<IdRange> {
        match self.hold {
            Hold::Running(_, ids) => ids,
            Hold::Stopped { .. } => None,
        }
    }

    /// Targets of mounts that are there only while it runs.
    pub fn absent(&self) -> &[String] {
        match &self.hold {
            Hold::Running(..) => &[],
            Hold::Stopped { absent, .. } => absent,
        }
    }

    /// What was asked to be read-only stays so while nothing runs that would notice.
    pub fn read_only(&self) -> bool {
        matches!(self.hold, Hold::Stopped { read_only: true, .. })
    }

    /// Whether the run whose root this is goes on.
    pub fn lives(&self) -> bool {
        match &self.hold {
            Hold::Running(life, _) => *life.borrow() == Life::Open,
            Hold::Stopped { .. } => true,
        }
    }

    /// For work in pieces: an error once the run has ended.
    pub fn check(&self) -> io::Result<()> {
        if self.lives() { Ok(()) } else { Err(io::Error::other("the container ended meanwhile")) }
    }
}

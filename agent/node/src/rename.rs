//! Rename: the new name is reserved, the record is written, then the old name is free.

use crate::container::Container;
use crate::node::Inner;
use crate::requests::{Begin, fingerprint};
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError};
use berth_model::{ContainerId, Phase};
use std::sync::Arc;

impl Node {
    /// Gives a container another name; its own is fine.
    ///
    /// # Errors
    /// `Invalid`: no good name; `NameInUse`: another container has it.
    pub async fn rename(&self, who: &Requester, container: &str, name: &str) -> Result<ContainerId, NodeError> {
        if let Err(e) = berth_model::id::check_name(name) {
            return Err(NodeError::Invalid(vec![("name".to_owned(), e.to_string())]));
        }
        let ticket = match self.inner().requests.begin(who, "Rename", fingerprint(&(container, name))).await? {
            // The old name may be another container's by now.
            Begin::Answered(id) => return Ok(self.find(&id)?.id.clone()),
            Begin::New(ticket) => ticket,
        };
        let found = self.find(container)?;
        let (inner, container, name) = (self.inner().clone(), found.clone(), name.to_owned());
        self.inner().to_its_end(async move { rename(&inner, &container, &name).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(found.id.clone())
    }
}

async fn rename(inner: &Arc<Inner>, container: &Arc<Container>, name: &str) -> Result<(), NodeError> {
    let mut gate = container.enter().await?;
    let before = container.record();
    if before.phase == Phase::Removing {
        return Err(NodeError::ContainerNotFound(before.name.clone()));
    }
    if before.name == name {
        return Ok(());
    }
    let reservation = inner.containers.reserve(Some(name), &container.id)?;
    let record = gate.change(|r| {
        r.name = name.to_owned();
        r.spec.name = Some(name.to_owned());
    });
    let event = inner.events.add_container(&record, "rename", &[("old_name", before.name.clone())]);
    let written = inner.store.write(vec![Write::PutContainer(record), event], Durability::Durable).await;
    if let Err(e) = written {
        gate.change(|r| {
            r.name = before.name.clone();
            r.spec.name = before.spec.name.clone();
        });
        return Err(e.into());
    }
    inner.containers.rename(reservation, &before.name);
    inner.nets.touch();
    Ok(())
}

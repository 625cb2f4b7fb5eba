//! Creates a container: name, image, folder, record. Each step has its undo.

use crate::container::{Container, NameReservation, Taken};
use crate::images::ImageUse;
use crate::node::Inner;
use crate::requests::{Begin, Ticket, fingerprint};
use crate::store::{Durability, Write};
use crate::view::{CreateRequest, Created, HostVolume, PullPolicy, Requester};
use crate::{NodeError, after, cdi, fail, logs, nets, own, selinux, userns, volumes};
use berth_model::userns::Userns;
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Phase, Timestamp, id::check_name};
use std::sync::Arc;
use tracing::Instrument;

impl crate::Node {
    /// What a request's words about walls mean here: before it is asked what the spec needs.
    pub fn default_walls(&self, spec: &mut ContainerSpec) {
        default_walls(self.inner(), spec);
    }
}

fn default_walls(inner: &Inner, spec: &mut ContainerSpec) {
    inner.runtime.default_walls(spec);
    spec.storage.or_default(inner.config.default_storage_bytes);
}

pub(crate) async fn create(
    inner: &Arc<Inner>,
    who: &Requester,
    mut request: CreateRequest,
) -> Result<Created, NodeError> {
    request.spec.runtime = inner.runtime.named(&request.spec.runtime);
    default_walls(inner, &mut request.spec);
    let mut wrong = inner.runtime.check(&request.spec);
    wrong.extend(nets::resolve(inner, &mut request.spec)?);
    if let Some(Err(e)) = request.spec.name.as_deref().map(check_name) {
        wrong.push(("name".to_owned(), e.to_string()));
    }
    if request.spec.storage.bytes.is_none() && request.spec.storage.inodes.is_some() {
        let why = "needs storage_bytes: without a limit there is nothing that counts them";
        wrong.push(("storage_inodes".to_owned(), why.to_owned()));
    }
    wrong.extend(after::check(&inner.containers, request.spec.name.as_deref(), &request.spec.after));
    if !wrong.is_empty() {
        return Err(NodeError::Invalid(wrong));
    }
    cdi::check(inner, &request.spec).await?;
    let content = fingerprint(&(&request.spec, &request.platform, request.pull as u8));
    let ticket = loop {
        match inner.requests.begin(who, "Create", content).await? {
            Begin::New(ticket) => break ticket,
            Begin::Answered(id) => match inner.containers.find(&id) {
                Ok(c) => {
                    let record = c.record();
                    let warnings = warnings(inner, &record);
                    let hold = Some(c.hold());
                    return Ok(Created { id: c.id.clone(), name: record.name.clone(), warnings, gone: false, hold });
                }
                // It has done what it was made for: once is enough.
                Err(_) if request.again => {
                    let id = id.parse().map_err(|_| NodeError::SessionLost)?;
                    let name = request.spec.name.clone().unwrap_or_default();
                    return Ok(Created { id, name, warnings: Vec::new(), gone: true, hold: None });
                }
                // It was removed since: the request makes a new one.
                Err(_) => inner.requests.forget(who),
            },
        }
    };
    let id = new_id()?;
    let name = inner.containers.reserve(request.spec.name.as_deref(), &id)?;
    // Up to here nothing needs an undo; the pull goes with its caller.
    let image = image_for(inner, who, &request).await?;
    fail::point("create.after_image")?;
    let who = who.clone();
    let inner_ = inner.clone();
    let CreateRequest { spec, host_volumes, .. } = request;
    inner.to_its_end(async move { make(&inner_, who, id, name, image, (spec, host_volumes), ticket).await }).await
}

/// The image as the pull policy wants it.
async fn image_for(inner: &Arc<Inner>, who: &Requester, request: &CreateRequest) -> Result<ImageUse, NodeError> {
    let name = &request.spec.image;
    let fits = |image: &ImageUse| request.platform.as_ref().is_none_or(|p| same_platform(p, &image.record().platform));
    if request.pull != PullPolicy::Always {
        match inner.images.take(name) {
            Ok(image) if fits(&image) => match check_layers(inner, &image).await {
                Err(NodeError::Rootfs(e)) if e.lost_layer() && request.pull == PullPolicy::Missing => {
                    tracing::warn!(image = name, error = %e, "fetching the image again");
                    return fetch_again(inner, who, request, image).await;
                }
                checked => return checked.map(|()| image),
            },
            Ok(_) | Err(NodeError::ImageNotFound(_)) if request.pull == PullPolicy::Missing => {}
            Ok(_) => return Err(NodeError::ImageNotFound(format!("{name} for this platform"))),
            Err(e) => return Err(e),
        }
    }
    let reference = name.parse().map_err(|e: berth_model::reference::ReferenceError| {
        NodeError::Invalid(vec![("image".to_owned(), e.to_string())])
    })?;
    let (platform, auth) = (request.platform.clone(), request.auth.clone());
    // Held from its first moment on: what nobody uses may be collected.
    let progress = request.progress.clone();
    crate::images::pull_to_use(inner, &who.caller, &reference, platform, auth, progress).await.map(|(_, image)| image)
}

/// Whether every layer of `image` is there.
async fn check_layers(inner: &Arc<Inner>, image: &ImageUse) -> Result<(), NodeError> {
    let layers: Vec<_> = image.record().layers.iter().map(|l| l.diff_id.clone()).collect();
    let store = inner.layers.store.clone();
    if store.are_mounted(&layers) {
        return Ok(());
    }
    inner.blocking(move || Ok(store.check(&layers)?)).await
}

/// Fetches the very image whose layers were lost, wherever its name leads by now.
async fn fetch_again(
    inner: &Arc<Inner>,
    who: &Requester,
    request: &CreateRequest,
    image: ImageUse,
) -> Result<ImageUse, NodeError> {
    let record = image.record().clone();
    let name = record.repo_digests.first().unwrap_or(&request.spec.image);
    let reference = name.parse().map_err(|e: berth_model::reference::ReferenceError| {
        NodeError::Invalid(vec![("image".to_owned(), e.to_string())])
    })?;
    let (platform, auth) = (Some(record.platform.clone()), request.auth.clone());
    crate::images::pull(inner, &who.caller, &reference, platform, auth, request.progress.clone()).await?;
    Ok(image)
}

fn same_platform(asked: &berth_model::Platform, has: &berth_model::Platform) -> bool {
    asked.os == has.os
        && asked.architecture == has.architecture
        && (asked.variant.is_none() || asked.variant == has.variant)
}

async fn make(
    inner: &Arc<Inner>,
    who: Requester,
    id: ContainerId,
    name: NameReservation,
    image: ImageUse,
    (mut spec, host_volumes): (ContainerSpec, Option<Vec<HostVolume>>),
    ticket: Ticket,
) -> Result<Created, NodeError> {
    let effective = Arc::new(inner.runtime.effective(&spec, &image.record().config)?);
    logs::place::check(&spec, &image.record().config, &effective)?;
    let auto_remove = spec.auto_remove;
    // Before its folder: a quota holds those that have ids of their own.
    let ids = inner.userns.choose(&spec)?;
    // An auto-removed one is started right away, as a rule: the start makes its folder.
    let folder = if auto_remove { Ok(()) } else { make_folder(inner, &id, &spec, ids.0.range.is_some()).await };
    let span = tracing::debug_span!(target: crate::TRACE, "create", container = %id);
    let made = async {
        folder?;
        let taken = volumes::resolve(inner, &id, &mut spec, &image.record().config).await?;
        if let Err(e) = volumes::permitted(inner, &spec, host_volumes.as_deref()) {
            volumes::undo(inner, &id, taken).await;
            return Err(e);
        }
        let writes = taken.writes(inner);
        let made = record(inner, &who, &id, name, image, (spec, ids), effective, ticket, writes).await;
        if made.is_err() {
            volumes::undo(inner, &id, taken).await;
        }
        made
    };
    let made = made.instrument(span).await;
    if made.is_err() && !auto_remove {
        let dir = inner.container_dir(&id);
        inner.blocking(move || own::remove(&dir)).await.unwrap_or_else(|e| {
            tracing::warn!(container = %id, error = %e, "undoing a create");
        });
    }
    made
}

async fn make_folder(
    inner: &Arc<Inner>,
    id: &ContainerId,
    spec: &ContainerSpec,
    own_ids: bool,
) -> Result<(), NodeError> {
    let (inner_, id, spec) = (inner.clone(), id.clone(), spec.clone());
    inner.blocking(move || own::make(&inner_, &id, &spec, own_ids)).await
}

#[expect(clippy::too_many_arguments, reason = "one step of one story")]
async fn record(
    inner: &Arc<Inner>,
    who: &Requester,
    id: &ContainerId,
    name: NameReservation,
    image: ImageUse,
    (spec, (userns, ids)): (ContainerSpec, (Userns, Option<userns::Held>)),
    effective: Arc<berth_runtime::Effective>,
    ticket: Ticket,
    mut writes: Vec<Write>,
) -> Result<Created, NodeError> {
    fail::point("create.after_layer")?;
    let auto_remove = spec.auto_remove;
    let (selinux, labels) = selinux::choose(inner, &spec)?;
    let record = ContainerRecord {
        id: id.clone(),
        name: name.name().to_owned(),
        image_id: image.record().id.clone(),
        layers: image.record().layers.iter().map(|l| l.diff_id.clone()).collect(),
        created: Timestamp::now(),
        phase: Phase::Created,
        started: None,
        finished: None,
        exit: None,
        error: None,
        process: None,
        networks: Default::default(),
        request: (!who.request_id.is_empty()).then(|| (who.caller.clone(), who.request_id.clone())),
        starts: 0,
        start_request: None,
        warnings: Vec::new(),
        paused: false,
        supervision: Default::default(),
        remove_volumes: false,
        userns,
        selinux,
        spec,
    };
    let container = Container::new(record, image.record().clone(), effective, Taken { ids, labels });
    let record = container.record();
    writes.extend([Write::PutContainer(record.clone()), inner.events.add_container(&record, "create", &[])]);
    let warnings = warnings(inner, &record);
    let hold = Some(container.hold());
    let created = Created { id: id.clone(), name: record.name.clone(), warnings, gone: false, hold };
    // Visible before the request is answered: a repetition finds it.
    inner.containers.add(name, container.clone());
    if let Err(e) = nets::still_there(inner, &record.spec) {
        inner.containers.take_out(&container);
        return Err(e);
    }
    drop(image);
    writes.extend(ticket.done(id.as_str()));
    let durability = if auto_remove { Durability::Quick } else { Durability::Durable };
    let ack = inner.store.submit(writes, durability).await;
    // An auto-removed one that is lost with the agent was never started: nothing is owed.
    let safe = match ack {
        Ok(_) if auto_remove => Ok(()),
        Ok(ack) => ack.safe().await,
        Err(e) => Err(e),
    };
    if let Err(e) = safe {
        inner.containers.take_out(&container);
        inner.requests.forget(who);
        return Err(e.into());
    }
    fail::point("create.after_record")?;
    Ok(created)
}

/// What its maker is told beside its id.
fn warnings(inner: &Inner, record: &ContainerRecord) -> Vec<String> {
    let of_spec = inner.runtime.spec_warnings(&record.spec);
    of_spec.into_iter().chain(inner.userns.warning(record)).collect()
}

pub(crate) fn new_id() -> Result<ContainerId, NodeError> {
    let mut bytes = [0; 32];
    berth_sys::store::random(&mut bytes).map_err(NodeError::io("getting random bytes"))?;
    Ok(ContainerId::from_bytes(bytes))
}

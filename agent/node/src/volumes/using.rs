//! Volumes in containers: what a spec's mounts become, who has what, and the mounts that a start gets.

use super::quota::{limited, loose};
use super::{Volume, create, event, random};
use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::{HostVolume, VolumeView};
use crate::{NodeError, fail, selinux};
use berth_model::image::ImageConfig;
use berth_model::selinux::Relabel;
use berth_model::spec::{Mount, MountKind, Owners, VolumeMount};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Digest, Timestamp};
use berth_rootfs::{RootMount, Shift};
use berth_sys::fs::{self as sysfs, Kind, Open, Resolve};
use berth_sys::mount::{AttrChange, mount_setattr, open_tree};
use berth_volume::{Backing, Place};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// As the API has it for what a caller names; it holds for what the image and other containers add, too.
const MAX_MOUNTS: usize = 256;
/// As the plan has it. Asked before any of them is made: an image may name as many as it likes.
const MAX_TREES: usize = 64;

fn too_many() -> NodeError {
    let why = format!(
        "are too many, with the image's volumes and those of volumes_from: a container has at most {MAX_MOUNTS} mounts, {MAX_TREES} of them volumes \
         and images"
    );
    NodeError::Invalid(vec![("config.mounts".to_owned(), why)])
}

/// Adds the volumes and bind mounts of the containers that a spec names, where it has nothing of its own at their targets.
///
/// # Errors
/// `ContainerNotFound`, `Ambiguous`.
pub(crate) fn from_others(inner: &Inner, spec: &mut ContainerSpec) -> Result<(), NodeError> {
    for (name, read_only) in &spec.volumes_from {
        let other = inner.containers.find(name)?.record();
        for mount in &other.spec.mounts {
            if spec.mounts.iter().any(|m| same(&m.target, &mount.target)) {
                continue;
            }
            let mut mount = mount.clone();
            match &mut mount.kind {
                // It is the other's to take along.
                MountKind::Volume(volume) => volume.anonymous = false,
                MountKind::Bind { .. } => {}
                MountKind::Tmpfs { .. } | MountKind::Image(_) => continue,
            }
            // Whose the files are is the other's to say.
            mount.relabel = Relabel::Keep;
            mount.read_only |= *read_only == Some(true);
            spec.mounts.push(mount);
            if spec.mounts.len() > MAX_MOUNTS {
                return Err(too_many());
            }
        }
    }
    Ok(())
}

/// What a creation has taken.
#[derive(Default, Debug)]
pub(crate) struct Resolved {
    names: Vec<String>,
    /// Volumes that were made for this container, to be written down with it.
    made: Vec<Arc<Volume>>,
}

impl Resolved {
    /// The records of what was made for the container.
    pub fn writes(&self, inner: &Inner) -> Vec<Write> {
        let pair =
            |v: &Arc<Volume>| [Write::PutVolume(v.record.clone().into()), event(inner, &v.record, "create", &[])];
        self.made.iter().flat_map(pair).collect()
    }
}

fn same(a: &str, b: &str) -> bool {
    let parts = |p: &str| p.split('/').filter(|s| !s.is_empty() && *s != ".").map(str::to_owned).collect::<Vec<_>>();
    parts(a) == parts(b)
}

pub(super) fn volumes_of(spec: &ContainerSpec) -> impl Iterator<Item = (&Mount, &VolumeMount)> {
    spec.mounts.iter().filter_map(|m| match &m.kind {
        MountKind::Volume(volume) => Some((m, volume)),
        _ => None,
    })
}

/// Images that a spec's mounts are of.
pub(crate) fn images_of(spec: &ContainerSpec) -> impl Iterator<Item = &berth_model::Digest> {
    spec.mounts.iter().filter_map(|m| match &m.kind {
        MountKind::Image(image) => image.id.as_ref(),
        _ => None,
    })
}

/// Adds the image's volumes where the spec has nothing at their targets.
fn add_volumes(spec: &mut ContainerSpec, image: &ImageConfig) -> Result<(), NodeError> {
    if image.volumes.len() > MAX_MOUNTS {
        return Err(too_many());
    }
    for path in &image.volumes {
        let sane = path.starts_with('/') && !path.split('/').any(|p| p == "..") && !same(path, "/");
        if sane && !spec.mounts.iter().any(|m| same(&m.target, path)) {
            let kind = MountKind::Volume(VolumeMount::default());
            spec.mounts.push(Mount { target: path.clone(), read_only: false, kind, relabel: Relabel::Keep });
        }
    }
    let trees = spec.mounts.iter().filter(|m| matches!(m.kind, MountKind::Volume(_) | MountKind::Image(_))).count();
    if spec.mounts.len() > MAX_MOUNTS || trees > MAX_TREES {
        return Err(too_many());
    }
    Ok(())
}

/// Adds the image's volumes, names those without a name, makes what is missing, and puts the container down as their user.
pub(crate) async fn resolve(
    inner: &Arc<Inner>,
    id: &ContainerId,
    spec: &mut ContainerSpec,
    image: &ImageConfig,
) -> Result<Resolved, NodeError> {
    add_volumes(spec, image)?;
    for (n, mount) in spec.mounts.iter_mut().enumerate() {
        let MountKind::Image(wanted) = &mut mount.kind else { continue };
        let found = inner.images.take(&wanted.image).map_err(|e| match e {
            NodeError::ImageNotFound(name) => {
                let why = format!("there is no image {name} on this host: pull it first");
                NodeError::Invalid(vec![(format!("config.mounts[{n}].image.image"), why)])
            }
            other => other,
        })?;
        wanted.id = Some(found.record().id.clone());
        wanted.layers = found.record().layers.iter().map(|l| l.diff_id.clone()).collect();
    }
    let mut resolved = Resolved::default();
    if volumes_of(spec).next().is_none() {
        return Ok(resolved);
    }
    match take(inner, id, spec, &mut resolved).await {
        Ok(()) => Ok(resolved),
        Err(e) => {
            undo(inner, id, resolved).await;
            Err(e)
        }
    }
}

async fn take(
    inner: &Arc<Inner>,
    id: &ContainerId,
    spec: &mut ContainerSpec,
    resolved: &mut Resolved,
) -> Result<(), NodeError> {
    for (n, mount) in spec.mounts.iter_mut().enumerate() {
        let MountKind::Volume(wanted) = &mut mount.kind else { continue };
        let anonymous = wanted.name.is_empty();
        if anonymous {
            wanted.name = random()?;
            wanted.anonymous = true;
        }
        let record = VolumeRecord {
            name: wanted.name.clone(),
            created: Timestamp::now(),
            labels: wanted.labels.clone(),
            options: wanted.options.clone(),
            anonymous,
            ..VolumeRecord::default()
        };
        if !anonymous {
            // One that goes between the two is made anew.
            while !refer(inner, &record.name, id) {
                create::ensure(inner, record.clone(), false).await.map_err(|e| in_mount(e, n))?;
            }
            resolved.names.push(record.name);
            continue;
        }
        Volume::new(record.clone()).map_err(|e| in_mount(e, n))?;
        let (volume, _reservation) = create::anonymous(inner, record).await?;
        inner.volumes.put(volume.clone());
        refer(inner, &volume.record.name, id);
        resolved.names.push(volume.record.name.clone());
        resolved.made.push(volume);
    }
    Ok(())
}

/// Refuses a volume that is a folder of the host and not among those that the caller may use: it was none, was not there, or was another one when
/// that was asked.
pub(crate) fn permitted(inner: &Inner, spec: &ContainerSpec, known: Option<&[HostVolume]>) -> Result<(), NodeError> {
    let Some(known) = known else { return Ok(()) };
    for (n, mount) in spec.mounts.iter().enumerate() {
        let MountKind::Volume(wanted) = &mount.kind else { continue };
        let volume = inner.volumes.find(&wanted.name)?;
        let is = |asked: &&HostVolume| asked.name == wanted.name;
        let turned = match known.iter().find(is) {
            _ if !matches!(volume.backing, Backing::Bind { .. }) => continue,
            Some(asked) if asked.created == volume.record.created => continue,
            Some(_) => "another volume",
            None => "a folder of the host",
        };
        let why = format!("{} has become {turned} while the image was fetched: send it again", wanted.name);
        return Err(NodeError::Invalid(vec![(format!("config.mounts[{n}].volume.name"), why)]));
    }
    Ok(())
}

/// Errors of a volume's own fields, as those of the mount.
fn in_mount(e: NodeError, n: usize) -> NodeError {
    match e {
        NodeError::Invalid(fields) => NodeError::Invalid(
            fields.into_iter().map(|(field, why)| (format!("config.mounts[{n}].volume.{field}"), why)).collect(),
        ),
        other => other,
    }
}

/// Puts a container down as a user; false: there is no such volume.
fn refer(inner: &Inner, name: &str, id: &ContainerId) -> bool {
    let mut table = inner.volumes.lock();
    match table.get_mut(name).filter(|e| e.volume.is_some() && !e.removing) {
        Some(entry) => {
            entry.users.insert(id.clone());
            true
        }
        None => false,
    }
}

/// Takes a creation back that came to nothing. A named volume stays, as in Docker.
pub(crate) async fn undo(inner: &Arc<Inner>, id: &ContainerId, resolved: Resolved) {
    let Resolved { names, made } = resolved;
    {
        let mut table = inner.volumes.lock();
        for name in &names {
            if let Some(entry) = table.get_mut(name) {
                entry.users.remove(id);
            }
        }
        made.iter().for_each(|v| drop(table.remove(&v.record.name)));
    }
    let inner_ = inner.clone();
    let removed = inner.blocking(move || {
        for volume in made {
            if let Some(gone) = inner_.volumes.store.retire(&volume.record.name, &random()?)? {
                super::remove::clear(&gone);
            }
        }
        Ok(())
    });
    if let Err(e) = removed.await {
        tracing::warn!(container = %id, error = %e, "removing the volumes of a creation that was undone");
    }
}

/// What a start mounts beside its root.
#[derive(Default)]
pub(crate) struct Mounted {
    /// Detached mounts, in the order of the spec.
    pub trees: Vec<OwnedFd>,
    pub warnings: Vec<String>,
    /// Targets of the bind mounts whose files keep the host's owners.
    pub unmapped: Vec<String>,
}

/// The mounts of a start; blocking. An empty volume is filled from the image by the container's first start.
pub(crate) fn trees(
    inner: &Arc<Inner>,
    container: &Container,
    record: &ContainerRecord,
    root: &RootMount,
    shift: Option<Shift<'_>>,
) -> Result<Mounted, NodeError> {
    let Mounted { mut trees, mut warnings, mut unmapped } = Mounted::default();
    let label = inner.runtime.labels(&record.selinux).mount.as_str();
    if record.starts <= 1 {
        // Seen from a user namespace, owners are other ones than on the disk: then the layers themselves are what it is filled from.
        let from = match shift {
            None => Filling::Root(root.as_fd()),
            Some(_) => Filling::Layers(&record.layers),
        };
        // Before there is any mount of them: what fills a volume takes the place of its folder, which one at another target would still be of.
        for (mount, wanted) in volumes_of(&record.spec).filter(|(_, wanted)| !wanted.no_copy) {
            ready(inner, &container.id, wanted, Some((from, &mount.target)))?;
        }
    }
    for (n, mount) in record.spec.mounts.iter().enumerate() {
        match &mount.kind {
            MountKind::Volume(wanted) => {
                let place = ready(inner, &container.id, wanted, None)?;
                warnings.extend(selinux::relabel_volume(inner, record, mount, (&place, wanted))?);
                let tree = place.tree(wanted.subpath.as_deref(), mount.read_only)?;
                match shift {
                    Some(shift) => warnings.extend(map_owners(tree.as_fd(), &wanted.name, shift)?),
                    None => warnings.extend(loose(inner, &wanted.name)),
                }
                trees.push(tree);
            }
            MountKind::Image(image) => {
                let view = inner.layers.store.view_for(&image.layers, shift, label)?;
                trees.push(berth_volume::tree_of(view.as_fd(), image.subpath.as_deref(), false, true)?);
            }
            MountKind::Bind { within: Some(within), source, idmap, recursive, .. } => {
                let from = super::host_path::source(&inner.config.shared_paths, mount, within)?;
                can_travel(n, mount, Some(from.as_fd()))?;
                warnings.extend(selinux::relabel_bind(inner, record, mount, from.as_fd())?);
                let tree = super::host_path::tree(mount, from.as_fd())?;
                let owners = record.spec.owners(*idmap);
                if let Some(shift) = shift.filter(|_| owners != Owners::Host) {
                    warnings.extend(map_folder(tree.as_fd(), source, *recursive, owners, shift)?);
                }
                trees.push(tree);
            }
            MountKind::Bind { source, idmap, recursive, create_source, .. } => {
                can_travel(n, mount, None)?;
                warnings.extend(selinux::relabel_path(inner, record, mount, (source, *create_source))?);
                let owners = record.spec.owners(*idmap);
                if let Some(shift) = shift.filter(|_| owners == Owners::MappedIfPossible)
                    && let Some(tree) = nearest(source, *recursive)
                    && let Some(warning) = map_folder(tree.as_fd(), source, *recursive, owners, shift)?
                {
                    warnings.push(warning);
                    unmapped.push(mount.target.clone());
                }
            }
            MountKind::Tmpfs { .. } => {}
        }
    }
    let mounted = Mounted { trees, warnings, unmapped };
    if mounted.trees.is_empty() {
        return Ok(mounted);
    }
    let events = volumes_of(&record.spec).filter_map(|(mount, wanted)| {
        let volume = inner.volumes.find(&wanted.name).ok()?;
        let more = [
            ("container", container.id.to_string()),
            ("destination", mount.target.clone()),
            ("read/write", (!mount.read_only).to_string()),
        ];
        Some(event(inner, &volume.record, "mount", &more))
    });
    let _ = inner.store.submit_blocking(events.collect(), Durability::Quick)?;
    Ok(mounted)
}

/// Refuses a propagation that would do nothing. `from`: the source, where it is held; else it is looked for, or the folder that it will be made in.
fn can_travel(n: usize, mount: &Mount, from: Option<BorrowedFd<'_>>) -> Result<(), NodeError> {
    let MountKind::Bind { source, propagation, .. } = &mount.kind else { return Ok(()) };
    let found;
    let from = match from {
        Some(from) => from,
        None => {
            let open = |path: &Path| sysfs::open(path, Open::PATH, 0).ok();
            // The start itself says what is wrong with one that is not there.
            let Some(there) = Path::new(source).ancestors().find_map(open) else { return Ok(()) };
            found = there;
            found.as_fd()
        }
    };
    match super::host_path::stuck(source, from, *propagation)? {
        Some(why) => Err(NodeError::Invalid(vec![(format!("config.mounts[{n}].bind.propagation"), why)])),
        None => Ok(()),
    }
}

/// A mount of this folder of the host, or of the one that it will be made in, which is never attached: it shows what the file system can.
/// `None`: the start itself says what is wrong with it.
fn nearest(source: &str, recursive: bool) -> Option<OwnedFd> {
    Path::new(source).ancestors().find_map(|path| open_tree(None, path, true, recursive).ok())
}

/// Gives the files of a bind mount the container's ids.
fn map_folder(
    tree: BorrowedFd<'_>,
    source: &str,
    recursive: bool,
    owners: Owners,
    shift: Shift<'_>,
) -> Result<Option<String>, NodeError> {
    let change = AttrChange { idmap: Some(shift.userns), recursive, ..AttrChange::default() };
    match mount_setattr(tree, change) {
        Ok(()) => Ok(None),
        // EINVAL: no idmapped mounts of this file system; EPERM: its owners are mapped already (mount_setattr(2)).
        Err(e)
            if owners == Owners::MappedIfPossible
                && matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) =>
        {
            Ok(Some(format!(
                "the file system of {source}, or of a mount below it, has no idmapped mounts: its files belong to nobody in the container; \
                 bind-nonrecursive leaves mounts below out, --userns host keeps all owners"
            )))
        }
        Err(e) => Err(NodeError::Io { act: format!("mapping the owners of {source}"), source: e }),
    }
}

/// Gives the files of a volume the container's ids; on the disk they keep theirs. What its file system cannot is said in the answer.
fn map_owners(tree: BorrowedFd<'_>, volume: &str, shift: Shift<'_>) -> Result<Option<String>, NodeError> {
    let change = AttrChange { idmap: Some(shift.userns), ..AttrChange::default() };
    match mount_setattr(tree, change) {
        Ok(()) => Ok(None),
        // EINVAL: no idmapped mounts of this file system (mount_setattr(2)), as of NFS.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(Some(format!(
            "the file system of volume {volume} has no idmapped mounts: its files belong to nobody in the container"
        ))),
        Err(e) => Err(NodeError::Io { act: format!("mapping the owners of volume {volume}"), source: e }),
    }
}

/// What an empty volume is filled from.
#[derive(Clone, Copy)]
pub(crate) enum Filling<'a> {
    Root(BorrowedFd<'a>),
    Layers(&'a [Digest]),
}

/// Where the files of a volume are to be mounted from; the container counts as one that has it mounted from here on. `fill`: an image's root and
/// the folder there that an empty volume is filled from.
pub(super) fn ready(
    inner: &Arc<Inner>,
    id: &ContainerId,
    wanted: &VolumeMount,
    fill: Option<(Filling<'_>, &str)>,
) -> Result<Place, NodeError> {
    let volume = inner.volumes.find(&wanted.name)?;
    let _gate = volume.gate.lock().unwrap_or_else(|e| e.into_inner());
    let alone = {
        let mut table = inner.volumes.lock();
        let entry = table.get_mut(&wanted.name).filter(|e| !e.removing);
        let entry = entry.ok_or_else(|| NodeError::VolumeNotFound(wanted.name.clone()))?;
        if entry.work.contains(&super::IMPORT) {
            return Err(NodeError::VolumeInUse { volume: wanted.name.clone(), by: super::users(inner, entry) });
        }
        entry.mounted.insert(id.clone());
        entry.mounted.len() == 1
    };
    inner.volumes.store.attach(&wanted.name, &volume.backing)?;
    let place = inner.volumes.place(&volume);
    if let Some((from, target)) = fill.filter(|_| alone) {
        first_fill(inner, &volume, &place, from, target)?;
    }
    Ok(place)
}

/// Copies what the image has at the target into an empty volume that nobody else has mounted.
fn first_fill(inner: &Inner, volume: &Volume, place: &Place, from: Filling<'_>, target: &str) -> Result<(), NodeError> {
    let Some(fill) = place.fill.as_ref().filter(|_| place.is_empty().unwrap_or(false)) else { return Ok(()) };
    let view;
    let root = match from {
        Filling::Root(root) => root,
        Filling::Layers(layers) => {
            view = inner.layers.store.view(layers, None)?;
            view.as_fd()
        }
    };
    let how = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
    let from = match sysfs::openat2(root, target, Open::RDONLY | Open::DIRECTORY | Open::NONBLOCK, 0, how) {
        Ok(from) => from,
        // The image has nothing there, or a file, which fills no volume.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(NodeError::Io { act: format!("opening {target} of the image"), source: e }),
    };
    let looked = NodeError::io(format!("looking at {target} of the image"));
    let stat = sysfs::fstat(from.as_fd()).map_err(looked)?;
    let plain = stat.kind == Kind::Directory && (stat.uid, stat.gid, stat.mode & 0o7777) == (0, 0, 0o755);
    let nothing = sysfs::read_dir(from.as_fd(), 1).map_err(NodeError::io(format!("reading {target} of the image")))?;
    if plain && nothing.is_empty() {
        return Ok(());
    }
    sysfs::rewind_dir(from.as_fd()).map_err(NodeError::io(format!("reading {target} of the image")))?;
    // Of a fill that was cut.
    berth_rootfs::remove_tree(fill)?;
    let stop = inner.stop.clone();
    let check = move || {
        fail::point("volume.while_filling").map_err(|e| io::Error::other(e.to_string()))?;
        if stop.is_cancelled() { Err(io::Error::other("the agent is stopping")) } else { Ok(()) }
    };
    let filled = limited(|| place.fill(from.as_fd(), &check));
    if filled.is_err() {
        super::remove::clear(fill);
    }
    let filled = filled.map_err(|e| inner.volumes.within(volume, e))?;
    fail::point("volume.after_fill")?;
    tracing::debug!(volume = volume.record.name, filled, "first use");
    Ok(())
}

/// A run has ended, or was none: it has no volume mounted any more; blocking.
pub(crate) fn let_go(inner: &Inner, container: &Container) -> Result<(), NodeError> {
    let record = container.record();
    let mut events = Vec::new();
    for (mount, wanted) in volumes_of(&record.spec) {
        let idle = {
            let mut table = inner.volumes.lock();
            let Some(entry) = table.get_mut(&wanted.name) else { continue };
            if !entry.mounted.remove(&container.id) {
                continue;
            }
            entry.volume.clone()
        };
        let Some(volume) = idle else { continue };
        let more = [("container", container.id.to_string()), ("destination", mount.target.clone())];
        events.push(event(inner, &volume.record, "unmount", &more));
        super::detach_idle(inner, &volume);
    }
    if !events.is_empty() {
        let _ = inner.store.submit_blocking(events, Durability::Quick)?;
    }
    Ok(())
}

/// One volume with its users.
pub(crate) fn view(inner: &Inner, name: &str) -> Result<VolumeView, NodeError> {
    let volume = inner.volumes.find(name)?;
    let users = inner.volumes.lock().get(name).map(|e| e.users.iter().cloned().collect()).unwrap_or_default();
    Ok(viewed(inner, &volume, users))
}

pub(super) fn viewed(inner: &Inner, volume: &Volume, users: Vec<ContainerId>) -> VolumeView {
    let containers = users.iter().map(|id| match inner.containers.find(id.as_str()) {
        Ok(container) => container.record().name.clone(),
        Err(_) => id.short().to_owned(),
    });
    VolumeView {
        containers: containers.collect(),
        mountpoint: inner.volumes.place(volume).data,
        limit: volume.backing.limit(),
        record: volume.record.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_so_many_volumes_and_no_more() {
        let image = |count: usize| ImageConfig {
            volumes: (0..count).map(|n| format!("/v{n}")).collect(),
            ..ImageConfig::default()
        };
        let mut spec = ContainerSpec::default();
        add_volumes(&mut spec, &image(2)).unwrap();
        assert_eq!(spec.mounts.len(), 2);
        // Those that the spec has at the same targets are the same ones.
        add_volumes(&mut spec, &image(MAX_TREES)).unwrap();
        for many in [MAX_TREES + 1, MAX_MOUNTS + 1] {
            let refused = add_volumes(&mut spec.clone(), &image(many));
            assert!(matches!(refused, Err(NodeError::Invalid(_))), "{many}");
        }
    }
}

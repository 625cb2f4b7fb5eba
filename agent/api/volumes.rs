//! `berth.v1.Volumes`, and what containers say of volumes and images in them.

use super::decode::{Fields, MAX_NAME, MAX_PATH};
use super::{Answers, call, encode, filter, finish, list, reclaim};
use crate::permission::{self, Need};
use crate::status;
use berth::role::Role;
use berth::v1::{self, volumes_server};
use berth_model::ContainerSpec;
use berth_model::pattern::LabelPattern;
use berth_model::spec::{ImageMount, MountKind, VolumeMount};
use berth_model::volume::check_volume_name;
use berth_node::{ExportItem, Extracted, Had, ImportItem, ImportRequest, Node, NodeError, Requester, VolumeView};
use berth_volume::Backing;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A caller that sends nothing for so long has forgotten its import.
const STUCK: Duration = Duration::from_secs(600);
const MAX_LABELS: usize = 1024;

pub struct Volumes {
    pub node: Node,
}

fn name(f: &mut Fields, field: &str, name: &str) {
    f.take(field, check_volume_name(name));
}

fn labels(f: &mut Fields, field: &str, map: HashMap<String, String>) -> BTreeMap<String, String> {
    f.count(field, map.len(), MAX_LABELS);
    for (key, value) in &map {
        let shown: String = key.chars().take(64).collect();
        let at = format!("{field}[{shown:?}]");
        f.check(!key.is_empty(), &at, "must have a name");
        f.line(&at, key, 1024);
        f.text(&at, value, 64 << 10);
    }
    map.into_iter().collect()
}

fn options(f: &mut Fields, field: &str, map: HashMap<String, String>) -> BTreeMap<String, String> {
    f.count(field, map.len(), 16);
    let map: BTreeMap<_, _> = map.into_iter().collect();
    if let Err(wrong) = Backing::parse(&map) {
        for one in wrong {
            let shown: String = one.option.chars().take(64).collect();
            f.wrong(format!("{field}[{shown:?}]"), one.why);
        }
    }
    map
}

fn subpath(f: &mut Fields, field: &str, path: String) -> Option<String> {
    f.text(field, &path, MAX_PATH);
    let good = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
    f.check(good, field, "must be a path inside, without '/' at its beginning and without '..'");
    super::decode::some(path)
}

/// A volume in a container.
pub fn decode_mount(f: &mut Fields, at: &str, volume: v1::VolumeMount) -> MountKind {
    if !volume.name.is_empty() {
        name(f, &format!("{at}.name"), &volume.name);
    }
    MountKind::Volume(VolumeMount {
        subpath: subpath(f, &format!("{at}.subpath"), volume.subpath),
        labels: labels(f, &format!("{at}.labels"), volume.labels),
        options: options(f, &format!("{at}.options"), volume.options),
        name: volume.name,
        anonymous: false,
        no_copy: volume.no_copy,
    })
}

/// An image in a container.
pub fn decode_image(f: &mut Fields, at: &str, image: v1::ImageMount) -> MountKind {
    f.name(&format!("{at}.image"), &image.image);
    let subpath = subpath(f, &format!("{at}.subpath"), image.subpath);
    MountKind::Image(ImageMount { image: image.image, subpath, ..ImageMount::default() })
}

/// Where the files of a container's volumes are on the host, by the volume's name.
pub fn mountpoints(node: &Node, spec: &ContainerSpec) -> HashMap<String, String> {
    let names = spec.mounts.iter().filter_map(|m| match &m.kind {
        MountKind::Volume(volume) => Some(&volume.name),
        _ => None,
    });
    let found = |name: &String| Some((name.clone(), node.volume(name).ok()?.mountpoint.to_string_lossy().into_owned()));
    names.filter_map(found).collect()
}

pub fn encode_mount(volume: &VolumeMount) -> v1::VolumeMount {
    v1::VolumeMount {
        name: volume.name.clone(),
        subpath: volume.subpath.clone().unwrap_or_default(),
        no_copy: volume.no_copy,
        labels: volume.labels.clone().into_iter().collect(),
        options: volume.options.clone().into_iter().collect(),
        anonymous: volume.anonymous,
    }
}

/// `NAME`, `NAME:ro`, `NAME:rw`.
pub fn decode_from(f: &mut Fields, list: Vec<String>) -> Vec<(String, Option<bool>)> {
    f.count("volumes_from", list.len(), 64);
    let mut found = Vec::new();
    for (n, text) in list.iter().enumerate() {
        let (container, mode) = text.split_once(':').map_or((text.as_str(), None), |(c, m)| (c, Some(m)));
        let field = format!("volumes_from[{n}]");
        f.name(&field, container);
        let read_only = match mode {
            None => None,
            Some("ro") => Some(true),
            Some("rw") => Some(false),
            Some(_) => {
                f.wrong(&field, "must be NAME, NAME:ro or NAME:rw");
                None
            }
        };
        found.push((container.to_owned(), read_only));
    }
    found
}

pub fn encode_from(from: &[(String, Option<bool>)]) -> Vec<String> {
    let text = |(name, read_only): &(String, Option<bool>)| match read_only {
        None => name.clone(),
        Some(true) => format!("{name}:ro"),
        Some(false) => format!("{name}:rw"),
    };
    from.iter().map(text).collect()
}

/// Takes passwords out of a volume's options, for callers who may only look.
pub fn hide_secrets(options: &mut HashMap<String, String>) {
    let all: BTreeMap<_, _> = options.drain().collect();
    options.extend(berth_volume::without_secrets(&all));
}

/// As `role` may see it.
fn shown(role: Option<Role>, view: &VolumeView, size_bytes: Option<u64>) -> v1::Volume {
    let mut volume = volume(view, size_bytes);
    if role.is_none_or(|role| role < Role::Operator) {
        hide_secrets(&mut volume.options);
    }
    volume
}

fn volume(view: &VolumeView, size_bytes: Option<u64>) -> v1::Volume {
    let record = &view.record;
    v1::Volume {
        name: record.name.clone(),
        created: Some(encode::time(record.created)),
        labels: record.labels.clone().into_iter().collect(),
        options: record.options.clone().into_iter().collect(),
        anonymous: record.anonymous,
        mountpoint: view.mountpoint.to_string_lossy().into_owned(),
        containers: view.containers.clone(),
        limit_bytes: view.limit.map_or(0, |(bytes, _)| bytes),
        limited_by: view.limit.map_or_else(String::new, |(_, by)| by.as_str().to_owned()),
        used_bytes: None,
        size_bytes,
    }
}

const KEYS: &str = "name, label, label!, dangling, driver";

fn fits(filters: &BTreeMap<String, Vec<String>>, view: &VolumeView) -> bool {
    let record = &view.record;
    filters.iter().all(|(key, values)| {
        let any = |fits: &dyn Fn(&str) -> bool| values.iter().any(|v| fits(v));
        let label = |v: &str| LabelPattern::parse(v).fits(|key| record.labels.get(key));
        match key.as_str() {
            "name" => any(&|v| record.name.contains(v)),
            "label" => any(&label),
            "label!" => !any(&label),
            "dangling" => any(&|v| matches!(v, "true" | "1") == view.containers.is_empty()),
            _ => any(&|v| v == "local"),
        }
    })
}

#[tonic::async_trait]
impl volumes_server::Volumes for Volumes {
    type ListStream = Answers<v1::ListVolumesResponse>;
    type PruneStream = Answers<v1::PruneVolumesResponse>;
    type ExportStream = Answers<v1::ExportVolumeResponse>;
    type ImportInPartsStream = Answers<v1::ImportVolumeProgress>;

    async fn create(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        if !request.name.is_empty() {
            name(&mut f, "name", &request.name);
        }
        let labels = labels(&mut f, "labels", request.labels);
        let options = options(&mut f, "options", request.options);
        f.done()?;
        if berth_volume::is_of_host(&options) {
            call.permit(&[Need::VolumeOptions], &request.name, &request.request_id)?;
        }
        let who = call.about(&request.name, &request.request_id);
        let (node, name) = (self.node.clone(), super::decode::some(request.name));
        let made = finish(async move { node.create_volume(&who, name, labels, options).await }).await?;
        Ok(Response::new(v1::CreateVolumeResponse { volume: Some(volume(&made, None)) }))
    }

    async fn list(&self, request: Request<v1::ListVolumesRequest>) -> Result<Response<Self::ListStream>, Status> {
        let role = call(&request)?.role();
        let request = request.into_inner();
        let mut f = Fields::default();
        f.count("filters", request.filters.len(), 256);
        let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (n, one) in request.filters.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "name" | "label" | "label!" | "driver" => {}
                "dangling" => {
                    let good = matches!(one.value.as_str(), "true" | "false" | "1" | "0");
                    f.check(good, at, "must be true or false");
                }
                key => f.unknown_filter(n, key, KEYS),
            }
            filters.entry(one.key).or_default().push(one.value);
        }
        f.done()?;
        let bytes = match request.sizes {
            true => Some(self.node.volume_bytes().await.map_err(status::from_node)?),
            false => None,
        };
        let used = self.node.volumes_used(None).await.map_err(status::from_node)?;
        let volumes = self.node.volumes().into_iter().filter(|view| fits(&filters, view)).map(|view| {
            let size = bytes.as_ref().map(|b| b.get(&view.record.name).copied().unwrap_or(0));
            let used_bytes = used.get(&view.record.name).copied();
            v1::ListVolumesResponse { volume: Some(v1::Volume { used_bytes, ..shown(role, &view, size) }) }
        });
        Ok(Response::new(list(volumes.collect())))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectVolumeRequest>,
    ) -> Result<Response<v1::InspectVolumeResponse>, Status> {
        let role = call(&request)?.role();
        let request = request.into_inner();
        let mut f = Fields::default();
        f.name("volume", &request.volume);
        f.done()?;
        let view = self.node.volume(&request.volume).map_err(status::from_node)?;
        let size = match request.size {
            true => self.node.volume_bytes().await.map_err(status::from_node)?.get(&request.volume).copied(),
            false => None,
        };
        let used = self.node.volumes_used(Some(request.volume.clone())).await.map_err(status::from_node)?;
        let used_bytes = used.get(&request.volume).copied();
        let volume = v1::Volume { used_bytes, ..shown(role, &view, size) };
        Ok(Response::new(v1::InspectVolumeResponse { volume: Some(volume) }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Result<Response<v1::RemoveVolumeResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("volume", &request.volume);
        f.done()?;
        let who = call.about(&request.volume, &request.request_id);
        let node = self.node.clone();
        let removed = finish(async move { node.remove_volume(&who, &request.volume).await }).await?;
        Ok(Response::new(v1::RemoveVolumeResponse { removed }))
    }

    async fn prune(&self, request: Request<v1::PruneVolumesRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        // Docker's filter says the same as the field; the last one holds.
        let (all, filters): (Vec<_>, Vec<_>) = request.filters.clone().into_iter().partition(|one| one.key == "all");
        let filter = filter::PruneFilter::decode(&mut f, &filters);
        let yes = |one: &v1::ListFilter| match one.value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        };
        f.check(all.iter().all(|one| yes(one).is_some()), "filters", "all must be true or false");
        let all = all.last().and_then(yes).unwrap_or(request.all);
        f.check(
            filter.until.is_none(),
            "filters",
            "until is no filter of volumes: they have no age that says anything",
        );
        f.done()?;
        let what = if request.dry_run { "dry run" } else { "volumes" };
        let who = call.about(what, &request.request_id);
        let content = (reclaim::content(&request.filters), request.dry_run, all);
        let freed = self.node.prune_volumes(&who, all, filter.labels, &content, request.dry_run).await;
        Ok(Response::new(reclaim::stream(freed.map_err(status::from_node)?, |item| {
            use v1::prune_volumes_response::Kind;
            v1::PruneVolumesResponse { kind: Some(item.split(Kind::Item, Kind::Total)) }
        })))
    }

    async fn export(&self, request: Request<v1::ExportVolumeRequest>) -> Result<Response<Self::ExportStream>, Status> {
        use v1::export_volume_response::Kind;
        let call = call(&request)?;
        let v1::ExportVolumeRequest { volume: name, offset, sha256 } = request.into_inner();
        let mut f = Fields::default();
        f.name("volume", &name);
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        f.check(
            offset == 0 || is_digest,
            "sha256",
            "must be the SHA-256 of the tar up to the offset, in 64 hexadecimal digits",
        );
        f.done()?;
        call.permit(&permission::of_volume(&self.node, &name), &name, "")?;
        let who = call.about(&name, "");
        let had = (offset > 0).then_some(Had { bytes: offset, sha256 });
        let mut items = self.node.export_volume(&who, &name, had).await.map_err(status::from_node)?;
        let (sender, stream) = mpsc::channel(1);
        super::spawn(async move {
            loop {
                // A caller that goes away ends the work at once, not with the next piece.
                let item = tokio::select! {
                    item = items.recv() => item,
                    () = sender.closed() => return,
                };
                let Some(item) = item else {
                    // Ended without a last word: this agent is about to end, and a clean end of the stream would be one of the tar.
                    let _ = sender.send(Err(status::stopping())).await;
                    return;
                };
                let last = !matches!(item, Ok(ExportItem::At(_) | ExportItem::Tar(_)));
                let answer = item.map_err(status::from_node).map(|item| {
                    let kind = match item {
                        ExportItem::At(bytes) => Kind::At(v1::VolumeTarAt { bytes }),
                        ExportItem::Tar(bytes) => Kind::Tar(bytes),
                        ExportItem::Done { sha256, bytes } => Kind::End(v1::VolumeTarEnd { sha256, bytes }),
                    };
                    v1::ExportVolumeResponse { kind: Some(kind) }
                });
                if sender.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportVolumeRequest>>,
    ) -> Result<Response<v1::ImportVolumeResponse>, Status> {
        let (who, request, receive) = self.import_start(request, false).await?;
        let node = self.node.clone();
        let done = finish(async move { node.import_volume(&who, request, receive).await }).await?;
        Ok(Response::new(imported(done)))
    }

    async fn import_in_parts(
        &self,
        request: Request<Streaming<v1::ImportVolumeRequest>>,
    ) -> Result<Response<Self::ImportInPartsStream>, Status> {
        use v1::import_volume_progress::Kind;
        let (who, request, receive) = self.import_start(request, true).await?;
        let (safe, mut told) = watch::channel(None);
        let (sender, stream) = mpsc::channel(4);
        let node = self.node.clone();
        let progress = |kind| v1::ImportVolumeProgress { kind: Some(kind) };
        super::spawn(async move {
            let work = finish(async move { node.import_volume_in_parts(&who, request, receive, safe).await });
            tokio::pin!(work);
            let done = loop {
                tokio::select! {
                    done = &mut work => break done,
                    Ok(()) = told.changed() => {
                        let bytes = *told.borrow_and_update();
                        if let Some(bytes) = bytes {
                            // Nobody there: the work finds that out by itself.
                            let _ = sender.send(Ok(progress(Kind::SafeBytes(bytes)))).await;
                        }
                    }
                }
            };
            let _ = sender.send(done.map(|done| progress(Kind::Done(imported(done))))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn clone(
        &self,
        request: Request<v1::CloneVolumeRequest>,
    ) -> Result<Response<v1::CloneVolumeResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("source", &request.source);
        name(&mut f, "target", &request.target);
        let labels = request.labels.map(|l| labels(&mut f, "labels", l.labels));
        f.done()?;
        call.permit(&permission::of_volume(&self.node, &request.source), &request.source, &request.request_id)?;
        let who = call.about(&format!("{} {}", request.source, request.target), &request.request_id);
        let node = self.node.clone();
        let made =
            finish(async move { node.clone_volume(&who, &request.source, &request.target, labels).await }).await?;
        Ok(Response::new(v1::CloneVolumeResponse { volume: Some(volume(&made, None)) }))
    }
}

fn imported(done: Extracted) -> v1::ImportVolumeResponse {
    v1::ImportVolumeResponse { entries: done.entries, bytes: done.bytes, skipped: done.skipped }
}

impl Volumes {
    /// Reads the first frame of an import; the others come through the channel. `again`: it may have begun in an earlier call.
    async fn import_start(
        &self,
        request: Request<Streaming<v1::ImportVolumeRequest>>,
        again: bool,
    ) -> Result<(Requester, ImportRequest, mpsc::Receiver<Result<ImportItem, NodeError>>), Status> {
        use v1::import_volume_request::Kind;
        let call = call(&request)?;
        let mut requests = request.into_inner();
        let Some(Kind::Start(start)) = requests.message().await?.and_then(|m| m.kind) else {
            return Err(status::bad_stream("the first frame must be start"));
        };
        let mut f = Fields::under("start.");
        f.request_id(&start.request_id);
        let good = start.tar_key.len() <= 64 && start.tar_key.bytes().all(|b| b.is_ascii_graphic());
        f.check(good, "tar_key", "must be at most 64 printable ASCII characters");
        f.check(!again || !start.request_id.is_empty(), "request_id", "must be there: by it the import is known again");
        name(&mut f, "volume", &start.volume);
        f.done()?;
        call.permit(&permission::of_volume(&self.node, &start.volume), &start.volume, &start.request_id)?;
        let who = call.about(&start.volume, &start.request_id);
        let (pieces, receive) = mpsc::channel(4);
        super::spawn(feed(requests, pieces));
        Ok((who, ImportRequest { volume: start.volume, replace: start.replace, tar_key: start.tar_key }, receive))
    }
}

/// Hands the caller's pieces on.
async fn feed(mut requests: Streaming<v1::ImportVolumeRequest>, pieces: mpsc::Sender<Result<ImportItem, NodeError>>) {
    use v1::import_volume_request::Kind;
    loop {
        let next = match tokio::time::timeout(STUCK, requests.message()).await {
            Ok(Ok(Some(message))) => message.kind,
            _ => None,
        };
        let item = match next {
            Some(Kind::Tar(bytes)) => Ok(ImportItem::Tar(bytes)),
            Some(Kind::End(end)) => Ok(ImportItem::Done { sha256: end.sha256 }),
            Some(Kind::Start(_)) | None => Err(NodeError::CallerGone),
        };
        let last = !matches!(item, Ok(ImportItem::Tar(_)));
        if pieces.send(item).await.is_err() || last {
            return;
        }
    }
}

//! `berth.v1.Images`.

use super::decode::{Fields, MAX_NAME};
use super::progress::Feed;
use super::{Answers, QUEUE, call, encode, filter, finish, list, reclaim};
use crate::status;
use berth::role::Role;
use berth::v1::{self, images_server, pull_response::Kind};
use berth_model::pattern::names_image;
use berth_node::{Basis, ImageRule, ImageView, Node, Policy};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub struct Images {
    pub node: Node,
}

#[tonic::async_trait]
impl images_server::Images for Images {
    type PullStream = Answers<v1::PullResponse>;
    type PruneStream = Answers<v1::PruneImagesResponse>;
    type ListStream = Answers<v1::ListImagesResponse>;

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let reference = f.reference("reference", &request.reference);
        let platform = f.platform("platform", request.platform);
        let auth = f.auth("auth", request.auth);
        f.done()?;
        let Some(reference) = reference else { return Err(status::internal("a reference was lost")) };
        let who = call.about(&reference.to_string(), &request.request_id);
        let node = self.node.clone();
        let (answers, stream) = mpsc::channel(QUEUE);
        super::spawn(async move {
            let feed = Feed::default();
            let work = node.pull(&who, &reference, platform, auth, feed.writer());
            let wrap = |p| Ok(v1::PullResponse { kind: Some(Kind::Progress(p)) });
            // A caller that goes away drops the pull; what others wait for, and what has come, is kept below.
            if let Some(done) = feed.relay(work, &answers, wrap).await {
                let last = done
                    .map(|outcome| v1::PullResponse { kind: Some(Kind::Result(encode::pulled(&outcome))) })
                    .map_err(status::from_node);
                let _ = answers.send(last).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list(&self, request: Request<v1::ListImagesRequest>) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let patterns = request.references;
        let mut f = Fields::default();
        let made = |name: &str| self.node.image(name).ok().map(|i| i.record.created.unwrap_or(i.record.pulled));
        let filter = filter::ImageFilter::decode(&mut f, request.filters, made);
        f.count("references", patterns.len(), 256);
        for (n, pattern) in patterns.iter().enumerate() {
            f.line(format!("references[{n}]"), pattern, MAX_NAME);
        }
        f.done()?;
        let mut images = self.node.images();
        let named =
            |i: &ImageView| patterns.is_empty() || patterns.iter().any(|p| i.tags.iter().any(|t| names_image(p, t)));
        images.retain(|image| named(image) && filter.fits(image));
        let answers = images.iter().map(|image| v1::ListImagesResponse { image: Some(encode::image(image)) });
        Ok(Response::new(list(answers.collect())))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageResponse>, Status> {
        let role = call(&request)?.role();
        let name = request.into_inner().image;
        let mut f = Fields::default();
        f.name("image", &name);
        f.done()?;
        let image = self.node.image(&name).map_err(status::from_node)?;
        let mut answer = encode::image_detail(&image);
        if role.is_none_or(|role| role < Role::Operator) {
            encode::hide_image_secrets(&mut answer);
        }
        Ok(Response::new(answer))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("image", &request.image);
        f.done()?;
        let who = call.about(&request.image, &request.request_id);
        let node = self.node.clone();
        let removed = finish(async move { node.remove_image(&who, &request.image, request.force).await }).await?;
        Ok(Response::new(v1::RemoveImageResponse {
            untagged: removed.untagged,
            deleted: removed.deleted,
            freed_bytes: removed.freed_bytes,
        }))
    }

    async fn prune(&self, request: Request<v1::PruneImagesRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let filter = filter::PruneFilter::decode(&mut f, &request.filters);
        f.done()?;
        let what = match (request.dry_run, request.all) {
            (true, _) => "dry run",
            (false, true) => "unused images",
            (false, false) => "images without a name",
        };
        let who = call.about(what, &request.request_id);
        let rule =
            ImageRule { nameless_only: !request.all, basis: Basis::Made, before: filter.until, labels: filter.labels };
        let policy = Policy { images: Some(rule), ..Policy::default() };
        let content = (reclaim::content(&request.filters), request.dry_run, request.all);
        let freed = self.node.free(&who, "PruneImages", &content, policy, request.dry_run).await;
        Ok(Response::new(reclaim::stream(freed.map_err(status::from_node)?, |item| {
            use v1::prune_images_response::Kind;
            v1::PruneImagesResponse { kind: Some(item.split(Kind::Item, Kind::Total)) }
        })))
    }

    async fn tag(&self, request: Request<v1::TagImageRequest>) -> Result<Response<v1::TagImageResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("source", &request.source);
        let target = f.reference("target", &request.target);
        if target.as_ref().is_some_and(|t| t.digest().is_some()) {
            f.wrong("target", "must be a name with a tag, not with a digest");
        }
        f.done()?;
        let Some(target) = target else { return Err(status::internal("a reference was lost")) };
        let who = call.about(&format!("{} {target}", request.source), &request.request_id);
        let node = self.node.clone();
        let reference = target.to_string();
        let image = finish(async move { node.tag_image(&who, &request.source, &target).await }).await?;
        Ok(Response::new(v1::TagImageResponse { reference, image_id: image.record.id.to_string() }))
    }
}

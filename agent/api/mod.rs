//! `berth.v1`: one file per service. Decode, call the node, encode.

mod containers;
mod decode;
mod doctor;
mod encode;
mod endpoints;
mod events;
mod explain;
mod files;
mod filter;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod images;
mod limits;
mod networks;
mod node;
mod ports;
mod progress;
mod reclaim;
mod selinux;
mod session;
mod spec;
mod storage;
mod subnets;
mod supervise;
mod upgrade;
mod usage;
mod volumes;

use crate::config::Config;
use crate::gate::Call;
use crate::status;
use crate::upgrade::Upgrades;
use berth::v1::containers_server::ContainersServer;
use berth::v1::files_server::FilesServer;
use berth::v1::images_server::ImagesServer;
use berth::v1::networks_server::NetworksServer;
use berth::v1::node_server::NodeServer;
use berth::v1::volumes_server::VolumesServer;
use berth_node::{Node, NodeError};
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::service::Routes;
use tonic::{Request, Status};
use tonic_health::server::HealthReporter;
use tracing::Instrument;

/// What a stream of answers is.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// Answers that wait for their caller; what makes them waits when it is full.
const QUEUE: usize = 16;

/// Everything that is served, with health already `SERVING`.
pub async fn routes(node: &Node, config: &Config, upgrades: &Upgrades) -> anyhow::Result<(Routes, HealthReporter)> {
    let limit = config.limits.message_bytes;
    let images = ImagesServer::new(images::Images { node: node.clone() }).max_decoding_message_size(limit);
    let containers = ContainersServer::new(containers::Containers { node: node.clone(), log: config.container_log() })
        .max_decoding_message_size(limit);
    let about = NodeServer::new(node::About {
        node: node.clone(),
        upgrades: upgrades.clone(),
        tls: config.tcp().map(|(_, f)| f),
    })
    .max_decoding_message_size(limit);
    let files = FilesServer::new(files::Files { node: node.clone() }).max_decoding_message_size(limit);
    let networks = NetworksServer::new(networks::Networks { node: node.clone() }).max_decoding_message_size(limit);
    let volumes = VolumesServer::new(volumes::Volumes { node: node.clone() }).max_decoding_message_size(limit);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ImagesServer<images::Images>>().await;
    health.set_serving::<ContainersServer<containers::Containers>>().await;
    health.set_serving::<FilesServer<files::Files>>().await;
    health.set_serving::<NetworksServer<networks::Networks>>().await;
    health.set_serving::<NodeServer<node::About>>().await;
    health.set_serving::<VolumesServer<volumes::Volumes>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(berth::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(containers)
        .add_service(images)
        .add_service(files)
        .add_service(networks)
        .add_service(volumes)
        .add_service(about)
        .add_service(health_service)
        .add_service(reflection);
    Ok((routes, health))
}

/// Tells those who watch that the agent is about to end.
pub async fn not_serving(health: &HealthReporter) {
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    health.set_not_serving::<ImagesServer<images::Images>>().await;
    health.set_not_serving::<ContainersServer<containers::Containers>>().await;
    health.set_not_serving::<FilesServer<files::Files>>().await;
    health.set_not_serving::<NetworksServer<networks::Networks>>().await;
    health.set_not_serving::<NodeServer<node::About>>().await;
    health.set_not_serving::<VolumesServer<volumes::Volumes>>().await;
}

/// The call that a request belongs to: the gate put it there.
fn call<T>(request: &Request<T>) -> Result<Arc<Call>, Status> {
    let call = request.extensions().get::<Arc<Call>>();
    call.cloned().ok_or_else(|| status::internal("the request came past the gate"))
}

/// A task of the present call: what it says in the log belongs to the call's trace.
fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work.in_current_span())
}

/// Runs work that must end once it has begun, whether its caller waits or not.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<T, Status> {
    finish_node(work).await?.map_err(status::from_node)
}

/// As [`finish`], with the node's own error.
async fn finish_node<T: Send + 'static>(
    work: impl Future<Output = Result<T, NodeError>> + Send + 'static,
) -> Result<Result<T, NodeError>, Status> {
    match spawn(work).await {
        Ok(done) => Ok(done),
        Err(e) => Err(status::internal(format!("the operation ended without an answer: {e}"))),
    }
}

/// A list as a stream.
fn list<T: Send + 'static>(items: Vec<T>) -> Answers<T> {
    Box::pin(tokio_stream::iter(items.into_iter().map(Ok)))
}

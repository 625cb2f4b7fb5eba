//! `berth.v1.Networks`.

use super::decode::Fields;
use super::endpoints::decode_endpoint;
use super::{Answers, call, encode, endpoints, explain, filter, finish, list, reclaim, subnets};
use crate::{permission, status};
use berth::v1::disconnect_network_response::Outcome;
use berth::v1::{self, networks_server};
use berth_model::network::{
    Ipv6Mode, NetworkAttachment, NetworkDriver, NetworkRecord, SPOOFING, SPOOFING_ALLOWED, SPOOFING_DENIED,
};
use berth_network::is_interface_name;
use berth_node::{Disconnected, NetworkMember, NetworkRequest, NetworkView, Node};
use std::collections::HashMap;
use tonic::{Request, Response, Status};

pub struct Networks {
    pub node: Node,
}

const MTU: &str = "com.docker.network.driver.mtu";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const OPTIONS: &str = "for bridge com.docker.network.driver.mtu, com.docker.network.bridge.name, \
    com.docker.network.bridge.gateway_mode_ipv6 and berth.network.spoofing; for macvlan parent, macvlan_mode and com.docker.network.driver.mtu";

#[tonic::async_trait]
impl networks_server::Networks for Networks {
    type ListStream = Answers<v1::ListNetworksResponse>;

    async fn create(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Result<Response<v1::CreateNetworkResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let (request_id, wanted) = (request.request_id.clone(), decode(&mut f, request));
        f.done()?;
        let subnets = [wanted.ipv4.map(|s| s.to_string()), wanted.ipv6.map(|s| s.to_string())];
        let subnets: Vec<String> = subnets.into_iter().flatten().collect();
        let needs = permission::of_network(wanted.driver, &subnets, wanted.bridge.as_deref());
        call.permit(&needs, &wanted.name, &request_id)?;
        let who = call.about(&wanted.name, &request_id);
        let node = self.node.clone();
        let id = finish(async move { node.create_network(&who, wanted).await }).await?;
        Ok(Response::new(v1::CreateNetworkResponse { id: id.to_string(), warnings: Vec::new() }))
    }

    async fn list(&self, request: Request<v1::ListNetworksRequest>) -> Result<Response<Self::ListStream>, Status> {
        let mut f = Fields::default();
        let filter = filter::NetworkFilter::decode(&mut f, request.into_inner().filters);
        f.done()?;
        let networks = self.node.networks().into_iter().filter(|n| filter.fits(n));
        let answers = networks.map(|n| v1::ListNetworksResponse { network: Some(network(&n)) });
        Ok(Response::new(list(answers.collect())))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectNetworkRequest>,
    ) -> Result<Response<v1::InspectNetworkResponse>, Status> {
        let name = request.into_inner().network;
        let mut f = Fields::default();
        f.name("network", &name);
        f.done()?;
        let found = self.node.network(&name).map_err(status::from_node)?;
        let members = found.members.iter().map(member).collect();
        Ok(Response::new(v1::InspectNetworkResponse { network: Some(network(&found)), members }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveNetworkRequest>,
    ) -> Result<Response<v1::RemoveNetworkResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("network", &request.network);
        f.done()?;
        let who = call.about(&request.network, &request.request_id);
        let node = self.node.clone();
        let removed = finish(async move { node.remove_network(&who, &request.network).await }).await?;
        Ok(Response::new(v1::RemoveNetworkResponse { id: removed.map(|id| id.to_string()).unwrap_or_default() }))
    }

    async fn prune(
        &self,
        request: Request<v1::PruneNetworksRequest>,
    ) -> Result<Response<v1::PruneNetworksResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        let filter = filter::PruneNetworksFilter::decode(&mut f, &request.filters);
        f.done()?;
        let who = call.about(if request.dry_run { "dry run" } else { "unused networks" }, &request.request_id);
        let content = (reclaim::content(&request.filters), request.dry_run);
        let node = self.node.clone();
        let pruned =
            finish(async move { node.prune_networks(&who, &content, move |n| filter.fits(n), request.dry_run).await });
        let pruned = pruned.await?;
        Ok(Response::new(v1::PruneNetworksResponse { removed: pruned.removed, problems: pruned.problems }))
    }

    async fn connect(
        &self,
        request: Request<v1::ConnectNetworkRequest>,
    ) -> Result<Response<v1::ConnectNetworkResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("container", &request.container);
        let wanted = request.endpoint.unwrap_or_default();
        let endpoint = decode_endpoint(&mut f, "endpoint", &wanted);
        f.done()?;
        let who = call.about(&format!("{} {}", wanted.network, request.container), &request.request_id);
        let (node, container) = (self.node.clone(), request.container);
        let joined = finish(async move { node.connect_network(&who, &container, endpoint).await }).await?;
        let joined = joined.map(|attachment| of_attachment(&attachment));
        Ok(Response::new(v1::ConnectNetworkResponse { member: joined }))
    }

    async fn explain_port(
        &self,
        request: Request<v1::ExplainPortRequest>,
    ) -> Result<Response<v1::ExplainPortResponse>, Status> {
        explain::explain(&self.node, request).await
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectNetworkRequest>,
    ) -> Result<Response<v1::DisconnectNetworkResponse>, Status> {
        let call = call(&request)?;
        let request = request.into_inner();
        let mut f = Fields::default();
        f.request_id(&request.request_id);
        f.name("network", &request.network);
        f.name("container", &request.container);
        f.done()?;
        let who = call.about(&format!("{} {}", request.network, request.container), &request.request_id);
        let node = self.node.clone();
        let done = finish(async move { node.disconnect_network(&who, &request.network, &request.container).await });
        let outcome = match done.await? {
            Disconnected::Done => Outcome::Disconnected,
            Disconnected::NotConnected => Outcome::NotConnected,
            Disconnected::NoContainer => Outcome::NoContainer,
        };
        Ok(Response::new(v1::DisconnectNetworkResponse { outcome: outcome.into() }))
    }
}

/// A network to be made.
pub(super) fn decode(f: &mut Fields, request: v1::CreateNetworkRequest) -> NetworkRequest {
    f.name("name", &request.name);
    let driver = match request.driver.as_str() {
        "" | "bridge" => NetworkDriver::Bridge,
        "macvlan" => NetworkDriver::Macvlan,
        "cni" => return decode_cni(f, request),
        "host" | "none" | "null" => {
            f.wrong("driver", "every host has one network of this driver, and no second one can be made");
            NetworkDriver::Bridge
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            f.wrong("driver", format!("{shown:?} is not supported; there are bridge, macvlan and cni"));
            NetworkDriver::Bridge
        }
    };
    f.check(request.conflist.is_empty(), "conflist", "goes with the driver cni only");
    let mut wanted = NetworkRequest { driver, internal: request.internal, ..NetworkRequest::default() };
    f.count("subnets", request.subnets.len(), 2);
    for (n, subnet) in request.subnets.iter().enumerate() {
        subnets::decode_subnet(f, &format!("subnets[{n}]"), subnet, &mut wanted);
    }
    wanted.enable_ipv6 = request.ipv6 || wanted.ipv6.is_some();
    decode_options(f, driver, &request.options, &mut wanted);
    super::spec::strings(f, "labels", &request.labels);
    if driver == NetworkDriver::Macvlan {
        f.check(
            wanted.parent.is_some(),
            "options[\"parent\"]",
            "is missing: the interface of the host that it sits on",
        );
        f.check(wanted.ipv4.is_some(), "subnets", "are missing: a macvlan has those of the network that it is on");
        f.check(!wanted.enable_ipv6 || wanted.ipv6.is_some(), "subnets", "must have an IPv6 one beside ipv6");
        f.check(!wanted.internal, "internal", "is not supported by macvlan");
    }
    wanted.name = request.name;
    wanted.labels = request.labels.into_iter().collect();
    wanted.options = request.options.into_iter().collect();
    wanted
}

/// Everything but names and labels stands in the list.
fn decode_cni(f: &mut Fields, request: v1::CreateNetworkRequest) -> NetworkRequest {
    let list = "is not for the driver cni: its configuration list says it";
    f.check(request.subnets.is_empty(), "subnets", list);
    f.check(!request.ipv6, "ipv6", list);
    f.check(!request.internal, "internal", list);
    f.check(request.options.is_empty(), "options", list);
    f.check(!request.conflist.is_empty(), "conflist", "is missing: the driver cni makes what it says");
    super::spec::strings(f, "labels", &request.labels);
    NetworkRequest {
        name: request.name,
        driver: NetworkDriver::Cni,
        conflist: Some(request.conflist),
        labels: request.labels.into_iter().collect(),
        ..NetworkRequest::default()
    }
}

fn decode_options(
    f: &mut Fields,
    driver: NetworkDriver,
    options: &HashMap<String, String>,
    wanted: &mut NetworkRequest,
) {
    let bridge = driver == NetworkDriver::Bridge;
    for (key, value) in options {
        let shown: String = key.chars().take(64).collect();
        let at = format!("options[{shown:?}]");
        match key.as_str() {
            MTU => match value.parse::<u32>() {
                // RFC 791 and 8200: the least that IPv4 and IPv6 live on; the most that a bridge of the kernel takes.
                Ok(mtu) if (68..=65535).contains(&mtu) => wanted.mtu = Some(mtu),
                _ => f.wrong(at, "must be 68 to 65535 (bytes)"),
            },
            BRIDGE_NAME if bridge => {
                f.check(is_interface_name(value), at, "must be 1 to 15 letters, digits, '-', '_' and '.'");
                wanted.bridge = Some(value.clone());
            }
            MODE6 if bridge => match value.as_str() {
                "nat" => wanted.ipv6_mode = Ipv6Mode::Nat,
                "routed" => wanted.ipv6_mode = Ipv6Mode::Routed,
                _ => f.wrong(at, "must be nat or routed"),
            },
            SPOOFING if bridge => {
                let known = matches!(value.as_str(), SPOOFING_ALLOWED | SPOOFING_DENIED);
                f.check(known, at, "must be deny or allow");
            }
            "parent" if !bridge => {
                f.check(is_interface_name(value), at, "must be the name of an interface of the host");
                wanted.parent = Some(value.clone());
            }
            "macvlan_mode" if !bridge => {
                let known = matches!(value.as_str(), "bridge" | "private" | "vepa");
                f.check(known, at, "must be bridge, private or vepa");
            }
            _ => f.wrong(at, format!("is not supported; there are {OPTIONS}")),
        }
    }
    let least = !wanted.enable_ipv6 || wanted.mtu.is_none_or(|mtu| mtu >= 1280);
    f.check(least, format!("options[{MTU:?}]"), "must be at least 1280 with IPv6");
}

fn network(view: &NetworkView) -> v1::Network {
    let n: &NetworkRecord = &view.record;
    v1::Network {
        id: n.id.to_string(),
        name: n.name.clone(),
        driver: n.driver.name().to_owned(),
        scope: "local".to_owned(),
        subnets: subnets::encode(n),
        ipv6: n.ipv6.is_some(),
        internal: n.internal,
        labels: n.labels.clone().into_iter().collect(),
        options: n.options.clone().into_iter().collect(),
        created: Some(encode::time(n.created)),
        interface: n.bridge.clone(),
        mtu: n.mtu.unwrap_or_default(),
        ipv6_mode: n.ipv6.map(|_| n.ipv6_mode.name().to_owned()).unwrap_or_default(),
        conflist: n.conflist.clone().unwrap_or_default(),
        containers: view.members.iter().filter(|m| m.running).count() as u32,
    }
}

fn of_attachment(a: &NetworkAttachment) -> v1::NetworkMember {
    let six = a.ipv6.as_ref();
    v1::NetworkMember {
        running: true,
        aliases: a.aliases.clone(),
        ipv4_address: endpoints::four(a.address),
        ipv4_prefix_length: a.prefix_len.into(),
        ipv6_address: six.map(|s| s.address.to_string()).unwrap_or_default(),
        ipv6_prefix_length: six.map_or(0, |s| s.prefix_len.into()),
        mac_address: a.mac.clone(),
        interface: a.interface.clone(),
        host_interface: a.host_interface.clone(),
        cni_result: a.cni.as_ref().map(|c| c.result.clone()).unwrap_or_default(),
        ..Default::default()
    }
}

fn member(m: &NetworkMember) -> v1::NetworkMember {
    let wished = || v1::NetworkMember {
        aliases: m.endpoint.aliases.clone(),
        ipv4_address: m.endpoint.ipv4.map(|a| a.to_string()).unwrap_or_default(),
        ipv6_address: m.endpoint.ipv6.map(|a| a.to_string()).unwrap_or_default(),
        mac_address: m.endpoint.mac.clone().unwrap_or_default(),
        ..Default::default()
    };
    v1::NetworkMember {
        container_id: m.container.id.to_string(),
        name: m.container.name.clone(),
        running: m.running,
        ..m.attachment.as_ref().map_or_else(wished, of_attachment)
    }
}

//! `Networks.ExplainPort`: what was found, and what it means for a person.

use super::call;
use super::decode::Fields;
use crate::status;
use berth::v1;
use berth_model::network::{PortMapping, Protocol};
use berth_model::publish::PublishPolicy;
use berth_network::{Effect, Explained, Found, Outcome, Place, PortHolder, PublishedHere, Question, is_interface_name};
use berth_node::Node;
use std::net::{IpAddr, SocketAddr};
use tonic::{Request, Response, Status};

pub async fn explain(
    node: &Node,
    request: Request<v1::ExplainPortRequest>,
) -> Result<Response<v1::ExplainPortResponse>, Status> {
    let call = call(&request)?;
    let request = request.into_inner();
    let mut f = Fields::default();
    let question = decode(&mut f, &request);
    f.done()?;
    let Some(question) = question else { return Err(status::internal("an error was lost")) };
    let address = question.address.map_or("any".to_owned(), |a| a.to_string());
    call.about(&format!("{address} {}/{}", question.port, question.protocol.name()), "");
    let found = node.explain_port(question.clone()).await.map_err(status::from_node)?;
    Ok(Response::new(Words { node, question: &question, found: &found }.answer()))
}

pub(super) fn decode(f: &mut Fields, request: &v1::ExplainPortRequest) -> Option<Question> {
    let mut address = |field: &str, text: &str| {
        if text.is_empty() { None } else { f.take(field, text.parse::<IpAddr>()) }
    };
    let (to, from) = (address("address", &request.address), address("from", &request.from));
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    f.check(port.is_some(), "port", "must be 1 to 65535");
    let protocol = super::ports::protocol(request.protocol);
    f.check(protocol.is_some(), "protocol", "must be TCP, UDP or SCTP");
    let families = to.zip(from).is_none_or(|(to, from)| to.is_ipv4() == from.is_ipv4());
    f.check(families, "from", "must be of the same family as the address");
    let named = request.interface.is_empty() || is_interface_name(&request.interface);
    f.check(named, "interface", "must be the name of an interface");
    let interface = Some(request.interface.clone()).filter(|name| !name.is_empty());
    Some(Question { address: to, port: port?, protocol: protocol?, from, interface })
}

struct Words<'a> {
    node: &'a Node,
    question: &'a Question,
    found: &'a Explained,
}

impl Words<'_> {
    fn answer(&self) -> v1::ExplainPortResponse {
        use v1::explain_port_response::Outcome as Wire;
        let found = self.found;
        let (outcome, target) = match &found.outcome {
            Outcome::Container { to, .. } => (Wire::Container, Some(*to)),
            Outcome::Elsewhere(to) => (Wire::Elsewhere, Some(*to)),
            Outcome::Process(_) => (Wire::Process, None),
            Outcome::Refused => (Wire::Refused, None),
            Outcome::Dropped => (Wire::Dropped, None),
            Outcome::Rejected => (Wire::Rejected, None),
            Outcome::Queued => (Wire::Queued, None),
            Outcome::NotThisHost => (Wire::NotThisHost, None),
        };
        let (holder_pid, holder) = match &found.holder {
            Some(PortHolder::Process { pid, name }) => (*pid, name.clone()),
            Some(other) => (0, other.to_string()),
            None => (0, String::new()),
        };
        v1::ExplainPortResponse {
            address: found.address.to_string(),
            port: self.question.port.into(),
            protocol: match self.question.protocol {
                Protocol::Tcp => v1::Protocol::Tcp,
                Protocol::Udp => v1::Protocol::Udp,
                Protocol::Sctp => v1::Protocol::Sctp,
            }
            .into(),
            from: found.from.to_string(),
            from_host: found.from_host,
            turned_by: found.turned_by.clone().unwrap_or_default(),
            interface: found.interface.clone(),
            outcome: outcome.into(),
            certain: found.certain,
            target: target.map(|to| to.to_string()).unwrap_or_default(),
            container: self.container().unwrap_or_default(),
            published: found.published.iter().map(|p| self.published(p)).collect(),
            holder_pid,
            holder,
            rules: found.found.iter().map(rule).collect(),
            unseen: found.unseen.clone(),
            summary: self.summary(),
            advice: self.advice(),
        }
    }

    /// Name of the container that gets the packet.
    fn container(&self) -> Option<String> {
        let Outcome::Container { id, .. } = &self.found.outcome else { return None };
        Some(self.name(id.as_str()))
    }

    fn name(&self, id: &str) -> String {
        self.node.container(id).map_or_else(|_| id.to_owned(), |detail| detail.view.record.name.clone())
    }

    fn published(&self, port: &PublishedHere) -> v1::PublishedHere {
        v1::PublishedHere {
            container: self.name(port.container.as_str()),
            network: port.network.clone(),
            mapping: Some(super::ports::encode(&self.of_family(port))),
            elements: port.elements.clone(),
            covers: port.covers,
        }
    }

    fn decider(&self) -> Option<&Place> {
        let last = self.found.found.iter().rfind(|f| f.doubt.is_none() && f.effect != Effect::Accepts);
        last.map(|f| &f.place)
    }

    fn summary(&self) -> String {
        let found = self.found;
        let by = || self.decider().map_or("a rule".to_owned(), named);
        let turned =
            found.turned_by.as_ref().map(|name| format!("is turned to 127.0.0.1 by berth's program {name}, and "));
        let mut text = turned.unwrap_or_default();
        text += &match &found.outcome {
            Outcome::Container { to, .. } => {
                let name = self.container().unwrap_or_default();
                match self.listens(*to) {
                    Some(false) => format!("reaches container {name} at {to}, where nothing listens: it is refused"),
                    _ => format!("reaches container {name} at {to}"),
                }
            }
            Outcome::Elsewhere(to) => format!("is sent to {to} by {}", by()),
            Outcome::Process(holder) => format!("reaches {holder}"),
            Outcome::Refused => "reaches the host, where nobody listens: it is refused".to_owned(),
            Outcome::Dropped => format!("is dropped by {}", by()),
            Outcome::Rejected => format!("is rejected by {}", by()),
            Outcome::Queued => format!("goes to a program of the host, which decides, by {}", by()),
            Outcome::NotThisHost => format!("is not for this host, which has no address {}", found.address),
        };
        let covered = found.published.iter().any(|p| p.covers);
        let others = found.published.iter().filter(|p| !p.covers && !covered);
        let others: Vec<String> = others.map(|p| self.elsewhere(p)).collect();
        if !others.is_empty() && !matches!(found.outcome, Outcome::Container { .. }) {
            text.push_str(&format!("; {}", others.join(", ")));
        }
        if !found.certain {
            text.push_str(", unless a rule that cannot be evaluated decides otherwise");
        }
        text
    }

    fn elsewhere(&self, port: &PublishedHere) -> String {
        let name = self.name(port.container.as_str());
        let there = port.mapping.each(port.ipv6).flat_map(|p| p.addresses().iter().collect::<Vec<_>>());
        let at: Vec<String> = there.map(place).collect();
        if port.mapping.addresses().cover(self.found.address) {
            return format!(
                "container {name}, which publishes the port, has no IPv6 address (its network has no IPv6 subnet)"
            );
        }
        format!("container {name} publishes the port on {} only", at.join(" and "))
    }

    /// At the address of the packet's family, where it has several.
    fn of_family(&self, port: &PublishedHere) -> PortMapping {
        let same = |p: &PortMapping| p.addresses().iter().any(|a| a.is_ipv4() == self.found.address.is_ipv4());
        let each: Vec<PortMapping> = port.mapping.each(port.ipv6).collect();
        each.iter().find(|p| same(p)).or(each.first()).unwrap_or(&port.mapping).clone()
    }

    /// Whether a process of the container listens; None: nobody can know (UDP and SCTP have nothing to see).
    fn listens(&self, to: SocketAddr) -> Option<bool> {
        let Outcome::Container { id, .. } = &self.found.outcome else { return None };
        if self.question.protocol != Protocol::Tcp {
            return None;
        }
        let pid = self.node.container(id.as_str()).ok()?.view.record.process.as_ref()?.pid;
        let listeners = berth_network::listeners_of(pid);
        let every = |ip: IpAddr| ip.is_unspecified() || ip == to.ip();
        Some(listeners.iter().any(|at| at.port() == to.port() && every(at.ip())))
    }

    fn advice(&self) -> Vec<String> {
        let (found, port) = (self.found, self.question.port);
        let protocol = self.question.protocol.name();
        let mut advice = Vec::new();
        match &found.outcome {
            Outcome::Dropped | Outcome::Rejected => {
                let to = match found.redirected {
                    Some(SocketAddr::V4(at)) => format!("ip daddr {} {protocol} dport {}", at.ip(), at.port()),
                    Some(SocketAddr::V6(at)) => format!("ip6 daddr {} {protocol} dport {}", at.ip(), at.port()),
                    None => format!("{protocol} dport {port}"),
                };
                advice.extend(self.decider().map(|place| open(place, &to)))
            }
            Outcome::Container { to, .. } if self.listens(*to) == Some(false) => {
                let name = self.container().unwrap_or_default();
                advice.push(format!(
                    "let the process in {name} listen on 0.0.0.0:{} (berthctl port-forward reaches its 127.0.0.1)",
                    to.port()
                ));
            }
            Outcome::Process(holder) if !found.published.is_empty() => {
                advice.push(format!("{holder} has the port at this address: end it, or publish another port"));
            }
            _ => {}
        }
        let reached = matches!(found.outcome, Outcome::Container { .. } | Outcome::Process(_) | Outcome::NotThisHost);
        let covered = found.published.iter().any(|p| p.covers);
        match found.published.iter().find(|p| !p.covers && !covered) {
            Some(other) if !reached && other.mapping.addresses().cover(found.address) => advice.push(format!(
                "put {} on a network with IPv6 (berthctl network create --ipv6), or connect over IPv4",
                self.name(other.container.as_str())
            )),
            Some(other) if !reached => advice.extend(publish(
                self.node.publish_policy(),
                &self.name(other.container.as_str()),
                found.address,
                other,
            )),
            None if found.published.is_empty() && found.outcome == Outcome::Refused => {
                advice.push(format!(
                    "berthctl port add CONTAINER {}:{port}:PORT/{protocol} publishes a container's port there",
                    bracketed(found.address)
                ));
            }
            _ => {}
        }
        for doubt in found.found.iter().filter(|f| f.doubt.is_some()) {
            advice.push(format!(
                "cannot be evaluated: {} ({}), for {}; it {}",
                named(&doubt.place),
                doubt.place.text,
                doubt.doubt.as_deref().unwrap_or_default(),
                effect(doubt.effect, true)
            ));
        }
        advice.extend(found.unseen.iter().map(|what| format!("cannot be evaluated: {what}")));
        advice
    }
}

fn place(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) if a.is_unspecified() => "every address of IPv4".to_owned(),
        IpAddr::V6(a) if a.is_unspecified() => "every address of IPv6".to_owned(),
        one => one.to_string(),
    }
}

fn bracketed(address: IpAddr) -> String {
    if address.is_ipv4() { address.to_string() } else { format!("[{address}]") }
}

/// How a port that is published elsewhere gets to this address, too.
fn publish(policy: &PublishPolicy, name: &str, address: IpAddr, port: &PublishedHere) -> Vec<String> {
    let m = &port.mapping;
    let command = format!(
        "berthctl port add {name} {}:{}:{}/{} publishes it on this address, too",
        bracketed(address),
        m.host_port,
        m.container_port,
        m.protocol.name()
    );
    if policy.allows(Some(address)) {
        return vec![command];
    }
    vec![format!("the host's policy does not allow this address: [network] publish_allow = [\"{address}\"]"), command]
}

/// `inet filter input handle 7`
fn named(place: &Place) -> String {
    let chain = format!("{} {}", place.table.shown(), place.chain);
    match (place.handle, &place.comment) {
        (Some(handle), Some(comment)) => format!("{chain} handle {handle} ({comment:?})"),
        (Some(handle), None) => format!("{chain} handle {handle}"),
        (None, _) => format!("the policy of {chain}"),
    }
}

/// A rule that lets it through, in front of the one that does not.
fn open(place: &Place, to: &str) -> String {
    let (table, chain) = (place.table.shown(), &place.chain);
    match place.handle {
        Some(handle) => format!(
            "to let it in: nft insert rule {table} {chain} position {handle} {to} accept (or in the firewall that made this rule)"
        ),
        None => {
            format!("to let it in: nft add rule {table} {chain} {to} accept (or in the firewall that made this chain)")
        }
    }
}

fn effect(effect: Effect, may: bool) -> String {
    let (may_words, words) = match effect {
        Effect::Accepts => ("may accept", "accepts"),
        Effect::Drops => ("may drop", "drops"),
        Effect::Rejects => ("may reject", "rejects"),
        Effect::Redirects => ("may redirect", "redirects"),
        Effect::Queues => ("may hand over to a program", "hands over to a program"),
        Effect::Copies => ("may copy", "lets through by berth's way for published ports"),
    };
    if may { may_words } else { words }.to_owned()
}

fn rule(found: &Found) -> v1::DecidingRule {
    const HOOKS: [&str; 4] = ["prerouting", "input", "forward", "output"];
    v1::DecidingRule {
        hook: HOOKS.get(found.place.hook as usize).copied().unwrap_or_default().to_owned(),
        table: found.place.table.shown(),
        chain: found.place.chain.clone(),
        handle: found.place.handle.unwrap_or_default(),
        text: found.place.text.clone(),
        comment: found.place.comment.clone().unwrap_or_default(),
        effect: effect(found.effect, found.doubt.is_some()),
        not_evaluated: found.doubt.clone().unwrap_or_default(),
    }
}

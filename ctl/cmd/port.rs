//! `port`: where the ports of a running container are on the host.

use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, Listing, Shape, Show, Sink};
use crate::spec::port::{close, publish};
use crate::view;
use berth::v1::{self, ContainerState, Protocol};
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

const SHAPE: Shape =
    Shape { columns: &[("CONTAINER PORT", "ContainerPort"), ("HOST ADDRESS", "HostAddress")], name: "HostAddress" };

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  berthctl port web\n  berthctl port web 80/tcp\n  berthctl port add web 8080:80\n  berthctl port rm web 80\n  berthctl port rm web 9000-9009"
)]
pub struct Port {
    #[command(subcommand)]
    change: Option<Change>,
    /// Container
    #[arg(required = true, add = ArgValueCompleter::new(complete::running))]
    container: Option<String>,
    /// Only this port of the container, and only its address on the host
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = parse_port)]
    port: Option<Wanted>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Publish ports of a container, of one that runs at once
    Add {
        /// Container
        #[arg(add = ArgValueCompleter::new(complete::containers))]
        container: String,
        /// Ports, as for `run --publish`
        #[arg(required = true, value_name = "[IP:][HOST:]CONTAINER[/PROTOCOL]")]
        ports: Vec<String>,
    },
    /// Say what happens to a packet to a port of the host: who publishes it, which rule decides, who listens
    Explain(super::explain::Explain),
    /// Close published ports of a container, with the connections through them
    Rm {
        /// Container
        #[arg(add = ArgValueCompleter::new(complete::containers))]
        container: String,
        /// Ports of the container, also some of a range, or as they were published
        #[arg(required = true, value_name = "[IP:][HOST:]CONTAINER[/PROTOCOL]")]
        ports: Vec<String>,
    },
}

/// A port of a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    port: u16,
    protocol: Protocol,
}

fn parse_port(text: &str) -> Result<Wanted, String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err("the protocol must be tcp, udp or sctp".into()),
    };
    match port.parse() {
        Ok(port) if port > 0 => Ok(Wanted { port, protocol }),
        _ => Err("write a port of 1 to 65535 with tcp or udp, such as 80/tcp".into()),
    }
}

pub async fn port(fleet: &Fleet, args: Port) -> Result<u8> {
    match args.change {
        Some(Change::Add { container, ports }) => return change(fleet, container, &ports, &[]).await,
        Some(Change::Rm { container, ports }) => return change(fleet, container, &[], &ports).await,
        Some(Change::Explain(args)) => return super::explain::explain(fleet, args).await,
        None => {}
    }
    let format = args.show.format()?;
    let (container, wanted) = (args.container.unwrap_or_default(), args.port);
    let call = move |c: Connection| {
        let container = container.clone();
        async move {
            let request = v1::InspectContainerRequest { container: container.clone() };
            let found = c
                .retry(async || c.containers().inspect(c.request(request.clone(), Some(UNARY_TIMEOUT))).await)
                .await?
                .into_inner();
            mappings(&found.summary.unwrap_or_default(), wanted).ok_or_else(|| not_published(&container, wanted))
        }
    };
    if format != Format::Table {
        let mut list = Listing::new(SHAPE, format, fleet.labelled.then(|| fleet.width()));
        let code = fleet
            .each(call, |host, found: Vec<v1::PortMapping>| list.add(host, found.iter().map(view::port).collect()))
            .await?;
        list.finish()?;
        return Ok(code);
    }
    fleet
        .each(call, |host, found| {
            let sink = Sink::new(fleet.label(host));
            found.iter().try_for_each(|mapping| sink.line(&line(mapping, wanted.is_some())))
        })
        .await
}

/// Prints what is published then.
async fn change(fleet: &Fleet, container: String, add: &[String], remove: &[String]) -> Result<u8> {
    let add: Vec<_> = add.iter().map(|text| publish(text)).collect::<Result<Vec<_>>>()?.concat();
    let remove: Vec<_> = remove.iter().map(|text| close(text)).collect::<Result<_>>()?;
    let call = move |c: Connection| {
        let (container, add, remove) = (container.clone(), add.clone(), remove.clone());
        async move {
            let request = v1::UpdatePortsRequest { request_id: request_id()?, container, add, remove };
            let answer =
                c.retry(async || c.containers().update_ports(c.request(request.clone(), Some(UNARY_TIMEOUT))).await);
            Ok(answer.await?.into_inner().ports)
        }
    };
    let print = |host: &str, ports: Vec<v1::PortMapping>| {
        let sink = Sink::new(fleet.label(host));
        ports.iter().try_for_each(|mapping| sink.line(&line(mapping, false)))
    };
    fleet.each(call, print).await
}

/// Docker's line: `80/tcp -> 0.0.0.0:8080`, or only the address.
fn line(mapping: &v1::PortMapping, address_only: bool) -> String {
    let value = view::port(mapping);
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    if address_only { text("HostAddress") } else { format!("{} -> {}", text("ContainerPort"), text("HostAddress")) }
}

/// `None`: the wanted port is not published. One that does not run has no ports on the host.
fn mappings(summary: &v1::ContainerSummary, wanted: Option<Wanted>) -> Option<Vec<v1::PortMapping>> {
    let runs = matches!(summary.state(), ContainerState::Running | ContainerState::Paused);
    let mut found: Vec<v1::PortMapping> = summary.ports.iter().filter(|_| runs).cloned().collect();
    found.sort_by_key(|p| (p.container_port, p.protocol, p.host_ip.clone(), p.host_port));
    let Some(wanted) = wanted else { return Some(found) };
    let same = |p: Protocol| if p == Protocol::Unspecified { Protocol::Tcp } else { p };
    let place =
        |p: &v1::PortMapping| u32::from(wanted.port).checked_sub(p.container_port).filter(|n| *n < p.count.max(1));
    // Of a range this one.
    let one = |p: v1::PortMapping| {
        let n = place(&p)?;
        Some(v1::PortMapping {
            host_port: p.host_port.saturating_add(n),
            container_port: wanted.port.into(),
            count: 0,
            ..p
        })
    };
    let found: Vec<_> = found.into_iter().filter(|p| same(p.protocol()) == wanted.protocol).filter_map(one).collect();
    (!found.is_empty()).then_some(found)
}

fn not_published(container: &str, wanted: Option<Wanted>) -> Error {
    let port = wanted.map_or(String::new(), |w| format!(" {}/{}", w.port, view::protocol(w.protocol)));
    Error::new(format!("{container} publishes no port{port}")).hint("berthctl port CONTAINER lists those that it has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_picked_by_number_and_protocol() {
        let mapping = |port, protocol: Protocol, host| v1::PortMapping {
            host_ip: String::new(),
            host_port: host,
            container_port: port,
            protocol: protocol.into(),
            ..Default::default()
        };
        let range = v1::PortMapping { count: 200, ..mapping(1001, Protocol::Udp, 9001) };
        let mut summary = v1::ContainerSummary {
            state: ContainerState::Running.into(),
            ports: vec![
                mapping(80, Protocol::Unspecified, 8080),
                mapping(53, Protocol::Udp, 5353),
                mapping(53, Protocol::Tcp, 5354),
                range,
            ],
            ..Default::default()
        };
        let of = |s: &v1::ContainerSummary, text: Option<&str>| {
            let wanted = text.map(|t| parse_port(t).expect("good"));
            mappings(s, wanted).map(|m| m.iter().map(|p| line(p, wanted.is_some())).collect::<Vec<_>>())
        };
        let all = [
            "53/tcp -> 0.0.0.0:5354",
            "53/udp -> 0.0.0.0:5353",
            "80/tcp -> 0.0.0.0:8080",
            "1001-1200/udp -> 0.0.0.0:9001-9200",
        ];
        assert_eq!(of(&summary, None), Some(all.map(str::to_owned).to_vec()));
        assert_eq!(of(&summary, Some("80")), Some(vec!["0.0.0.0:8080".to_owned()]));
        assert_eq!(of(&summary, Some("53/UDP")), Some(vec!["0.0.0.0:5353".to_owned()]));
        assert_eq!(of(&summary, Some("80/udp")), None);
        for (port, host) in [(1001, 9001), (1080, 9080), (1200, 9200)] {
            assert_eq!(of(&summary, Some(&format!("{port}/udp"))), Some(vec![format!("0.0.0.0:{host}")]));
        }
        assert_eq!((of(&summary, Some("1000/udp")), of(&summary, Some("1201/udp"))), (None, None));
        summary.state = ContainerState::Exited.into();
        assert_eq!(of(&summary, None), Some(Vec::new()));
        for bad in ["0", "80/dccp", "x", "70000", ""] {
            parse_port(bad).expect_err(bad);
        }
    }
}

//! `network create`, `ls`, `inspect`, `rm`, `prune`, `connect` and `disconnect`.

use super::{details, for_names, list};
use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Shape, Show, Sink};
use crate::spec::{network, pairs};
use crate::view;
use berth::v1;
use berth::v1::disconnect_network_response::Outcome;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use std::io::Read;
use std::time::Duration;

const SHAPE: Shape = Shape {
    columns: &[("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")],
    name: "Name",
};
/// A request that runs plugins, each of which may take a minute.
const PLUGINS_TIMEOUT: Duration = Duration::from_secs(600);
/// As the agent takes it.
const CONFLIST_MAX: u64 = 256 << 10;
const FILTERS: [&str; 7] = ["driver", "id", "label", "name", "scope", "type", "dangling"];

#[derive(Debug, Args)]
pub struct Network {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a network
    Create(Box<Create>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show everything about networks
    Inspect(Inspect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Remove networks that no container is on or joins when it starts
    Prune(Prune),
    /// Put a container on a network, also while it runs
    Connect(Box<Connect>),
    /// Take a container off a network, also while it runs
    Disconnect(Disconnect),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  berthctl network create front\n  berthctl network create --subnet 10.7.0.0/24 --gateway 10.7.0.254 --ipv6 back\n  \
        berthctl network create --subnet 10.8.0.0/24 --aux-address printer=10.8.0.9 office\n  \
        berthctl network create -d macvlan -o parent=eth0 --subnet 192.168.1.0/24 lan\n  \
        berthctl network create -d cni --conflist lab.conflist lab\n\n\
        Options (-o) of bridge: com.docker.network.driver.mtu, com.docker.network.bridge.name,\n\
        com.docker.network.bridge.gateway_mode_ipv6=nat|routed, berth.network.spoofing=deny|allow; of macvlan: parent, macvlan_mode, com.docker.network.driver.mtu"
)]
pub struct Create {
    /// Driver: bridge, macvlan or cni
    #[arg(short, long, default_value = "bridge", value_name = "DRIVER")]
    driver: String,
    /// Subnet, such as 10.7.0.0/24 or fd00:7::/64; one of each family [default: from the host's address pools]
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    subnet: Vec<String>,
    /// The host's address in the subnet, one for each --subnet in their order [default: the first]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Part of the subnet that addresses are chosen from, one for each --subnet in their order
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Address in a --subnet that is somebody else's, and that no container gets, with a name for it
    #[arg(long, value_name = "NAME=ADDRESS", value_delimiter = ',')]
    aux_address: Vec<String>,
    /// IPv6 beside IPv4 [subnet by default: a ULA made at random]
    #[arg(long)]
    ipv6: bool,
    /// No way out of the network, and none in but from the host
    #[arg(long)]
    internal: bool,
    /// Options of the driver
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Configuration list of the driver cni, a file here; '-': standard input. Its plugins are run on the host as root
    #[arg(long, value_name = "FILE")]
    conflist: Option<String>,
    /// Labels
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Its name
    name: String,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only networks that fit: driver=, id=, label=, name=, scope=, type=builtin|custom, dangling=true|false
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Shape of the output; the JSON is that of Docker's Engine API
    #[arg(short, long, value_parser = ["json", "yaml"], default_value = "json")]
    output: String,
    /// Networks
    #[arg(required = true, value_name = "NETWORK", add = ArgValueCompleter::new(complete::networks))]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Do not mind one that is not there
    #[arg(short, long)]
    force: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK", add = ArgValueCompleter::new(complete::networks))]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Only what fits: until=TIME (made before), label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    how: super::prune::How,
}

#[derive(Debug, Args)]
pub struct Connect {
    /// IPv4 address
    #[arg(long, value_name = "IPV4")]
    ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "IPV6")]
    ip6: Option<String>,
    /// MAC address
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// One more name of the container there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// The network with the highest one has the default route
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i32,
    /// Network
    #[arg(add = ArgValueCompleter::new(complete::networks))]
    network: String,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
}

#[derive(Debug, Args)]
pub struct Disconnect {
    /// Do not mind a network or a container that is not there, or a container that is not on it
    #[arg(short, long)]
    force: bool,
    /// Network
    #[arg(add = ArgValueCompleter::new(complete::networks))]
    network: String,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
}

pub async fn run(fleet: &Fleet, args: Network) -> Result<u8> {
    match args.command {
        Command::Create(a) => create(fleet, *a).await,
        Command::Ls(a) => ls(fleet, a).await,
        Command::Inspect(a) => inspect(fleet, a).await,
        Command::Rm(a) => rm(fleet, a).await,
        Command::Prune(a) => prune(fleet, a).await,
        Command::Connect(a) => connect(fleet, *a).await,
        Command::Disconnect(a) => disconnect(fleet, a).await,
    }
}

/// Gateways and ranges stand in the order of the subnets; each belongs to the subnet of its family.
fn subnets(args: &Create) -> Result<Vec<v1::NetworkSubnet>> {
    let six = |text: &str| text.contains(':');
    let mut subnets: Vec<v1::NetworkSubnet> =
        args.subnet.iter().map(|s| v1::NetworkSubnet { subnet: s.clone(), ..Default::default() }).collect();
    let mut place = |flag: &str, value: &str, field: fn(&mut v1::NetworkSubnet) -> &mut String| {
        let mut fitting = subnets.iter_mut().filter(|s| six(&s.subnet) == six(value));
        match fitting.find_map(|s| Some(field(s)).filter(|f| f.is_empty())) {
            Some(field) => value.clone_into(field),
            None => return Err(Error::usage(format!("{flag} {value}: there is no --subnet that it belongs to"))),
        }
        Ok(())
    };
    for gateway in &args.gateway {
        place("--gateway", gateway, |s| &mut s.gateway)?;
    }
    for range in &args.ip_range {
        place("--ip-range", range, |s| &mut s.ip_range)?;
    }
    for text in &args.aux_address {
        let wrong = |why: &str| Error::usage(format!("--aux-address {text:?}: {why}"));
        let parts = text.split_once('=').filter(|(name, address)| !name.is_empty() && !address.is_empty());
        let (name, address) = parts.ok_or_else(|| wrong("write NAME=ADDRESS, as router=10.7.0.254"))?;
        let subnet = subnets.iter_mut().find(|s| six(&s.subnet) == six(address));
        let subnet = subnet.ok_or_else(|| wrong("there is no --subnet that it belongs to"))?;
        if subnet.auxiliary_addresses.insert(name.to_owned(), address.to_owned()).is_some() {
            return Err(wrong("the name is there twice; each address has one of its own"));
        }
    }
    Ok(subnets)
}

/// The text of a configuration list; whether it is one is the agent's to say.
fn conflist(args: &Create) -> Result<String> {
    let Some(file) = &args.conflist else {
        return match args.driver.as_str() {
            "cni" => Err(Error::usage("-d cni: --conflist FILE is missing")
                .hint("it is a CNI configuration list: {\"cniVersion\": \"1.0.0\", \"name\": …, \"plugins\": [ … ]}")),
            _ => Ok(String::new()),
        };
    };
    let wrong = |e: std::io::Error| Error::new(format!("reading {file}: {e}"));
    let mut text = String::new();
    let mut read = |from: &mut dyn std::io::Read| from.take(CONFLIST_MAX + 1).read_to_string(&mut text).map(drop);
    match file.as_str() {
        "-" => read(&mut std::io::stdin().lock()).map_err(wrong)?,
        path => std::fs::File::open(path).and_then(|mut f| read(&mut f)).map_err(wrong)?,
    }
    match text.len() as u64 > CONFLIST_MAX {
        true => Err(Error::new(format!("{file} is longer than {CONFLIST_MAX} bytes"))),
        false => Ok(text),
    }
}

async fn create(fleet: &Fleet, args: Create) -> Result<u8> {
    let base = v1::CreateNetworkRequest {
        request_id: String::new(),
        name: args.name.clone(),
        driver: args.driver.clone(),
        subnets: subnets(&args)?,
        ipv6: args.ipv6,
        internal: args.internal,
        labels: pairs::labels("--label", &args.label)?,
        options: pairs::strict("--opt", &args.opt)?,
        conflist: conflist(&args)?,
    };
    for_names(fleet, vec![args.name], move |c, _| {
        let base = base.clone();
        async move {
            let request = v1::CreateNetworkRequest { request_id: request_id()?, ..base };
            let limit = if request.conflist.is_empty() { UNARY_TIMEOUT } else { PLUGINS_TIMEOUT };
            let made = c.retry(async || c.networks().create(c.request(request.clone(), Some(limit))).await);
            Ok(vec![made.await?.into_inner().id])
        }
    })
    .await
}

async fn ls(fleet: &Fleet, args: Ls) -> Result<u8> {
    let request = v1::ListNetworksRequest { filters: list::filters(&args.filter, &FILTERS)? };
    list::show(fleet, list::shape(SHAPE, args.quiet, &args.show)?, move |c: Connection| {
        let request = request.clone();
        async move {
            c.retry(async || {
                let mut rows = Vec::new();
                let request = c.request(request.clone(), Some(UNARY_TIMEOUT));
                let mut stream = c.networks().list(request).await?.into_inner();
                while let Some(answer) = stream.message().await? {
                    rows.extend(answer.network.map(|n| view::network::row(&n, !args.no_trunc)));
                }
                Ok(rows)
            })
            .await
        }
    })
    .await
}

async fn inspect(fleet: &Fleet, args: Inspect) -> Result<u8> {
    let format = details::format(args.format.as_deref(), &args.output)?;
    details::show(fleet, format, args.networks, move |c, network| async move {
        let request = v1::InspectNetworkRequest { network };
        let call = async || c.networks().inspect(c.request(request.clone(), Some(UNARY_TIMEOUT))).await;
        Ok(view::network::inspect(c.retry(call).await?.get_ref()))
    })
    .await
}

async fn rm(fleet: &Fleet, args: Rm) -> Result<u8> {
    for_names(fleet, args.networks, move |c, network| async move {
        let request = v1::RemoveNetworkRequest { request_id: request_id()?, network: network.clone() };
        let call = async || c.networks().remove(c.request(request.clone(), Some(UNARY_TIMEOUT))).await;
        let (answer, unsure) = c.retry_unsure(call).await?;
        if answer.into_inner().id.is_empty() && !unsure && !args.force {
            return Err(
                Error::new(format!("no such network: {network}")).hint("berthctl network ls lists what the host has")
            );
        }
        Ok(vec![network])
    })
    .await
}

async fn prune(fleet: &Fleet, args: Prune) -> Result<u8> {
    let filters = list::prune_filters(&args.filter)?;
    super::prune::confirm(fleet, &args.how, &["all networks that no container is on or joins"], &args.filter)?;
    let (labels, dry_run, json) = (fleet.clone(), args.how.dry_run, args.how.is_json());
    let call = move |c: Connection| {
        let (filters, sink) = (filters.clone(), Sink::new(labels.label(&c.label)));
        async move {
            let request = v1::PruneNetworksRequest { request_id: request_id()?, filters, dry_run };
            let call = async || c.networks().prune(c.request(request.clone(), Some(UNARY_TIMEOUT))).await;
            let answer = c.retry(call).await?.into_inner();
            for name in &answer.removed {
                let line = if json { crate::output::json(&serde_json::json!({"Network": name})) } else { name.clone() };
                sink.line(&line)?;
            }
            match answer.problems.is_empty() {
                true => Ok(()),
                false => Err(Error::new(answer.problems.join("; "))),
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

async fn connect(fleet: &Fleet, args: Connect) -> Result<u8> {
    let mut endpoint = network::endpoint(&args.network)?;
    endpoint.aliases.extend(args.alias);
    for (value, place) in [
        (args.ip, &mut endpoint.ipv4_address),
        (args.ip6, &mut endpoint.ipv6_address),
        (args.mac_address, &mut endpoint.mac_address),
    ] {
        if let Some(value) = value {
            *place = value;
        }
    }
    if args.gw_priority != 0 {
        endpoint.gw_priority = args.gw_priority;
    }
    for_names(fleet, vec![args.container], move |c, container| {
        let endpoint = endpoint.clone();
        async move {
            let request = v1::ConnectNetworkRequest { request_id: request_id()?, container, endpoint: Some(endpoint) };
            c.retry(async || c.networks().connect(c.request(request.clone(), Some(PLUGINS_TIMEOUT))).await).await?;
            Ok(Vec::new())
        }
    })
    .await
}

async fn disconnect(fleet: &Fleet, args: Disconnect) -> Result<u8> {
    let (network, force) = (args.network, args.force);
    for_names(fleet, vec![args.container], move |c, container| {
        let network = network.clone();
        async move {
            let request = v1::DisconnectNetworkRequest { request_id: request_id()?, network, container };
            let call = async || c.networks().disconnect(c.request(request.clone(), Some(PLUGINS_TIMEOUT))).await;
            // What is not there is not connected; anything else that is wrong leaves it connected.
            if force {
                c.find(call).await?;
                return Ok(Vec::new());
            }
            let (answer, unsure) = c.retry_unsure(call).await?;
            // An earlier try of this command may have done it, and its answer been lost.
            if !unsure {
                off(answer.into_inner().outcome(), &request.network, &request.container)?;
            }
            Ok(Vec::new())
        }
    })
    .await
}

/// Whether a container was taken off a network, and else why not.
fn off(outcome: Outcome, network: &str, container: &str) -> Result<()> {
    match outcome {
        Outcome::Unspecified | Outcome::Disconnected => Ok(()),
        Outcome::NotConnected => Err(Error::new(format!("container {container} is not on network {network}"))
            .hint(format!("berthctl inspect {container} shows its networks; --force does not mind"))),
        Outcome::NoContainer => Err(Error::new(format!("no such container: {container}"))
            .hint("berthctl ps -a lists all containers; --force does not mind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(subnet: &[&str], gateway: &[&str]) -> Create {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Create {
            driver: "bridge".into(),
            subnet: own(subnet),
            gateway: own(gateway),
            ip_range: Vec::new(),
            aux_address: Vec::new(),
            ipv6: false,
            internal: false,
            opt: Vec::new(),
            conflist: None,
            label: Vec::new(),
            name: "n".into(),
        }
    }

    #[test]
    fn gateways_belong_to_the_subnet_of_their_family() {
        let both = subnets(&create(&["10.7.0.0/24", "fd00::/64"], &["fd00::9", "10.7.0.9"])).expect("good");
        assert_eq!((both[0].gateway.as_str(), both[1].gateway.as_str()), ("10.7.0.9", "fd00::9"));
        assert!(subnets(&create(&["10.7.0.0/24"], &["fd00::9"])).is_err());
        assert!(subnets(&create(&[], &["10.7.0.9"])).is_err());
    }

    #[test]
    fn addresses_of_others_belong_to_the_subnet_of_their_family() {
        let with = |aux: &[&str]| Create {
            aux_address: aux.iter().map(|a| (*a).to_owned()).collect(),
            ..create(&["10.7.0.0/24", "fd00::/64"], &[])
        };
        let both = subnets(&with(&["router=10.7.0.9", "r6=fd00::9", "dns=10.7.0.8"])).expect("good");
        assert_eq!(both[0].auxiliary_addresses.len(), 2);
        assert_eq!(both[0].auxiliary_addresses["router"], "10.7.0.9");
        assert_eq!(both[1].auxiliary_addresses["r6"], "fd00::9");
        for wrong in [&["10.7.0.9"][..], &["=10.7.0.9"], &["router="], &["a=10.7.0.8", "a=10.7.0.9"]] {
            assert!(subnets(&with(wrong)).is_err(), "{wrong:?}");
        }
        let alone = Create { aux_address: vec!["r=fd00::9".into()], ..create(&["10.7.0.0/24"], &[]) };
        assert!(subnets(&alone).expect_err("no IPv6").message.contains("no --subnet"));
    }
}

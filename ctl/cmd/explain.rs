//! `port explain`: what happens to a packet to a port of the host.

use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Columns, Format, Listing, Shape, Show, Sink, printable};
use crate::view;
use berth::v1::{self, Protocol};
use clap::Args;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

const SHAPE: Shape =
    Shape { columns: &[("ADDRESS", "Address"), ("OUTCOME", "Outcome"), ("SUMMARY", "Summary")], name: "Outcome" };

#[derive(Debug, Args)]
#[command(
    after_help = "The agent reads the host's nftables rules and follows one packet through them: the first of a connection. Nothing is \
        sent. A rule that asks for what is not known (a limit, the client's port) is named as one that cannot be evaluated.\n\n\
        Examples:\n  berthctl port explain 8080\n  berthctl port explain 192.0.2.1:8080 --from 198.51.100.7\n  \
        berthctl port explain [2001:db8::1]:53/udp -o json"
)]
pub struct Explain {
    /// Port of the host, with its address; without one where it is published, else the host's own
    #[arg(value_name = "[ADDRESS:]PORT[/PROTOCOL]", value_parser = parse)]
    port: Target,
    /// Address of the client [default: the host itself for its loopback, else somebody outside]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Interface by which the packet comes in [default: by which answers would go out]
    #[arg(long, value_name = "INTERFACE")]
    iif: Option<String>,
    #[command(flatten)]
    show: Show,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    address: Option<IpAddr>,
    port: u16,
    protocol: Protocol,
}

fn parse(text: &str) -> Result<Target, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err("the protocol must be tcp, udp or sctp".into()),
    };
    let (address, port) = match rest.rsplit_once(':') {
        Some((address, port)) => (Some(address), port),
        None => (None, rest),
    };
    let port =
        port.parse().ok().filter(|p| *p > 0).ok_or("the port must be 1 to 65535, such as 8080 or 192.0.2.1:53/udp")?;
    let address = match address {
        None => None,
        Some("localhost") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(text) => {
            let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
            let parsed = inner.unwrap_or(text).parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == inner.is_none());
            Some(
                parsed
                    .ok_or_else(|| format!("{text:?} is no address of the host; an IPv6 address stands in brackets"))?,
            )
        }
    };
    if address.is_some_and(|ip| ip.is_unspecified()) {
        return Err("packets go to one address of the host: name it, or none".into());
    }
    Ok(Target { address, port, protocol })
}

pub async fn explain(fleet: &Fleet, args: Explain) -> Result<u8> {
    let format = args.show.format()?;
    let Target { address, port, protocol } = args.port;
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let request = v1::ExplainPortRequest {
        address: text(address),
        port: port.into(),
        protocol: protocol.into(),
        from: text(args.from),
        interface: args.iif.unwrap_or_default(),
    };
    let call = move |c: Connection| {
        let request = request.clone();
        async move {
            let answer =
                c.retry(async || c.networks().explain_port(c.request(request.clone(), Some(UNARY_TIMEOUT))).await);
            Ok::<_, Error>(answer.await?.into_inner())
        }
    };
    if format != Format::Table {
        let mut list = Listing::new(SHAPE, format, fleet.labelled.then(|| fleet.width()));
        let code = fleet.each(call, |host, found: v1::ExplainPortResponse| list.add(host, vec![value(&found)])).await?;
        list.finish()?;
        return Ok(code);
    }
    fleet
        .each(call, |host, found| {
            let sink = Sink::new(fleet.label(host));
            words(&found).lines().try_for_each(|line| sink.line(line))
        })
        .await
}

fn packet(r: &v1::ExplainPortResponse) -> String {
    let bracketed = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{}:{}/{}", bracketed(&r.address), r.port, view::protocol(r.protocol()))
}

fn outcome(r: &v1::ExplainPortResponse) -> String {
    r.outcome().as_str_name().trim_start_matches("OUTCOME_").to_ascii_lowercase().replace('_', "-")
}

fn value(r: &v1::ExplainPortResponse) -> Value {
    let published = |p: &v1::PublishedHere| {
        let mut value = view::port(&p.mapping.clone().unwrap_or_default());
        value["Container"] = p.container.as_str().into();
        value["Network"] = p.network.as_str().into();
        value["Elements"] = p.elements.clone().into();
        value["Covers"] = p.covers.into();
        value
    };
    let rule = |r: &v1::DecidingRule| {
        json!({
            "Hook": r.hook, "Table": r.table, "Chain": r.chain, "Handle": r.handle, "Rule": r.text, "Comment": r.comment,
            "Effect": r.effect, "NotEvaluated": r.not_evaluated,
        })
    };
    json!({
        "Address": packet(r), "From": r.from, "FromHost": r.from_host, "Interface": r.interface, "Outcome": outcome(r),
        "Certain": r.certain, "Summary": r.summary, "Container": r.container, "Target": r.target,
        "TurnedBy": r.turned_by,
        "Published": r.published.iter().map(published).collect::<Vec<_>>(),
        "Holder": r.holder, "HolderPid": r.holder_pid,
        "Rules": r.rules.iter().map(rule).collect::<Vec<_>>(), "Unseen": r.unseen, "Advice": r.advice,
    })
}

/// For people.
fn words(r: &v1::ExplainPortResponse) -> String {
    let by = match (r.from_host, r.interface.as_str()) {
        (true, _) => " (the host itself)".to_owned(),
        (false, "") => " by an interface that is not known".to_owned(),
        (false, name) => format!(" by {name}"),
    };
    let mut text = format!("{} from {}{by}\n  {}\n", packet(r), r.from, printable(&r.summary));
    if !r.published.is_empty() {
        text.push_str("\nPublished\n");
        for p in &r.published {
            let mapping = view::port(&p.mapping.clone().unwrap_or_default());
            let at = format!(
                "{} -> {}",
                mapping["ContainerPort"].as_str().unwrap_or_default(),
                mapping["HostAddress"].as_str().unwrap_or_default()
            );
            let not = if p.covers { "" } else { ", not this address" };
            text.push_str(&format!("  {} {at} on network {}{not}\n", printable(&p.container), printable(&p.network)));
            for element in &p.elements {
                text.push_str(&format!("    element {element}\n"));
            }
        }
    }
    if !r.holder.is_empty() {
        let pid = if r.holder_pid > 0 { format!(" (process {})", r.holder_pid) } else { String::new() };
        text.push_str(&format!("\nOn the host the port is held by\n  {}{pid}\n", printable(&r.holder)));
    }
    if !r.rules.is_empty() {
        text.push_str("\nRules, in the packet's order\n");
        let mut columns = Columns::new(&["  HOOK", "CHAIN", "HANDLE", "RULE", "EFFECT"]);
        for rule in &r.rules {
            let handle = if rule.handle == 0 { "policy".to_owned() } else { rule.handle.to_string() };
            let comment = if rule.comment.is_empty() { String::new() } else { format!(" comment {:?}", rule.comment) };
            columns.row(vec![
                format!("  {}", rule.hook),
                format!("{} {}", rule.table, rule.chain),
                handle,
                format!("{}{comment}", rule.text),
                rule.effect.clone(),
            ]);
        }
        text.push_str(&columns.render());
    }
    if !r.advice.is_empty() {
        text.push_str("\nNext\n");
        for line in &r.advice {
            text.push_str(&format!("  {}\n", printable(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_with_and_without_an_address() {
        let of = |text: &str| {
            parse(text).map(|t| (t.address.map(|a| a.to_string()).unwrap_or_default(), t.port, t.protocol))
        };
        for (text, address, port, protocol) in [
            ("8080", "", 8080, Protocol::Tcp),
            ("53/udp", "", 53, Protocol::Udp),
            ("192.0.2.1:80", "192.0.2.1", 80, Protocol::Tcp),
            ("localhost:80/TCP", "127.0.0.1", 80, Protocol::Tcp),
            ("[2001:db8::1]:9/sctp", "2001:db8::1", 9, Protocol::Sctp),
        ] {
            assert_eq!(of(text), Ok((address.to_owned(), port, protocol)), "{text}");
        }
        for bad in
            ["", "0", "x", "80/x", "2001:db8::1:80", "[192.0.2.1]:80", "0.0.0.0:80", "[::]:80", "host:80", "70000"]
        {
            parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn what_is_found_is_told_in_order() {
        let rule = v1::DecidingRule {
            hook: "input".into(),
            table: "inet filter".into(),
            chain: "input".into(),
            handle: 7,
            text: "tcp dport 8080 drop".into(),
            effect: "drops".into(),
            ..Default::default()
        };
        let answer = v1::ExplainPortResponse {
            address: "192.0.2.1".into(),
            port: 8080,
            protocol: Protocol::Tcp.into(),
            from: "198.51.100.1".into(),
            interface: "eth0".into(),
            outcome: v1::explain_port_response::Outcome::Dropped.into(),
            certain: true,
            published: vec![v1::PublishedHere {
                container: "web".into(),
                network: "bridge".into(),
                mapping: Some(v1::PortMapping {
                    host_ip: "0.0.0.0".into(),
                    host_port: 8080,
                    container_port: 80,
                    ..Default::default()
                }),
                elements: vec!["ip berth ports: tcp . 8080 : 172.31.240.2 . 80".into()],
                covers: true,
            }],
            rules: vec![rule],
            summary: "is dropped by inet filter input handle 7".into(),
            advice: vec!["to let it in: …".into()],
            ..Default::default()
        };
        insta::assert_snapshot!(words(&answer));
        assert_eq!((outcome(&answer).as_str(), value(&answer)["Rules"][0]["Handle"].as_u64()), ("dropped", Some(7)));
    }
}

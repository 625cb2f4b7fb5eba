//! `port explain`: what it says, and what the kernel really does with the packet.

use crate::harness::{Node, until};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Command;

/// Another machine: a network namespace behind a veth of the host, and a table of the host's own firewall.
struct Machine {
    ns: String,
    link: String,
    net: String,
    table: String,
}

fn sh(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().expect("sh");
    assert!(status.success(), "{line}");
}

impl Machine {
    fn new(node: &Node) -> Machine {
        let n = node.slot.number;
        let machine = Machine {
            ns: format!("berth-explain-{n}"),
            link: format!("bexp{n}"),
            net: format!("10.215.{n}"),
            table: format!("explain{n}"),
        };
        let Machine { ns, link, net, table } = &machine;
        let _ =
            Command::new("sh").args(["-c", &format!("ip netns delete {ns}; nft delete table inet {table}")]).output();
        sh(&format!(
            "ip netns add {ns} && ip link add {link} type veth peer name far netns {ns} && ip addr add {net}.1/24 dev {link} && \
             ip link set {link} up && ip -n {ns} addr add {net}.2/24 dev far && ip -n {ns} link set far up && ip -n {ns} link set lo up && \
             ip -n {ns} route add default via {net}.1"
        ));
        machine
    }

    /// The firewall's only rule.
    fn rule(&self, rule: &str) {
        let table = &self.table;
        sh(&format!(
            "nft add table inet {table}; nft delete table inet {table}; nft add table inet {table}; \
             nft add chain inet {table} in '{{ type filter hook input priority 0 ; policy accept ; }}' && nft add rule inet {table} in '{rule}'"
        ));
    }

    fn address(&self) -> String {
        format!("{}.1", self.net)
    }

    fn reaches(&self, port: u16) -> bool {
        let line = format!("exec 3<>/dev/tcp/{}/{port}", self.address());
        let status = Command::new("ip").args(["netns", "exec", &self.ns, "timeout", "2", "bash", "-c", &line]).output();
        status.expect("ip").status.success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Machine { ns, table, .. } = self;
        let _ =
            Command::new("sh").args(["-c", &format!("ip netns delete {ns}; nft delete table inet {table}")]).output();
    }
}

fn explain(node: &Node, arguments: &[&str]) -> Value {
    let text = node.ok(&[&["port", "explain", "-o", "json"], arguments].concat());
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    value[0].clone()
}

const SERVE: &str = "httpd -f -p 80 -h /var/www";

#[test]
fn it_says_what_the_kernel_does() {
    let node = Node::with_busybox("explain-rules");
    let machine = Machine::new(&node);
    let port = node.slot.port(0);
    node.detached(&["--network", "bridge", "--name", "web", "-p", &format!("0.0.0.0:{port}:80")], SERVE);
    until("it answers", || machine.reaches(port));
    let (at, client) = (format!("{}:{port}", machine.address()), format!("{}.2", machine.net));
    let of = || explain(&node, &[&at, "--from", &client]);
    let found = of();
    assert_eq!((found["Outcome"].as_str(), found["Certain"].as_bool()), (Some("container"), Some(true)), "{found:#}");
    assert_eq!(
        (found["Container"].as_str(), found["Interface"].as_str()),
        (Some("web"), Some(machine.link.as_str())),
        "{found:#}"
    );
    assert!(
        found["Published"][0]["Elements"][0]
            .as_str()
            .is_some_and(|e| e.contains(&node.slot.table()) && e.contains(&port.to_string())),
        "{found:#}"
    );
    for (rule, outcome, certain, words) in [
        (format!("tcp dport {port} drop comment \"closed by test\""), "dropped", true, "closed by test"),
        (format!("tcp dport {port} reject"), "rejected", true, "is rejected by"),
        (format!("ip saddr {client} tcp dport {{ 1-3, {port} }} drop"), "dropped", true, "is dropped by"),
        (format!("iifname {} ct state new counter drop", machine.link), "dropped", true, "is dropped by"),
        (
            format!("meta l4proto tcp ip daddr . th dport {{ {} . {port} }} drop", machine.address()),
            "dropped",
            true,
            "is dropped by",
        ),
        (format!("tcp dport vmap {{ 22 : accept, {port} : drop }}"), "dropped", true, "is dropped by"),
        ("ip saddr 203.0.113.0/24 drop".to_owned(), "container", true, "reaches container web"),
        (format!("iifname {} tcp dport != {port} drop", machine.link), "container", true, "reaches container web"),
        (format!("tcp dport {port} tcp sport 1-10 drop"), "container", false, "cannot be evaluated"),
    ] {
        machine.rule(&rule);
        let found = of();
        let told = (found["Outcome"].as_str(), found["Certain"].as_bool());
        assert_eq!(told, (Some(outcome), Some(certain)), "{rule}: {found:#}");
        if outcome == "container" {
            until(&format!("{rule}: it answers"), || machine.reaches(port));
        } else {
            assert!(!machine.reaches(port), "{rule}: the kernel lets it through");
        }
        assert!(found["Summary"].as_str().is_some_and(|s| s.contains(words)), "{rule}: {found:#}");
        if outcome != "container" {
            let table = format!("inet {}", machine.table);
            let rules = found["Rules"].as_array().expect("rules");
            let last = rules.last().expect("a rule");
            assert_eq!(
                (last["Table"].as_str(), last["Chain"].as_str()),
                (Some(table.as_str()), Some("in")),
                "{found:#}"
            );
            assert!(
                found["Advice"][0].as_str().is_some_and(|a| a.contains(&format!("position {}", last["Handle"]))),
                "{found:#}"
            );
        }
    }
    let text = node.ok(&["port", "explain", &at, "--from", &client]);
    assert!(text.contains("cannot be evaluated: inet explain") && text.contains("may drop"), "{text}");
    // The host itself is not asked by input rules.
    machine.rule(&format!("tcp dport {port} iifname != lo drop"));
    let found = explain(&node, &[&format!("127.0.0.1:{port}")]);
    assert_eq!((found["Outcome"].as_str(), found["FromHost"].as_bool()), (Some("container"), Some(true)), "{found:#}");
    // Somebody's forward rules.
    let table = &machine.table;
    sh(&format!(
        "nft delete table inet {table}; nft add table inet {table}; nft add chain inet {table} through '{{ type filter hook forward priority 10 ; policy accept ; }}' && \
         nft add rule inet {table} through oifname {} tcp dport 80 drop",
        node.slot.bridge()
    ));
    let found = of();
    assert_eq!(
        (found["Outcome"].as_str(), found["Rules"].as_array().and_then(|r| r.last()).map(|r| r["Chain"] == "through")),
        (Some("dropped"), Some(true)),
        "{found:#}"
    );
    assert!(!machine.reaches(port));
    // The advice is about the packet as the rule sees it, which has been redirected, and it helps.
    let advice =
        found["Advice"][0].as_str().and_then(|a| a.split_once(": ")?.1.split_once(" accept ")).expect("advice");
    sh(&format!("{} accept", advice.0));
    until("it answers", || machine.reaches(port));
    drop(machine);
    node.finish();
}

#[test]
fn who_has_the_port_and_where_it_is_published() {
    let node = Node::builder("explain-holders").publish_address("127.0.0.1").start();
    node.ok(&["pull", "-q", &crate::harness::image("busybox")]);
    let machine = Machine::new(&node);
    let [published, process, nothing] = [0, 1, 2].map(|n| node.slot.port(n));
    node.detached(&["--network", "bridge", "--name", "web", "-p", &format!("{published}:80")], SERVE);
    node.detached(&["--network", "bridge", "--name", "idle", "-p", &format!("{}:81", node.slot.port(3))], "sleep 1000");
    // Published on the loopback only, and the policy says so.
    let found = explain(&node, &[&format!("{}:{published}", machine.address())]);
    assert_eq!(
        (found["Outcome"].as_str(), found["Published"][0]["Covers"].as_bool()),
        (Some("refused"), Some(false)),
        "{found:#}"
    );
    let advice = found["Advice"].to_string();
    assert!(
        found["Summary"].as_str().is_some_and(|s| s.contains("web publishes the port on 127.0.0.1 and ::1 only")),
        "{found:#}"
    );
    assert!(advice.contains("publish_allow") && advice.contains("berthctl port add web"), "{found:#}");
    assert!(!machine.reaches(published));
    let found = explain(&node, &[&published.to_string()]);
    assert_eq!(
        (found["Outcome"].as_str(), found["From"].as_str()),
        (Some("container"), Some("127.0.0.1")),
        "{found:#}"
    );
    // A container that does not listen.
    let found = explain(&node, &[&node.slot.port(3).to_string()]);
    assert!(
        found["Summary"].as_str().is_some_and(|s| s.contains("idle") && s.contains("nothing listens")),
        "{found:#}"
    );
    let listener = TcpListener::bind(("0.0.0.0", process)).expect("bind");
    let found = explain(&node, &[&format!("{}:{process}", machine.address())]);
    assert_eq!(
        (found["Outcome"].as_str(), found["HolderPid"].as_u64()),
        (Some("process"), Some(std::process::id().into())),
        "{found:#}"
    );
    drop(listener);
    let found = explain(&node, &[&format!("{}:{nothing}", machine.address())]);
    assert_eq!(found["Outcome"], "refused", "{found:#}");
    assert!(found["Advice"].to_string().contains("port add CONTAINER"), "{found:#}");
    assert_eq!(explain(&node, &["203.0.113.77:80"])["Outcome"], "not-this-host");
    for (arguments, words) in [
        (vec!["80", "--iif", "nosuch0"], "nosuch0"),
        (vec!["192.0.2.1:80", "--from", "2001:db8::1"], "same family"),
        (vec!["0.0.0.0:80"], "one address"),
    ] {
        let output = node.ctl(&[vec!["port", "explain"], arguments.clone()].concat());
        assert!(output.code != 0 && output.stderr.contains(words), "{arguments:?}: {output:?}");
    }
    drop(machine);
    node.finish();
}

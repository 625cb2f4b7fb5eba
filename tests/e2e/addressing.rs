//! Addresses of both families: chosen, from ranges, and what they look like to others, in the host's name or routed.

use crate::harness::outside::Outside;
use crate::harness::{Node, image, until};
use crate::networks::{IDLE, create, endpoint, ip, network};

fn ip6(node: &Node, container: &str, network: &str) -> String {
    endpoint(node, container, network)["GlobalIPv6Address"].as_str().unwrap_or_default().to_owned()
}

fn pings(node: &Node, from: &str, to: &str) -> bool {
    node.ctl(&["exec", from, "ping", "-c", "1", "-W", "2", to]).code == 0
}

#[test]
fn chosen_and_from_ranges_in_both_families() {
    let mut node = Node::with_busybox("addressing-ranges");
    let n = node.slot.port(0) % 256;
    let (four, six) = (format!("10.95.{n}"), format!("fd95:{n}:"));
    create(
        &node,
        'u',
        &[
            "--subnet",
            &format!("{four}.0/24"),
            "--ip-range",
            &format!("{four}.128/30"),
            "--subnet",
            &format!("{six}:/64"),
            "--ip-range",
            &format!("{six}:ff00/126"),
            "front",
        ],
    );
    let config = network(&node, "front")["IPAM"]["Config"].clone();
    assert_eq!(config[0]["IPRange"], format!("{four}.128/30"), "{config}");
    assert_eq!(config[1]["IPRange"], format!("{six}:ff00/126"), "{config}");
    for name in ["c0", "c1", "c2", "c3"] {
        node.detached(&["--name", name, "--network", "front"], IDLE);
    }
    for (at, name) in ["c0", "c1", "c2", "c3"].into_iter().enumerate() {
        assert_eq!(ip(&node, name, "front"), format!("{four}.{}", 128 + at));
        assert_eq!(ip6(&node, name, "front"), format!("{six}:ff0{at}"));
    }
    let run = |more: &[&str]| {
        let busybox = image("busybox");
        node.fails(125, &[&["run", "--rm", "--network", "front"], more, &[&busybox, "true"]].concat())
    };
    let said = run(&[]);
    assert!(said.contains(&format!("no address is left in {four}.128/30")), "{said}");
    // Beside the ranges there is room for those who say where.
    let (own4, own6) = (format!("{four}.9"), format!("{six}:9"));
    node.detached(&["--name", "own", "--network", "front", "--ip", &own4, "--ip6", &own6], IDLE);
    assert_eq!((ip(&node, "own", "front"), ip6(&node, "own", "front")), (own4.clone(), own6.clone()));
    let shown = node.ok(&["exec", "own", "ip", "-6", "addr", "show", "dev", "eth0"]);
    assert!(shown.contains(&format!("{own6}/64")) && !shown.contains("tentative"), "{shown}");
    for to in [&own4, &own6] {
        assert!(pings(&node, "c0", to), "{to}");
    }
    let (other4, other6) = (format!("{four}.10"), format!("{six}:10"));
    let said = run(&["--ip", &other4, "--ip6", &own6]);
    assert!(said.contains(&own6) && said.contains("in use"), "{said}");
    // What was refused has taken nothing.
    node.ok(&["run", "--rm", "--network", "front", "--ip", &other4, "--ip6", &other6, &image("busybox"), "true"]);
    for outside in ["fd96::1", &format!("{six}:1"), &format!("{six}:")] {
        let said = run(&["--ip", &other4, "--ip6", outside]);
        assert!(said.contains("is not an address for a container"), "{outside}: {said}");
    }
    for wrong in ["10.1.2.3", "fd95::g", "::ffff:10.0.0.1"] {
        let said = run(&["--ip6", wrong]);
        assert!(said.contains("ip6") || said.contains("ipv6_address") || said.contains("address"), "{wrong}: {said}");
    }
    // Over a restart of it, and of the agent.
    node.ok(&["restart", "own"]);
    node.kill_agent();
    node.spawn();
    assert_eq!((ip(&node, "own", "front"), ip6(&node, "own", "front")), (own4, own6.clone()));
    assert!(pings(&node, "c3", &own6));
    let said = node.fails(1, &["network", "create", "--subnet", "10.9.0.0/24", "--ip-range", "10.8.0.0/30", "bad"]);
    assert!(said.contains("is not a part of 10.9.0.0/24"), "{said}");
    node.ok(&["rm", "-f", "own", "c0", "c1", "c2", "c3"]);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

#[test]
fn addresses_of_others_are_no_containers() {
    let mut node = Node::with_busybox("addressing-auxiliary");
    let n = node.slot.port(0) % 256;
    let (four, six) = (format!("10.94.{n}"), format!("fd94:{n}:"));
    let (printer, router) = (format!("{four}.3"), format!("{six}:2"));
    create(
        &node,
        'u',
        &[
            "--subnet",
            &format!("{four}.0/29"),
            "--subnet",
            &format!("{six}:/125"),
            "--aux-address",
            &format!("printer={printer},router={router}"),
            "--aux-address",
            &format!("scanner={four}.5"),
            "office",
        ],
    );
    let config = network(&node, "office")["IPAM"]["Config"].clone();
    let shown = serde_json::json!({"printer": printer, "scanner": format!("{four}.5")});
    assert_eq!(config[0]["AuxiliaryAddresses"], shown, "{config}");
    assert_eq!(config[1]["AuxiliaryAddresses"], serde_json::json!({"router": router}), "{config}");
    let run = |node: &Node, more: &[&str]| {
        let busybox = image("busybox");
        node.fails(125, &[&["run", "--rm", "--network", "office"], more, &[&busybox, "true"]].concat())
    };
    let said = run(&node, &["--ip", &printer]);
    assert!(said.contains("--ip") && said.contains("is kept for printer"), "{said}");
    let said = run(&node, &["--ip6", &router]);
    assert!(said.contains("--ip6") && said.contains("is kept for router"), "{said}");
    node.detached(&["--name", "c0", "--network", "office"], IDLE);
    assert_eq!((ip(&node, "c0", "office"), ip6(&node, "c0", "office")), (format!("{four}.2"), format!("{six}:3")));
    // Another agent knows them too.
    node.kill_agent();
    node.spawn();
    assert_eq!(network(&node, "office")["IPAM"]["Config"], config);
    assert!(run(&node, &["--ip", &printer]).contains("is kept for printer"));
    for (name, last) in [("c1", 4), ("c2", 6)] {
        node.detached(&["--name", name, "--network", "office"], IDLE);
        assert_eq!(ip(&node, name, "office"), format!("{four}.{last}"));
    }
    let said = run(&node, &[]);
    assert!(said.contains("no address is left"), "{said}");
    node.detached(&["--name", "c3", "--network", "none"], IDLE);
    let said = node.fails(1, &["network", "connect", "--ip", &printer, "office", "c3"]);
    assert!(said.contains("--ip") && said.contains("is kept for printer"), "{said}");
    node.ok(&["rm", "-f", "c0", "c1", "c2", "c3"]);
    node.ok(&["network", "rm", "office"]);
    node.finish();
}

#[test]
fn what_is_wrong_with_a_subnet_is_said_with_its_flag() {
    let node = Node::with_busybox("addressing-flags");
    let subnet = ["--subnet", "10.93.7.0/24"];
    for (more, flag, why) in [
        (&["--subnet", "127.0.0.0/8"][..], "--subnet: ", "loopback"),
        (&["--subnet", "224.0.0.0/24"], "--subnet: ", "multicast"),
        (&["--subnet", "169.254.0.0/16"], "--subnet: ", "link-local"),
        (&["--subnet", "0.0.0.0/0"], "--subnet: ", "8 to 30"),
        (&[subnet[0], subnet[1], "--gateway", "10.94.7.1"], "--gateway: ", "not in 10.93.7.0/24"),
        (&[subnet[0], subnet[1], "--ip-range", "10.94.7.0/28"], "--ip-range: ", "not a part of 10.93.7.0/24"),
        (&[subnet[0], subnet[1], "--aux-address", "r=10.94.7.1"], "--aux-address r: ", "not in 10.93.7.0/24"),
        (&[subnet[0], subnet[1], "--aux-address", "r=10.93.7.1"], "--aux-address r: ", "gateway"),
        (&["--aux-address", "r=10.93.7.1"], "--aux-address", "no --subnet"),
    ] {
        let said = node.ctl(&[&["network", "create"], more, &["bad"]].concat());
        assert!(said.code != 0 && said.stderr.contains(flag) && said.stderr.contains(why), "{more:?}: {}", said.stderr);
    }
    assert_eq!(node.ok(&["network", "ls", "-q", "-f", "type=custom"]), "");
    node.finish();
}

#[test]
fn ipv6_in_the_hosts_name_or_routed() {
    let node = Node::start("addressing-six");
    let n = node.slot.number + 0x100;
    let (host, there) = (format!("2001:db8:{n:x}::1"), format!("2001:db8:{n:x}::2"));
    let mut outside = Outside::new(&node.slot, &[format!("{host}/64")], &[format!("{there}/64")]);
    outside.serve(7000);
    let routed = format!("2001:db8:{:x}", 0x1000 + n);
    create(&node, 'u', &["--ipv6", "nat"]);
    create(
        &node,
        'v',
        &[
            "--subnet",
            &format!("{routed}::/64"),
            "--opt",
            "com.docker.network.bridge.gateway_mode_ipv6=routed",
            "routed",
        ],
    );
    outside.route(&format!("{routed}::/64"), &host);
    let nginx = image("nginx");
    for name in ["nat", "routed"] {
        node.ok(&["run", "-d", "--name", name, "--network", name, "--entrypoint", "sleep", &nginx, "100000"]);
    }
    let asks = |from: &str, to: &str| {
        let script = format!("timeout 5 cat < /dev/tcp/{to}/7000");
        node.ctl(&["exec", from, "bash", "-c", &script]).stdout.trim().to_owned()
    };
    // Unique local addresses mean nothing outside: the host speaks for them. Others keep their own.
    assert!(ip6(&node, "nat", "nat").starts_with("fd"));
    assert_eq!(asks("nat", &there), host);
    assert_eq!(asks("routed", &there), ip6(&node, "routed", "routed"));
    // One may know the way to a routed network, but what nobody has published is not reached.
    let own = ip6(&node, "routed", "routed");
    let serve =
        "use IO::Socket::IP; my $s = IO::Socket::IP->new(LocalHost => '::', LocalPort => 7000, Listen => 5) or die;
        while (my $c = $s->accept) { print $c 'here'; close $c }";
    node.ok(&["exec", "-d", "routed", "perl", "-e", serve]);
    until("it serves on its own address", || {
        let script = format!("timeout 5 cat < /dev/tcp/{own}/7000");
        let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash");
        output.stdout == b"here"
    });
    assert_eq!(outside.asks(&own, 7000), None);
    node.ok(&["rm", "-f", "nat", "routed"]);
    node.ok(&["network", "rm", "nat", "routed"]);
    node.finish();
}

//! The whole way, as a user walks it: from another machine to nginx, from container to container by name, from a container to a server outside.

use crate::harness::outside::Outside;
use crate::harness::{Node, eventually, image, until};
use crate::networks::endpoint;

const PORT: u16 = 7080;

/// Fetches a page in the container over one family alone.
fn fetch(node: &Node, from: &str, family: &str, host: &str) -> String {
    let script = format!(
        "use Socket; use IO::Socket::IP; my $s = IO::Socket::IP->new(PeerHost => '{host}', PeerPort => 80, Family => {family}, Timeout => 5)
         or die \"$@\\n\"; print $s \"GET / HTTP/1.0\\r\\n\\r\\n\"; print $s->peerhost, \"\\n\", <$s>"
    );
    let output = node.ctl(&["exec", from, "perl", "-e", &script]);
    format!("{}{}", output.stdout, output.stderr)
}

#[test]
fn nginx_is_reached_by_another_machine_by_its_neighbours_and_reaches_out_itself() {
    let node = Node::start("world");
    let n = node.slot.number;
    let [host, there] = [format!("10.216.{n}.1"), format!("10.216.{n}.2")];
    let [host6, there6] = [format!("2001:db8:{:x}::1", n + 0x200), format!("2001:db8:{:x}::2", n + 0x200)];
    let mut outside = Outside::new(
        &node.slot,
        &[format!("{host}/24"), format!("{host6}/64")],
        &[format!("{there}/24"), format!("{there6}/64")],
    );
    outside.serve_page(PORT);
    node.ok(&["network", "create", "--ipv6", "front"]);
    let port = node.slot.port(0);
    let nginx = image("nginx");
    let publish = [format!("{host}:{port}:80"), format!("[{host6}]:{port}:80")];
    let run = [
        "run",
        "-d",
        "--network",
        "front",
        "--name",
        "web",
        "--network-alias",
        "www",
        "-p",
        &publish[0],
        "-p",
        &publish[1],
    ];
    // The image's nginx listens on IPv4 alone.
    let both = "sed -i 's/listen 80\\([^;]*\\);/listen 80\\1; listen [::]:80\\1;/' /etc/nginx/nginx.conf && exec nginx";
    node.ok(&[&run[..], &[nginx.as_str(), "sh", "-c", both]].concat());
    node.ok(&["run", "-d", "--network", "front", "--name", "client", "--entrypoint", "sleep", &nginx, "100000"]);
    // From another machine, which nginx knows by its own address.
    for (at, who) in [(&host, &there), (&host6, &there6)] {
        let page = eventually(&format!("nginx answers on {at}"), || outside.fetches(at, port));
        assert!(page.contains("hello from nginx"), "{page}");
        until("the log has the client's own address", || node.ok(&["logs", "web"]).contains(&format!("{who} - - [")));
    }
    // By name and by alias, over each family.
    let addresses = endpoint(&node, "web", "front");
    for name in ["web", "www"] {
        for (family, address) in [("AF_INET", "IPAddress"), ("AF_INET6", "GlobalIPv6Address")] {
            let page = fetch(&node, "client", family, name);
            let address = addresses[address].as_str().expect("an address");
            assert!(
                page.starts_with(&format!("{address}\n")) && page.contains("hello from nginx"),
                "{name} {family}: {page}"
            );
        }
    }
    // Out, in the host's name: the machine outside knows no way to the network's own addresses.
    let busybox = image("busybox");
    for (url, seen) in [(format!("http://{there}:{PORT}/"), &host), (format!("http://[{there6}]:{PORT}/"), &host6)] {
        let page = node.ok(&["run", "--rm", "--network", "front", &busybox, "wget", "-q", "-O", "-", &url]);
        assert_eq!(page.trim(), seen.as_str());
    }
    node.ok(&["rm", "-f", "web", "client"]);
    assert_eq!(outside.fetches(&host, port), None);
    node.ok(&["network", "rm", "front"]);
    node.finish();
}

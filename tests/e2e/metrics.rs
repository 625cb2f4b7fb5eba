//! `GET /metrics`, scraped by curl: what is told, to whom, and what is refused.

use crate::harness::pki::Identity;
use crate::harness::{Node, image, until};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// Where the test's agent tells its figures. `PORT` in the table is one that no other test has.
fn start(name: &str, tls: bool) -> Node {
    let host = if tls { "0.0.0.0" } else { "127.0.0.1" };
    Node::builder(name).table(&format!("[metrics]\nlisten = \"{host}:PORT\"\ntls = {tls}")).start()
}

fn curl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().expect("curl");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).expect("UTF-8"))
}

fn url(node: &Node) -> String {
    format!("http://127.0.0.1:{}/metrics", node.slot.port(0))
}

/// Every series with its value; what is no line of the format fails the test.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let (name, kind) = head.split_once(' ').expect("a kind");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let name = series.split('{').next().expect("a name");
            let of = |suffix: &str| name.strip_suffix(suffix).is_some_and(|n| kinds.contains_key(n));
            assert!(kinds.contains_key(name) || ["_bucket", "_sum", "_count"].into_iter().any(of), "{line}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    samples
}

fn scrape(node: &Node) -> BTreeMap<String, f64> {
    let (good, text) = curl(&["--fail", &url(node)]);
    assert!(good, "{text}");
    parse(&text)
}

#[test]
fn the_agent_and_every_container_are_told() {
    let mut node = start("metrics", false);
    node.ok(&["pull", "-q", &image("busybox")]);
    let id = node.detached(
        &["--network", "bridge", "--name", "web", "--memory", "64m", "--health-cmd", "true", "--health-interval", "1s"],
        "while :; do :; done",
    );
    let short = &id[..12];
    node.fails(1, &["inspect", "nobody"]);
    let labels = format!("{{id=\"{short}\",name=\"web\",image=\"{}\"", image("busybox"));
    let series = |name: &str| format!("berth_container_{name}{labels}}}");

    let first = scrape(&node);
    assert_eq!(first["berth_containers{state=\"running\"}"], 1.0);
    assert_eq!(first["berth_pulls_total{result=\"ok\"}"], 1.0);
    assert!(first["berth_pull_bytes_total"] > 1000.0);
    assert_eq!(first[&series("memory_limit_bytes")], 67_108_864.0);
    assert_eq!(first[&series("restarts_total")], 0.0);
    assert_eq!(first[&series("oom_kills_total")], 0.0);
    assert!(first[&series("memory_usage_bytes")] > 0.0 && first[&series("pids")] >= 1.0);
    assert!(first.contains_key(&series("network_transmit_packets_total")), "{first:?}");
    assert!(first.contains_key(&series("block_read_bytes_total")), "{first:?}");
    assert_eq!(first[&format!("berth_container_state{labels},state=\"running\"}}")], 1.0);
    for name in
        ["process_resident_memory_bytes", "process_open_fds", "process_threads", "berth_store_commit_seconds_count"]
    {
        assert!(first[name] > 0.0, "{name}");
    }
    let calls = "grpc_server_handled_total{grpc_service=\"berth.v1.Containers\",grpc_method=\"Inspect\",grpc_code=";
    assert_eq!(first[&format!("{calls}\"NOT_FOUND\"}}")], 1.0, "{first:?}");
    assert!(!first.contains_key(&format!("{calls}\"OK\"}}")));
    assert!(
        first["grpc_server_handling_seconds_bucket{grpc_service=\"berth.v1.Containers\",grpc_method=\"Inspect\",le=\"+Inf\"}"]
            >= 1.0
    );

    // It burns CPU, and counters go up.
    until("CPU time is counted", || scrape(&node)[&series("cpu_seconds_total")] > first[&series("cpu_seconds_total")]);
    let health = format!("berth_container_health{labels},health=\"healthy\"}}");
    until("its health is told", || scrape(&node).contains_key(&health));

    // Those that have ended are there with their state; those that are gone are not.
    node.ok(&["kill", "web"]);
    until("its end is told", || {
        let now = scrape(&node);
        now.contains_key(&format!("berth_container_state{labels},state=\"exited\"}}"))
            && !now.contains_key(&series("pids"))
    });
    node.ok(&["rm", "-f", "web"]);
    assert!(!scrape(&node).keys().any(|k| k.contains(short)));

    // Another agent counts from the beginning.
    node.restart();
    assert_eq!(scrape(&node)["berth_pulls_total{result=\"ok\"}"], 0.0);
    node.finish();
}

#[test]
fn the_format_is_the_readers_choice_and_the_rest_is_refused() {
    let node = start("metrics-http", false);
    let (_, text) = curl(&["-i", &url(&node)]);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("# TYPE berth_pulls_total counter") && !text.contains("# EOF"), "{text}");
    let (_, text) =
        curl(&["-i", "-H", "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3", &url(&node)]);
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0"), "{text}");
    assert!(text.contains("# TYPE berth_pulls counter") && text.ends_with("# EOF\n"), "{text}");
    let status = |arguments: &[&str]| {
        let mut all = vec!["-o", "/dev/null", "-w", "%{http_code}"];
        all.extend(arguments);
        curl(&all).1
    };
    assert_eq!(status(&["-X", "POST", &url(&node)]), "405");
    assert_eq!(status(&[&url(&node).replace("/metrics", "/")]), "404");
    assert_eq!(status(&["-H", &format!("X-Long: {}", "x".repeat(64 << 10)), &url(&node)]), "431");

    // Those who say nothing give way: more of them than there is room for, and then a scrape, while the last of them still wait.
    let address = format!("127.0.0.1:{}", node.slot.port(0));
    let mut silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).expect("connect")).collect();
    silent[0].write_all(b"GET /metrics HTTP/1.1\r\n").expect("write");
    let (good, text) = curl(&["--fail", &url(&node)]);
    assert!(good, "{text}");
    let last = silent.last_mut().expect("forty");
    last.set_nonblocking(true).expect("O_NONBLOCK");
    let waiting = last.read(&mut [0]).map_err(|e| e.kind());
    assert_eq!(waiting, Err(std::io::ErrorKind::WouldBlock), "the newest has its time");
    silent[0].set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    let mut rest = Vec::new();
    // Err: a reset is an end, too.
    let _ = silent[0].read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{rest:?}");
    drop(silent);
    node.finish();
}

#[test]
fn over_the_network_a_certificate_is_needed() {
    let node = start("metrics-tls", true);
    let url = format!("https://127.0.0.1:{}/metrics", node.slot.port(0));
    let ca = node.pki.ca();
    let with = |identity: &Identity| {
        let path = |p: &std::path::Path| p.to_str().expect("path").to_owned();
        let (ca, cert, key) = (path(&ca), path(&identity.cert), path(&identity.key));
        curl(&["-w", "\n%{http_code}", "--cacert", &ca, "--cert", &cert, "--key", &key, &url])
    };
    let (good, text) = with(&node.pki.identity("viewer"));
    assert!(good && text.ends_with("\n200") && text.contains("berth_build_info{version="), "{text}");
    let (good, text) = curl(&["--cacert", ca.to_str().expect("path"), &url]);
    assert!(!good && !text.contains("berth_"), "{text}");
    let (good, text) = curl(&["--fail", &url.replace("https", "http")]);
    assert!(!good && !text.contains("berth_"), "{text}");
    let (_, text) = with(&node.pki.odd("metrics-nobody", "nothing", |_| {}));
    assert!(text.ends_with("\n403") && !text.contains("berth_"), "{text}");
    node.finish();
}

#[test]
fn without_certificates_it_stays_on_this_host() {
    let node = Node::start("metrics-off");
    assert!(TcpStream::connect(("127.0.0.1", node.slot.port(0))).is_err(), "nobody asked for it");
    let file = node.scratch().join("open.toml");
    std::fs::write(&file, "[metrics]\nlisten = \"0.0.0.0:9464\"\n").expect("write");
    let checked =
        Command::new(node.program()).arg("--check-config").arg("--config").arg(&file).output().expect("berthd");
    let words = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && words.contains("metrics.listen must be a loopback address"), "{words}");
    node.finish();
}

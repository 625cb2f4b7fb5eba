//! A node with all its real parts, on the real kernel, as root, with images of a registry on loopback.
//!
//! `BERTH_TEST_REGISTRY` names the registry (127.0.0.1:5000 when unset); it must have `busybox`.

use berth_image::ImagesConfig;
use berth_model::network::{NetworkMode, PortMapping, Protocol};
use berth_model::selinux::Relabel;
use berth_model::spec::{ExecSpec, Mount, MountKind, VolumeMount};
use berth_model::{ContainerSpec, Phase};
use berth_network::NetworkConfig;
use berth_node::*;
use berth_rootfs::Driver;
use berth_runtime::{Output, RuntimeConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

struct Bed {
    dir: PathBuf,
    config: NodeConfig,
}

impl Bed {
    fn new(name: &str) -> Bed {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}{n}", std::process::id());
        let dir = PathBuf::from(format!("/var/tmp/berth-node-{name}-{tag}"));
        std::fs::create_dir_all(&dir).unwrap();
        let config = NodeConfig {
            cni: Default::default(),
            cdi_dirs: Vec::new(),
            pools: vec![berth_node::AddressPool::DEFAULT],
            data_root: dir.join("data"),
            run_root: dir.join("run"),
            images: ImagesConfig { dir: dir.join("data/images"), ..ImagesConfig::default() },
            layer_driver: Driver::Auto,
            network: NetworkConfig {
                bridge: format!("bn{tag}"),
                gateway: [10, 99, 200 + n, 1].into(),
                prefix_len: 24,
                table: format!("berthnode{tag}"),
                publish: Default::default(),
            },
            runtime: RuntimeConfig {
                cgroup_parent: format!("berth-node-{tag}"),
                default_pids: None,
                run_root: dir.join("run"),
                ..RuntimeConfig::default()
            },
            default_storage_bytes: None,
            event_history: 1000,
            gc: Default::default(),
            logs: LogsConfig::default(),
            userns: Default::default(),
            shared_paths: berth_volume::held::Shared::default(),
        };
        Bed { dir, config }
    }

    async fn open(&self) -> Node {
        Node::open(self.config.clone()).await.unwrap()
    }

    /// Closes the node and looks for leaks.
    async fn end(self, node: Node) {
        for c in node.containers() {
            node.remove(&me(), c.record.id.as_str(), true, false).await.unwrap();
        }
        settle(&self, &node).await;
        let bridge = self.config.network.bridge.clone();
        node.close().await;
        drop(node);
        let networks = berth_network::Networks::open(self.config.network.clone()).unwrap();
        networks.remove_all().unwrap();
        assert!(!std::path::Path::new("/sys/class/net").join(&bridge).exists());
        for parent in cgroups(&self.config.runtime.cgroup_parent) {
            std::fs::remove_dir(&parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Folders of the parent cgroup in every hierarchy.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup").join(parent)];
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        found.push(entry.path().join(parent));
    }
    found.retain(|p| p.is_dir());
    found
}

/// Waits until the reaper has nothing left to take apart.
async fn settle(bed: &Bed, node: &Node) {
    let wanted = node.containers().len();
    let count = |p: PathBuf| std::fs::read_dir(p).map_or(0, |d| d.count());
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let folders = count(bed.config.data_root.join("containers"));
        let groups = cgroups(&bed.config.runtime.cgroup_parent)
            .into_iter()
            .map(|p| std::fs::read_dir(p).unwrap().flatten().filter(|e| e.path().is_dir()).count())
            .max()
            .unwrap_or(0);
        if folders <= wanted && groups <= wanted {
            return;
        }
        assert!(Instant::now() < until, "left behind: {folders} folders, {groups} cgroups; wanted {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn me() -> Requester {
    Requester { caller: "test".to_owned(), request_id: String::new(), first: false }
}

fn registry() -> String {
    std::env::var("BERTH_TEST_REGISTRY").unwrap_or_else(|_| "127.0.0.1:5000".to_owned())
}

fn spec(name: &str, command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        image: format!("{}/busybox", registry()),
        name: Some(name.to_owned()),
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        network: NetworkMode::None,
        stop_timeout_secs: Some(1),
        ..ContainerSpec::default()
    }
}

fn request(spec: ContainerSpec) -> CreateRequest {
    CreateRequest {
        host_volumes: None,
        spec,
        pull: PullPolicy::Missing,
        auth: None,
        platform: None,
        progress: Arc::new(|_| {}),
        again: false,
    }
}

async fn create(node: &Node, spec: ContainerSpec) -> Created {
    node.create(&me(), request(spec)).await.unwrap()
}

async fn output(streams: &mut Streams) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = streams.output.recv().await {
        match piece.unwrap() {
            Output::Stdout(b) => out.extend(b),
            Output::Stderr(b) => err.extend(b),
            Output::Fed(_) | Output::Exited(_) => panic!("no session was asked for"),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

async fn logs(node: &Node, name: &str, follow: bool) -> Vec<String> {
    let mut rx = node.logs(name, LogQuery { follow, ..LogQuery::default() }).await.unwrap();
    let mut lines = Vec::new();
    while let Some(batch) = rx.recv().await {
        lines.extend(batch.unwrap().into_iter().map(|e| String::from_utf8_lossy(&e.line).into_owned()));
    }
    lines
}

async fn actions(node: &Node, wanted: usize) -> Vec<String> {
    let mut rx = node.events(0, Some(berth_model::Timestamp(0))).unwrap();
    let mut actions = Vec::new();
    while actions.len() < wanted {
        match tokio::time::timeout(Duration::from_secs(5), rx.recv()).await {
            Ok(Some(Ok(EventItem::CaughtUp))) => {}
            Ok(Some(Ok(EventItem::Event(e)))) => actions.push(e.action.clone()),
            other => panic!("{other:?} behind {actions:?}"),
        }
    }
    actions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_life() {
    let bed = Bed::new("life");
    let node = bed.open().await;
    let made = create(&node, spec("one", &["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])).await;
    assert_eq!(made.name, "one");
    assert_eq!(node.container("one").unwrap().view.record.phase, Phase::Created);
    assert_eq!(node.start(&me(), "one").await.unwrap(), (made.id.clone(), false));
    let (id, exit) = node.wait("one").await.unwrap();
    assert_eq!((id, exit.code, exit.signal), (made.id.clone(), 3, None));
    let mut lines = logs(&node, "one", true).await;
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    // Again, with what it wrote still there.
    node.start(&me(), &made.id.as_str()[..8]).await.unwrap();
    assert_eq!(node.wait("one").await.unwrap().1.code, 3);
    assert_eq!(logs(&node, "one", false).await.len(), 4);
    let again = node.create(&me(), request(spec("one", &[]))).await;
    assert!(matches!(again, Err(NodeError::NameInUse { .. })));
    assert_eq!(node.remove(&me(), "one", false, false).await.unwrap(), Some(made.id.clone()));
    assert_eq!(node.remove(&me(), "one", false, false).await.unwrap(), None);
    assert!(matches!(node.wait("two").await, Err(NodeError::ContainerNotFound(_))));
    let actions = actions(&node, 8).await;
    assert_eq!(actions, ["start", "pull", "create", "start", "die", "start", "die", "destroy"]);
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_and_forget() {
    let bed = Bed::new("run");
    let node = bed.open().await;
    let mut s = spec("rm", &["/bin/cat"]);
    (s.auto_remove, s.open_stdin, s.stdin_once) = (true, true, true);
    let made = create(&node, s.clone()).await;
    let mut streams = node.start_attached(&me(), made.id.as_str(), true, None, None, false).await.unwrap();
    streams.input.write(b"hello").await.unwrap();
    streams.input.close().await.unwrap();
    assert_eq!(output(&mut streams).await.0, "hello");
    let (_, exit) = node.wait(made.id.as_str()).await.unwrap();
    assert_eq!(exit.code, 0);
    // Its status is known a moment longer, its name is free at once.
    assert_eq!(node.wait(made.id.as_str()).await.unwrap().1.code, 0);
    s.command = vec!["/no/such/program".to_owned()];
    let made = create(&node, s).await;
    let failed = node.start_attached(&me(), made.id.as_str(), true, None, None, false).await.err().unwrap();
    assert!(matches!(&failed, NodeError::Runtime(berth_runtime::RuntimeError::CommandNotFound(_))), "{failed}");
    assert!(node.containers().is_empty(), "an auto-removed container whose start failed goes");
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_kill_remove() {
    let bed = Bed::new("stop");
    let node = bed.open().await;
    let made =
        create(&node, spec("polite", &["/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"])).await;
    node.start(&me(), "polite").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let (id, exit) = node.stop(&me(), "polite", Some(5), None).await.unwrap();
    assert_eq!((id, exit.unwrap().code), (Some(made.id), 7));
    assert_eq!(node.stop(&me(), "polite", None, None).await.unwrap().0, None, "it does not run");
    assert_eq!(node.stop(&me(), "nobody", None, None).await.unwrap(), (None, None));

    create(&node, spec("deaf", &["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])).await;
    node.start(&me(), "deaf").await.unwrap();
    assert!(node.start(&me(), "deaf").await.unwrap().1, "it runs already");
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = Instant::now();
    let exit = node.stop(&me(), "deaf", None, None).await.unwrap().1.unwrap();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(begun.elapsed() < Duration::from_secs(3));

    node.start(&me(), "deaf").await.unwrap();
    assert!(matches!(node.remove(&me(), "deaf", false, false).await, Err(NodeError::Running(_))));
    assert!(matches!(node.kill(&me(), "deaf", Some("NOPE")).await, Err(NodeError::Invalid(_))));
    node.kill(&me(), "deaf", None).await.unwrap();
    assert_eq!(node.wait("deaf").await.unwrap().1.signal, Some(9));
    assert!(matches!(node.kill(&me(), "deaf", None).await, Err(NodeError::NotRunning(_))));
    node.start(&me(), "deaf").await.unwrap();
    assert!(node.remove(&me(), "deaf", true, false).await.unwrap().is_some());
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_goes_and_comes() {
    let bed = Bed::new("again");
    let node = bed.open().await;
    for (name, command) in [
        ("goes-on", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done"),
        ("ends-meanwhile", "sleep 0.5; exit 5"),
        ("killed-shim", "sleep 1000"),
    ] {
        create(&node, spec(name, &["/bin/sh", "-c", command])).await;
        node.start(&me(), name).await.unwrap();
    }
    let mut s = spec("rm-meanwhile", &["/bin/sh", "-c", "sleep 0.5"]);
    s.auto_remove = true;
    create(&node, s).await;
    node.start(&me(), "rm-meanwhile").await.unwrap();
    create(&node, spec("never-ran", &["/bin/true"])).await;
    let pid = |node: &Node, name: &str| {
        node.container(name).unwrap().view.record.process.as_ref().map(|p| (p.pid, p.shim_pid))
    };
    let before = pid(&node, "goes-on");
    let (_, shim) = pid(&node, "killed-shim").unwrap();
    let newest = node.newest_event();
    drop(node);
    let killed = std::process::Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap();
    assert!(killed.success());
    tokio::time::sleep(Duration::from_millis(900)).await;

    let begun = Instant::now();
    let node = bed.open().await;
    eprintln!("opened in {:?}", begun.elapsed());
    assert_eq!(pid(&node, "goes-on"), before, "it was not restarted");
    let phase = |name: &str| node.container(name).ok().map(|c| c.view.record.phase);
    assert_eq!(phase("goes-on"), Some(Phase::Running));
    assert_eq!(phase("never-ran"), Some(Phase::Created));
    assert_eq!(node.wait("ends-meanwhile").await.unwrap().1.code, 5);
    let exit = node.wait("killed-shim").await.unwrap().1;
    assert!(exit.reason.unwrap().contains("shim"));
    assert_eq!(phase("rm-meanwhile"), None);
    assert!(node.newest_event() > newest);
    let exec = node
        .exec(
            &me(),
            "goes-on",
            ExecSpec { command: vec!["/bin/echo".into(), "hi".into()], ..ExecSpec::default() },
            None,
        )
        .await;
    let mut exec = exec.unwrap();
    assert_eq!(output(exec.streams.as_mut().unwrap()).await.0, "hi\n");
    assert_eq!(exec.wait().await.unwrap().code, 0);
    node.stop(&me(), "goes-on", Some(0), None).await.unwrap();
    let lines = logs(&node, "goes-on", true).await;
    let numbers: Vec<usize> = lines.iter().map(|l| l.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "no line lost, none twice");
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_bridge() {
    let bed = Bed::new("net");
    let node = bed.open().await;
    let mut s = spec("web", &["/bin/sh", "-c", "while :; do echo served | nc -l -p 80; done"]);
    s.network = NetworkMode::Bridge;
    s.ports = vec![PortMapping {
        host_ip: None,
        host_port: 0,
        container_port: 80,
        protocol: Protocol::Tcp,
        ..PortMapping::default()
    }];
    create(&node, s).await;
    node.start(&me(), "web").await.unwrap();
    let network = node.container("web").unwrap().view.record.networks.main().cloned().unwrap();
    assert!(network.ports[0].host_port > 0);
    let answer = |address: std::net::Ipv4Addr| async move {
        for _ in 0..100 {
            if let Ok(mut stream) = tokio::net::TcpStream::connect((address, 80)).await {
                let mut text = String::new();
                use tokio::io::AsyncReadExt;
                if stream.read_to_string(&mut text).await.is_ok() && !text.is_empty() {
                    return text;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no answer from {address}");
    };
    assert_eq!(answer(network.address).await, "served\n");
    drop(node);
    let node = bed.open().await;
    assert_eq!(node.container("web").unwrap().view.record.networks.main(), Some(&network));
    assert_eq!(answer(network.address).await, "served\n");
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_images() {
    let bed = Bed::new("images");
    let node = bed.open().await;
    let who = |id: &str| Requester { caller: "test".to_owned(), request_id: id.to_owned(), first: false };
    let first = node.create(&who("r1"), request(spec("aa", &["/bin/true"]))).await.unwrap();
    let second = node.create(&who("r1"), request(spec("aa", &["/bin/true"]))).await.unwrap();
    assert_eq!(first.id, second.id);
    let other = node.create(&who("r1"), request(spec("bb", &["/bin/true"]))).await;
    assert!(matches!(other, Err(NodeError::RequestIdReused)));
    let name = format!("{}/busybox", registry());
    assert!(matches!(node.remove_image(&me(), &name, false).await, Err(NodeError::ImageInUse { .. })));
    let extra = format!("{}/busybox:extra", registry()).parse().unwrap();
    let view = node.tag_image(&me(), &name, &extra).await.unwrap();
    assert_eq!((view.tags.len(), view.containers), (2, 1));
    node.close().await;
    drop(node);

    let node = bed.open().await;
    assert_eq!(node.images().len(), 1);
    let again = node.create(&who("r1"), request(spec("aa", &["/bin/true"]))).await.unwrap();
    assert_eq!(again.id, first.id, "remembered over a restart");
    let removed = node.remove_image(&me(), &name, true).await.unwrap();
    assert_eq!(removed.untagged.len(), 2);
    assert!(node.images().is_empty());
    node.start(&me(), "aa").await.unwrap();
    assert_eq!(node.wait("aa").await.unwrap().1.code, 0, "its files stay as long as it does");
    node.remove(&me(), "aa", false, false).await.unwrap();
    settle(&bed, &node).await;
    let until = Instant::now() + Duration::from_secs(5);
    while layers(&bed) > 0 {
        assert!(Instant::now() < until, "{} layers are left", layers(&bed));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bed.end(node).await;
}

/// A volume that is a folder of the host is for who was asked whether they may use it, not for who came before it was one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_the_host_is_not_used_unasked() {
    let bed = Bed::new("unasked");
    let node = bed.open().await;
    let make = async |device: &str| {
        let options = [("type", "none"), ("o", "bind"), ("device", device)].map(|(k, v)| (k.to_owned(), v.to_owned()));
        node.create_volume(&me(), Some("host".to_owned()), Default::default(), options.into()).await.unwrap();
        HostVolume { name: "host".to_owned(), created: node.volume("host").unwrap().record.created }
    };
    let first = make("/usr").await;
    let volume = VolumeMount { name: "host".to_owned(), ..VolumeMount::default() };
    let kind = MountKind::Volume(volume);
    let mounts = vec![Mount { target: "/x".to_owned(), read_only: true, kind, relabel: Relabel::Keep }];
    let asked = |name: &str, known: &HostVolume| CreateRequest {
        host_volumes: Some(vec![known.clone()]),
        ..request(ContainerSpec { mounts: mounts.clone(), ..spec(name, &["/bin/true"]) })
    };
    let refused = async |known: &HostVolume, why: &str| match node.create(&me(), asked("one", known)).await.err() {
        Some(NodeError::Invalid(fields)) => {
            assert!(fields[0].0 == "config.mounts[0].volume.name" && fields[0].1.contains(why), "{fields:?}");
        }
        other => panic!("{other:?}"),
    };
    refused(&HostVolume { name: "other".to_owned(), ..first.clone() }, "a folder of the host").await;
    // One that takes its name meanwhile is not the one that was asked for, be it the same folder or not.
    assert!(node.remove_volume(&me(), "host").await.unwrap());
    let second = make("/etc").await;
    refused(&first, "another volume").await;
    assert!(node.containers().is_empty());
    node.create(&me(), asked("two", &second)).await.unwrap();
    node.remove(&me(), "two", true, false).await.unwrap();
    bed.end(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_layers_are_fetched_again() {
    let bed = Bed::new("lost");
    let node = bed.open().await;
    let name = format!("{}/busybox", registry());
    node.pull(&me(), &name.parse().unwrap(), None, None, Arc::new(|_| {})).await.unwrap();
    let folder = bed.config.data_root.join("layers/layers/sha256");
    let lose = |how: fn(&std::path::Path) -> std::io::Result<()>| {
        for layer in std::fs::read_dir(&folder).unwrap() {
            how(&layer.unwrap().path()).unwrap();
        }
    };
    let never = |name| CreateRequest { pull: PullPolicy::Never, ..request(spec(name, &["/bin/true"])) };
    fn lost<T>(result: Result<T, NodeError>) {
        match result.err() {
            Some(NodeError::Rootfs(e)) => assert!(e.lost_layer(), "{e}"),
            other => panic!("{other:?}"),
        }
    }
    // Not mounted yet: found at the create.
    lose(|layer| std::fs::remove_file(layer.join("meta.json")));
    lost(node.create(&me(), never("one")).await);
    create(&node, spec("two", &["/bin/true"])).await;
    node.start(&me(), "two").await.unwrap();
    assert_eq!(node.wait("two").await.unwrap().1.code, 0);
    // With the whole folder gone, behind a restart.
    node.close().await;
    drop(node);
    lose(|layer| std::fs::remove_dir_all(layer));
    let node = bed.open().await;
    lost(node.create(&me(), never("one")).await);
    lost(node.start(&me(), "two").await);
    create(&node, spec("three", &["/bin/true"])).await;
    for name in ["two", "three"] {
        node.start(&me(), name).await.unwrap();
        assert_eq!(node.wait(name).await.unwrap().1.code, 0);
    }
    // A pull by hand mends, too.
    node.close().await;
    drop(node);
    let node = bed.open().await;
    lose(|layer| std::fs::write(layer.join("meta.json"), "{}"));
    let pulled = node.pull(&me(), &name.parse().unwrap(), None, None, Arc::new(|_| {})).await.unwrap();
    assert!(pulled.fetched_bytes > 0);
    create(&node, never("four").spec).await;
    bed.end(node).await;
}

fn layers(bed: &Bed) -> usize {
    std::fs::read_dir(bed.config.data_root.join("layers/layers/sha256")).map_or(0, |d| d.count())
}

/// Where the time goes; run by hand: `cargo test -p berth-node --release --test life -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let bed = Bed::new("measure");
    let node = bed.open().await;
    for network in [NetworkMode::None, NetworkMode::Bridge] {
        let mut times: Vec<[Duration; 4]> = Vec::new();
        for i in 0..60 {
            let mut s = spec(&format!("m{i}"), &["/bin/true"]);
            (s.auto_remove, s.network) = (true, network.clone());
            let begun = Instant::now();
            let made = create(&node, s).await;
            let created = begun.elapsed();
            let mut streams = node.start_attached(&me(), made.id.as_str(), false, None, None, false).await.unwrap();
            let started = begun.elapsed();
            while streams.output.recv().await.is_some() {}
            let drained = begun.elapsed();
            node.wait(made.id.as_str()).await.unwrap();
            times.push([created, started, drained, begun.elapsed()]);
        }
        let median = |i: usize| {
            let mut t: Vec<_> = times.iter().map(|t| t[i]).collect();
            t.sort();
            (t[t.len() / 2], t[t.len() * 95 / 100])
        };
        println!(
            "{network:?}: created {:?}, started {:?}, output ended {:?}, waited {:?} (median, p95)",
            median(0),
            median(1),
            median(2),
            median(3)
        );
    }
    for i in 0..100 {
        let name = format!("idle{i}");
        create(&node, spec(&name, &["/bin/sleep", "1000"])).await;
        node.start(&me(), &name).await.unwrap();
    }
    let begun = Instant::now();
    let listed = node.containers().len();
    println!("{listed} containers listed in {:?}", begun.elapsed());
    drop(node);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let node = bed.open().await;
    println!("opened with {} running in {:?}", node.info().running, begun.elapsed());
    let begun = Instant::now();
    let removals = (0..100).map(|i| {
        let node = node.clone();
        tokio::spawn(async move { node.remove(&me(), &format!("idle{i}"), true, false).await.unwrap() })
    });
    for removal in removals.collect::<Vec<_>>() {
        removal.await.unwrap();
    }
    println!("killed and removed in {:?}", begun.elapsed());
    bed.end(node).await;
}

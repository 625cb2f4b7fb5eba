//! Measures starts, execs and the memory of idle shims: `measure ROOT WORK [RUNS]`. ROOT is a folder with a busybox in it.

use berth_model::image::ImageConfig;
use berth_model::network::NetworkMode;
use berth_model::spec::ExecSpec;
use berth_model::{ContainerId, ContainerSpec};
use berth_runtime::{
    AttachOptions, ContainerPaths, ExecRequest, PlanInput, Runtime, RuntimeConfig, SpawnRequest, Spawned,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn start(
    runtime: &Runtime,
    root: &Path,
    work: &Path,
    n: u32,
    command: &[&str],
    attach: bool,
) -> (ContainerId, Spawned) {
    let mut bytes = [0xbe; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    let id = ContainerId::from_bytes(bytes);
    let dir = work.join(n.to_string());
    for name in ["run", "log"] {
        std::fs::create_dir_all(dir.join(name)).expect("folders");
    }
    let spec = ContainerSpec {
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        network: NetworkMode::None,
        ..ContainerSpec::default()
    };
    let plan = runtime
        .plan(&PlanInput {
            id: &id,
            name: "measure",
            spec: &spec,
            image: &ImageConfig::default(),
            passwd: None,
            group: None,
            networks: &[],
            shares: None,
            peers: None,
            host_gateway: [127, 0, 0, 1].into(),
            state_dir: &dir,
            run_dir: &dir,
            log: Some(berth_model::wire::LogPlan {
                max_file_bytes: 10 << 20,
                max_files: 5,
                name: b"log".as_slice().into(),
                json: None,
            }),
            ids: None,
            unmapped: &[],
            hooks: &Default::default(),
            labels: &berth_model::selinux::Labels::NONE,
        })
        .expect("plan");
    let rootfs = berth_sys::mount::open_tree(None, root, true, false).expect("root");
    let paths = ContainerPaths { run: dir.join("run"), log: dir.join("log") };
    let attach = attach.then(AttachOptions::default);
    let netns = std::fs::File::open("/proc/self/ns/net").expect("network namespace").into();
    let prepared = runtime.prepare((&id, "measure"), &spec, paths).expect("cgroups and shim");
    (
        id,
        runtime
            .spawn(SpawnRequest { prepared, plan, rootfs, trees: Vec::new(), netns: Some(netns), userns: None, attach })
            .expect("start"),
    )
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("{what}: median {:?}, p95 {:?}", times[times.len() / 2], times[times.len() * 95 / 100]);
}

fn pss_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (root, work) = (Path::new(&args[1]), Path::new(&args[2]));
    let runs: u32 = args.get(3).map_or(100, |r| r.parse().expect("a number"));
    let runtime = Runtime::new(RuntimeConfig {
        cgroup_parent: "berth-measure".into(),
        default_pids: None,
        run_root: work.to_owned(),
        ..RuntimeConfig::default()
    })
    .expect("runtime");
    let (mut starts, mut ends, mut removals) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..runs {
        let begin = Instant::now();
        let (id, spawned) = start(&runtime, root, work, n, &["/bin/true"], true);
        starts.push(begin.elapsed());
        spawned.shim.wait().await.expect("end");
        ends.push(begin.elapsed());
        spawned.shim.release().await;
        let begin = Instant::now();
        runtime.remove_cgroups(&id).expect("remove");
        removals.push(begin.elapsed());
    }
    show("start until execve", starts);
    show("start until exit is known", ends);
    show("cgroup removal", removals);
    let mut idle = Vec::new();
    for n in 0..100 {
        idle.push(start(&runtime, root, work, 10_000 + n, &["/bin/sleep", "1000"], false));
    }
    let sum: u64 = idle.iter().map(|(_, s)| pss_kib(s.shim.shim_pid().0)).sum();
    println!("100 idle shims: {} KiB PSS each; this process: {} KiB PSS", sum / 100, pss_kib(std::process::id()));
    let (id, spawned) = &idle[0];
    let exec = ExecSpec { command: vec!["/bin/true".into()], ..ExecSpec::default() };
    let container = ContainerSpec { command: vec!["x".into()], network: NetworkMode::None, ..ContainerSpec::default() };
    let mut execs = Vec::new();
    for _ in 0..runs {
        let begin = Instant::now();
        let request = ExecRequest {
            id,
            process: spawned.shim.pid(),
            container: &container,
            image: &ImageConfig::default(),
            spec: &exec,
            probe: false,
            passwd: None,
            group: None,
            session: None,
            run_dir: Path::new("/"),
            ids: None,
            labels: &berth_model::selinux::Labels::NONE,
        };
        let run = runtime.exec(request).expect("exec");
        run.wait().await.expect("end");
        execs.push(begin.elapsed());
    }
    show("exec until exit is known", execs);
    for (id, spawned) in &idle {
        runtime.kill_all(id, Duration::from_secs(5)).expect("kill");
        spawned.shim.wait().await.expect("end");
        spawned.shim.release().await;
        runtime.remove_cgroups(id).expect("remove");
    }
    std::fs::remove_dir_all(work).expect("folders");
}

//! A busybox root and a runtime, and nothing left behind.

use berth_model::image::ImageConfig;
use berth_model::network::NetworkMode;
use berth_model::spec::ExecSpec;
use berth_model::wire::LogPlan;
use berth_model::{ContainerId, ContainerSpec, ExitStatus};
use berth_runtime::{
    AttachOptions, Attachment, ContainerPaths, Exec, ExecRequest, Output, PlanInput, Runtime, RuntimeConfig,
    RuntimeError, SpawnRequest, Spawned,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One container's folders, removed with everything else at the end.
pub struct Lab {
    pub runtime: Runtime,
    pub id: ContainerId,
    pub dir: PathBuf,
    pub image: ImageConfig,
}

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n";
const GROUP: &str = "root:x:0:\nweb:x:34:\nextra:x:50:web\n";

impl Lab {
    pub fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut bytes = [0u8; 32];
        bytes[..4].copy_from_slice(&std::process::id().to_le_bytes());
        bytes[4..8].copy_from_slice(&n.to_le_bytes());
        let id = ContainerId::from_bytes(bytes);
        let dir = PathBuf::from(format!("/var/tmp/berth-runtime-test-{}-{n}", std::process::id()));
        for name in ["run", "log", "state", "root/bin", "root/etc", "root/tmp", "root/home/web"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", dir.join("root/bin/busybox")).expect("busybox-static is installed");
        for name in [
            "sh", "true", "false", "cat", "id", "echo", "sleep", "ls", "grep", "kill", "mount", "touch", "tty", "stty",
            "dd", "head", "pwd", "hostname", "ps", "yes", "mknod", "tail", "wc", "env", "readlink", "test", "seq",
            "printf", "unshare", "mkdir",
        ] {
            std::os::unix::fs::symlink("busybox", dir.join("root/bin").join(name)).unwrap();
        }
        std::fs::write(dir.join("root/etc/passwd"), PASSWD).unwrap();
        std::fs::write(dir.join("root/etc/group"), GROUP).unwrap();
        std::fs::write(dir.join("root/etc/plain"), "no program\n").unwrap();
        let config = RuntimeConfig {
            cgroup_parent: "berth-runtime-test".into(),
            default_pids: Some(1000),
            run_root: dir.join("run"),
            ..RuntimeConfig::default()
        };
        Lab { runtime: Runtime::new(config).unwrap(), id, dir, image: ImageConfig::default() }
    }

    pub fn paths(&self) -> ContainerPaths {
        ContainerPaths { run: self.dir.join("run"), log: self.dir.join("log") }
    }

    pub fn root(&self) -> OwnedFd {
        berth_sys::mount::open_tree(None, &self.dir.join("root"), true, false).unwrap()
    }

    pub fn start(&self, spec: &ContainerSpec, attach: Option<AttachOptions>) -> Result<Spawned, RuntimeError> {
        let state = self.dir.join("state");
        let plan = self.runtime.plan(&PlanInput {
            id: &self.id,
            name: "test",
            spec,
            image: &self.image,
            passwd: Some(PASSWD.as_bytes()),
            group: Some(GROUP.as_bytes()),
            networks: &[],
            shares: None,
            peers: None,
            host_gateway: "172.18.0.1".parse().unwrap(),
            state_dir: &state,
            run_dir: &state,
            log: Some(LogPlan {
                max_file_bytes: spec.log.max_file_bytes,
                max_files: spec.log.max_files,
                name: b"log".as_slice().into(),
                json: None,
            }),
            ids: None,
            unmapped: &[],
            hooks: &Default::default(),
            labels: &berth_model::selinux::Labels::NONE,
        })?;
        let netns = (spec.network != NetworkMode::Host).then(new_network);
        let prepared = self.runtime.prepare((&self.id, "lab"), spec, self.paths())?;
        let request =
            SpawnRequest { prepared, plan, rootfs: self.root(), trees: Vec::new(), netns, userns: None, attach };
        self.runtime.spawn(request)
    }

    /// Runs to the end: output, errors, exit.
    pub async fn run(&self, spec: &ContainerSpec) -> Result<(String, String, ExitStatus), RuntimeError> {
        let spawned = self.start(spec, Some(AttachOptions::default()))?;
        let (out, err) = collect(spawned.attachment.unwrap()).await;
        let status = within(spawned.shim.wait()).await?;
        spawned.shim.release().await;
        Ok((out, err, status))
    }

    pub fn exec(&self, spec: &ContainerSpec, process: (u32, u64), exec: &ExecSpec) -> Result<Exec, RuntimeError> {
        self.runtime.exec(ExecRequest {
            id: &self.id,
            process,
            container: spec,
            image: &self.image,
            spec: exec,
            probe: false,
            passwd: Some(PASSWD.as_bytes()),
            group: Some(GROUP.as_bytes()),
            session: None,
            run_dir: Path::new("/"),
            ids: None,
            labels: &berth_model::selinux::Labels::NONE,
        })
    }
}

/// A network namespace with nothing in it, made on a thread that ends in it.
fn new_network() -> OwnedFd {
    let make = || berth_sys::net::unshare_network().and_then(|()| berth_sys::net::current_network());
    std::thread::spawn(make).join().unwrap().unwrap()
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.runtime.kill_all(&self.id, Duration::from_secs(5));
        self.runtime.remove_cgroups(&self.id).unwrap();
        // The parent goes with the last container of these tests; it is not ours while others run.
        for path in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(path.path().join("berth-runtime-test"));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

pub async fn collect(mut attachment: Attachment) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(output) = within(attachment.next()).await {
        match output.unwrap() {
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
            Output::Fed(_) | Output::Exited(_) => panic!("no session was asked for"),
        }
    }
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned())
}

pub fn sh(script: &str) -> ContainerSpec {
    use berth_model::network::NetworkMode;
    ContainerSpec {
        command: vec!["sh".into(), "-c".into(), script.into()],
        network: NetworkMode::None,
        ..ContainerSpec::default()
    }
}

pub fn log_lines(dir: &Path) -> Vec<String> {
    // Named by the bytes before them: in the order of their names.
    let files = std::fs::read_dir(dir.join("log")).into_iter().flatten().flatten();
    let mut files: Vec<_> = files.map(|entry| entry.path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    text.lines().map(|l| l.split_once(' ').map_or("", |(_, rest)| rest).to_owned()).collect()
}

//! `berthd` and `berthctl` as processes, for one test.

mod api;
mod ctl;

use super::pki::{Identity, Pki, ctl_binary};
use super::slot::Slot;
use super::{LONG, eventually, image, leak, test_dir};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Builder {
    name: String,
    /// TOML tables and keys of tables, behind what the harness sets.
    tables: String,
    top: String,
    images: String,
    containers: String,
    limits: String,
    tmpfs_mib: Option<u32>,
    ext4_mib: Option<u32>,
    quota_disk: Option<&'static str>,
    pki: Option<PathBuf>,
    own_program: bool,
    publish_address: String,
}

impl Builder {
    /// The agent runs from a copy of the program, which may be replaced.
    #[cfg(feature = "failpoints")]
    pub fn own_program(mut self) -> Self {
        self.own_program = true;
        self
    }

    /// Where ports go that name no address; the harness's own default is everywhere.
    pub fn publish_address(mut self, address: &str) -> Self {
        self.publish_address = address.to_owned();
        self
    }

    /// Keys before the first table.
    pub fn top(mut self, line: &str) -> Self {
        writeln!(self.top, "{line}").expect("string");
        self
    }

    /// `layer_store` and other keys of `[images]`.
    pub fn images(mut self, line: &str) -> Self {
        writeln!(self.images, "{line}").expect("string");
        self
    }

    /// A line of the table `[containers]`.
    pub fn containers(mut self, line: &str) -> Self {
        writeln!(self.containers, "{line}").expect("string");
        self
    }

    pub fn limits(mut self, line: &str) -> Self {
        writeln!(self.limits, "{line}").expect("string");
        self
    }

    /// Whole tables: `[registries."host:port"]` and their keys.
    pub fn table(mut self, text: &str) -> Self {
        writeln!(self.tables, "{text}").expect("string");
        self
    }

    /// A registry reached over plain http.
    pub fn registry(self, address: &str) -> Self {
        self.table(&format!("[registries.\"{address}\"]\nplain_http = true"))
    }

    /// The data folder is a tmpfs of so many MiB.
    pub fn small_disk(mut self, mib: u32) -> Self {
        self.tmpfs_mib = Some(mib);
        self
    }

    /// As `small_disk`, with an ext4 in a file.
    pub fn small_ext4(mut self, mib: u32) -> Self {
        self.ext4_mib = Some(mib);
        self
    }

    /// The data folder is a file system of this type with project quotas: [`super::quotas`] says whether the kernel has that.
    pub fn quota_disk(mut self, fs_type: &'static str) -> Self {
        self.quota_disk = Some(fs_type);
        self
    }

    /// Certificates of its own: a folder that `Pki::make` filled.
    pub fn pki(mut self, dir: &Path) -> Self {
        self.pki = Some(dir.to_owned());
        self
    }

    pub fn start(self) -> Node {
        self.start_with(|_| {})
    }

    /// `prepare` gets the node's folder before the agent starts. `PKI` in tables is the folder of its certificates, `:PORT` the
    /// first of its ports.
    pub fn start_with(self, prepare: impl FnOnce(&Path)) -> Node {
        let slot = Slot::take();
        let dir = test_dir().join("run").join(format!("{}-{}", self.name, slot.number));
        leak::clean(&slot, &dir);
        for folder in ["data", "run", "pki", "scratch"] {
            fs::create_dir_all(dir.join(folder)).expect("test folder");
        }
        if let Some(mib) = self.tmpfs_mib {
            let status = Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
                .arg(dir.join("data"))
                .status();
            assert!(status.expect("mount").success(), "mounting a tmpfs");
        }
        if let Some(mib) = self.ext4_mib {
            let file = dir.join("disk");
            File::create(&file).and_then(|f| f.set_len(u64::from(mib) << 20)).expect("disk");
            for command in [
                Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file),
                Command::new("mount").args(["-o", "loop"]).arg(&file).arg(dir.join("data")),
            ] {
                assert!(command.status().expect("a tool of the host").success(), "{command:?}");
            }
        }
        if let Some(fs_type) = self.quota_disk {
            super::quotas::mount(fs_type, &dir.join("disk"), &dir.join("data")).expect("a file system with quotas");
        }
        let pki = self.pki.map_or_else(Pki::shared, |dir| Pki { dir });
        let agent = pki.identity("agent");
        for (from, to) in [(&agent.cert, "agent.pem"), (&agent.key, "agent.key"), (&pki.ca(), "ca.pem")] {
            copy(from, &dir.join("pki").join(to));
        }
        if pki.crl().exists() {
            copy(&pki.crl(), &dir.join("pki/crl.pem"));
        }
        let mut node = Node {
            slot,
            dir,
            pki,
            child: None,
            fds_at_rest: 0,
            environment: Vec::new(),
            covered: BTreeMap::new(),
            starter: Vec::new(),
            checked: false,
            killed_deliberately: false,
            program: super::binary("berthd", env!("CARGO_BIN_EXE_berthd")),
        };
        if self.own_program {
            fs::create_dir_all(node.dir.join("bin")).expect("bin");
            copy(&node.program, &node.dir.join("bin/berthd"));
            node.program = node.dir.join("bin/berthd");
        }
        prepare(&node.dir);
        let d = node.dir.display();
        let config = format!(
            "data_root = \"{d}/data\"\nrun_root = \"{d}/run\"\n{top}\
             [listen]\ntcp = [\"127.0.0.1:{port}\"]\n\
             [tls]\nca = \"{d}/pki/ca.pem\"\ncert = \"{d}/pki/agent.pem\"\nkey = \"{d}/pki/agent.key\"\n{crl}\
             [network]\nbridge = \"{bridge}\"\nsubnet = \"{gateway}/24\"\npublish_address = \"{publish}\"\n\
             [containers]\ncgroup_parent = \"{parent}\"\n{containers}\
             [images]\n{images}[limits]\n{limits}{userns}{isolation}{runtimes}[log]\nlevel = \"{level}\"\n{tables}",
            port = node.slot.agent_port(),
            crl = if node.dir.join("pki/crl.pem").exists() {
                format!("crl = \"{d}/pki/crl.pem\"\n")
            } else {
                String::new()
            },
            bridge = node.slot.bridge(),
            gateway = node.slot.gateway(),
            parent = node.slot.cgroup_parent(),
            publish = self.publish_address,
            top = self.top,
            images = self.images,
            containers = self.containers,
            limits = self.limits,
            level = std::env::var("BERTH_TEST_LOG").unwrap_or_else(|_| "info".into()),
            tables = if self.tables.contains(super::registry()) {
                self.tables.clone()
            } else {
                format!("{}[registries.\"{}\"]\nplain_http = true\n", self.tables, super::registry())
            },
            runtimes = if self.tables.contains("[runtimes") { String::new() } else { super::runtimes::table() },
            isolation = match std::env::var("BERTH_TEST_LANDLOCK") {
                Ok(on) if !self.tables.contains("[isolation]") => format!("[isolation]\nlandlock = {on}\n"),
                _ => String::new(),
            },
            userns = match std::env::var("BERTH_TEST_USERNS") {
                Ok(default) if !self.tables.contains("[userns]") => format!("[userns]\ndefault = \"{default}\"\n"),
                _ => String::new(),
            },
        );
        let config = config.replace("\"PKI/", &format!("\"{d}/pki/"));
        let config = config.replace(":PORT\"", &format!(":{}\"", node.slot.port(0)));
        fs::write(node.dir.join("berthd.toml"), config).expect("berthd.toml");
        node.write_ctl_config();
        node.spawn();
        node.fds_at_rest = node.fds();
        node
    }
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("copying {}: {error}", from.display()));
}

/// One agent with everything around it.
pub struct Node {
    pub slot: Slot,
    pub dir: PathBuf,
    pub pki: Pki,
    child: Option<Child>,
    fds_at_rest: usize,
    environment: Vec<(String, String)>,
    /// Files of the host, and what the agent finds in their place.
    covered: BTreeMap<&'static str, String>,
    /// A program of the host's with its arguments, which executes the agent.
    starter: Vec<String>,
    checked: bool,
    killed_deliberately: bool,
    program: PathBuf,
}

impl Node {
    pub fn builder(name: &str) -> Builder {
        super::runtimes::skip_what_needs_ours();
        Builder {
            name: name.to_owned(),
            tables: String::new(),
            top: String::new(),
            images: String::new(),
            containers: String::new(),
            limits: String::new(),
            tmpfs_mib: None,
            ext4_mib: None,
            quota_disk: None,
            pki: None,
            own_program: false,
            publish_address: "0.0.0.0".into(),
        }
    }

    pub fn start(name: &str) -> Node {
        Node::builder(name).start()
    }

    /// An agent that has busybox.
    pub fn with_busybox(name: &str) -> Node {
        let node = Node::start(name);
        node.ok(&["pull", "-q", &image("busybox")]);
        node
    }

    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.slot.agent_port())
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/berthd.sock")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent runs").id()
    }

    // --- the agent's process

    /// Starts the agent and waits until it answers.
    pub fn spawn(&mut self) {
        self.spawn_without_waiting();
        let start = Instant::now();
        while !self.answers() {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().expect("wait")) {
                panic!("the agent ended with {status}\n{}", self.agent_log());
            }
            assert!(start.elapsed() < LONG, "the agent does not answer\n{}", self.agent_log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn spawn_without_waiting(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.dir.join("agent.log")).expect("agent.log");
        let mut command = if self.covered.is_empty() {
            // As some hosts' service managers start programs.
            let mut command = Command::new("sh");
            command.args(["-c", "umask 077 && exec \"$0\" \"$@\""]).args(&self.starter).arg(&self.program);
            command
        } else {
            self.covering(&self.program)
        };
        command.arg("--config").arg(self.dir.join("berthd.toml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let begun = Instant::now();
        self.child = Some(loop {
            match command.spawn() {
                Ok(child) => break child,
                // Another thread's child was made while the program was copied, and holds it open for writing until it is a program itself.
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && begun.elapsed() < LONG => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(e) => panic!("berthd: {e}"),
            }
        });
    }

    /// For the next agent.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// For the next agent: it is executed by this command.
    pub fn set_starter(&mut self, words: &[&str]) {
        self.starter = words.iter().map(|w| (*w).to_owned()).collect();
    }

    /// The next agent finds another boot id than the one before: in a mount namespace where a file stands in for the kernel's.
    pub fn set_boot_id(&mut self, id: &str) {
        self.cover("/proc/sys/kernel/random/boot_id", &format!("{id}\n"));
    }

    /// What the next agents find in place of a file of the host.
    pub fn cover(&mut self, file: &'static str, text: &str) {
        self.covered.insert(file, text.to_owned());
    }

    fn covering(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        let mut script = String::new();
        for (n, (file, text)) in self.covered.iter().enumerate() {
            let ours = self.dir.join(format!("covered-{n}"));
            fs::write(&ours, text).expect("covered");
            script.push_str(&format!("mount --bind '{}' {file} && ", ours.display()));
        }
        command.args(["--mount", "sh", "-c", &format!("{script}exec \"$0\" \"$@\"")]).arg(program);
        command
    }

    /// For the next agent.
    pub fn change_config(&self, change: impl FnOnce(&str) -> String) {
        let path = self.dir.join("berthd.toml");
        let text = fs::read_to_string(&path).expect("berthd.toml");
        let changed = change(&text);
        assert_ne!(changed, text, "nothing was changed");
        fs::write(&path, changed).expect("berthd.toml");
    }

    fn answers(&self) -> bool {
        self.ctl(&["version"]).code == 0
    }

    /// Starts the agent from another file from now on.
    pub fn set_program(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// The file that the agent is started from.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The agent has ended as it was meant to.
    #[cfg(feature = "failpoints")]
    pub fn forget_agent(&mut self) {
        assert!(self.agent_has_ended(), "it runs");
        self.child = None;
        self.killed_deliberately = true;
    }

    /// As a service manager: starts an agent, which may find another one in its place. True: it answers.
    #[cfg(feature = "failpoints")]
    pub fn try_spawn(&mut self) -> bool {
        self.spawn_without_waiting();
        let ended = eventually("the agent answers or has ended", || {
            let ended = self.agent_has_ended();
            (ended || self.answers()).then_some(ended)
        });
        if ended {
            self.child = None;
        }
        !ended
    }

    /// SIGKILL: what the promise is about.
    pub fn kill_agent(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
        self.killed_deliberately = true;
    }

    /// SIGTERM, and the time to end well.
    pub fn stop_agent(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the agent runs");
        signal(child.id(), "TERM");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if start.elapsed() > LONG {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the agent did not end on SIGTERM\n{}", self.agent_log());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until the agent has ended by itself (a fail point), bounded.
    pub fn wait_agent(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the agent runs");
        eventually("the agent ends", || child.try_wait().expect("wait"))
    }

    pub fn agent_has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().expect("wait").is_some())
    }

    pub fn restart(&mut self) {
        self.kill_agent();
        self.spawn();
    }

    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    pub fn fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Files of cgroups that the agent holds open, as it does while somebody watches what containers use.
    pub fn counter_files(&self) -> usize {
        let links = fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        links
            .filter(|l| fs::read_link(l.path()).is_ok_and(|to| to.starts_with("/sys/fs/cgroup") && to.is_file()))
            .count()
    }

    // --- the end

    /// Removes what the test left running, stops the agent, and looks whether anything stayed behind.
    pub fn finish(mut self) {
        self.check();
    }

    fn check(&mut self) {
        self.checked = true;
        if self.agent_has_ended() {
            assert!(
                self.child.is_none() || self.killed_deliberately,
                "the agent ended by itself\n{}",
                self.agent_log()
            );
            self.child = None;
            self.spawn();
        }
        let ids = self.ok(&["ps", "-a", "-q"]);
        let mut remove = vec!["rm", "-f"];
        remove.extend(ids.split_whitespace());
        if remove.len() > 2 {
            self.ok(&remove);
        }
        let ids = self.ok(&["images", "-q"]);
        let mut remove = vec!["rmi", "-f"];
        remove.extend(ids.split_whitespace().collect::<std::collections::BTreeSet<_>>());
        if remove.len() > 2 {
            self.ok(&remove);
        }
        // Teardown goes on behind the answer; it must end. Idle connections to registries and callers close in their own time.
        leak::none_running(&self.slot, &self.dir, self.pid());
        if !self.killed_deliberately {
            // What an agent keeps ready from its first container on: a few network and user namespaces and sockets in them.
            let allowed = self.fds_at_rest + 64;
            super::until(&format!("the agent's descriptors fall to {allowed} (have {})", self.fds()), || {
                self.fds() <= allowed
            });
        }
        let status = self.stop_agent();
        assert!(status.success(), "the agent ended with {status}\n{}", self.agent_log());
        leak::none(&self.slot, &self.dir);
        let log = self.agent_log();
        assert!(!log.contains("panicked at"), "the agent panicked\n{log}");
        leak::clean(&self.slot, &self.dir);
        assert!(!self.dir.exists(), "{} cannot be removed", self.dir.display());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if !self.checked {
                self.check();
            }
            return;
        }
        eprintln!("--- log of the agent of {}:\n{}", self.dir.display(), self.tail());
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        leak::clean(&self.slot, &self.dir);
    }
}

/// One context of the ctl's configuration.
pub fn context_toml(name: &str, endpoint: &str, ca: &Path, identity: &Identity) -> String {
    format!(
        "[contexts.{name}]\nendpoint = \"{endpoint}\"\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        ca.display(),
        identity.cert.display(),
        identity.key.display()
    )
}

/// Runs a command to its end, bounded.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    let pid = child.id();
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if finished.recv_timeout(LONG * 3) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signal(pid, "KILL");
        }
    });
    let output = child.wait_with_output().expect("wait");
    drop(done);
    watch.join().expect("watch");
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Output {
        code,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// kill(1) by pid.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

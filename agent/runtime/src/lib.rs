//! From a container spec to an isolated process.
//!
//! [`Runtime::plan`] decides (pure: a spec and facts about the host become a list of steps), [`Runtime::spawn`] and [`Runtime::exec`] hand
//! the plan and descriptors to a shim (crate berth-shim, embedded here and sealed into a memfd at the start), which acts. [`Shim`] is the
//! agent's end of it: wait, signal, attach. A shim outlives the agent; [`Runtime::reconnect`] finds it again.
//!
//! This crate knows no images, no networks and no store: it gets a root as a mount's descriptor and a network namespace as another.
#![forbid(unsafe_code)]

#[cfg(all(feature = "weaken", not(debug_assertions)))]
compile_error!("walls that can be taken down are for tests, not for a release");

mod apparmor;
mod attach;
mod cgroup;
mod counters;
mod error;
mod files;
mod foreign;
#[cfg(fuzzing)]
pub mod fuzz;
mod host;
mod launch;
mod others;
mod plan;
mod process;
mod programs;
mod requests;
pub mod seccomp;
mod selinux;
mod session;
mod shim;
pub mod signal;
pub mod sysctl;
mod user;
mod walls;

pub use apparmor::DEFAULT_PROFILE;
pub use attach::{AttachInput, Attachment, Output};
pub use cgroup::{Hierarchy, cpu_weight, io_weight, known_parents, mounted};
pub use counters::{Block, CounterFiles, Counters, Cpu, Memory, Pressure};
pub use error::RuntimeError;
pub use foreign::OtherFound;
pub use launch::Prepared;
pub use plan::{DEFAULT_CAPABILITIES, Plan, kernel_files};
pub use process::ProcessInfo;
pub use requests::{
    AttachOptions, CgroupDriver, ContainerPaths, Effective, ExecRequest, OWN_RUNTIME, OtherRuntime, PlanInput,
    RuntimeConfig, Shared, SpawnRequest, Spawned, check_slice,
};
pub use selinux::{Level, PRIVILEGED_PAIR, Selinux, SelinuxState};
pub use session::{NewSession, Resumed, forget, resume, sweep};
pub use shim::{Exec, Shim};
pub use user::home;

use berth_model::image::ImageConfig;
use berth_model::network::NetworkAttachment;
use berth_model::spec::{Resources, Seccomp};
use berth_model::{ContainerId, ContainerSpec, ExitStatus};
use cgroup::Cgroups;
use host::Host;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

/// Behind a start, until it is on its own way.
const REFILL: Duration = Duration::from_millis(30);

struct Inner {
    config: RuntimeConfig,
    cgroups: Arc<dyn Cgroups>,
    host: Host,
    selinux: SelinuxState,
    launcher: launch::Launcher,
    /// The spare shim is on its way.
    refilling: AtomicBool,
    programs: programs::Programs,
}

impl Runtime {
    /// Probes the host, seals the shim into a memfd, compiles the default seccomp profile.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let cgroups = cgroup::detect(&config)?;
        let host = Host::probe(&*cgroups);
        let selinux = SelinuxState::probe(config.selinux);
        let runtime = Runtime {
            inner: Arc::new(Inner {
                config,
                cgroups,
                host,
                selinux,
                launcher: launch::Launcher::new()?,
                refilling: AtomicBool::new(false),
                programs: programs::Programs::default(),
            }),
        };
        runtime.seccomp(&ContainerSpec::default())?;
        runtime.require_landlock()?;
        if let Some(trouble) = runtime.cgroup_trouble() {
            tracing::warn!("{trouble}");
        }
        Ok(runtime)
    }

    /// v1, hybrid or v2
    pub fn cgroup_mode(&self) -> &'static str {
        self.inner.cgroups.mode()
    }

    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.inner.config.cgroup_driver
    }

    /// Abilities of the kernel that are used where it has them.
    pub fn features(&self) -> Vec<(&'static str, bool)> {
        self.inner.cgroups.features()
    }

    /// Why no container can be started, as far as their cgroups are concerned: there is no systemd to make them. Blocking.
    pub fn cgroup_trouble(&self) -> Option<String> {
        self.inner.cgroups.trouble().map(|why| format!("no container can be started: {why}"))
    }

    /// What this host cannot do, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.cgroup_trouble().into_iter().collect();
        warnings.extend(self.inner.cgroups.warnings());
        if !self.inner.host.can_raise_limits() {
            warnings.push("no CAP_SYS_RESOURCE: limits cannot be raised and OOM scores not lowered".into());
        }
        warnings
    }

    /// Checks a spec without making anything: field name and message of everything that is wrong.
    pub fn check(&self, spec: &ContainerSpec) -> Vec<(String, String)> {
        let mut wrong = plan::check(spec);
        wrong.extend(self.check_runtime(spec));
        wrong.extend(self.check_landlock(spec));
        wrong.extend(self.check_profile(spec));
        wrong.extend(self.check_labels(spec));
        let mode = self.inner.cgroups.mode();
        let r = &spec.resources;
        wrong.extend(self.check_slice(spec));
        if self.inner.config.cgroup_driver == CgroupDriver::Systemd {
            wrong.extend(cgroup::unkept(r));
        }
        for (field, asked) in [("unified", !r.unified.is_empty()), ("oom_group", r.oom_group)] {
            if asked && mode != "v2" {
                wrong.push((
                    format!("resources.{field}"),
                    format!("needs a host with cgroup v2 alone; this one has {mode}"),
                ));
            }
        }
        wrong
    }

    fn check_slice(&self, spec: &ContainerSpec) -> Option<(String, String)> {
        let slice = spec.cgroup_parent.as_deref()?;
        let field = "cgroup_parent".to_owned();
        if self.inner.config.cgroup_driver != CgroupDriver::Systemd {
            let message = "needs an agent whose containers.cgroup_driver is \"systemd\"; with \"cgroupfs\" the \
                           agent's containers.cgroup_parent holds for all";
            return Some((field, message.to_owned()));
        }
        berth_systemd::unit::slice_path(slice).err().map(|why| (field, why))
    }

    /// What of a spec this host cannot give in full, as far as that is known before the start.
    pub fn spec_warnings(&self, spec: &ContainerSpec) -> Vec<String> {
        plan::warnings(spec, &self.inner.host)
    }

    /// Entrypoint, env, … as they will run, for inspect (no kernel, no files).
    pub fn effective(&self, spec: &ContainerSpec, image: &ImageConfig) -> Result<Effective, RuntimeError> {
        plan::effective(spec, image)
    }

    /// Makes /etc/hosts and /etc/resolv.conf of a container that runs say the networks that it is on `now`. What the container has put behind the
    /// agent's own lines stays; a file in which it has changed these is left as it is. `state_dirs`: as in [`PlanInput`], its own, and those of the
    /// containers that share its namespace.
    pub fn networks_changed(
        &self,
        (id, spec): (&ContainerId, &ContainerSpec),
        state_dirs: &[PathBuf],
        before: &[NetworkAttachment],
        now: &[NetworkAttachment],
        host_gateway: IpAddr,
    ) -> std::io::Result<()> {
        let host_resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let texts =
            |networks| plan::network_files((id, spec), &self.inner.host, networks, host_gateway, &host_resolv_conf);
        let mut done = Ok(());
        for ((name, old), (_, new)) in
            texts(before).into_iter().zip(texts(now)).filter(|((_, old), (_, new))| old != new)
        {
            for dir in state_dirs {
                done = done.and(files::replace_front(&dir.join(name), &old, &new));
            }
        }
        done
    }

    /// Other lines in the place of [`PlanInput::peers`].
    pub fn peers_changed(&self, state_dirs: &[PathBuf], peers: &str) -> std::io::Result<()> {
        state_dirs.iter().try_for_each(|dir| files::replace_peers(&dir.join("hosts"), peers))
    }

    pub fn plan(&self, input: &PlanInput<'_>) -> Result<Plan, RuntimeError> {
        let devices = given_devices(input.spec)?;
        let other = self.other(&input.spec.runtime)?.map(|runtime| self.for_other(runtime, input, &devices));
        let other = other.transpose()?;
        let around = plan::Surroundings {
            host: &self.inner.host,
            devices,
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            seccomp: if other.is_none() { self.seccomp(input.spec)? } else { None },
            profile: self.profile_of(input.spec)?,
            other,
        };
        plan::plan(input, &around)
    }

    fn seccomp(&self, spec: &ContainerSpec) -> Result<Option<Arc<[u8]>>, RuntimeError> {
        if spec.privileged || spec.seccomp == Seccomp::Unconfined {
            return Ok(None);
        }
        let capabilities = plan::capabilities(spec, &self.inner.host, &mut Vec::new());
        let compile = || {
            let (profile, target) = self.profile(spec, capabilities)?;
            let program =
                seccomp::compile(&profile, &target).map_err(|e| RuntimeError::spec("seccomp", e.to_string()))?;
            match seccomp::refuses_execve(&program, target.arch) {
                Some(why) => Err(RuntimeError::spec("seccomp", why)),
                None => Ok(program.to_bytes().into()),
            }
        };
        self.inner.programs.get(&spec.seccomp, capabilities, compile).map(Some)
    }

    /// The profile that is asked for, and what it is for.
    fn profile(
        &self,
        spec: &ContainerSpec,
        capabilities: u64,
    ) -> Result<(seccomp::Profile, seccomp::Target), RuntimeError> {
        let wrong = |e: seccomp::SeccompError| RuntimeError::spec("seccomp", e.to_string());
        let profile = match &spec.seccomp {
            Seccomp::Profile(text) => seccomp::parse(text).map_err(wrong)?,
            _ => seccomp::default_profile(),
        };
        let names = berth_sys::cap::NAMES.iter().enumerate();
        let target = seccomp::Target {
            arch: seccomp::Arch::native().ok_or(seccomp::SeccompError::Unsupported).map_err(wrong)?,
            caps: names.filter(|(i, _)| capabilities >> i & 1 == 1).map(|(_, n)| format!("CAP_{n}")).collect(),
            kernel: self.inner.host.kernel,
        };
        Ok((profile, target))
    }

    /// Everything of a start that needs neither the root nor the plan: the shim, its folder and socket, and the cgroups with their limits.
    /// Blocking; beside the rest.
    pub fn prepare(
        &self,
        (id, name): (&ContainerId, &str),
        spec: &ContainerSpec,
        paths: ContainerPaths,
    ) -> Result<Prepared, RuntimeError> {
        self.with_its_driver(spec)?;
        let limits = plan::limits(name, spec, &given_devices(spec)?, self.inner.config.default_pids);
        launch::prepare(&self.inner.launcher, &self.inner.cgroups, id, paths, &limits)
    }

    /// Blocking until the workload's execve has succeeded or a step failed. Nothing is left when it fails. Called where a tokio runtime is
    /// current (`spawn_blocking` is such a place).
    pub fn spawn(&self, request: SpawnRequest) -> Result<Spawned, RuntimeError> {
        let spawned = launch::spawn(request);
        self.refill();
        spawned
    }

    /// Has a shim stand ready for the next start, behind the one that goes on now.
    fn refill(&self) {
        let inner = &self.inner;
        if inner.launcher.has_spare() || inner.refilling.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::downgrade(inner);
        tokio::spawn(async move {
            tokio::time::sleep(REFILL).await;
            let Some(inner) = inner.upgrade() else { return };
            let filled = tokio::task::spawn_blocking(move || {
                inner.launcher.refill();
                inner.refilling.store(false, Ordering::Relaxed);
            });
            let _ = filled.await;
        });
    }

    /// Runs one more process in a running container. Blocking until its execve; called where a tokio runtime is current.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<Exec, RuntimeError> {
        if request.spec.command.is_empty() {
            return Err(RuntimeError::spec("command", "no command is given"));
        }
        let Inner { launcher, cgroups, host, .. } = &*self.inner;
        let profile = if request.spec.privileged { None } else { self.profile_of(request.container)? };
        let exec = match self.other(&request.container.runtime)? {
            Some(other) => {
                foreign::exec(other, &self.places(request.run_dir), (launcher, cgroups, host), &request, profile)
            }
            None => {
                let seccomp = if request.spec.privileged { None } else { self.seccomp(request.container)? };
                let plan = || launch::exec_plan(cgroups, host, (seccomp, profile), &request);
                launch::exec(launcher, cgroups, request.id, plan)
            }
        };
        self.refill();
        exec
    }

    /// Finds a shim of an earlier agent by its socket. None: it is gone (then see `read_exit`).
    pub async fn reconnect(&self, paths: &ContainerPaths, id: &ContainerId) -> Result<Option<Shim>, RuntimeError> {
        shim::reconnect(paths, id, self.inner.cgroups.clone()).await
    }

    /// The exit file a shim left.
    pub fn read_exit(&self, paths: &ContainerPaths) -> Result<Option<ExitStatus>, RuntimeError> {
        shim::read_exit(&paths.run)
    }

    /// Kills every process of the container's cgroup (cgroup.kill, else freezer/loop). Returns when the cgroup is empty or `timeout` is over.
    pub fn kill_all(&self, id: &ContainerId, timeout: Duration) -> Result<(), RuntimeError> {
        cgroup::kill_all(&*self.inner.cgroups, id, timeout)
    }

    /// Brings the limits of a running container from `old` to `new`: all of them, or none. Blocking.
    ///
    /// # Errors
    /// `Limit`: the kernel does not take one; `Cgroup`: this host has no such limits.
    pub fn update(&self, id: &ContainerId, old: &Resources, new: &Resources) -> Result<(), RuntimeError> {
        self.inner.cgroups.update(id, old, new)
    }

    /// The container's processes, by pid, at most `max`; true: there are more. Reads /proc; nothing is run.
    pub fn processes(&self, id: &ContainerId, max: usize) -> (Vec<ProcessInfo>, bool) {
        process::list(&*self.inner.cgroups, id, max)
    }

    /// Finds the files with what a container uses, and keeps at most `open` of them open.
    pub fn counters(&self, id: &ContainerId, open: usize) -> CounterFiles {
        CounterFiles::find(self.inner.cgroups.counters(id), open)
    }

    /// Freezes every process of the container. Blocking, at most 5 s; when it fails all go on.
    ///
    /// # Errors
    /// `Freeze`; `Cgroup`: this host has no freezer.
    pub fn freeze(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.cgroups.freeze(id)
    }

    /// Lets them go on; running already is fine.
    pub fn thaw(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.cgroups.thaw(id)
    }

    /// Do they stand still? Reads one small file.
    pub fn is_frozen(&self, id: &ContainerId) -> bool {
        self.inner.cgroups.is_frozen(id)
    }

    /// Did the kernel's OOM killer strike in this container's cgroup?
    pub fn oom_killed(&self, id: &ContainerId) -> bool {
        self.inner.cgroups.oom_killed(id)
    }

    /// How many processes of this run it ended. None: this host does not count them, or the container has ended. Reads one small file.
    pub fn oom_kills(&self, id: &ContainerId) -> Option<u64> {
        self.inner.cgroups.oom_kills(id)
    }

    /// Kills what is left of the container's health checks, and nothing else of it. Returns when that is gone or `timeout` is over.
    pub fn kill_probe(&self, id: &ContainerId, timeout: Duration) -> Result<(), RuntimeError> {
        cgroup::kill_probe(&*self.inner.cgroups, id, timeout)
    }

    /// The cgroup that counts the container's memory, and its limit in bytes. None: there is none.
    pub fn memory_limit(&self, id: &ContainerId) -> Option<(PathBuf, Option<u64>)> {
        self.inner.cgroups.memory_limit(id)
    }

    /// Removes the container's cgroups; gone already is fine.
    pub fn remove_cgroups(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        cgroup::remove(&*self.inner.cgroups, id)
    }

    /// Ids that have cgroups of ours: for recovery.
    pub fn list_cgroups(&self) -> Result<Vec<ContainerId>, RuntimeError> {
        Ok(cgroup::list(&*self.inner.cgroups))
    }

    pub fn cgroup_paths(&self, id: &ContainerId) -> Vec<PathBuf> {
        self.inner.cgroups.paths(id)
    }
}

/// The host's nodes behind a spec's devices: one, a folder of them, or all (privileged).
fn given_devices(spec: &ContainerSpec) -> Result<Vec<plan::GivenDevice>, RuntimeError> {
    let given = |node: host::HostDevice, path: String, permissions: &str| plan::GivenDevice {
        node,
        path,
        permissions: permissions.to_owned(),
    };
    let mut devices = Vec::new();
    if spec.privileged {
        let own = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"].map(|n| format!("/dev/{n}"));
        let all = host::devices_below(Path::new("/dev")).into_iter().filter(|d| !own.contains(&d.path));
        devices.extend(all.map(|d| (d.path.clone(), d)).map(|(path, d)| given(d, path, "rwm")));
    }
    for asked in &spec.devices {
        let path = Path::new(&asked.host_path);
        if let Some(mut node) = host::device(path) {
            node.mode = asked.node.mode.unwrap_or(node.mode);
            node.uid = asked.node.uid.unwrap_or(node.uid);
            node.gid = asked.node.gid.unwrap_or(node.gid);
            devices.push(given(node, asked.container_path.clone(), &asked.permissions));
            continue;
        }
        let below = host::devices_below(path);
        if below.is_empty() {
            return Err(RuntimeError::spec("devices", format!("{} is no device of this host", asked.host_path)));
        }
        for node in below {
            let tail = node.path.strip_prefix(&asked.host_path).unwrap_or_default().to_owned();
            devices.push(given(
                node,
                format!("{}{tail}", asked.container_path.trim_end_matches('/')),
                &asked.permissions,
            ));
        }
    }
    Ok(devices)
}

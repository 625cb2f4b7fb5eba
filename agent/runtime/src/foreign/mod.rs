//! Other OCI runtimes: bundles for them, their command lines, and what they say when they refuse.
//!
//! The shim runs every command, in a mount namespace of its own where the root and the mounts of the container lie beside the bundle and
//! nowhere else; `create`, then `start`, with the first process adopted in between. Groups, limits, networks, roots, streams and logs stay
//! ours. A runtime keeps its state in the bundle, which goes with the folder of the run, whatever became of the runtime.

mod said;
mod version;

pub(crate) use said::explain;
pub use version::OtherFound;
pub(crate) use version::look;
#[cfg(fuzzing)]
pub(crate) use {
    said::{last_error_of, words},
    version::first_line,
};

use crate::cgroup::{self, Cgroups};
use crate::host::Host;
use crate::launch::{self, Launcher, Places as Descriptors};
use crate::plan::{self, NEWNET, NEWNS, bytes, oci};
use crate::{Exec, ExecRequest, OtherRuntime, RuntimeError};
use berth_model::ContainerId;
use berth_model::wire::plan::Bytes;
use berth_model::wire::{Foreign, Plan, Step};
use berth_sys::socket;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Place of the bundle's tree, beside those of [`oci`].
const BUNDLE: u8 = 251;
/// A MS_PRIVATE of mount(2).
const PRIVATE: u32 = 0x4_0000;

/// The folder of a container's bundle below that of its run.
pub(crate) fn bundle_in(run: &Path) -> PathBuf {
    run.join("bundle")
}

fn state_of(places: &oci::Places) -> PathBuf {
    places.bundle.join("state")
}

fn path(path: &Path) -> Bytes<'static> {
    bytes(path.to_string_lossy())
}

/// `RUNTIME [ARG…] --root STATE --log FILE --log-format json VERB…`, with the log in `folder`.
fn command(runtime: &OtherRuntime, places: &oci::Places, folder: &Path, verb: &[&str]) -> Vec<Bytes<'static>> {
    let mut line = vec![path(&runtime.path)];
    line.extend(runtime.args.iter().cloned().map(bytes));
    let (state, log) = (state_of(places), said::log_in(folder));
    for (option, value) in [("--root", path(&state)), ("--log", path(&log)), ("--log-format", bytes("json"))] {
        line.extend([bytes(option), value]);
    }
    line.extend(verb.iter().map(|word| bytes(*word)));
    line
}

/// What every command sees: the bundle, and the host without the agent's folder.
fn view(places: &oci::Places) -> Vec<Step<'static>> {
    let bundle = path(&places.bundle);
    vec![
        Step::OpenTree {
            slot: BUNDLE,
            source: bundle.clone(),
            recursive: false,
            read_only: false,
            propagation: PRIVATE,
            nosuid_nodev: false,
            top_only: false,
            idmap: false,
        },
        Step::HostView { folder: path(&places.run_root), without: places.without.iter().map(|p| path(p)).collect() },
        Step::AttachTree { slot: BUNDLE, target: bundle },
    ]
}

/// A plan that is one command, with `steps` before it.
fn plan_of(args: Vec<Bytes<'static>>, steps: Vec<Step<'static>>, folder: &Path) -> Plan<'static> {
    let mut all = vec![Step::Umask { mask: 0 }];
    all.extend(steps);
    // Relative paths of sockets: absolute ones may be too long for an address.
    all.extend([Step::HostFolder { path: path(folder) }, Step::Umask { mask: 0o22 }]);
    let env = vec![bytes("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")];
    Plan { namespaces: NEWNS, args, env, steps: all, ..Plan::default() }
}

/// Root's alone but for passing through: the container's root is somebody else.
fn make_folder(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    let made = std::fs::DirBuilder::new().mode(mode).create(path);
    made.map_err(RuntimeError::io(format!("making {}", path.display())))
}

fn write(path: &Path, text: &[u8]) -> Result<(), RuntimeError> {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text)).map_err(RuntimeError::io(format!("writing {}", path.display())))
}

/// Listens for a terminal in `folder`, under the name that the command is given.
fn console(folder: &Path) -> Result<OwnedFd, RuntimeError> {
    let open = berth_sys::fs::open(folder, berth_sys::fs::Open::PATH | berth_sys::fs::Open::DIRECTORY, 0);
    let at = open.map_err(RuntimeError::io(format!("opening {}", folder.display())))?;
    let through = PathBuf::from(format!("/proc/self/fd/{}/{CONSOLE}", at.as_raw_fd()));
    socket::listen_for_streams(&through).map_err(RuntimeError::io("listening for the terminal"))
}

/// As the source of a bind is mounted, so is the bind.
fn say_how_it_is_mounted(
    config: &mut serde_json::Value,
    bind: &oci::Bind,
    trees: &[u8],
    descriptors: &Descriptors,
) -> Result<(), RuntimeError> {
    let opened;
    let fd = match &bind.source {
        oci::Source::Path(path) => {
            let open = berth_sys::fs::open(path, berth_sys::fs::Open::PATH, 0);
            opened = open.map_err(RuntimeError::io(format!("opening the mount source {}", path.display())))?;
            Some(opened.as_fd())
        }
        oci::Source::Given(n) => trees.get(usize::from(*n)).and_then(|place| descriptors.get(*place)),
    };
    let Some(fd) = fd else { return Err(RuntimeError::spec("mounts", "a volume or an image was not handed over")) };
    let flags = berth_sys::fs::mount_flags(fd).map_err(RuntimeError::io("asking how a mount source is mounted"))?;
    let Some(options) = config["mounts"][bind.mount]["options"].as_array_mut() else { return Ok(()) };
    for word in plan::flag_words(flags) {
        if !options.iter().any(|o| o == word) {
            options.push(word.into());
        }
    }
    Ok(())
}

const CONSOLE: &str = "console.sock";

/// Makes the bundle, and what the shim is told of it. The root is the first descriptor. `trees`: places of those that were handed over.
pub(crate) fn prepare(
    id: &ContainerId,
    bundle: oci::Bundle,
    mut wire: Plan<'static>,
    trees: &[u8],
    (netns, userns): (Option<OwnedFd>, Option<OwnedFd>),
    descriptors: &mut Descriptors,
) -> Result<Plan<'static>, RuntimeError> {
    let (places, runtime, id) = (&bundle.places, &bundle.runtime, id.as_str());
    match std::fs::remove_dir_all(&places.bundle) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(RuntimeError::io(format!("removing {}", places.bundle.display()))(e));
        }
        _ => {}
    }
    make_folder(&places.bundle, 0o711)?;
    make_folder(&places.root(), 0o711)?;
    make_folder(&state_of(places), 0o700)?;
    let mut config = bundle.config;
    for bind in &bundle.binds {
        say_how_it_is_mounted(&mut config, bind, trees, descriptors)?;
    }
    let file = places.bundle.join("config.json");
    write(&file, config.to_string().as_bytes())?;
    if let Some(group) = bundle.readers {
        let readable = std::os::unix::fs::chown(&file, None, Some(group))
            .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)));
        readable.map_err(RuntimeError::io(format!("giving {} to hooks", file.display())))?;
    }
    let wants_network = wire.namespaces & NEWNET != 0;
    let joined_by_path =
        config["linux"]["namespaces"].as_array().is_some_and(|l| l.iter().any(|n| n["type"] == "network"));
    let mut steps = bundle.open;
    steps.extend(view(places));
    steps.push(Step::AttachGiven { fd: plan::ROOT, target: path(&places.root()) });
    for mut step in bundle.attach {
        if let Step::AttachGiven { fd, .. } = &mut step {
            let missing = || RuntimeError::spec("mounts", "a volume or an image was not handed over");
            *fd = *trees.get(usize::from(*fd)).ok_or_else(missing)?;
        }
        steps.push(step);
    }
    if wants_network {
        let netns = netns.ok_or_else(|| RuntimeError::spec("network", "there is no network namespace to join"))?;
        let fd = descriptors.add(netns);
        // A mount of sysfs shows the network of who makes it.
        steps.insert(0, Step::EnterNamespace { fd, kinds: NEWNET as u32 });
        steps.push(Step::PinNamespace { fd, target: path(&places.namespace("net")) });
        if joined_by_path {
            // runc takes the network that it is in for the host's, and sets no sysctls there.
            let hosts =
                std::fs::File::open("/proc/self/ns/net").map_err(RuntimeError::io("opening the host's network"))?;
            let fd = descriptors.add(hosts.into());
            steps.push(Step::EnterNamespace { fd, kinds: NEWNET as u32 });
        }
    }
    if let Some(userns) = userns {
        let fd = descriptors.add(userns);
        wire.userns = Some(fd);
        steps.push(Step::PinNamespace { fd, target: path(&places.namespace("user")) });
    }
    let (folder, pid) = (&places.bundle, places.bundle.join("pid"));
    let (bundle_text, pid_text) = (folder.to_string_lossy(), pid.to_string_lossy());
    let mut verb = vec!["create", "--bundle", &bundle_text, "--pid-file", &pid_text];
    let mut console_place = None;
    if wire.tty {
        verb.extend(["--console-socket", CONSOLE]);
        console_place = Some(descriptors.add(console(folder)?));
    }
    verb.push(id);
    let create = plan_of(command(runtime, places, folder, &verb), steps, folder);
    let start = plan_of(command(runtime, places, folder, &["start", id]), view(places), folder);
    wire.runtime =
        Some(Foreign { pid_file: Some(path(&pid)), console: console_place, group: None, start: Some(Box::new(start)) });
    (wire.namespaces, wire.args, wire.env, wire.steps) = (create.namespaces, create.args, create.env, create.steps);
    Ok(wire)
}

/// Starts one more process in a container of `runtime`'s.
pub(crate) fn exec(
    runtime: &OtherRuntime,
    places: &oci::Places,
    (launcher, cgroups, host): (&Launcher, &Arc<dyn Cgroups>, &Host),
    request: &ExecRequest<'_>,
    profile: Option<String>,
) -> Result<Exec, RuntimeError> {
    let name = NEXT.fetch_add(1, Ordering::Relaxed);
    // Of this agent alone: an earlier one may have left some.
    let folder = places.bundle.join(format!("exec-{}-{name}", std::process::id()));
    let made = launch::exec(launcher, cgroups, request.id, || {
        let process = crate::shim::open_process(request.process.0, request.process.1)?;
        let group = if request.probe { cgroup::probe_procs(&**cgroups, request.id)? } else { None };
        let mut descriptors = Descriptors::default();
        let mut wire =
            exec_plan(runtime, places, &folder, (request, profile.as_deref()), host, group, &mut descriptors)?;
        if oci::inherits_network(request.container, request.ids) {
            // runc joins by itself what it was told of, and that alone: the process would be in the host's network.
            let fd = descriptors.add(process);
            wire.steps.insert(0, Step::EnterNamespace { fd, kinds: NEWNET as u32 });
        }
        launch::attached(wire, descriptors, request)
    });
    let command = request.spec.command.first().map(String::as_str).unwrap_or_default();
    let made = made.map_err(|e| explain(e, &request.container.runtime, &folder, command));
    // The process has all that it needs.
    let _ = std::fs::remove_dir_all(&folder);
    made
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the shim of an exec is told; its files are made in `folder`.
fn exec_plan(
    runtime: &OtherRuntime,
    places: &oci::Places,
    folder: &Path,
    (request, profile): (&ExecRequest<'_>, Option<&str>),
    host: &Host,
    group: Option<OwnedFd>,
    descriptors: &mut Descriptors,
) -> Result<Plan<'static>, RuntimeError> {
    let spec = request.spec;
    if spec.privileged {
        let message =
            format!("not with the runtime {}: it gives an exec no more than its container", request.container.runtime);
        return Err(RuntimeError::spec("privileged", message));
    }
    let (effective, user) = plan::of_exec(request)?;
    let env = plan::exec_env(&effective, spec, &user.home);
    request.ids.map_or(Ok(()), |ids| plan::has_ids(ids, &user))?;
    let mut ignored = Vec::new();
    let process = oci::process(&oci::Process {
        args: &spec.command,
        env: &env,
        cwd: spec.workdir.as_deref().unwrap_or(&effective.workdir),
        user: &user,
        tty: spec.tty,
        capabilities: plan::capabilities(request.container, host, &mut ignored),
        rlimits: &plan::rlimits(request.container, host, &mut ignored),
        no_new_privileges: request.container.no_new_privileges,
        oom_score_adj: oci::oom_score_adj(request.container, host),
        profile,
        label: &request.labels.process,
    });
    make_folder(folder, 0o700)?;
    let (file, pid) = (folder.join("process.json"), folder.join("pid"));
    write(&file, process.to_string().as_bytes())?;
    let (file, pid_text) = (file.to_string_lossy(), pid.to_string_lossy());
    let mut verb = vec!["exec", "--detach", "--process", &file, "--pid-file", &pid_text];
    let mut console_place = None;
    if spec.tty {
        verb.extend(["--console-socket", CONSOLE]);
        console_place = Some(descriptors.add(console(folder)?));
    }
    verb.push(request.id.as_str());
    // Of an exec by root crun passes them on as they are.
    let steps = request.ids.map(plan::own_streams).into_iter().chain(view(places)).collect();
    let mut wire = plan_of(command(runtime, places, folder, &verb), steps, folder);
    let group = group.map(|fd| descriptors.add(fd));
    wire.runtime = Some(Foreign { pid_file: Some(path(&pid)), console: console_place, group, start: None });
    (wire.tty, wire.stdin, wire.stdin_once, wire.size) = (spec.tty, spec.stdin, true, spec.size);
    Ok(wire)
}

/// `delete --force`; None: the runtime knows nothing of the container.
pub(crate) fn delete(runtime: &OtherRuntime, places: &oci::Places, id: &str) -> Option<Plan<'static>> {
    if !state_of(places).join(id).exists() {
        return None;
    }
    let folder = &places.bundle;
    let mut wire = plan_of(command(runtime, places, folder, &["delete", "--force", id]), view(places), folder);
    wire.runtime = Some(Foreign::default());
    Some(wire)
}

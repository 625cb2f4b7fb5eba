//! Starting shims.

use crate::attach::Attachment;
use crate::cgroup::{self, Cgroups};
use crate::foreign;
use crate::host::Host;
use crate::plan::{self, NEWCGROUP, NEWNET};
use crate::selinux;
use crate::session::{self, NewSession};
use crate::shim::{Exec, Shim, Watched, open_process, socket_path};
use crate::{AttachOptions, ContainerPaths, ExecRequest, RuntimeError, SpawnRequest, Spawned};
use berth_model::ContainerId;
use berth_model::wire::{self, FailKind, Fds, MAX_FDS, MAX_INLINE_PLAN, MAX_PLAN, Request, Response, Started, Step};
use berth_sys::fs::Open;
use berth_sys::process::{Child, Poll};
use berth_sys::{fs, memfd, process, socket, spawn};
use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a step may take: a mount source on a dead server hangs, and the caller must not.
const START_TIMEOUT_MS: i32 = 60_000;

static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-shim"));

/// What a spare shim is called until it has a container: an id's place.
const SPARE: &CStr = c"spare-----------------------------------------------------------";

/// The shim's program, in memory and sealed: neither an upgrade of the agent's file nor a container that reaches /proc/PID/exe changes it.
///
/// One shim stands ready for the next start: a process that has come up and waits for its plan. It ends with the agent, whose end of its
/// socket goes then.
pub(crate) struct Launcher {
    program: OwnedFd,
    null: OwnedFd,
    spare: Mutex<Option<Launched>>,
}

/// A shim that has got nothing but its socket.
struct Launched {
    child: Child,
    control: OwnedFd,
    /// It does not know whose it is.
    nameless: bool,
}

impl Launcher {
    pub fn new() -> Result<Self, RuntimeError> {
        let program = match berth_sys::wall::is_down("sealed") {
            false => memfd::sealed("berth-shim", SHIM, true),
            true => on_disk(SHIM),
        };
        let program = program.map_err(RuntimeError::io("sealing the shim into memory"))?;
        let null = fs::open(std::path::Path::new("/dev/null"), Open::RDWR, 0)
            .map_err(RuntimeError::io("opening /dev/null"))?;
        Ok(Launcher { program, null, spare: Mutex::new(None) })
    }

    fn spare(&self) -> MutexGuard<'_, Option<Launched>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_spare(&self) -> bool {
        self.spare().is_some()
    }

    /// Starts the spare shim, where there is none.
    pub fn refill(&self) {
        let mut spare = self.spare();
        // While one runs the kernel lets nobody write to the file, either.
        if spare.is_none() && !berth_sys::wall::is_down("sealed") {
            // Without one the next start makes its own, and says what is wrong.
            *spare = self.start(SPARE, true).ok();
        }
    }

    fn launch(&self, id: &ContainerId) -> Result<Launched, RuntimeError> {
        let spare = self.spare().take();
        // One that somebody has killed is a zombie until here.
        if let Some(spare) = spare.filter(|s| matches!(s.child.reap(false), Ok(false))) {
            return Ok(spare);
        }
        let id = CString::new(id.as_str()).map_err(|e| RuntimeError::io("naming the shim")(e.into()))?;
        self.start(&id, false)
    }

    /// A shim's score for the OOM killer is the agent's, which its unit has lowered; the container sets its own.
    fn start(&self, name: &CStr, nameless: bool) -> Result<Launched, RuntimeError> {
        let (control, theirs) = socket::seqpacket_pair().map_err(RuntimeError::io("making the shim's socket"))?;
        let streams = [theirs.as_fd(), self.null.as_fd(), self.null.as_fd()];
        let child = spawn::spawn(self.program.as_fd(), &[c"berth-shim", name], streams)
            .map_err(RuntimeError::io("starting the shim"))?;
        Ok(Launched { child, control, nameless })
    }
}

/// A program that whoever runs it can write to, as other engines' are: for a test that sees what comes of it (CVE-2019-5736).
fn on_disk(program: &[u8]) -> io::Result<OwnedFd> {
    let path = std::env::temp_dir().join(format!("berth-shim-{}", std::process::id()));
    std::fs::write(&path, program)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
    let opened = std::fs::File::open(&path);
    std::fs::remove_file(&path)?;
    opened.map(OwnedFd::from)
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if let Some(spare) = self.spare().take() {
            spare.abandon();
        }
    }
}

impl Launched {
    /// Sends the plan and waits for the workload's execve.
    fn start(&mut self, id: &ContainerId, plan: wire::Plan<'_>, fds: Vec<OwnedFd>) -> Result<Started, RuntimeError> {
        match self.exchange(id, plan, fds)? {
            Some(started) => Ok(started),
            None => Err(RuntimeError::ShimGone),
        }
    }

    /// Sends the plan and waits for what came of it. None: it makes no process, and is done.
    fn exchange(
        &mut self,
        id: &ContainerId,
        mut plan: wire::Plan<'_>,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Option<Started>, RuntimeError> {
        if self.nameless {
            plan.id = id.as_str().as_bytes().to_vec().into();
        }
        let bytes = plan.encode();
        let message = if bytes.len() <= MAX_INLINE_PLAN {
            Request::Plan(Cow::Owned(bytes)).encode()
        } else if bytes.len() <= MAX_PLAN {
            let file = memfd::sealed("berth-plan", &bytes, false).map_err(RuntimeError::io("storing the plan"))?;
            fds.push(file);
            Request::PlanInFile(bytes.len() as u32).encode()
        } else {
            return Err(RuntimeError::spec("command", "arguments, environment and mounts are too long together"));
        };
        if fds.len() > MAX_FDS {
            let source = io::Error::other(format!("{} descriptors, and {MAX_FDS} fit", fds.len()));
            return Err(RuntimeError::Io { act: "sending the plan to the shim".into(), source });
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let send = socket::send(self.control.as_fd(), &[IoSlice::new(&message)], &borrowed, true);
        send.map_err(RuntimeError::io("sending the plan to the shim"))?;
        drop(fds);
        let mut poll = [Poll::new(self.control.as_fd(), true, false)];
        let deadline = process::monotonic_ms() + START_TIMEOUT_MS as u64;
        while process::poll(&mut poll, START_TIMEOUT_MS).map_err(RuntimeError::io("waiting for the shim"))? == 0 {
            if process::monotonic_ms() >= deadline {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(RuntimeError::Io { act: "waiting for the container's first process".into(), source });
            }
        }
        let mut buffer = vec![0; 8 << 10];
        let n = socket::receive(self.control.as_fd(), &mut buffer, &mut Vec::new(), true)
            .map_err(RuntimeError::io("waiting for the shim"))?;
        if n == 0 {
            return Err(RuntimeError::ShimGone);
        }
        match Response::decode(&buffer[..n])? {
            Response::Started(started) => Ok(Some(started)),
            Response::Exited(_) => Ok(None),
            Response::Failed(failed) => Err(failure(&failed)),
            _ => Err(RuntimeError::ShimGone),
        }
    }

    /// Ends a shim whose container was not started.
    fn abandon(self) {
        end(&self.child);
    }
}

/// Its death takes a first process along (PDEATHSIG), as far as there is one.
pub(crate) fn end(shim: &Child) {
    let _ = shim.kill();
    let _ = shim.reap(true);
}

fn failure(failed: &wire::Failed<'_>) -> RuntimeError {
    let step = String::from_utf8_lossy(&failed.step).into_owned();
    let source =
        if failed.errno == 0 { io::ErrorKind::InvalidData.into() } else { io::Error::from_raw_os_error(failed.errno) };
    let command = |step: &str| step.strip_prefix("executing ").unwrap_or(step).to_owned();
    match failed.kind {
        FailKind::Step => RuntimeError::StartFailed { step, source },
        FailKind::CommandNotFound => RuntimeError::CommandNotFound(command(&step)),
        FailKind::CommandNotExecutable => RuntimeError::CommandNotExecutable { command: command(&step), source },
        FailKind::NotRunning => RuntimeError::NotRunning,
        FailKind::Runtime => RuntimeError::OtherRuntime { runtime: String::new(), message: step, code: failed.errno },
    }
}

/// Puts descriptors in their places.
#[derive(Default)]
pub(crate) struct Places(Vec<OwnedFd>);

impl Places {
    pub fn add(&mut self, fd: OwnedFd) -> u8 {
        self.0.push(fd);
        // Below wire::MAX_FDS: a handful of folders and one per hierarchy.
        (self.0.len() - 1) as u8
    }

    pub fn get(&self, place: u8) -> Option<BorrowedFd<'_>> {
        self.0.get(usize::from(place)).map(AsFd::as_fd)
    }
}

/// Joining comes before everything else: from there on the limits hold.
fn join(entry: cgroup::Entry, places: &mut Places) -> (Vec<Step<'static>>, Option<u8>) {
    let steps = entry.procs.into_iter().map(|fd| Step::JoinCgroup { fd: places.add(fd) }).collect();
    (steps, entry.folder.map(|fd| places.add(fd)))
}

fn folder(path: &std::path::Path) -> Result<OwnedFd, RuntimeError> {
    fs::open(path, Open::RDONLY | Open::DIRECTORY, 0).map_err(RuntimeError::io(format!("opening {}", path.display())))
}

/// A start that waits for its root and its plan. Dropped, it is undone but for the folder of the run.
pub struct Prepared {
    id: ContainerId,
    paths: ContainerPaths,
    cgroups: Arc<dyn Cgroups>,
    /// None: taken over by the start.
    made: Option<Made>,
}

struct Made {
    launched: Launched,
    entry: cgroup::Entry,
    holder: Option<Holder>,
    run: OwnedFd,
    listener: OwnedFd,
}

/// A process that does nothing but be in a new group, which nobody could make around nothing. Dropped, it is gone; with the agent, too.
struct Holder(Option<Launched>);

impl Holder {
    fn start(launcher: &Launcher) -> Result<Self, RuntimeError> {
        launcher.start(c"scope", true).map(|launched| Holder(Some(launched)))
    }

    fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(|launched| launched.child.pid())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(launched) = self.0.take() {
            launched.abandon();
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(made) = self.made.take() {
            made.launched.abandon();
            self.undo();
        }
    }
}

impl Prepared {
    fn undo(&self) {
        let _ = cgroup::kill_all(&*self.cgroups, &self.id, std::time::Duration::from_secs(1));
        let _ = cgroup::remove(&*self.cgroups, &self.id);
        let _ = std::fs::remove_file(self.paths.run.join("shim.sock"));
    }
}

pub(crate) fn prepare(
    launcher: &Launcher,
    cgroups: &Arc<dyn Cgroups>,
    id: &ContainerId,
    paths: ContainerPaths,
    limits: &cgroup::Limits,
) -> Result<Prepared, RuntimeError> {
    // First: the new process starts up while the rest is made.
    let launched = launcher.launch(id)?;
    let mut prepared = Prepared { id: id.clone(), paths, cgroups: cgroups.clone(), made: None };
    let rest = (|| {
        let holder = if cgroups.needs_holder() { Some(Holder::start(launcher)?) } else { None };
        let entry = cgroups.create(id, limits, holder.as_ref().and_then(Holder::pid))?;
        let path = &prepared.paths.run;
        std::fs::create_dir_all(path).map_err(RuntimeError::io(format!("making {}", path.display())))?;
        let run = folder(path)?;
        let listener = listen(&run)?;
        // What an earlier start left would be taken for this one's end.
        let _ = fs::unlinkat(run.as_fd(), "exit", false);
        let _ = fs::unlinkat(run.as_fd(), "oom", false);
        Ok((entry, holder, run, listener))
    })();
    match rest {
        Ok((entry, holder, run, listener)) => {
            prepared.made = Some(Made { launched, entry, holder, run, listener });
            Ok(prepared)
        }
        Err(e) => {
            launched.abandon();
            prepared.undo();
            Err(e)
        }
    }
}

/// What files of a group say that is gone, or going: ENOENT, ENODEV.
const GONE: [Option<i32>; 2] = [Some(2), Some(19)];

pub(crate) fn spawn(request: SpawnRequest) -> Result<Spawned, RuntimeError> {
    let SpawnRequest { mut prepared, plan, rootfs, trees, netns, userns, attach } = request;
    let Some(Made { mut launched, mut entry, holder, run, listener }) = prepared.made.take() else {
        return Err(RuntimeError::ShimGone);
    };
    let (later, slice) = (std::mem::take(&mut entry.later), entry.slice.take());
    let files: Vec<_> = plan.files.iter().map(|(p, _)| p.clone()).collect();
    let other = plan.bundle.as_ref().map(|b| (b.name.clone(), b.places.bundle.clone()));
    let command = plan.effective.args.first().cloned().unwrap_or_default();
    let (id, paths, cgroups) = (prepared.id.clone(), prepared.paths.clone(), prepared.cgroups.clone());
    let result = (|| {
        let warnings = entry.warnings.clone();
        if let Some((uid, gid)) = plan.delegate {
            cgroups.delegate(&id, uid, gid)?;
        }
        let (mut wire, mut places, attachment) =
            message(&id, plan, entry, run, listener, rootfs, trees, (netns, userns), &paths, attach)?;
        wire.fds.slice = slice.map(|fd| places.add(fd));
        let started = launched.start(&id, wire, places.0).map_err(|e| match &other {
            Some((runtime, folder)) => foreign::explain(e, runtime, folder, &command),
            None => e,
        })?;
        drop(holder);
        for setting in later {
            match setting.write() {
                // It has ended, and its group went with it.
                Err(RuntimeError::Limit { source, .. }) if GONE.contains(&source.raw_os_error()) => {}
                other => other?,
            }
        }
        Ok((started, attachment, warnings))
    })();
    match result {
        Ok((started, attachment, warnings)) => {
            let Launched { child, control, .. } = launched;
            let watched = Watched { id, cgroups, run: Some(paths.run), child: Some(child) };
            Ok(Spawned { shim: Shim::new(control, started, watched)?, attachment, warnings })
        }
        Err(e) => {
            launched.abandon();
            prepared.undo();
            files.iter().for_each(|f| drop(std::fs::remove_file(f)));
            Err(e)
        }
    }
}

/// Makes the plan's files and folders, and what the shim is told, with its descriptors.
#[expect(clippy::too_many_arguments, reason = "each is one descriptor or decision of the start")]
fn message(
    id: &ContainerId,
    plan: plan::Plan,
    entry: cgroup::Entry,
    run: OwnedFd,
    listener: OwnedFd,
    rootfs: OwnedFd,
    trees: Vec<OwnedFd>,
    (netns, userns): (Option<OwnedFd>, Option<OwnedFd>),
    paths: &ContainerPaths,
    attach: Option<AttachOptions>,
) -> Result<(wire::Plan<'static>, Places, Option<Attachment>), RuntimeError> {
    let mut places = Places::default();
    for (path, text) in &plan.files {
        // For every user of the container, whatever the agent's umask is.
        std::fs::write(path, text)
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)))
            .map_err(RuntimeError::io(format!("writing {}", path.display())))?;
        selinux::set_file(path, &plan.label)?;
    }
    for path in &plan.folders {
        // What is there is taken as it is, a file too; only what is missing becomes a folder.
        match std::fs::create_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.exists() => {}
            made => {
                made.map_err(RuntimeError::io(format!("making the mount source {}", path.display())))?;
            }
        }
    }
    places.add(rootfs);
    let (wire, cgroup) = match plan.bundle {
        None => own_steps(plan.wire, entry, trees, (netns, userns), &mut places)?,
        Some(bundle) => {
            // It gets into its group by the group's path.
            drop(entry);
            let trees: Vec<u8> = trees.into_iter().map(|tree| places.add(tree)).collect();
            (foreign::prepare(id, bundle, plan.wire, &trees, (netns, userns), &mut places)?, None)
        }
    };
    let mut wire = wire;
    wire.fds = Fds {
        log: Some(places.add(folder(&paths.log)?)),
        run: Some(places.add(run)),
        listener: Some(places.add(listener)),
        attach: None,
        cgroup,
        slice: None,
    };
    let mut attached = None;
    if let Some(options) = attach {
        wire.size = options.size;
        let (ours, theirs) = attachment(options.stdin, options.session.as_ref())?;
        wire.fds.attach = Some(places.add(theirs));
        attached = Some(ours);
    }
    Ok((wire, places, attached))
}

/// What our own runtime's first process joins, and where it is born.
fn own_steps(
    mut wire: wire::Plan<'static>,
    entry: cgroup::Entry,
    trees: Vec<OwnedFd>,
    (netns, userns): (Option<OwnedFd>, Option<OwnedFd>),
    places: &mut Places,
) -> Result<(wire::Plan<'static>, Option<u8>), RuntimeError> {
    let (mut joins, cgroup) = join(entry, places);
    let mut steps = Vec::new();
    if cgroup.is_none() {
        // v1: the namespace's root is where the process is when it is made.
        wire.namespaces &= !NEWCGROUP;
        steps.push(Step::Unshare { flags: NEWCGROUP as u32 });
    }
    // Never made here: one that stands ready, with lo up, costs a fifth.
    if wire.namespaces & NEWNET != 0 {
        wire.namespaces &= !NEWNET;
        let netns = netns.ok_or_else(|| RuntimeError::spec("network", "there is no network namespace to join"))?;
        joins.push(Step::EnterNamespace { fd: places.add(netns), kinds: NEWNET as u32 });
    }
    wire.userns = userns.map(|fd| places.add(fd));
    if wire.userns.is_some() {
        // With the host's rights: the cgroup's files are the host's, and the network may be another container's.
        joins.append(&mut wire.outside);
        wire.outside = joins;
    } else {
        joins.append(&mut steps);
        steps = joins;
    }
    let trees: Vec<u8> = trees.into_iter().map(|tree| places.add(tree)).collect();
    for step in &mut wire.steps {
        if let Step::AttachGiven { fd, .. } = step {
            *fd = *trees
                .get(usize::from(*fd))
                .ok_or_else(|| RuntimeError::spec("mounts", "a volume or an image was not handed over"))?;
        }
    }
    steps.append(&mut wire.steps);
    wire.steps = steps;
    Ok((wire, cgroup))
}

/// Both ends of an attachment; what it wants is already said on it.
fn attachment(stdin: bool, new: Option<&NewSession>) -> Result<(Attachment, OwnedFd), RuntimeError> {
    let (ours, theirs) = socket::seqpacket_pair().map_err(RuntimeError::io("making the attachment's socket"))?;
    if let Some(new) = new {
        session::begin(&ours, stdin, new)?;
        return Ok((Attachment::of_session(ours)?, theirs));
    }
    let hello = Request::Attach(stdin).encode();
    socket::send(ours.as_fd(), &[IoSlice::new(&hello)], &[], true).map_err(RuntimeError::io("attaching"))?;
    Ok((Attachment::new(ours)?, theirs))
}

fn listen(run: &OwnedFd) -> Result<OwnedFd, RuntimeError> {
    let path = socket_path(run);
    let listener = match socket::listen(&path) {
        // The socket of an earlier start, whose shim is gone.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            fs::unlinkat(run.as_fd(), "shim.sock", false).and_then(|()| socket::listen(&path))
        }
        other => other,
    };
    listener.map_err(RuntimeError::io("listening for attachments"))
}

/// Starts one more process, with what `plan` says of it.
pub(crate) fn exec(
    launcher: &Launcher,
    cgroups: &Arc<dyn Cgroups>,
    id: &ContainerId,
    plan: impl FnOnce() -> Result<ExecPlan, RuntimeError>,
) -> Result<Exec, RuntimeError> {
    // First: the new process starts up while the rest is made.
    let mut launched = launcher.launch(id)?;
    let started = plan().and_then(|(wire, places, attached)| Ok((launched.start(id, wire, places.0)?, attached)));
    match started {
        Ok((started, attachment)) => {
            let Launched { child, control, .. } = launched;
            let watched = Watched { id: id.clone(), cgroups: cgroups.clone(), run: None, child: Some(child) };
            Ok(Exec { pid: started.pid, attachment, shim: Shim::new(control, started, watched)? })
        }
        Err(e) => {
            launched.abandon();
            Err(e)
        }
    }
}

/// Has a shim do what `wire` says, which makes no process that stays.
pub(crate) fn do_once(launcher: &Launcher, id: &ContainerId, wire: wire::Plan<'_>) -> Result<(), RuntimeError> {
    let mut launched = launcher.launch(id)?;
    let done = launched.exchange(id, wire, Vec::new());
    launched.abandon();
    done.map(drop)
}

/// What the shim of an exec in a container of ours is told.
pub(crate) fn exec_plan(
    cgroups: &Arc<dyn Cgroups>,
    host: &Host,
    (seccomp, profile): (Option<Arc<[u8]>>, Option<String>),
    request: &ExecRequest<'_>,
) -> Result<ExecPlan, RuntimeError> {
    let spec = request.spec;
    let (effective, user) = plan::of_exec(request)?;
    let env = plan::exec_env(&effective, spec, &user.home);
    let program = seccomp.map(|p| Cow::Owned(p.to_vec()));
    let walls = plan::Walls { seccomp: program, profile, labels: request.labels.clone() };
    let mut wire = plan::exec(request.container, spec, &effective, &user, env, host, walls, request.ids)?;
    let mut places = Places::default();
    places.add(open_process(request.process.0, request.process.1)?);
    let (mut steps, cgroup) = join(cgroups.enter(request.id, request.process.0, request.probe)?, &mut places);
    steps.append(&mut wire.steps);
    wire.steps = steps;
    wire.fds.cgroup = cgroup;
    attached(wire, places, request)
}

/// A plan, its descriptors, and our end of its streams.
pub(crate) type ExecPlan = (wire::Plan<'static>, Places, Option<Attachment>);

pub(crate) fn attached(
    mut wire: wire::Plan<'static>,
    mut places: Places,
    request: &ExecRequest<'_>,
) -> Result<ExecPlan, RuntimeError> {
    let mut attached = None;
    if !request.spec.detach || request.session.is_some() {
        let (ours, theirs) = attachment(request.spec.stdin, request.session.as_ref())?;
        wire.fds.attach = Some(places.add(theirs));
        attached = Some(ours);
    }
    Ok((wire, places, attached))
}

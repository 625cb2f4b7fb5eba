//! The parent's side of making a container: what needs the host's rights.

use crate::Context;
use crate::cgroup::{self, Group};
use crate::config::{self, Config};
use crate::error::{Error, plain};
use crate::hooks;
use crate::init::{self, Streams};
use crate::plan::{self, NEWCGROUP, NEWTIME, NEWUSER, Plan};
use crate::state::{Home, OCI_VERSION, Record, Status, json, write_whole};
use crate::trees::{self, map_text};
use berth_sys::process::{self, Cloned};
use berth_sys::{fs as sys_fs, oci, socket};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub bundle: PathBuf,
    pub pid_file: Option<PathBuf>,
    pub console_socket: Option<PathBuf>,
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub preserve_fds: u32,
    /// This process stays, and feeds the terminal itself.
    pub foreground: bool,
}

/// A container whose first process waits for `start`.
pub struct Created {
    pub home: Home,
    pub record: Record,
    pub pidfd: OwnedFd,
    /// The master of its terminal, for `run` in the foreground.
    pub master: Option<OwnedFd>,
}

pub fn create(context: &Context, id: &str, request: &Request) -> Result<Created, Error> {
    let home = Home::of(&context.root, id)?;
    let act = format!("finding the bundle {}", request.bundle.display());
    let bundle = fs::canonicalize(&request.bundle).map_err(Error::io(act))?;
    let file = bundle.join("config.json");
    let config: Config = config::read(&file)?;
    let mut warnings = Vec::new();
    let mut plan = plan::plan(&config, &bundle, id, context.systemd_cgroup, &mut warnings)?;
    let act = format!("root.path: finding {}", plan.rootfs.display());
    plan.rootfs = fs::canonicalize(&plan.rootfs).map_err(Error::io(act))?;
    // Before anything is opened that stays open, which could get the number of a descriptor that the caller has not given.
    let preserve = preserved(request.preserve_fds, &mut plan.process.env)?;
    let (console, ours) = console(&plan.process, request)?;
    let lock = home.make()?;
    let mut draft = Draft { home: &home, group: None, unit: None, child: None, plan: &plan, record: None };
    // The group may be somebody's who had processes in it before.
    let earlier = Group::find(&plan.cgroup).map_or(0, |group| group.oom_kills());
    let kept = Group::find(&plan.cgroup)
        .and_then(|group| group.expect_unused())
        .and_then(|()| home.put("config.json", &fs::read(&file).map_err(Error::io("reading config.json"))?));
    let made = kept.and_then(|()| {
        let record = Record {
            oci_version: OCI_VERSION.into(),
            id: id.into(),
            bundle,
            rootfs: plan.rootfs.clone(),
            created: jiff::Timestamp::now().to_string(),
            annotations: config.annotations.clone(),
            cgroup: plan.cgroup.clone(),
            unit: plan.scope.as_ref().map(|scope| scope.unit.clone()),
            no_new_keyring: request.no_new_keyring,
            ..Record::default()
        };
        let keyring = record.keyring();
        let streams = |report| Streams { report, console, preserve, keyring };
        make(context, &config, &mut draft, record, !request.no_pivot, streams, &mut warnings)
    });
    let made = made.map_err(|e| no_room(draft.group.as_ref(), earlier, &config, e));
    let finished = made.and_then(|(record, pidfd)| {
        if let Some(path) = &request.pid_file {
            let act = format!("--pid-file: writing {}", path.display());
            write_whole(path, record.pid.to_string().as_bytes()).map_err(Error::io(act))?;
        }
        let master = ours.map(receive_master).transpose()?;
        Ok((record, pidfd, master))
    });
    for warning in &warnings {
        context.log.warning(warning);
    }
    match finished {
        Ok((record, pidfd, master)) => {
            drop(lock);
            Ok(Created { home, record, pidfd, master })
        }
        Err(e) => {
            draft.undo(context);
            Err(e)
        }
    }
}

/// An error of a process that the kernel ended for want of memory says little of that.
fn no_room(group: Option<&Group>, earlier: u64, config: &Config, error: Error) -> Error {
    let limit = config.linux.resources.memory.limit.filter(|limit| *limit > 0);
    match limit.filter(|_| group.is_some_and(|g| g.oom_kills() > earlier)) {
        Some(limit) => Error::field(
            "linux.resources.memory.limit",
            format!("the container's process cannot live within {limit} bytes: the kernel has ended it"),
        ),
        None => error,
    }
}

/// What is there of a container that is not whole yet.
struct Draft<'a> {
    home: &'a Home,
    plan: &'a Plan,
    /// Ours to remove.
    group: Option<Group>,
    /// The unit that it is; one of that name that systemd has not made for this container is somebody's.
    unit: Option<&'a str>,
    child: Option<(u32, OwnedFd)>,
    /// Hooks were run: those of the end are to be run, too.
    record: Option<Record>,
}

impl Draft<'_> {
    /// As if it had never been. What cannot be undone is said, and `delete --force` tries again.
    fn undo(self, context: &Context) {
        if let Some((pid, pidfd)) = self.child {
            let _ = process::pidfd_send_signal(pidfd.as_fd(), 9);
            let _ = process::reap(Some(pid), true);
        }
        if let Some(Err(e)) = self.group.map(|g| g.remove(self.unit)) {
            context.log.warning(&e.to_string());
            return;
        }
        if let Some(record) = self.record {
            let state = json(&record, Status::Stopped);
            for e in hooks::run_all("poststop", &self.plan.hooks.poststop, &state, Some(&record.bundle)) {
                context.log.warning(&e.to_string());
            }
        }
        if let Err(e) = self.home.remove() {
            context.log.warning(&e.to_string());
        }
    }
}

/// The terminal's way out: where the child sends it, and where `run` in the foreground gets it from.
fn console(plan: &plan::ProcessPlan, request: &Request) -> Result<(Option<OwnedFd>, Option<OwnedFd>), Error> {
    match (&request.console_socket, plan.terminal, request.foreground) {
        (Some(path), true, _) => Ok((Some(connect_console(path)?), None)),
        (Some(_), false, _) => {
            Err(Error::field("--console-socket", "process.terminal is false: there is no terminal to send"))
        }
        (None, true, false) => {
            Err(Error::field("process.terminal", "a terminal needs --console-socket when berth-runtime does not stay"))
        }
        (None, true, true) => {
            let (ours, theirs) = socket::seqpacket_pair().map_err(Error::io("making a socket for the terminal"))?;
            Ok((Some(theirs), Some(ours)))
        }
        (None, false, _) => Ok((None, None)),
    }
}

pub fn connect_console(path: &Path) -> Result<OwnedFd, Error> {
    let act = format!("--console-socket: connecting to {}", path.display());
    UnixStream::connect(path).map(OwnedFd::from).map_err(Error::io(act))
}

pub fn receive_master(from: OwnedFd) -> Result<OwnedFd, Error> {
    let mut fds = Vec::new();
    let act = "receiving the terminal";
    socket::receive(from.as_fd(), &mut [0; 64], &mut fds, true).map_err(Error::io(act))?;
    fds.pop().ok_or_else(|| Error::Child(format!("{act}: none came")))
}

/// How many descriptors behind the standard streams the program gets: those asked for, and systemd's (sd_listen_fds(3)).
pub fn preserved(asked: u32, env: &mut Vec<String>) -> Result<u32, Error> {
    let listening = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if listening > 0 {
        env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".into()]);
    }
    let all = asked.saturating_add(listening);
    if let Some(missing) = (3..3 + all.min(1024)).find(|fd| fs::metadata(format!("/proc/self/fd/{fd}")).is_err()) {
        return Err(Error::field("--preserve-fds", format!("descriptor {missing} is not open")));
    }
    if all > 1024 {
        return Err(Error::field("--preserve-fds", format!("{all} descriptors; at most 1024")));
    }
    Ok(all)
}

type Made = (Record, OwnedFd);

fn make(
    context: &Context,
    config: &Config,
    draft: &mut Draft<'_>,
    mut record: Record,
    pivot: bool,
    streams: impl FnOnce(OwnedFd) -> Streams,
    warnings: &mut Vec<String>,
) -> Result<Made, Error> {
    let plan = draft.plan;
    let group = Group::find(&plan.cgroup)?;
    let holder = match &plan.scope {
        Some(scope) => {
            let together =
                config.linux.resources.unified.get(cgroup::scope::OOM_GROUP).is_some_and(|v| v.trim() == "1");
            // Not on record before: whoever cleans up would stop what may be somebody's. A scope of ours goes with its holder.
            let taken = || (draft.group, draft.unit) = (Some(group.clone()), Some(&*scope.unit));
            let started = scope.start(&group, &record.id, together, taken)?;
            warnings.extend(started.warning);
            draft.home.save(&record)?;
            Some(started.holder)
        }
        None => {
            // Before anything is made: whoever cleans up knows where to look.
            draft.home.save(&record)?;
            draft.group = Some(group.clone());
            group.create().map(|()| None)?
        }
    };
    if group.is_frozen() {
        let message = format!("/{}: the cgroup is frozen, by one above it", group.path.display());
        return Err(Error::field("linux.cgroupsPath", message));
    }
    group.apply(&config.linux.resources, false, warnings)?;
    if let Some(scope) = &plan.scope {
        cgroup::scope::tell(&scope.unit, &group)?;
    }
    if let Some(uid) = plan.cgroup_owner {
        group.delegate(uid)?;
    }
    let listener = draft.home.listen()?;
    let trees = trees::open(plan, &group)?;
    let (ours, theirs) = socket::seqpacket_pair().map_err(Error::io("making the socket to the new process"))?;
    let user_namespace = plan.join.iter().find(|(kind, _)| *kind == NEWUSER).map(|(_, path)| open(path)).transpose()?;
    // With a user namespace to join, the child makes the others in that.
    let flags = if user_namespace.is_some() { 0 } else { plan.new & !(NEWCGROUP | NEWTIME) };
    let joined = Joined::enter(plan)?;
    let state = json(&record, Status::Creating);
    let cloned = process::clone3(flags, None).map_err(Error::io("making the container's namespaces (clone3)"))?;
    let Cloned::Parent(pid, pidfd) = cloned else {
        drop(ours);
        let streams = streams(theirs);
        init::run(init::Container { plan, trees, streams, listener, user_namespace, pivot, state })
    };
    draft.child = Some((pid, pidfd));
    // The child alone has them, so that they close with it.
    drop((theirs, listener, trees, streams));
    joined.leave()?;
    note(draft, &mut record)?;
    map(plan, pid)?;
    group.add(pid)?;
    drop(holder);
    go_on(&ours)?;
    if plan.is_born_twice() {
        draft.child = Some(successor(&ours, pid)?);
        note(draft, &mut record)?;
        go_on(&ours)?;
    }
    expect(&ours, init::MOUNTED)?;
    draft.record = Some(record.clone());
    let state = json(&record, Status::Creating);
    hooks::run("prestart", &plan.hooks.prestart, &state, Some(&record.bundle))?;
    hooks::run("createRuntime", &plan.hooks.create_runtime, &state, Some(&record.bundle))?;
    go_on(&ours)?;
    expect(&ours, init::READY)?;
    limit(&plan.process, record.pid)?;
    context.log.debug(&format!("container {} is made, process {}", record.id, record.pid));
    let kept = draft.child.as_ref().map(|(_, pidfd)| pidfd.try_clone());
    let kept = kept.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::NotFound)));
    Ok((record, kept.map_err(Error::io("duplicating a descriptor"))?))
}

/// Writes down who the first process is.
fn note(draft: &Draft<'_>, record: &mut Record) -> Result<(), Error> {
    record.pid = draft.child.as_ref().map_or(0, |(pid, _)| *pid);
    record.start_time = process::start_time(record.pid).map_err(Error::io("looking at the new process"))?;
    draft.home.save(record)
}

/// Who goes on in the place of the first child, which ends; a child of this process's, too.
fn successor(from: &OwnedFd, first: u32) -> Result<(u32, OwnedFd), Error> {
    let message = receive(from)?;
    let pid = match message.strip_prefix(init::BORN).map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) => u32::from_le_bytes(bytes),
        _ => return Err(said(&message)),
    };
    let pidfd = process::pidfd_open(pid).map_err(Error::io("opening the new process"))?;
    process::reap(Some(first), true).map_err(Error::io("waiting for the process that joined the user namespace"))?;
    Ok((pid, pidfd))
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let act = format!("linux.namespaces: opening {}", path.display());
    sys_fs::open(path, sys_fs::Open::RDONLY, 0).map_err(Error::io(act))
}

/// Namespaces that the new process is born in. This process comes back from them: hooks run in the runtime's.
struct Joined {
    own: Vec<(&'static str, OwnedFd, u64)>,
}

impl Joined {
    fn enter(plan: &Plan) -> Result<Self, Error> {
        let mut joined = Joined { own: Vec::new() };
        let remember = |joined: &mut Joined, kind: u64| -> Result<(), Error> {
            let found = plan::NAMESPACES.iter().find(|(.., k)| *k == kind);
            let Some((name, file, _)) = found else { return Ok(()) };
            joined.own.push((name, open(&PathBuf::from(format!("/proc/self/ns/{file}")))?, kind));
            Ok(())
        };
        for (kind, path) in plan.join.iter().filter(|(kind, _)| *kind != NEWUSER) {
            let target = open(path)?;
            remember(&mut joined, *kind)?;
            let name = joined.own.last().map_or("?", |(name, ..)| *name);
            let field = format!("linux.namespaces[{name}]: joining {}", path.display());
            process::setns(target.as_fd(), *kind).map_err(Error::io(field))?;
        }
        if plan.new & NEWTIME != 0 {
            remember(&mut joined, NEWTIME)?;
            process::unshare(NEWTIME).map_err(Error::io("linux.namespaces[time]: making it"))?;
            let offsets: String = plan.time_offsets.iter().map(|(c, s, n)| format!("{c} {s} {n}\n")).collect();
            if !offsets.is_empty() {
                let act = "linux.timeOffsets: writing /proc/self/timens_offsets";
                fs::write("/proc/self/timens_offsets", offsets).map_err(Error::io(act))?;
            }
        }
        Ok(joined)
    }

    fn leave(self) -> Result<(), Error> {
        for (name, own, kind) in self.own.into_iter().rev() {
            process::setns(own.as_fd(), kind).map_err(Error::io(format!("coming back from the {name} namespace")))?;
        }
        Ok(())
    }
}

fn map(plan: &Plan, pid: u32) -> Result<(), Error> {
    if plan.new & NEWUSER != 0 {
        for (field, file, map) in [("uidMappings", "uid_map", &plan.uid_map), ("gidMappings", "gid_map", &plan.gid_map)]
        {
            let written = fs::write(format!("/proc/{pid}/{file}"), map_text(map));
            written.map_err(Error::io(format!("linux.{field}: writing /proc/{pid}/{file}")))?;
        }
    }
    Ok(())
}

/// What only the host's root may set: limits, the OOM score.
pub fn limit(plan: &plan::ProcessPlan, pid: u32) -> Result<(), Error> {
    if let Some(score) = plan.oom_score_adj {
        let file = format!("/proc/{pid}/oom_score_adj");
        let now = fs::read_to_string(&file).unwrap_or_default();
        if now.trim() != score.to_string() {
            let written = fs::write(&file, score.to_string());
            written.map_err(Error::io(format!("process.oomScoreAdj: writing {score} to {file}")))?;
        }
    }
    for (resource, soft, hard) in &plan.rlimits {
        let name = process::RESOURCES.iter().find(|(_, n)| n == resource).map_or("?", |(name, _)| *name);
        let act = format!("process.rlimits: setting RLIMIT_{} to {soft}:{hard}", name.to_ascii_uppercase());
        oci::set_limit_of(pid, *resource, *soft, *hard).map_err(Error::io(act))?;
    }
    Ok(())
}

pub fn go_on(to: &OwnedFd) -> Result<(), Error> {
    match init::send(to.as_fd(), init::GO) {
        // It has ended, and said why.
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
        other => other.map_err(Error::io("telling the new process to go on")),
    }
}

/// Waits for a message of the new process.
pub fn expect(from: &OwnedFd, wanted: &[u8]) -> Result<(), Error> {
    let message = receive(from)?;
    if message == wanted { Ok(()) } else { Err(said(&message)) }
}

fn receive(from: &OwnedFd) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; init::MESSAGE];
    match socket::receive(from.as_fd(), &mut buffer, &mut Vec::new(), true) {
        Ok(n) => Ok(buffer[..n].to_vec()),
        Err(e) => Err(Error::Child(format!("waiting for the new process: {}", plain(&e)))),
    }
}

/// What a message says that is not the one that was waited for.
fn said(message: &[u8]) -> Error {
    match message {
        [b'E', words @ ..] => Error::Child(String::from_utf8_lossy(words).into_owned()),
        _ => Error::Child("the new process ended before it was ready".into()),
    }
}

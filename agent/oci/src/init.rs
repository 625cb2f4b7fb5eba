//! What the new process does between its birth and its execve. Every step takes something away; the parent is told which one failed.

use crate::config::Hooks;
use crate::console;
use crate::error::plain;
use crate::hooks;
use crate::plan::{NEWCGROUP, NEWTIME, NEWUSER, Plan, ProcessPlan};
use crate::rootfs::{self, Failure};
use crate::state::Status;
use crate::tree;
use crate::trees::Trees;
use berth_sys::fs::{self, Kind, Open, Resolve};
use berth_sys::process::{self, Cloned, Poll};
use berth_sys::{cap, oci, socket, wall};
use serde_json::Value;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::exit;

const SIGKILL: i32 = 9;

// What is said on the socket between the two; a failure is `E` and its words.
pub const GO: &[u8] = b"g";
pub const MOUNTED: &[u8] = b"m";
pub const READY: &[u8] = b"r";
/// With the pid of who goes on in the sender's place, four bytes.
pub const BORN: &[u8] = b"b";
pub const START: &[u8] = b"start";
pub const STARTED: &[u8] = b"ok";
/// Bytes of a message.
pub const MESSAGE: usize = 8 << 10;

/// What a new process needs beside its plan.
pub struct Streams {
    pub report: OwnedFd,
    /// Where the terminal goes.
    pub console: Option<OwnedFd>,
    /// Descriptors behind the standard streams that the program is to have.
    pub preserve: u32,
    /// Name of a session keyring of its own.
    pub keyring: Option<CString>,
}

pub struct Container<'a> {
    pub plan: &'a Plan,
    pub trees: Trees,
    pub streams: Streams,
    pub listener: OwnedFd,
    /// A user namespace to join.
    pub user_namespace: Option<OwnedFd>,
    pub pivot: bool,
    /// For the hooks that this process runs.
    pub state: Value,
}

/// The first process of a container. Never returns.
pub fn run(mut container: Container<'_>) -> ! {
    let failure = match build(&mut container) {
        Ok(program) => {
            let Container { plan, streams, listener, state, .. } = container;
            wait_and_become(plan, streams, listener, &state, &program)
        }
        Err(failure) => failure,
    };
    give_up(container.streams.report.as_fd(), &words(&failure))
}

fn words((act, error): &Failure) -> String {
    if act.is_empty() { plain(error) } else { format!("{act}: {}", plain(error)) }
}

fn give_up(to: BorrowedFd<'_>, message: &str) -> ! {
    let _ = send(to, &[b"E", message.as_bytes()].concat());
    exit(1)
}

pub fn send(to: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    let end = message.len().min(MESSAGE);
    socket::send(to, &[IoSlice::new(&message[..end])], &[], true)
}

/// Waits until the parent says `go on`.
fn wait_for_parent(report: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut buffer = [0; 16];
    match socket::receive(report, &mut buffer, &mut Vec::new(), true) {
        Ok(n) if &buffer[..n] == GO => Ok(()),
        // It is gone, and nobody wants this process any more.
        Ok(_) => exit(1),
        Err(e) => Err(("waiting for the parent".into(), e)),
    }
}

fn act<T>(words: impl Into<String>, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|e| (words.into(), e))
}

/// What is executed.
struct Program {
    path: CString,
    /// HOME, when the environment does not say it.
    home: Option<String>,
}

/// Until all is ready for the program.
fn build(container: &mut Container<'_>) -> Result<Program, Failure> {
    let plan = container.plan;
    let report = container.streams.report.as_fd();
    begin()?;
    if let Some(namespace) = &container.user_namespace {
        let new = plan.new & !(NEWCGROUP | NEWTIME);
        if plan.is_born_twice() {
            be_born_in(namespace.as_fd(), new, report)?;
        } else {
            act("joining the user namespace", process::setns(namespace.as_fd(), NEWUSER))?;
            act("making namespaces", process::unshare(new))?;
        }
    }
    // As it sees itself.
    container.state["pid"] = std::process::id().into();
    wait_for_parent(report)?;
    if plan.has_user_namespace() {
        act("becoming root of the user namespace", process::set_user(0, 0, &[]))?;
        act("hiding the new process", hide())?;
        // Which the change of credentials has cleared.
        act("binding its life to the parent", process::set_parent_death_signal(SIGKILL))?;
    }
    if plan.new & NEWCGROUP != 0 {
        act("making the cgroup namespace", process::unshare(NEWCGROUP))?;
    }
    rootfs::build(plan, &mut container.trees)?;
    act("telling the parent", send(report, MOUNTED))?;
    wait_for_parent(report)?;
    let run = |kind, list: &[_]| {
        hooks::run(kind, list, &container.state, None).map_err(|e| (String::new(), io::Error::other(e.to_string())))
    };
    run("createContainer", &plan.hooks.create_container)?;
    let root = container.trees.root.as_fd();
    rootfs::enter(plan, root, container.pivot)?;
    names(plan, root)?;
    prepare(&plan.process, root, &container.streams, true)?;
    rootfs::read_only(root, &plan.read_only)?;
    rootfs::mask(root, &plan.masked, &plan.mount_label)?;
    if plan.read_only_root {
        use berth_sys::mount::{AttrChange, MountAttr, mount_setattr};
        let change = AttrChange { set: MountAttr::RDONLY, ..AttrChange::default() };
        act("making the root read-only", mount_setattr(root, change))?;
    }
    if let Some(domain) = plan.personality {
        act("setting linux.personality", oci::set_personality(domain))?;
    }
    let program = Program { path: look_up(&plan.process)?, home: home(&plan.process, root) };
    act("freeing its life from the parent", process::set_parent_death_signal(0))?;
    Ok(program)
}

/// As runc: the home of the user by the container's passwd(5), which is what programs take for `~`.
fn home(plan: &ProcessPlan, root: BorrowedFd<'_>) -> Option<String> {
    if plan.env.iter().any(|e| e.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        return None;
    }
    const MAX: u64 = 1 << 20;
    let mut text = Vec::new();
    let resolve = Resolve::IN_ROOT | Resolve::NO_MAGICLINKS;
    // It may be anything: without waiting for a fifo's writer, and without taking a device's bytes.
    if let Ok(file) = fs::openat2(root, "etc/passwd", Open::RDONLY | Open::NONBLOCK, 0, resolve)
        && fs::fstat(file.as_fd()).is_ok_and(|s| s.kind == Kind::Regular)
        && File::from(file).take(MAX).read_to_end(&mut text).is_err()
    {
        text.clear();
    }
    Some(berth_runtime::home(plan.uid, &text)).filter(|home| !home.contains('\0'))
}

/// Joins the user namespace, and returns in a child of the runtime's whose other namespaces belong to it: a namespace is its maker's, and
/// one for processes is entered by birth alone. This process is in the container's group by then, tells the runtime its successor, and ends.
fn be_born_in(user: BorrowedFd<'_>, namespaces: u64, report: BorrowedFd<'_>) -> Result<(), Failure> {
    const PARENT: u64 = 0x8000;
    wait_for_parent(report)?;
    act("joining the user namespace", process::setns(user, NEWUSER))?;
    match act("making the container's namespaces (clone3)", process::clone3(namespaces | PARENT, None))? {
        // What a birth does not hand on.
        Cloned::Child => begin(),
        Cloned::Parent(pid, _) => exit(send(report, &[BORN, &pid.to_le_bytes()[..]].concat()).is_err().into()),
    }
}

/// Nobody in a container looks into this process, or traces it, until its execve (CVE-2016-9962).
pub fn hide() -> io::Result<()> {
    if wall::is_down("dumpable") { Ok(()) } else { process::set_undumpable() }
}

/// A session of its own, closed to others until the execve.
fn begin() -> Result<(), Failure> {
    act("hiding the new process", hide())?;
    act("binding its life to the parent", process::set_parent_death_signal(SIGKILL))?;
    // `run` in the foreground has blocked them.
    act("unblocking signals", process::unblock_signals())?;
    act("making a session", process::setsid())
}

fn names(plan: &Plan, root: BorrowedFd<'_>) -> Result<(), Failure> {
    if let Some(name) = &plan.hostname {
        act(format!("setting the host name {name}"), process::set_hostname(name.as_bytes()))?;
    }
    if let Some(name) = &plan.domainname {
        act(format!("setting the domain name {name}"), process::set_domainname(name.as_bytes()))?;
    }
    for (path, value) in &plan.sysctls {
        act(format!("linux.sysctl: writing {value} to {path}"), rootfs::sysctl(root, path, value))?;
    }
    Ok(())
}

/// Keyring, terminal, working folder. `container`: it is the first process, whose working folder is made when it is missing.
fn prepare(plan: &ProcessPlan, root: BorrowedFd<'_>, streams: &Streams, container: bool) -> Result<(), Failure> {
    if let Some(name) = &streams.keyring {
        // As runc: what the container's processes may do with the keyring is what they may do with themselves.
        label_keys(plan.selinux_label())?;
        match oci::new_session_keyring(name) {
            Err(e) if e.raw_os_error() == Some(ENOSYS) => {}
            other => act("making a session keyring", other)?,
        }
        label_keys(plan.selinux_label().map(|_| ""))?;
    }
    if plan.terminal {
        let socket = streams.console.as_ref().map(AsFd::as_fd);
        act("making the terminal", console::make(root, socket, plan.console_size, container))?;
    }
    act("opening the container's /dev/null", berth_sys::null::reopen())?;
    // So that /dev/stdout can be opened by its user, which the kernel checks against the pipe's owner.
    for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        if plan.uid != 0 && matches!(fs::fstat(stream), Ok(s) if s.kind == Kind::Fifo || s.rdev_major == PTS_MAJOR) {
            // A stream that another user namespace made stays whose it is.
            let _ = std::os::unix::fs::fchown(stream, Some(plan.uid), None);
        }
    }
    // Never chdir(2): /proc/self/fd/N, or a link of the image to it, is one of the host's folders that are open here (CVE-2024-21626).
    let folder = if container { tree::target(root, &plan.cwd, true) } else { tree::there(root, &plan.cwd) };
    let entered = folder.and_then(|folder| process::fchdir(folder.as_fd()));
    act(format!("process.cwd: going to {}", plan.cwd), entered)
}

/// Keyrings that are made from here on have this label; empty: as the policy says. A kernel without them has no such file.
fn label_keys(label: Option<&str>) -> Result<(), Failure> {
    let Some(label) = label else { return Ok(()) };
    match rootfs::label("keycreate", label) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => act(format!("writing {label:?} to /proc/self/attr/keycreate"), other),
    }
}

/// The program as execvp(3) finds it, or why not in words that callers of runc know.
fn look_up(plan: &ProcessPlan) -> Result<CString, Failure> {
    let name = &plan.args[0];
    let fail = |e: io::Error| (format!("exec: {name:?}"), e);
    let check = |path: &str| -> io::Result<CString> {
        let text = CString::new(path).map_err(|_| io::Error::from_raw_os_error(EINVAL))?;
        oci::may_execute(&text)?;
        if std::fs::metadata(path)?.is_dir() { Err(io::Error::from_raw_os_error(EACCES)) } else { Ok(text) }
    };
    if name.contains('/') {
        return check(name).map_err(fail);
    }
    let path = plan.env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let mut refused = None;
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        match check(&format!("{folder}/{name}")) {
            Ok(found) => return Ok(found),
            // A file that may not be executed does not hide one further on that may.
            Err(e) if e.raw_os_error() == Some(EACCES) => refused = Some(e),
            Err(_) => {}
        }
    }
    Err(fail(refused.unwrap_or_else(|| io::Error::other("executable file not found in $PATH"))))
}

/// Waits for `start`, and becomes the program. Returns when the parent cannot be told that all is ready.
fn wait_and_become(plan: &Plan, streams: Streams, listener: OwnedFd, state: &Value, program: &Program) -> ! {
    // Folders of the host are open here, and the command comes from a caller or an image: their owners never run again.
    let closed = oci::close_all_from(3 + streams.preserve, &[streams.report.as_fd(), listener.as_fd()]);
    let ready = act("closing descriptors", closed)
        .and_then(|()| act("telling the parent", send(streams.report.as_fd(), READY)));
    if let Err(failure) = ready {
        give_up(streams.report.as_fd(), &words(&failure));
    }
    let Streams { report, preserve, .. } = streams;
    drop(report);
    let Ok(caller) = wait_for_start(listener.as_fd()) else { exit(1) };
    // The hooks' programs are the container's files: they get no more rights than its process.
    let ready = restrict(&plan.process).and_then(|()| start_hooks(&plan.hooks, state)).and_then(|()| hand_on(preserve));
    let failure = match ready {
        Ok(()) => exec(&plan.process, program),
        Err(failure) => failure,
    };
    give_up(caller.as_fd(), &words(&failure))
}

fn start_hooks(hooks: &Hooks, state: &Value) -> Result<(), Failure> {
    let mut state = state.clone();
    state["status"] = Status::Created.name().into();
    let done = hooks::run("startContainer", &hooks.start_container, &state, None);
    done.map_err(|e| (String::new(), io::Error::other(e.to_string())))
}

/// The connection of the one who says `start`; those who only look whether somebody listens say nothing.
fn wait_for_start(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    loop {
        process::poll(&mut [Poll::new(listener, true, false)], -1)?;
        let Ok(connection) = socket::accept(listener) else { continue };
        process::poll(&mut [Poll::new(connection.as_fd(), true, false)], -1)?;
        let mut buffer = [0; 16];
        match socket::receive(connection.as_fd(), &mut buffer, &mut Vec::new(), false) {
            Ok(n) if &buffer[..n] == START => {
                // Who asked may be gone: it has asked.
                let _ = send(connection.as_fd(), STARTED);
                return Ok(connection);
            }
            _ => {}
        }
    }
}

/// The last step: what the program is to find as it was left. Hooks get no descriptors.
fn hand_on(preserve: u32) -> Result<(), Failure> {
    for fd in 3..3 + preserve {
        let kept = oci::take_inherited(fd as i32).and_then(oci::keep_through_exec);
        act(format!("handing on descriptor {fd}"), kept)?;
    }
    act("resetting signals", process::reset_signals())
}

/// What may be done from here on, and as whom.
fn restrict(plan: &ProcessPlan) -> Result<(), Failure> {
    for (file, content) in &plan.labels {
        act(format!("writing /proc/self/attr/{file}"), rootfs::label(file, content))?;
    }
    let load = || match &plan.seccomp {
        Some(seccomp) => act("loading linux.seccomp", berth_sys::seccomp::load_with(&seccomp.program, seccomp.flags)),
        None => Ok(()),
    };
    // Without no_new_privs a program can only be loaded with CAP_SYS_ADMIN: before the credentials. With it, as late as possible.
    if !plan.no_new_privileges {
        load()?;
    }
    let sets = plan.capabilities;
    act("limiting the bounding set", cap::limit_bounding(sets.bounding))?;
    act("keeping capabilities", process::keep_capabilities())?;
    act(format!("becoming user {}:{}", plan.uid, plan.gid), process::set_user(plan.uid, plan.gid, &plan.groups))?;
    process::set_umask(plan.umask);
    let set = oci::set_capabilities(sets.effective, sets.permitted, sets.inheritable);
    act("setting capabilities", set.and_then(|()| oci::set_ambient(sets.ambient)))?;
    if plan.no_new_privileges {
        act("setting no_new_privs", process::set_no_new_privileges())?;
        load()?;
    }
    Ok(())
}

fn exec(plan: &ProcessPlan, program: &Program) -> Failure {
    wall::pause("pause-joining");
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let mut env = plan.env.clone();
    if let Some(home) = &program.home {
        // An empty one counts as none.
        env.retain(|e| e != "HOME=");
        env.push(format!("HOME={home}"));
    }
    let (Ok(args), Ok(env)) = (strings(&plan.args), strings(&env)) else {
        return ("process.args".into(), io::Error::from_raw_os_error(EINVAL));
    };
    let args: Vec<&CStr> = args.iter().map(|s| &**s).collect();
    let env: Vec<&CStr> = env.iter().map(|s| &**s).collect();
    let error = process::execve(&program.path, &args, &env);
    (format!("exec {}", program.path.to_string_lossy()), error)
}

/// One more process in a container whose namespaces are behind a pidfd; `kinds`: those to join here. Never returns.
pub fn run_exec(plan: &ProcessPlan, streams: Streams, process_one: &OwnedFd, kinds: u64) -> ! {
    let failure = match enter(plan, &streams, process_one, kinds) {
        Ok(program) => match limited(&streams).and_then(|()| restrict(plan)).and_then(|()| hand_on(streams.preserve)) {
            Ok(()) => exec(plan, &program),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    give_up(streams.report.as_fd(), &words(&failure))
}

/// Has the parent set the limits. The report closes with the execve, which is how the parent knows of it.
fn limited(streams: &Streams) -> Result<(), Failure> {
    act("closing descriptors", oci::close_all_from(3 + streams.preserve, &[streams.report.as_fd()]))?;
    act("telling the parent", send(streams.report.as_fd(), READY))?;
    wait_for_parent(streams.report.as_fd())
}

fn enter(plan: &ProcessPlan, streams: &Streams, process_one: &OwnedFd, kinds: u64) -> Result<Program, Failure> {
    begin()?;
    wait_for_parent(streams.report.as_fd())?;
    act("joining the container's namespaces", process::setns(process_one.as_fd(), kinds))?;
    if kinds & NEWUSER != 0 {
        act("becoming root of the user namespace", process::set_user(0, 0, &[]))?;
        act("hiding the new process", hide())?;
    }
    let root = act("opening the root", fs::open("/", Open::PATH | Open::DIRECTORY, 0))?;
    prepare(plan, root.as_fd(), streams, false)?;
    let program = Program { path: look_up(plan)?, home: home(plan, root.as_fd()) };
    act("freeing its life from the parent", process::set_parent_death_signal(0))?;
    Ok(program)
}

/// Terminals of devpts (Documentation/admin-guide/devices.txt).
const PTS_MAJOR: u32 = 136;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

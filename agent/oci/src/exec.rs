//! One more process in a container.

use crate::Context;
use crate::cgroup::Group;
use crate::config::{self, Config, Process};
use crate::create::{connect_console, expect, go_on, limit, preserved, receive_master};
use crate::error::Error;
use crate::init::{self, Streams};
use crate::plan::{self, NAMESPACES, NEWPID, NEWTIME};
use crate::state::{Home, Record, Status, status, write_whole};
use berth_sys::process::{self, Cloned};
use berth_sys::{fs as sys_fs, socket};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub process: Option<PathBuf>,
    pub args: Vec<String>,
    pub terminal: bool,
    pub user: Option<String>,
    pub groups: Vec<u32>,
    pub cwd: Option<String>,
    pub env: Vec<String>,
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub apparmor: Option<String>,
    pub process_label: Option<String>,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: u32,
    pub detach: bool,
    pub ignore_paused: bool,
}

pub struct Started {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub master: Option<OwnedFd>,
}

pub fn exec(context: &Context, id: &str, request: &Request) -> Result<Started, Error> {
    let home = Home::of(&context.root, id)?;
    let record = home.record()?;
    match status(&home, &record)? {
        Status::Running | Status::Created => {}
        Status::Paused if request.ignore_paused => {}
        other => return Err(Error::State(format!("cannot exec in a {} container", other.name()))),
    }
    let config: Config = config::read(&home.path.join("config.json"))?;
    let given = given(&config, request)?;
    let mut warnings = Vec::new();
    let mut plan = plan::process(&given, config.linux.seccomp.as_ref(), &mut warnings)?;
    // Before anything is opened that stays open.
    let preserve = preserved(request.preserve_fds, &mut plan.env)?;
    let (console, ours) = match (&request.console_socket, plan.terminal) {
        (Some(path), true) => (Some(connect_console(path)?), None),
        (Some(_), false) => return Err(Error::field("--console-socket", "there is no terminal to send")),
        (None, true) if request.detach => {
            return Err(Error::field("--detach", "a terminal needs --console-socket when berth-runtime does not stay"));
        }
        (None, true) => {
            let (ours, theirs) = socket::seqpacket_pair().map_err(Error::io("making a socket for the terminal"))?;
            (Some(theirs), Some(ours))
        }
        (None, false) => (None, None),
    };
    let streams = |report| Streams { report, console, preserve, keyring: record.keyring() };
    let (pid, pidfd) = make(&record, &plan, streams)?;
    for warning in &warnings {
        context.log.warning(warning);
    }
    if let Some(path) = &request.pid_file {
        let act = format!("--pid-file: writing {}", path.display());
        write_whole(path, pid.to_string().as_bytes()).map_err(Error::io(act))?;
    }
    Ok(Started { pid, pidfd, master: ours.map(receive_master).transpose()? })
}

/// The file's process, or the container's with what the command line says.
fn given(config: &Config, request: &Request) -> Result<Process, Error> {
    if let Some(path) = &request.process {
        let mut process: Process = config::read(path)?;
        process.terminal |= request.terminal;
        return Ok(process);
    }
    let mut process = config.process.clone().unwrap_or_default();
    process.args.clone_from(&request.args);
    process.terminal = request.terminal;
    process.console_size = None;
    process.env.extend(request.env.iter().cloned());
    if let Some(cwd) = &request.cwd {
        process.cwd.clone_from(cwd);
    }
    process.no_new_privileges |= request.no_new_privileges;
    if request.apparmor.is_some() {
        process.apparmor_profile.clone_from(&request.apparmor);
    }
    if request.process_label.is_some() {
        process.selinux_label.clone_from(&request.process_label);
    }
    if let Some(user) = &request.user {
        let bad = || Error::field("--user", format!("{user:?} is not UID or UID:GID"));
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(u, g)| (u, Some(g)));
        process.user.uid = uid.parse().map_err(|_| bad())?;
        process.user.gid = gid.map_or(Ok(process.user.gid), |g| g.parse().map_err(|_| bad()))?;
    }
    process.user.additional_gids.extend(&request.groups);
    let sets = process.capabilities.get_or_insert_default();
    for name in &request.capabilities {
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.clone());
        }
    }
    Ok(process)
}

fn make(
    record: &Record,
    plan: &plan::ProcessPlan,
    streams: impl FnOnce(OwnedFd) -> Streams,
) -> Result<(u32, OwnedFd), Error> {
    let ended = || Error::State(format!("container {} has ended", record.id));
    let one = process::pidfd_open(record.pid).map_err(|_| ended())?;
    let kinds = foreign(record.pid).map_err(|_| ended())?;
    // Behind both: the number was not given to another process meanwhile.
    if process::start_time(record.pid).ok() != Some(record.start_time) {
        return Err(ended());
    }
    let (ours, theirs) = socket::seqpacket_pair().map_err(Error::io("making the socket to the new process"))?;
    // Namespaces that count for children alone.
    let born = kinds & (NEWPID | NEWTIME);
    let own =
        sys_fs::open("/proc/self/ns/pid", sys_fs::Open::RDONLY, 0).map_err(Error::io("opening /proc/self/ns/pid"))?;
    if born != 0 {
        process::setns(one.as_fd(), born).map_err(Error::io("joining the container's pid namespace"))?;
    }
    let cloned = process::clone3(0, None).map_err(Error::io("making the new process"))?;
    let Cloned::Parent(pid, pidfd) = cloned else {
        drop(ours);
        init::run_exec(plan, streams(theirs), &one, kinds & !born)
    };
    drop((theirs, streams));
    if born & NEWPID != 0 {
        process::setns(own.as_fd(), NEWPID).map_err(Error::io("coming back from the pid namespace"))?;
    }
    let done = join(record, pid).and_then(|()| {
        go_on(&ours)?;
        expect(&ours, init::READY)?;
        limit(plan, pid)?;
        go_on(&ours)?;
        // Its execve closes the socket.
        let mut buffer = vec![0; init::MESSAGE];
        match socket::receive(ours.as_fd(), &mut buffer, &mut Vec::new(), true) {
            Ok(0) => Ok(()),
            Ok(n) => Err(Error::Child(String::from_utf8_lossy(&buffer[1..n]).into_owned())),
            Err(e) => Err(Error::io("waiting for the new process")(e)),
        }
    });
    if let Err(e) = done {
        let _ = process::pidfd_send_signal(pidfd.as_fd(), 9);
        let _ = process::reap(Some(pid), true);
        return Err(e);
    }
    Ok((pid, pidfd))
}

/// Kinds of namespaces that the process does not share with this one.
fn foreign(pid: u32) -> std::io::Result<u64> {
    let mut kinds = 0;
    for (_, file, kind) in NAMESPACES {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{file}"));
        if let Ok(own) = of("self")
            && own != of(&pid.to_string())?
        {
            kinds |= kind;
        }
    }
    Ok(kinds)
}

/// Into the container's group. A container that has parted its v2 group has no place there: then beside its first process.
fn join(record: &Record, pid: u32) -> Result<(), Error> {
    let group = Group::find(&record.cgroup)?;
    let Err(refused) = group.add(pid) else { return Ok(()) };
    if !group.v2 {
        return Err(refused);
    }
    let text = fs::read_to_string(format!("/proc/{}/cgroup", record.pid)).unwrap_or_default();
    let path = text.lines().find_map(|l| l.strip_prefix("0::/")).ok_or(refused)?;
    Group::find(Path::new(path))?.add(pid)
}

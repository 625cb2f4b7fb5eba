//! What is done with a container that is made: start, kill, delete, pause, and looks at it.

use crate::Context;
use crate::cgroup::{Group, scope};
use crate::config::{self, Config};
use crate::error::Error;
use crate::hooks;
use crate::init;
use crate::state::{Home, Record, Status, json, status};
use berth_sys::{process, socket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

pub fn start(context: &Context, id: &str) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let _lock = home.lock(false)?;
    let record = home.record()?;
    match status(&home, &record)? {
        Status::Created => {}
        Status::Stopped => return Err(Error::State("cannot start a container that has stopped".into())),
        Status::Creating => return Err(Error::State("cannot start a container that is not made yet".into())),
        Status::Running => return Err(Error::State("cannot start an already running container".into())),
        Status::Paused => return Err(Error::State("cannot start a paused container: resume it first".into())),
    }
    let config: Config = config::read(&home.path.join("config.json"))?;
    let Some(connection) = home.connect()? else {
        return Err(Error::State("cannot start an already running container".into()));
    };
    init::send(connection.as_fd(), init::START).map_err(Error::io("telling the container to start"))?;
    let mut buffer = vec![0; init::MESSAGE];
    let mut receive = || socket::receive(connection.as_fd(), &mut buffer, &mut Vec::new(), true);
    match receive() {
        Ok(n) if n == init::STARTED.len() => {}
        _ => return Err(Error::State("the container ended before it was started".into())),
    }
    match receive() {
        // Its execve closes the connection.
        Ok(0) => {}
        Ok(n) => return Err(Error::Child(String::from_utf8_lossy(&buffer[1..n]).into_owned())),
        Err(e) if e.raw_os_error() == Some(ECONNRESET) => {}
        Err(e) => return Err(Error::io("waiting for the container's start")(e)),
    }
    let state = json(&record, Status::Running);
    hooks::run("poststart", &config.hooks.poststart, &state, Some(&record.bundle)).inspect_err(|_| {
        // "generate an error, stop the container" (runtime.md, "Lifecycle")
        let _ = signal(&record, SIGKILL);
    })
}

/// To exactly the first process: a pid that another has by now is left alone.
fn signal(record: &Record, number: i32) -> Result<(), Error> {
    let ended = || Error::State("container not running".into());
    let pidfd = process::pidfd_open(record.pid).map_err(|_| ended())?;
    if process::start_time(record.pid).ok() != Some(record.start_time) {
        return Err(ended());
    }
    process::pidfd_send_signal(pidfd.as_fd(), number).map_err(Error::io(format!("sending signal {number}")))
}

pub fn kill(context: &Context, id: &str, number: i32, all: bool) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let record = home.record()?;
    let group = Group::find(&record.cgroup)?;
    if all {
        return group.signal_all(number);
    }
    match status(&home, &record)? {
        Status::Created | Status::Running | Status::Paused => {}
        Status::Creating | Status::Stopped => return Err(Error::State("container not running".into())),
    }
    signal(&record, number)?;
    if number == SIGKILL {
        // A frozen process of v1 does not die.
        group.thaw_if_frozen();
    }
    Ok(())
}

pub fn delete(context: &Context, id: &str, force: bool) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let lock = match home.lock(false) {
        Err(Error::State(_)) if force => return Ok(()),
        other => other?,
    };
    // Without a record, or without a process, a `create` has died: nobody else has the lock.
    let Some(record) = home.load()? else { return home.remove() };
    let group = Group::find(&record.cgroup)?;
    if record.pid != 0 {
        match status(&home, &record)? {
            Status::Stopped => {}
            other if !force => {
                return Err(Error::State(format!(
                    "cannot delete container {id} that is not stopped: {}",
                    other.name()
                )));
            }
            _ => end(&record, &group)?,
        }
        // Who shares a pid namespace outlives the first process.
        group.signal_all(SIGKILL)?;
    }
    group.remove(record.unit.as_deref())?;
    if let Ok(config) = config::read::<Config>(&home.path.join("config.json")) {
        let state = json(&record, Status::Stopped);
        // "MUST log a warning, but the remaining hooks and lifecycle continue as if the hook had succeeded."
        for e in hooks::run_all("poststop", &config.hooks.poststop, &state, Some(&record.bundle)) {
            context.log.warning(&e.to_string());
        }
    }
    home.remove()?;
    drop(lock);
    Ok(())
}

/// Kills the first process and waits for its end.
fn end(record: &Record, group: &Group) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(10);
    if signal(record, SIGKILL).is_err() {
        return Ok(());
    }
    group.thaw_if_frozen();
    let began = Instant::now();
    while crate::state::is_alive(record) {
        if began.elapsed() > PATIENCE {
            return Err(Error::State(format!("process {} does not end", record.pid)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Freezes or thaws.
pub fn pause(context: &Context, id: &str, frozen: bool) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let _lock = home.lock(false)?;
    let record = home.record()?;
    match (status(&home, &record)?, frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {
            Group::find(&record.cgroup)?.freeze(frozen)
        }
        (other, true) => Err(Error::State(format!("cannot pause a container that is {}", other.name()))),
        (other, false) => Err(Error::State(format!("cannot resume a container that is {}", other.name()))),
    }
}

pub fn update(context: &Context, id: &str, resources: &config::Resources) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let _lock = home.lock(false)?;
    let record = home.record()?;
    if status(&home, &record)? == Status::Stopped {
        return Err(Error::State("container not running".into()));
    }
    let mut warnings = Vec::new();
    let group = Group::find(&record.cgroup)?;
    if record.unit.is_some() {
        scope::check_update(&group, resources)?;
    }
    group.apply(resources, true, &mut warnings)?;
    if let Some(unit) = &record.unit {
        scope::tell(unit, &group)?;
    }
    for warning in warnings {
        context.log.warning(&warning);
    }
    Ok(())
}

/// A container with what it is doing; those that are on their way in or out are left out.
pub fn list(context: &Context) -> Result<Vec<(Record, Status)>, Error> {
    let entries = match std::fs::read_dir(&context.root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(format!("reading {}", context.root.display()))(e)),
    };
    let mut all = Vec::new();
    for entry in entries.flatten() {
        let Ok(home) = Home::of(&context.root, &entry.file_name().to_string_lossy()) else { continue };
        if let Ok(Some(record)) = home.load()
            && let Ok(status) = status(&home, &record)
        {
            all.push((record, status));
        }
    }
    all.sort_by(|a, b| a.0.id.cmp(&b.0.id));
    Ok(all)
}

/// Pids of a container's processes on the host.
pub fn processes(context: &Context, id: &str) -> Result<Vec<u32>, Error> {
    let record = Home::of(&context.root, id)?.record()?;
    Ok(Group::find(&record.cgroup)?.processes())
}

const ECONNRESET: i32 = 104;

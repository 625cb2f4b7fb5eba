//! One command after the other: from its options to what is printed.

use crate::cli::{Command, CreateOptions, ExecOptions, Format, UpdateOptions};
use crate::config::{self, Resources};
use crate::console;
use crate::create::{self, Request};
use crate::error::Error;
use crate::state::{Home, Status, json_with_more, status};
use crate::{Context, cgroup, exec, features, lifecycle};
use berth_sys::process::{self, BlockedSignals, Ended};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const SIGCHLD: i32 = 17;

/// These run a stranger's program.
pub fn makes_processes(command: &Command) -> bool {
    matches!(command, Command::Create { .. } | Command::Run { .. } | Command::Exec(_))
}

/// The exit code.
pub fn run(context: &Context, command: Command) -> Result<u8, Error> {
    match command {
        Command::Create { options, id } => create::create(context, &id, &request(options, false)).map(|_| 0),
        Command::Run { options, detach, keep, id } => run_container(context, &id, &request(options, !detach), keep),
        Command::Start { id } => lifecycle::start(context, &id).map(|()| 0),
        Command::State { id } => state(context, &id).map(|()| 0),
        Command::Kill { all, id, signal } => {
            // 0 is sent to nobody: whether it could be is the answer (kill(2)), as with runc.
            let number = Some(0)
                .filter(|_| signal == "0")
                .or_else(|| berth_runtime::signal::parse(&signal))
                .ok_or_else(|| Error::field("signal", format!("unknown signal {signal:?}")))?;
            lifecycle::kill(context, &id, number, all).map(|()| 0)
        }
        Command::Delete { force, id } => lifecycle::delete(context, &id, force).map(|()| 0),
        Command::Exec(options) => run_exec(context, *options),
        Command::Ps { format, id, options } => ps(context, &id, format, &options).map(|()| 0),
        Command::List { format, quiet } => list(context, format, quiet).map(|()| 0),
        Command::Pause { id } => lifecycle::pause(context, &id, true).map(|()| 0),
        Command::Resume { id } => lifecycle::pause(context, &id, false).map(|()| 0),
        Command::Update(options) => lifecycle::update(context, &options.id, &resources(&options)?).map(|()| 0),
        Command::Events { stats, interval, id } => events(context, &id, stats, interval).map(|()| 0),
        Command::Spec { bundle } => spec(&bundle).map(|()| 0),
        Command::Features => {
            println!("{:#}", features::features());
            Ok(0)
        }
    }
}

fn request(options: CreateOptions, foreground: bool) -> Request {
    Request {
        bundle: options.bundle,
        pid_file: options.pid_file,
        console_socket: options.console_socket,
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds: options.preserve_fds,
        foreground,
    }
}

fn run_container(context: &Context, id: &str, request: &Request, keep: bool) -> Result<u8, Error> {
    let signals = signals(request.foreground)?;
    let created = create::create(context, id, request)?;
    let started = lifecycle::start(context, id);
    if !request.foreground {
        return match started {
            Ok(()) => Ok(0),
            Err(e) => lifecycle::delete(context, id, true).and(Err(e)),
        };
    }
    let code = started.and_then(|()| wait(created.record.pid, &created.pidfd, created.master, &signals));
    if !keep {
        lifecycle::delete(context, &created.home.id, true)?;
    }
    code
}

fn run_exec(context: &Context, options: ExecOptions) -> Result<u8, Error> {
    let request = exec::Request {
        process: options.process,
        args: options.command,
        terminal: options.tty,
        user: options.user,
        groups: options.additional_gids,
        cwd: options.cwd,
        env: options.env,
        capabilities: options.cap,
        no_new_privileges: options.no_new_privs,
        apparmor: options.apparmor,
        process_label: options.process_label,
        console_socket: options.console_socket,
        pid_file: options.pid_file,
        preserve_fds: options.preserve_fds,
        detach: options.detach,
        ignore_paused: options.ignore_paused,
    };
    let signals = signals(!request.detach)?;
    let started = exec::exec(context, &options.id, &request)?;
    if request.detach {
        return Ok(0);
    }
    wait(started.pid, &started.pidfd, started.master, &signals)
}

/// Who stays takes every signal, to pass it on.
fn signals(stays: bool) -> Result<Option<BlockedSignals>, Error> {
    stays.then(BlockedSignals::block).transpose().map_err(Error::io("blocking signals"))
}

/// Until the child has ended, as a shell tells it: its code, or 128 and the signal's number.
fn wait(pid: u32, pidfd: &OwnedFd, master: Option<OwnedFd>, signals: &Option<BlockedSignals>) -> Result<u8, Error> {
    let ended = match (master, signals) {
        (Some(master), _) => {
            process::unblock_signals().map_err(Error::io("unblocking signals"))?;
            console::relay(&master, pid, pidfd.as_fd())?
        }
        (None, Some(signals)) => loop {
            let reaped = process::reap(Some(pid), false).map_err(Error::io("waiting for the process"))?;
            if let Some((_, ended)) = reaped {
                break ended;
            }
            match signals.wait() {
                Ok(SIGCHLD) | Err(_) => {}
                // Ended meanwhile is seen above.
                Ok(signal) => drop(process::pidfd_send_signal(pidfd.as_fd(), signal)),
            }
        },
        (None, None) => return Ok(0),
    };
    Ok(match ended {
        Ended::Code(code) => code as u8,
        Ended::Signal(signal) => 128 + signal as u8,
    })
}

fn state(context: &Context, id: &str) -> Result<(), Error> {
    let home = Home::of(&context.root, id)?;
    let record = home.record()?;
    println!("{:#}", json_with_more(&record, status(&home, &record)?));
    Ok(())
}

fn list(context: &Context, format: Format, quiet: bool) -> Result<(), Error> {
    let all = lifecycle::list(context)?;
    if quiet {
        all.iter().for_each(|(record, _)| println!("{}", record.id));
        return Ok(());
    }
    if format == Format::Json {
        let all: Vec<_> = all.iter().map(|(record, status)| json_with_more(record, *status)).collect();
        println!("{}", serde_json::Value::from(all));
        return Ok(());
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for (record, status) in &all {
        let pid = if *status == Status::Stopped { 0 } else { record.pid };
        let bundle = record.bundle.display().to_string();
        let status = status.name().to_owned();
        rows.push([record.id.clone(), pid.to_string(), status, bundle, record.created.clone(), "root".into()]);
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", line.join("   ").trim_end());
    }
    Ok(())
}

fn ps(context: &Context, id: &str, format: Format, options: &[String]) -> Result<(), Error> {
    let pids = lifecycle::processes(context, id)?;
    if format == Format::Json {
        println!("{}", serde_json::Value::from(pids));
        return Ok(());
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let out = std::process::Command::new("ps").args(options).output().map_err(Error::io("running ps"))?;
    if !out.status.success() {
        return Err(Error::Child(format!("ps: {}", String::from_utf8_lossy(&out.stderr).trim())));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let Some(column) = title.split_whitespace().position(|name| name == "PID") else {
        return Err(Error::field("ps", "its options leave out the column PID"));
    };
    println!("{title}");
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|p| p.parse().ok());
        pid.is_some_and(|pid: u32| pids.contains(&pid))
    };
    lines.filter(ours).for_each(|line| println!("{line}"));
    Ok(())
}

fn resources(options: &UpdateOptions) -> Result<Resources, Error> {
    let mut resources: Resources = match &options.resources {
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            let act = "reading the resources from standard input";
            std::io::stdin().take(1 << 20).read_to_string(&mut text).map_err(Error::io(act))?;
            config::parse("--resources", &text)?
        }
        Some(path) => config::read(path)?,
        None => Resources::default(),
    };
    let (memory, cpu) = (&mut resources.memory, &mut resources.cpu);
    memory.limit = options.memory.or(memory.limit);
    memory.swap = options.memory_swap.or(memory.swap);
    memory.reservation = options.memory_reservation.or(memory.reservation);
    cpu.shares = options.cpu_share.or(cpu.shares);
    cpu.quota = options.cpu_quota.or(cpu.quota);
    cpu.period = options.cpu_period.or(cpu.period);
    cpu.cpus = options.cpuset_cpus.clone().or(cpu.cpus.take());
    cpu.mems = options.cpuset_mems.clone().or(cpu.mems.take());
    resources.pids = options.pids_limit.map(|limit| config::Pids { limit }).or(resources.pids);
    resources.block_io.weight = options.blkio_weight.or(resources.block_io.weight);
    Ok(resources)
}

fn events(context: &Context, id: &str, once: bool, interval: u64) -> Result<(), Error> {
    loop {
        let home = Home::of(&context.root, id)?;
        let record = home.record()?;
        match status(&home, &record)? {
            Status::Stopped if once => return Err(Error::State("container not running".into())),
            Status::Stopped => return Ok(()),
            _ => {}
        }
        let data = cgroup::Group::find(&record.cgroup)?.stats();
        println!("{}", serde_json::json!({ "type": "stats", "id": id, "data": data }));
        if once {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(interval));
    }
}

fn spec(bundle: &Path) -> Result<(), Error> {
    let path = bundle.join("config.json");
    let act = format!("writing {}", path.display());
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(Error::io(act.as_str()))?;
    std::io::Write::write_all(&mut file, format!("{:#}\n", features::spec()).as_bytes()).map_err(Error::io(act))
}

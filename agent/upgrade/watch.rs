//! The watcher: the old program beside the new one, until that is confirmed.
//!
//! The agent becomes the new program by execve(2): same pid, same place under its service manager. If that program crashes at once, or
//! hangs, nothing of the old one is left in it to notice. So before the exchange the old program starts itself once more as a small
//! process with one thread, which waits for the journal to say `confirmed`, for the agent's death, or for the deadline. On the last two it
//! puts the old program back and ends the agent. A service manager starts it again then; where none does, the watcher becomes the agent.

use super::journal::{self, Phase};
use super::{Place, exchange};
use anyhow::Context;
use berth_sys::process::{self, Poll};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A new agent that serves takes itself back at its deadline, with all that belongs to a good end; this much later the watcher does.
const LONGER_WHEN_SERVING: Duration = Duration::from_secs(30);
/// From the watcher's start to the execve: calls are drained (the configuration's time, 10 s) and the store is closed (10 s) meanwhile.
const HANDOVER: Duration = Duration::from_secs(90);
/// Between two looks at the journal.
const LOOK_EVERY_MS: i32 = 100;
/// A service manager starts the agent again within this, or there is none.
const SUCCESSOR: Duration = Duration::from_secs(4);

/// What the watcher is told on its command line.
#[derive(Debug, clap::Args)]
pub struct Watch {
    /// The agent
    #[arg(long)]
    pid: u32,
    /// Clock ticks from boot to its start
    #[arg(long)]
    start_time: u64,
    /// Go on in a process of its own
    #[arg(long)]
    detach: bool,
    /// The agent's command line
    #[arg(last = true)]
    arguments: Vec<std::ffi::OsString>,
}

/// Starts the watcher of this process, and returns when it watches.
///
/// # Errors
/// When it cannot be started; then nothing may be exchanged.
pub fn start(place: &Place) -> std::io::Result<()> {
    let pid = std::process::id();
    let status = Command::new("/proc/self/exe")
        .arg0("berthd")
        .args(place.config.iter().flat_map(|c| ["--config".as_ref(), c.as_os_str()]))
        .args(["upgrade-watch", "--detach", "--pid", &pid.to_string()])
        .args(["--start-time", &process::start_time(pid)?.to_string(), "--"])
        .args(&place.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("the watcher ended with {status}"))) }
}

/// The watcher's whole life.
pub fn run(watch: &Watch, config: Option<&Path>, data_root: &Path) -> anyhow::Result<()> {
    if watch.detach {
        // The child of a child that has ended: it is not the agent's to reap, before the execve or behind it.
        Command::new("/proc/self/exe")
            .arg0("berthd-upgrade-watch")
            .args(config.iter().flat_map(|c| ["--config".as_ref(), c.as_os_str()]))
            .args(["upgrade-watch", "--pid", &watch.pid.to_string()])
            .args(["--start-time", &watch.start_time.to_string(), "--"])
            .args(&watch.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting the watcher")?;
        return Ok(());
    }
    // Signals to the agent's group and its terminal are not for the watcher.
    let _ = process::setsid();
    let agent = process::pidfd_open(watch.pid).context("watching the agent")?;
    anyhow::ensure!(process::start_time(watch.pid)? == watch.start_time, "the agent ended before it was watched");
    let Some(why) = watch_it(&agent, data_root)? else { return Ok(()) };
    tracing::error!(why, "the upgrade failed: the old program comes back");
    {
        let held = journal::hold(data_root)?;
        let Some(journal) = held.read()?.filter(|j| j.is_open()) else { return Ok(()) };
        exchange::put_back(&journal)?;
        held.write(&journal::Journal { phase: Phase::RolledBack, reason: Some(why), ..journal })?;
    }
    let _ = process::pidfd_send_signal(agent.as_fd(), berth_runtime::signal::SIGKILL);
    succeed(watch, data_root)
}

/// Why the old program has to come back. `None`: it has not.
fn watch_it(agent: &impl AsFd, data_root: &Path) -> anyhow::Result<Option<String>> {
    let begun = Instant::now();
    let mut trial = None;
    loop {
        let mut ended = [Poll::new(agent.as_fd(), true, false)];
        let dead = process::poll(&mut ended, LOOK_EVERY_MS)? > 0;
        let Some(journal) = journal::read(data_root)?.filter(journal::Journal::is_open) else { return Ok(None) };
        if dead {
            return Ok(Some(match (journal.phase, journal.serving) {
                (Phase::Swapping, _) => "the old agent ended in the middle of the exchange".into(),
                (_, false) => "the agent ended before it answered calls".into(),
                (_, true) => "the new agent ended before it was confirmed".into(),
            }));
        }
        if journal.phase == Phase::Trial {
            let patience = Duration::from_secs(journal.confirm_seconds.into());
            if !journal.handed_over {
                if begun.elapsed() > HANDOVER {
                    return Ok(Some("the old agent did not end".into()));
                }
                continue;
            }
            let since: &mut Instant = trial.get_or_insert_with(Instant::now);
            if !journal.serving && since.elapsed() > patience {
                return Ok(Some(format!("the new agent did not answer calls within {} s", patience.as_secs())));
            }
            if since.elapsed() > patience + LONGER_WHEN_SERVING {
                return Ok(Some("the new agent was not confirmed, and did not take itself back".into()));
            }
        } else if begun.elapsed() > HANDOVER {
            return Ok(Some("the old agent hung in the middle of the exchange".into()));
        }
    }
}

/// Waits for a successor of the agent; where none comes, becomes it.
fn succeed(watch: &Watch, data_root: &Path) -> anyhow::Result<()> {
    // systemd does it, or says why not; an agent beside it would only be in its way.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        return Ok(());
    }
    let begun = Instant::now();
    while begun.elapsed() < SUCCESSOR {
        std::thread::sleep(Duration::from_millis(200));
        let lock = std::fs::File::options().append(true).open(data_root.join("berthd.lock"))?;
        // Before the killed one is gone its lock is there, too: only the lock of its last moment counts.
        if begun.elapsed() > SUCCESSOR / 2 && matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
            return Ok(());
        }
    }
    tracing::warn!("nobody has started the agent again: the watcher becomes it");
    let journal = journal::read(data_root)?.context("the journal is gone")?;
    let error = Command::new(&journal.program).args(&watch.arguments).exec();
    Err(error).with_context(|| format!("starting {}", journal.program.display()))
}

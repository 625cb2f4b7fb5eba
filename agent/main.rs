//! berthd: the agent of one host.
#![forbid(unsafe_code)]

mod api;
mod audit;
mod auth;
mod config;
mod denials;
mod gate;
mod handshakes;
mod leads;
mod log;
mod metrics;
mod peer;
mod permission;
mod quiet;
mod request;
mod room;
mod run;
mod serve;
mod status;
mod tls;
mod uninstall;
mod upgrade;
mod version;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The agent: pulls images and runs containers on this host, for callers over mutual TLS.
#[derive(Parser)]
#[command(name = "berthd", version = version::version())]
struct Args {
    /// Configuration file [default: /etc/berth/berthd.toml, if it is there]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and the certificates, and do nothing else
    #[arg(long)]
    check_config: bool,
    /// Check the configuration, and print as JSON what an upgrade has to know of this program
    #[arg(long, hide = true)]
    self_check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Stop and remove every container, and every object berth made on this host
    Uninstall {
        /// Do it: all containers end
        #[arg(long)]
        yes: bool,
        /// Remove all of data_root too: images, volumes with their files, the store, the audit log
        #[arg(long)]
        purge: bool,
    },
    /// Make a new database of what can be read of a damaged one; containers run on
    Repair,
    /// Put the program before back, if an upgrade to this one was not confirmed: for the service manager, before it starts the agent
    #[command(hide = true)]
    UpgradeGuard,
    /// Wait beside a new agent, and put the old one back when it fails
    #[command(hide = true)]
    UpgradeWatch(upgrade::watch::Watch),
}

fn main() -> ExitCode {
    berth_sys::memory::one_heap();
    // Folders that are made on the way for containers (missing mount sources, targets, parents in a tar) are their users' to enter. What is the
    // agent's own is below folders of root alone, or has its mode from the call that makes it.
    berth_sys::process::set_umask(0o022);
    // Before anything else is opened. Without them a start costs more, and says itself what is wrong.
    let _ = berth_sys::spawn::reserve();
    let args = Args::parse();
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Capabilities that nothing in the agent needs. Programs that it starts have them again: a privileged container must be able to get them.
const NOT_NEEDED: [&str; 19] = [
    "NET_BROADCAST",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PACCT",
    "SYS_BOOT",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "CHECKPOINT_RESTORE",
];

/// What whoever takes over the agent by a bug of a parser cannot do at once. Not a seccomp filter: all that runs below the agent would have it
/// too, a filter of single threads is none against who writes in their memory, and there is no call that no container may have.
fn give_up_rights() {
    let bits = NOT_NEEDED.iter().filter_map(|name| berth_sys::cap::bit(name)).fold(0, |all, bit| all | bit);
    if let Err(error) = berth_sys::cap::give_up(bits) {
        tracing::warn!(%error, "giving up capabilities that are not needed");
    }
    // Before Linux 6.6 it cannot be had without the containers' having it.
    if let Err(error) = berth_sys::memory::refuse_new_code() {
        tracing::debug!(%error, "refusing memory that is writable and executable");
    }
}

/// Its memory has its private key in it. And no container can be given this limit where the agent has a hard one of 0: nobody raises it in a user
/// namespace.
fn refuse_cores() {
    use berth_sys::process::{CORE, NO_CORE, rlimit, set_rlimit};
    let refused = rlimit(CORE).and_then(|(_, hard)| set_rlimit(CORE, NO_CORE, hard.max(NO_CORE)));
    if let Err(error) = refused {
        tracing::warn!(%error, "limiting cores: cores of the agent and its containers go to the host's core_pattern where that is a pipe");
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    let config = config::Config::load(args.config.as_deref())?;
    let log = log::start(&config).map_err(anyhow::Error::msg)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was there already"))?;
    if args.check_config {
        return run::check(&config);
    }
    if args.self_check {
        println!("{}", serde_json::to_string(&upgrade::SelfCheck::own())?);
        return run::works(&config);
    }
    match &args.command {
        Some(Command::UpgradeGuard) => return upgrade::guard(&config.data_root),
        Some(Command::UpgradeWatch(watch)) => {
            return upgrade::watch::run(watch, args.config.as_deref(), &config.data_root);
        }
        Some(Command::Repair) => return run::repair(&config),
        None | Some(Command::Uninstall { .. }) => {}
    }
    give_up_rights();
    refuse_cores();
    let place = upgrade::Place::of_this_process(args.config.as_deref(), &config.data_root)?;
    // Work is waiting for the kernel or for others; more threads cost memory and bring nothing.
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("berthd")
        .enable_all()
        .build()?;
    let done = match &args.command {
        Some(Command::Uninstall { yes, purge }) => {
            runtime.block_on(uninstall::uninstall(config, *yes, *purge)).map(|()| run::End::Stop)
        }
        _ => runtime.block_on(run::run(config, place.clone())),
    };
    // What still blocks (a disk that hangs) must not keep the agent from ending; its work is taken up at the next start.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    log.end();
    match done? {
        run::End::Stop => Ok(()),
        run::End::Successor => {
            berth_node::fail::point("upgrade.before_execve")?;
            Err(place.become_it()).with_context(|| format!("becoming {}", place.program.display()))
        }
    }
}

//! The command line: global options, the commands, and which code runs each.

use crate::complete;
use crate::config::{Config, Selection, default_path};
use crate::connect::Limits;
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::{cmd, units};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use std::path::Path;
use std::time::Duration;

/// Drive berth agents, one host or many
#[derive(Debug, Parser)]
#[command(
    name = "berthctl",
    version = berth::VERSION,
    disable_help_subcommand = true,
    after_help = "Without a context, commands go to the agent of this machine (/run/berth/berthd.sock).\n\
        On several hosts a command runs side by side; exit code 0: all hosts did it, 3: some, 4: none.\n\
        With one host: 125 for a wrong command line, else 1 for a failure (run, exec and attach have Docker's codes).\n\n\
        Environment: BERTH_CONFIG names the configuration file [default: ~/.config/berth/config.toml]\n\
        BERTH_RECONNECT: how long to try again when an agent is away or full, as 10s or 5m, 0 for not at all\n\
        [default: 2 s before the first answer, 30 s for what is under way; a host keeps a stream for 40 s]"
)]
pub struct Cli {
    #[command(flatten)]
    pub hosts: Hosts,
    /// On every host of the configuration (stands before the command)
    #[arg(long)]
    pub all: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// Which hosts, and how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Hosts")]
pub struct Hosts {
    /// Hosts: names of contexts, or host:port
    #[arg(short = 'H', long = "host", global = true, value_name = "HOST", value_delimiter = ',', add = ArgValueCompleter::new(complete::contexts))]
    pub host: Vec<String>,
    /// Groups of hosts
    #[arg(short, long, global = true, value_name = "GROUP", value_delimiter = ',', add = ArgValueCompleter::new(complete::groups))]
    pub group: Vec<String>,
    /// Hosts at once
    #[arg(long, global = true, value_name = "NUMBER", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// How long to wait for each host, in seconds or as 500ms, 2m [default: 30 s for short calls, none for streams]
    #[arg(long, global = true, value_name = "DURATION", value_parser = units::parse_deadline)]
    pub deadline: Option<Duration>,
}

/// In the place of [`Hosts`] where a command calls no host: keeps these options out of its help, and of the help of what is below it.
#[derive(Debug, Default)]
pub struct NoHosts;

impl Args for NoHosts {
    fn augment_args(command: clap::Command) -> clap::Command {
        let hosts = Hosts::augment_args(clap::Command::new("hosts"));
        hosts.get_arguments().fold(command, |command, arg| {
            // A command whose options are built late has them from above already.
            let there = command.get_arguments().any(|a| a.get_id() == arg.get_id());
            let id = arg.get_id().to_string();
            if there { command.mut_arg(id, |arg| arg.hide(true)) } else { command.arg(arg.clone().hide(true)) }
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NoHosts {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(NoHosts)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}

/// Each command's options are built only when it is the one that runs: all of them together take longer than a call.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a container, start it and attach to it
    Run(Box<cmd::run::Run>),
    /// Create a container
    Create(Box<cmd::run::CreateOnly>),
    /// Start containers
    Start(cmd::act::Start),
    /// Stop containers: the stop signal, then a kill
    Stop(cmd::act::Stop),
    /// Stop containers and start them again
    Restart(cmd::act::Restart),
    /// Freeze all processes of containers
    Pause(cmd::act::Pause),
    /// Let the processes of paused containers go on
    Unpause(cmd::act::Unpause),
    /// Give a container another name
    Rename(cmd::act::Rename),
    /// Send a signal to containers
    Kill(cmd::act::Kill),
    /// Remove containers
    Rm(cmd::act::Rm),
    /// Change limits of containers, also while they run
    Update(Box<cmd::update::Update>),
    /// Show what containers use, again every second
    Stats(cmd::stats::Stats),
    /// List the processes of a container
    Top(cmd::top::Top),
    /// List the published ports of a container
    Port(cmd::port::Port),
    /// Reach ports of a container from here, published or not
    PortForward(cmd::forward::PortForward),
    /// List containers
    Ps(cmd::ps::Ps),
    /// Show everything about containers and images
    Inspect(cmd::inspect::Inspect),
    /// Show the output of a container
    Logs(cmd::logs::Logs),
    /// Run a command in a running container
    Exec(cmd::exec::Exec),
    /// Attach to a running container
    Attach(cmd::exec::Attach),
    /// Copy files between a container and this machine
    Cp(cmd::cp::Cp),
    /// Show what a container has changed in its image's files
    Diff(cmd::changes::Diff),
    /// Write a container's files out as a tar
    Export(cmd::changes::Export),
    /// Make an image of a container
    Commit(cmd::commit::Commit),
    /// Wait until containers end, and print their exit codes
    Wait(cmd::act::Wait),
    /// Pull images
    Pull(cmd::pull::Pull),
    /// List images
    Images(cmd::images::Images),
    /// Remove images
    Rmi(cmd::images::Rmi),
    /// Give an image one more name
    Tag(cmd::images::Tag),
    /// Show what happens
    Events(cmd::events::Events),
    /// Show what a host is and has
    Info(cmd::info::Info),
    /// Show the versions of berthctl and the agent
    Version(cmd::info::Version),
    /// Upgrade agents
    Agent(cmd::agent::Agent),
    /// Containers in general
    #[command(subcommand)]
    Container(Container),
    /// Images in general
    #[command(subcommand)]
    Image(Image),
    /// Networks of containers
    Network(cmd::network::Network),
    /// Volumes: files that outlive containers
    #[command(subcommand)]
    Volume(cmd::volume::Volume),
    /// The host's disk
    #[command(subcommand)]
    System(System),
    /// Look hosts over
    Node(cmd::node::Node),
    /// Make certificates for agents and callers
    Pki(cmd::pki::Pki),
    /// Name hosts and groups of them
    Context(cmd::context::ContextCommand),
    /// Print the completion script of a shell
    Completion(cmd::man::Completion),
    /// Write man pages
    Man(cmd::man::Man),
}

#[derive(Debug, Subcommand)]
pub enum Container {
    /// Remove all stopped containers
    Prune(cmd::prune::Containers),
}

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Remove images without a name, or all that no container uses
    Prune(cmd::prune::Images),
}

#[derive(Debug, Subcommand)]
pub enum System {
    /// Show what takes the room of the disk
    Df(cmd::df::Df),
    /// Remove stopped containers and images that nothing uses
    Prune(cmd::prune::Everything),
    /// Remove what the host's policy ([gc] of its configuration) gives up
    Gc(cmd::prune::Gc),
}

/// How long an agent that is away is waited for, where the caller says so.
fn reconnect() -> Result<Option<Duration>> {
    let Some(text) = std::env::var_os("BERTH_RECONNECT").filter(|text| !text.is_empty()) else { return Ok(None) };
    let text = text.to_string_lossy();
    if text == "0" {
        return Ok(Some(Duration::ZERO));
    }
    units::parse_deadline(&text).map(Some).map_err(|why| Error::usage(format!("BERTH_RECONNECT: {why}")))
}

/// Runs a parsed command line; the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    let path = default_path();
    let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
    if let Command::Pki(_) | Command::Context(_) | Command::Completion(_) | Command::Man(_) = &cli.command
        && (cli.all || !cli.hosts.host.is_empty() || !cli.hosts.group.is_empty() || cli.hosts.deadline.is_some())
    {
        return Err(Error::usage("--host, --group, --all and --deadline: this command calls no host"));
    }
    match cli.command {
        Command::Pki(a) => cmd::pki::run(a, &folder.join("pki")).map(|()| 0),
        Command::Context(a) => cmd::context::run(a, &path).map(|()| 0),
        Command::Agent(cmd::agent::Agent { command: cmd::agent::Command::Sign(a) }) => cmd::agent::sign(&a).map(|()| 0),
        Command::Completion(a) => cmd::man::completion(&a).map(|()| 0),
        Command::Man(a) => cmd::man::man(&a).map(|()| 0),
        command => {
            let config = Config::read(&path)?;
            let selection = Selection { hosts: cli.hosts.host, groups: cli.hosts.group, all: cli.all };
            // One host by name is shown like the current one; a group or a list is labelled even when it has one member.
            let labelled = selection.all || !selection.groups.is_empty() || selection.hosts.len() > 1;
            let fleet = Fleet {
                hosts: config.select(&selection, &folder)?,
                parallel: cli.hosts.parallel.into(),
                limits: Limits { deadline: cli.hosts.deadline, reconnect: reconnect()? },
                labelled,
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Error::io("starting the runtime", &e))?;
            let code = runtime.block_on(remote(command, &fleet, config.defaults.detach_keys.as_deref()));
            // The process ends now, and takes everything with it; a name look-up that hangs in a thread must not hold up the end.
            std::mem::forget(runtime);
            code
        }
    }
}

async fn remote(command: Command, fleet: &Fleet, keys: Option<&str>) -> Result<u8> {
    match command {
        Command::Run(a) => cmd::run::run(fleet, *a, keys).await,
        Command::Create(a) => cmd::run::create(fleet, *a).await,
        Command::Start(a) => cmd::act::start(fleet, a, keys).await,
        Command::Stop(a) => cmd::act::stop(fleet, a).await,
        Command::Restart(a) => cmd::act::restart(fleet, a).await,
        Command::Pause(a) => cmd::act::pause(fleet, a).await,
        Command::Unpause(a) => cmd::act::unpause(fleet, a).await,
        Command::Rename(a) => cmd::act::rename(fleet, a).await,
        Command::Update(a) => cmd::update::update(fleet, *a).await,
        Command::Stats(a) => cmd::stats::stats(fleet, a).await,
        Command::Top(a) => cmd::top::top(fleet, a).await,
        Command::Port(a) => cmd::port::port(fleet, a).await,
        Command::PortForward(a) => cmd::forward::port_forward(fleet, a).await,
        Command::Kill(a) => cmd::act::kill(fleet, a).await,
        Command::Rm(a) => cmd::act::rm(fleet, a).await,
        Command::Cp(a) => cmd::cp::cp(fleet, a).await,
        Command::Diff(a) => cmd::changes::diff(fleet, a).await,
        Command::Export(a) => cmd::changes::export(fleet, a).await,
        Command::Commit(a) => cmd::commit::commit(fleet, a).await,
        Command::Wait(a) => cmd::act::wait(fleet, a).await,
        Command::Ps(a) => cmd::ps::ps(fleet, a).await,
        Command::Inspect(a) => cmd::inspect::inspect(fleet, a).await,
        Command::Logs(a) => cmd::logs::logs(fleet, a).await,
        Command::Exec(a) => cmd::exec::exec(fleet, a, keys).await,
        Command::Attach(a) => cmd::exec::attach(fleet, a, keys).await,
        Command::Pull(a) => cmd::pull::pull(fleet, a).await,
        Command::Images(a) => cmd::images::images(fleet, a).await,
        Command::Rmi(a) => cmd::images::rmi(fleet, a).await,
        Command::Tag(a) => cmd::images::tag(fleet, a).await,
        Command::Events(a) => cmd::events::events(fleet, a).await,
        Command::Info(a) => cmd::info::info(fleet, a).await,
        Command::Version(a) => cmd::info::version(fleet, a).await,
        Command::Agent(a) => cmd::agent::run(fleet, a).await,
        Command::Container(Container::Prune(a)) => cmd::prune::containers(fleet, a).await,
        Command::Image(Image::Prune(a)) => cmd::prune::images(fleet, a).await,
        Command::Volume(a) => cmd::volume::run(fleet, a).await,
        Command::System(System::Df(a)) => cmd::df::df(fleet, a).await,
        Command::System(System::Prune(a)) => cmd::prune::everything(fleet, a).await,
        Command::System(System::Gc(a)) => cmd::prune::gc(fleet, a).await,
        Command::Network(a) => cmd::network::run(fleet, a).await,
        Command::Node(a) => cmd::node::run(fleet, a).await,
        Command::Pki(_) | Command::Context(_) | Command::Completion(_) | Command::Man(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests;

//! `start`, `stop`, `restart`, `pause`, `unpause`, `rename`, `kill`, `rm` and `wait`: one request a container, and its name when it is done.

use super::{exec, for_names, for_names_at_once};
use crate::complete;
use crate::connect::{Connection, Patience, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use crate::session::exit_code;
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::time::{Duration, Instant};

/// What a stop without -t may take: a container's own stop timeout is rarely above Docker's 10 s, and this leaves room for five minutes.
const OWN_STOP_TIMEOUT: Duration = Duration::from_secs(330);

/// A start waits up to five minutes for what it starts after.
const START_TIMEOUT: Duration = Duration::from_secs(330);

#[derive(Debug, Args)]
#[command(
    after_help = "Exit code with -a or -i: the workload's own; 125: berthctl or the agent failed; 126: the command cannot be run; 127: there \
        is no such command.\n\nExample:\n  berthctl start -ai box"
)]
pub struct Start {
    /// Show its output from its first byte on, and end with it: one container only
    #[arg(short, long)]
    attach: bool,
    /// As --attach, and send standard input
    #[arg(short, long)]
    interactive: bool,
    /// Keys that end the attachment
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on to the process (not with a terminal) [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: Option<bool>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds before the kill; 0: at once [default: the container's own, else 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    time: Option<u32>,
    /// Signal instead of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Every container of the host, before its shutdown: those first that start after others; -t is for all of them together
    /// [default: 60]. What a restart policy keeps going comes back with the next start of the agent
    #[arg(long, conflicts_with_all = ["signal", "containers"])]
    all_containers: bool,
    /// Containers
    #[arg(required_unless_present = "all_containers", value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds before the kill; 0: at once [default: the container's own, else 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    time: Option<u32>,
    /// Signal instead of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Containers, running or not
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Pause {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Unpause {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rename {
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
    /// Its new name
    name: String,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Signal, such as HUP, SIGHUP or 1
    #[arg(short, long, default_value = "SIGKILL")]
    signal: String,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Kill running containers first
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes, too
    #[arg(short, long)]
    volumes: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// What to wait for
    #[arg(long, value_enum, default_value_t = Condition::NotRunning)]
    condition: Condition,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Condition {
    /// It does not run: it has ended, or was never started (which is told at once, as 0)
    NotRunning,
    /// The end of this run, or of the next one when it does not run
    NextExit,
    /// It is gone
    Removed,
    /// It runs
    Running,
    /// Its health check says that it is well
    Healthy,
}

impl Condition {
    fn wire(self) -> i32 {
        let condition = match self {
            Condition::NotRunning => v1::WaitCondition::NotRunning,
            Condition::NextExit => v1::WaitCondition::NextExit,
            Condition::Removed => v1::WaitCondition::Removed,
            Condition::Running => v1::WaitCondition::Running,
            Condition::Healthy => v1::WaitCondition::Healthy,
        };
        condition.into()
    }
}

/// An agent takes what is gone for done; who typed a name wants to know.
fn none(container: &str) -> Error {
    Error::new(format!("no such container: {container}")).hint("berthctl ps -a lists all containers")
}

/// `start -a`
async fn start_attached(fleet: &Fleet, mut args: Start, default_keys: Option<&str>) -> Result<u8> {
    let container = args.containers.pop().filter(|_| args.containers.is_empty());
    let container = container.ok_or_else(|| Error::usage("-a and -i go with one container only"))?;
    if fleet.labelled && args.interactive {
        return Err(Error::usage("-i goes with one host only"));
    }
    let keys = exec::keys(args.detach_keys.as_deref(), default_keys)?;
    let (stdin, sig_proxy) = (args.interactive, args.sig_proxy.unwrap_or(true));
    exec::join(fleet, exec::Join { container, start: true, stdin, sig_proxy, keys }).await
}

pub async fn start(fleet: &Fleet, args: Start, default_keys: Option<&str>) -> Result<u8> {
    if args.attach || args.interactive {
        return start_attached(fleet, args, default_keys).await;
    }
    if args.detach_keys.is_some() || args.sig_proxy.is_some() {
        return Err(Error::usage("--detach-keys and --sig-proxy go with -a or -i"));
    }
    let labels = fleet.clone();
    for_names(fleet, args.containers, move |c, container| {
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let request = v1::StartContainerRequest { request_id: request_id()?, container: container.clone() };
            let started =
                c.retry(async || c.containers().start(c.request(request.clone(), Some(START_TIMEOUT))).await).await?;
            super::warn(&sink, &started.get_ref().warnings);
            Ok(vec![container])
        }
    })
    .await
}

/// `stop --all-containers`: the names of those that ended.
async fn stop_all(fleet: &Fleet, seconds: Option<u32>) -> Result<u8> {
    let limit = Duration::from_secs(seconds.unwrap_or(60).into()) + 2 * UNARY_TIMEOUT;
    for_names(fleet, vec!["all".to_owned()], move |c, _| async move {
        let request = v1::StopAllRequest { request_id: request_id()?, timeout_seconds: seconds };
        let call = async || c.containers().stop_all(c.request(request.clone(), Some(limit))).await;
        let (left, ended): (Vec<_>, Vec<_>) =
            c.retry(call).await?.into_inner().containers.into_iter().partition(|one| !one.error.is_empty());
        if !left.is_empty() {
            let left: Vec<String> = left.into_iter().map(|one| format!("{}: {}", one.name, one.error)).collect();
            return Err(Error::new(format!("not all containers have ended: {}", left.join("; "))));
        }
        Ok(ended.into_iter().map(|one| one.name).collect())
    })
    .await
}

pub async fn stop(fleet: &Fleet, args: Stop) -> Result<u8> {
    if args.all_containers {
        return stop_all(fleet, args.time).await;
    }
    let limit = args.time.map_or(OWN_STOP_TIMEOUT, |t| Duration::from_secs(t.into()) + UNARY_TIMEOUT);
    for_names(fleet, args.containers, move |c, container| {
        let signal = args.signal.clone().unwrap_or_default();
        async move {
            let request = v1::StopContainerRequest {
                request_id: request_id()?,
                container: container.clone(),
                timeout_seconds: args.time,
                signal,
            };
            let call = async || c.containers().stop(c.request(request.clone(), Some(limit))).await;
            let (answer, unsure) = c.retry_unsure(call).await?;
            let answer = answer.into_inner();
            if answer.id.is_empty() && answer.exit.is_none() && !unsure {
                return Err(none(&container));
            }
            Ok(vec![container])
        }
    })
    .await
}

pub async fn restart(fleet: &Fleet, args: Restart) -> Result<u8> {
    let limit = args.time.map_or(OWN_STOP_TIMEOUT, |t| Duration::from_secs(t.into()) + 2 * UNARY_TIMEOUT);
    let labels = fleet.clone();
    for_names(fleet, args.containers, move |c, container| {
        let signal = args.signal.clone().unwrap_or_default();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let request = v1::RestartContainerRequest {
                request_id: request_id()?,
                container: container.clone(),
                timeout_seconds: args.time,
                signal,
            };
            let started =
                c.retry(async || c.containers().restart(c.request(request.clone(), Some(limit))).await).await?;
            super::warn(&sink, &started.get_ref().warnings);
            Ok(vec![container])
        }
    })
    .await
}

pub async fn pause(fleet: &Fleet, args: Pause) -> Result<u8> {
    for_names(fleet, args.containers, async |c, container| {
        let request = v1::PauseContainerRequest { request_id: request_id()?, container: container.clone() };
        c.retry(async || c.containers().pause(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
        Ok(vec![container])
    })
    .await
}

pub async fn unpause(fleet: &Fleet, args: Unpause) -> Result<u8> {
    for_names(fleet, args.containers, async |c, container| {
        let request = v1::UnpauseContainerRequest { request_id: request_id()?, container: container.clone() };
        c.retry(async || c.containers().unpause(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
        Ok(vec![container])
    })
    .await
}

pub async fn rename(fleet: &Fleet, args: Rename) -> Result<u8> {
    let name = args.name;
    for_names(fleet, vec![args.container], move |c, container| {
        let name = name.clone();
        async move {
            let request = v1::RenameContainerRequest { request_id: request_id()?, container, name: name.clone() };
            c.retry(async || c.containers().rename(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
            // Docker says nothing; with several hosts it must be seen which of them have done it.
            Ok(vec![name])
        }
    })
    .await
}

pub async fn kill(fleet: &Fleet, args: Kill) -> Result<u8> {
    for_names(fleet, args.containers, move |c, container| {
        let signal = args.signal.clone();
        async move {
            let request = v1::KillContainerRequest { request_id: request_id()?, container: container.clone(), signal };
            c.retry(async || c.containers().kill(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
            Ok(vec![container])
        }
    })
    .await
}

pub async fn rm(fleet: &Fleet, args: Rm) -> Result<u8> {
    for_names(fleet, args.containers, move |c, container| async move {
        let request = v1::RemoveContainerRequest {
            request_id: request_id()?,
            container: container.clone(),
            force: args.force,
            volumes: args.volumes,
        };
        let call = async || c.containers().remove(c.request(request.clone(), Some(UNARY_TIMEOUT))).await;
        let (answer, unsure) = c.retry_unsure(call).await?;
        // As in Docker: with force nobody minds.
        if answer.into_inner().id.is_empty() && !unsure && !args.force {
            return Err(none(&container));
        }
        Ok(vec![container])
    })
    .await
}

/// All at once, so that none ends unseen; their answers in the order of their names.
pub async fn wait(fleet: &Fleet, args: Wait) -> Result<u8> {
    let condition = args.condition;
    for_names_at_once(fleet, args.containers, move |c: Connection, container: String| async move {
        let request = v1::WaitContainerRequest { container: container.clone(), condition: condition.wire() };
        let mut patience = Patience::default();
        let answer = loop {
            let begun = Instant::now();
            match c.containers().wait(c.request(request.clone(), None)).await {
                Ok(answer) => break answer.into_inner(),
                Err(status) => patience.wait_long(&c, &status, begun).await?,
            }
        };
        Ok(vec![match (condition, &answer.exit) {
            (Condition::Running | Condition::Healthy, _) => container,
            // It never ran: Docker says 0.
            (_, None) => "0".to_owned(),
            (_, Some(exit)) => exit_code(exit).to_string(),
        }])
    })
    .await
}

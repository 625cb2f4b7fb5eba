//! `start`, `stop`, `kill`, `rm` and `wait`: one request a container, and its name when it is done.

use super::for_names;
use crate::complete;
use crate::connect::{UNARY_TIMEOUT, request_id};
use crate::error::Result;
use crate::fanout::Fleet;
use crate::output::Sink;
use crate::session::exit_code;
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::time::Duration;

/// What a stop without -t may take: a container's own stop timeout is rarely above Docker's 10 s, and this leaves room for five minutes.
const OWN_STOP_TIMEOUT: Duration = Duration::from_secs(330);

#[derive(Debug, Args)]
pub struct Start {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds before the kill; 0: at once [default: the container's own, else 10]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u32>,
    /// Signal instead of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
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
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::running))]
    containers: Vec<String>,
}

pub async fn start(fleet: &Fleet, args: Start) -> Result<u8> {
    let labels = fleet.clone();
    for_names(fleet, args.containers, move |c, container| {
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let request = v1::StartContainerRequest { request_id: request_id()?, container: container.clone() };
            let started =
                c.retry(async || c.containers().start(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
            super::warn(&sink, &started.get_ref().warnings);
            Ok(vec![container])
        }
    })
    .await
}

pub async fn stop(fleet: &Fleet, args: Stop) -> Result<u8> {
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
            c.retry(async || c.containers().stop(c.request(request.clone(), Some(limit))).await).await?;
            Ok(vec![container])
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
        let request =
            v1::RemoveContainerRequest { request_id: request_id()?, container: container.clone(), force: args.force };
        c.retry(async || c.containers().remove(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
        Ok(vec![container])
    })
    .await
}

pub async fn wait(fleet: &Fleet, args: Wait) -> Result<u8> {
    for_names(fleet, args.containers, async |c, container| {
        let request = v1::WaitContainerRequest { container };
        let answer = c.retry(async || c.containers().wait(c.request(request.clone(), None)).await).await?.into_inner();
        Ok(vec![exit_code(&answer.exit.unwrap_or_default()).to_string()])
    })
    .await
}

//! `node`: the hosts themselves.

use crate::connect::Connection;
use crate::error::Result;
use crate::fanout::Fleet;
use crate::output::{Listing, Shape, Show};
use berth::v1::{self, DoctorVerdict};
use clap::{Args, Subcommand};
use serde_json::json;
use std::time::Duration;

/// Longer than other short calls: what seems to be a leftover is looked at twice.
const TIMEOUT: Duration = Duration::from_secs(60);

const SHAPE: Shape =
    Shape { columns: &[("", "Sign"), ("CHECK", "Name"), ("FOUND", "Found"), ("ADVICE", "Advice")], name: "Name" };

#[derive(Debug, Args)]
pub struct Node {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look hosts over: kernel, cgroups, limits, disk, certificates, leftovers
    #[command(
        after_help = "The gravest comes first. Exit code 1 when something does not work or will not for long (BAD) on any host."
    )]
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Only what is not good
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

pub async fn run(fleet: &Fleet, args: Node) -> Result<u8> {
    match args.command {
        Command::Doctor(a) => doctor(fleet, a).await,
    }
}

async fn doctor(fleet: &Fleet, args: Doctor) -> Result<u8> {
    let mut list = Listing::new(SHAPE, args.show.format()?, fleet.labelled.then(|| fleet.width()));
    let call = async |c: Connection| {
        let answer = c.retry(async || c.node().doctor(c.request(v1::DoctorRequest {}, Some(TIMEOUT))).await).await?;
        Ok(answer.into_inner().findings)
    };
    let mut bad = false;
    let code = fleet
        .each(call, |host, findings| {
            bad |= findings.iter().any(|f| f.verdict() == DoctorVerdict::Bad);
            let wanted = findings.iter().filter(|f| !args.quiet || f.verdict() != DoctorVerdict::Good);
            let row = |f: &v1::DoctorFinding| {
                let (word, sign) = match f.verdict() {
                    DoctorVerdict::Good => ("good", "ok"),
                    DoctorVerdict::Warning => ("warning", "warning"),
                    DoctorVerdict::Bad | DoctorVerdict::Unspecified => ("bad", "BAD"),
                };
                json!({"Sign": sign, "Verdict": word, "Name": f.name, "Found": f.found, "Advice": f.advice})
            };
            list.add(host, wanted.map(row).collect())
        })
        .await?;
    list.finish()?;
    Ok(if code == 0 && bad { 1 } else { code })
}

//! `update`: other limits, also while containers run.

use super::for_names;
use crate::complete;
use crate::connect::{UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::spec::limits::{Disks, hugepages, nano_cpus, parse_quota};
use crate::spec::{pairs, supervise};
use crate::units::{parse_bytes, parse_limit};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;

#[derive(Debug, Args)]
#[command(
    after_help = "What is left out stays. Each container gets all of it or, where the kernel refuses a part, nothing.\n\n\
    Example:\n  berthctl -g web update --memory 512m --cpus 1.5 web"
)]
pub struct Update {
    /// Memory limit in bytes, at least 6m; 0 or -1: none
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_limit)]
    memory: Option<u64>,
    /// Memory and swap together in bytes; 0: twice the memory; -1: swap without limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_swap)]
    memory_swap: Option<i64>,
    /// Memory that is kept under pressure, in bytes; 0 or -1: none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_limit)]
    memory_reservation: Option<u64>,
    /// Number of CPUs, such as 1.5; no more than the host has, no less than 0.01; 0: no limit
    #[arg(long, value_name = "NUMBER", conflicts_with = "cpu_quota")]
    cpus: Option<String>,
    /// Microseconds in which CPU time is counted, 1000 to 1000000; 0: 100000. Alone: the quota stays as many microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period, at least 1000; 0 or -1: no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true, value_parser = parse_quota)]
    cpu_quota: Option<i64>,
    /// Weight against other containers, 2 to 262144; 0: 1024
    #[arg(short, long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(0..=262_144))]
    cpu_shares: Option<u64>,
    /// CPUs it may run on, such as 0-3,8; empty: all
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use, such as 0,1; empty: all
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads at once; 0 or -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Weight of its block I/O, 10 to 1000; 0: the kernel's default
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u32>,
    #[command(flatten)]
    disks: Disks,
    /// When memory runs out, end all its processes together (cgroup v2)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oom_group: Option<bool>,
    /// Huge pages of one size in bytes, such as 2MB=64m
    #[arg(long, value_name = "PAGE=SIZE")]
    hugepages: Vec<String>,
    /// Write a file of its cgroup, such as memory.high=200M (cgroup v2)
    #[arg(long, value_name = "FILE=VALUE")]
    cgroup_conf: Vec<String>,
    /// Start it again when it ends: no, always, on-failure[:MAX] or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Containers, running or not
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCompleter::new(complete::containers))]
    containers: Vec<String>,
}

fn parse_swap(text: &str) -> Result<i64, String> {
    match text {
        "-1" => Ok(-1),
        size => i64::try_from(parse_bytes(size)?).map_err(|_| format!("{text:?} is too large")),
    }
}

pub async fn update(fleet: &Fleet, args: Update) -> Result<u8> {
    let resources = v1::ResourceUpdate {
        memory_bytes: args.memory,
        memory_swap_bytes: args.memory_swap,
        memory_reservation_bytes: args.memory_reservation,
        nano_cpus: args.cpus.as_deref().map(nano_cpus).transpose()?,
        cpu_quota_us: args.cpu_quota,
        cpu_period_us: args.cpu_period,
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus,
        cpuset_mems: args.cpuset_mems,
        pids: args.pids_limit,
        blkio_weight: args.blkio_weight,
        block_devices: args.disks.limits()?,
        oom_group: args.oom_group,
        hugepages: hugepages(&args.hugepages)?,
        unified: pairs::strict("--cgroup-conf", &args.cgroup_conf)?,
    };
    let restart = args.restart.as_deref().map(supervise::restart).transpose()?;
    if resources == v1::ResourceUpdate::default() && restart.is_none() {
        return Err(Error::usage("nothing to change").hint("berthctl update --help lists what can be changed"));
    }
    for_names(fleet, args.containers, move |c, container| {
        let resources = resources.clone();
        async move {
            let request = v1::UpdateContainerRequest {
                request_id: request_id()?,
                container: container.clone(),
                resources: Some(resources),
                restart,
            };
            c.retry(async || c.containers().update(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
            Ok(vec![container])
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_has_sizes_and_no_limit() {
        assert_eq!((parse_swap("-1"), parse_swap("1g"), parse_swap("0")), (Ok(-1), Ok(1 << 30), Ok(0)));
        for bad in ["-2", "x", "9999999t"] {
            parse_swap(bad).expect_err(bad);
        }
    }
}

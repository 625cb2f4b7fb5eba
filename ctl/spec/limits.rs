//! Limits: the flags of `run` and `create`, and what `update` shares with them.

use super::pairs;
use crate::error::{Error, Result};
use crate::units::{parse_bytes, parse_limit};
use berth::v1;
use clap::Args;
use std::collections::{BTreeMap, HashMap};

// No doc comment: clap would take it for the description of each command that has these options.
#[derive(Debug, Default, Args)]
pub struct Limits {
    /// Memory limit in bytes, at least 6m; -1: none
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_limit, help_heading = "Limits")]
    pub memory: Option<u64>,
    /// Memory and swap together in bytes; -1: swap without limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    pub memory_swap: Option<String>,
    /// Memory that is kept under pressure, in bytes; -1: none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = parse_limit, help_heading = "Limits")]
    pub memory_reservation: Option<u64>,
    /// When memory runs out, end all its processes together (cgroup v2)
    #[arg(long, help_heading = "Limits")]
    pub oom_group: bool,
    /// Number of CPUs, such as 1.5; no more than the host has, no less than 0.01
    #[arg(long, value_name = "NUMBER", conflicts_with = "cpu_quota", help_heading = "Limits")]
    pub cpus: Option<String>,
    /// Microseconds in which CPU time is counted, 1000 to 1000000 [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1000..=1_000_000), help_heading = "Limits")]
    pub cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period, at least 1000; -1: no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true, value_parser = parse_quota, help_heading = "Limits")]
    pub cpu_quota: Option<i64>,
    /// Weight against other containers, 2 to 262144 [default: 1024]
    #[arg(short, long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(2..=262_144), help_heading = "Limits")]
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on, such as 0-3,8
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use, such as 0,1
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads at once; -1: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pub pids_limit: Option<i64>,
    /// Weight of its block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(10..=1000), help_heading = "Limits")]
    pub blkio_weight: Option<u32>,
    #[command(flatten)]
    pub disks: Disks,
    /// Huge pages of one size in bytes, such as 2MB=64m
    #[arg(long, value_name = "PAGE=SIZE", help_heading = "Limits")]
    pub hugepages: Vec<String>,
    /// Write a file of its cgroup, such as memory.high=200M (cgroup v2)
    #[arg(long, value_name = "FILE=VALUE", help_heading = "Limits")]
    pub cgroup_conf: Vec<String>,
    /// Slice of systemd for its scope, such as machine.slice, where the agent has systemd make cgroups
    #[arg(long, value_name = "SLICE", help_heading = "Limits")]
    pub cgroup_parent: Option<String>,
}

// What each disk may be used for.
#[derive(Debug, Default, Clone, Args)]
pub struct Disks {
    /// Weight of its block I/O on one disk, 10 to 1000
    #[arg(long, value_name = "DISK:WEIGHT", help_heading = "Limits")]
    pub blkio_weight_device: Vec<String>,
    /// Bytes a second that it may read from a disk, such as /dev/sda:10m
    #[arg(long, value_name = "DISK:SIZE", help_heading = "Limits")]
    pub device_read_bps: Vec<String>,
    /// Bytes a second that it may write to a disk
    #[arg(long, value_name = "DISK:SIZE", help_heading = "Limits")]
    pub device_write_bps: Vec<String>,
    /// Reads a second from a disk
    #[arg(long, value_name = "DISK:NUMBER", help_heading = "Limits")]
    pub device_read_iops: Vec<String>,
    /// Writes a second to a disk
    #[arg(long, value_name = "DISK:NUMBER", help_heading = "Limits")]
    pub device_write_iops: Vec<String>,
}

impl Limits {
    pub fn resources(&self) -> Result<v1::Resources> {
        let size = |flag: &str, text: &str| match text {
            "-1" => Ok(-1),
            t => parse_bytes(t)
                .and_then(|b| i64::try_from(b).map_err(|_| "too large".to_owned()))
                .map_err(|e| Error::usage(format!("{flag}: {e}"))),
        };
        let cpus = self.cpus.as_deref().map(some_cpus).transpose()?;
        Ok(v1::Resources {
            memory_bytes: self.memory.unwrap_or(0),
            memory_swap_bytes: self.memory_swap.as_deref().map(|t| size("--memory-swap", t)).transpose()?.unwrap_or(0),
            memory_reservation_bytes: self.memory_reservation.unwrap_or(0),
            nano_cpus: cpus.unwrap_or(0),
            cpu_quota_us: self.cpu_quota.unwrap_or(0),
            cpu_period_us: self.cpu_period.unwrap_or(0),
            cpu_shares: self.cpu_shares.unwrap_or(0),
            cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
            pids: self.pids_limit,
            blkio_weight: self.blkio_weight.unwrap_or(0),
            block_devices: self.disks.limits()?,
            oom_group: self.oom_group,
            hugepages: hugepages(&self.hugepages)?,
            unified: pairs::strict("--cgroup-conf", &self.cgroup_conf)?,
        })
    }
}

/// Microseconds of CPU time; -1 and 0, no limit.
pub fn parse_quota(text: &str) -> std::result::Result<i64, String> {
    match text.parse::<i64>() {
        Ok(n) if matches!(n, -1 | 0) || n >= 1000 => Ok(n),
        Ok(_) => Err("must be -1, for no limit, or at least 1000, a millisecond".into()),
        Err(_) => Err(format!("{text:?} is no number of microseconds")),
    }
}

/// Bytes by the size of pages.
pub fn hugepages(values: &[String]) -> Result<HashMap<String, u64>> {
    pairs::strict("--hugepages", values)?
        .into_iter()
        .map(|(page, size)| match parse_bytes(&size) {
            Ok(bytes) => Ok((page, bytes)),
            Err(e) => Err(Error::usage(format!("--hugepages {page}={size}: {e}"))),
        })
        .collect()
}

impl Disks {
    /// One entry for each disk that is named.
    pub fn limits(&self) -> Result<Vec<v1::BlockLimit>> {
        type Put = fn(&mut v1::BlockLimit, u64);
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
        let weight = |text: &str| {
            number(text).and_then(|n| match n {
                0 | 10..=1000 => Ok(n),
                _ => Err(format!("{text:?} must lie between 10 and 1000")),
            })
        };
        type Parse<'a> = &'a dyn Fn(&str) -> std::result::Result<u64, String>;
        let flags: [(&str, &[String], Parse<'_>, Put); 5] = [
            ("--blkio-weight-device", &self.blkio_weight_device, &weight, |l, n| l.weight = n as u32),
            ("--device-read-bps", &self.device_read_bps, &parse_bytes, |l, n| l.read_bps = n),
            ("--device-write-bps", &self.device_write_bps, &parse_bytes, |l, n| l.write_bps = n),
            ("--device-read-iops", &self.device_read_iops, &number, |l, n| l.read_iops = n),
            ("--device-write-iops", &self.device_write_iops, &number, |l, n| l.write_iops = n),
        ];
        let mut disks: BTreeMap<String, v1::BlockLimit> = BTreeMap::new();
        for (flag, values, parse, put) in flags {
            for text in values {
                let (path, value) =
                    text.rsplit_once(':').filter(|(path, _)| path.starts_with('/')).ok_or_else(|| {
                        Error::usage(format!("{flag} {text:?}: write the disk's path, a colon and the limit"))
                    })?;
                let value = parse(value).map_err(|e| Error::usage(format!("{flag} {text:?}: {e}")))?;
                let limit = v1::BlockLimit { path: path.to_owned(), ..Default::default() };
                put(disks.entry(path.to_owned()).or_insert(limit), value);
            }
        }
        Ok(disks.into_values().collect())
    }
}

/// A limit of CPUs for a new container, which has none by leaving it out.
fn some_cpus(text: &str) -> Result<u64> {
    match nano_cpus(text)? {
        0 => Err(Error::usage(format!("--cpus {text:?} must be more than 0"))),
        nanos => Ok(nanos),
    }
}

/// Billionths of a CPU, from a decimal number.
pub fn nano_cpus(text: &str) -> Result<u64> {
    let bad = || Error::usage(format!("--cpus {text:?} is no number of CPUs, such as 1.5"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
        return Err(bad());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    let all = whole.checked_mul(1_000_000_000).and_then(|w| w.checked_add(nanos)).ok_or_else(bad)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_one_entry() {
        let disks = Disks {
            blkio_weight_device: vec!["/dev/sda:100".into()],
            device_read_bps: vec!["/dev/sdb:1m".into(), "/dev/sda:2k".into()],
            ..Disks::default()
        };
        let limits = disks.limits().expect("limits");
        let seen: Vec<_> = limits.iter().map(|l| (l.path.as_str(), l.weight, l.read_bps)).collect();
        assert_eq!(seen, [("/dev/sda", 100, 2048), ("/dev/sdb", 0, 1 << 20)]);
        for bad in ["sda:1", "/dev/sda", "/dev/sda:x", "/dev/sda:5"] {
            let disks = Disks { blkio_weight_device: vec![bad.into()], ..Disks::default() };
            disks.limits().expect_err(bad);
        }
    }

    #[test]
    fn a_quota_is_a_millisecond_or_none() {
        assert_eq!((parse_quota("1000"), parse_quota("0"), parse_quota("-1")), (Ok(1000), Ok(0), Ok(-1)));
        for bad in ["999", "-2", "1.5", ""] {
            parse_quota(bad).expect_err(bad);
        }
    }
}

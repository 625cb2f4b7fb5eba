//! Limits whose files hold a line for each disk or a file for each size: block I/O and huge pages; and files of v2 by their names.

use super::{Setting, io_weight};
use crate::RuntimeError;
use crate::host;
use berth_model::spec::{BlockLimit, Resources};
use std::collections::BTreeSet;
use std::path::Path;

/// Bytes and operations a second: where v1 keeps them, what v2 calls them, and which they are.
type Rate = (&'static str, &'static str, fn(&BlockLimit) -> Option<u64>);
const RATES: [Rate; 4] = [
    ("blkio.throttle.read_bps_device", "rbps", |l| l.read_bps),
    ("blkio.throttle.write_bps_device", "wbps", |l| l.write_bps),
    ("blkio.throttle.read_iops_device", "riops", |l| l.read_iops),
    ("blkio.throttle.write_iops_device", "wiops", |l| l.write_iops),
];

/// What brings a group from `old` to `new`, and what this host has no file for.
#[derive(Default)]
pub(super) struct Changes {
    pub settings: Vec<Setting>,
    pub missing: Vec<&'static str>,
}

impl Changes {
    /// For a new group: what is missing becomes a warning.
    pub fn there(self, warnings: &mut Vec<String>) -> Vec<Setting> {
        warnings.extend(self.missing.iter().map(|what| format!("this host has no {what}: it is not applied")));
        self.settings
    }

    /// As [`Changes::there`], and writes it.
    pub fn write(self, warnings: &mut Vec<String>) -> Result<(), RuntimeError> {
        self.there(warnings).iter().try_for_each(Setting::write)
    }

    /// For living processes: what is missing is refused.
    pub fn all(self) -> Result<Vec<Setting>, RuntimeError> {
        match self.missing.first() {
            Some(what) => Err(RuntimeError::spec("resources", format!("this host has no {what}"))),
            None => Ok(self.settings),
        }
    }
}

/// A disk's limits before and after.
struct Disk {
    number: String,
    old: BlockLimit,
    new: BlockLimit,
}

impl Disk {
    /// Whether the disk has weights by `file`: those of BFQ are only kept for disks that it schedules (EOPNOTSUPP else, without a word of why).
    fn takes_weight(&self, file: &str) -> Result<(), RuntimeError> {
        let place = format!("/sys/dev/block/{}/queue/scheduler", self.number);
        let other = |schedulers: &String| !schedulers.contains("[bfq]");
        match std::fs::read_to_string(&place).ok().filter(other) {
            Some(_) if file.contains("bfq") && self.new.weight.is_some() => Err(RuntimeError::spec(
                "resources.block_devices",
                format!("the weight of {} needs the scheduler bfq for this disk: echo bfq > {place}", self.new.path),
            )),
            _ => Ok(()),
        }
    }
}

/// Disks whose limits differ. One that is gone has none any more.
fn disks(old: &Resources, new: &Resources) -> Result<Vec<Disk>, RuntimeError> {
    let of = |r: &Resources, path: &str| r.block_devices.iter().find(|l| l.path == path).cloned().unwrap_or_default();
    let paths: BTreeSet<&str> =
        old.block_devices.iter().chain(&new.block_devices).map(|limit| limit.path.as_str()).collect();
    let mut disks = Vec::new();
    for path in paths {
        let (old, new) = (of(old, path), of(new, path));
        if old == new {
            continue;
        }
        match host::device(Path::new(path)).filter(|d| d.block) {
            Some(d) => disks.push(Disk { number: format!("{}:{}", d.major, d.minor), old, new }),
            None if new == BlockLimit::default() => {}
            None => {
                return Err(RuntimeError::spec(
                    "resources.block_devices",
                    format!("{path} is no block device of this host"),
                ));
            }
        }
    }
    Ok(disks)
}

/// v1 (blkio-controller.rst): a file for each kind of limit, a line for each disk; 0 takes it away.
pub(super) fn block_v1(group: &Path, old: &Resources, new: &Resources) -> Result<Changes, RuntimeError> {
    let mut changes = Changes::default();
    // BFQ's since Linux 4.12; CFQ's before 5.0.
    let weights = ["blkio.bfq.weight", "blkio.weight"].into_iter().find(|f| group.join(f).exists());
    let number = |weight: Option<u16>| weight.unwrap_or_default().to_string();
    if old.blkio_weight != new.blkio_weight {
        match weights {
            Some(file) => {
                let default = if file == "blkio.weight" { 500 } else { 100 };
                let value = |weight: Option<u16>| weight.unwrap_or(default).to_string();
                let setting = Setting::new(group.join(file), value(new.blkio_weight));
                changes.settings.push(setting.or_back_to(value(old.blkio_weight)));
            }
            None => changes.missing.push(WEIGHT),
        }
    }
    for disk in disks(old, new)? {
        if let Some(file) = weights {
            disk.takes_weight(file)?;
        }
        let Disk { number: disk, old, new } = disk;
        let mut put = |file: String, was: String, is: String| {
            let setting = Setting::new(group.join(file), format!("{disk} {is}"));
            changes.settings.push(setting.or_back_to(format!("{disk} {was}")));
        };
        for (file, _, rate) in RATES {
            let (was, is) = (rate(&old).unwrap_or(0), rate(&new).unwrap_or(0));
            if was != is {
                put(file.to_owned(), was.to_string(), is.to_string());
            }
        }
        if old.weight != new.weight {
            match weights {
                Some(file) => put(format!("{file}_device"), number(old.weight), number(new.weight)),
                None => changes.missing.push(WEIGHT),
            }
        }
    }
    Ok(changes)
}

const WEIGHT: &str = "weights of block I/O";

/// v2 (cgroup-v2.rst, "IO Interface Files"): one line for each disk.
pub(super) fn block_v2(group: &Path, old: &Resources, new: &Resources) -> Result<Changes, RuntimeError> {
    let mut changes = Changes::default();
    let weights = ["io.bfq.weight", "io.weight"].into_iter().find(|f| group.join(f).exists());
    let value = |file: &str, weight: Option<u16>| match weight {
        None => "100".to_owned(),
        Some(w) if file == "io.bfq.weight" => w.to_string(),
        Some(w) => io_weight(w).to_string(),
    };
    if old.blkio_weight != new.blkio_weight {
        match weights {
            Some(file) => {
                let line = |weight| format!("default {}", value(file, weight));
                let setting = Setting::new(group.join(file), line(new.blkio_weight));
                changes.settings.push(setting.or_back_to(line(old.blkio_weight)));
            }
            None => changes.missing.push(WEIGHT),
        }
    }
    for disk in disks(old, new)? {
        if let Some(file) = weights {
            disk.takes_weight(file)?;
        }
        let Disk { number, old, new } = disk;
        let rates = |limit: &BlockLimit| {
            let rate =
                |(_, name, rate): &Rate| format!(" {name}={}", rate(limit).map_or("max".into(), |n| n.to_string()));
            format!("{number}{}", RATES.iter().map(rate).collect::<String>())
        };
        if rates(&old) != rates(&new) {
            changes.settings.push(Setting::new(group.join("io.max"), rates(&new)).or_back_to(rates(&old)));
        }
        if old.weight != new.weight {
            match weights {
                Some(file) => {
                    let line = |weight: Option<u16>| match weight {
                        Some(_) => format!("{number} {}", value(file, weight)),
                        None => format!("{number} default"),
                    };
                    let setting = Setting::new(group.join(file), line(new.weight));
                    changes.settings.push(setting.or_back_to(line(old.weight)));
                }
                None => changes.missing.push(WEIGHT),
            }
        }
    }
    Ok(changes)
}

/// The files for one size of huge pages, of which the second also counts what is reserved and not yet touched (Linux 5.7).
pub(super) fn hugepages(
    group: &Path,
    old: &Resources,
    new: &Resources,
    (file, none): (&str, &str),
) -> Result<Vec<Setting>, RuntimeError> {
    let mut settings = Vec::new();
    let sizes: BTreeSet<&String> = old.hugepages.keys().chain(new.hugepages.keys()).collect();
    for size in sizes {
        let value = |r: &Resources| r.hugepages.get(size).map_or(none.to_owned(), u64::to_string);
        if old.hugepages.get(size) == new.hugepages.get(size) {
            continue;
        }
        let path = group.join(format!("hugetlb.{size}.{file}"));
        if !path.exists() && !std::path::Path::new("/sys/kernel/mm/hugepages").exists() {
            let why = "this host's kernel has no huge pages, so that it has no limits of them";
            return Err(RuntimeError::spec("resources.hugepages", why.to_owned()));
        }
        if !path.exists() {
            return Err(RuntimeError::spec(
                "resources.hugepages",
                format!("this host has no huge pages of {size}; its sizes are in /sys/kernel/mm/hugepages"),
            ));
        }
        let reserved = group.join(format!("hugetlb.{size}.rsvd.{file}"));
        for path in [Some(path), Some(reserved).filter(|p| p.exists())].into_iter().flatten() {
            settings.push(Setting::new(path, value(new)).or_back_to(value(old)));
        }
    }
    Ok(settings)
}

/// v2's file and word for huge pages, and v1's (hugetlb.rst).
pub(super) const HUGE_V2: (&str, &str) = ("max", "max");
pub(super) const HUGE_V1: (&str, &str) = ("limit_in_bytes", "-1");

/// Files of v2 by their names, behind all other limits. What they held before comes back when a later one is refused.
pub(super) fn unified(group: &Path, old: &Resources, new: &Resources) -> Vec<Setting> {
    let differs = |(file, value): &(&String, &String)| old.unified.get(*file) != Some(*value);
    new.unified.iter().filter(differs).map(|(file, value)| Setting::new(group.join(file), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(settings: &[Setting]) -> Vec<String> {
        let line = |s: &Setting| format!("{}={}<{}", s.path.display(), s.value, s.undo.as_deref().unwrap_or("read"));
        settings.iter().map(line).collect()
    }

    #[test]
    fn disks_that_are_none_are_refused_and_gone_ones_forgotten() {
        let limit = BlockLimit { path: "/dev/null".into(), read_bps: Some(1), ..BlockLimit::default() };
        let some = Resources { block_devices: vec![limit], ..Resources::default() };
        let none = Resources::default();
        let group = Path::new("/nowhere");
        let error = block_v2(group, &none, &some).map(|c| text(&c.settings)).unwrap_err();
        assert!(error.to_string().contains("/dev/null is no block device"), "{error}");
        assert!(block_v1(group, &some, &none).unwrap().settings.is_empty());
    }

    #[test]
    fn a_weight_needs_a_scheduler_that_has_them() {
        let disks = std::fs::read_dir("/sys/dev/block").into_iter().flatten().flatten();
        let number = |e: std::fs::DirEntry| e.file_name().into_string().ok();
        let other = |n: &String| {
            let text = std::fs::read_to_string(format!("/sys/dev/block/{n}/queue/scheduler"));
            text.is_ok_and(|text| !text.contains("[bfq]"))
        };
        let Some(number) = disks.filter_map(number).find(other) else { return };
        let with = |weight| BlockLimit { path: "/dev/a".into(), weight, ..BlockLimit::default() };
        let disk = |weight| Disk { number: number.clone(), old: BlockLimit::default(), new: with(weight) };
        let error = disk(Some(100)).takes_weight("blkio.bfq.weight").unwrap_err().to_string();
        assert!(error.contains("/dev/a") && error.contains("echo bfq"), "{error}");
        disk(None).takes_weight("blkio.bfq.weight").unwrap();
        disk(Some(100)).takes_weight("io.weight").unwrap();
    }

    #[test]
    fn raw_files_are_written_when_they_differ() {
        let with = |value: &str| Resources {
            unified: [("memory.high".to_owned(), value.to_owned())].into(),
            ..Resources::default()
        };
        let group = Path::new("/g");
        assert_eq!(text(&unified(group, &Resources::default(), &with("1"))), ["/g/memory.high=1<read"]);
        assert!(unified(group, &with("1"), &with("1")).is_empty());
        assert!(
            block_v1(group, &with("1"), &Resources { blkio_weight: Some(10), ..with("1") }).unwrap().all().is_err()
        );
    }
}

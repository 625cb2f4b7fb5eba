//! Limits of a container, between the wire and the model.

use super::decode::{Fields, some};
use berth::v1;
use berth_model::list::List;
use berth_model::spec::{BlockLimit, LEAST_CPU_QUOTA_US, Resources};
use berth_node::{ContainerUpdate, ResourceUpdate};
use std::collections::{BTreeMap, HashMap};

/// Docker's least memory: below it no container starts.
const MIN_MEMORY: u64 = 6 << 20;
/// Disks, sizes of pages, files of a group.
const MAX_ENTRIES: usize = 256;

/// Reads the limits of a new container.
pub fn resources(f: &mut Fields, r: v1::Resources) -> Resources {
    let memory = r.memory_bytes;
    let swap = r.memory_swap_bytes;
    if swap > 0 {
        f.check(memory > 0, "resources.memory_swap_bytes", "needs memory_bytes");
        let above = u64::try_from(swap).is_ok_and(|swap| swap >= memory);
        f.check(above, "resources.memory_swap_bytes", "is memory and swap together: not below memory_bytes");
    }
    let reserved = r.memory_reservation_bytes;
    let fits = memory == 0 || reserved <= memory;
    f.check(fits, "resources.memory_reservation_bytes", "must not be above memory_bytes");
    let period = Some(r.cpu_period_us).filter(|n| *n > 0);
    quota(f, r.nano_cpus, r.cpu_quota_us);
    let asked = match u64::try_from(r.cpu_quota_us) {
        Ok(quota) if quota > 0 => {
            Resources::nano_cpus_of(quota, Resources { cpu_period_us: period, ..Resources::default() }.cpu_period())
        }
        _ => {
            on_this_host(f, r.nano_cpus);
            let nano_cpus = Some(r.nano_cpus).filter(|n| *n > 0);
            let cpus = Resources { nano_cpus, cpu_period_us: period, ..Resources::default() };
            cpus.too_few_cpus().into_iter().for_each(|why| f.wrong("resources.nano_cpus", why));
            r.nano_cpus
        }
    };
    let nano_cpus = Some(asked).filter(|n| *n > 0);
    f.check(r.pids.is_none_or(|n| n >= -1), "resources.pids", "must be -1, 0 or more");
    simple(f, memory, swap, r.cpu_shares, &r.cpuset_cpus, &r.cpuset_mems);
    let more = more(f, r.cpu_period_us, r.blkio_weight, r.block_devices, r.hugepages, r.unified);
    let over = |n: u64| Some(n).filter(|n| *n > 0);
    Resources {
        memory_bytes: over(memory),
        memory_swap_bytes: Some(swap).filter(|n| *n != 0),
        memory_reservation_bytes: over(reserved),
        nano_cpus,
        cpu_period_us: period,
        cpu_shares: over(r.cpu_shares),
        cpuset_cpus: some(r.cpuset_cpus),
        cpuset_mems: some(r.cpuset_mems),
        pids: r.pids,
        blkio_weight: Some(more.weight).filter(|w| *w > 0),
        block_devices: more.devices,
        oom_group: r.oom_group,
        hugepages: more.hugepages,
        unified: more.unified,
    }
}

/// Reads the limits of an update; what does not fit beside the old ones is the node's to say.
pub fn update(f: &mut Fields, request: Option<v1::ResourceUpdate>) -> ContainerUpdate {
    let r = request.unwrap_or_default();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let number = |n: Option<u64>| n.unwrap_or_default();
    let swap = r.memory_swap_bytes.unwrap_or_default();
    f.check(r.pids.is_none_or(|n| n >= -1), "resources.pids", "must be -1, 0 or more");
    let (cpus, mems) = (text(&r.cpuset_cpus), text(&r.cpuset_mems));
    simple(f, number(r.memory_bytes), swap, number(r.cpu_shares), &cpus, &mems);
    quota(f, number(r.nano_cpus), r.cpu_quota_us.unwrap_or_default());
    on_this_host(f, number(r.nano_cpus));
    let weight = r.blkio_weight.unwrap_or_default();
    let more = more(f, number(r.cpu_period_us), weight, r.block_devices, r.hugepages, r.unified);
    ContainerUpdate {
        resources: ResourceUpdate {
            memory_bytes: r.memory_bytes,
            memory_swap_bytes: r.memory_swap_bytes,
            memory_reservation_bytes: r.memory_reservation_bytes,
            nano_cpus: r.nano_cpus,
            cpu_quota_us: r.cpu_quota_us,
            cpu_period_us: r.cpu_period_us,
            cpu_shares: r.cpu_shares,
            cpuset_cpus: r.cpuset_cpus,
            cpuset_mems: r.cpuset_mems,
            pids: r.pids,
            blkio_weight: r.blkio_weight.map(|_| more.weight),
            block_devices: more.devices,
            oom_group: r.oom_group,
            hugepages: more.hugepages,
            unified: more.unified,
        },
        restart: None,
    }
}

/// max_bw_runtime_us of kernel/sched/core.c.
const MOST_CPU_QUOTA_US: i64 = (1 << 44) - 1;

/// What a new container and an update say alike; 0 and an empty text are good for both.
fn simple(f: &mut Fields, memory: u64, swap: i64, shares: u64, cpus: &str, mems: &str) {
    f.check(memory == 0 || memory >= MIN_MEMORY, "resources.memory_bytes", "must be 0 or at least 6291456 (6 MiB)");
    f.check(swap >= -1, "resources.memory_swap_bytes", "must be -1, 0 or more");
    f.check(shares == 0 || (2..=262_144).contains(&shares), "resources.cpu_shares", "must be 0 or 2 to 262144");
    type Has = fn() -> Option<List>;
    let cpus = ("cpuset_cpus", "CPU", cpus, berth_node::host_cpus as Has);
    let mems = ("cpuset_mems", "memory node", mems, berth_node::host_memory_nodes as Has);
    for (field, what, text, has) in [cpus, mems].into_iter().filter(|(_, _, text, _)| !text.is_empty()) {
        let field = format!("resources.{field}");
        let Some(asked) = f.take(&field, text.parse::<List>()) else { continue };
        if let Some(has) = has()
            && let Some(missing) = asked.missing_from(&has)
        {
            f.wrong(field, format!("this host has no {what} {missing}, only {has}"));
        }
    }
}

fn quota(f: &mut Fields, nano_cpus: u64, quota: i64) {
    f.check(quota == 0 || nano_cpus == 0, "resources.cpu_quota_us", "is in place of nano_cpus, not beside it");
    let good = matches!(quota, -1 | 0) || (LEAST_CPU_QUOTA_US as i64..=MOST_CPU_QUOTA_US).contains(&quota);
    f.check(good, "resources.cpu_quota_us", "must be -1, 0, or 1000 (a millisecond) to 17592186044415 (half a year)");
}

/// As with Docker, nobody asks for more than there is. A start does not ask: the host may have lost some since.
fn on_this_host(f: &mut Fields, nano_cpus: u64) {
    if let Some(most) = beyond_this_host(nano_cpus) {
        f.wrong("resources.nano_cpus", format!("must be at most {most}, as many as this host has CPUs"));
    }
}

/// How many CPUs this host has, if that is less.
fn beyond_this_host(nano_cpus: u64) -> Option<u64> {
    let most = berth_node::host_cpus().filter(|_| nano_cpus > 0)?.count();
    (nano_cpus > most.saturating_mul(1_000_000_000)).then_some(most)
}

#[derive(Default)]
struct More {
    weight: u16,
    devices: Vec<BlockLimit>,
    hugepages: BTreeMap<String, u64>,
    unified: BTreeMap<String, String>,
}

fn more(
    f: &mut Fields,
    period: u64,
    blkio: u32,
    devices: Vec<v1::BlockLimit>,
    hugepages: HashMap<String, u64>,
    unified: HashMap<String, String>,
) -> More {
    let good = period == 0 || (1000..=1_000_000).contains(&period);
    f.check(good, "resources.cpu_period_us", "must be 0 or 1000 to 1000000");
    for (field, count) in [("block_devices", devices.len()), ("hugepages", hugepages.len()), ("unified", unified.len())]
    {
        f.count(&format!("resources.{field}"), count, MAX_ENTRIES);
    }
    let mut block = Vec::new();
    for (n, device) in devices.into_iter().enumerate() {
        let field = format!("resources.block_devices[{n}]");
        f.path(format!("{field}.path"), &device.path);
        let weight = Some(weight(f, &format!("{field}.weight"), device.weight)).filter(|w| *w > 0);
        let over = |n: u64| Some(n).filter(|n| *n > 0);
        block.push(BlockLimit {
            path: device.path,
            weight,
            read_bps: over(device.read_bps),
            write_bps: over(device.write_bps),
            read_iops: over(device.read_iops),
            write_iops: over(device.write_iops),
        });
    }
    More {
        weight: weight(f, "resources.blkio_weight", blkio),
        devices: block,
        hugepages: hugepages.into_iter().collect(),
        unified: unified.into_iter().collect(),
    }
}

fn weight(f: &mut Fields, field: &str, value: u32) -> u16 {
    f.check(value == 0 || (10..=1000).contains(&value), field, "must be 0 or 10 to 1000");
    u16::try_from(value).unwrap_or_default()
}

/// A container's limits, as they can be asked for again.
pub fn encode(r: &Resources) -> v1::Resources {
    // More processors than there are were asked for as a quota, or the host has lost some since.
    let quota = r.cpu_quota().filter(|_| beyond_this_host(r.nano_cpus.unwrap_or_default()).is_some());
    v1::Resources {
        memory_bytes: r.memory_bytes.unwrap_or_default(),
        memory_swap_bytes: r.memory_swap_bytes.unwrap_or_default(),
        memory_reservation_bytes: r.memory_reservation_bytes.unwrap_or_default(),
        nano_cpus: if quota.is_some() { 0 } else { r.nano_cpus.unwrap_or_default() },
        cpu_shares: r.cpu_shares.unwrap_or_default(),
        cpuset_cpus: r.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: r.cpuset_mems.clone().unwrap_or_default(),
        pids: r.pids,
        cpu_period_us: r.cpu_period_us.unwrap_or_default(),
        blkio_weight: r.blkio_weight.unwrap_or_default().into(),
        block_devices: r.block_devices.iter().map(encode_block).collect(),
        oom_group: r.oom_group,
        hugepages: r.hugepages.clone().into_iter().collect(),
        unified: r.unified.clone().into_iter().collect(),
        cpu_quota_us: quota.map_or(0, |us| us.try_into().unwrap_or(i64::MAX)),
    }
}

fn encode_block(limit: &BlockLimit) -> v1::BlockLimit {
    v1::BlockLimit {
        path: limit.path.clone(),
        weight: limit.weight.unwrap_or_default().into(),
        read_bps: limit.read_bps.unwrap_or_default(),
        write_bps: limit.write_bps.unwrap_or_default(),
        read_iops: limit.read_iops.unwrap_or_default(),
        write_iops: limit.write_iops.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_cannot_be_are_named() {
        let mut f = Fields::default();
        let bad = v1::ResourceUpdate {
            memory_bytes: Some(1),
            memory_swap_bytes: Some(-2),
            nano_cpus: Some(u64::MAX),
            cpu_shares: Some(1),
            cpuset_cpus: Some("0-".into()),
            cpuset_mems: Some("a".into()),
            pids: Some(-2),
            cpu_period_us: Some(1),
            blkio_weight: Some(9),
            block_devices: vec![v1::BlockLimit { path: "sda".into(), weight: 1, ..Default::default() }],
            ..Default::default()
        };
        update(&mut f, Some(bad));
        assert_eq!(f.errors().len(), 11, "{:?}", f.errors());
        for (nanos, quota) in [(1_000_000_000, 1000), (0, 999), (0, -2)] {
            let mut f = Fields::default();
            let bad = v1::ResourceUpdate {
                nano_cpus: Some(nanos).filter(|n| *n > 0),
                cpu_quota_us: Some(quota),
                ..Default::default()
            };
            update(&mut f, Some(bad));
            assert_eq!(f.errors().len(), 1, "{quota}: {:?}", f.errors());
        }
        let mut f = Fields::default();
        let good = v1::ResourceUpdate { memory_bytes: Some(0), cpuset_cpus: Some(String::new()), ..Default::default() };
        assert_eq!(update(&mut f, Some(good)).resources.memory_bytes, Some(0));
        assert_eq!(update(&mut f, None), ContainerUpdate::default());
        assert_eq!(f.errors(), []);
    }

    #[test]
    fn limits_come_back_as_they_went_in() {
        let disk =
            v1::BlockLimit { path: "/dev/sda".into(), weight: 10, read_bps: 1, write_iops: 2, ..Default::default() };
        let asked = v1::Resources {
            nano_cpus: 1_000_000_000,
            cpu_period_us: 1000,
            blkio_weight: 1000,
            block_devices: vec![disk],
            oom_group: true,
            hugepages: [("2MB".to_owned(), 0)].into(),
            unified: [("memory.high".to_owned(), "1G".to_owned())].into(),
            ..Default::default()
        };
        let mut f = Fields::default();
        assert_eq!(encode(&resources(&mut f, asked.clone())), asked);
        assert_eq!(f.errors(), []);
    }

    #[test]
    fn a_quota_becomes_processors_even_more_than_there_are() {
        let read = |r: v1::Resources| {
            let mut f = Fields::default();
            (resources(&mut f, r), f.errors().len())
        };
        let quota = |us, period| v1::Resources { cpu_quota_us: us, cpu_period_us: period, ..Default::default() };
        let (r, wrong) = read(quota(25_000, 30_000));
        assert_eq!((r.cpu_quota(), r.cpu_period_us, wrong), (Some(25_000), Some(30_000), 0));
        let (r, wrong) = read(quota(1_000_000_000, 0));
        assert_eq!((r.nano_cpus, wrong), (Some(10_000_000_000_000), 0));
        for unlimited in [quota(-1, 50_000), quota(0, 50_000)] {
            let (r, wrong) = read(unlimited);
            assert_eq!((r.nano_cpus, r.cpu_period_us, wrong), (None, Some(50_000), 0));
        }
        for nano_cpus in [1_000_000, 10_000_000_000_000] {
            assert_eq!(read(v1::Resources { nano_cpus, ..Default::default() }).1, 1, "{nano_cpus}");
        }
    }
}

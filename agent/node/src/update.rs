//! Update: limits of a container, of one that runs at once, and its restart policy.

use crate::container::Container;
use crate::node::Inner;
use crate::store::{Durability, Write};
use crate::view::Requester;
use crate::{Node, NodeError, policy};
use berth_model::spec::{BlockLimit, Resources};
use berth_model::supervision::RestartPolicy;
use berth_model::{ContainerId, Phase};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What becomes of a container; what is None stays.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct ContainerUpdate {
    pub resources: ResourceUpdate,
    pub restart: Option<RestartPolicy>,
}

/// Limits; None: it stays. The values that mean "no limit" are those of the API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ResourceUpdate {
    /// 0: no limit, of swap neither.
    pub memory_bytes: Option<u64>,
    /// 0: twice the memory; -1: no limit.
    pub memory_swap_bytes: Option<i64>,
    /// 0: none.
    pub memory_reservation_bytes: Option<u64>,
    /// 0: no limit.
    pub nano_cpus: Option<u64>,
    /// Microseconds of each period in place of it; 0 or less: no limit. Left out where it is not asked for, as earlier agents know none: the same request
    /// has the same words for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota_us: Option<i64>,
    /// 0: the default.
    pub cpu_period_us: Option<u64>,
    /// 0: the default.
    pub cpu_shares: Option<u64>,
    /// Empty: all.
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// 0 or less: no limit.
    pub pids: Option<i64>,
    /// 0: the default.
    pub blkio_weight: Option<u16>,
    /// In place of what each disk had; other disks keep theirs.
    pub block_devices: Vec<BlockLimit>,
    pub oom_group: Option<bool>,
    /// Beside those of other sizes.
    pub hugepages: BTreeMap<String, u64>,
    /// Beside other files.
    pub unified: BTreeMap<String, String>,
}

impl ResourceUpdate {
    /// A new period alone keeps the microseconds of each, as runc does.
    fn nano_cpus(&self, old: &Resources, period_us: Option<u64>) -> Option<u64> {
        let period = Resources { cpu_period_us: period_us, ..Resources::default() }.cpu_period();
        let of = |quota| Some(Resources::nano_cpus_of(quota, period));
        match (self.nano_cpus, self.cpu_quota_us) {
            (Some(nanos), _) => Some(nanos).filter(|n| *n > 0),
            (None, Some(quota)) => u64::try_from(quota).ok().filter(|q| *q > 0).and_then(of),
            (None, None) if old.cpu_period() == period => old.nano_cpus,
            (None, None) => old.cpu_quota().and_then(of),
        }
    }

    fn applied(&self, old: &Resources) -> Resources {
        fn number<T: PartialEq + Default + Copy>(new: Option<T>, old: Option<T>) -> Option<T> {
            new.map_or(old, |n| Some(n).filter(|n| *n != T::default()))
        }
        let list = |new: &Option<String>, old: &Option<String>| match new {
            Some(new) => Some(new.clone()).filter(|n| !n.is_empty()),
            None => old.clone(),
        };
        fn beside<V: Clone>(new: &BTreeMap<String, V>, old: &BTreeMap<String, V>) -> BTreeMap<String, V> {
            old.iter().chain(new).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
        let said = |limit: &&BlockLimit| self.block_devices.iter().any(|new| new.path == limit.path);
        let mut disks: Vec<BlockLimit> = old.block_devices.iter().filter(|l| !said(l)).cloned().collect();
        let nothing = |l: &BlockLimit| *l == BlockLimit { path: l.path.clone(), ..BlockLimit::default() };
        disks.extend(self.block_devices.iter().filter(|l| !nothing(l)).cloned());
        let cpu_period_us = number(self.cpu_period_us, old.cpu_period_us);
        let unlimited = self.memory_bytes == Some(0) && self.memory_swap_bytes.is_none();
        Resources {
            memory_bytes: number(self.memory_bytes, old.memory_bytes),
            memory_swap_bytes: if unlimited { None } else { number(self.memory_swap_bytes, old.memory_swap_bytes) },
            memory_reservation_bytes: number(self.memory_reservation_bytes, old.memory_reservation_bytes),
            nano_cpus: self.nano_cpus(old, cpu_period_us),
            cpu_period_us,
            cpu_shares: number(self.cpu_shares, old.cpu_shares),
            cpuset_cpus: list(&self.cpuset_cpus, &old.cpuset_cpus),
            cpuset_mems: list(&self.cpuset_mems, &old.cpuset_mems),
            pids: self.pids.or(old.pids),
            blkio_weight: number(self.blkio_weight, old.blkio_weight),
            block_devices: disks,
            oom_group: self.oom_group.unwrap_or(old.oom_group),
            hugepages: beside(&self.hugepages, &old.hugepages),
            unified: beside(&self.unified, &old.unified),
        }
    }
}

impl Node {
    /// Changes a container, running or not: all that is asked for, or nothing.
    ///
    /// # Errors
    /// `Invalid`: limits that do not fit each other; `Runtime`: the kernel refuses one.
    pub async fn update(
        &self,
        who: &Requester,
        container: &str,
        update: ContainerUpdate,
    ) -> Result<ContainerId, NodeError> {
        let found = self.find(container)?;
        let Some(ticket) = self.begin(who, "Update", &(container, &update)).await? else { return Ok(found.id.clone()) };
        let (inner, container) = (self.inner().clone(), found.clone());
        self.inner().to_its_end(async move { apply(&inner, &container, &update).await }).await?;
        self.answered(ticket, found.id.as_str()).await;
        Ok(found.id.clone())
    }
}

async fn apply(inner: &Arc<Inner>, container: &Arc<Container>, update: &ContainerUpdate) -> Result<(), NodeError> {
    let mut gate = container.enter().await?;
    let before = container.record();
    if before.phase == Phase::Removing {
        return Err(NodeError::ContainerNotFound(before.name.clone()));
    }
    let mut spec = before.spec.clone();
    spec.resources = update.resources.applied(&before.spec.resources);
    spec.restart = update.restart.unwrap_or(spec.restart);
    let mut wrong = inner.runtime.check(&spec);
    // The rest was good enough when it was made.
    wrong.retain(|(field, _)| field.starts_with("resources."));
    let of_cpus = update.resources.nano_cpus.is_some() || update.resources.cpu_quota_us.is_some();
    if let Some(why) = spec.resources.too_few_cpus().filter(|_| of_cpus) {
        wrong.push(("resources.nano_cpus".to_owned(), why));
    }
    if spec.auto_remove && spec.restart != RestartPolicy::No {
        wrong.push(("restart".to_owned(), "does not go with auto_remove".to_owned()));
    }
    if !wrong.is_empty() {
        return Err(NodeError::Invalid(wrong));
    }
    let live = before.phase == Phase::Running;
    let (old, new) = (before.spec.resources.clone(), spec.resources.clone());
    if live && old != new {
        limit(inner, container, old.clone(), new.clone()).await?;
    }
    let planned = before.supervision.next.filter(|_| spec.restart == RestartPolicy::No);
    if planned.is_some() {
        policy::cancel(inner, &mut gate);
    }
    let record = gate.change(|r| r.spec = spec);
    let event = inner.events.add_container(&record, "update", &[]);
    if let Err(e) = inner.store.write(vec![Write::PutContainer(record), event], Durability::Durable).await {
        gate.change(|r| {
            r.spec = before.spec.clone();
            r.supervision.next = before.supervision.next;
        });
        policy::arm(inner, container);
        if live
            && old != new
            && let Err(e) = limit(inner, container, new, old).await
        {
            tracing::error!(container = %container.id, error = %e, "putting limits back that could not be written down");
        }
        return Err(e.into());
    }
    Ok(())
}

async fn limit(inner: &Arc<Inner>, container: &Container, old: Resources, new: Resources) -> Result<(), NodeError> {
    let (runtime, id) = (inner.runtime.clone(), container.id.clone());
    inner.blocking(move || Ok(runtime.update(&id, &old, &new)?)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_stays_and_zero_takes_away() {
        let old = Resources {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(-1),
            nano_cpus: Some(5),
            cpuset_cpus: Some("0".into()),
            pids: Some(7),
            ..Resources::default()
        };
        let none = ResourceUpdate::default();
        assert_eq!(none.applied(&old), old);
        let less = ResourceUpdate {
            memory_bytes: Some(0),
            nano_cpus: Some(0),
            cpuset_cpus: Some(String::new()),
            pids: Some(-1),
            cpu_shares: Some(512),
            ..none.clone()
        };
        let want = Resources { pids: Some(-1), cpu_shares: Some(512), ..Resources::default() };
        assert_eq!(less.applied(&old), want);
        let disk = |path: &str, read_bps| BlockLimit { path: path.into(), read_bps, ..BlockLimit::default() };
        let disks = Resources { block_devices: vec![disk("/dev/a", Some(1)), disk("/dev/b", Some(1))], ..old.clone() };
        let other =
            ResourceUpdate { block_devices: vec![disk("/dev/b", Some(2)), disk("/dev/a", None)], ..none.clone() };
        assert_eq!(other.applied(&disks).block_devices, [disk("/dev/b", Some(2))]);
        let swap = ResourceUpdate { memory_swap_bytes: Some(0), ..none.clone() };
        assert_eq!(swap.applied(&old), Resources { memory_swap_bytes: None, ..old });
    }

    #[test]
    fn a_quota_is_counted_in_the_period_that_is_there() {
        let half = Resources { nano_cpus: Some(500_000_000), ..Resources::default() };
        let told = |r: &Resources| (r.cpu_quota(), r.cpu_period());
        let none = ResourceUpdate::default();
        let period = ResourceUpdate { cpu_period_us: Some(30_000), ..none.clone() };
        let changed = period.applied(&half);
        assert_eq!(told(&changed), (Some(50_000), 30_000));
        let quota = |us| ResourceUpdate { cpu_quota_us: Some(us), ..none.clone() };
        assert_eq!(told(&quota(7000).applied(&changed)), (Some(7000), 30_000));
        for unlimited in [quota(-1), quota(0), ResourceUpdate { nano_cpus: Some(0), ..none.clone() }] {
            assert_eq!(told(&unlimited.applied(&changed)), (None, 30_000));
        }
        assert_eq!(told(&period.applied(&Resources::default())), (None, 30_000));
        let back = ResourceUpdate { cpu_period_us: Some(0), ..none };
        assert_eq!(told(&back.applied(&changed)), (Some(50_000), 100_000));
    }
}

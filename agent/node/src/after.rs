//! Dependencies: a container that starts after others, and the order that follows for all of a node.

use crate::NodeError;
use crate::container::{Container, Containers};
use crate::node::Inner;
use berth_model::supervision::{After, AfterCondition, HealthStatus};
use berth_model::{ContainerRecord, Phase};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a start waits for what it depends on; a start period of some minutes fits.
const PATIENCE: Duration = Duration::from_secs(300);
/// Ends and states of health wake a waiting start at once; what else there is, is looked at so often.
const LOOK: Duration = Duration::from_millis(250);
/// Links of a chain of dependencies that are followed.
const CHAIN_MAX: usize = 1000;

/// How a dependency stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    Met,
    /// It is on its way.
    Waiting(&'static str),
    /// It will not come by itself; why, behind its name.
    Never(String),
}

/// Pure. `probed`: it has a health check.
fn standing(record: &ContainerRecord, probed: bool, condition: AfterCondition) -> Standing {
    let coming = record.phase == Phase::Starting || record.is_restarting();
    match condition {
        AfterCondition::Started => match record.phase {
            Phase::Running => Standing::Met,
            _ if coming => Standing::Waiting("to start"),
            _ => Standing::Never("is not running".to_owned()),
        },
        AfterCondition::Healthy if !probed => Standing::Never("has no health check".to_owned()),
        AfterCondition::Healthy => match record.phase {
            Phase::Running => match record.supervision.health.as_ref().map(|h| h.status).unwrap_or_default() {
                HealthStatus::Healthy => Standing::Met,
                HealthStatus::Starting => Standing::Waiting("to become healthy"),
                HealthStatus::Unhealthy => Standing::Never("is unhealthy".to_owned()),
            },
            _ if coming => Standing::Waiting("to start"),
            _ => Standing::Never("is not running".to_owned()),
        },
        AfterCondition::Completed => match (record.phase, &record.exit) {
            (Phase::Running, _) => Standing::Waiting("to complete"),
            _ if coming => Standing::Waiting("to complete"),
            (Phase::Exited, Some(exit)) if exit.code == 0 => Standing::Met,
            (Phase::Exited, Some(exit)) => Standing::Never(format!("has failed with code {}", exit.code)),
            _ => Standing::Never("was not started".to_owned()),
        },
    }
}

fn look(containers: &Containers, after: &After) -> Standing {
    match containers.find(&after.container) {
        Ok(found) => standing(&found.record(), found.check.is_some(), after.condition),
        Err(_) => Standing::Never("does not exist".to_owned()),
    }
}

/// Everything that it starts after is as it should be.
pub(crate) fn is_met(inner: &Inner, container: &Container) -> bool {
    container.record().spec.after.iter().all(|a| look(&inner.containers, a) == Standing::Met)
}

/// Waits until everything that `container` starts after is as it should be, or `wanted` says that nobody waits any more. Takes no gate.
///
/// # Errors
/// `Dependency`: it will not be by itself, or was not within the patience.
pub(crate) async fn ready(
    inner: &Inner,
    container: &Container,
    wanted: impl Fn(&ContainerRecord) -> bool,
) -> Result<(), NodeError> {
    let record = container.record();
    let until = Instant::now() + PATIENCE;
    for after in &record.spec.after {
        let not_met = |why: String| NodeError::Dependency {
            container: record.name.clone(),
            dependency: after.container.clone(),
            why,
        };
        loop {
            // Before the look: what changes behind it is not missed.
            let signs = inner.containers.find(&after.container).ok().map(|c| (c.life(), c.health.subscribe()));
            let waiting = match look(&inner.containers, after) {
                Standing::Met => break,
                Standing::Never(why) => return Err(not_met(why)),
                Standing::Waiting(what) => what,
            };
            if !wanted(&container.record()) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(not_met(format!("was waited for {waiting}, for {} s in vain", PATIENCE.as_secs())));
            }
            let Some((mut life, mut health)) = signs else { continue };
            tokio::select! {
                _ = life.changed() => {}
                _ = health.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = inner.stop.cancelled() => return Err(NodeError::Stopping),
            }
        }
    }
    Ok(())
}

/// The same for a start that a person asked for: one that runs needs nothing.
pub(crate) async fn before_start(inner: &Inner, container: &Container) -> Result<(), NodeError> {
    let to_be = |r: &ContainerRecord| matches!(r.phase, Phase::Created | Phase::Exited);
    if !to_be(&container.record()) {
        return Ok(());
    }
    ready(inner, container, to_be).await
}

/// What is wrong with the dependencies of a container to be made under `name`: field and message of everything.
pub(crate) fn check(containers: &Containers, name: Option<&str>, after: &[After]) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    for (n, one) in after.iter().enumerate() {
        let found = match containers.find(&one.container) {
            Ok(found) => found,
            Err(_) if Some(one.container.as_str()) == name => {
                wrong.push((format!("after[{n}]"), "a container cannot start after itself".to_owned()));
                continue;
            }
            Err(_) => {
                let message = format!("there is no container {}: create it first", one.container);
                wrong.push((format!("after[{n}]"), message));
                continue;
            }
        };
        if one.condition == AfterCondition::Healthy && found.check.is_none() {
            wrong.push((format!("after[{n}]"), format!("container {} has no health check", one.container)));
        }
        let chain = name.and_then(|name| chain_to(containers, &found, name));
        if let Some(chain) = chain {
            wrong.push((format!("after[{n}]"), format!("a circle: {}", chain.join(" starts after "))));
        }
    }
    wrong
}

/// The names from `from` to a container that starts after `name`, with `name` at both ends: by name, as starts find each other.
fn chain_to(containers: &Containers, from: &Arc<Container>, name: &str) -> Option<Vec<String>> {
    let mut paths = vec![vec![from.record().name.clone()]];
    let mut seen = Vec::new();
    while let Some(path) = paths.pop() {
        let Some(last) = path.last().filter(|l| !seen.contains(*l) && seen.len() < CHAIN_MAX) else { continue };
        seen.push(last.clone());
        let Ok(container) = containers.find(last) else { continue };
        for next in &container.record().spec.after {
            let mut longer = path.clone();
            longer.push(next.container.clone());
            if next.container == name {
                longer.insert(0, name.to_owned());
                return Some(longer);
            }
            paths.push(longer);
        }
    }
    None
}

/// For each container how many others it has to wait for, one behind the other: 0 for those that wait for none. What stands in a circle
/// counts as if it did not wait.
pub(crate) fn depths(containers: &[Arc<Container>]) -> Vec<usize> {
    let place = |c: &Arc<Container>, n: usize| [(c.id.to_string(), n), (c.record().name.clone(), n)];
    let places: HashMap<String, usize> = containers.iter().enumerate().flat_map(|(n, c)| place(c, n)).collect();
    let links: Vec<Vec<usize>> = containers
        .iter()
        .map(|c| c.record().spec.after.iter().filter_map(|a| places.get(&a.container).copied()).collect())
        .collect();
    depths_of(&links)
}

fn depths_of(links: &[Vec<usize>]) -> Vec<usize> {
    let mut depths = vec![0; links.len()];
    // Each round settles one more link of the longest chain; in a circle nothing ever settles.
    for _ in 0..links.len().min(CHAIN_MAX) {
        let mut changed = false;
        for (n, after) in links.iter().enumerate() {
            let depth = after.iter().filter(|a| **a != n).map(|a| depths[*a] + 1).max().unwrap_or(0);
            if depth > depths[n] && depth < links.len() {
                depths[n] = depth;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::container_record;
    use AfterCondition::*;
    use berth_model::supervision::HealthState;
    use berth_model::{ExitStatus, Timestamp};

    #[test]
    fn how_dependencies_stand() {
        let health = |status| Some(HealthState { status, ..HealthState::default() });
        // phase, exit code, planned, health, condition -> met, waiting
        for (phase, code, planned, status, condition, met, waiting) in [
            (Phase::Running, None, false, None, Started, true, false),
            (Phase::Starting, None, false, None, Started, false, true),
            (Phase::Exited, Some(1), true, None, Started, false, true),
            (Phase::Exited, Some(0), false, None, Started, false, false),
            (Phase::Created, None, false, None, Started, false, false),
            (Phase::Running, None, false, health(HealthStatus::Healthy), Healthy, true, false),
            (Phase::Running, None, false, health(HealthStatus::Starting), Healthy, false, true),
            (Phase::Running, None, false, health(HealthStatus::Unhealthy), Healthy, false, false),
            (Phase::Running, None, false, None, Completed, false, true),
            (Phase::Exited, Some(0), false, None, Completed, true, false),
            (Phase::Exited, Some(3), false, None, Completed, false, false),
            (Phase::Exited, Some(3), true, None, Completed, false, true),
            (Phase::Created, None, false, None, Completed, false, false),
        ] {
            let mut record = container_record(1);
            record.phase = phase;
            record.exit = code.map(|code| ExitStatus { code, ..ExitStatus::default() });
            record.supervision.next = planned.then(Timestamp::default);
            record.supervision.health = status.clone();
            let found = standing(&record, true, condition);
            let is = (found == Standing::Met, matches!(found, Standing::Waiting(_)));
            assert_eq!(is, (met, waiting), "{phase} {code:?} {planned} {status:?} {condition:?}: {found:?}");
        }
        assert!(
            matches!(standing(&container_record(1), false, Healthy), Standing::Never(why) if why.contains("no health"))
        );
    }

    #[test]
    fn depths_of_chains_and_circles() {
        assert_eq!(depths_of(&[vec![], vec![0], vec![1, 0], vec![]]), [0, 1, 2, 0]);
        assert_eq!(depths_of(&[vec![1], vec![2], vec![]]), [2, 1, 0]);
        assert_eq!(depths_of(&[vec![0]]), [0]);
        // Bounded, and nobody is lost.
        assert!(depths_of(&[vec![1], vec![0], vec![]]).iter().all(|d| *d < 3));
    }
}

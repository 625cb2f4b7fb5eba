//! Top: the processes of a container.

use crate::{Node, NodeError};
use berth_model::Timestamp;
use berth_runtime::ProcessInfo;
use std::collections::HashMap;

/// Processes of one answer.
const MAX: usize = 16_384;

/// What was found of a container's processes.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    /// When they were looked at.
    pub time: Timestamp,
    /// By pid.
    pub processes: Vec<ProcessInfo>,
    /// The host's names of their users, where it has any.
    pub users: HashMap<u32, String>,
    pub host_memory_bytes: u64,
    /// There are more.
    pub truncated: bool,
}

impl Node {
    /// The processes of a running container, read from /proc.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn top(&self, container: &str) -> Result<Processes, NodeError> {
        let container = self.find(container)?;
        container.running_shim()?;
        let (runtime, id) = (self.inner().runtime.clone(), container.id.clone());
        let ids = container.record().userns.range;
        let look = move || {
            let (mut processes, truncated) = runtime.processes(&id, MAX);
            if let Some(ids) = ids {
                // As in the container: the host has nobody with these numbers.
                processes.iter_mut().for_each(|p| p.uid = ids.inside_uid(p.uid).unwrap_or(berth_tar::NOBODY));
            }
            let mut users = HashMap::new();
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            for line in passwd.lines() {
                let mut fields = line.split(':');
                if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) {
                    // The first one of a number counts, as for getpwuid(3).
                    users.entry(uid).or_insert_with(|| name.to_owned());
                }
            }
            let host_memory_bytes = berth_sys::store::memory_bytes().unwrap_or_default();
            Ok(Processes { time: Timestamp::now(), processes, users, host_memory_bytes, truncated })
        };
        self.inner().blocking(look).await
    }
}

//! Landlock around containers: which of them have it, and what this host lacks.
//!
//! Its domain is entered just before the credentials change, by the first process and by each exec, and allows everything beneath the
//! container's root. So what is mounted in a container is its own as ever, and a folder of the host behind a descriptor that was left open is not.

use crate::{OWN_RUNTIME, Runtime, RuntimeError, plan};
use berth_model::ContainerSpec;

impl Runtime {
    /// What a request's words, and its silence, mean in the container's record. Once more changes nothing.
    pub fn default_walls(&self, spec: &mut ContainerSpec) {
        spec.landlock = self.landlock(spec);
        let default = self.inner.config.no_new_privileges && !spec.privileged;
        spec.no_new_privileges |= default && !spec.new_privileges;
        spec.new_privileges &= default;
    }

    /// What a request's word means in the container's record: nothing, but where the agent's default says so, or is contradicted.
    fn landlock(&self, spec: &ContainerSpec) -> Option<bool> {
        match spec.landlock {
            Some(true) => Some(true),
            asked if self.inner.config.landlock && !self.mounts_by_itself(spec) => Some(asked.unwrap_or(true)),
            _ => None,
        }
    }

    /// What Landlock would take from it.
    fn mounts_by_itself(&self, spec: &ContainerSpec) -> bool {
        let capabilities = plan::capabilities(spec, &self.inner.host, &mut Vec::new());
        let admin = berth_sys::cap::bit("SYS_ADMIN").unwrap_or(0);
        spec.privileged || capabilities & admin != 0
    }

    /// The kernel's version of Landlock, and whether containers have it that do not say it.
    pub fn landlock_abi(&self) -> (Option<u32>, bool) {
        (self.inner.host.landlock, self.inner.config.landlock)
    }

    pub(crate) fn check_landlock(&self, spec: &ContainerSpec) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut say = |message: String| wrong.push(("landlock".to_owned(), message));
        if spec.landlock != Some(true) {
            return wrong;
        }
        if spec.privileged {
            say("does not go with privileged: what is in a Landlock domain mounts nothing".to_owned());
        }
        if !spec.runtime.is_empty() {
            say(format!("is {OWN_RUNTIME}'s own: the runtime {} has none; ask for landlock=off with it", spec.runtime));
        }
        if let Err(e) = self.inner.host.landlock_abi() {
            say(e.to_owned());
        }
        wrong
    }

    /// A default that this host cannot keep is no default.
    pub(crate) fn require_landlock(&self) -> Result<(), RuntimeError> {
        if !self.inner.config.landlock {
            return Ok(());
        }
        let there = self.inner.host.landlock_abi().map(drop);
        there.map_err(|why| RuntimeError::spec("isolation.landlock", why))
    }
}

//! Which runtime a container is of.

use crate::plan::{self, GivenDevice, oci};
use crate::{OWN_RUNTIME, OtherFound, OtherRuntime, PlanInput, Runtime, RuntimeError, foreign, launch, seccomp};
use berth_model::spec::Seccomp;
use berth_model::{ContainerId, ContainerSpec};
use std::path::Path;

impl Runtime {
    /// What a request's word means: empty for our own runtime, else a name that may be none of this agent's.
    pub fn named(&self, asked: &str) -> String {
        match asked {
            "" => self.inner.config.default_runtime.clone(),
            OWN_RUNTIME => String::new(),
            other => other.to_owned(),
        }
    }

    /// The runtimes of the configuration, each asked for its version. Blocking, for 5 s each at most.
    pub fn others(&self) -> Vec<OtherFound> {
        self.inner.config.runtimes.iter().map(|(name, runtime)| foreign::look(name, runtime)).collect()
    }

    /// None: our own.
    pub(crate) fn other(&self, name: &str) -> Result<Option<&OtherRuntime>, RuntimeError> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.inner.config.runtimes.get(name);
        found.map(Some).ok_or_else(|| RuntimeError::spec("runtime", self.unknown(name)))
    }

    fn unknown(&self, name: &str) -> String {
        let known: Vec<&str> =
            [OWN_RUNTIME].into_iter().chain(self.inner.config.runtimes.keys().map(|k| &**k)).collect();
        format!("no runtime {name:?}: this agent has {}", known.join(", "))
    }

    /// What is wrong with a spec for the runtime that it names, by field.
    pub(crate) fn check_runtime(&self, spec: &ContainerSpec) -> Vec<(String, String)> {
        let name = &spec.runtime;
        let mut wrong = Vec::new();
        match self.other(name) {
            Ok(None) => return wrong,
            Ok(Some(_)) => {}
            Err(_) => wrong.push(("runtime".to_owned(), self.unknown(name))),
        }
        if let Err(RuntimeError::Spec { field, message }) = self.with_its_driver(spec) {
            wrong.push((field, message));
        }
        if spec.writable_cgroups {
            let message = format!("is {OWN_RUNTIME}'s own: the runtime {name} shows groups read-only");
            wrong.push(("writable_cgroups".to_owned(), message));
        }
        if spec.init {
            wrong.push(("init".to_owned(), format!("is {OWN_RUNTIME}'s own: the runtime {name} has none")));
        }
        wrong
    }

    /// Other runtimes are given a group that is made and empty, which a scope of systemd's cannot be.
    pub(crate) fn with_its_driver(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        if self.inner.cgroups.needs_holder() && self.other(&spec.runtime)?.is_some() {
            let message = format!("{} does not go with containers.cgroup_driver = \"systemd\"", spec.runtime);
            return Err(RuntimeError::spec("runtime", message));
        }
        Ok(())
    }

    pub(crate) fn places(&self, run_dir: &Path) -> oci::Places {
        oci::Places {
            run_root: self.inner.config.run_root.clone(),
            bundle: foreign::bundle_in(run_dir),
            without: self.inner.cgroups.unused(),
        }
    }

    pub(crate) fn for_other(
        &self,
        runtime: &OtherRuntime,
        input: &PlanInput<'_>,
        devices: &[GivenDevice],
    ) -> Result<oci::Other, RuntimeError> {
        let spec = input.spec;
        let confined = !spec.privileged && spec.seccomp != Seccomp::Unconfined;
        let seccomp = if confined {
            // Not needed, but tried: what starts nothing is refused before, as with our own.
            self.seccomp(spec)?;
            let capabilities = plan::capabilities(spec, &self.inner.host, &mut Vec::new());
            let (profile, target) = self.profile(spec, capabilities)?;
            Some(seccomp::to_oci(&profile, &target).map_err(|e| RuntimeError::spec("seccomp", e.to_string()))?)
        } else {
            None
        };
        Ok(oci::Other {
            name: spec.runtime.clone(),
            runtime: runtime.clone(),
            places: self.places(input.run_dir),
            cgroups_path: self.inner.cgroups.path_in_hierarchies(input.id),
            seccomp,
            memory: self.inner.cgroups.memory_for_others(&spec.resources),
            device_rules: plan::device_rules(spec, devices),
        })
    }

    /// Has another runtime forget a container that has ended; our own has nothing to forget. What it does not take apart goes with the folder
    /// of the run and the groups. Blocking.
    ///
    /// # Errors
    /// `OtherRuntime` with its words; `Spec`: it is none of this agent's any more.
    pub fn forget(&self, id: &ContainerId, runtime: &str, run_dir: &Path) -> Result<(), RuntimeError> {
        let places = self.places(run_dir);
        if runtime.is_empty() || !places.bundle.exists() {
            return Ok(());
        }
        let Some(other) = self.other(runtime)? else { return Ok(()) };
        let Some(wire) = foreign::delete(other, &places, id.as_str()) else { return Ok(()) };
        let done = launch::do_once(&self.inner.launcher, id, wire);
        done.map_err(|e| foreign::explain(e, runtime, &places.bundle, ""))
    }
}

//! Compiled seccomp programs: a profile is compiled once for all containers that share it and have the same capabilities.

use berth_model::spec::Seccomp;
use std::sync::{Arc, Mutex};

/// Programs kept at most, about 6 KB each: containers with profiles of their own are few.
const MAX_PROGRAMS: usize = 64;

struct Program {
    profile: Seccomp,
    capabilities: u64,
    bytes: Arc<[u8]>,
}

/// Newest last; the oldest goes when there are too many.
#[derive(Default)]
pub struct Programs(Mutex<Vec<Program>>);

impl Programs {
    /// What `compile` made of the same profile and capabilities before, or makes now. A failure is not kept.
    pub fn get<E>(
        &self,
        profile: &Seccomp,
        capabilities: u64,
        compile: impl FnOnce() -> Result<Arc<[u8]>, E>,
    ) -> Result<Arc<[u8]>, E> {
        let mut programs = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = programs.iter().find(|p| p.capabilities == capabilities && p.profile == *profile) {
            return Ok(known.bytes.clone());
        }
        let bytes = compile()?;
        if programs.len() >= MAX_PROGRAMS {
            programs.remove(0);
        }
        programs.push(Program { profile: profile.clone(), capabilities, bytes: bytes.clone() });
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails() -> Result<Arc<[u8]>, &'static str> {
        Err("compiled again")
    }

    fn compiled(byte: u8) -> Result<Arc<[u8]>, &'static str> {
        Ok([byte].into())
    }

    #[test]
    fn one_for_all_that_share_profile_and_capabilities() {
        let programs = Programs::default();
        let own = |text: &str| Seccomp::Profile(text.into());
        assert_eq!(programs.get(&Seccomp::Default, 1, fails), Err("compiled again"));
        assert_eq!(*programs.get(&Seccomp::Default, 1, || compiled(1)).unwrap(), [1]);
        assert_eq!(*programs.get(&Seccomp::Default, 2, || compiled(2)).unwrap(), [2]);
        assert_eq!(*programs.get(&own("{}"), 1, || compiled(3)).unwrap(), [3]);
        assert_eq!(*programs.get(&own("{ }"), 1, || compiled(4)).unwrap(), [4]);
        let first = programs.get(&Seccomp::Default, 1, fails).unwrap();
        assert!(Arc::ptr_eq(&first, &programs.get(&Seccomp::Default, 1, fails).unwrap()));
        assert_eq!(*first, [1]);
        assert_eq!(*programs.get(&own("{}"), 1, fails).unwrap(), [3]);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let programs = Programs::default();
        for capabilities in 0..=MAX_PROGRAMS as u64 {
            programs.get(&Seccomp::Default, capabilities, || compiled(0)).unwrap();
        }
        programs.get(&Seccomp::Default, 1, fails).unwrap();
        assert_eq!(programs.get(&Seccomp::Default, 0, fails), Err("compiled again"));
    }
}

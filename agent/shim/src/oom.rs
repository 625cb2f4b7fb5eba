//! Whether the kernel has ended processes of a group of systemd's for want of memory.
//!
//! systemd removes a group moments behind its last process, so that nobody can ask for it later than here; and now and then it is faster.
//! Then the group above it, where the kernel counts all of those below, tells whether there was such an end since the start.

use berth_model::wire::Plan;
use berth_sys::fs::{self, Open};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// The groups' counters, opened while this process may open what it likes.
pub struct Watch {
    group: Option<File>,
    above: Option<File>,
    /// Kills in the group above and all below it, before the workload ran.
    before: Option<u64>,
}

impl Watch {
    /// `None`: the group stays, and the agent can look for itself.
    pub fn new(plan: &Plan<'_>, fds: &[OwnedFd]) -> Option<Self> {
        let open = |place: Option<u8>| -> Option<Option<File>> {
            let folder = fds.get(usize::from(place?))?;
            Some(fs::openat(folder.as_fd(), "memory.events", Open::RDONLY, 0).ok().map(File::from))
        };
        let (group, above) = (open(plan.fds.cgroup)?, open(plan.fds.slice)?);
        let before = kills(above.as_ref());
        Some(Watch { group, above, before })
    }

    /// Leaves the file `oom` in `run` where memory was short. `killed`: the first process ended by SIGKILL.
    pub fn note(self, run: &OwnedFd, killed: bool) {
        let short = match kills(self.group.as_ref()) {
            Some(kills) => kills > 0,
            None => killed && kills(self.above.as_ref()) > self.before,
        };
        if short {
            // A full /run: the end itself is told all the same.
            let _ = fs::openat(run.as_fd(), "oom", Open::WRONLY | Open::CREATE, 0o600);
        }
    }
}

/// By memory.events (cgroup-v2.rst). `None`: nobody counts memory here, or the group is gone (ENODEV).
fn kills(events: Option<&File>) -> Option<u64> {
    let mut text = [0; 512];
    let n = events?.read_at(&mut text, 0).ok()?;
    counted(&text[..n])
}

fn counted(events: &[u8]) -> Option<u64> {
    let line = events.split(|b| *b == b'\n').find_map(|l| l.strip_prefix(b"oom_kill "))?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn only_kills_count() {
        assert_eq!(counted(b"low 0\noom 1\noom_kill 12\noom_group_kill 0\n"), Some(12));
        assert_eq!(counted(b"low 0\noom 3\noom_kill 0\noom_group_kill 1\n"), Some(0));
        for none in [&b""[..], b"oom 1", b"oom_kill x\n"] {
            assert_eq!(counted(none), None);
        }
    }
}

//! Numbers that no other running test has: ports, subnets and names are made from them.

use super::test_dir;
use std::fs::{File, TryLockError};

/// Held as long as the test runs; the kernel gives it back when the process dies.
pub struct Slot {
    pub number: u16,
    _lock: File,
}

impl Slot {
    pub fn take() -> Slot {
        let dir = test_dir().join("slots");
        std::fs::create_dir_all(&dir).expect("slots");
        for number in 0..200 {
            let file = File::create(dir.join(number.to_string())).expect("slot");
            match file.try_lock() {
                Ok(()) => {
                    let slot = Slot { number, _lock: file };
                    slot.remove_bridges();
                    return slot;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("locking slot {number}: {error}"),
            }
        }
        panic!("200 tests at once");
    }

    /// What a test that failed has left of networks whose bridges it named: with one more letter than the slot's own.
    fn remove_bridges(&self) {
        let names = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
            let letter =
                name.strip_prefix(&self.bridge()).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase()));
            if letter && name != self.bridge() {
                let _ = std::process::Command::new("ip").args(["link", "del", &name]).output();
            }
        }
    }

    pub fn agent_port(&self) -> u16 {
        21000 + self.number * 20
    }

    /// `index` up to 18: ports of the host that the test may publish.
    pub fn port(&self, index: u16) -> u16 {
        assert!(index < 19);
        self.agent_port() + 1 + index
    }

    pub fn bridge(&self) -> String {
        format!("btest{}", self.number)
    }

    /// The gateway of the bridge's /24.
    pub fn gateway(&self) -> String {
        format!("10.213.{}.1", self.number)
    }

    /// The agent names its table after its bridge.
    pub fn table(&self) -> String {
        format!("berth-{}", self.bridge())
    }

    pub fn cgroup_parent(&self) -> String {
        format!("berth-test-{}", self.number)
    }
}

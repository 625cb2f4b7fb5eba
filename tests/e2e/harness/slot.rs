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
                Ok(()) => return Slot { number, _lock: file },
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("locking slot {number}: {error}"),
            }
        }
        panic!("200 tests at once");
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

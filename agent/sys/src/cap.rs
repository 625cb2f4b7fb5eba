//! Capabilities.

use std::io;

/// Names without `CAP_`, in the kernel's order: the place is the number (capabilities(7), Linux 5.9 for the last).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The bit of a capability by its name (upper case, without `CAP_`).
pub fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|n| *n == name).map(|i| 1 << i)
}

/// This process's bounding set: what it can give to others at most (PR_CAPBSET_READ).
pub fn bounding() -> u64 {
    let mut set = 0;
    for i in 0..64u64 {
        // SAFETY: takes numbers only.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, i, 0u64, 0u64, 0u64) } {
            0 => {}
            1 => set |= 1 << i,
            // EINVAL: the kernel knows no more of them.
            _ => break,
        }
    }
    set
}

/// Drops everything outside of `keep` from the bounding set, for ever. Needs CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for i in 0..64u64 {
        if keep >> i & 1 == 1 {
            continue;
        }
        // SAFETY: takes numbers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, i, 0u64, 0u64, 0u64) } < 0 {
            let error = io::Error::last_os_error();
            // EINVAL: the kernel knows no more of them.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// _LINUX_CAPABILITY_VERSION_3 (Linux 2.6.26): two words of each set. Pid 0 is this thread.
static HEADER: Header = Header { version: 0x2008_0522, pid: 0 };

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// A thread's sets, to be had again later.
#[derive(Clone, Copy, Debug)]
pub struct Sets([Data; 2]);

impl Sets {
    /// capget(2)
    pub fn of_thread() -> io::Result<Sets> {
        let mut data = [Data::default(); 2];
        // SAFETY: both live through the call and have the layout of version 3.
        let r = unsafe { libc::syscall(libc::SYS_capget, &raw const HEADER, data.as_mut_ptr()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(Sets(data)) }
    }

    /// Makes them this thread's (capset(2)).
    pub fn restore(self) -> io::Result<()> {
        // SAFETY: both live through the call and have the layout of version 3.
        let r = unsafe { libc::syscall(libc::SYS_capset, &raw const HEADER, self.0.as_ptr()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// What this thread may put in force (capget(2)).
pub fn permitted() -> io::Result<u64> {
    let Sets([low, high]) = Sets::of_thread()?;
    Ok(u64::from(high.permitted) << 32 | u64::from(low.permitted))
}

/// Sets permitted and effective of this thread, inheritable to nothing; ambient follows (capset(2)).
pub fn set(permitted: u64) -> io::Result<()> {
    let word = |bits: u64| Data { effective: bits as u32, permitted: bits as u32, inheritable: 0 };
    Sets([word(permitted), word(permitted >> 32)]).restore()
}

/// Takes capabilities from this thread and the threads that it makes, for ever. Not from programs that are executed: root's get all of the bounding
/// set again (capabilities(7), "Capabilities and execution of programs by root").
pub fn give_up(bits: u64) -> io::Result<()> {
    let Sets(mut words) = Sets::of_thread()?;
    for (word, gone) in words.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
        word.effective &= !gone;
        word.permitted &= !gone;
        word.inheritable &= !gone;
    }
    Sets(words).restore()
}

/// Does `work` with these capabilities out of force in this thread.
pub fn without<T>(bits: u64, work: impl FnOnce() -> T) -> io::Result<T> {
    struct Back(Sets);
    impl Drop for Back {
        fn drop(&mut self) {
            // They are permitted still.
            let _ = self.0.restore();
        }
    }
    let back = Back(Sets::of_thread()?);
    let Sets(mut words) = back.0;
    for (word, gone) in words.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
        word.effective &= !gone;
    }
    Sets(words).restore()?;
    Ok(work())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).unwrap();
        u64::from_str_radix(line, 16).unwrap()
    }

    #[test]
    fn what_is_out_of_force_comes_back() {
        let (all, bits) = (in_force(), bit("SYS_ADMIN").unwrap() | bit("CHOWN").unwrap());
        assert_eq!(all & bits, bits, "needs root");
        assert_eq!(permitted().unwrap(), all);
        assert_eq!(without(bits, in_force).unwrap(), all & !bits);
        assert_eq!(in_force(), all);
        std::panic::catch_unwind(|| without(bits, || panic!("at work"))).unwrap_err();
        assert_eq!(in_force(), all);
    }

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(bit("CHOWN"), Some(1));
        assert_eq!(bit("SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(1 << 40));
        assert_eq!(bit("sys_admin"), None);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
        assert_eq!(bounding(), u64::from_str_radix(line, 16).unwrap());
    }
}

//! Facts about this host: disk space, boot id, names, random bytes; and files read through another process's root.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Space of the file system that a path is on, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskSpace {
    /// Free to unprivileged users: what is left before ENOSPC for most.
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// Inodes that are free; 0 where the file system has no fixed number.
    pub free_inodes: u64,
}

/// statvfs(3) of `path`.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let s = rustix::fs::statvfs(path)?;
    Ok(DiskSpace {
        free_bytes: s.f_bavail.saturating_mul(s.f_frsize),
        total_bytes: s.f_blocks.saturating_mul(s.f_frsize),
        free_inodes: s.f_favail,
    })
}

/// The kernel's id of this boot (random(4)): a UUID that changes with every boot.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What uname(2) says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uname {
    pub hostname: String,
    /// `6.18.3-amd64`
    pub release: String,
    /// `x86_64`, `aarch64`
    pub machine: String,
}

/// uname(2).
pub fn uname() -> Uname {
    let u = rustix::system::uname();
    let text = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    Uname { hostname: text(u.nodename()), release: text(u.release()), machine: text(u.machine()) }
}

/// Usable memory in bytes: `MemTotal` of proc_meminfo(5).
pub fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    text.lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemTotal in /proc/meminfo"))
}

/// The first `most` bytes of a file of /proc that a container has a say in: a process without any rights chooses what its cmdline and environ are
/// (PR_SET_MM_MAP of prctl(2)), and makes them as long as its address space, which costs it nothing.
pub fn read_at_most(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Field 22 of proc_pid_stat(5): when the process started, in clock ticks since boot. `None`: there is no such process.
pub fn process_start_time(pid: u32) -> io::Result<Option<u64>> {
    let text = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(t) => String::from_utf8_lossy(&t).into_owned(),
        // ESRCH: it went between open and read.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(e) => return Err(e),
    };
    // The name in field 2 may hold spaces and brackets: count from the last one.
    let rest = text.rsplit_once(')').map(|(_, r)| r).unwrap_or_default();
    rest.split_ascii_whitespace()
        .nth(19)
        .and_then(|t| t.parse().ok())
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no field 22")))
}

/// Nanoseconds since this boot, suspended time counted (CLOCK_BOOTTIME of clock_gettime(2)): one clock for all processes of the host.
pub fn since_boot_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into `now` alone, which lives through it; it cannot fail for a clock that every kernel has (Linux 2.6.39).
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Fills `buffer` from getrandom(2).
pub fn random(buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Opens the root folder of the process that began at `start_time` (field 22 of proc_pid_stat(5)) as that process sees it, with its
/// mounts. `O_PATH`: a place to start from. `None`: there is no such process (any more).
pub fn open_process_root(pid: u32, start_time: u64) -> io::Result<Option<OwnedFd>> {
    let gone = |e: rustix::io::Errno| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::SRCH => Ok(None),
        e => Err(io::Error::from(e)),
    };
    let path = format!("/proc/{pid}/root");
    let root = match rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(e) => return gone(e),
    };
    // Asked behind the opening: had the pid become another process's before, it would show now.
    Ok((process_start_time(pid)? == Some(start_time)).then_some(root))
}

/// Reads a regular file below the root folder of a process (`/proc/PID/root`), at most `max` bytes. Links are resolved inside that
/// root and never lead out (openat2(2), RESOLVE_IN_ROOT, Linux 5.6). `None`: there is no such file.
///
/// The pid is checked by nobody here: the caller compares its start time before and after.
pub fn read_in_process_root(pid: u32, path: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
    let root = format!("/proc/{pid}/root");
    let dir = rustix::fs::open(root.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // What the container put there is only opened when it is a regular file: a FIFO would hold the agent, and a device, which the container
    // itself may not open, would act (/dev/watchdog starts to count).
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match rustix::fs::openat2(&dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind != rustix::fs::FileType::RegularFile {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(again.as_str(), flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} is larger than {max} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_there() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(memory_bytes().unwrap() > 1 << 20);
        assert!(disk_space(Path::new("/")).unwrap().total_bytes > 0);
        assert!(!uname().release.is_empty());
        let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
        random(&mut a).unwrap();
        random(&mut b).unwrap();
        assert_ne!(a, b);
    }

    #[test]
    fn what_has_no_end_is_read_up_to_a_bound() {
        assert_eq!(read_at_most("/dev/zero", 1025).unwrap(), [0; 1025]);
        assert!(!read_at_most("/proc/self/cmdline", 1 << 20).unwrap().is_empty());
        assert_eq!(read_at_most("/proc/none", 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_regular_files_of_a_process_root_are_opened() {
        let dir = std::env::temp_dir().join(format!("berth-sys-root-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let read = |name: &str| read_in_process_root(std::process::id(), &at(name), 8);
        std::fs::write(at("file"), "content").unwrap();
        std::fs::write(at("large"), "content and more").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", at("magic")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        // A number that no driver has: opening it would be ENXIO.
        let number = rustix::fs::makedev(240, 99);
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, at("device"), device, Mode::from_raw_mode(0o600), number).unwrap();
        assert_eq!(read("file").unwrap().as_deref(), Some(&b"content"[..]));
        assert_eq!(read("link").unwrap().as_deref(), Some(&b"content"[..]));
        for none in ["fifo", "device", "nothing"] {
            assert_eq!(read(none).unwrap(), None, "{none}");
        }
        for refused in ["large", "magic"] {
            read(refused).expect_err(refused);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_clock_of_the_boot() {
        let first = since_boot_ns();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let second = since_boot_ns();
        // /proc/uptime has hundredths.
        let between = first as f64 / 1e9 - 0.01..=second as f64 / 1e9;
        assert!(first > 0 && between.contains(&uptime), "{uptime} {between:?}");
    }

    #[test]
    fn start_times() {
        let mine = process_start_time(std::process::id()).unwrap().unwrap();
        assert!(mine > 0);
        assert_eq!(process_start_time(std::process::id()).unwrap(), Some(mine));
        // Above the kernel's PID_MAX_LIMIT.
        assert_eq!(process_start_time(1 << 23).unwrap(), None);
    }

    #[test]
    fn reads_inside_a_root() {
        let me = std::process::id();
        assert!(read_in_process_root(me, "/etc/passwd", 1 << 20).unwrap().is_some());
        assert!(read_in_process_root(me, "/etc/no-such-file", 1 << 20).unwrap().is_none());
        assert!(read_in_process_root(me, "/etc", 1 << 20).unwrap().is_none());
        assert!(read_in_process_root(me, "/etc/passwd", 3).is_err());
    }
}

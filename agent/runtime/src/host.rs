//! What this host can do, read once: the half of a plan that is not the caller's wish.

use crate::cgroup::Cgroups;
use berth_sys::{cap, landlock, process};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The host's abilities, as far as plans depend on them.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Capabilities that can be given at most.
    pub capabilities: u64,
    /// Hard limits by resource number; with CAP_SYS_RESOURCE they can be raised.
    pub hard_limits: Vec<(u32, u64)>,
    pub oom_score_adj: i32,
    pub cgroup_v2: bool,
    /// Hierarchies to show in a container: name below /sys/fs/cgroup, mount data.
    pub cgroup_mounts: Vec<(String, String)>,
    /// Those of /dev/shm and /dev/mqueue that there are.
    pub ipc_folders: Vec<&'static str>,
    pub hostname: String,
    /// Folders of the processors in /sys that tell how hot they are, which is what their users do.
    pub thermal: Vec<String>,
    /// Linux version, for profiles that ask.
    pub kernel: (u32, u32),
    /// Version of Landlock. None: the kernel has none, or was started without it.
    pub landlock: Option<u32>,
    /// AppArmor is enabled.
    pub apparmor: bool,
}

impl Host {
    pub fn probe(cgroups: &dyn Cgroups) -> Self {
        let read = |p: &str| fs::read_to_string(p).unwrap_or_default().trim().to_owned();
        let limits = process::RESOURCES.iter().filter_map(|(_, n)| Some((*n, process::rlimit(*n).ok()?.1)));
        let release = read("/proc/sys/kernel/osrelease");
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        Host {
            capabilities: cap::bounding(),
            hard_limits: limits.collect(),
            oom_score_adj: read("/proc/self/oom_score_adj").parse().unwrap_or(0),
            cgroup_v2: cgroups.mode() == "v2",
            cgroup_mounts: cgroups.mounts(),
            ipc_folders: ["/dev/shm", "/dev/mqueue"].into_iter().filter(|f| Path::new(f).is_dir()).collect(),
            hostname: read("/proc/sys/kernel/hostname"),
            thermal: thermal(Path::new("/sys/devices/system/cpu")),
            kernel: (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)),
            landlock: landlock::abi(),
            apparmor: read("/sys/module/apparmor/parameters/enabled") == "Y",
        }
    }

    /// Or why it is not used.
    pub fn landlock_abi(&self) -> Result<u32, &'static str> {
        match self.landlock {
            None => {
                Err("this kernel has no Landlock: CONFIG_SECURITY_LANDLOCK, and landlock in lsm= of its command line")
            }
            // With the first version no file is moved or linked to another folder, anywhere.
            Some(1) => Err("needs Landlock ABI 2 (Linux 5.19); this kernel has 1"),
            Some(abi) => Ok(abi),
        }
    }

    pub fn hard_limit(&self, resource: u32) -> u64 {
        self.hard_limits.iter().find(|(n, _)| *n == resource).map_or(u64::MAX, |(_, max)| *max)
    }

    pub fn can_raise_limits(&self) -> bool {
        cap::bit("SYS_RESOURCE").is_some_and(|bit| self.capabilities & bit != 0)
    }
}

/// `cpu0/thermal_throttle` and so on, where there are such.
pub(crate) fn thermal(cpus: &Path) -> Vec<String> {
    let cpus = fs::read_dir(cpus).into_iter().flatten().flatten().filter(|cpu| {
        let name = cpu.file_name().to_string_lossy().into_owned();
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    let folders = cpus.map(|cpu| cpu.path().join("thermal_throttle")).filter(|folder| folder.is_dir());
    let mut folders: Vec<String> = folders.map(|folder| folder.to_string_lossy().into_owned()).collect();
    folders.sort();
    folders
}

/// A device node of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostDevice {
    pub path: String,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Reads one node; links are followed, as Docker does. `None`: not there, or no device.
pub(crate) fn device(path: &Path) -> Option<HostDevice> {
    let meta = fs::metadata(path).ok()?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    // The kernel's encoding of dev_t for user space (makedev(3)).
    let rdev = meta.rdev();
    Some(HostDevice {
        path: path.to_str()?.to_owned(),
        block: kind.is_block_device(),
        major: (((rdev >> 32) & 0xffff_f000) | ((rdev >> 8) & 0xfff)) as u32,
        minor: (((rdev >> 12) & 0xffff_ff00) | (rdev & 0xff)) as u32,
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

/// All nodes below a folder (`--device /dev/dri`, `--privileged`), without terminals and what every container has of its own.
pub(crate) fn devices_below(folder: &Path) -> Vec<HostDevice> {
    const OWN: [&str; 5] = ["pts", "shm", "mqueue", "console", "fd"];
    const MAX: usize = 4096;
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if OWN.iter().any(|o| *o == entry.file_name()) || found.len() >= MAX {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_char_device() || kind.is_block_device() {
                found.extend(device(&entry.path()));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

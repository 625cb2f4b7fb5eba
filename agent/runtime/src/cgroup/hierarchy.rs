//! Where control groups are mounted on this host.

use std::io;
use std::path::PathBuf;

/// One mount of type `cgroup` or `cgroup2`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchy {
    pub point: PathBuf,
    /// v1's; none: a named one, only for its owner. v2 has files that name its own.
    pub controllers: Vec<String>,
    pub options: String,
    pub v2: bool,
}

/// Controllers of v1: among the options of a mount are other words, too.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// All that this process sees (/proc/self/mountinfo, proc_pid_mountinfo(5)).
pub fn mounted() -> io::Result<Vec<Hierarchy>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

pub(crate) fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let point = PathBuf::from(front.split(' ').nth(4)?.replace("\\040", " "));
        let mut back = back.split(' ');
        let v2 = match back.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = back.nth(1)?.to_owned();
        let known = |option: &&str| !v2 && CONTROLLERS.contains(option);
        let controllers = options.split(',').filter(known).map(str::to_owned).collect();
        Some(Hierarchy { point, controllers, options, v2 })
    };
    mountinfo.lines().filter_map(hierarchy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_names_the_hierarchies() {
        let text = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    31 29 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
                    33 1 8:1 / / rw - ext4 /dev/vda rw\nbroken\n";
        let found = parse(text);
        assert_eq!(found.len(), 3);
        assert_eq!(
            (found[0].point.to_str(), &found[0].controllers[..], found[0].v2),
            (Some("/sys/fs/cgroup/cpu,cpuacct"), &["cpu".to_owned(), "cpuacct".into()][..], false)
        );
        assert!(found[1].controllers.is_empty() && !found[1].v2);
        assert!(found[2].controllers.is_empty() && found[2].v2);
    }
}

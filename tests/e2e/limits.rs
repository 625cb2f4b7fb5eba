//! Every limit there is: set when a container is made, changed while it runs, and taken back, as the kernel's file and inspect have it. What this
//! host's kernel has no file for is refused or warned of by name, and said to be left out.

use crate::harness::agent::Output;
use crate::harness::{Node, image, runtimes};
use serde_json::{Value, json};
use std::path::Path;

/// What a file of the container's group holds.
enum Holds {
    /// One of these, whole.
    Text(&'static [&'static str]),
    /// This line, beside others.
    Line(&'static str),
    /// No line of the disk's.
    NoLine,
    /// What the group above has.
    AllAbove,
}
use Holds::{AllAbove, Line, NoLine, Text};

/// `{disk}` and `{number}` stand for a disk of this host's and its number. Thrice each: as it was made, as it was changed, and as it was taken back.
struct Row {
    /// What is named where this host cannot do it.
    what: &'static str,
    options: [&'static [&'static str]; 3],
    /// Files of v1, of which a kernel has one, and what they hold. None: v2 alone has that.
    v1: Option<(&'static [&'static str], [Holds; 3])>,
    v2: (&'static [&'static str], [Holds; 3]),
    /// What inspect has under HostConfig; parts are JSON.
    shown: (&'static str, [&'static str; 3]),
}

const MEMORY: [&str; 2] = ["--memory", "64m"];
/// v1's word for no limit, with pages of 4 KiB.
const UNLIMITED: &str = "9223372036854771712";

const ROWS: &[Row] = &[
    Row {
        what: "memory",
        options: [&MEMORY, &["--memory", "96m"], &["--memory", "0"]],
        v1: Some((&["memory.limit_in_bytes"], [Text(&["67108864"]), Text(&["100663296"]), Text(&[UNLIMITED])])),
        v2: (&["memory.max"], [Text(&["67108864"]), Text(&["100663296"]), Text(&["max"])]),
        shown: ("Memory", ["67108864", "100663296", "0"]),
    },
    Row {
        what: "swap",
        options: [&["--memory", "64m", "--memory-swap", "100m"], &["--memory-swap", "128m"], &["--memory-swap", "-1"]],
        v1: Some((&["memory.memsw.limit_in_bytes"], [Text(&["104857600"]), Text(&["134217728"]), Text(&[UNLIMITED])])),
        v2: (&["memory.swap.max"], [Text(&["37748736"]), Text(&["67108864"]), Text(&["max"])]),
        shown: ("MemorySwap", ["104857600", "134217728", "-1"]),
    },
    Row {
        what: "memory",
        options: [
            &["--memory", "-1", "--memory-swap", "-1"],
            &["--memory", "64m", "--memory-swap", "64m"],
            &["--memory", "-1", "--memory-swap", "-1"],
        ],
        v1: Some((&["memory.limit_in_bytes"], [Text(&[UNLIMITED]), Text(&["67108864"]), Text(&[UNLIMITED])])),
        v2: (&["memory.max"], [Text(&["max"]), Text(&["67108864"]), Text(&["max"])]),
        shown: ("MemorySwap", ["-1", "67108864", "-1"]),
    },
    Row {
        what: "memory",
        options: [
            &["--memory", "64m", "--memory-reservation", "32m"],
            &["--memory-reservation", "48m"],
            &["--memory-reservation", "-1"],
        ],
        v1: Some((&["memory.soft_limit_in_bytes"], [Text(&["33554432"]), Text(&["50331648"]), Text(&[UNLIMITED])])),
        v2: (&["memory.low"], [Text(&["33554432"]), Text(&["50331648"]), Text(&["0"])]),
        shown: ("MemoryReservation", ["33554432", "50331648", "0"]),
    },
    Row {
        what: "cpu",
        options: [&["--cpus", "0.5"], &["--cpus", "0.25"], &["--cpus", "0"]],
        v1: Some((&["cpu.cfs_quota_us"], [Text(&["50000"]), Text(&["25000"]), Text(&["-1"])])),
        v2: (&["cpu.max"], [Text(&["50000 100000"]), Text(&["25000 100000"]), Text(&["max 100000"])]),
        shown: ("NanoCpus", ["500000000", "250000000", "0"]),
    },
    Row {
        what: "cpu",
        options: [
            &["--cpu-period", "50000", "--cpu-quota", "25000"],
            &["--cpu-period", "20000", "--cpu-quota", "5000"],
            &["--cpu-period", "0", "--cpus", "0"],
        ],
        v1: Some((&["cpu.cfs_period_us"], [Text(&["50000"]), Text(&["20000"]), Text(&["100000"])])),
        v2: (&["cpu.max"], [Text(&["25000 50000"]), Text(&["5000 20000"]), Text(&["max 100000"])]),
        shown: ("CpuPeriod", ["50000", "20000", "0"]),
    },
    // What is not said of a quota stays: its microseconds in another period, and the period for another number of them.
    Row {
        what: "cpu",
        options: [
            &["--cpu-period", "30000", "--cpu-quota", "19000"],
            &["--cpu-period", "20000"],
            &["--cpu-quota", "-1"],
        ],
        v1: Some((&["cpu.cfs_quota_us"], [Text(&["19000"]), Text(&["19000"]), Text(&["-1"])])),
        v2: (&["cpu.max"], [Text(&["19000 30000"]), Text(&["19000 20000"]), Text(&["max 20000"])]),
        shown: ("NanoCpus", ["633333334", "950000000", "0"]),
    },
    Row {
        what: "cpu",
        options: [&["--cpu-quota", "-1", "--cpu-period", "50000"], &["--cpu-quota", "5000"], &["--cpus", "0.5"]],
        v1: Some((&["cpu.cfs_quota_us"], [Text(&["-1"]), Text(&["5000"]), Text(&["25000"])])),
        v2: (&["cpu.max"], [Text(&["max 50000"]), Text(&["5000 50000"]), Text(&["25000 50000"])]),
        shown: ("NanoCpus", ["0", "100000000", "500000000"]),
    },
    Row {
        what: "cpu",
        options: [&["--cpu-shares", "512"], &["--cpu-shares", "2048"], &["--cpu-shares", "0"]],
        v1: Some((&["cpu.shares"], [Text(&["512"]), Text(&["2048"]), Text(&["1024"])])),
        // 59: as newer runtimes of others have it.
        v2: (&["cpu.weight"], [Text(&["20", "59"]), Text(&["79"]), Text(&["100"])]),
        shown: ("CpuShares", ["512", "2048", "0"]),
    },
    Row {
        what: "cpuset",
        options: [&["--cpuset-cpus", "0"], &["--cpuset-cpus", ""], &["--cpuset-cpus", "0-0"]],
        v1: Some((&["cpuset.cpus"], [Text(&["0"]), AllAbove, Text(&["0"])])),
        v2: (&["cpuset.cpus"], [Text(&["0"]), AllAbove, Text(&["0"])]),
        shown: ("CpusetCpus", ["\"0\"", "\"\"", "\"0-0\""]),
    },
    Row {
        what: "cpuset",
        options: [&["--cpuset-mems", "0"], &["--cpuset-mems", ""], &["--cpuset-mems", "0-0"]],
        v1: Some((&["cpuset.mems"], [Text(&["0"]), AllAbove, Text(&["0"])])),
        v2: (&["cpuset.mems"], [Text(&["0"]), AllAbove, Text(&["0"])]),
        shown: ("CpusetMems", ["\"0\"", "\"\"", "\"0-0\""]),
    },
    Row {
        what: "pids",
        options: [&["--pids-limit", "77"], &["--pids-limit", "99"], &["--pids-limit", "-1"]],
        v1: Some((&["pids.max"], [Text(&["77"]), Text(&["99"]), Text(&["max"])])),
        v2: (&["pids.max"], [Text(&["77"]), Text(&["99"]), Text(&["max"])]),
        shown: ("PidsLimit", ["77", "99", "-1"]),
    },
    Row {
        what: "pids",
        options: [&["--pids-limit", "-1"], &["--pids-limit", "77"], &["--pids-limit", "0"]],
        v1: Some((&["pids.max"], [Text(&["max"]), Text(&["77"]), Text(&["max"])])),
        v2: (&["pids.max"], [Text(&["max"]), Text(&["77"]), Text(&["max"])]),
        shown: ("PidsLimit", ["-1", "77", "0"]),
    },
    Row {
        what: "weight",
        options: [&["--blkio-weight", "500"], &["--blkio-weight", "300"], &["--blkio-weight", "0"]],
        v1: Some((&["blkio.bfq.weight", "blkio.weight"], [Text(&["500"]), Text(&["300"]), Text(&["100", "500"])])),
        v2: (
            &["io.bfq.weight", "io.weight"],
            [
                Text(&["default 500", "default 4950", "500"]),
                Text(&["default 300", "default 2930", "300"]),
                Text(&["default 100", "100"]),
            ],
        ),
        shown: ("BlkioWeight", ["500", "300", "0"]),
    },
    Row {
        what: "weight",
        options: [
            &["--blkio-weight-device", "{disk}:500"],
            &["--blkio-weight-device", "{disk}:1000"],
            &["--device-read-bps", "{disk}:0"],
        ],
        v1: Some((
            &["blkio.bfq.weight_device", "blkio.weight_device"],
            [Line("{number} 500"), Line("{number} 1000"), NoLine],
        )),
        v2: (&["io.weight"], [Line("{number} 4950"), Line("{number} 10000"), NoLine]),
        shown: ("BlkioDevices", [r#"[{"Path":"{disk}","Weight":500}]"#, r#"[{"Path":"{disk}","Weight":1000}]"#, "[]"]),
    },
    Row {
        what: "blkio",
        options: [
            &["--device-read-bps", "{disk}:10m"],
            &["--device-read-bps", "{disk}:1m"],
            &["--device-read-bps", "{disk}:0"],
        ],
        v1: Some((&["blkio.throttle.read_bps_device"], [Line("{number} 10485760"), Line("{number} 1048576"), NoLine])),
        v2: (
            &["io.max"],
            [
                Line("{number} rbps=10485760 wbps=max riops=max wiops=max"),
                Line("{number} rbps=1048576 wbps=max riops=max wiops=max"),
                NoLine,
            ],
        ),
        shown: (
            "BlkioDevices",
            [r#"[{"Path":"{disk}","ReadBps":10485760}]"#, r#"[{"Path":"{disk}","ReadBps":1048576}]"#, "[]"],
        ),
    },
    Row {
        what: "blkio",
        options: [
            &["--device-write-bps", "{disk}:10m"],
            &["--device-write-bps", "{disk}:1m"],
            &["--device-write-bps", "{disk}:0"],
        ],
        v1: Some((&["blkio.throttle.write_bps_device"], [Line("{number} 10485760"), Line("{number} 1048576"), NoLine])),
        v2: (
            &["io.max"],
            [
                Line("{number} rbps=max wbps=10485760 riops=max wiops=max"),
                Line("{number} rbps=max wbps=1048576 riops=max wiops=max"),
                NoLine,
            ],
        ),
        shown: (
            "BlkioDevices",
            [r#"[{"Path":"{disk}","WriteBps":10485760}]"#, r#"[{"Path":"{disk}","WriteBps":1048576}]"#, "[]"],
        ),
    },
    Row {
        what: "blkio",
        options: [
            &["--device-read-iops", "{disk}:500"],
            &["--device-read-iops", "{disk}:50"],
            &["--device-read-iops", "{disk}:0"],
        ],
        v1: Some((&["blkio.throttle.read_iops_device"], [Line("{number} 500"), Line("{number} 50"), NoLine])),
        v2: (
            &["io.max"],
            [
                Line("{number} rbps=max wbps=max riops=500 wiops=max"),
                Line("{number} rbps=max wbps=max riops=50 wiops=max"),
                NoLine,
            ],
        ),
        shown: (
            "BlkioDevices",
            [r#"[{"Path":"{disk}","ReadIOps":500}]"#, r#"[{"Path":"{disk}","ReadIOps":50}]"#, "[]"],
        ),
    },
    Row {
        what: "blkio",
        options: [
            &["--device-write-iops", "{disk}:500"],
            &["--device-write-iops", "{disk}:50"],
            &["--device-write-iops", "{disk}:0"],
        ],
        v1: Some((&["blkio.throttle.write_iops_device"], [Line("{number} 500"), Line("{number} 50"), NoLine])),
        v2: (
            &["io.max"],
            [
                Line("{number} rbps=max wbps=max riops=max wiops=500"),
                Line("{number} rbps=max wbps=max riops=max wiops=50"),
                NoLine,
            ],
        ),
        shown: (
            "BlkioDevices",
            [r#"[{"Path":"{disk}","WriteIOps":500}]"#, r#"[{"Path":"{disk}","WriteIOps":50}]"#, "[]"],
        ),
    },
    Row {
        what: "hugetlb",
        options: [&["--hugepages", "2MB=4m"], &["--hugepages", "2MB=8m"], &["--hugepages", "2MB=0"]],
        v1: Some((&["hugetlb.2MB.limit_in_bytes"], [Text(&["4194304"]), Text(&["8388608"]), Text(&["0"])])),
        v2: (&["hugetlb.2MB.max"], [Text(&["4194304"]), Text(&["8388608"]), Text(&["0"])]),
        shown: ("Hugepages", [r#"{"2MB":4194304}"#, r#"{"2MB":8388608}"#, r#"{"2MB":0}"#]),
    },
    Row {
        what: "resources.oom_group",
        options: [&["--oom-group"], &["--oom-group=false"], &["--oom-group=true"]],
        v1: None,
        v2: (&["memory.oom.group"], [Text(&["1"]), Text(&["0"]), Text(&["1"])]),
        shown: ("OomGroup", ["true", "false", "true"]),
    },
    Row {
        what: "resources.unified",
        options: [
            &["--cgroup-conf", "memory.high=64m"],
            &["--cgroup-conf", "memory.high=32m"],
            &["--cgroup-conf", "memory.high=max"],
        ],
        v1: None,
        v2: (&["memory.high"], [Text(&["67108864"]), Text(&["33554432"]), Text(&["max"])]),
        shown: ("Unified", [r#"{"memory.high":"64m"}"#, r#"{"memory.high":"32m"}"#, r#"{"memory.high":"max"}"#]),
    },
    Row {
        what: "resources.unified",
        options: [
            &["--cgroup-conf", "pids.max=50"],
            &["--cgroup-conf", "pids.max=60"],
            &["--cgroup-conf", "pids.max=max"],
        ],
        v1: None,
        v2: (&["pids.max"], [Text(&["50"]), Text(&["60"]), Text(&["max"])]),
        shown: ("Unified", [r#"{"pids.max":"50"}"#, r#"{"pids.max":"60"}"#, r#"{"pids.max":"max"}"#]),
    },
    Row {
        what: "resources.unified",
        options: [
            &["--cgroup-conf", "memory.min=1m", "--cgroup-conf", "cpu.weight.nice=5"],
            &["--cgroup-conf", "cpu.weight.nice=-3"],
            &["--cgroup-conf", "memory.min=0", "--cgroup-conf", "cpu.weight.nice=0"],
        ],
        v1: None,
        v2: (&["cpu.weight.nice"], [Text(&["5"]), Text(&["-3"]), Text(&["0"])]),
        shown: (
            "Unified",
            [
                r#"{"cpu.weight.nice":"5","memory.min":"1m"}"#,
                r#"{"cpu.weight.nice":"-3","memory.min":"1m"}"#,
                r#"{"cpu.weight.nice":"0","memory.min":"0"}"#,
            ],
        ),
    },
];

/// A disk of this host's, or a file that plays one.
struct Disk {
    path: String,
    number: String,
}

impl Disk {
    fn find() -> Option<Disk> {
        let mut names: Vec<String> = std::fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| ["vd", "sd", "nvme", "xvd"].iter().any(|kind| n.starts_with(kind)) || plays(n))
            .collect();
        // Real ones first.
        names.sort_by_key(|n| (n.starts_with("loop"), n.clone()));
        let name = names.first()?;
        let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        Some(Disk { path: format!("/dev/{name}"), number: number.trim().to_owned() })
    }

    fn put(&self, text: &str) -> String {
        text.replace("{disk}", &self.path).replace("{number}", &self.number)
    }
}

fn plays(name: &str) -> bool {
    Path::new(&format!("/sys/block/{name}/loop/backing_file")).exists()
}

/// The first of these files that a group of the container's has.
fn file(inspect: &Value, names: &[&str]) -> Option<String> {
    let groups = inspect["CgroupPaths"].as_array().expect("the groups");
    let paths = groups.iter().filter_map(Value::as_str).flat_map(|g| names.iter().map(move |n| format!("{g}/{n}")));
    paths.into_iter().find(|path| Path::new(path).exists())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

impl Holds {
    fn check(&self, path: &str, disk: &Disk, about: &str) {
        let found = read(path);
        let good = match self {
            Text(all) => all.contains(&found.as_str()),
            Line(line) => found.lines().any(|l| l == disk.put(line)),
            NoLine => !found.lines().any(|l| l.starts_with(&format!("{} ", disk.number)) && !l.ends_with(" default")),
            AllAbove => {
                let (group, name) = path.rsplit_once('/').expect("a file in a group");
                let above = format!("{}/{name}", group.rsplit_once('/').expect("a group above").0);
                let effective = format!("{above}.effective");
                found == read(if Path::new(&effective).exists() { &effective } else { &above })
            }
        };
        assert!(good, "{about}: {path} holds {found:?}");
    }
}

fn run(node: &Node, options: &[String]) -> Output {
    let busybox = image("busybox");
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    node.ctl(&[&["run", "-d", "--network", "none"], &options[..], &[&busybox, "sleep", "1000"]].concat())
}

fn update(node: &Node, options: &[String], id: &str) -> Output {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    node.ctl(&[&["update"], &options[..], &[id]].concat())
}

/// Whether the limit is there; else it was refused, or warned of, by its name.
fn try_row(node: &Node, row: &Row, disk: &Disk, v2: bool) -> bool {
    let options = row.options.map(|o| o.iter().map(|text| disk.put(text)).collect::<Vec<_>>());
    let about = format!("{:?}", options[0]);
    let made = run(node, &options[0]);
    let (files, wanted) = match (&row.v1, v2) {
        (_, true) => (row.v2.0, &row.v2.1),
        (Some((files, wanted)), false) => (*files, wanted),
        (None, false) => {
            let refused = [&made, &update(node, &options[2], "plain")].map(|o| (o.code != 0, o.stderr.clone()));
            for (refused, said) in refused {
                let named = said.contains("needs a host with cgroup v2 alone");
                assert!(refused && named, "{about} has to be refused by name: {said}");
            }
            return false;
        }
    };
    let id = made.stdout.trim();
    if made.code != 0 {
        assert!(made.stderr.contains(row.what), "{about} is refused without {:?}: {}", row.what, made.stderr);
        return false;
    }
    let mut inspect = node.inspect(id);
    let there = file(&inspect, files).is_some();
    if !there {
        assert!(made.stderr.contains(row.what), "{about} is not done, and nothing says so: {made:?}");
        let changed = update(node, &options[1], id);
        assert!(changed.code != 0, "{about}: a change of what is not there is taken");
        assert!(changed.stderr.contains(row.what), "{about}: {}", changed.stderr);
    }
    for (step, wanted) in wanted.iter().enumerate() {
        let about = format!("{:?} of {about}", options[step]);
        let shown: Value = serde_json::from_str(&disk.put(row.shown.1[step])).expect("JSON");
        assert_eq!(inspect["HostConfig"][row.shown.0], shown, "{about}: inspect");
        if !there {
            break;
        }
        let path = file(&inspect, files).expect("it was there");
        wanted.check(&path, disk, &about);
        if let Some(next) = options.get(step + 1) {
            let changed = update(node, next, id);
            assert_eq!(changed.code, 0, "{next:?}: {}", changed.stderr);
            inspect = node.inspect(id);
        }
    }
    node.ok(&["rm", "-f", id]);
    there
}

#[test]
fn every_one_is_set_changed_and_taken_back() {
    let node = Node::with_busybox("limits");
    let v2 = node.ok(&["info", "--format", "{{.CgroupMode}}"]) == "v2";
    node.detached(&["--name", "plain"], "sleep 1000");
    let disk = Disk::find();
    for row in ROWS {
        let needs_disk = row.options[0].iter().any(|o| o.contains("{disk}"));
        match &disk {
            None if needs_disk => runtimes::say(&format!("left out: {:?}: this host has no disk", row.options[0])),
            disk => {
                let none = Disk { path: String::new(), number: String::new() };
                if !try_row(&node, row, disk.as_ref().unwrap_or(&none), v2) {
                    runtimes::say(&format!("left out: {:?}: not on this host: {}", row.options[0], row.what));
                }
            }
        }
    }
    node.ok(&["rm", "-f", "plain"]);
    node.finish();
}

/// Nobody asks for more processors than there are, or for less than the kernel gives. A container that has more, because its host had more when
/// it was made, starts and is changed all the same: it is the same record as one with such a quota.
#[test]
fn processors_are_those_of_the_host() {
    let node = Node::with_busybox("limits-cpus");
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("online");
    let part = |part: &str| -> usize {
        let number = |text: &str| text.parse::<usize>().expect("a number");
        part.split_once('-').map_or(1, |(first, last)| number(last) - number(first) + 1)
    };
    let cpus: usize = online.trim().split(',').map(part).sum();
    let most = cpus.to_string();
    let busybox = image("busybox");
    let id = node.detached(&["--cpus", &most], "sleep 1000");
    let refused = |cpus: &str, words: &str| {
        for arguments in [
            &["run", "--rm", "--network", "none", "--cpus", cpus, &busybox, "true"][..],
            &["update", "--cpus", cpus, &id],
        ] {
            let said = node.ctl(arguments);
            let good = said.code != 0 && said.stderr.contains("--cpus") && said.stderr.contains(words);
            assert!(good, "{arguments:?}: {said:?}");
        }
    };
    refused("1000", &format!("at most {most}"));
    refused("0.001", "at least 0.01");
    // Nor is there a processor or a memory of a number that the host has not.
    for (option, what) in [("--cpuset-cpus", "no CPU 999"), ("--cpuset-mems", "no memory node 999")] {
        for arguments in [
            &["run", "--rm", "--network", "none", option, "0,999", &busybox, "true"][..],
            &["update", option, "0,999", &id],
        ] {
            let said = node.ctl(arguments);
            assert!(said.code != 0 && said.stderr.contains(option) && said.stderr.contains(what), "{said:?}");
            assert!(!said.stderr.contains("in use"), "{said:?}");
        }
    }
    assert_eq!(node.inspect(&id)["HostConfig"]["NanoCpus"], json!(cpus as u64 * 1_000_000_000));
    // A longer period has smaller parts.
    node.sh(&["--cpus", "0.005", "--cpu-period", "1000000"], "true");
    let more = node.detached(&["--cpu-quota", "100000000"], "sleep 1000");
    let told = &node.inspect(&more)["HostConfig"];
    assert_eq!((&told["CpuQuota"], &told["NanoCpus"]), (&json!(100_000_000), &json!(0)), "{told}");
    node.ok(&["restart", "-t", "0", &more]);
    node.ok(&["update", "--cpu-shares", "512", &more]);
    node.ok(&["rm", "-f", &more, &id]);
    node.finish();
}

/// On v2 memory.high makes the room that a lower limit needs: what was asked for is there behind it, whether it was asked for before or with it.
#[test]
fn what_makes_room_is_put_back_as_it_was_asked_for() {
    let node = Node::with_busybox("limits-high");
    if node.ok(&["info", "--format", "{{.CgroupMode}}"]) != "v2" {
        runtimes::say("left out: memory.high: this host has cgroup v1");
        return node.finish();
    }
    let id = node.detached(&["--memory", "128m", "--cgroup-conf", "memory.high=40m"], "sleep 1000");
    let holds = |max: &str, high: &str| {
        let inspect = node.inspect(&id);
        let found = ["memory.max", "memory.high"].map(|name| read(&file(&inspect, &[name]).expect(name)));
        assert_eq!(found, [max, high]);
    };
    holds("134217728", "41943040");
    node.ok(&["update", "--memory", "64m", &id]);
    holds("67108864", "41943040");
    node.ok(&["update", "--memory", "48m", "--cgroup-conf", "memory.high=24m", &id]);
    holds("50331648", "25165824");
    node.ok(&["update", "--memory", "32m", &id]);
    holds("33554432", "25165824");
    assert_eq!(node.inspect(&id)["HostConfig"]["Unified"], json!({"memory.high": "24m"}));
    // One that is refused leaves both.
    let refused = node.ctl(&["update", "--memory", "16m", "--cgroup-conf", "memory.high=much", &id]);
    assert!(refused.code != 0 && refused.stderr.contains("memory.high"), "{refused:?}");
    holds("33554432", "25165824");
    node.ok(&["rm", "-f", &id]);
    node.finish();
}

/// All sixteen of getrlimit(2), by the names of /proc/PID/limits: soft and hard.
const RLIMITS: [(&str, &str, &str, &str); 16] = [
    ("as", "Max address space", "1073741824", "2147483648"),
    ("core", "Max core file size", "2048", "4096"),
    ("cpu", "Max cpu time", "1000", "2000"),
    ("data", "Max data size", "536870912", "1073741824"),
    ("fsize", "Max file size", "1048576", "2097152"),
    ("locks", "Max file locks", "10", "20"),
    ("memlock", "Max locked memory", "4096", "8192"),
    ("msgqueue", "Max msgqueue size", "1000", "2000"),
    ("nice", "Max nice priority", "0", "0"),
    ("nofile", "Max open files", "100", "200"),
    ("nproc", "Max processes", "50", "100"),
    ("rss", "Max resident set", "1048576", "2097152"),
    ("rtprio", "Max realtime priority", "0", "0"),
    ("rttime", "Max realtime timeout", "1000000", "2000000"),
    ("sigpending", "Max pending signals", "100", "200"),
    ("stack", "Max stack size", "1048576", "2097152"),
];

#[test]
fn those_of_processes_hold_for_the_first_one_and_for_what_joins_it() {
    let node = Node::with_busybox("limits-processes");
    let options: Vec<String> =
        RLIMITS.iter().flat_map(|(name, _, soft, hard)| ["--ulimit".into(), format!("{name}={soft}:{hard}")]).collect();
    let made = run(&node, &options);
    assert_eq!(made.code, 0, "{made:?}");
    let id = made.stdout.trim();
    let inspect = node.inspect(id);
    let first = read(&format!("/proc/{}/limits", inspect["State"]["Pid"]));
    let joined = node.ok(&["exec", id, "cat", "/proc/self/limits"]);
    for (name, title, soft, hard) in RLIMITS {
        for limits in [&first, &joined] {
            let line =
                limits.lines().find_map(|l| l.strip_prefix(title)).unwrap_or_else(|| panic!("{title}: {limits}"));
            assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), [soft, hard], "{name}");
        }
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let shown = json!({"Name": name, "Soft": number(soft), "Hard": number(hard)});
        assert!(inspect["HostConfig"]["Ulimits"].as_array().expect("ulimits").contains(&shown), "{name}");
    }
    node.ok(&["rm", "-f", id]);
    node.finish();
}

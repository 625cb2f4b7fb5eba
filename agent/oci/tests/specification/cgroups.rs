//! What the specification demands of cgroups, limits and devices' rules.

use super::*;

#[test]
fn the_cgroup_is_where_its_path_says() {
    let bench = Bench::new();
    let name = format!("relative-{}", bench.id());
    let place = |path: String| {
        bench.config(&["sleep", "1000"], |c| c["linux"]["cgroupsPath"] = json!(path));
        ok(bench.create(&[]));
        let pid = bench.state()["pid"].as_u64().unwrap();
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        ok(bench.runtime(&["delete", "--force", &bench.id()]));
        let line = text.lines().find(|l| l.contains(":memory:") || l.starts_with("0::") && only_v2()).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    };
    let absolute = format!("/berth-oci-test/{}", bench.id());
    assert_eq!(place(absolute.clone()), absolute);
    let first = place(name.clone());
    assert!(first.ends_with(&name), "{first}");
    assert_eq!(place(name), first);
}

/// Groups of `path` that are there.
fn there(path: &str) -> Vec<std::path::PathBuf> {
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
    let roots = roots.filter(|p| p.is_dir()).chain([std::path::PathBuf::from("/sys/fs/cgroup")]);
    roots.map(|root| root.join(path.trim_start_matches('/'))).filter(|p| p.is_dir()).collect()
}

#[test]
fn groups_above_go_with_the_last_container_and_nobodys_else() {
    let (one, two) = (Bench::new(), Bench::new());
    let top = format!("/berth-oci-above-{}", one.id());
    let create = |bench: &Bench, below: &str| {
        let path = format!("{top}/{below}");
        bench.config(&["sleep", "1000"], |c| c["linux"]["cgroupsPath"] = json!(path));
        ok(bench.create(&[]));
    };
    let delete = |bench: &Bench| ok(bench.runtime(&["delete", "--force", &bench.id()]));
    let none = Vec::<std::path::PathBuf>::new();
    create(&one, "a/b/c");
    create(&two, "a/d");
    let here = there(&format!("{top}/a"));
    assert!(!here.is_empty());
    // The other one is below what was made for this one.
    delete(&one);
    assert_eq!((there(&format!("{top}/a/b")), there(&format!("{top}/a"))), (none.clone(), here));
    delete(&two);
    assert_eq!(there(&top), none);
    // Podman makes the group above, and wants to find it.
    let theirs = if only_v2() { format!("/sys/fs/cgroup{top}") } else { format!("/sys/fs/cgroup/pids{top}") };
    std::fs::create_dir(&theirs).unwrap();
    create(&one, "a/b");
    delete(&one);
    let left = there(&top);
    std::fs::remove_dir(&theirs).unwrap();
    assert_eq!(left, [std::path::PathBuf::from(theirs)]);
}

#[test]
fn a_process_that_has_no_room_says_so() {
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |c| c["linux"]["resources"]["memory"] = json!({"limit": 1}));
    fails(bench.create(&[]), "linux.resources.memory.limit: the container's process cannot live within 1 bytes");
    assert!(!bench.state_folder().join(bench.id()).exists());
    assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn device_rules_hold_in_their_order() {
    let bench = Bench::new();
    let rule = |allow: bool, minor: Option<i64>, access: &str| json!({"allow": allow, "type": if minor.is_some() {"c"} else {"a"}, "major": minor.map(|_| 10), "minor": minor, "access": access});
    let script = "mknod /d c 10 229; head -c0 /d && echo read; (: >/d) 2>/dev/null && echo write";
    symlink("busybox", bench.bundle().join("rootfs/bin/mknod")).unwrap();
    let run = |rules: Value| {
        bench.config(&["sh", "-c", script], |c| {
            c["linux"]["resources"]["devices"] = rules;
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
            }
        });
        let said = text(&bench.run().stdout);
        let _ = std::fs::remove_file(bench.bundle().join("rootfs/d"));
        said.replace('\n', " ")
    };
    // /dev/fuse, which can be opened where its module is there; the rules are asked before the driver is.
    let all = run(json!([rule(true, None, "rwm")]));
    if all != "read write " {
        eprintln!("left out: this kernel has no /dev/fuse: {all:?}");
        return;
    }
    assert_eq!(run(json!([rule(false, None, "rwm"), rule(true, Some(229), "rwm")])), "read write ");
    assert_eq!(run(json!([rule(true, Some(229), "rwm"), rule(false, None, "rwm")])), "");
    assert_eq!(
        run(json!([rule(false, None, "rwm"), rule(true, Some(229), "rwm"), rule(false, Some(229), "w")])),
        "read "
    );
}

#[test]
fn limits_below_the_use_are_refused_when_that_is_asked() {
    let bench = Bench::new();
    bench.config(
        &["sh", "-c", "dd if=/dev/zero of=/m/x bs=1M count=20 2>/dev/null; echo full; exec sleep 1000"],
        |c| {
            let mount = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs"});
            c["mounts"].as_array_mut().unwrap().push(mount);
            c["linux"]["resources"]["memory"] = json!({"limit": 100_000_000});
        },
    );
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    let began = std::time::Instant::now();
    while bench.output() != "full\n" {
        assert!(began.elapsed().as_secs() < 20);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let file = bench.at.join("resources.json");
    std::fs::write(&file, json!({"memory": {"limit": 10_000_000, "checkBeforeUpdate": true}}).to_string()).unwrap();
    fails(bench.runtime(&["update", "-r", file.to_str().unwrap(), &bench.id()]), "linux.resources.memory.limit");
    assert_eq!(bench.status(), "running");
}

#[test]
fn raw_keys_are_written_or_refused() {
    let bench = Bench::new();
    let create = |unified: Value| {
        bench.config(&["sleep", "1000"], |c| c["linux"]["resources"]["unified"] = unified);
        bench.create(&[])
    };
    if !only_v2() {
        fails(create(json!({"memory.high": "10000000"})), "linux.resources.unified.memory.high");
        return;
    }
    ok(create(json!({"memory.high": "20971520", "memory.oom.group": "1", "pids.max": "99", "cgroup.max.depth": "3"})));
    let group = bench.groups().pop().unwrap();
    let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
    assert_eq!(
        ["memory.high", "memory.oom.group", "pids.max", "cgroup.max.depth"].map(read),
        ["20971520", "1", "99", "3"]
    );
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    for bad in
        [json!({"nosuch.limit": "1"}), json!({"memory.high": "x"}), json!({"../x.y": "1"}), json!({"memory": "1"})]
    {
        fails(create(bad), "linux.resources.unified");
    }
}

#[test]
fn delegated_groups_belong_to_the_container_s_root() {
    let bench = Bench::new();
    if !only_v2() {
        eprintln!("left out: groups of cgroup v1 are not delegated");
        return;
    }
    let group = |options: Value, own: bool| {
        bench.config(&["sleep", "1000"], |c| {
            let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user"}));
            namespaces.retain(|n| own || n["type"] != "cgroup");
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts
                .iter_mut()
                .filter(|m| m["destination"] == "/sys/fs/cgroup")
                .for_each(|m| m["options"] = options.clone());
        });
        ok(bench.create(&[]));
        ok(bench.runtime(&["start", &bench.id()]));
        bench.groups().pop().unwrap()
    };
    let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
    for (options, own) in [(json!(["ro"]), true), (json!([]), false)] {
        let group = group(options, own);
        assert_eq!((owner(&group), owner(&group.join("cgroup.procs"))), (0, 0));
        ok(bench.runtime(&["delete", "--force", &bench.id()]));
    }
    let group = group(json!(["nosuid", "noexec", "nodev"]), true);
    assert_eq!(owner(&group), 200_000);
    for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        assert_eq!(owner(&group.join(file)), 200_000, "{file}");
    }
    for file in ["memory.max", "pids.max", "cgroup.freeze", "cgroup.kill"] {
        let path = group.join(file);
        assert!(!path.exists() || owner(&path) == 0, "{file}");
    }
    let script = "cd /sys/fs/cgroup && mkdir leaf inner && echo $$ > leaf/cgroup.procs && echo 1 > leaf/cgroup.procs && \
        echo +pids > cgroup.subtree_control && echo 7 > inner/pids.max && cat inner/pids.max; echo 1 > pids.max || echo refused";
    let out = bench.runtime(&["exec", &bench.id(), "sh", "-c", script]);
    assert_eq!(text(&out.stdout), "7\nrefused\n", "{}", text(&out.stderr));
    // The group is parted by now: a process more goes beside the first one.
    assert_eq!(ok(bench.runtime(&["exec", &bench.id(), "cat", "/proc/self/cgroup"])), "0::/leaf\n");
    ok(bench.runtime(&["pause", &bench.id()]));
    assert_eq!(bench.status(), "paused");
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    assert_eq!(bench.groups(), Vec::<std::path::PathBuf>::new());
}

/// A unit of a name that is taken, and its group, are somebody's.
#[test]
fn a_scope_that_is_refused_takes_nobodys_group_away() {
    if std::path::Path::new("/run/systemd/private").exists() {
        eprintln!("left out: this host has a systemd that would make the scope, see tests/vm-scopes.sh");
        return;
    }
    let bench = Bench::new();
    bench
        .config(&["sleep", "1000"], |c| c["linux"]["cgroupsPath"] = json!(format!("berthtest.slice:x:{}", bench.id())));
    let point = if only_v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" };
    let slice = std::path::Path::new(point).join("berthtest.slice");
    let theirs = slice.join(format!("x-{}.scope", bench.id()));
    std::fs::create_dir_all(&theirs).unwrap();
    let refused = bench.runtime(&["--systemd-cgroup", "create", &bench.id()]);
    let is_there = theirs.exists();
    let _ = std::fs::remove_dir(&theirs);
    let _ = std::fs::remove_dir(&slice);
    fails(refused, "--systemd-cgroup");
    assert!(is_there, "{} was removed", theirs.display());
    assert!(!bench.state_folder().join(bench.id()).exists());
}

//! User namespaces: root in a container is nobody on the host, and nothing of that shows inside.

use crate::harness::{Node, eventually, image, runtimes};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

pub const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
/// The first id of the default configuration.
pub const BASE: u64 = 268_435_456;

pub fn node(name: &str) -> Node {
    let node = Node::builder(name).table("[userns]\ndefault = \"auto\"").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node
}

/// Real uid of a container's first process on the host.
fn host_uid(node: &Node, container: &str) -> u64 {
    let pid = node.inspect(container)["State"]["Pid"].as_u64().expect("pid");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).expect("Uid");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("number")
}

pub fn range(node: &Node, container: &str) -> (u64, u64) {
    let userns = node.inspect(container)["UserNamespace"].clone();
    let number = |key: &str| userns[key].as_u64().unwrap_or_else(|| panic!("{userns}"));
    (number("FirstID"), number("IDs"))
}

fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (meta.uid(), meta.gid())
}

#[test]
fn root_is_nobody_on_the_host() {
    let mut node = node("userns-root");
    node.detached(&["--name", "one"], SLEEP);
    node.detached(&["--name", "two"], SLEEP);
    let (one, two) = (range(&node, "one"), range(&node, "two"));
    assert!(one.0 >= BASE && one.1 == 65_536, "{one:?}");
    assert!(one.0 + one.1 <= two.0 || two.0 + two.1 <= one.0, "{one:?} {two:?}");
    assert_eq!((host_uid(&node, "one"), host_uid(&node, "two")), (one.0, two.0));
    assert_eq!(node.ok(&["exec", "one", "id", "-u"]), "0");
    assert_eq!(
        node.ok(&["exec", "one", "awk", "{print $1, $2, $3}", "/proc/self/uid_map"]),
        format!("0 {} 65536", one.0)
    );
    // The kill of an agent and the next start of a container change nothing.
    node.kill_agent();
    node.spawn();
    assert_eq!(node.ok(&["exec", "one", "id", "-u"]), "0");
    node.ok(&["stop", "one"]);
    assert_eq!(range(&node, "one"), one);
    node.ok(&["start", "one"]);
    assert_eq!((range(&node, "one"), host_uid(&node, "one")), (one, one.0));
    // Neither is another one given them meanwhile.
    node.detached(&["--name", "three"], SLEEP);
    let three = range(&node, "three");
    assert!(three.0 != one.0 && three.0 != two.0, "{three:?}");
    node.finish();
}

#[test]
fn the_hosts_is_there_for_who_asks() {
    let node = node("userns-host");
    let inode = |path: &str| fs::read_link(path).expect("ns").to_string_lossy().into_owned();
    assert_eq!(node.sh(&["--userns", "host"], "readlink /proc/self/ns/user"), inode("/proc/self/ns/user"));
    assert_ne!(node.sh(&[], "readlink /proc/self/ns/user"), inode("/proc/self/ns/user"));
    let told = |options: &[&str]| {
        let mut arguments = vec!["create", "--name", "box"];
        arguments.extend(options);
        let busybox = image("busybox");
        arguments.push(&busybox);
        node.ok(&arguments);
        let userns = node.inspect("box")["UserNamespace"].clone();
        node.ok(&["rm", "box"]);
        assert_eq!(userns["Mode"], "host", "{userns}");
        userns["Reason"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(told(&["--userns", "host"]), "");
    assert_eq!(told(&["--privileged"]), "privileged");
    assert_eq!(told(&["--pid", "host"]), "the host's processes");
    assert_eq!(told(&["--network", "host"]), "the host's network");
    assert_eq!(told(&["--ipc", "host"]), "the host's System V IPC");
    node.sh(&["--userns", "auto", "--ipc", "host"], "test -d /dev/mqueue");
    let both = node.fails(125, &["run", "--rm", "--privileged", "--userns", "auto", &image("busybox"), "true"]);
    assert!(both.contains("--userns") && both.contains("privileged"), "{both}");
    for wrong in ["nope", "keep:0", "range:1000", "auto:size=0"] {
        let said = node.fails(125, &["run", "--rm", "--userns", wrong, &image("busybox"), "true"]);
        assert!(said.contains("--userns"), "{wrong}: {said}");
    }
    // Asked for, a container of the host's network or processes is nobody there.
    let there = node.sh(
        &["--userns", "auto", "--network", "host"],
        "ls /sys/class/net | wc -l; awk '{print $2}' /proc/self/uid_map",
    );
    assert!(there.lines().count() == 2 && !there.ends_with("\n0"), "{there}");
    let seen = node.sh_output(&["--userns", "auto", "--pid", "host"], "kill -0 1; ls /proc/1/root");
    assert!(seen.code != 0 && seen.stderr.contains("not permitted"), "{seen:?}");
    node.finish();
}

#[test]
fn operators_get_no_ids_of_their_choice() {
    let node = node("userns-roles");
    let operator = node.pki.identity("operator");
    let busybox = image("busybox");
    let run =
        |mode: &str| node.ctl_as(&operator, &["run", "--rm", "--network", "none", "--userns", mode, &busybox, "true"]);
    assert_eq!(run("auto").code, 0);
    for mode in ["host", "keep:1000", "range:3000000000"] {
        let refused = run(mode);
        assert!(refused.code == 125 && refused.stderr.contains("admin"), "{mode}: {refused:?}");
    }
    node.finish();
}

#[test]
fn a_crowd_shares_nothing() {
    let node = node("userns-crowd");
    let busybox = image("busybox");
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| node.ok(&["create", &busybox, "true"]));
        }
    });
    let ids = node.ok(&["ps", "-a", "-q"]);
    let mut inspect = vec!["inspect", "-o", "json"];
    inspect.extend(ids.split_whitespace());
    let all: serde_json::Value = serde_json::from_str(&node.ok(&inspect)).expect("json");
    let bases: BTreeSet<u64> =
        all.as_array().expect("a list").iter().map(|c| c["UserNamespace"]["FirstID"].as_u64().expect("id")).collect();
    assert_eq!(bases.len(), 50);
    let list: Vec<u64> = bases.into_iter().collect();
    assert!(list.windows(2).all(|w| w[1] - w[0] >= 65_536), "{list:?}");
    node.finish();
}

#[test]
fn files_keep_the_images_owners_on_the_disk() {
    let node = node("userns-files");
    node.detached(&["--name", "box"], SLEEP);
    let script =
        "touch /made; mkdir /d; touch /d/x; chown 33:44 /d/x; chmod 4755 /d/x; stat -c %u:%g / /bin/busybox /made /d/x";
    assert_eq!(node.ok(&["exec", "box", "sh", "-c", script]), "0:0\n0:0\n0:0\n33:44");
    let upper = node.inspect("box")["UpperDir"].as_str().expect("upper").to_owned();
    let upper = Path::new(&upper);
    assert_eq!((owner(&upper.join("made")), owner(&upper.join("d/x"))), ((0, 0), (33, 44)));
    let changed = node.ok(&["diff", "box"]);
    assert!(changed.contains("/d/x") && !changed.contains("/bin"), "{changed}");
    // Out of a container that runs and out of one that does not: the same owners.
    let out = |what: &str| {
        let output = node.ctl_command(&["cp", "-a", what, "-"]).output().expect("cp");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        tar::entries(&output.stdout)
    };
    let running = out("box:/d");
    assert_eq!(running, [("d/".to_owned(), 0, 0), ("d/x".to_owned(), 33, 44)]);
    // And into it, also into what is mounted there alone.
    let file = node.scratch().join("file");
    fs::write(&file, "hello").expect("file");
    std::os::unix::fs::chown(&file, Some(1000), Some(1001)).expect("chown");
    let from = file.display().to_string();
    for place in ["/in", "/dev/shm/in", "/d/in"] {
        node.ok(&["cp", &from, &format!("box:{place}")]);
        assert_eq!(node.ok(&["exec", "box", "stat", "-c", "%u:%g", place]), "0:0", "{place}");
    }
    node.ok(&["cp", "-a", &from, "box:/kept"]);
    assert_eq!(node.ok(&["exec", "box", "stat", "-c", "%u:%g", "/kept"]), "1000:1001");
    assert_eq!(node.ok(&["exec", "box", "cat", "/in"]), "hello");
    node.ok(&["commit", "box", "made:1"]);
    let committed =
        ["run", "--rm", "--pull", "never", "--network", "none", "made:1", "stat", "-c", "%u:%g:%a", "/d/x", "/kept"];
    assert_eq!(node.ok(&committed), "33:44:4755\n1000:1001:644");
    node.ok(&["stop", "box"]);
    assert_eq!(out("box:/d").len(), 3);
    node.ok(&["cp", &from, "box:/later"]);
    node.ok(&["start", "box"]);
    assert_eq!(node.ok(&["exec", "box", "stat", "-c", "%u:%g", "/later", "/d/x"]), "0:0\n33:44");
    node.finish();
}

#[test]
fn volumes_are_shared_by_containers_with_different_ids() {
    let node = node("userns-volumes");
    node.detached(&["--name", "one", "-v", "data:/data"], SLEEP);
    node.detached(&["--name", "two", "-v", "data:/data", "-v", "bin:/bin"], SLEEP);
    assert_ne!(range(&node, "one").0, range(&node, "two").0);
    node.ok(&[
        "exec",
        "one",
        "sh",
        "-c",
        "echo shared >/data/file; chmod 600 /data/file; touch /data/x; chown 7:8 /data/x",
    ]);
    assert_eq!(node.ok(&["exec", "two", "cat", "/data/file"]), "shared");
    assert_eq!(node.ok(&["exec", "two", "stat", "-c", "%u:%g", "/data/file", "/data/x"]), "0:0\n7:8");
    node.ok(&["exec", "two", "sh", "-c", "echo more >>/data/file; rm /data/x"]);
    assert_eq!(node.ok(&["exec", "one", "cat", "/data/file"]), "shared\nmore");
    let on_disk = node.data().join("volumes/data/_data/file");
    assert_eq!(owner(&on_disk), (0, 0));
    // Filled from the image with the image's owners.
    assert_eq!(owner(&node.data().join("volumes/bin/_data/busybox")), (0, 0));
    // The host's user namespace sees the same, and copies reach it too.
    assert_eq!(node.sh(&["--userns", "host", "-v", "data:/data"], "stat -c %u:%g /data/file"), "0:0");
    let file = node.scratch().join("file");
    fs::write(&file, "hello").expect("file");
    node.ok(&["cp", &file.display().to_string(), "one:/data/copied"]);
    assert_eq!(owner(&node.data().join("volumes/data/_data/copied")), (0, 0));
    // Sizes and image mounts go the same way.
    node.ok(&["volume", "create", "--opt", "size=16m", "small"]);
    assert_eq!(node.sh(&["-v", "small:/s"], "touch /s/x; chown 5:6 /s/x; stat -c %u:%g /s /s/x"), "0:0\n5:6");
    let mount = format!("type=image,source={},target=/i", image("busybox"));
    assert_eq!(node.sh(&["--mount", &mount], "stat -c %u:%g /i /i/bin/busybox"), "0:0\n0:0");
    node.finish();
}

#[test]
fn owners_of_bind_mounts_are_mapped_unless_that_is_not_wanted() {
    let node = node("userns-binds");
    let dir = node.scratch().join("bound");
    fs::create_dir(&dir).expect("folder");
    fs::write(dir.join("secret"), "of the host").expect("file");
    fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).expect("mode");
    let plain = format!("{}:/b", dir.display());
    let host = format!("{plain}:noidmap");
    let tried = node.sh_output(&["-v", &host], "cat /b/secret; touch /b/new; chown 0 /b; chmod 777 /b; stat -c %u /b");
    assert!(tried.stdout.trim() == "65534", "{tried:?}");
    assert_eq!(tried.stderr.matches("denied").count() + tried.stderr.matches("not permitted").count(), 4, "{tried:?}");
    assert!(!dir.join("new").exists());
    // What everybody may read is read.
    fs::write(dir.join("open"), "for all").expect("file");
    assert_eq!(node.sh(&["-v", &host], "cat /b/open"), "for all");
    for options in [
        ["-v".to_owned(), plain.clone()],
        ["-v".to_owned(), format!("{plain}:idmap")],
        ["--mount".to_owned(), format!("type=bind,source={},target=/b,idmap", dir.display())],
    ] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        assert_eq!(node.sh(&options, "cat /b/secret; echo; touch /b/new; stat -c %u:%g /b/new"), "of the host\n0:0");
        assert_eq!(owner(&dir.join("new")), (0, 0));
        fs::remove_file(dir.join("new")).expect("made");
    }
    // What cannot be mapped is said, and is an error where it was asked for.
    let proc = ["create", "--name", "unmapped", "-v", "/proc/sys/kernel:/k"];
    node.ok(&[&proc[..], &[image("busybox").as_str(), "sleep", "60"]].concat());
    let started = node.ctl(&["start", "unmapped"]);
    assert!(started.code == 0 && started.stderr.contains("/proc/sys/kernel"), "{started:?}");
    node.ok(&["rm", "-f", "unmapped"]);
    let refused = node.sh_output(&["-v", "/proc/sys/kernel:/k:idmap"], "true");
    assert!(refused.code == 125 && refused.stderr.contains("/proc/sys/kernel"), "{refused:?}");
    // A user that is kept is the host's own, on plain bind mounts too.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("mode");
    std::os::unix::fs::chown(&dir, Some(1234), Some(1235)).expect("owner");
    let kept = node.sh(
        &["--userns", "keep:1234:1235", "-u", "1234:1235", "-v", &plain],
        "touch /b/mine; id -u; stat -c %u:%g /b/mine /bin",
    );
    assert_eq!(kept, "1234\n1234:1235\n0:0");
    assert_eq!(owner(&dir.join("mine")), (1234, 1235));
    node.finish();
}

#[test]
fn nothing_of_it_shows_inside() {
    let node = node("userns-inside");
    // Root of its namespaces, and of nothing else.
    let output = node.sh_output(&[], "mknod /x c 1 3; mknod /y b 8 0");
    assert_eq!(output.stderr.matches("not permitted").count(), 2, "{output:?}");
    // Others bind the host's devices.
    let owner = if runtimes::other().is_some() { "65534:65534" } else { "0:0" };
    assert_eq!(
        node.sh(&[], "echo x >/dev/null && head -c 2 /dev/zero | wc -c; stat -c %u:%g:%a /dev /dev/null"),
        format!("2\n0:0:755\n{owner}:666")
    );
    let capability = node.sh(&[], "grep CapEff /proc/self/status");
    assert!(capability.ends_with("a80425fb"), "{capability}");
    assert_eq!(
        node.sh(&["--hostname", "here"], "hostname; cat /etc/hostname; echo x >>/etc/hosts && stat -c %u /etc/hosts"),
        "here\nhere\n0"
    );
    // A set-uid program gives nothing, or root of the container where that is asked for. (busybox gives up what its applets do not need; su needs it.)
    let su = "sed -i 's/^root:[^:]*:/root::/' /etc/passwd; rm -f /etc/shadow; mkdir /s; cp /bin/busybox /s/; chmod MODE /s/busybox;\
        su -s /bin/sh nobody -c '/s/busybox su -c \"touch /root/x\"'; stat -c %u /root/x";
    assert_ne!(node.sh_output(&[], &su.replace("MODE", "4755")).code, 0);
    let may = ["--security-opt", "no-new-privileges=false"];
    assert_eq!(node.sh(&may, &su.replace("MODE", "4755")), "0");
    assert_ne!(node.sh_output(&may, &su.replace("MODE", "755")).code, 0);
    assert_eq!(
        node.sh(
            &["--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--sysctl", "kernel.shmmax=123456"],
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax"
        ),
        "77\n123456"
    );
    assert_eq!(
        node.sh(
            &["--ulimit", "nofile=123:456", "--oom-score-adj", "321"],
            "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj"
        ),
        "123\n456\n321"
    );
    assert_eq!(node.sh(&["--network", "bridge"], "ping -c 1 -W 2 127.0.0.1 >/dev/null && echo pong"), "pong");
    assert_eq!(
        node.sh(
            &["--network", "bridge", "--cap-add", "NET_ADMIN"],
            "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu"
        ),
        "1400"
    );
    assert_eq!(
        node.sh(&["--read-only", "--tmpfs", "/t"], "touch /x 2>/dev/null || echo no; touch /t/x && stat -c %u /t/x"),
        "no\n0"
    );
    assert_eq!(
        node.sh(&["--device", "/dev/loop-control:/dev/sub/mine:rw"], "stat -c %t:%T:%u /dev/sub/mine"),
        "a:ed:0"
    );
    assert_eq!(node.sh(&["--device", "/dev/loop-control:/mine:rw"], "stat -c %t:%T:%u /mine"), "a:ed:0");
    if runtimes::has("--init") {
        assert_eq!(node.sh(&["--init", "-u", "5:6"], "id -u; id -g; cat /proc/1/comm"), "5\n6\nberth-init");
    }
    assert_eq!(node.sh(&["-u", "5:6"], "echo out >/dev/stdout; echo err >/dev/stderr; id -G"), "out\n6");
    let many = node.sh_output(&["-u", "70000"], "true");
    assert!(many.code == 125 && many.stderr.contains("auto:size"), "{many:?}");
    assert_eq!(node.sh(&["--userns", "auto:size=100000", "-u", "70000"], "id -u"), "70000");
    // Processes that come later are the same kind.
    node.detached(&["--name", "box", "--network", "bridge", "--group-add", "77"], SLEEP);
    assert_eq!(node.ok(&["exec", "-u", "5:6", "box", "id", "-u"]), "5");
    assert_eq!(node.ok(&["exec", "box", "sh", "-c", "echo seen >/dev/stdout; id -G; readlink /proc/self/ns/user > /tmp/a; readlink /proc/1/ns/user | cmp - /tmp/a && echo same"]), "seen\n0 77\nsame");
    let tty = node.ok(&["exec", "-t", "box", "sh", "-c", "stat -c %u:%g $(tty); echo x >$(tty)"]);
    assert_eq!(tty.replace('\r', ""), "0:5\nx");
    let shared =
        node.sh(&["--network", "container:box"], "ls /sys/class/net | tr '\\n' ' '; cat /proc/self/uid_map | wc -l");
    assert_eq!(shared, "eth0 lo 1");
    node.finish();
}

/// Terminals have the group tty where the container has such a group, and root's where it has not.
#[test]
fn a_few_ids_are_enough() {
    let node = node("userns-small");
    for (size, group) in [(1, 0), (5, 0), (6, 5)] {
        let userns = format!("auto:size={size}");
        let options = ["--userns", &userns, "--network", "none"];
        assert_eq!(node.sh(&options, "awk '{print $3}' /proc/self/uid_map"), size.to_string());
        let run = [&["run", "--rm", "-t"][..], &options, &[&image("busybox"), "sh", "-c", "stat -c %u:%g $(tty)"]];
        assert_eq!(node.ok(&run.concat()).trim(), format!("0:{group}"), "{userns}");
    }
    node.finish();
}

/// The kernel asks for the host's number of a group: all of a container's are among those that may ping, whichever they are.
#[test]
fn every_group_may_ping() {
    let node = node("userns-ping");
    let program = format!("{}:/escape:ro", crate::escapes::program().display());
    let ping = |options: &[&str]| {
        // Ids that were asked for by number are free a moment behind the end of who had them.
        let output = eventually("the ids are free", || {
            let output = node.sh_output(&[&["-v", &program, "--cap-drop", "ALL"], options].concat(), "/escape icmp");
            (!output.stderr.contains("another container's or another user's")).then_some(output)
        });
        if output.code == 0 { output.stdout.trim().to_owned() } else { output.stderr }
    };
    for userns in ["host", "auto", "auto:size=1000", "keep:1000:1000", "range:2100000000:65536"] {
        for user in ["0:0", "999:999"] {
            assert_eq!(ping(&["--userns", userns, "-u", user]), "opened", "{userns} {user}");
        }
    }
    assert_eq!(ping(&["--userns", "host", "-u", "2147483647:2147483647"]), "opened");
    // As with Docker, a user has no number beyond; ids of the host may.
    for user in ["2147483648", "0:2147483648"] {
        assert!(ping(&["--userns", "host", "-u", user]).contains("the highest is 2147483647"), "{user}");
    }
    let far = ["--userns", "range:4294900000:65536"];
    assert_eq!(node.sh(&far, "awk '{print $2}' /proc/self/uid_map"), "4294900000");
    let everywhere = node.sh(&["--userns", "host"], "cat /proc/sys/net/ipv4/ping_group_range");
    if everywhere.ends_with("4294967294") {
        assert_eq!(ping(&[&far[..], &["-u", "65535:65535"]].concat()), "opened");
    } else {
        runtimes::say("left out: pings of groups beyond 2^31: this kernel keeps them from it (Linux 6.4)");
    }
    // What is asked for is told as the container's groups: the usual word for all of them is good, and one alone is one alone.
    let all = ["--sysctl", "net.ipv4.ping_group_range=0 2147483647"];
    assert_eq!(ping(&[&all[..], &["-u", "999:999"]].concat()), "opened");
    let shown = node.sh(&all, "cat /proc/sys/net/ipv4/ping_group_range");
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["0", "65535"]);
    let one = ["--sysctl", "net.ipv4.ping_group_range=7 7"];
    for userns in ["host", "auto"] {
        let may = |group: &str| ping(&[&one[..], &["--userns", userns, "-u", group]].concat());
        assert_eq!((may("7:7").as_str(), may("8:8").as_str()), ("opened", "Permission denied"), "{userns}");
    }
    let wrong = ping(&["--userns", "auto:size=10", "--sysctl", "net.ipv4.ping_group_range=10 20"]);
    assert!(wrong.contains("10 is none of the container's 10 groups"), "{wrong}");
    node.finish();
}

#[test]
fn without_the_default_containers_are_as_before() {
    let node = Node::builder("userns-off").table("[userns]\ndefault = \"host\"").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node.detached(&["--name", "plain"], SLEEP);
    assert_eq!(host_uid(&node, "plain"), 0);
    assert_eq!(node.inspect("plain")["UserNamespace"]["Reason"], "the agent's default");
    assert!(node.sh(&["--userns", "auto"], "cat /proc/self/uid_map").contains("65536"));
    node.finish();
}

/// Just enough of a tar to know owners.
mod tar {
    pub fn entries(bytes: &[u8]) -> Vec<(String, u64, u64)> {
        let (mut at, mut found) = (0, Vec::new());
        while at + 512 <= bytes.len() && bytes[at] != 0 {
            let head = &bytes[at..at + 512];
            let text = |from: usize, n: usize| {
                let field = &head[from..from + n];
                String::from_utf8_lossy(field).trim_end_matches(['\0', ' ']).to_owned()
            };
            let number = |from, n| u64::from_str_radix(text(from, n).trim(), 8).unwrap_or_else(|e| panic!("{e}"));
            let size = number(124, 12);
            if matches!(head[156], b'0' | b'5') {
                found.push((text(0, 100), number(108, 8), number(116, 8)));
            }
            at += 512 + (size as usize).div_ceil(512) * 512;
        }
        found
    }
}

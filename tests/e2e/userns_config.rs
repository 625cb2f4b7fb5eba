//! User namespaces: what the configuration says of them, and what the host has.

use crate::harness::{Node, image, until};
use crate::userns::{BASE, SLEEP, node, range};

#[test]
fn an_agent_may_forbid_the_hosts() {
    let strict = "[userns]\ndefault = \"host\"\nallow_host = false";
    let node = Node::builder("userns-strict").table(strict).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    for options in [&["--userns", "host"][..], &["--privileged"]] {
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(options);
        let busybox = image("busybox");
        arguments.extend([busybox.as_str(), "true"]);
        let refused = node.fails(125, &arguments);
        assert!(refused.contains("host's user namespace") && refused.contains("allow_host"), "{refused}");
    }
    for options in [&[][..], &["--network", "host"]] {
        let first = node.sh(options, "awk '{print $2}' /proc/self/uid_map");
        assert!(first.parse::<u64>().is_ok_and(|id| id >= BASE), "{options:?}: {first}");
    }
    node.finish();
}

#[test]
fn what_was_made_before_the_hosts_was_forbidden_is_not_started_again() {
    let mut node = node("userns-later");
    let options = [("host", &["--userns", "host"][..]), ("privileged", &["--privileged"]), ("own", &[])];
    for (name, options) in options {
        let options = [&["--name", name, "--restart", "always"], options].concat();
        node.detached(&options, SLEEP);
    }
    node.kill_agent();
    node.change_config(|text| text.replace("[userns]", "[userns]\nallow_host = false"));
    node.spawn();
    // What runs goes on: an agent that starts harms nobody.
    for (name, _) in options {
        assert_eq!(node.ok(&["exec", name, "echo", "on"]), "on");
    }
    for name in ["host", "privileged"] {
        let refused = node.fails(1, &["restart", "-t", "0", name]);
        assert!(refused.contains("allow_host") && refused.contains(name), "{refused}");
        let refused = node.fails(1, &["start", name]);
        assert!(refused.contains("host's user namespace"), "{refused}");
        assert_eq!(node.inspect(name)["State"]["Status"], "exited");
    }
    node.ok(&["restart", "-t", "0", "own"]);
    node.finish();
}

#[test]
#[cfg(feature = "failpoints")]
fn a_host_without_them_says_so_to_who_makes_a_container() {
    let mut node = node("userns-without");
    node.kill_agent();
    node.set_env("BERTH_WEAKEN", Some("userns.probe"));
    node.spawn();
    let run = |options: &[&str]| {
        let busybox = image("busybox");
        let all = [&["run", "--rm", "--network", "none"], options, &[busybox.as_str(), "cat", "/proc/self/uid_map"]];
        node.ctl(&all.concat())
    };
    let fallen = run(&[]);
    let hosts = |map: &str| map.split_whitespace().eq(["0", "0", "4294967295"]);
    assert!(fallen.code == 0 && hosts(&fallen.stdout), "{fallen:?}");
    assert!(
        fallen.stderr.contains("no user namespaces here") && fallen.stderr.contains("root of the host"),
        "{fallen:?}"
    );
    // Who asked for the host's knows, and who asked for another one does not get less.
    let host = run(&["--userns", "host"]);
    assert!(host.code == 0 && !host.stderr.contains("no user namespaces"), "{host:?}");
    let auto = run(&["--userns", "auto"]);
    assert!(auto.code == 125 && auto.stderr.contains("idmapped"), "{auto:?}");
    node.finish();
}

#[test]
fn ids_run_out_by_name_and_come_back() {
    let node = Node::builder("userns-few").table("[userns]\ndefault = \"auto\"\nbase = 300000\nids = 131072").start();
    node.ok(&["pull", "-q", &image("busybox")]);
    let create = |name: &str| node.ctl(&["create", "--name", name, &image("busybox")]);
    assert_eq!((create("aa").code, create("bb").code), (0, 0));
    let full = create("cc");
    assert!(full.code != 0 && full.stderr.contains("65536 ids") && full.stderr.contains("[userns]"), "{full:?}");
    let taken = node.ctl(&["create", "--userns", "range:300100:10", &image("busybox")]);
    assert!(taken.code != 0 && taken.stderr.contains("300100"), "{taken:?}");
    node.ok(&["create", "--name", "small", "--userns", "range:700000:1000", &image("busybox")]);
    assert_eq!(range(&node, "small"), (700_000, 1000));
    let a = range(&node, "aa");
    node.ok(&["rm", "aa"]);
    until("the ids are free", || create("cc").code == 0);
    assert_eq!(range(&node, "cc"), a);
    node.finish();
}

/// Ids of a user of the host: what both files give it, and no id that they give to another.
#[test]
#[cfg(feature = "failpoints")]
fn ids_may_come_from_subuid() {
    let mut node = node("userns-subid");
    node.kill_agent();
    for (file, text) in [
        ("/etc/subuid", "alice:700000:65536\nberth:1000000:65536\nberth:2000000:196608\nbob:2065536:65536\n"),
        ("/etc/subgid", "berth:1000000:1000\nberth:2000000:196608\n"),
    ] {
        assert!(std::path::Path::new(file).exists(), "{file} is missing: the package passwd has it");
        node.cover(file, text);
    }
    node.change_config(|text| text.replace("[userns]", "[userns]\nsubid_user = \"berth\""));
    node.spawn();
    let create = |name: &str| node.ctl(&["create", "--name", name, &image("busybox"), "cat", "/proc/self/gid_map"]);
    assert_eq!((create("aa").code, create("bb").code), (0, 0));
    assert_eq!((range(&node, "aa"), range(&node, "bb")), ((2_000_000, 65_536), (2_131_072, 65_536)));
    assert_eq!(node.ok(&["start", "-a", "bb"]).split_whitespace().collect::<Vec<_>>(), ["0", "2131072", "65536"]);
    let full = create("cc");
    assert!(full.code != 0 && full.stderr.contains("65536 ids"), "{full:?}");
    node.ok(&["rm", "aa", "bb"]);
    // Without a line for the user there is nothing to give.
    node.kill_agent();
    node.change_config(|text| text.replace("subid_user = \"berth\"", "subid_user = \"carol\""));
    node.spawn_without_waiting();
    until("the agent gives up", || node.agent_has_ended());
    assert!(node.agent_log().contains("userns.subid_user"), "{}", node.agent_log());
    node.forget_agent();
    node.change_config(|text| text.replace("subid_user = \"carol\"", ""));
    node.spawn();
    node.finish();
}

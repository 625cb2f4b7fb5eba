//! Devices that a vendor describes in a file (Container Device Interface).

use crate::harness::{Node, image};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SPEC: &str = "cdiVersion: \"0.6.0\"\nkind: berth.test/sink\ndevices:\n- name: a\n  containerEdits:\n    env: [SINK=a]\n    deviceNodes:\n    - {path: /dev/sink-a, hostPath: /dev/zero, permissions: r, fileMode: 288, uid: 7, gid: 8}\n- name: b\n  containerEdits:\n    deviceNodes: [{path: /dev/sub/sink-b, hostPath: /dev/null}]\n- name: c\n  containerEdits:\n    deviceNodes: [{path: /dev/read-only, hostPath: /dev/loop-control, permissions: r}]\n- name: hooked\n  containerEdits:\n    hooks: [{hookName: createContainer, path: FOLDER/hook, args: [vendor-hook, x], env: [VENDOR=v]}]\n- name: gone\n  containerEdits:\n    deviceNodes: [{path: /dev/there-is-no-such-device}]\ncontainerEdits:\n  env: [SINKS=all]\n  additionalGids: [4711]\n  mounts:\n  - {hostPath: FOLDER, containerPath: /opt/vendor, options: [ro, nosuid, nodev, rbind, rprivate]}\n";

/// Does what vendors' hooks do: finds the container's root by the bundle that it is told of, and puts something there.
const HOOK: &str = r#"#!/bin/sh
bundle=$(sed -n 's/.*"bundle": *"\([^"]*\)".*/\1/p')
root=$(sed -n 's/.*"path": *"\([^"]*rootfs\)".*/\1/p' "$bundle/config.json")
echo "$1 $VENDOR $(env | grep -c SINK)" >"$root/etc/hooked"
"#;

fn node(name: &str, tables: &str) -> Node {
    let dirs = |d: &Path| format!("cdi_dirs = [\"{}\"]\n", d.display());
    let folder = crate::harness::test_dir().join(format!("{name}-cdi"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("lib")).expect("folder");
    fs::write(folder.join("lib/driver.so"), "driver").expect("file");
    fs::write(folder.join("lib/hook"), HOOK).expect("hook");
    fs::set_permissions(folder.join("lib/hook"), fs::Permissions::from_mode(0o755)).expect("hook");
    fs::write(folder.join("vendor.yaml"), SPEC.replace("FOLDER", &folder.join("lib").display().to_string()))
        .expect("spec");
    let node = Node::builder(name).containers(&dirs(&folder)).table(tables).start();
    node.ok(&["pull", "-q", &image("busybox")]);
    node
}

#[test]
fn devices_bring_their_nodes_files_and_variables() {
    let node = node("cdi-run", "");
    for users in ["auto", "host"] {
        let run = |devices: &[&str], script: &str| {
            let options = [&["--userns", users], devices].concat();
            node.sh(&options, script)
        };
        let a = ["--device", "berth.test/sink=a"];
        let seen = run(
            &a,
            "stat -c '%F %t,%T %a %u:%g' /dev/sink-a; echo $SINK $SINKS; id -G | tr ' ' '\\n' | grep 4711; cat /opt/vendor/driver.so",
        );
        assert_eq!(seen, "character special file 1,5 440 7:8\na all\n4711\ndriver", "{users}");
        let mount = run(&a, "grep ' /opt/vendor ' /proc/self/mountinfo");
        assert!(["ro", "nosuid", "nodev"].iter().all(|word| mount.contains(word)), "{mount}");
        // Only what was asked for, with the rights that were said: the cgroup's rules hold for root, too.
        assert_eq!(run(&a, "test -e /dev/sub || echo none; head -c 3 /dev/sink-a | wc -c"), "none\n3");
        let refused = node.sh_output(
            &["--userns", users, "--device", "berth.test/sink=c"],
            "exec 3</dev/read-only && exec 4>/dev/read-only",
        );
        assert!(
            refused.code != 0 && refused.stderr.contains("can't create /dev/read-only: Operation not permitted"),
            "{refused:?}"
        );
        let both = run(
            &["--device", "berth.test/sink=a", "--device", "berth.test/sink=b"],
            "echo x >/dev/sub/sink-b; env | grep -c SINK",
        );
        assert_eq!(both, "2");
    }
    // A container that is started again gets what the file says then.
    node.ok(&[
        "create",
        "--name",
        "kept",
        "--device",
        "berth.test/sink=a",
        &image("busybox"),
        "sh",
        "-c",
        "echo $SINK",
    ]);
    let said = || {
        node.ok(&["start", "kept"]);
        node.ok(&["wait", "kept"]);
        node.ok(&["logs", "--tail", "1", "kept"])
    };
    assert_eq!(node.inspect("kept")["HostConfig"]["CDIDevices"][0], "berth.test/sink=a");
    assert_eq!(said(), "a");
    let file = crate::harness::test_dir().join("cdi-run-cdi/vendor.yaml");
    fs::write(&file, fs::read_to_string(&file).expect("spec").replace("SINK=a", "SINK=new")).expect("spec");
    assert_eq!(said(), "new");
    fs::remove_file(&file).expect("spec");
    assert!(node.fails(1, &["start", "kept"]).contains("no CDI device"));
    node.ok(&["rm", "kept"]);
    node.finish();
}

#[test]
fn what_is_not_there_or_not_done_is_said() {
    let node = node("cdi-refused", "");
    for (device, words) in [
        ("berth.test/sink=d", ["no CDI device", "berth.test/sink=a"]),
        ("other.test/x=c", ["no CDI device", "berth.test/sink=a"]),
        ("berth.test/sink=hooked", ["/hook at createContainer", "--runtime"]),
        ("berth.test/sink=gone", ["/dev/there-is-no-such-device", "no device"]),
        ("a/b=-", ["--device", "letters"]),
    ] {
        let output = node.sh_output(&["--runtime", "berth", "--device", device], "true");
        assert!(output.code == 125 && words.iter().all(|w| output.stderr.contains(w)), "{device}: {output:?}");
    }
    node.finish();
}

#[test]
fn hooks_are_run_by_other_runtimes() {
    let node = node("cdi-hooks", "");
    for runtime in ["crun", "runc"] {
        for users in ["host", "auto"] {
            let options = ["--runtime", runtime, "--userns", users, "--device", "berth.test/sink=hooked"];
            // Its own arguments and environment, and nothing of the container's.
            assert_eq!(node.sh(&options, "cat /etc/hooked"), "x v 0", "{runtime} {users}");
        }
        let none = node.sh_output(&["--runtime", runtime, "--device", "berth.test/sink=a"], "test ! -e /etc/hooked");
        assert_eq!(none.code, 0, "{none:?}");
    }
    let hook = crate::harness::test_dir().join("cdi-hooks-cdi/lib/hook");
    fs::write(&hook, "#!/bin/sh\necho no such driver >&2; exit 3\n").expect("hook");
    let failed = node.sh_output(&["--runtime", "crun", "--device", "berth.test/sink=hooked"], "true");
    assert!(failed.code == 125 && failed.stderr.contains("hook"), "{failed:?}");
    node.finish();
}

#[test]
fn operators_get_the_kinds_that_they_are_given() {
    let node = node("cdi-operator", "[policy.operator]\ndevices = [\"berth.test/sink=a\"]\n");
    let operator = node.pki.identity("operator");
    let run = |device: &str| {
        let busybox = image("busybox");
        node.ctl_as(&operator, &["run", "--rm", "--network", "none", "--device", device, &busybox, "true"])
    };
    assert_eq!(run("berth.test/sink=a").code, 0);
    let denied = run("berth.test/sink=b");
    assert!(
        denied.code == 125 && denied.stderr.contains("policy.operator") && denied.stderr.contains("sink=b"),
        "{denied:?}"
    );
    node.finish();
}

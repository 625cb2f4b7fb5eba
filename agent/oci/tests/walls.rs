//! What a bundle, an image or a neighbour must not reach, and what must not hang or be taken over, with real containers.

mod common;

use common::{Bench, fails, ok, only_v2, text};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RIGHTS: &str = "id -u; grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status";

/// A second container's bench beside the first: its group is where `path` says.
fn in_group(path: &str) -> Bench {
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |c| c["linux"]["cgroupsPath"] = json!(path));
    bench
}

fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

#[test]
fn hooks_inside_have_the_rights_of_the_program() {
    let bench = Bench::new();
    let tmp = bench.bundle().join("rootfs/tmp");
    std::fs::set_permissions(tmp, std::fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!("({RIGHTS}; ls /proc/self/fd | wc -l) > /tmp/hook; cat > /tmp/state");
    symlink("busybox", bench.bundle().join("rootfs/bin/wc")).unwrap();
    bench.config(&["sh", "-c", &format!("{RIGHTS}; cat /tmp/hook; cat /tmp/state; echo; : >&3 && echo given")], |c| {
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        let chown = json!(["CAP_CHOWN"]);
        c["process"]["capabilities"] = json!({"bounding": chown});
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]});
        c["hooks"] = json!({"startContainer": [hook(&script)]});
    });
    // With a descriptor that the program is to get, and hooks are not: 0, 1, 2 and ls' own.
    let (log, id) = (bench.at.join("out"), bench.id());
    let shell = format!(
        "exec 3>/dev/null; exec {} --root {} run --preserve-fds 1 {id}",
        common::runtime(),
        bench.state_folder().display()
    );
    let out =
        Command::new("sh").args(["-c", &shell]).current_dir(bench.bundle()).stdin(Stdio::null()).output().unwrap();
    std::fs::write(log, &out.stdout).unwrap();
    let said = ok(out);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "1000");
    assert_eq!(lines[2], "CapBnd:\t0000000000000001");
    assert_eq!(lines[..5], lines[5..10], "{said}");
    assert_eq!(lines[10].trim(), "4", "{said}");
    assert!(lines[11].contains("\"status\":\"created\""), "{said}");
    assert_eq!(lines[12], "given", "{said}");
}

#[test]
fn exec_takes_no_keyring_of_its_caller_along() {
    let bench = Bench::new();
    let id = bench.id();
    // This thread's, which the runtime inherits from it alone. Who is not its user sees it when it possesses it, by its session.
    berth_sys::oci::new_session_keyring(c"oci-test-of-the-caller").unwrap();
    for (options, seen) in [(&["--no-new-keyring"][..], true), (&[], false)] {
        bench.config(&["sleep", "1000"], |c| c["linux"]["maskedPaths"] = json!([]));
        ok(bench.create(options));
        ok(bench.runtime(&["start", &id]));
        let keys = ok(bench.runtime(&["exec", "-u", "1000", &id, "cat", "/proc/keys"]));
        assert_eq!(keys.contains("oci-test-of-the-caller"), seen, "{options:?}: {keys}");
        assert_eq!(keys.contains(&format!("_ses.{id}")), !seen, "{options:?}: {keys}");
        ok(bench.runtime(&["delete", "-f", &id]));
    }
}

/// Needs a machine whose policy may be exchanged, as tests/e2e/selinux.rs does; on others a label is refused by name.
#[test]
fn labels_of_a_bundle_are_those_of_its_processes_and_mounts() {
    let (process, mount) = ("system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2");
    let bench = Bench::new();
    bench.config(&["sleep", "1000"], |c| {
        c["process"]["selinuxLabel"] = json!(process);
        c["linux"]["mountLabel"] = json!(mount);
        c["linux"]["maskedPaths"] = json!(["/proc/fs"]);
    });
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        fails(bench.create(&[]), "SELinux is not enabled on this host");
        return;
    }
    let load = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/selinux/load.sh");
    assert!(Command::new(load).status().unwrap().success());
    ok(bench.create(&[]));
    let id = bench.id();
    ok(bench.runtime(&["start", &id]));
    let seen = ok(bench.runtime(&["exec", &id, "cat", "/proc/self/attr/current", "/proc/1/attr/current"]));
    assert_eq!(seen.replace('\0', "\n").split_whitespace().collect::<Vec<_>>(), [process, process]);
    let other = process.replace("container_t", "other_t");
    let seen = ok(bench.runtime(&["exec", "--process-label", &other, &id, "cat", "/proc/self/attr/current"]));
    assert_eq!(seen.trim_end_matches(['\0', '\n']), other);
    let script = "import os,sys;print(os.getxattr(sys.argv[1],'security.selinux').decode().rstrip('\\0'))";
    let pid = &bench.state()["pid"];
    for (path, labelled) in
        [("dev", true), ("dev/null", true), ("dev/pts", true), ("dev/shm", true), ("proc/fs", true), ("proc", false)]
    {
        let out = Command::new("python3").args(["-c", script, &format!("/proc/{pid}/root/{path}")]).output().unwrap();
        assert_eq!(ok(out).trim() == mount, labelled, "{path}");
    }
    ok(bench.runtime(&["delete", "-f", &id]));
    bench.config(&["true"], |c| c["linux"]["mountLabel"] = json!("nonsense"));
    fails(bench.create(&[]), "linux.mountLabel: \"nonsense\" is no context");
}

#[test]
fn a_group_with_somebody_in_it_is_left_alone() {
    let first = Bench::new();
    first.config(&["sleep", "1000"], |_| {});
    ok(first.create(&[]));
    ok(first.runtime(&["start", &first.id()]));
    let own = format!("/berth-oci-test/{}", first.id());
    // The same one, and one above it.
    for path in [own.as_str(), "/berth-oci-test"] {
        let second = in_group(path);
        fails(second.create(&[]), "the cgroup is not empty: ");
        assert!(!second.state_folder().join(second.id()).exists());
        ok(second.runtime(&["delete", "--force", &second.id()]));
        assert_eq!(first.status(), "running");
    }
    // One below it is its own, where groups above may have processes.
    let inner = in_group(&format!("{own}/inner"));
    if only_v2() {
        fails(inner.create(&[]), "has processes of its own, which cgroup v2 allows at the leaves only");
    } else {
        ok(inner.create(&[]));
    }
    ok(inner.runtime(&["delete", "--force", &inner.id()]));
    assert_eq!(first.status(), "running");
    // And below one that is frozen nothing starts.
    ok(first.runtime(&["pause", &first.id()]));
    let frozen = in_group(&format!("{own}/frozen"));
    fails(frozen.create(&[]), "the cgroup is frozen");
    assert!(!frozen.state_folder().join(frozen.id()).exists());
}

#[test]
fn a_created_container_is_paused_and_resumed() {
    let bench = Bench::new();
    let id = bench.id();
    bench.config(&["sleep", "1000"], |_| {});
    ok(bench.create(&[]));
    ok(bench.runtime(&["pause", &id]));
    assert_eq!(bench.status(), "paused");
    fails(bench.runtime(&["start", &id]), "paused");
    ok(bench.runtime(&["resume", &id]));
    assert_eq!(bench.status(), "created");
    ok(bench.runtime(&["start", &id]));
    assert_eq!(bench.status(), "running");
    ok(bench.runtime(&["delete", "--force", &id]));
    ok(bench.create(&[]));
    ok(bench.runtime(&["pause", &id]));
    ok(bench.runtime(&["delete", "--force", &id]));
}

#[test]
fn looks_at_a_container_in_a_hook_do_not_wait() {
    let bench = Bench::new();
    bench.config(&["true"], |c| {
        c["hooks"] = json!({"startContainer": [hook("echo hooked; while [ ! -e /tmp/go ]; do sleep 0.1; done")]});
    });
    ok(bench.create(&[]));
    let mut start = bench.command(&["start", &bench.id()]).spawn().unwrap();
    // More than wait in the queue of a socket that nobody accepts from.
    let began = Instant::now();
    for _ in 0..40 {
        assert_eq!(bench.status(), "created");
        assert!(began.elapsed() < Duration::from_secs(30), "a look waits for the hook");
    }
    std::fs::write(bench.bundle().join("rootfs/tmp/go"), "").unwrap();
    assert!(start.wait().unwrap().success());
    bench.wait_for("stopped");
}

#[test]
fn hooks_say_much_and_read_nothing() {
    let bench = Bench::new();
    let prestart = |c: &mut Value, timeout: Option<u32>, script: &str| {
        let mut hook = hook(script);
        if let Some(seconds) = timeout {
            hook["timeout"] = json!(seconds);
        }
        c["hooks"] = json!({"prestart": [hook]});
    };
    let began = Instant::now();
    bench.config(&["true"], |c| prestart(c, None, "head -c 1000000 /dev/zero >&2"));
    ok(bench.create(&[]));
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    // More than a pipe holds, for a hook that does not read: its time is over all the same.
    let much = "x".repeat(200_000);
    bench.config(&["true"], |c| {
        c["annotations"] = json!({"much": much});
        prestart(c, Some(1), "exec sleep 100");
    });
    fails(bench.create(&[]), "timeout of 1 s");
    bench.config(&["true"], |c| {
        c["annotations"] = json!({"much": much});
        prestart(c, None, &format!("head -c 1; sleep 0.1; wc -c > {}/length", bench.at.display()));
    });
    ok(bench.create(&[]));
    ok(bench.runtime(&["delete", "--force", &bench.id()]));
    let length = std::fs::read_to_string(bench.at.join("length")).unwrap();
    assert!(length.trim().parse::<usize>().unwrap() > 200_000, "{length}");
    // Who is left of a failed hook, and has its standard error, is not waited for.
    bench.config(&["true"], |c| prestart(c, None, "echo said >&2; sleep 20 & exit 3"));
    fails(bench.create(&[]), "exit status: 3: said");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn home_is_the_user_s_by_the_image() {
    let bench = Bench::new();
    let passwd = bench.bundle().join("rootfs/etc/passwd");
    std::fs::write(&passwd, "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv/web:/bin/sh\n").unwrap();
    let home = |uid: u32, env: Value| {
        bench.config(&["sh", "-c", "echo $HOME; env | grep -c ^HOME="], |c| {
            c["process"]["user"]["uid"] = json!(uid);
            c["process"]["env"] = env;
        });
        ok(bench.run())
    };
    let path = "PATH=/bin";
    assert_eq!(home(0, json!([path])), "/root\n1\n");
    assert_eq!(home(1000, json!([path, "HOME="])), "/srv/web\n1\n");
    assert_eq!(home(1000, json!([path, "HOME=/own"])), "/own\n1\n");
    assert_eq!(home(7, json!([path])), "/\n1\n");
    bench.config(&["sleep", "1000"], |c| c["process"]["env"] = json!([path]));
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    assert_eq!(ok(bench.runtime(&["exec", "-u", "1000", &bench.id(), "sh", "-c", "echo $HOME"])), "/srv/web\n");
    ok(bench.runtime(&["delete", "-f", &bench.id()]));
    // What would wait for ever, and what leads out.
    std::fs::remove_file(&passwd).unwrap();
    assert!(Command::new("mkfifo").arg(&passwd).status().unwrap().success());
    assert_eq!(home(1000, json!([path])), "/\n1\n");
    std::fs::remove_file(&passwd).unwrap();
    symlink("../../../../../../etc/passwd", &passwd).unwrap();
    assert_eq!(home(0, json!([path])), "/\n1\n");
}

/// A pod's: who made the user namespace keeps it, containers join it with all others of their own.
struct Namespace(std::process::Child);

impl Namespace {
    fn of_users() -> Self {
        let child = Command::new("unshare").args(["--user", "sleep", "1000"]).spawn().unwrap();
        let pid = child.id();
        let began = Instant::now();
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        while std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() == own {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), "0 200000 65536").unwrap();
        }
        Namespace(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/user", self.0.id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn containers_of_a_pod_join_its_user_namespace() {
    let (bench, users) = (Bench::new(), Namespace::of_users());
    let join = |c: &mut Value| {
        let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user", "path": users.path()}));
    };
    let name = std::fs::read_link(users.path()).unwrap().display().to_string();
    let script = "echo $$; id -u; readlink /proc/self/ns/user; cat /proc/self/uid_map; hostname; exit 7";
    bench.config(&["sh", "-c", script], join);
    let out = bench.run();
    let said = text(&out.stdout);
    let lines: Vec<Vec<&str>> = said.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(out.status.code(), Some(7), "{said}{}", text(&out.stderr));
    assert_eq!(lines[..4], [vec!["1"], vec!["0"], vec![&name], vec!["0", "200000", "65536"]], "{said}");

    bench.config(&["sleep", "1000"], |c| {
        join(c);
        c["linux"]["resources"]["pids"] = json!({"limit": 20});
    });
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    let pid = bench.state()["pid"].as_u64().unwrap();
    let own = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap().display().to_string();
    assert_eq!(own, name, "the state names the one who was born, not who made it");
    // In its group from the beginning, and alone there.
    assert_eq!(ok(bench.runtime(&["ps", "--format", "json", &bench.id()])).trim(), format!("[{pid}]"));
    assert_eq!(ok(bench.runtime(&["exec", &bench.id(), "sh", "-c", "id -u; cat /proc/1/comm"])), "0\nsleep\n");
    ok(bench.runtime(&["kill", &bench.id(), "KILL"]));
    bench.wait_for("stopped");
    // A failure behind the birth is told, and leaves nobody.
    ok(bench.runtime(&["delete", &bench.id()]));
    bench.config(&["/nosuch"], join);
    fails(bench.create(&[]), "no such file or directory");
    assert!(!bench.state_folder().join(bench.id()).exists());
}

#[test]
fn dev_of_the_image_leads_no_mount_into_proc() {
    let bench = Bench::new();
    let dev = bench.bundle().join("rootfs/dev");
    let keep = |c: &mut Value| {
        let mounts = c["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]}));
    };
    symlink("/proc/self/attr/exec", dev.join("console")).unwrap();
    std::fs::create_dir(dev.join("pts")).unwrap();
    let socket = bench.at.join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bench.config(&["true"], |c| {
        keep(c);
        c["process"]["terminal"] = json!(true);
    });
    fails(bench.create(&["--console-socket", socket.to_str().unwrap()]), "cannot be covered");
    // A user namespace gets the host's devices bound.
    let _ = std::fs::remove_file(dev.join("null"));
    symlink("/proc/self/attr/exec", dev.join("null")).unwrap();
    bench.config(&["true"], |c| {
        keep(c);
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
    });
    fails(bench.create(&[]), "cannot be covered");
}

#[test]
fn private_propagation_has_no_master() {
    let bench = Bench::new();
    let bundle = bench.bundle();
    let propagation = |kind: Value, options: Value| {
        let bind = json!({"destination": "/b", "type": "bind", "source": bundle.join("rootfs"), "options": options});
        bench.config(&["sh", "-c", "grep -E ' /(b)? ' /proc/self/mountinfo | cut -d' ' -f5,7"], |c| {
            c["linux"]["rootfsPropagation"] = kind;
            c["mounts"].as_array_mut().unwrap().push(bind);
        });
        // The bundle is on a mount that is shared, as systemd makes them all.
        let script = format!(
            "mount --bind {0} {0} && mount --make-shared {0} && cd {0} && exec {1} --root {2} run {3}",
            bundle.display(),
            common::runtime(),
            bench.state_folder().display(),
            bench.id()
        );
        let out =
            Command::new("unshare").args(["--mount", "--propagation", "slave", "sh", "-c", &script]).output().unwrap();
        let said = ok(out);
        let slaves = |path: &str| said.lines().any(|l| l.starts_with(&format!("{path} master:")));
        (slaves("/"), slaves("/b"))
    };
    symlink("busybox", bundle.join("rootfs/bin/cut")).unwrap();
    for kind in ["private", "rprivate"] {
        assert_eq!(propagation(json!(kind), json!(["rbind"])), (false, false), "{kind}");
    }
    assert_eq!(propagation(json!("rprivate"), json!(["rbind", "rslave"])), (false, true), "what is asked for holds");
    assert_eq!(propagation(json!("rslave"), json!(["rbind"])), (true, true));
    assert_eq!(propagation(Value::Null, json!(["rbind", "rprivate"])), (true, false));
}

#[test]
fn descriptors_to_hand_on_are_the_caller_s_own() {
    let bench = Bench::new();
    let socket = bench.at.join("console.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bench.config(&["true"], |c| c["process"]["terminal"] = json!(true));
    // The connection to the terminal's receiver would be the third.
    let options = ["--preserve-fds", "1", "--console-socket", socket.to_str().unwrap()];
    fails(bench.create(&options), "descriptor 3 is not open");
    bench.config(&["sleep", "1000"], |_| {});
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
    let id = bench.id();
    let options = [&["exec", "--tty", "--detach"][..], &options, &[id.as_str(), "true"]].concat();
    fails(bench.runtime(&options), "descriptor 3 is not open");
}

#[test]
fn nothing_of_the_image_is_taken_for_proc() {
    let bench = Bench::new();
    let at = bench.bundle().join("rootfs/proc/sys/kernel");
    std::fs::create_dir_all(&at).unwrap();
    std::fs::write(at.join("domainname"), "").unwrap();
    bench.config(&["true"], |c| {
        c["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/proc");
        c["linux"]["sysctl"] = json!({"kernel.domainname": "x"});
    });
    fails(bench.create(&[]), "is not procfs");
    assert_eq!(std::fs::read_to_string(at.join("domainname")).unwrap(), "");
}

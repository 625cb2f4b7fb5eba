//! Real containers on this kernel. Needs root and Debian's busybox-static.

mod lab;

use berth_model::ContainerSpec;
use berth_model::network::NetworkMode;
use berth_model::spec::{ExecSpec, Mount, MountKind, Propagation, Resources};
use berth_runtime::{AttachOptions, Output, RuntimeError};
use lab::{Lab, collect, log_lines, sh, within};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_streams() {
    let lab = Lab::new();
    let (out, err, status) = lab.run(&sh("echo out; echo err >&2; exit 7")).await.unwrap();
    assert_eq!((out.as_str(), err.as_str(), status.code, status.signal), ("out\n", "err\n", 7, None));
    let mut lines = log_lines(&lab.dir);
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    let exit = lab.runtime.read_exit(&lab.paths()).unwrap().unwrap();
    assert_eq!((exit.code, exit.finished), (7, status.finished));
    let (_, _, status) = lab.run(&sh("kill -9 $$; sleep 5")).await.unwrap();
    // Signal 9 from inside does not reach a pid namespace's process 1.
    assert_ne!(status.signal, Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_run() {
    let lab = Lab::new();
    let command = |name: &str| ContainerSpec { command: vec![name.into()], ..sh("") };
    assert!(matches!(lab.run(&command("nope")).await, Err(RuntimeError::CommandNotFound(n)) if n == "nope"));
    assert!(matches!(lab.run(&command("/bin/nope")).await, Err(RuntimeError::CommandNotFound(_))));
    for bad in ["/etc/plain", "/etc"] {
        assert!(matches!(lab.run(&command(bad)).await, Err(RuntimeError::CommandNotExecutable { .. })), "{bad}");
    }
    assert!(lab.runtime.list_cgroups().unwrap().iter().all(|id| *id != lab.id), "nothing is left");
    assert!(!lab.dir.join("run/shim.sock").exists());
    let user = ContainerSpec { user: Some("nobody-here".into()), ..sh("true") };
    assert!(matches!(lab.run(&user).await, Err(RuntimeError::Spec { field, .. }) if field == "user"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_apart() {
    let lab = Lab::new();
    let script = "echo $$; hostname; ls /sys/class/net; cat /proc/1/comm; ls /proc | grep -c '^[0-9]'; grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; readlink /proc/self/ns/net; ls /dev; pwd; env; ls -l /proc/self/fd";
    let (out, err, status) = lab.run(&sh(script)).await.unwrap();
    assert_eq!(status.code, 0, "{out}{err}");
    println!("{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..4], ["1", lab.id.short(), "lo", "sh"]);
    assert!(out.contains("CapEff:\t00000000a80425fb"), "{out}");
    assert!(out.contains("CapBnd:\t00000000a80425fb") && out.contains("CapInh:\t0000000000000000"), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    assert!(out.contains(&format!("HOSTNAME={}", lab.id.short())) && out.contains("HOME=/root"), "{out}");
    assert!(!out.contains("shim"), "no descriptor of the shim leaks: {out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_masked_and_read_only() {
    let lab = Lab::new();
    let script = "ls /sys/firmware | wc -l; touch /proc/sys/kernel/x 2>&1; echo 1 > /proc/sys/kernel/panic; echo x > /new && echo wrote; echo y > /tmp/t && echo tmp; dd if=/dev/zero of=/dev/shm/f bs=1k count=1 2>/dev/null && echo shm; mount -t tmpfs x /tmp 2>&1; mknod /tmp/vda b 254 0; cat /tmp/vda 2>&1 | head -c 60; cat /etc/hostname; ls /sys/fs/cgroup";
    let spec = ContainerSpec {
        read_only_root: true,
        mounts: vec![Mount {
            target: "/tmp".into(),
            read_only: false,
            kind: MountKind::Tmpfs { size_bytes: Some(1 << 20), mode: None, exec: false },
            relabel: Default::default(),
        }],
        ..sh(script)
    };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    println!("{out}--\n{err}");
    assert!(out.starts_with("0\n"), "{out}");
    assert!(!out.contains("wrote") && out.contains("tmp\nshm\n"), "{out}");
    assert!(err.contains("Read-only file system"), "{err}");
    assert!(out.contains("permission denied") || out.contains("Operation not permitted"), "{out}");
    assert!(out.contains(lab.id.short()));
    assert!(!std::path::Path::new("/dev/shm/f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn users() {
    let lab = Lab::new();
    let spec = ContainerSpec {
        user: Some("web".into()),
        workdir: Some("/made/here".into()),
        ..sh("id; pwd; echo $HOME; grep CapEff /proc/self/status; echo direct > /dev/stdout")
    };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    assert_eq!(
        out,
        "uid=33(web) gid=34(web) groups=34(web),50(extra)\n/made/here\n/home/web\nCapEff:\t0000000000000000\ndirect\n",
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bind_mounts_stay_inside() {
    let lab = Lab::new();
    let root = lab.dir.join("root");
    // A link that would lead a careless mount onto the host.
    std::fs::create_dir_all(root.join("var/tmp")).unwrap();
    std::os::unix::fs::symlink("/var/tmp", root.join("trap")).unwrap();
    let source = lab.dir.join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let bind = |target: &str, read_only| Mount {
        target: target.into(),
        read_only,
        kind: MountKind::Bind {
            source: source.to_str().unwrap().into(),
            propagation: Propagation::Rprivate,
            recursive: true,
            create_source: false,
            writable_below: false,
            within: None,
            idmap: None,
            nosuid_nodev: false,
        },
        relabel: Default::default(),
    };
    let spec = ContainerSpec {
        mounts: vec![bind("/data/deep", false), bind("/trap/x", true)],
        ..sh("cat /data/deep/file; echo new > /data/deep/new; ls /var/tmp/x; touch /trap/x/no 2>&1")
    };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    assert!(out.starts_with("contentfile\nnew\n") && out.contains("Read-only"), "{out}{err}");
    assert!(source.join("new").exists() && !std::path::Path::new("/var/tmp/x").exists());
    // Links to what /proc knows of the host are refused.
    std::os::unix::fs::symlink("/proc/self/root/var", root.join("magic")).unwrap();
    let spec = ContainerSpec { mounts: vec![bind("/magic/y", false)], ..sh("true") };
    assert!(matches!(lab.run(&spec).await, Err(RuntimeError::StartFailed { step, .. }) if step.contains("/magic/y")));
}

/// A folder with a shared tmpfs in it, unmounted at the end.
struct Submount(std::path::PathBuf);

impl Submount {
    fn new(folder: &std::path::Path) -> Self {
        use berth_sys::mount::{MountFlags, Propagation, mount, set_propagation};
        let at = folder.join("sub");
        std::fs::create_dir_all(&at).unwrap();
        mount("tmpfs".as_ref(), &at, "tmpfs", MountFlags::NONE, "size=64k").unwrap();
        set_propagation(&at, Propagation::Shared, false).unwrap();
        Submount(at)
    }
}

impl Drop for Submount {
    fn drop(&mut self) {
        let _ = berth_sys::mount::umount(&self.0, true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_below_a_bind_follow_it() {
    let lab = Lab::new();
    let source = lab.dir.join("source");
    let _sub = Submount::new(&source);
    let bind = |read_only, propagation| Mount {
        target: "/data".into(),
        read_only,
        kind: MountKind::Bind {
            source: source.to_str().unwrap().into(),
            propagation,
            recursive: true,
            create_source: false,
            writable_below: false,
            within: None,
            idmap: None,
            nosuid_nodev: false,
        },
        relabel: Default::default(),
    };
    let script = "touch /data/sub/x 2>&1; grep -c '/data/sub .*shared:' /proc/self/mountinfo";
    for (read_only, propagation, shared) in
        [(true, Propagation::Rprivate, "0"), (false, Propagation::Rprivate, "0"), (false, Propagation::Private, "1")]
    {
        let spec = ContainerSpec { mounts: vec![bind(read_only, propagation)], ..sh(script) };
        let (out, err, _) = lab.run(&spec).await.unwrap();
        assert_eq!(out.contains("Read-only file system"), read_only, "{propagation:?} {out}{err}");
        assert_eq!(out.lines().last(), Some(shared), "{propagation:?} {out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_ipc_has_the_hosts_shared_memory() {
    let lab = Lab::new();
    let name = format!("berth-runtime-test-{}", lab.id.short());
    let file = std::path::Path::new("/dev/shm").join(&name);
    std::fs::write(&file, "host").unwrap();
    let script = format!("cat /dev/shm/{name}; mkdir /dev/mqueue/x 2>&1; readlink /proc/self/ns/ipc");
    let shared = lab.run(&ContainerSpec { host_ipc: true, ..sh(&script) }).await;
    let own = lab.run(&sh(&script)).await;
    std::fs::remove_file(&file).unwrap();
    let namespace = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    let (shared, own) = (shared.unwrap(), own.unwrap());
    assert!(shared.0.starts_with("host") && shared.0.contains(namespace.to_str().unwrap()), "{shared:?}");
    assert!(!own.0.starts_with("host") && !own.0.contains(namespace.to_str().unwrap()), "{own:?}");
}

/// Pids of the shims of a container and its execs.
fn shims(lab: &Lab) -> Vec<String> {
    let wanted = format!("berth-shim\0{}\0", lab.id);
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.map(|p| p.file_name().into_string().unwrap());
    pids.filter(|p| std::fs::read(format!("/proc/{p}/cmdline")).is_ok_and(|c| c == wanted.as_bytes())).collect()
}

/// A process of this one is in /proc until its status was taken.
#[tokio::test(flavor = "multi_thread")]
async fn no_shim_becomes_a_zombie() {
    let lab = Lab::new();
    let spec = ContainerSpec { open_stdin: true, ..sh("read x; exit 0") };
    let spawned = lab.start(&spec, None).unwrap();
    let detached = ExecSpec { command: vec!["sleep".into(), "0.2".into()], detach: true, ..ExecSpec::default() };
    // One whose end is waited for, and one that nobody wants to hear of.
    let exec = lab.exec(&spec, spawned.shim.pid(), &detached).unwrap();
    drop(lab.exec(&spec, spawned.shim.pid(), &detached).unwrap());
    let of_execs = shims(&lab);
    assert_eq!(of_execs.len(), 3, "{of_execs:?}");
    assert_eq!(within(exec.wait()).await.unwrap().code, 0);
    drop(exec);
    let input = spawned.shim.attach(AttachOptions { stdin: true, ..AttachOptions::default() }).await.unwrap();
    // Dropped while it runs: as when the task that watches it ends.
    drop(spawned);
    input.input().write(b"x\n").await.unwrap();
    drop(input);
    assert!(matches!(
        lab.run(&ContainerSpec { command: vec!["nope".into()], ..sh("") }).await,
        Err(RuntimeError::CommandNotFound(_))
    ));
    within(async {
        while of_execs.iter().any(|pid| std::path::Path::new("/proc").join(pid).exists()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// CVE-2024-21626: what the new process has open leads to the host, until its execve.
#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_folders_are_not_reached_through_open_descriptors() {
    let lab = Lab::new();
    std::os::unix::fs::symlink("/proc/self/fd", lab.dir.join("root/fds")).unwrap();
    let up = "../".repeat(20);
    for fd in 3..24 {
        for folder in ["/proc/self/fd", "/fds", "/dev/fd", "/proc/thread-self/fd"] {
            let spec = ContainerSpec { workdir: Some(format!("{folder}/{fd}")), ..sh("echo started; ls") };
            let Err(RuntimeError::StartFailed { step, .. }) = lab.run(&spec).await else { panic!("{folder}/{fd}") };
            assert!(step.contains("working folder"), "{step}");
        }
        // The host has it, and it needs nothing else to run.
        for init in [false, true] {
            let command = vec![format!("/proc/self/fd/{fd}/{up}bin/busybox"), "echo".into()];
            let spec = ContainerSpec { command, init, ..sh("") };
            match lab.run(&spec).await {
                Err(RuntimeError::CommandNotFound(_) | RuntimeError::CommandNotExecutable { .. }) => {}
                other => panic!("{fd}: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_files_are_for_all_of_its_users() {
    let lab = Lab::new();
    // As an agent with systemd's umask of 0077 makes them.
    for name in ["hosts", "hostname", "resolv.conf"] {
        std::fs::write(lab.dir.join("state").join(name), "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(lab.dir.join("state").join(name), mode).unwrap();
    }
    // Images of distributions have this link, and nothing where it leads: the file is made there.
    std::os::unix::fs::symlink("../run/resolve/stub.conf", lab.dir.join("root/etc/resolv.conf")).unwrap();
    let spec = ContainerSpec {
        user: Some("web".into()),
        ..sh("head -n 1 /etc/hosts; cat /etc/hostname; cat /etc/resolv.conf >/dev/null && ls /run/resolve")
    };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    assert_eq!(out, format!("127.0.0.1\tlocalhost\n{}\nstub.conf\n", lab.id.short()), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_proc_goes_unmasked() {
    let lab = Lab::new();
    // It hides the /dev/null that masks, but comes later.
    let tmpfs = MountKind::Tmpfs { size_bytes: None, mode: None, exec: false };
    let mounts = vec![Mount { target: "/dev".into(), read_only: false, kind: tmpfs, relabel: Default::default() }];
    let spec = ContainerSpec { mounts, ..sh("cat /proc/keys; stat -c %t:%T /proc/keys") };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    assert_eq!(out, "1:3\n", "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal() {
    let lab = Lab::new();
    let spec =
        ContainerSpec { tty: true, open_stdin: true, ..sh("tty; stty size; read x; echo got $x; ls -l /dev/console") };
    let attach = AttachOptions { stdin: true, size: Some((33, 99)), session: None };
    let spawned = lab.start(&spec, Some(attach)).unwrap();
    let attachment = spawned.attachment.unwrap();
    attachment.input().write(b"hello\n").await.unwrap();
    let (out, _) = collect(attachment).await;
    assert!(out.contains("/dev/pts/0\r\n") && out.contains("33 99\r\n") && out.contains("got hello"), "{out}");
    assert_eq!(within(spawned.shim.wait()).await.unwrap().code, 0);
    spawned.shim.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_the_workload_and_ends() {
    let lab = Lab::new();
    let spec = ContainerSpec { open_stdin: true, stdin_once: true, ..sh("wc -c; echo done") };
    let spawned = lab.start(&spec, Some(AttachOptions { stdin: true, ..AttachOptions::default() })).unwrap();
    let attachment = spawned.attachment.unwrap();
    let input = attachment.input();
    within(input.write(&vec![b'x'; 1 << 20])).await.unwrap();
    input.close().await.unwrap();
    let (out, _) = collect(attachment).await;
    assert_eq!(out, "1048576\ndone\n");
    spawned.shim.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn execs() {
    let lab = Lab::new();
    let spec = ContainerSpec {
        env: vec!["A=1".into()],
        resources: Resources { memory_bytes: Some(64 << 20), ..Default::default() },
        ..sh("sleep 100")
    };
    let spawned = lab.start(&spec, None).unwrap();
    let exec = |script: &str| ExecSpec {
        command: vec!["sh".into(), "-c".into(), script.into()],
        env: vec!["B=2".into()],
        ..ExecSpec::default()
    };
    let process = spawned.shim.pid();
    let mut run = lab
        .exec(
            &spec,
            process,
            &exec("echo $A$B; ps | grep -c 'sleep 100'; grep CapBnd /proc/self/status; cat /proc/self/cgroup; exit 3"),
        )
        .unwrap();
    let (out, err) = collect(run.attachment.take().unwrap()).await;
    assert!(out.starts_with("12\n"), "{out}{err}");
    assert!(out.contains("CapBnd:\t00000000a80425fb") && !out.contains(lab.id.as_str()), "{out}");
    assert_eq!(within(run.wait()).await.unwrap().code, 3);
    let missing = ExecSpec { command: vec!["nope".into()], ..ExecSpec::default() };
    assert!(matches!(lab.exec(&spec, process, &missing), Err(RuntimeError::CommandNotFound(_))));
    let mut run = lab
        .exec(
            &spec,
            process,
            &ExecSpec {
                user: Some("web".into()),
                tty: true,
                stdin: true,
                workdir: Some("/tmp".into()),
                size: Some((9, 8)),
                ..exec("id -u; pwd; stty size")
            },
        )
        .unwrap();
    assert_eq!(collect(run.attachment.take().unwrap()).await.0, "33\r\n/tmp\r\n9 8\r\n");
    assert!(matches!(lab.exec(&spec, (process.0, process.1 + 1), &exec("true")), Err(RuntimeError::NotRunning)));
    lab.runtime.kill_all(&lab.id, Duration::from_secs(5)).unwrap();
    assert_eq!(within(spawned.shim.wait()).await.unwrap().signal, Some(9));
    assert!(matches!(spawned.shim.signal(15), Err(RuntimeError::NotRunning)));
    spawned.shim.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_readers_lose_nothing() {
    let lab = Lab::new();
    let spec = ContainerSpec { open_stdin: true, ..sh("read x; seq 1 20000; exec sleep 0") };
    let spawned = lab.start(&spec, Some(AttachOptions { stdin: true, ..AttachOptions::default() })).unwrap();
    let first = spawned.attachment.unwrap();
    let second = spawned.shim.attach(AttachOptions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.input().write(b"go\n").await.unwrap();
    let late = tokio::spawn(async move {
        // Slower than the workload: it has to wait, not to lose.
        tokio::time::sleep(Duration::from_millis(300)).await;
        collect(second).await.0
    });
    let wanted: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert!(collect(first).await.0 == wanted && late.await.unwrap() == wanted);
    assert_eq!(log_lines(&lab.dir).len(), 20000);
    spawned.shim.release().await;
}

/// The workload has ended long ago when the reader comes back: in its socket, in the shim and in the pipe there is something left.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_reader_loses_nothing_of_an_ended_workload() {
    for last in [20_000, 25_000, 30_000, 35_000, 40_000] {
        let lab = Lab::new();
        let spawned = lab.start(&sh(&format!("seq 1 {last}")), Some(AttachOptions::default())).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let wanted: String = (1..=last).map(|n| format!("{n}\n")).collect();
        let got = collect(spawned.attachment.unwrap()).await.0;
        assert!(got == wanted, "{last}: {} bytes of {}", got.len(), wanted.len());
        assert_eq!(log_lines(&lab.dir).len(), last);
        spawned.shim.release().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_finds_its_container() {
    let lab = Lab::new();
    let spec = ContainerSpec { open_stdin: true, ..sh("read x; echo $x; exit 5") };
    let spawned = lab.start(&spec, None).unwrap();
    let pid = spawned.shim.pid();
    drop(spawned);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let shim = lab.runtime.reconnect(&lab.paths(), &lab.id).await.unwrap().expect("the shim is there");
    assert_eq!(shim.pid(), pid);
    let attachment = shim.attach(AttachOptions { stdin: true, ..AttachOptions::default() }).await.unwrap();
    attachment.input().write(b"again\n").await.unwrap();
    assert_eq!(collect(attachment).await.0, "again\n");
    assert_eq!(within(shim.wait()).await.unwrap().code, 5);
    shim.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_an_agent_is_written_down() {
    let lab = Lab::new();
    let spawned = lab.start(&sh("sleep 0.2; exit 9"), None).unwrap();
    let (shim_pid, _) = spawned.shim.shim_pid();
    drop(spawned);
    within(async {
        while lab.runtime.read_exit(&lab.paths()).unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(lab.runtime.read_exit(&lab.paths()).unwrap().unwrap().code, 9);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        lab.runtime.reconnect(&lab.paths(), &lab.id).await.unwrap().is_none(),
        "shim {shim_pid} has gone by itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_the_container_along() {
    let lab = Lab::new();
    let spawned = lab.start(&sh("sleep 100 & sleep 100"), None).unwrap();
    let (shim_pid, _) = spawned.shim.shim_pid();
    berth_sys::process::kill(shim_pid as i32, 9).unwrap();
    assert!(matches!(within(spawned.shim.wait()).await, Err(RuntimeError::ShimGone)));
    within(async {
        while berth_sys::process::start_time(spawned.shim.pid().0).is_ok_and(|t| t == spawned.shim.pid().1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_an_oom_kill_is_seen() {
    let lab = Lab::new();
    let resources = Resources {
        memory_bytes: Some(16 << 20),
        memory_swap_bytes: Some(16 << 20),
        pids: Some(10),
        nano_cpus: Some(500_000_000),
        ..Default::default()
    };
    let spec = ContainerSpec { resources, ..sh("exec dd if=/dev/zero of=/dev/null bs=100M count=1") };
    let (_, _, status) = lab.run(&spec).await.unwrap();
    assert!(status.oom_killed && status.signal == Some(9), "{status:?}");
    for path in lab.runtime.cgroup_paths(&lab.id) {
        let read = |name: &str| std::fs::read_to_string(path.join(name)).ok();
        assert!(read("memory.limit_in_bytes").is_none_or(|v| v.trim() == "16777216"));
        assert!(read("pids.max").is_none_or(|v| v.trim() == "10"));
        assert!(read("cpu.cfs_quota_us").is_none_or(|v| v.trim() == "50000"));
    }
    assert!(lab.runtime.cgroup_paths(&lab.id).len() >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_reaps_and_forwards() {
    let lab = Lab::new();
    let spec = ContainerSpec {
        init: true,
        ..sh("trap 'echo bye; exit 4' TERM; (sleep 0.05 &); echo $$; while :; do sleep 0.05; done")
    };
    let spawned = lab.start(&spec, Some(AttachOptions::default())).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    spawned.shim.signal(15).unwrap();
    let (out, err) = collect(spawned.attachment.unwrap()).await;
    assert!(out.ends_with("bye\n") && !out.starts_with("1\n"), "{out}{err}");
    assert_eq!(within(spawned.shim.wait()).await.unwrap().code, 4);
    spawned.shim.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_and_host_namespaces() {
    let lab = Lab::new();
    let spec = ContainerSpec {
        privileged: true,
        host_pid: true,
        host_uts: true,
        host_ipc: true,
        network: NetworkMode::Host,
        ..sh(
            "mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status; for n in net pid uts; do readlink /proc/self/ns/$n; done",
        )
    };
    let (out, err, _) = lab.run(&spec).await.unwrap();
    assert!(out.starts_with("mounted\nSeccomp:\t0\n"), "{out}{err}");
    for kind in ["net", "pid", "uts"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert!(out.contains(host.to_str().unwrap()), "{kind}: {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_rotate() {
    let lab = Lab::new();
    let mut spec = sh("seq 1 3000; printf tail");
    spec.log.max_file_bytes = 40_000;
    spec.log.max_files = 2;
    let (_, _, status) = lab.run(&spec).await.unwrap();
    assert_eq!(status.code, 0);
    assert_eq!(log_lines(&lab.dir).last().unwrap(), "stdout P tail");
    let names = std::fs::read_dir(lab.dir.join("log")).unwrap().count();
    assert_eq!(names, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_command_travels_in_a_file() {
    let lab = Lab::new();
    let long = "x".repeat(100_000);
    let spec = ContainerSpec { env: vec![format!("LONG={long}")], ..sh("echo ${#LONG}") };
    assert_eq!(lab.run(&spec).await.unwrap().0, "100000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_read_as_it_comes() {
    let lab = Lab::new();
    let spawned = lab.start(&sh("printf prompt; sleep 100"), Some(AttachOptions::default())).unwrap();
    let mut attachment = spawned.attachment.unwrap();
    assert!(matches!(within(attachment.next()).await, Some(Ok(Output::Stdout(b))) if b == b"prompt"));
    spawned.shim.signal(9).unwrap();
    assert_eq!(within(spawned.shim.wait()).await.unwrap().code, 137);
    spawned.shim.release().await;
}

//! What a container sees of what was asked for.

use crate::harness::{Node, image};
use std::fs;

#[test]
fn exit_codes_are_dockers() {
    let node = Node::with_busybox("run-codes");
    assert_eq!(node.sh_output(&[], "exit 0").code, 0);
    assert_eq!(node.sh_output(&[], "exit 42").code, 42);
    assert_eq!(node.sh_output(&["--pid", "host"], "kill -9 $$").code, 137, "the first process ended by a signal");
    let busybox = image("busybox");
    assert!(
        node.fails(127, &["run", "--rm", "--network", "none", &busybox, "no-such-command"]).contains("no-such-command")
    );
    node.fails(126, &["run", "--rm", "--network", "none", &busybox, "/etc/passwd"]);
    node.fails(126, &["run", "--rm", "--network", "none", &busybox, "/etc"]);
    let error =
        node.fails(125, &["run", "--rm", "--network", "none", "--pull", "never", "127.0.0.1:1/no-such-image", "true"]);
    assert!(error.starts_with("error: "), "{error}");
    assert_eq!(node.ok(&["ps", "-a", "-q"]), "", "failed starts leave no container behind with --rm");
    node.finish();
}

#[test]
fn stdin_stdout_and_stderr_are_apart_and_binary() {
    let node = Node::with_busybox("run-streams");
    let busybox = image("busybox");
    let output = node
        .ctl_stdin(&["run", "-i", "--rm", "--network", "none", &busybox, "sh", "-c", "cat; echo err >&2"], "one\ntwo");
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (0, "one\ntwo", "err\n"));
    let sum = node.sh(&[], "head -c 3000000 /dev/zero | tr '\\0' x");
    assert_eq!(sum.len(), 3_000_000);
    // Without -i standard input is empty, not the caller's.
    let output = node.ctl_stdin(&["run", "--rm", "--network", "none", &busybox, "cat"], "nothing of this");
    assert_eq!((output.code, output.stdout.as_str()), (0, ""));
    node.finish();
}

#[test]
fn environment_workdir_and_hostname() {
    let node = Node::with_busybox("run-env");
    let env =
        node.sh(&["-e", "A=1", "-e", "B=two words", "-e", "A=2", "--hostname", "box"], "env | sort; hostname; pwd");
    assert!(env.contains("A=2\nB=two words\n"), "{env}");
    assert!(
        env.contains("HOSTNAME=box") && env.contains("HOME=/root") && env.contains("PATH=/usr/local/sbin:"),
        "{env}"
    );
    assert!(env.ends_with("box\n/"), "{env}");
    assert_eq!(node.sh(&["-w", "/made/on/the/way"], "pwd"), "/made/on/the/way");
    assert_eq!(node.sh(&["-w", "/etc"], "pwd"), "/etc");
    let file = node.scratch().join("env");
    fs::write(&file, "# comment\nFROM_FILE=yes\n").expect("env file");
    assert_eq!(node.sh(&["--env-file", &file.to_string_lossy()], "echo $FROM_FILE"), "yes");
    node.finish();
}

#[test]
fn users_and_groups_come_from_the_images_files() {
    let node = Node::with_busybox("run-user");
    let users = image("users");
    let id = |options: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--network", "none", "--entrypoint", "id"];
        arguments.extend(options);
        arguments.push(&users);
        node.ok(&arguments)
    };
    assert_eq!(id(&[]), "uid=1234(app) gid=2345(app) groups=2345(app),3456(extra),4567(more)");
    assert_eq!(id(&["-u", "root"]), "uid=0(root) gid=0(root) groups=0(root)");
    assert!(id(&["-u", "1234"]).starts_with("uid=1234(app) gid=2345(app)"));
    assert!(id(&["-u", "4321"]).starts_with("uid=4321 gid=0(root)"));
    assert_eq!(id(&["-u", "4321:8765"]), "uid=4321 gid=8765 groups=8765");
    assert!(id(&["-u", "app:named"]).starts_with("uid=1234(app) gid=5678(named)"));
    let more = id(&["--group-add", "named", "--group-add", "9999"]);
    assert!(more.contains("5678(named)") && more.contains("9999"), "{more}");
    let error = node.fails(125, &["run", "--rm", "--network", "none", "-u", "nobody-knows", &users]);
    assert!(error.contains("nobody-knows"), "{error}");
    node.finish();
}

#[test]
fn entrypoint_and_command_follow_dockers_rules() {
    let node = Node::with_busybox("run-entrypoint");
    let users = image("users");
    let run = |options: &[&str], command: &[&str]| {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(options);
        arguments.push(&users);
        arguments.extend(command);
        node.ok(&arguments)
    };
    assert!(run(&[], &[]).starts_with("entry id\nuid=1234"));
    assert_eq!(run(&[], &["echo", "mine"]), "entry echo mine\nmine");
    assert_eq!(run(&["--entrypoint", "echo"], &[]), "", "the image's command goes with its entrypoint");
    assert_eq!(run(&["--entrypoint", "echo"], &["a", "b"]), "a b");
    assert_eq!(run(&["--entrypoint", ""], &["echo", "none"]), "none");
    assert_eq!(run(&["--entrypoint", "sh"], &["-c", "echo $FROM_IMAGE $HOME; pwd"]), "yes /srv/app\n/srv/app");
    node.finish();
}

#[test]
fn a_terminal_is_there_when_asked_for() {
    let node = Node::with_busybox("run-tty");
    let output = node
        .sh_output(&["-t"], "tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; stat -c %t:%T /dev/console");
    assert!(output.stdout.contains("/dev/pts/0\r\n") && output.stdout.contains("terminal\r\n"), "{output:?}");
    assert_eq!(node.sh_output(&[], "tty").stdout.trim(), "not a tty");
    node.finish();
}

#[test]
fn read_only_root_and_tmpfs() {
    let node = Node::with_busybox("run-readonly");
    let script = "touch /x 2>/dev/null && echo root; touch /tmp/x && echo tmp; grep ' /tmp ' /proc/mounts";
    let output = node.sh(&["--read-only", "--tmpfs", "/tmp:size=1m,mode=1770"], script);
    assert!(output.starts_with("tmp\n"), "{output}");
    for option in ["nosuid", "nodev", "noexec", "size=1024k", "mode=1770"] {
        assert!(output.contains(option), "{option} in {output}");
    }
    assert_eq!(node.sh(&["--shm-size", "3m"], "df -k /dev/shm | tail -1 | awk '{print $2}'"), "3072");
    node.finish();
}

#[test]
fn bind_mounts_read_only_and_propagation() {
    let node = Node::with_busybox("run-binds");
    let source = node.scratch().join("shared");
    fs::create_dir_all(source.join("sub")).expect("source");
    fs::write(source.join("file"), "of the host").expect("file");
    let s = source.to_string_lossy().into_owned();
    assert_eq!(node.sh(&["-v", &format!("{s}:/data")], "cat /data/file; echo new > /data/new"), "of the host");
    assert_eq!(fs::read_to_string(source.join("new")).expect("new"), "new\n");
    let output = node.sh_output(&["-v", &format!("{s}:/data:ro")], "echo x > /data/file");
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("Read-only"), "{output:?}");
    assert_eq!(node.sh(&["-v", &format!("{s}/file:/etc/one-file")], "cat /etc/one-file"), "of the host");
    let made = node.scratch().join("made/by/v");
    node.sh(&["-v", &format!("{}:/made", made.display())], "touch /made/x");
    assert!(made.join("x").exists());
    let missing = format!("type=bind,source={}/missing,target=/m", node.scratch().display());
    assert!(
        node.fails(125, &["run", "--rm", "--network", "none", "--mount", &missing, &image("busybox"), "true"])
            .contains("missing")
    );
    // A mount that the host makes afterwards arrives with rslave, and does not with the default.
    let mount = |arguments: &[&str]| {
        assert!(std::process::Command::new("mount").args(arguments).status().expect("mount").success())
    };
    mount(&["--bind", &s, &s]);
    mount(&["--make-shared", &s]);
    let private = node.detached(&["-v", &format!("{s}:/data")], "while :; do sleep 1; done");
    let slave = node.detached(&["-v", &format!("{s}:/data:rslave")], "while :; do sleep 1; done");
    mount(&["-t", "tmpfs", "tmpfs", &format!("{s}/sub")]);
    fs::write(source.join("sub/later"), "x").expect("later");
    assert_eq!(node.ctl(&["exec", &slave, "test", "-e", "/data/sub/later"]).code, 0);
    assert_eq!(node.ctl(&["exec", &private, "test", "-e", "/data/sub/later"]).code, 1);
    node.ok(&["rm", "-f", &private, &slave]);
    for path in [format!("{s}/sub"), s.clone()] {
        assert!(std::process::Command::new("umount").arg(path).status().expect("umount").success());
    }
    node.finish();
}

#[test]
fn hosts_resolv_conf_and_labels() {
    let node = Node::with_busybox("run-files");
    let options = [
        "--add-host",
        "peer:192.0.2.7",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.net",
        "--dns-option",
        "ndots:2",
    ];
    let text = node.sh(&options, "cat /etc/hosts /etc/resolv.conf");
    assert!(text.contains("192.0.2.7\tpeer") && text.contains("127.0.0.1\tlocalhost"), "{text}");
    assert!(
        text.contains("nameserver 192.0.2.53")
            && text.contains("search example.net")
            && text.contains("options ndots:2"),
        "{text}"
    );
    let id = node.detached(&["-l", "a=b", "--label", "empty", "--annotation", "k=v"], "while :; do sleep 1; done");
    let inspect = node.inspect(&id);
    assert_eq!(inspect["Config"]["Labels"]["a"], "b");
    assert_eq!(inspect["Config"]["Labels"]["empty"], "");
    assert_eq!(inspect["Config"]["Annotations"]["k"], "v");
    node.finish();
}

#[test]
fn the_default_devices_are_there_and_work() {
    let node = Node::with_busybox("run-devices");
    let script = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
        head -c 4 /dev/zero | wc -c; echo x > /dev/full; ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx | wc -l; \
        test -d /dev/pts -a -d /dev/shm -a -d /dev/mqueue && echo folders";
    let output = node.sh_output(&[], script);
    assert_eq!(output.stdout, "4\n5\nfolders\n", "{output:?}");
    assert!(output.stderr.contains("No space"), "{output:?}");
    node.finish();
}

#[test]
fn an_init_reaps_orphans_and_forwards_signals() {
    let node = Node::with_busybox("run-init");
    let id = node.detached(&["--init"], "trap 'exit 9' USR1; (sleep 0.2 &) ; while :; do sleep 0.1; done");
    let first = node.ok(&["exec", &id, "cat", "/proc/1/cmdline"]).replace('\0', " ");
    assert!(!first.starts_with("sh "), "process 1 is the init: {first}");
    crate::harness::until("orphans are reaped", || !node.ok(&["exec", &id, "ps", "-o", "stat,comm"]).contains('Z'));
    node.ok(&["kill", "-s", "USR1", &id]);
    assert_eq!(node.ok(&["wait", &id]), "9");
    node.finish();
}

#[test]
fn wrong_options_are_refused_together_and_by_name() {
    let node = Node::with_busybox("run-invalid");
    let busybox = image("busybox");
    for (options, word) in [
        (vec!["--memory", "1k"], "memory"),
        (vec!["--name", "!bad"], "name"),
        (vec!["--cap-add", "CAP_NOT_THERE"], "NOT_THERE"),
        (vec!["--sysctl", "kernel.hostname=x"], "kernel.hostname"),
        (vec!["--ulimit", "nonsense=1"], "ulimit"),
        (vec!["--stop-signal", "SIGNONE"], "SIGNONE"),
        (vec!["-w", "relative"], "relative"),
    ] {
        let mut arguments = vec!["run", "--rm", "--network", "none"];
        arguments.extend(&options);
        arguments.extend([busybox.as_str(), "true"]);
        let output = node.ctl(&arguments);
        assert!(output.code == 125 || output.code == 2, "{options:?}: {output:?}");
        assert!(output.stderr.contains(word), "{options:?}: {output:?}");
    }
    node.finish();
}

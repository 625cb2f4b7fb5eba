//! The public escapes of the last ten years, each as an attack that is made for real; and, where that can be had, the same attack against
//! something weaker, which shows that it works. Those of copies are in `cp.rs` (CVE-2018-15664), those of layers in `hostile.rs`, those of
//! options in `permissions.rs` (CVE-2024-23653).

use crate::harness::agent::Output;
use crate::harness::{Node, capability_sets, image, runtimes, source_dir, test_dir};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const IDLE: &str = "while :; do sleep 1; done";

/// The program with the attacks that a shell cannot make.
pub fn program() -> PathBuf {
    built("escape")
}

/// A program of the fixtures, built once for all tests of this source.
pub fn built(name: &str) -> PathBuf {
    let source = source_dir().join(format!("tests/fixtures/{name}.c"));
    let mut hash = DefaultHasher::new();
    fs::read(&source).expect("a fixture").hash(&mut hash);
    let target = test_dir().join(format!("{name}-{:016x}", hash.finish()));
    if !target.exists() {
        let made = target.with_extension(std::process::id().to_string());
        let status = Command::new("cc").args(["-O2", "-static", "-o"]).arg(&made).arg(&source).status();
        assert!(status.expect("cc").success(), "compiling {}", source.display());
        fs::rename(&made, &target).expect("rename");
    }
    target
}

/// Options that put the program at /escape.
fn attack() -> [String; 2] {
    ["-v".into(), format!("{}:/escape:ro", program().display())]
}

fn with<'a>(attack: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    attack.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

fn lines(output: &str) -> Vec<String> {
    let mut lines: Vec<String> = output.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn core_pattern() -> String {
    fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern")
}

/// A container that attacks in the background while `beside` runs; what it printed.
pub fn beside(node: &Node, options: &[&str], attack: &str, beside: impl FnOnce()) -> Vec<String> {
    let id = node.detached(options, &format!("{attack}; echo it has ended; {IDLE}"));
    beside();
    let output = crate::harness::eventually("the attack ends", || {
        Some(node.ok(&["logs", &id])).filter(|output| output.contains("it has ended"))
    });
    node.ok(&["rm", "-f", &id]);
    lines(&output.replace("it has ended", ""))
}

/// CVE-2016-9962: what joins a container has the host's descriptors and rights for a moment, and must be out of reach until then.
#[test]
fn a_process_that_joins_is_not_looked_into() {
    let node = Node::with_busybox("escape-2016-9962");
    let attack = attack();
    let seen = beside(&node, &with(&attack, &["--name", "watched"]), "/escape watch 4", || {
        for n in 0..40 {
            node.ok(&["exec", "watched", "/bin/true"]);
            // The control: what runs in there already is seen, with its memory.
            if n % 10 == 0 {
                node.ok(&["exec", "watched", "sh", "-c", "exec 7</etc/passwd; sleep 0.2"]);
            }
        }
    });
    assert!(seen.contains(&"fd /etc/passwd high".to_owned()), "the program sees nothing: {seen:?}");
    assert!(seen.iter().any(|l| l == "mem /bin/busybox"), "{seen:?}");
    let innocent = |line: &String| {
        let busybox = matches!(line.as_str(), "exe /bin/busybox" | "mem /bin/busybox" | "cwd /" | "root /");
        let files = ["fd pipe std", "fd /dev/null std", "fd /etc/passwd high"].contains(&line.as_str());
        // Other runtimes get a null device that is made for one command, outside.
        let files = files || line == "fd /null std" && runtimes::other().is_some();
        // busybox's own view of itself and of the shell that waits.
        busybox || files || line == "fd pipe high" || line.starts_with("fd /proc")
    };
    let more: Vec<&String> = seen.iter().filter(|l| !innocent(l)).collect();
    assert!(more.is_empty(), "seen of processes that join: {more:?}");
    node.finish();
}

/// CVE-2019-5736: the program that makes processes in a container is written to from inside.
#[test]
fn the_shim_is_not_overwritten() {
    let node = Node::with_busybox("escape-2019-5736");
    let attack = attack();
    let setup = "cp /bin/busybox /tmp/busybox; printf '#!/proc/self/exe\\n' >/tmp/trap; chmod 755 /tmp/trap";
    // An emulated machine needs longer for what happens meanwhile.
    // Other runtimes take longer for an exec.
    let seconds = crate::harness::size("BERTH_TEST_ATTACK_SECS", if runtimes::other().is_some() { 20 } else { 5 });
    let script = format!("{setup}; /escape overwrite {seconds}");
    let begun = std::time::Instant::now();
    let got = beside(&node, &with(&attack, &["--name", "writer"]), &script, || {
        for _ in 0..30 {
            // The trap runs the program that executes it.
            let _ = node.ctl(&["exec", "writer", "/tmp/trap"]);
            let _ = node.ctl(&["exec", "writer", "/bin/true"]);
        }
        // The control: a file of the container's is overwritten when it has ended.
        node.ok(&["exec", "writer", "/tmp/busybox", "sleep", "0.3"]);
        std::thread::sleep(std::time::Duration::from_secs(seconds).saturating_sub(begun.elapsed()));
    });
    assert!(got.contains(&"overwrote /tmp/busybox".to_owned()), "the attack does not work: {got:?}");
    let program = runtimes::other().unwrap_or_else(|| "berth".into());
    let ours: Vec<&String> =
        got.iter().filter(|l| ["memfd", "berth", &program].iter().any(|p| l.contains(p))).collect();
    assert!(ours.is_empty(), "{ours:?}");
    assert_eq!(node.sh(&[], "echo still"), "still");
    node.finish();
}

/// A library that makes a file on the host wherever it is loaded there: the library, the file.
pub fn evil_library(node: &Node) -> (PathBuf, PathBuf) {
    let source = node.scratch().join("evil.c");
    fs::write(
        &source,
        "#include <fcntl.h>\n__attribute__((constructor)) static void evil(void) { open(BREACH, O_CREAT | O_WRONLY, 0644); }\n",
    )
    .expect("evil.c");
    let (evil, breach) = (node.scratch().join("evil.so"), node.scratch().join("breach"));
    let define = format!("-DBREACH=\"{}\"", breach.display());
    let built = Command::new("cc").args(["-shared", "-fPIC", &define, "-o"]).arg(&evil).arg(&source).status();
    assert!(built.expect("cc").success());
    (evil, breach)
}

/// CVE-2019-14271 and CVE-2025-23266: a library or a variable of the container's gets into a program of the host's.
#[test]
fn no_library_of_a_container_is_loaded_by_the_host() {
    let node = Node::with_busybox("escape-library");
    let (evil, breach) = evil_library(&node);
    let path = evil.display().to_string();
    // The control: a program of the host's that is told of it loads it.
    assert!(Command::new("/bin/true").env("LD_PRELOAD", &evil).status().expect("true").success());
    assert!(breach.exists(), "the library does nothing");
    fs::remove_file(&breach).expect("remove");
    let variables = [
        format!("LD_PRELOAD={path}"),
        format!("LD_AUDIT={path}"),
        "LD_LIBRARY_PATH=/lib".into(),
        "GCONV_PATH=/lib".into(),
    ];
    // The same path inside, and every library that a program of the host's would look for.
    let mount = format!("{path}:{path}:ro");
    let mut options = vec!["--name", "trap", "-v", &mount];
    for variable in &variables {
        options.extend(["-e", variable]);
    }
    let script = format!(
        "mkdir -p /lib /usr/lib /lib64; for l in libc.so.6 libnss_files.so.2 libgcc_s.so.1 libm.so.6; do cp {path} /lib/$l; \
         cp {path} /lib64/$l; done; {IDLE}"
    );
    node.detached(&options, &script);
    node.ok(&["exec", "trap", "/bin/true"]);
    node.ok(&["exec", "-e", &variables[0], "trap", "/bin/true"]);
    node.ok(&["cp", "trap:/etc/passwd", &node.scratch().join("out").display().to_string()]);
    node.ok(&["cp", &path, "trap:/tmp/in"]);
    node.ok(&["diff", "trap"]);
    node.ok(&["top", "trap"]);
    node.ok(&["commit", "trap", "trapped:1"]);
    node.ok(&["export", "trap", "-o", &node.scratch().join("tar").display().to_string()]);
    node.ok(&["restart", "-t", "0", "trap"]);
    node.ok(&["rm", "-f", "trap"]);
    node.ok(&["rmi", "trapped:1"]);
    assert!(!breach.exists(), "the host loaded it");
    node.finish();
}

/// CVE-2019-16884, CVE-2025-52881: something of the caller's lies over /proc when the engine writes there.
#[test]
fn nothing_is_mounted_over_proc() {
    let node = Node::with_busybox("escape-proc");
    let before = core_pattern();
    node.ok(&["volume", "create", "trap"]);
    // The control: this is where an engine that writes to /proc/sys/net/ipv4/ip_forward would write to.
    let links = "mkdir -p /t/ipv4 && ln -s /proc/sys/kernel/core_pattern /t/ipv4/ip_forward && ln -s /proc/sysrq-trigger /t/exec && \
        head -n 1 /t/ipv4/ip_forward";
    assert_eq!(node.sh(&["-v", "trap:/t"], links), before.trim_end());
    let attempts: &[&[&str]] = &[
        &["-v", "trap:/proc"],
        &["-v", "trap:/proc/sys/net", "--sysctl", "net.ipv4.ip_forward=|/attack"],
        &["-v", "trap:/proc/self/attr"],
        &["-v", "trap:/proc/1"],
        &["-v", "trap:/proc/./sys//net"],
        &["--tmpfs", "/proc"],
        &["--tmpfs", "/proc/self"],
        &["-v", "/etc/hostname:/proc/sysrq-trigger"],
        &["--mount", "type=image,source=busybox,target=/proc/sys"],
    ];
    let registry_image = format!("type=image,source={},target=/proc/sys", image("busybox"));
    for options in attempts {
        let options: Vec<&str> =
            options.iter().map(|o| if o.starts_with("type=image") { registry_image.as_str() } else { *o }).collect();
        let output = node.sh_output(&options, "true");
        assert!(output.code == 125 && output.stderr.contains("/proc"), "{options:?}: {output:?}");
    }
    // By way of a link of the image's, which the words do not show.
    node.ok(&["create", "--name", "maker", &image("busybox"), "true"]);
    fs::create_dir_all(node.scratch().join("links")).expect("links");
    std::os::unix::fs::symlink("/proc", node.scratch().join("links/way")).expect("link");
    node.ok(&["cp", &node.scratch().join("links/way").display().to_string(), "maker:/"]);
    node.ok(&["commit", "maker", "linked:latest"]);
    node.ok(&["rm", "maker"]);
    let create = ["create", "--name", "linked", "--network", "none", "-v", "trap:/way/sys", "linked:latest", "true"];
    let id = node.ok(&create);
    let output = node.ctl(&["start", &id]);
    assert!(output.code != 0 && output.stderr.contains("/way/sys"), "{output:?}");
    node.ok(&["rm", "-f", "linked"]);
    assert_eq!(core_pattern(), before);
    // What lxcfs makes is for /proc.
    let meminfo = node.scratch().join("meminfo");
    fs::write(&meminfo, "MemTotal: 1 kB\n").expect("meminfo");
    let bind = format!("{}:/proc/meminfo:ro", meminfo.display());
    assert_eq!(node.sh(&["-v", &bind], "cat /proc/meminfo"), "MemTotal: 1 kB");
    node.ok(&["volume", "rm", "trap"]);
    node.finish();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52565: an image whose /proc, /sys, /dev or /etc is a link.
#[test]
fn an_image_cannot_move_the_kernels_files() {
    let node = Node::with_busybox("escape-links");
    let victim = test_dir().join("victim");
    fs::create_dir_all(&victim).expect("victim");
    let (before, names) = (core_pattern(), listed(&victim));
    for (name, folder) in [("proc-link", "/proc"), ("sys-link", "/sys"), ("dev-link", "/dev")] {
        let image = image(&format!("hostile-{name}"));
        for terminal in [false, true] {
            let mut arguments = vec!["run", "--rm", "--network", "none"];
            if terminal {
                arguments.push("-t");
            }
            arguments.extend([image.as_str(), "ls", "/evil"]);
            let output = node.ctl(&arguments);
            // Pulled, and then refused: what is mounted there would be somewhere else.
            assert!(output.code == 125 && output.stderr.contains(folder), "{name}: {output:?}");
        }
    }
    let image = image("hostile-etc-links");
    let output =
        node.ctl(&["run", "--rm", "--network", "none", &image, "sh", "-c", "cat /etc/hosts; cat /etc/hostname"]);
    assert!(output.code == 125 || !output.stdout.contains("untouched"), "{output:?}");
    assert_eq!(core_pattern(), before);
    assert_eq!(listed(&victim), names);
    node.finish();
}

fn listed(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect("folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// CVE-2025-31133: what masks is taken from a /dev of the attacker's.
#[test]
fn a_null_device_of_ones_own_does_not_unmask() {
    let node = Node::with_busybox("escape-2025-31133");
    node.ok(&["volume", "create", "dev"]);
    for link in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/kcore", "/etc/passwd", "/nowhere"] {
        node.sh(&["-v", "dev:/d"], &format!("rm -f /d/null && ln -s {link} /d/null"));
        let script = "for p in /proc/kcore /proc/keys /proc/timer_list; do [ ! -e $p ] || head -c 1 $p; done; \
            for p in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/keys; do (echo x >$p) 2>&- && [ $p != /proc/keys ] && \
            echo wrote $p; done; ls /sys/firmware 2>&-; stat -c %t:%T /proc/keys";
        let output = node.sh_output(&["-v", "dev:/dev"], script);
        assert_eq!((output.code, output.stdout.as_str()), (0, "1:3\n"), "{link}: {output:?}");
    }
    // A place of one's own over /dev is no reason to leave anything open, either.
    assert_eq!(node.sh(&["--tmpfs", "/dev"], "head -c 1 /proc/keys; stat -c %t:%T /proc/keys"), "1:3");
    // The control: without masks there is something to read.
    assert_eq!(node.sh(&["--privileged"], "head -c 1 /proc/timer_list | wc -c"), "1");
    node.ok(&["volume", "rm", "dev"]);
    node.finish();
}

/// CVE-2025-52565 and its like: where a terminal comes from is the attacker's, when a process joins.
#[test]
fn a_terminal_is_a_terminal() {
    let node = Node::with_busybox("escape-terminal");
    for (n, make) in [
        "mkfifo /dev/pts/ptmx",
        "ln -s /proc/sysrq-trigger /dev/pts/ptmx",
        "echo secret >/dev/pts/ptmx",
        "mknod /dev/pts/ptmx c 1 5",
        "ln -s /t/ptmx /dev/pts/ptmx",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("pts{n}");
        node.detached(&["--name", &name, "--tmpfs", "/dev"], &format!("mkdir /dev/pts; {make}; {IDLE}"));
        let begun = std::time::Instant::now();
        let output = node.ctl(&["exec", "-t", &name, "echo", "in"]);
        assert!(output.code != 0 && !output.stdout.contains("in\r"), "{make}: {output:?}");
        assert!(output.stderr.contains("terminal") || runtimes::other().is_some(), "{make}: {output:?}");
        assert!(begun.elapsed().as_secs() < 5, "{make}: it waited");
        node.ok(&["rm", "-f", &name]);
    }
    node.detached(&["--name", "good"], IDLE);
    assert!(node.ctl(&["exec", "-t", "good", "tty"]).stdout.contains("/dev/pts/"));
    node.ok(&["rm", "-f", "good"]);
    node.finish();
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2024-23651: a folder in the way of a mount is swapped for a link while containers start.
#[test]
fn mounts_stay_inside_while_folders_are_swapped() {
    let node = Node::with_busybox("escape-swap");
    let victim = test_dir().join("swap-victim");
    fs::create_dir_all(&victim).expect("victim");
    node.ok(&["volume", "create", "shared"]);
    node.ok(&["volume", "create", "payload"]);
    node.sh(&["-v", "payload:/p"], "echo payload >/p/mark");
    let v = victim.display();
    let attack = attack();
    let setup = format!("mkdir -p /s/a/deep; ln -s ../../../../../../../../../..{v} /s/b; ln -s {v} /s/c");
    let options = with(&attack, &["--name", "flipper", "-v", "shared:/s"]);
    let got = beside(&node, &options, &format!("{setup}; /escape flip /s/a /s/b 6"), || {
        for n in 0..40 {
            let sub = format!("type=volume,source=shared,target=/x,volume-subpath={}", ["a", "b", "c"][n % 3]);
            let _ = node.sh_output(&["-v", "shared:/s", "-v", &format!("payload:/s/a/new{n}")], "true");
            let _ = node.sh_output(&["-v", "shared:/s", "--tmpfs", &format!("/s/a/deep{n}"), "-w", "/s/a/w"], "true");
            let output = node.sh_output(&["--mount", &sub], "ls /x; cat /x/secret");
            assert!(!output.stdout.contains("secret"), "{output:?}");
        }
    });
    assert_eq!(got, ["flipped often"]);
    // Only the test's own file is there: nothing was made and nothing mounted outside.
    assert_eq!(listed(&victim), Vec::<String>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains("swap-victim"), "{mounts}");
    // The control: who follows links by the host's root gets there.
    let naive = node.sh(&["-v", "shared:/s"], "readlink /s/c");
    assert_eq!(fs::canonicalize(naive).expect("it leads there"), victim);
    node.ok(&["volume", "rm", "shared", "payload"]);
    fs::remove_dir_all(&victim).expect("remove");
    node.finish();
}

/// CVE-2022-0811: one sysctl carries another.
#[test]
fn a_sysctl_is_one_sysctl() {
    let node = Node::with_busybox("escape-2022-0811");
    let before = core_pattern();
    let bad = [
        "kernel.core_pattern=|/attack",
        "kernel/core_pattern=|/attack",
        "net.ipv4/../../kernel/core_pattern=|/attack",
        "net.ipv4.ip_forward+kernel.core_pattern=|/attack",
        "net.ipv4.ip_forward\nkernel.core_pattern=|/attack",
        "kernel.shm_rmid_forced+kernel.core_pattern=1",
        "fs.mqueue./../../kernel/core_pattern=|/attack",
        "fs.suid_dumpable=2",
        "vm.panic_on_oom=1",
        "user.max_user_namespaces=1",
        "kernel.modprobe=/attack",
    ];
    for one in bad {
        let output = node.sh_output(&["--sysctl", one], "true");
        assert_eq!(output.code, 125, "{one}: {output:?}");
        assert!(output.stderr.contains("sysctl"), "{one}: {output:?}");
    }
    // What belongs to the network is a write to that file alone, whatever it holds.
    let _ =
        node.sh_output(&["--sysctl", "net.ipv4.ip_local_port_range=1024 2048\nkernel.core_pattern=|/attack"], "true");
    let shared = node.sh_output(&["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"], "true");
    assert_eq!(shared.code, 125, "{shared:?}");
    assert_eq!(core_pattern(), before);
    assert_eq!(node.sh(&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"), "1");
    node.finish();
}

/// CVE-2022-0492 and "Felix Wilhelm's": the kernel runs a program of the container's as root of the host.
#[test]
fn no_helper_of_the_kernel_is_set_from_inside() {
    let node = Node::with_busybox("escape-2022-0492");
    let script = "for f in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent /proc/sys/kernel/core_pattern \
        /proc/sys/kernel/modprobe /proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /proc/sysrq-trigger /proc/sys/kernel/poweroff_cmd; do \
        [ -e $f ] && (: >>$f) 2>/dev/null && echo $f; done; \
        mkdir /tmp/c; mount -t cgroup -o rdma none /tmp/c 2>/dev/null && echo mounted; mount -t cgroup2 none /tmp/c 2>/dev/null && echo mounted; \
        unshare -UrmC true 2>/dev/null && echo unshared; true";
    assert_eq!(node.sh(&[], script), "");
    assert_eq!(node.sh(&["--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"], script), "");
    // The control: nothing holds a privileged one.
    assert!(node.sh(&["--privileged"], script).contains("/proc/sys/kernel/core_pattern"));
    node.finish();
}

/// CVE-2024-21626: the host's descriptors, as a working folder or on the way to the command.
#[test]
fn no_descriptor_leads_out() {
    let node = Node::with_busybox("escape-2024-21626");
    let image = image("hostile-workdir-fd");
    let refused = |output: &Output, what: &str| {
        assert!(output.code != 0 && !output.stdout.contains("proc"), "{what}: {output:?}");
    };
    // By the image's own WORKDIR.
    refused(&node.ctl(&["run", "--rm", "--network", "none", &image, "ls", ".."]), "WORKDIR");
    let keep = ["run", "-d", "--name", "kept", "--network", "none", "-w", "/", &image, "sh", "-c", IDLE];
    node.ok(&keep);
    for n in 3..24 {
        let (fd, link) = (format!("/proc/self/fd/{n}"), format!("/fd{n}"));
        for folder in [&fd, &link] {
            refused(&node.ctl(&["run", "--rm", "--network", "none", "-w", folder, &image, "ls", ".."]), folder);
            refused(&node.ctl(&["exec", "-w", folder, "kept", "ls", ".."]), folder);
        }
        let command = format!("{fd}/../../../../../../bin/ls");
        refused(&node.ctl(&["exec", "kept", &command, "/"]), &command);
    }
    node.ok(&["rm", "-f", "kept"]);
    node.finish();
}

/// CVE-2022-29162 and CVE-2022-24769: capabilities that are inherited by programs with file capabilities. The agent has some, as it may get them of
/// whoever starts it.
#[test]
fn nothing_is_inheritable() {
    let mut node = Node::with_busybox("escape-2022-29162");
    let handed = ["CHOWN", "KILL", "NET_RAW", "NET_ADMIN", "SYS_ADMIN"];
    let handed_bits = handed.iter().fold(0, |all, name| all | berth_sys::cap::bit(name).expect("a name"));
    let words = handed.iter().map(|name| format!("+{}", name.to_lowercase())).collect::<Vec<_>>().join(",");
    node.set_starter(&["setpriv", "--inh-caps", &words, "--ambient-caps", &words]);
    node.restart();
    let of_agent = capability_sets(&fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status"));
    assert_eq!((of_agent[0] & handed_bits, of_agent[4] & handed_bits), (handed_bits, handed_bits), "none to hand on");
    let look = "grep ^Cap /proc/self/status";
    let gives_more = runtimes::has("exec --privileged");
    for userns in ["auto", "host"] {
        let options = ["--userns", userns, "--cap-add", "NET_ADMIN"];
        let health = ["--health-cmd", "grep ^Cap /proc/self/status", "--health-interval", "1s"];
        let of_health = |user: &str| {
            node.detached(&[&["--name", "caps", "-u", user], &options[..], &health[..]].concat(), IDLE);
            crate::harness::eventually("a health check", || {
                let log = &node.inspect("caps")["State"]["Health"]["Log"][0]["Output"];
                log.as_str().filter(|text| text.contains("CapAmb")).map(capability_sets)
            })
        };
        let given = capability_sets(&node.sh(&options, look))[3];
        assert_eq!(given & handed_bits, handed_bits & !berth_sys::cap::bit("SYS_ADMIN").expect("a name"));
        for (user, has) in [("root", given), ("nobody", 0)] {
            let right = [0, has, has, given, 0];
            assert_eq!(
                capability_sets(&node.sh(&[&["-u", user], &options[..]].concat(), look)),
                right,
                "{user}, {userns}"
            );
            // Without no_new_privs the order is another one.
            let free = ["-u", user, "--security-opt", "no-new-privileges=false"];
            assert_eq!(capability_sets(&node.sh(&[&free, &options[..]].concat(), look)), right, "{user}, {userns}");
            assert_eq!(of_health(user), right, "health check of {user}, {userns}");
            for other in ["root", "nobody"] {
                let has = if other == "root" { given } else { 0 };
                let text = node.ok(&["exec", "-u", other, "caps", "sh", "-c", look]);
                assert_eq!(capability_sets(&text), [0, has, has, given, 0], "exec of {other}, {userns}");
                if !gives_more {
                    continue;
                }
                let text = node.ok(&["exec", "--privileged", "-u", other, "caps", "sh", "-c", look]);
                let [inheritable, permitted, effective, bounding, ambient] = capability_sets(&text);
                let all = if other == "root" { bounding } else { 0 };
                assert!(bounding & handed_bits == handed_bits, "{bounding:x}");
                assert_eq!([inheritable, permitted, effective, ambient], [0, all, all, 0], "{other}, {userns}");
            }
            node.ok(&["rm", "-f", "caps"]);
        }
    }
    node.finish();
}

/// CVE-2020-15257: a socket of the engine's is in the network namespace, where a container that shares it finds it.
#[test]
fn nothing_of_the_engine_listens_on_an_abstract_socket() {
    let node = Node::with_busybox("escape-2020-15257");
    let look = "grep -o '@.*' /proc/net/unix | sort -u";
    let listener = "import socket,sys;s=socket.socket(socket.AF_UNIX);s.bind('\\0berth-escape-control');s.listen();print(1,flush=True);sys.stdin.read()";
    let mut control = Command::new("python3")
        .args(["-c", listener])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    std::io::Read::read(control.stdout.as_mut().expect("stdout"), &mut [0]).expect("it listens");
    node.detached(&["--name", "running", "-i"], IDLE);
    let seen = node.sh(&["--network", "host"], look);
    assert!(seen.contains("@berth-escape-control"), "{seen}");
    let ours: Vec<&str> = seen.lines().filter(|l| l.contains("berth") && !l.contains("control")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    drop(control.stdin.take());
    control.wait().expect("python3");
    node.ok(&["rm", "-f", "running"]);
    node.finish();
}

/// CVE-2022-23648: what an image calls a volume lies above its root.
#[test]
fn an_images_volume_is_filled_from_the_image() {
    let node = Node::with_busybox("escape-2022-23648");
    let script = "ls -a /etc; cat /etc/passwd; grep -c ' /etc ' /proc/self/mountinfo";
    let of = |image: &str| node.ctl(&["run", "--rm", "--network", "none", image, "sh", "-c", script]);
    let (hostile, plain) = (of(&image("hostile-volume-path")), of(&image("busybox")));
    // It runs as the same image without a volume: nothing is mounted there, and all of /etc is the image's own.
    assert_eq!((hostile.code, hostile.stdout.as_str()), (1, plain.stdout.as_str()), "{hostile:?}");
    assert!(plain.stdout.ends_with("\n0\n") && plain.stdout.contains("root:"), "{plain:?}");
    assert_eq!(node.ok(&["volume", "ls", "-q"]), "");
    // The control: what an engine would find by this path on the host is something else.
    for file in listed(Path::new("/etc")) {
        if ["shadow", "machine-id", "fstab", "os-release"].contains(&file.as_str()) {
            assert!(!hostile.stdout.lines().any(|line| line == file), "{file}: {hostile:?}");
        }
    }
    let host = fs::read_to_string("/etc/passwd").expect("passwd");
    assert!(!hostile.stdout.contains(&host) && listed(Path::new("/etc")).len() > plain.stdout.lines().count());
    // And a caller's is refused.
    let asked = node.sh_output(&["-v", "kept:/../../../../../etc"], "true");
    assert!(asked.code == 125 && asked.stderr.contains("/../../../../../etc"), "{asked:?}");
    node.finish();
}

/// CVE-2024-40635: a user id that is root when it has been cut to 32 bits.
#[test]
fn a_user_id_is_not_cut_to_root() {
    let node = Node::with_busybox("escape-2024-40635");
    for user in [
        "4294967296",
        "4294967296:4294967296",
        "2147483648:4294967296",
        "18446744073709551616",
        "-1",
        "4294967295",
        "0x0",
    ] {
        let output = node.sh_output(&["-u", user], "id -u; id -g");
        assert!(!output.stdout.lines().any(|l| l == "0"), "{user}: {output:?}");
    }
    assert_eq!(node.sh(&["-u", "1000:1000"], "id -u; id -g"), "1000\n1000");
    node.finish();
}

/// CVE-2021-41091, CVE-2024-25621: programs with the set-id bit that containers made are reached by users of the host.
#[test]
fn users_of_the_host_do_not_reach_containers_files() {
    let node = Node::with_busybox("escape-2021-41091");
    let id = node
        .detached(&["-v", "kept:/v"], &format!("cp /bin/busybox /setid; chmod 4755 /setid; cp -p /setid /v/; {IDLE}"));
    let find = |nobody: bool| {
        let script =
            format!("find {} {} -name setid 2>/dev/null", node.data().display(), node.dir.join("run").display());
        let mut command = Command::new(if nobody { "setpriv" } else { "sh" });
        if nobody {
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh"]);
        }
        let output = command.args(["-c", &script]).output().expect("find");
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    crate::harness::until("it is there", || find(false) >= 2);
    assert_eq!(find(true), 0);
    node.ok(&["rm", "-f", &id]);
    node.ok(&["volume", "rm", "kept"]);
    node.finish();
}

/// CVE-2023-0778: what is exported changes into a link; CVE-2024-23652: what is removed is one.
#[test]
fn links_in_volumes_and_containers_are_only_links() {
    let node = Node::with_busybox("escape-removal");
    let victim = node.scratch().join("victim");
    fs::create_dir_all(&victim).expect("victim");
    fs::write(victim.join("kept"), "secret").expect("kept");
    let v = victim.display();
    let attack = attack();
    let setup =
        format!("mkdir /v/d; echo inner >/v/d/kept; ln -s {v} /v/l; ln -s {v} /r; mkdir -p /x/y; ln -s {v} /x/y/z");
    let tar = node.scratch().join("tar");
    let options = with(&attack, &["--name", "swapper", "-v", "swapped:/v"]);
    let (mut exported, mut inner) = (0, 0);
    let got = beside(&node, &options, &format!("{setup}; /escape flip /v/d /v/l 3"), || {
        for _ in 0..10 {
            let output = node.ctl(&["volume", "export", "swapped", "-o", &tar.display().to_string()]);
            exported += usize::from(output.code == 0);
            let text = fs::read(&tar).unwrap_or_default();
            assert!(!text.windows(6).any(|w| w == b"secret"), "the host's file is in the tar");
            inner += usize::from(text.windows(6).any(|w| w == b"inner\n"));
        }
    });
    // They changed places, and what was made of them is a tar with what is inside.
    assert_eq!(got, ["flipped often"]);
    assert!(exported > 0 && inner > 0, "{exported} exports, {inner} with the file of the volume");
    node.ok(&["volume", "rm", "swapped"]);
    assert_eq!(fs::read_to_string(victim.join("kept")).expect("kept"), "secret");
    node.finish();
}

/// CVE-2016-8655, CVE-2017-7308, CVE-2020-14386: packet sockets, which NET_RAW opens, as with Docker.
#[test]
fn packet_sockets_are_closed_without_a_right_that_can_be_taken() {
    let node = Node::with_busybox("escape-packet");
    let attack = attack();
    let of = |options: &[&str]| node.sh(&with(&attack, options), "/escape packet");
    let refused = "Operation not permitted";
    for users in ["auto", "host"] {
        // The control: with it there is one.
        assert_eq!(of(&["--userns", users]), "opened", "{users}");
        assert_eq!(of(&["--userns", users, "--cap-drop", "NET_RAW"]), refused, "{users}");
        assert_eq!(of(&["--userns", users, "-u", "nobody"]), refused, "{users}");
    }
    // Nobody gets the right back in a user namespace that he makes himself.
    let made = node.sh_output(&with(&attack, &["-u", "nobody"]), "unshare -Urn /escape packet");
    assert!(made.code != 0 && made.stdout.is_empty(), "{made:?}");
    node.finish();
}

/// "Shocker" (2014) and the calls that escapes of the kernel began with (CVE-2022-0185, CVE-2017-5123, CVE-2021-22555, …).
#[test]
fn calls_that_containers_have_no_use_for_are_blocked() {
    let node = Node::with_busybox("escape-calls");
    let attack = attack();
    let blocked = node.sh(&with(&attack, &[]), "/escape calls");
    let reached: Vec<&str> = blocked.lines().filter(|l| l.ends_with("reached")).collect();
    assert!(reached.is_empty() && blocked.lines().count() == 17, "{blocked}");
    let handle = |options: &[&str]| node.sh(&with(&attack, options), "/escape handle /etc/hosts");
    assert_eq!(handle(&[]), "Operation not permitted");
    // The controls: with what it needs, each of them does what it does.
    // (Handles are opened with a capability of the host's: a user namespace is a second wall.)
    assert_eq!(handle(&["--cap-add", "DAC_READ_SEARCH"]), "Operation not permitted");
    assert_eq!(handle(&["--cap-add", "DAC_READ_SEARCH", "--userns", "host"]), "opened");
    let open = node.sh(&with(&attack, &["--privileged"]), "/escape calls");
    for call in ["keyctl", "add_key", "bpf", "unshare-user", "mount", "open_by_handle_at"] {
        assert!(open.contains(&format!("{call} reached")), "{call}: {open}");
    }
    node.finish();
}

//! The public escapes of other runtimes, made for real against bundles; and against a build with one wall less (`BERTH_WEAKEN`, with the feature
//! `weaken` of berth-sys only), where each one works, so that the tests which see it fail would see it work.

mod common;

use common::{Bench, attacks, ok, text};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// What runc and others give by default in the place of `spec`'s three.
const CAPABILITIES: [&str; 6] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SYS_CHROOT"];

fn bind(target: &str, source: &Path) -> Value {
    json!({"destination": target, "type": "bind", "source": source, "options": ["bind"]})
}

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

/// A container that runs this script with the attacks at /escape.
fn attacker(script: &str, change: impl FnOnce(&mut Value)) -> Bench {
    let bench = Bench::new();
    for applet in ["cp", "chmod", "printf", "ln", "rm", "seq"] {
        symlink("busybox", bench.bundle().join("rootfs/bin").join(applet)).unwrap();
    }
    bench.config(&["sh", "-c", script], |c| {
        mount(c, bind("/escape", &attacks()));
        for set in ["bounding", "effective", "permitted"] {
            c["process"]["capabilities"][set] = json!(CAPABILITIES);
        }
        change(c);
    });
    bench
}

fn start(bench: &Bench) {
    ok(bench.create(&[]));
    ok(bench.runtime(&["start", &bench.id()]));
}

/// With these walls down and these moments of rest.
fn weak(bench: &Bench, walls: &str, arguments: &[&str]) -> Output {
    bench.command(arguments).env("BERTH_WEAKEN", walls).output().unwrap()
}

/// What it has said when it has ended.
fn ended(bench: &Bench) -> String {
    let began = Instant::now();
    while !bench.output().contains("it has ended") {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", bench.output());
        std::thread::sleep(Duration::from_millis(50));
    }
    bench.output()
}

/// The attack comes to nothing with all walls, however much time it has, and works without these.
fn works_without(moments: &str, walls: &str, attack: impl Fn(&str) -> bool) {
    assert!(!attack(moments), "it works with all walls");
    if berth_sys::wall::WEAK {
        assert!(attack(&format!("{moments},{walls}")), "without {walls} it does not work: this test would see nothing");
    }
}

/// CVE-2016-9962: by its own root, whose rights it has by then.
#[test]
fn what_joins_is_not_looked_into() {
    works_without("pause-joining", "dumpable", |walls| {
        let bench = attacker("/escape watch 4; echo it has ended; sleep 1000", |_| {});
        start(&bench);
        let id = bench.id();
        for n in 0..20 {
            let output = weak(&bench, walls, &["exec", &id, "true"]);
            // Who is stopped by a tracer in the middle may fail.
            assert!(walls.contains("dumpable") || output.status.success(), "{output:?}");
            // The control: what runs in there already is seen, with its memory.
            if n % 5 == 0 {
                ok(bench.runtime(&["exec", &id, "sh", "-c", "exec 7</etc; sleep 0.2"]));
            }
        }
        let seen = ended(&bench);
        for control in ["mem /bin/busybox", "fd /etc high"] {
            assert!(seen.contains(control), "the program sees nothing: {seen}");
        }
        let ours: Vec<&str> = seen.lines().filter(|l| l.contains("memfd:") || l.contains("berth")).collect();
        // Whoever looks at its folders or descriptors would be told of them in these lines.
        assert!(walls.contains("dumpable") || ours.is_empty(), "{ours:?}");
        ["mem", "traced"].iter().any(|how| ours.iter().any(|l| l.starts_with(&format!("{how} /memfd:berth-runtime"))))
    });
}

/// CVE-2019-5736: the program that makes processes is written to from inside, when it does not run any more.
#[test]
fn the_program_that_joins_is_not_overwritten() {
    let attack = |walls: &str| {
        let trap = "printf '#!/proc/self/exe\\n' >/tmp/trap; chmod 755 /tmp/trap; cp /bin/busybox /tmp/busybox";
        let bench = attacker(&format!("{trap}; echo set; /escape overwrite 4; echo it has ended; sleep 1000"), |_| {});
        start(&bench);
        bench.says("set\n");
        let (id, began, walls) = (bench.id(), Instant::now(), format!("pause-joining,{walls}"));
        while began.elapsed() < Duration::from_secs(2) {
            // The trap runs the program that executes it, where that has all its libraries.
            let _ = weak(&bench, &walls, &["exec", &id, "/tmp/trap"]);
            ok(weak(&bench, &walls, &["exec", &id, "true"]));
        }
        // The control: a file of the container's is overwritten when it has ended.
        ok(bench.runtime(&["exec", &id, "/tmp/busybox", "sleep", "0.3"]));
        let got = ended(&bench);
        assert!(got.contains("overwrote /tmp/busybox"), "the attack does not work: {got}");
        got.contains("overwrote /memfd:berth-runtime")
    };
    assert!(!attack(""), "it works with all walls");
    if berth_sys::wall::WEAK {
        assert!(!attack("dumpable"), "the seal alone is no wall");
        assert!(attack("sealed,dumpable"), "it does not work: this test would see nothing");
    }
}

/// Starts containers while two names in a folder that they share change places; whether one of them ends where the attacker wants it.
fn is_raced(shared: &Path, start: impl Fn() -> bool) -> bool {
    let flipper = attacker("/escape flip /s/a /s/b 600", |c| mount(c, bind("/s", shared)));
    self::start(&flipper);
    let raced = (0..40).any(|_| start());
    let flips = || fs::symlink_metadata(shared.join("a")).unwrap().is_symlink();
    let (first, began) = (flips(), Instant::now());
    while flips() == first {
        assert!(began.elapsed() < Duration::from_secs(10), "the names do not change places");
    }
    raced
}

fn folder(bench: &Bench, name: &str) -> PathBuf {
    let at = bench.at.join(name);
    fs::create_dir_all(&at).unwrap();
    at
}

/// CVE-2021-30465: the place of a mount is looked at, and is another one when it is mounted there.
#[test]
fn a_mounts_place_does_not_change_behind_the_look() {
    works_without("pause-mounting", "race", |walls| {
        let bench = Bench::new();
        let (shared, payload) = (folder(&bench, "shared"), folder(&bench, "payload"));
        fs::create_dir(shared.join("a")).unwrap();
        symlink("/proc/sys/net", shared.join("b")).unwrap();
        fs::write(payload.join("mark"), "the attacker\n").unwrap();
        bench.config(&["sh", "-c", "cat /proc/sys/net/mark"], |c| {
            mount(c, bind("/s", &shared));
            mount(c, bind("/s/a", &payload));
        });
        is_raced(&shared, || text(&weak(&bench, walls, &["run", &bench.id()]).stdout) == "the attacker\n")
    });
}

/// CVE-2024-45310, CVE-2021-30465: what is missing on the way is made, by links that come and go, on the host.
#[test]
fn nothing_is_made_outside_while_folders_are_swapped() {
    let bench = Bench::new();
    let (shared, victim, payload) = (folder(&bench, "shared"), folder(&bench, "victim"), bench.at.join("payload"));
    fs::create_dir(shared.join("a")).unwrap();
    symlink(&victim, shared.join("b")).unwrap();
    fs::write(&payload, "the attacker\n").unwrap();
    let (made, n) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    is_raced(&shared, || {
        n.set(n.get() + 1);
        let (file, deep) = (format!("/s/a/file{}", n.get()), format!("/s/a/x{}/y", n.get()));
        bench.config(&["true"], |c| {
            mount(c, bind("/s", &shared));
            mount(c, bind(&file, &payload));
            mount(c, json!({"destination": deep, "type": "tmpfs", "source": "tmpfs"}));
            c["process"]["cwd"] = json!(format!("/s/a/cwd{}", n.get()));
        });
        made.set(made.get() + u32::from(bench.run().status.success()));
        fs::read_dir(&victim).unwrap().next().is_some()
    });
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "made outside of the root");
    assert!(made.get() > 0, "no container of {} has started", n.get());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(victim.to_str().unwrap()), "{mounts}");
    // The control: by the host's root the link leads there.
    let link = ["a", "b"].into_iter().find_map(|name| fs::read_link(shared.join(name)).ok());
    assert_eq!(link, Some(victim));
}

/// CVE-2025-31133: what masks is taken from a /dev of the attacker's.
#[test]
fn a_null_device_of_ones_own_does_not_unmask() {
    works_without("", "masks", |walls| {
        let bench = Bench::new();
        let dev = folder(&bench, "dev");
        symlink("/etc/choice", dev.join("null")).unwrap();
        fs::write(bench.bundle().join("rootfs/etc/choice"), "the attacker's choice\n").unwrap();
        bench.config(&["cat", "/proc/keys"], |c| {
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
            mount(c, bind("/dev", &dev));
            c["linux"]["maskedPaths"] = json!(["/proc/keys"]);
        });
        let output = weak(&bench, walls, &["run", &bench.id()]);
        // Nothing may go unmasked.
        let said = text(&output.stderr);
        assert!(output.status.success() || said.contains("/proc/keys") || said.contains("/dev/null"), "{said}");
        assert!(!text(&output.stdout).contains("keyring"), "{output:?}");
        text(&output.stdout) == "the attacker's choice\n"
    });
}

/// CVE-2025-52565: a terminal is bound to where a link of the image leads.
#[test]
fn a_console_leads_to_no_file_of_the_kernels() {
    works_without("", "proc", |walls| {
        let bench = Bench::new();
        let dev = folder(&bench, "dev");
        fs::create_dir(dev.join("pts")).unwrap();
        symlink("/proc/sysvipc/shm", dev.join("console")).unwrap();
        bench.config(&["sh", "-c", "test -c /proc/sysvipc/shm && echo covered"], |c| {
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
            mount(c, bind("/dev", &dev));
            mount(
                c,
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"]}),
            );
            c["process"]["terminal"] = json!(true);
            // Which this /dev has no device for.
            c["linux"]["maskedPaths"] = json!([]);
        });
        let output = weak(&bench, walls, &["run", &bench.id()]);
        let refused = text(&output.stderr).contains("cannot be covered");
        assert_eq!(refused, !walls.contains("proc"), "{output:?}");
        text(&output.stdout).contains("covered")
    });
}

/// CVE-2019-16884, CVE-2025-52881: what the runtime writes to /proc goes to a file of the attacker's. Each of the two walls is enough.
#[test]
fn a_sysctl_is_not_written_to_where_the_attacker_says() {
    let attack = |walls: &str| {
        let bench = Bench::new();
        let trap = folder(&bench, "trap/ipv4");
        fs::write(trap.join("ip_forward"), "untouched").unwrap();
        bench.config(&["true"], |c| {
            mount(c, bind("/proc/sys/net", &bench.at.join("trap")));
            c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        });
        let output = weak(&bench, walls, &["run", &bench.id()]);
        let written = fs::read_to_string(trap.join("ip_forward")).unwrap().starts_with('1');
        (written, text(&output.stderr))
    };
    let (written, said) = attack("");
    assert!(!written && said.contains("cannot be covered"), "{said}");
    if berth_sys::wall::WEAK {
        let (written, said) = attack("proc");
        assert!(!written && said.contains("linux.sysctl"), "{said}");
        let (written, said) = attack("kernel");
        assert!(!written && said.contains("cannot be covered"), "{said}");
        assert!(attack("proc,kernel").0, "it does not work: this test would see nothing");
    }
}

//! The attacks of `escapes.rs` against an agent with one wall less (`BERTH_WEAKEN`, in builds with fail points only): each one works there, so
//! that the tests which see it fail would see it work.

use crate::harness::{Node, image};

/// The attack comes to nothing with all walls, and works without these.
fn works_without(name: &str, walls: &str, attack: impl Fn(&Node) -> bool) {
    let mut node = Node::with_busybox(name);
    assert!(!attack(&node), "it works with all walls");
    node.set_env("BERTH_WEAKEN", Some(walls));
    node.restart();
    assert!(attack(&node), "without {walls} it does not work: this test would see nothing");
    node.finish();
}

/// An agent without these walls, which had them a moment ago.
fn without(name: &str, walls: &str) -> Node {
    let mut node = Node::with_busybox(name);
    node.set_env("BERTH_WEAKEN", Some(walls));
    node.restart();
    node
}

/// Of descriptors that stayed open: which led to a mark on the host by `..`, and which to some folder at all.
fn led_out(node: &Node, more: &[&str]) -> (Vec<u32>, Vec<u32>) {
    std::fs::write(node.scratch().join("mark"), "the host's").expect("mark");
    let way = format!("../../../../../../../../../../../../..{}/mark", node.scratch().display());
    let share = format!("{}:/share", node.scratch().display());
    let (mut found, mut entered) = (Vec::new(), Vec::new());
    for fd in 3..32 {
        let folder = format!("/proc/self/fd/{fd}");
        let options = [&["--userns", "host", "-v", &share, "-w", &folder], more].concat();
        let output = node.sh_output(&options, &format!("echo in; cat {way}"));
        entered.extend(output.stdout.contains("in").then_some(fd));
        found.extend(output.stdout.contains("the host's").then_some(fd));
    }
    (found, entered)
}

/// CVE-2024-21626
#[test]
fn descriptors_that_stay_open_lead_out() {
    let node = without("weak-descriptors", "descriptors");
    let (found, _) = led_out(&node, &[]);
    assert!(!found.is_empty(), "no descriptor led out");
    node.finish();
}

/// The same with the wall behind it: such a folder is entered, and nothing in it is opened.
#[test]
fn landlock_stands_behind_descriptors_that_stay_open() {
    let node = without("weak-landlock", "descriptors");
    let (control, _) = led_out(&node, &[]);
    let (found, entered) = led_out(&node, &["--security-opt", "landlock=on"]);
    assert!(!control.is_empty() && control.iter().all(|fd| entered.contains(fd)), "{control:?} {entered:?}");
    assert!(found.is_empty(), "{found:?}");
    node.finish();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642
#[test]
fn an_image_moves_the_kernels_files() {
    let node = without("weak-links", "links,proc");
    let image = image("hostile-proc-link");
    let output = node.ctl(&["run", "--rm", "--network", "none", "--userns", "host", &image, "ls", "/evil"]);
    assert!(output.code == 0 && output.stdout.contains("self"), "{output:?}");
    node.finish();
}

/// CVE-2019-16884, CVE-2025-52881
#[test]
fn something_is_mounted_over_proc() {
    let node = without("weak-proc", "proc");
    node.ok(&["volume", "create", "trap"]);
    node.sh(&["-v", "trap:/t"], "echo the attacker >/t/mark");
    assert_eq!(node.sh(&["-v", "trap:/proc/sys/net"], "cat /proc/sys/net/mark"), "the attacker");
    node.ok(&["volume", "rm", "trap"]);
    node.finish();
}

/// `ARGS` of the program of attacks, in a container with these options.
fn escape(node: &Node, options: &[&str], arguments: &str) -> String {
    let program = format!("{}:/escape:ro", crate::escapes::program().display());
    let options = [options, &["-v", &program]].concat();
    node.sh_output(&options, arguments).stdout
}

/// The calls that escapes of the kernel began with.
#[test]
fn calls_reach_the_kernel() {
    works_without("weak-seccomp", "seccomp", |node| {
        let calls = escape(node, &[], "/escape calls");
        ["keyctl", "add_key", "unshare-user"].iter().all(|call| calls.contains(&format!("{call} reached")))
    });
}

#[test]
fn root_of_a_container_takes_an_address() {
    works_without("weak-caps", "capabilities", |node| {
        let taken = node.sh_output(&[], "ip addr add 192.0.2.1/32 dev lo && echo taken");
        let raised = node.sh_output(&["--userns", "host"], "hostname attacker && hostname");
        // The profile is made for the capabilities that were given, and still refuses what it would refuse.
        assert_ne!(raised.stdout, "attacker\n", "seccomp is a wall of its own");
        taken.stdout == "taken\n"
    });
}

#[test]
fn a_program_with_the_set_id_bit_makes_root() {
    works_without("weak-nnp", "no_new_privs", |node| {
        let options = ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"];
        escape(node, &[&options[..], &["-v", "programs:/p"]].concat(), "cp /escape /p/x && chmod 4755 /p/x");
        let user = node.sh(&[&options[..], &["-u", "1234", "-v", "programs:/p"]].concat(), "/p/x euid");
        node.ok(&["volume", "rm", "programs"]);
        assert!(matches!(&*user, "0" | "1234"), "{user:?}");
        user == "0"
    });
}

/// CVE-2025-52565: what lies over /dev/pts becomes the console before anything is masked or read-only.
#[test]
fn a_console_leads_to_a_file_of_the_kernels() {
    works_without("weak-console", "order", |node| {
        node.sh(&["-v", "pts:/p"], "ln -sfn /proc/sys/kernel/core_pattern /p/0");
        let script = "test -f /dev/console && (: >>/dev/console) && echo open";
        let run = ["run", "--rm", "-t", "--network", "none", "--userns", "host", "-v", "pts:/dev/pts"];
        let output = node.ctl(&[&run[..], &[&image("busybox"), "sh", "-c", script]].concat());
        let refused = node.sh_output(&["--userns", "host"], "(: >>/proc/sys/kernel/core_pattern) && echo open");
        assert_eq!(refused.stdout, "", "there is no other way to it");
        node.ok(&["volume", "rm", "pts"]);
        output.stdout.contains("open")
    });
}

/// CVE-2025-31133: what masks is taken from a /dev of the attacker's.
#[test]
fn a_null_device_of_ones_own_unmasks() {
    let attack = |node: &Node| {
        node.sh(&["-v", "dev:/d"], "rm -f /d/null; ln -s /nowhere /d/null");
        let output = node.sh_output(&["-v", "dev:/dev"], "head -c 3 /proc/interrupts | wc -c");
        node.ok(&["volume", "rm", "dev"]);
        output
    };
    works_without("weak-masks", "order,masks", |node| attack(node).stdout == "3\n");
    // Each of the two walls stands by itself.
    let node = without("weak-masks-order", "order");
    let output = attack(&node);
    assert!(output.code == 125 && output.stderr.contains("masking"), "{output:?}");
    node.finish();
    let node = without("weak-masks-null", "masks");
    assert_eq!(attack(&node).stdout, "0\n");
    node.finish();
}

/// CVE-2025-52881: what the engine writes to /proc goes to a file of the attacker's choice.
#[test]
fn a_sysctl_is_written_to_where_the_attacker_says() {
    works_without("weak-sysctl", "order,proc", |node| {
        node.sh(&["-v", "trap:/t"], "mkdir -p /t/ipv4 && echo untouched >/t/ipv4/ip_forward");
        let _ = node.sh_output(&["-v", "trap:/proc/sys/net", "--sysctl", "net.ipv4.ip_forward=1"], "true");
        let found = node.sh(&["-v", "trap:/t"], "head -c 1 /t/ipv4/ip_forward");
        node.ok(&["volume", "rm", "trap"]);
        found == "1"
    });
}

/// CVE-2021-30465, CVE-2024-45310: a link in a volume, in the way of what is mounted.
#[test]
fn a_link_in_a_volume_leads_to_the_host() {
    works_without("weak-subpath", "subpath", |node| {
        let victim = node.scratch().join("victim");
        std::fs::create_dir_all(&victim).expect("victim");
        std::fs::write(victim.join("secret"), "the host's\n").expect("secret");
        node.sh(&["-v", "shared:/s"], &format!("ln -sfn {} /s/way", victim.display()));
        let mount = "type=volume,source=shared,target=/x,volume-subpath=way";
        let output = node.sh_output(&["--mount", mount], "cat /x/secret");
        node.ok(&["volume", "rm", "shared"]);
        output.stdout == "the host's\n"
    });
}

/// As CVE-2024-21626, by what is made for the container instead of what it runs in: a device on a link to a descriptor of the host's.
#[test]
fn a_device_is_made_where_a_link_to_a_descriptor_leads() {
    works_without("weak-nodes", "nodes", |node| {
        let there = node.scratch();
        std::fs::create_dir_all(&there).expect("scratch");
        let links = format!(
            "for n in $(seq 3 31); do ln -s /proc/self/fd/$n/../../../../../../../../../../../..{} /up$n; ln -s /proc/self/fd/$n /at$n; done",
            there.display()
        );
        let made = node.detached(&["--userns", "host"], &format!("{links}; echo made; while :; do sleep 1; done"));
        crate::harness::until("the links are there", || node.ok(&["logs", &made]).contains("made"));
        node.ok(&["commit", &made, "links:1"]);
        node.ok(&["rm", "-f", &made]);
        for n in 3..32 {
            for way in ["up", "at"] {
                let device = format!("/dev/null:/{way}{n}/evil");
                let run =
                    ["run", "--rm", "--network", "none", "--userns", "host", "--device", &device, "links:1", "true"];
                let _ = node.ctl(&run);
            }
        }
        node.ok(&["rmi", "-f", "links:1"]);
        let found = std::process::Command::new("find")
            .arg(&there)
            .arg(node.data())
            .args(["-name", "evil", "-print", "-delete"])
            .output();
        !found.expect("find").stdout.is_empty()
    });
}

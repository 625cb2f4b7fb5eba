//! A bridge at its bounds on the real kernel. "The host" is a network namespace of its own. Needs root.

use berth_model::ContainerId;
use berth_model::publish::PublishPolicy;
use berth_network::{NetworkConfig, NetworkError, Networks};
use berth_sys::net;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

fn on_a_host(test: impl FnOnce(Networks) + Send + 'static) {
    let host = thread::spawn(|| {
        net::unshare_network().unwrap();
        let config = NetworkConfig {
            bridge: "bnt0".into(),
            gateway: Ipv4Addr::new(10, 99, 0, 1),
            prefix_len: 20,
            table: "berth-test".into(),
            publish: PublishPolicy::default(),
        };
        test(Networks::open(config).unwrap());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn id(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 32])
}

/// `ip -batch` with these lines.
fn batch(lines: &str) {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

fn list(set: &str) -> String {
    let output = Command::new("nft").args(["list", "set", "bridge", "berth-test-bnt0", set]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_full_bridge_is_said_plainly() {
    on_a_host(|networks| {
        let first = networks.attach(&id(1), &[]).unwrap();
        let mut lines = String::new();
        // 1021 more ports: both ends of each pair but one.
        for n in 0..511 {
            writeln!(lines, "link add d{n} type veth peer name p{n}\nlink set d{n} master bnt0").unwrap();
            if n > 0 {
                writeln!(lines, "link set p{n} master bnt0").unwrap();
            }
        }
        batch(&lines);
        let last = networks.attach(&id(2), &[]).unwrap();
        let error = networks.attach(&id(3), &[]).unwrap_err();
        assert!(matches!(&error, NetworkError::BridgeFull { network, .. } if network == "bridge"), "{error}");
        assert!(error.to_string().contains("1023 ports"), "{error}");
        // What is refused leaves nothing.
        let used = [first.main(), last.main()].map(|a| a.host_interface.clone());
        while list("ports").matches("bth").count() > used.len() {
            thread::sleep(Duration::from_millis(50));
        }
        assert!(used.iter().all(|name| list("ports").contains(name.as_str())));
        // A link that is just going makes room.
        networks.detach(&id(2), &last.attachments).unwrap();
        drop(last);
        networks.attach(&id(3), &[]).unwrap();
    });
}

#[test]
fn elements_come_and_go_with_links() {
    on_a_host(|networks| {
        assert_eq!(networks.guard_missing().unwrap(), None);
        let tables =
            || String::from_utf8(Command::new("nft").args(["list", "tables"]).output().unwrap().stdout).unwrap();
        assert_eq!(tables(), "", "asking leaves nothing");
        let a = networks.attach(&id(1), &[]).unwrap();
        let b = networks.attach(&id(2), &[]).unwrap();
        for attached in [&a, &b] {
            let attachment = attached.main();
            let addresses = list("addresses");
            let element = format!("\"{}\" . {} . {}", attachment.host_interface, attachment.mac, attachment.address);
            assert!(addresses.contains(&element), "{addresses}");
        }
        networks.detach(&id(1), &a.attachments).unwrap();
        let gone = a.main().host_interface.clone();
        drop(a);
        while list("ports").contains(&gone) || list("addresses").contains(&gone) {
            thread::sleep(Duration::from_millis(50));
        }
        assert!(list("ports").contains(&b.main().host_interface));
        networks.remove_all().unwrap();
        assert_eq!(tables(), "");
    });
}

use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    create: Create,
}

fn config(args: &[&str]) -> Result<v1::ContainerConfig> {
    let line = Line::try_parse_from(["run"].iter().chain(args)).map_err(|e| Error::usage(e.to_string()))?;
    line.create.config()
}

#[test]
fn the_command_keeps_its_own_flags() {
    let c = config(&["-it", "--rm", "nginx", "sh", "-c", "echo", "--rm", "-e"]).expect("good");
    assert_eq!((c.image.as_str(), c.tty, c.open_stdin, c.auto_remove), ("nginx", true, true, true));
    assert_eq!(c.command, ["sh", "-c", "echo", "--rm", "-e"]);
    config(&["--no-such-flag", "nginx"]).expect_err("unknown flags are refused");
    config(&[]).expect_err("an image is needed");
    config(&["NGINX"]).expect_err("no image reference");
}

#[test]
fn every_flag_arrives() {
    let c = config(&[
        "--name",
        "web",
        "--expose",
        "53/udp",
        "-e",
        "A=b=c",
        "--entrypoint",
        "",
        "-w",
        "/w",
        "-u",
        "1:2",
        "--group-add",
        "3",
        "-h",
        "hh",
        "--domainname",
        "dd",
        "--cgroup-parent",
        "a-b.slice",
        "--runtime",
        "crun",
        "--read-only",
        "--add-host",
        "a:1.2.3.4",
        "--add-host",
        "b=host-gateway",
        "--dns",
        "9.9.9.9",
        "--dns-search",
        "x.y",
        "--dns-option",
        "ndots:2",
        "-l",
        "k=v",
        "--annotation",
        "m=n",
        "--ulimit",
        "nofile=10:20",
        "--sysctl",
        "net.x=1",
        "--cap-add",
        "NET_ADMIN",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "writable-cgroups=true",
        "--security-opt",
        "landlock=on",
        "--security-opt",
        "apparmor=mine",
        "--security-opt",
        "label=type:my_t",
        "--security-opt",
        "label=level:s0:c1,c2",
        "--init",
        "--restart",
        "on-failure:3",
        "-m",
        "512m",
        "--memory-swap",
        "-1",
        "--memory-reservation",
        "1g",
        "--cpus",
        "1.5",
        "-c",
        "512",
        "--cpuset-cpus",
        "0-1",
        "--cpuset-mems",
        "0",
        "--pids-limit",
        "-1",
        "--device",
        "/dev/fuse:rw",
        "--device-cgroup-rule",
        "a 189:* rw",
        "--network",
        "host",
        "-p",
        "80",
        "-P",
        "--pid",
        "host",
        "--ipc",
        "host",
        "--uts",
        "host",
        "--stop-signal",
        "INT",
        "--stop-timeout",
        "3",
        "--oom-score-adj",
        "-5",
        "--shm-size",
        "1m",
        "--storage-opt",
        "size=10G",
        "--storage-opt",
        "inodes=4096",
        "--log-opt",
        "max-size=1m",
        "--log-opt",
        "max-file=2",
        "--tmpfs",
        "/t:size=1m,mode=700,exec",
        "--privileged",
        "img",
    ])
    .expect("good");
    insta::assert_debug_snapshot!(c);
}

#[test]
fn exposed_ports() {
    for (text, want) in [("80", vec!["80/tcp"]), ("53/UDP", vec!["53/udp"]), ("9-10/sctp", vec!["9/sctp", "10/sctp"])] {
        assert_eq!(port::exposed(text).expect(text), want, "{text}");
    }
    for bad in ["", "0", "80:80", "[::1]:1:2", "10-9", "80/dccp", "x"] {
        let said = port::exposed(bad).expect_err(bad).message;
        assert!(said.starts_with(&format!("--expose {bad:?}")), "{said}");
    }
}

#[test]
fn ports() {
    let of = |s: &str| {
        port::publish(s).map(|v| {
            v.iter()
                .map(|p| {
                    let choice = if p.choice > 0 { format!("-{}", p.choice) } else { String::new() };
                    format!("{}|{}{choice}|{}|{}", p.host_ip, p.host_port, p.container_port, p.protocol)
                })
                .collect::<Vec<_>>()
        })
    };
    for (text, want) in [
        ("80", vec!["|0|80|1"]),
        ("8080:80", vec!["|8080|80|1"]),
        ("127.0.0.1:8080:80/udp", vec!["127.0.0.1|8080|80|2"]),
        ("127.0.0.1::80", vec!["127.0.0.1|0|80|1"]),
        ("[::1]:8080:80", vec!["::1|8080|80|1"]),
        ("8000-8001:80-81/TCP", vec!["|8000|80|1", "|8001|81|1"]),
        ("1-65535:1-65535", vec!["|1|1|1"]),
        ("80/sctp", vec!["|0|80|3"]),
        ("90-91", vec!["|0|90|1", "|0|91|1"]),
        ("9300-9302:80", vec!["|9300-3|80|1"]),
        ("[::1]:9300-9999:80/udp", vec!["::1|9300-700|80|2"]),
    ] {
        assert_eq!(of(text).expect(text), want, "{text}");
    }
    for bad in [
        "",
        "0",
        "65536",
        "80/dccp",
        "8000-8010:80-81",
        "8000:80-81",
        "81-80",
        "x:80",
        "1.2.3:1:2",
        "::1:80:80",
        "+80",
        "a:1:2:3",
        "-80",
    ] {
        of(bad).expect_err(bad);
    }
    let e = of("8000-8010:80-81").expect_err("ranges differ");
    assert_eq!(
        e.message,
        "--publish \"8000-8010:80-81\": both ranges must have the same number of ports, or the container's one port"
    );
}

#[test]
fn mounts() {
    for good in [
        "type=bind,source=/a,target=/b",
        "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave,bind-recursive=disabled",
        "type=tmpfs,target=/c,tmpfs-size=1m,tmpfs-mode=1777",
        "type=volume,source=data,target=/c,volume-subpath=a/b,volume-nocopy",
        "source=data,target=/c,\"volume-opt=o=addr=10.0.0.1,ro\"",
        "type=image,source=nginx,target=/c,image-subpath=etc",
    ] {
        mount::mount(good).expect(good);
    }
    for bad in [
        "",
        "type=bind,target=/b",
        "type=bind,source=a,target=/b",
        "type=volume,source=v,target=/b",
        "type=bind,source=/a,target=/b,volume-nocopy",
        "type=image,target=/b",
        "type=volume,target=/b,\"volume-opt=o=a",
        "source=/a,target=/b",
        "type=tmpfs,source=/a,target=/b",
        "type=bind,source=/a,target=/b,tmpfs-size=1",
        "type=bind,source=/a,target=/b,x=y",
        "type=tmpfs,target=/c,tmpfs-mode=9",
        "type=bind,source=/a,target=/b,readonly=perhaps",
        "type=tmpfs,target=/b,relabel=shared",
        "type=bind,source=/a,target=/b,relabel=z",
    ] {
        mount::mount(bad).expect_err(bad);
    }
    for (text, relabel) in [
        ("/a:/b:z", v1::Relabel::Shared),
        ("/a:/b:ro,Z", v1::Relabel::Private),
        ("data:/b:Z", v1::Relabel::Private),
        ("data:/b", v1::Relabel::Unspecified),
    ] {
        assert_eq!(mount::volume(text).expect(text).relabel(), relabel, "{text}");
    }
    assert_eq!(mount::mount("source=data,target=/b,relabel=shared").expect("good").relabel(), v1::Relabel::Shared);
    assert!(mount::volume("/a:/b:ro,rslave").expect("good").read_only);
    for bad in ["a", "v:/b", "/a:b", "/a:/b:z,Z", "/a:/b:ro:x", "./a:/b", "data:/b:rslave", "/a:/b:nocopy", ":/b"] {
        mount::volume(bad).expect_err(bad);
    }
    for bad in ["t", "/t:size=x", "/t:suid", "/t:mode=8"] {
        mount::tmpfs(bad).expect_err(bad);
    }
    for bad in
        ["c", "c 1:3", "d 1:3 r", "c 1 r", "c x:3 r", "c 1:3 rx", "c 1:3 ", "c 1:-3 r", "c 1:3 rwm x", "c  1:3 r"]
    {
        let error = mount::device_rules(bad).expect_err(bad);
        assert!(error.to_string().contains("--device-cgroup-rule"), "{error}");
    }
    for bad in ["dev", "/a:/b:x", "/a:/b:rw:x"] {
        mount::device(bad).expect_err(bad);
    }
}

#[test]
fn refusals_name_flag_and_value() {
    for (args, words) in [
        (["--pid", "container:x"], "--pid \"container:x\""),
        (["--security-opt", "label=kind:x"], "--security-opt \"label=kind:x\""),
        (["--security-opt", "label=type:"], "--security-opt \"label=type:\""),
        (["--security-opt", "landlock=true"], "--security-opt \"landlock=true\""),
        (["--cpus", "0"], "--cpus \"0\""),
        (["--cpus", "1.2.3"], "--cpus \"1.2.3\""),
        (["--ulimit", "nofile=5:1"], "--ulimit \"nofile=5:1\""),
        (["--add-host", "x:y"], "--add-host \"x:y\""),
        (["--log-opt", "mode"], "--log-opt \"mode\""),
        (["--memory", "5x"], "'--memory <SIZE>'"),
        (["--label", "=v"], "--label \"=v\""),
        (["--env", "=v"], "--env \"=v\""),
        (["--sysctl", "a"], "--sysctl \"a\""),
    ] {
        let e = config(&[args[0], args[1], "img"]).expect_err(words);
        assert!(e.message.contains(words), "{words}: {}", e.message);
    }
    assert!(platform("linux").is_err() && platform("linux/arm/v7/x").is_err());
    assert_eq!(platform("linux/arm64/v8").expect("good").variant, "v8");
}

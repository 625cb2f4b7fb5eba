//! Who may do what: every RPC of the API as every role; and what the audit log says about it.

use crate::harness::{Node, image, pki::Identity};
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use std::collections::BTreeSet;
use std::time::Duration;
use tonic::Code;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;

/// What a viewer may call; an operator may call everything but what is the admins'.
const LOOKING: &[&str] = &[
    "/berth.v1.Containers/Inspect",
    "/berth.v1.Containers/List",
    "/berth.v1.Containers/Logs",
    "/berth.v1.Containers/Stats",
    "/berth.v1.Containers/Top",
    "/berth.v1.Containers/Wait",
    "/berth.v1.Files/Diff",
    "/berth.v1.Images/Inspect",
    "/berth.v1.Images/List",
    "/berth.v1.Networks/Inspect",
    "/berth.v1.Networks/List",
    "/berth.v1.Node/DiskUsage",
    "/berth.v1.Node/Doctor",
    "/berth.v1.Node/Events",
    "/berth.v1.Node/Info",
    "/berth.v1.Node/UpgradeStatus",
    "/berth.v1.Node/Version",
    "/berth.v1.Volumes/Inspect",
    "/berth.v1.Volumes/List",
];
/// What only an admin may call.
const ADMINS: &[&str] = &["/berth.v1.Node/ConfirmUpgrade", "/berth.v1.Node/UpgradeAgent"];
const CHANGING: &[&str] = &[
    "/berth.v1.Containers/Attach",
    "/berth.v1.Containers/Create",
    "/berth.v1.Containers/Exec",
    "/berth.v1.Containers/Kill",
    "/berth.v1.Containers/Pause",
    "/berth.v1.Containers/PortForward",
    "/berth.v1.Containers/Prune",
    "/berth.v1.Containers/Remove",
    "/berth.v1.Containers/Rename",
    "/berth.v1.Containers/Resize",
    "/berth.v1.Containers/Restart",
    "/berth.v1.Containers/Run",
    "/berth.v1.Containers/Start",
    "/berth.v1.Containers/Stop",
    "/berth.v1.Containers/StopAll",
    "/berth.v1.Containers/Unpause",
    "/berth.v1.Containers/Update",
    "/berth.v1.Containers/UpdatePorts",
    "/berth.v1.Files/Commit",
    "/berth.v1.Files/CopyFrom",
    "/berth.v1.Files/CopyTo",
    "/berth.v1.Files/Export",
    "/berth.v1.Images/Prune",
    "/berth.v1.Images/Pull",
    "/berth.v1.Images/Remove",
    "/berth.v1.Images/Tag",
    "/berth.v1.Networks/Connect",
    "/berth.v1.Networks/Create",
    "/berth.v1.Networks/Disconnect",
    "/berth.v1.Networks/ExplainPort",
    "/berth.v1.Networks/Prune",
    "/berth.v1.Networks/Remove",
    "/berth.v1.Node/CollectGarbage",
    "/berth.v1.Node/CheckImages",
    "/berth.v1.Volumes/Clone",
    "/berth.v1.Volumes/Create",
    "/berth.v1.Volumes/Export",
    "/berth.v1.Volumes/Import",
    "/berth.v1.Volumes/ImportInParts",
    "/berth.v1.Volumes/Prune",
    "/berth.v1.Volumes/Remove",
];

fn all_rpcs() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(berth::FILE_DESCRIPTOR_SET).expect("descriptor set");
    let mut paths = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;
impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}
impl Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put(item);
        Ok(())
    }
}
impl Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;
    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// Calls with an empty message; None: it was let in (an answer, another error, or silence).
async fn denied(channel: Channel, path: &str) -> Option<Code> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("ready");
    let call = client.server_streaming(tonic::Request::new(Bytes::new()), path.parse().expect("path"), Raw);
    // An endless stream that says nothing for a while has let the caller in.
    let answer = async {
        match call.await {
            Err(status) => Some(status.code()),
            Ok(response) => response.into_inner().message().await.err().map(|status| status.code()),
        }
    };
    let code = tokio::time::timeout(Duration::from_secs(2), answer).await.ok().flatten();
    code.filter(|code| matches!(code, Code::PermissionDenied | Code::Unauthenticated))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_as_every_role() {
    let node = Node::start("roles-matrix");
    let known: BTreeSet<String> = LOOKING.iter().chain(CHANGING).chain(ADMINS).map(|s| (*s).to_owned()).collect();
    assert_eq!(all_rpcs(), known, "a new RPC needs a line in this test");
    let odd = |name: &str, organizations: &'static [&'static str]| -> Identity {
        node.pki.odd(name, "", move |p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(rcgen::DnType::CommonName, name);
            for o in organizations {
                p.distinguished_name.push(rcgen::DnType::OrganizationName, *o);
            }
        })
    };
    let rpcs: Vec<String> =
        known.into_iter().chain(["/berth.v1.Node/NoSuch".to_owned(), "/no.Such/Thing".to_owned()]).collect();
    type May = fn(&str) -> bool;
    let cases: [(&str, Identity, May); 5] = [
        ("admin", node.pki.identity("admin"), |_| true),
        ("operator", node.pki.identity("operator"), |path| !ADMINS.contains(&path)),
        ("viewer", node.pki.identity("viewer"), |path| LOOKING.contains(&path)),
        ("no role", odd("norole", &[]), |_| false),
        ("an unknown role", odd("unknown", &["berth:root"]), |_| false),
    ];
    for (name, identity, may) in cases {
        let channel = node.channel_as(&identity).await.expect("connect");
        for path in &rpcs {
            let refused = denied(channel.clone(), path).await;
            let exists = !path.contains("uch");
            if may(path) && exists {
                assert_eq!(refused, None, "{name} may {path}");
            } else if exists {
                assert_eq!(refused, Some(Code::PermissionDenied), "{name} may not {path}");
            }
        }
    }
    node.finish();
}

#[test]
fn an_operator_cannot_become_root_of_the_host() {
    let node = Node::with_busybox("roles-operator");
    let operator = node.pki.identity("operator");
    let busybox = image("busybox");
    let run = |options: &[&str]| {
        let mut arguments = vec!["run", "--rm"];
        if !options.contains(&"--network") {
            arguments.extend(["--network", "none"]);
        }
        arguments.extend(options);
        arguments.extend([busybox.as_str(), "true"]);
        node.ctl_as(&operator, &arguments)
    };
    assert_eq!(run(&[]).code, 0);
    for options in [
        vec!["--privileged"],
        vec!["-v", "/:/host"],
        vec!["--userns", "host"],
        vec!["--userns", "keep:1000"],
        vec!["--pid", "host"],
        vec!["--network", "host"],
        vec!["--ipc", "host"],
        vec!["--uts", "host"],
        vec!["--cap-add", "SYS_ADMIN"],
        vec!["--cap-add", "ALL"],
        vec!["--device", "/dev/loop0"],
        vec!["--security-opt", "seccomp=unconfined"],
    ] {
        let output = run(&options);
        assert_eq!(output.code, 125, "{options:?}: {output:?}");
        assert!(output.stderr.contains("admin"), "{options:?}: {output:?}");
    }
    // Nor by way of a container that an admin made.
    node.detached(&["--name", "root", "--privileged"], "while :; do sleep 1; done");
    assert_ne!(node.ctl_as(&operator, &["exec", "root", "true"]).code, 0);
    node.detached(&["--name", "plain"], "while :; do sleep 1; done");
    assert_eq!(node.ctl_as(&operator, &["exec", "plain", "true"]).code, 0);
    assert_ne!(node.ctl_as(&operator, &["exec", "--privileged", "plain", "true"]).code, 0);
    node.finish();
}

#[test]
fn a_viewer_sees_no_passwords_of_volumes() {
    let node = Node::with_busybox("roles-volume-secrets");
    let (viewer, operator) = (node.pki.identity("viewer"), node.pki.identity("operator"));
    let login = "o=username=u,password=topsecret,credentials=/root/topsecret,vers=3.0";
    let share = ["-o", "type=cifs", "-o", "device=//u:topsecret@192.0.2.1/share", "-o", login];
    node.ok(&[&["volume", "create"], &share[..], &["share"]].concat());
    let mount = "type=volume,source=other,target=/data,volume-opt=type=cifs,volume-opt=device=//192.0.2.1/share,\"volume-opt=o=password=topsecret,ro\"";
    node.ok(&["create", "--name", "box", "--network", "none", "--mount", mount, &image("busybox"), "true"]);
    let asked: [&[&str]; 5] = [
        &["volume", "inspect", "share"],
        &["volume", "inspect", "other"],
        &["volume", "ls", "-o", "json"],
        &["volume", "ls", "--format", "{{.Options}}"],
        &["inspect", "box"],
    ];
    for arguments in asked {
        let seen = node.ctl_as(&viewer, arguments);
        assert_eq!(seen.code, 0, "{arguments:?}: {seen:?}");
        assert!(!format!("{seen:?}").contains("topsecret"), "{arguments:?}: {seen:?}");
    }
    let volume = node.ctl_as(&viewer, asked[0]).stdout;
    assert!(volume.contains("username=u,password=***,credentials=***,vers=3.0"), "{volume}");
    assert!(volume.contains("//u:***@192.0.2.1/share"), "{volume}");
    // Who may use it sees what it is.
    for arguments in [asked[0], asked[1], asked[2]] {
        assert!(node.ctl_as(&operator, arguments).stdout.contains("password=topsecret"), "{arguments:?}");
    }
    node.finish();
}

#[test]
fn a_viewer_sees_no_environment_of_images() {
    let node = Node::with_busybox("roles-image-secrets");
    let (viewer, operator) = (node.pki.identity("viewer"), node.pki.identity("operator"));
    let create = ["create", "--name", "box", "--network", "none", "-e", "DBPASS=topsecret", &image("busybox"), "true"];
    node.ok(&create);
    node.ok(&["commit", "box", "kept:1"]);
    let inspect = ["inspect", "--type", "image", "-o", "json", "kept:1"];
    let seen = node.ctl_as(&viewer, &inspect);
    assert!(seen.code == 0 && seen.stdout.contains("DBPASS=***"), "{seen:?}");
    assert!(!format!("{seen:?}").contains("topsecret"), "{seen:?}");
    // Who may make a container of it sees what it is.
    assert!(node.ctl_as(&operator, &inspect).stdout.contains("DBPASS=topsecret"));
    node.finish();
}

#[test]
fn every_change_leaves_a_record_without_secrets() {
    let node = Node::with_busybox("roles-audit");
    let viewer = node.pki.identity("viewer");
    node.sh(&["--name", "audited", "-e", "PASSWORD=hunter2hunter2"], "true");
    node.detached(&["--name", "kept", "-e", "TOKEN=tok3ntok3n"], "while :; do sleep 1; done");
    node.ok(&["exec", "-e", "KEY=k3yk3yk3y", "kept", "true"]);
    node.ok(&["stop", "-t", "0", "kept"]);
    node.ok(&["rm", "kept"]);
    node.pull_with_password(&image("plain"), "pa55pa55").expect("pull");
    assert_ne!(node.ctl_as(&viewer, &["rm", "anything"]).code, 0);
    let path = node.data().join("audit.log");
    let read = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    crate::harness::until("the refusal is recorded", || read().iter().any(|r| r["verdict"] == "denied"));
    let records = read();
    for rpc in ["Containers/Run", "Containers/Exec", "Containers/Stop", "Containers/Remove", "Images/Pull"] {
        let found =
            records.iter().find(|r| r["rpc"].as_str().is_some_and(|p| p.ends_with(rpc)) && r["verdict"] == "allowed");
        let record = found.unwrap_or_else(|| panic!("no record of {rpc}: {records:#?}"));
        assert_eq!((record["caller"].as_str(), record["role"].as_str()), (Some("admin"), Some("admin")), "{record}");
        assert!(
            record["serial"].as_str().is_some_and(|s| s.len() > 8)
                && record["peer"].as_str().is_some_and(|p| p.starts_with("127.0.0.1")),
            "{record}"
        );
        assert!(record["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{record}");
    }
    let denied = records.iter().find(|r| r["verdict"] == "denied").expect("denied");
    assert_eq!(
        (denied["caller"].as_str(), denied["rpc"].as_str()),
        (Some("viewer"), Some("/berth.v1.Containers/Remove")),
        "{denied}"
    );
    let stop = records.iter().find(|r| r["rpc"].as_str().is_some_and(|p| p.ends_with("/Stop"))).expect("stop");
    assert_eq!(stop["object"], "kept");
    let everything = std::fs::read_to_string(&path).expect("audit.log") + &node.agent_log();
    for secret in ["hunter2", "tok3n", "k3yk3y", "pa55"] {
        assert!(!everything.contains(secret), "{secret} was written down");
    }
    node.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let node = Node::builder("roles-limits").limits("message_bytes = 65536").start();
    let mut images = node.images().await;
    let request = berth::v1::TagImageRequest { source: "x".repeat(100_000), ..Default::default() };
    let error = images.tag(request).await.expect_err("too large");
    assert!(matches!(error.code(), Code::OutOfRange | Code::ResourceExhausted), "{error:?}");
    // The connection lives on, and so does everybody else's.
    let small = berth::v1::TagImageRequest { source: "nothing".into(), target: "x:1".into(), ..Default::default() };
    assert_eq!(images.tag(small).await.expect_err("not there").code(), Code::NotFound);
    drop(images);
    node.finish();
}

/// What fails costs its caller nothing: a flood of it leaves the record of what was done where it is.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_fail_are_counted() {
    let node = Node::start("roles-flood");
    let operator = node.pki.identity("operator");
    let channel = node.channel_as(&operator).await.expect("connect");
    let mut client = berth::v1::containers_client::ContainersClient::new(channel);
    for _ in 0..400 {
        let kill = berth::v1::KillContainerRequest { container: "nothing".into(), ..Default::default() };
        assert_eq!(client.kill(kill).await.expect_err("there is none").code(), Code::NotFound);
        let restart = berth::v1::RestartContainerRequest { container: "nothing".into(), ..Default::default() };
        assert_eq!(client.restart(restart).await.expect_err("there is none").code(), Code::NotFound);
    }
    let rename = ["rename", "nothing", "something"];
    assert_ne!(node.ctl(&rename).code, 0, "another caller's");
    let log = || std::fs::read_to_string(node.data().join("audit.log")).expect("audit.log");
    crate::harness::until("it is written", || log().contains("Containers/Rename"));
    let lines = log().lines().filter(|line| line.contains("\"object\":\"nothing\"")).count();
    assert!((60..200).contains(&lines), "{lines} lines of 800 calls");
    drop(client);
    node.finish();
}

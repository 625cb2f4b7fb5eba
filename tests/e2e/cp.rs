//! `berthctl cp`: Docker's rules, and links that lead nobody out.

use crate::harness::{Node, image, pty, test_dir};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

const SLEEP: &str = "while :; do sleep 1; done";

/// What a container says about a file of its own.
fn cat(node: &Node, container: &str, path: &str) -> String {
    node.ok(&["exec", container, "cat", path])
}

#[test]
fn dockers_rules_into_a_container() {
    let node = Node::with_busybox("cp-into");
    let here = node.scratch();
    let at = |name: &str| here.join(name).display().to_string();
    fs::create_dir_all(here.join("dir/sub")).expect("mkdir");
    fs::write(here.join("dir/sub/deep"), "deep").expect("deep");
    fs::write(here.join("file"), "contents").expect("file");
    std::os::unix::fs::chown(here.join("file"), Some(77), Some(88)).expect("chown");
    fs::set_permissions(here.join("file"), fs::Permissions::from_mode(0o4640)).expect("chmod");
    symlink("file", here.join("link")).expect("symlink");
    node.detached(&["--name", "on", "--tmpfs", "/tmpfs"], SLEEP);
    node.ok(&["create", "--name", "off", "--network", "none", &image("busybox"), "sh", "-c", SLEEP]);
    for name in ["on", "off"] {
        let to = |path: &str| format!("{name}:{path}");
        node.ok(&["cp", &at("file"), &to("/new")]);
        node.ok(&["cp", &at("file"), &to("/tmp")]);
        node.ok(&["cp", &at("file"), &to("tmp/other")]);
        node.ok(&["cp", "-a", &at("file"), &to("/kept")]);
        node.ok(&["cp", &at("dir"), &to("/made")]);
        node.ok(&["cp", &at("dir"), &to("/tmp")]);
        node.ok(&["cp", &format!("{}/.", at("dir")), &to("/tmp")]);
        node.ok(&["cp", &at("link"), &to("/as-link")]);
        node.ok(&["cp", "-L", &at("link"), &to("/as-file")]);
        node.ok(&["cp", &at("file"), &to("/etc/hosts")]);
        for (source, path, words) in [
            ("file", "/none/", "no such file"),
            ("file", "/none/deeper", "no such file"),
            ("dir", "/new", "onto a file"),
            ("file", "/new/", "no folder"),
            ("missing", "/x", "No such file"),
        ] {
            let error = node.fails(1, &["cp", &at(source), &to(path)]);
            assert!(error.contains(words), "{source} {path}: {error}");
        }
    }
    node.fails(125, &["cp", "on:/a", "off:/b"]);
    node.fails(125, &["cp", &at("file"), &at("other")]);
    node.ok(&["cp", &at("file"), "on:/tmpfs/seen"]);
    assert_eq!(cat(&node, "on", "/tmpfs/seen"), "contents");
    assert_eq!(cat(&node, "on", "/etc/hosts"), "contents");
    node.ok(&["start", "off"]);
    for name in ["on", "off"] {
        for path in ["/new", "/tmp/file", "/tmp/other", "/as-file", "/kept"] {
            assert_eq!(cat(&node, name, path), "contents", "{name} {path}");
        }
        for path in ["/made/sub/deep", "/tmp/dir/sub/deep", "/tmp/sub/deep"] {
            assert_eq!(cat(&node, name, path), "deep", "{name} {path}");
        }
        assert_eq!(node.ok(&["exec", name, "readlink", "/as-link"]), "file");
        let stat = |path: &str| node.ok(&["exec", name, "stat", "-c", "%u:%g %a", path]);
        assert_eq!((stat("/new"), stat("/kept")), ("0:0 640".into(), "77:88 4640".into()));
    }
    node.finish();
}

#[test]
fn dockers_rules_out_of_a_container() {
    let node = Node::with_busybox("cp-out");
    let here = node.scratch();
    let at = |name: &str| here.join(name).display().to_string();
    let script = "mkdir -p /d/sub /d/empty; echo deep >/d/sub/deep; ln /d/sub/deep /d/hard; ln -s /etc/passwd /link; \
        echo owned >/owned; chown 77:88 /owned; chmod 4755 /owned; mkfifo /d/fifo; touch /done; while :; do sleep 1; done";
    node.detached(&["--name", "box"], script);
    crate::harness::until("the files are there", || node.ctl(&["exec", "box", "test", "-e", "/done"]).code == 0);
    for state in ["running", "stopped"] {
        fs::create_dir(here.join("in")).expect("mkdir");
        node.ok(&["cp", "box:/owned", &at("as")]);
        node.ok(&["cp", "box:/owned", &at("in")]);
        node.ok(&["cp", "-a", "box:/owned", &at("kept")]);
        node.ok(&["cp", "box:/d", &at("new")]);
        node.ok(&["cp", "box:/d", &at("in")]);
        node.ok(&["cp", "box:/d/sub/.", &at("in")]);
        node.ok(&["cp", "box:/link", &at("link")]);
        node.ok(&["cp", "-L", "box:/link", &at("passwd")]);
        let read = |name: &str| fs::read_to_string(here.join(name)).unwrap_or_else(|e| panic!("{state} {name}: {e}"));
        assert_eq!(
            (read("as"), read("in/owned"), read("kept")),
            ("owned\n".into(), "owned\n".into(), "owned\n".into())
        );
        for name in ["new/sub/deep", "in/d/sub/deep", "in/deep", "new/hard"] {
            assert_eq!(read(name), "deep\n", "{state} {name}");
        }
        let meta = |name: &str| fs::symlink_metadata(here.join(name)).expect(name);
        assert_eq!(meta("new/hard").ino(), meta("new/sub/deep").ino());
        assert!(meta("new/empty").is_dir() && meta("link").is_symlink() && read("passwd").contains("root:"));
        assert_eq!((meta("as").uid(), meta("as").mode() & 0o7777), (0, 0o755), "set-id bits stay behind");
        assert_eq!((meta("kept").uid(), meta("kept").gid(), meta("kept").mode() & 0o7777), (77, 88, 0o4755));
        for (path, to, words) in [
            ("box:/none", "x", "no such file"),
            ("box:/owned/", "x", "no such file"),
            ("box:/owned", "none/", "does not exist"),
            ("box:/owned", "none/x", "none"),
            ("box:/d", "as", "onto a file"),
        ] {
            let error = node.fails(1, &["cp", path, &at(to)]);
            assert!(error.contains(words), "{path} {to}: {error}");
        }
        for name in fs::read_dir(&here).expect("scratch").flatten() {
            let path = name.path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("rm");
        }
        node.ok(&["stop", "-t", "0", "box"]);
    }
    node.finish();
}

#[test]
fn tars_on_standard_streams() {
    let node = Node::with_busybox("cp-stream");
    let here = node.scratch();
    node.detached(&["--name", "box"], SLEEP);
    let tar = here.join("a.tar");
    let sh = |line: &str| {
        let status = std::process::Command::new("sh").arg("-c").arg(line).current_dir(&here).status().expect("sh");
        assert!(status.success(), "{line}");
    };
    sh("mkdir -p x/y && echo hello >x/y/z && tar cf a.tar x");
    let mut command = node.ctl_command(&["cp", "-", "box:/tmp"]);
    assert!(command.stdin(fs::File::open(&tar).expect("tar")).status().expect("ctl").success());
    assert_eq!(cat(&node, "box", "/tmp/x/y/z"), "hello");
    let mut command = node.ctl_command(&["cp", "box:/tmp/x", "-"]);
    assert!(command.stdout(fs::File::create(here.join("b.tar")).expect("tar")).status().expect("ctl").success());
    sh("mkdir out && tar xf b.tar -C out && cmp out/x/y/z x/y/z");
    // Half a tar is no tar.
    let bytes = fs::read(&tar).expect("tar");
    fs::write(here.join("cut.tar"), &bytes[..1300]).expect("cut");
    let mut command = node.ctl_command(&["cp", "-", "box:/tmp"]);
    let cut = command.stdin(fs::File::open(here.join("cut.tar")).expect("tar")).stderr(Stdio::piped()).output();
    let cut = cut.expect("ctl");
    assert!(!cut.status.success() && String::from_utf8_lossy(&cut.stderr).contains("archive is refused"), "{cut:?}");
    // Links on the way are the container's own, and lead nowhere else.
    node.ok(&["exec", "box", "ln", "-s", "/opt/real", "/via"]);
    node.ok(&["exec", "box", "mkdir", "-p", "/opt/real"]);
    sh("mkdir via && echo through >via/f && tar cf c.tar via/f");
    let mut command = node.ctl_command(&["cp", "-", "box:/"]);
    assert!(command.stdin(fs::File::open(here.join("c.tar")).expect("tar")).status().expect("ctl").success());
    assert_eq!(cat(&node, "box", "/opt/real/f"), "through");
    node.finish();
}

/// The agent may read more of the host's sysfs than the container that has it mounted.
#[test]
fn the_kernels_own_files_stay_where_they_are() {
    let node = Node::with_busybox("cp-kernel");
    let here = node.scratch();
    node.detached(&["--name", "box"], SLEEP);
    for path in ["/sys/kernel/uevent_seqnum", "/sys/kernel/", "/proc/version", "/proc/1/environ", "/proc/."] {
        let said = node.fails(1, &["cp", &format!("box:{path}"), "-"]);
        assert!(said.contains("read them with exec"), "{path}: {said}");
    }
    let mut command = node.ctl_command(&["cp", "box:/", "-"]);
    let tar = here.join("root.tar");
    assert!(command.stdout(fs::File::create(&tar).expect("tar")).status().expect("ctl").success());
    let listed = std::process::Command::new("tar").arg("tf").arg(&tar).output().expect("tar");
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let below = |folder: &str| names.lines().filter(|n| n.trim_start_matches(['.', '/']).starts_with(folder)).count();
    assert_eq!((below("proc/"), below("sys/")), (1, 1), "the folders alone: {names}");
    assert!(below("etc/") > 1, "{names}");
    node.finish();
}

/// Folders that become links to the host, and back, all the time: no byte of the host comes out, none is changed.
#[test]
fn swapped_links_lead_nobody_out() {
    let node = Node::with_busybox("cp-hostile");
    let here = node.scratch();
    let victim = test_dir().join("cp-victim");
    let _ = fs::remove_dir_all(&victim);
    fs::create_dir_all(victim.join("sub")).expect("victim");
    fs::write(victim.join("secret"), "the host's").expect("secret");
    fs::write(victim.join("sub/secret"), "the host's").expect("secret");
    let v = victim.display();
    let script = format!(
        "mkdir -p /w/real/sub; echo mine >/w/real/secret; echo mine >/w/real/sub/secret; cd /w; ln -s {v} evil; \
         ln -s ../../../../../../..{v} evil2; touch /ready; \
         while :; do mv real x && mv evil real && [ -L real ] && mv real evil && mv x real && echo >>/swaps; \
         [ -L evil ] || {{ [ ! -d x ] || {{ rm -rf real; mv x real; }}; rm -rf evil; ln -s {v} evil; }}; \
         mv real/sub real/s2; ln -s {v}/sub real/sub; rm real/sub; mv real/s2 real/sub; done"
    );
    node.detached(&["--name", "box"], &script);
    crate::harness::until("it swaps", || node.ctl(&["exec", "box", "test", "-e", "/ready"]).code == 0);
    fs::create_dir_all(here.join("up/sub")).expect("mkdir");
    fs::write(here.join("up/secret"), "changed").expect("up");
    fs::write(here.join("up/sub/secret"), "changed").expect("up");
    let up = here.join("up/.").display().to_string();
    let swaps = || node.ok(&["exec", "box", "sh", "-c", "wc -l </swaps"]).trim().parse::<u32>().expect("swaps");
    let (before, mut copied) = (swaps(), [0; 5]);
    for n in 0..40 {
        let [out, followed] = ["out", "l"].map(|name| here.join(format!("{name}{n}")).display().to_string());
        let copies = [
            &["cp", "-q", "box:/w/real/.", &out][..],
            &["cp", "-q", "-L", "box:/w/real", &followed],
            &["cp", "-q", &up, "box:/w/real"],
            &["cp", "-q", &up, "box:/w/evil"],
            &["cp", "-q", &up, "box:/w/evil2"],
        ];
        // Some of these find a link, a missing folder or a moved one, and fail: what counts is where they lead.
        for (copy, copied) in copies.iter().zip(&mut copied) {
            *copied += usize::from(node.ctl(copy).code == 0);
        }
    }
    let during = swaps() - before;
    assert!(during >= 40, "{during} swaps during 40 rounds");
    assert!(copied[0] > 0 && copied[1] > 0 && copied[2] > 0, "the attack found nothing to swap: {copied:?}");
    let found = std::process::Command::new("grep").args(["-rl", "the host's"]).arg(&here).output().expect("grep");
    assert!(found.stdout.is_empty(), "{found:?}");
    assert_eq!(fs::read_to_string(victim.join("secret")).expect("secret"), "the host's");
    assert_eq!(fs::read_to_string(victim.join("sub/secret")).expect("secret"), "the host's");
    fs::remove_dir_all(&victim).expect("rm");
    node.finish();
}

#[test]
fn read_only_roots_and_roles() {
    let node = Node::with_busybox("cp-roles");
    let file = node.scratch().join("file");
    fs::write(&file, "x").expect("file");
    let file = file.display().to_string();
    node.detached(&["--name", "ro", "--read-only", "--tmpfs", "/rw", "-v", "kept:/kept"], SLEEP);
    assert!(node.fails(1, &["cp", &file, "ro:/new"]).contains("read-only"));
    node.ok(&["cp", &file, "ro:/rw/new"]);
    node.ok(&["stop", "-t", "0", "ro"]);
    assert!(node.fails(1, &["cp", &file, "ro:/new"]).contains("read-only"));
    node.ok(&["cp", &file, "ro:/kept/new"]);
    assert_eq!(node.sh(&["-v", "kept:/k"], "cat /k/new"), "x");
    node.detached(&["--name", "plain"], SLEEP);
    node.detached(&["--name", "root", "--privileged"], SLEEP);
    let (operator, viewer) = (node.pki.identity("operator"), node.pki.identity("viewer"));
    assert_eq!(node.ctl_as(&operator, &["cp", &file, "plain:/new"]).code, 0);
    assert_eq!(node.ctl_as(&operator, &["cp", "plain:/etc/passwd", &file]).code, 0);
    for arguments in [["cp", "root:/etc/passwd", &file], ["cp", &file, "root:/new"]] {
        let output = node.ctl_as(&operator, &arguments);
        assert!(output.code == 1 && output.stderr.contains("admin"), "{output:?}");
    }
    for arguments in [["cp", "plain:/etc/passwd", &file], ["cp", &file, "plain:/new"]] {
        let output = node.ctl_as(&viewer, &arguments);
        assert!(output.code == 1 && output.stderr.contains("operator"), "{output:?}");
    }
    node.finish();
}

#[test]
fn mounts_of_a_stopped_container_are_not_taken_for_its_files() {
    let node = Node::with_busybox("cp-mounts");
    let (here, file) = (node.scratch().join("data"), node.scratch().join("file"));
    fs::create_dir_all(&here).expect("mkdir");
    fs::write(here.join("seen"), "on the host").expect("seen");
    fs::write(&file, "x").expect("file");
    let file = file.display().to_string();
    let bind = format!("{}:/data", here.display());
    let one = format!("{}:/etc/one", here.join("seen").display());
    node.detached(&["--name", "box", "-v", &bind, "-v", &one, "-v", "files:/vol", "--tmpfs", "/memory"], SLEEP);
    node.ok(&["exec", "box", "sh", "-c", "mkdir /dat; ln -s /data /d; ln -s ../etc/one /dat/link; ln -s /vol /v"]);
    node.ok(&["cp", "box:/data/seen", &file]);
    assert_eq!(fs::read_to_string(&file).expect("file"), "on the host");
    node.ok(&["cp", &file, "box:/data/new"]);
    assert_eq!(fs::read_to_string(here.join("new")).expect("new"), "on the host");
    node.ok(&["stop", "-t", "0", "box"]);
    for arguments in [
        ["cp", "box:/data/seen", &file],
        ["cp", &file, "box:/data/late"],
        ["cp", &file, "box:/etc/../data"],
        ["cp", &file, "box:/d/late"],
        ["cp", "box:/d/", &file],
    ] {
        let error = node.fails(1, &arguments);
        assert!(error.contains("mount /data") && error.contains("while it runs"), "{arguments:?}: {error}");
    }
    assert!(node.fails(1, &["cp", &file, "box:/dat/link"]).contains("mount /etc/one"));
    node.ok(&["cp", &file, "box:/v/new"]);
    node.ok(&["cp", &file, "box:/dat/new"]);
    // Memory is not there either: what is written below it nobody would see again. (Volumes are: volume_options.rs.)
    for arguments in [["cp", &file, "box:/memory/late"], ["cp", "box:/memory/late", &file]] {
        let error = node.fails(1, &arguments);
        assert!(error.contains("mount /memory"), "{arguments:?}: {error}");
    }
    node.ok(&["cp", &file, "box:/database"]);
    node.finish();
}

#[test]
fn a_terminal_shows_how_far_a_copy_is() {
    let node = Node::with_busybox("cp-progress");
    let file = node.scratch().join("large");
    fs::write(&file, vec![7; 40 << 20]).expect("large");
    let file = file.display().to_string();
    node.detached(&["--name", "box"], SLEEP);
    let on_terminal = |arguments: &[&str]| {
        let mut command = node.ctl_command(arguments);
        command.env("TERM", "xterm");
        pty::run(&command, &[pty::Step::Expect("Successfully copied")])
    };
    let session = on_terminal(&["cp", &file, "box:/new"]);
    assert!(session.code == 0 && session.output.contains("Copying to container - "), "{session:?}");
    let session = on_terminal(&["cp", "box:/new", &file]);
    assert!(session.code == 0 && session.output.contains("Copying from container - "), "{session:?}");
    assert!(!node.ctl(&["cp", "box:/new", &file]).stderr.contains("Copying"), "no terminal, no progress");
    node.finish();
}

/// Who has begun many copies and says nothing takes no place, and who does not read has its own part of them.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_one_caller_leave_room_for_others() {
    use berth::v1::{self, copy_to_request::Kind, files_client::FilesClient};
    let node = Node::with_busybox("cp-room");
    node.detached(&["--name", "box"], SLEEP);
    node.ok(&["exec", "box", "dd", "if=/dev/zero", "of=/large", "bs=1M", "count=64"]);
    let operator = node.pki.identity("operator");
    let silent_client = FilesClient::new(node.channel_as(&operator).await.expect("connect"));
    let mut silent = Vec::new();
    for _ in 0..80 {
        let start = v1::CopyToStart {
            container: "box".into(),
            path: b"/".to_vec().into(),
            source: v1::CopySource::Archive.into(),
            ..Default::default()
        };
        let (frames, receiver) = tokio::sync::mpsc::channel(1);
        frames.send(v1::CopyToRequest { kind: Some(Kind::Start(start)) }).await.expect("start");
        let mut client = silent_client.clone();
        let call = async move { client.copy_to(tokio_stream::wrappers::ReceiverStream::new(receiver)).await };
        silent.push((frames, tokio::spawn(call)));
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let file = node.scratch().join("passwd").display().to_string();
    for arguments in [["cp", "box:/etc/passwd", &file], ["cp", &file, "box:/new"]] {
        let copied = node.ctl_as(&operator, &arguments);
        assert_eq!(copied.code, 0, "{copied:?}");
    }
    let mut client = FilesClient::new(node.channel_as(&operator).await.expect("connect"));
    let export = || v1::ExportRequest { container: "box".into() };
    let mut unread = Vec::new();
    // Half of them, as long as it is alone.
    for _ in 0..32 {
        unread.push(client.export(export()).await.expect("an export of its own part").into_inner());
    }
    let waits = tokio::spawn(async move { client.export(export()).await.map(drop) });
    node.ok(&["cp", "box:/etc/passwd", &file]);
    node.ok(&["cp", &file, "box:/newer"]);
    node.ok(&["commit", "box", "room:1"]);
    let refused = waits.await.expect("joined").expect_err("no place");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("you have 32 copies"), "{refused}");
    drop(unread);
    for (frames, call) in silent {
        drop(frames);
        let ended = call.await.expect("joined").map(drop).expect_err("no tar came");
        assert_eq!(ended.code(), tonic::Code::Cancelled, "{ended}");
    }
    node.finish();
}

/// Gigabytes go through; the agent does not grow with them.
#[test]
fn large_files_stream() {
    let node = Node::with_busybox("cp-large");
    let here = node.scratch();
    node.detached(&["--name", "box"], SLEEP);
    let file = fs::File::create(here.join("big")).expect("big");
    let pattern: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
    for n in 0..200u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &pattern, n << 20).expect("write");
    }
    // And a hole of 8 GiB behind, with a byte at its end.
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 8 << 30).expect("write");
    node.ok(&["cp", &here.join("big").display().to_string(), "box:/big"]);
    assert_eq!(node.ok(&["exec", "box", "stat", "-c", "%s", "/big"]), ((8u64 << 30) + 1).to_string());
    node.ok(&["cp", "box:/big", &here.join("back").display().to_string()]);
    let back = fs::metadata(here.join("back")).expect("back");
    assert!(back.len() == (8 << 30) + 1 && back.blocks() * 512 < 300 << 20, "{} {}", back.len(), back.blocks());
    let mut compare = std::process::Command::new("cmp");
    compare.args(["-n", "209715200"]).arg(here.join("big")).arg(here.join("back"));
    assert!(compare.status().expect("cmp").success());
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM").trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().expect("kB") < 200 << 10, "peak of {peak} kB");
    node.finish();
}

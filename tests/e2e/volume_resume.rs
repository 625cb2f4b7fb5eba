//! Tars of volumes whose stream breaks in the middle: they go on where they were, or say why they cannot.

use crate::harness::{Node, until};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// More than pipes and flow control take before anybody reads.
const MIB: usize = 72;
const SUM: &str = "cd /data; find . -type f | sort | xargs md5sum | md5sum";

/// A volume `data` with a large file between small ones, and the digest of its files.
fn filled(node: &Node) -> String {
    let script = format!(
        "cd /data; echo first >a; dd if=/dev/urandom of=large bs=1048576 count={MIB} 2>/dev/null; ln large link; mkdir z; echo last >z/z; {SUM}"
    );
    let sum = node.sh(&["-v", "data:/data"], &script);
    until("nobody has it", || node.ok(&["ps", "-aq"]).is_empty());
    sum
}

fn inside(node: &Node, volume: &str) -> PathBuf {
    node.data().join("volumes").join(volume).join("_data")
}

fn exported(node: &Node) -> Child {
    let mut command = node.ctl_command(&["volume", "export", "data"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("berthctl")
}

/// The first bytes of a tar; behind them the pipe holds it up.
fn begun(child: &mut Child, bytes: usize) -> Vec<u8> {
    let mut some = vec![0; bytes];
    child.stdout.as_mut().expect("pipe").read_exact(&mut some).expect("tar");
    some
}

fn rest(child: Child) -> (Output, String) {
    let output = child.wait_with_output().expect("wait");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("read")
}

#[test]
fn an_export_into_a_pipe_goes_on() {
    let mut node = Node::with_busybox("resume-export");
    filled(&node);
    let whole = node.scratch().join("whole.tar");
    node.ok(&["volume", "export", "-o", &whole.display().to_string(), "data"]);
    let whole = read(&whole);
    // Killed twice in the middle, then told to stop.
    let mut child = exported(&node);
    let mut tar = begun(&mut child, 1 << 20);
    node.kill_agent();
    node.spawn();
    tar.extend(begun(&mut child, 20 << 20));
    node.kill_agent();
    node.spawn();
    tar.extend(begun(&mut child, 20 << 20));
    let stopping = Instant::now();
    node.stop_agent();
    // It drains its calls for a while, and then does not wait for one that nobody reads.
    assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
    node.spawn();
    let (output, said) = rest(child);
    assert!(output.status.success(), "{said}");
    tar.extend(output.stdout);
    assert!(tar == whole, "{} bytes, and should be {}", tar.len(), whole.len());
    node.finish();
}

#[test]
fn an_export_of_a_volume_that_changed_meanwhile_says_so() {
    let mut node = Node::with_busybox("resume-changed");
    filled(&node);
    let data = inside(&node, "data");
    let changes: [&dyn Fn(); 2] = [
        &|| std::fs::write(data.join("a"), "other").expect("write"),
        // The tar ends before what came already.
        &|| {
            std::fs::remove_dir_all(data.join("z"))
                .and(std::fs::remove_file(data.join("large")))
                .and(std::fs::remove_file(data.join("link")))
                .expect("remove")
        },
    ];
    for change in changes {
        let mut child = exported(&node);
        let some = begun(&mut child, 1 << 20).len();
        node.kill_agent();
        change();
        node.spawn();
        let (output, said) = rest(child);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("volume data has changed since"), "{said}");
        let told = format!("the tar is cut off after {} bytes", some + output.stdout.len());
        assert!(said.contains(&told) && said.contains("begin anew"), "{said}");
    }
    node.finish();
}

/// What an agent says to a caller that has had other bytes, or more than there are.
#[tokio::test(flavor = "multi_thread")]
async fn an_offset_goes_with_its_digest() {
    use berth::v1::{self, export_volume_response::Kind};
    let node = Node::with_busybox("resume-digest");
    node.sh(&["-v", "data:/data"], "echo first >/data/a");
    let tar = node.scratch().join("data.tar");
    node.ok(&["volume", "export", "-o", &tar.display().to_string(), "data"]);
    let tar = read(&tar);
    let digest =
        |bytes: &[u8]| berth::hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    let channel = node.channel_as(&node.pki.identity("operator")).await.expect("connect");
    let ask = async |offset: u64, sha256: &str| -> Result<(Vec<u8>, bool, String), tonic::Status> {
        let mut client = v1::volumes_client::VolumesClient::new(channel.clone());
        let request = v1::ExportVolumeRequest { volume: "data".into(), offset, sha256: sha256.into() };
        let mut frames = client.export(request).await?.into_inner();
        let (mut came, mut at, mut end) = (Vec::new(), false, String::new());
        while let Some(frame) = frames.message().await? {
            match frame.kind.expect("a frame") {
                Kind::At(place) => at = came.is_empty() && place.bytes == offset,
                Kind::Tar(bytes) => came.extend_from_slice(&bytes),
                Kind::End(last) => end = last.sha256,
            }
        }
        Ok((came, at, end))
    };
    for offset in [0, 1, 511, 512, tar.len() - 1, tar.len()] {
        let (came, at, end) = ask(offset as u64, &digest(&tar[..offset])).await.expect("the rest");
        assert!(came == tar[offset..] && end == digest(&tar), "{offset}");
        assert_eq!(at, offset > 0, "{offset}");
    }
    for (offset, sha256, code) in [
        (512, digest(&tar[..511]), tonic::Code::FailedPrecondition),
        (tar.len() as u64 + 1, digest(&tar), tonic::Code::FailedPrecondition),
        (u64::MAX, digest(&tar), tonic::Code::FailedPrecondition),
        (512, String::new(), tonic::Code::InvalidArgument),
        (512, "x".repeat(64), tonic::Code::InvalidArgument),
    ] {
        let refused = ask(offset, &sha256).await.expect_err("another tar");
        assert_eq!(refused.code(), code, "{offset}: {refused:?}");
    }
    node.finish();
}

/// What is kept of imports: parts that are safe.
fn parts(node: &Node) -> usize {
    let folders = std::fs::read_dir(node.data().join("volumes")).into_iter().flatten().flatten();
    let imports = folders.filter(|e| e.file_name().to_string_lossy().starts_with(".import-"));
    let files = imports.flat_map(|e| std::fs::read_dir(e.path()).into_iter().flatten().flatten());
    files.filter(|e| e.file_name() != "new").count()
}

fn nothing_is_kept(node: &Node) -> bool {
    let folders = std::fs::read_dir(node.data().join("volumes")).expect("volumes").flatten();
    folders.filter(|e| e.file_name().to_string_lossy().starts_with('.')).count() == 0
}

fn tar_of(node: &Node) -> Vec<u8> {
    let tar = node.scratch().join("data.tar");
    node.ok(&["volume", "export", "-o", &tar.display().to_string(), "data"]);
    read(&tar)
}

#[test]
fn an_import_from_a_pipe_goes_on() {
    let mut node = Node::with_busybox("resume-import");
    let sum = filled(&node);
    let tar = tar_of(&node);
    let mut command = node.ctl_command(&["volume", "import", "copy"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ctl");
    let mut stdin = child.stdin.take().expect("pipe");
    // Killed in the middle, and then told to stop while its caller waits for input.
    stdin.write_all(&tar[..30 << 20]).expect("input");
    until("some of it is safe", || parts(&node) > 0);
    node.kill_agent();
    node.spawn();
    stdin.write_all(&tar[30 << 20..55 << 20]).expect("input");
    until("more of it is safe", || parts(&node) > 5);
    node.stop_agent();
    node.spawn();
    stdin.write_all(&tar[55 << 20..]).expect("input");
    drop(stdin);
    let (output, said) = rest(child);
    assert!(output.status.success(), "{said}");
    assert_eq!(node.sh(&["-v", "copy:/data"], SUM), sum);
    assert!(nothing_is_kept(&node));
    node.finish();
}

#[test]
fn an_export_goes_on_into_an_import_that_goes_on() {
    let mut from = Node::with_busybox("resume-from");
    let mut to = Node::with_busybox("resume-to");
    let sum = filled(&from);
    to.stop_agent();
    // Some seconds for the whole of it.
    to.set_env("BERTH_FAILPOINTS", Some("volume.while_arriving=sleep:15"));
    to.spawn();
    let mut source = exported(&from);
    let mut command = to.ctl_command(&["volume", "import", "data"]);
    let pipe = source.stdout.take().expect("pipe");
    let sink = command.stdin(pipe).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ctl");
    drop(command);
    until("some of it is safe", || parts(&to) > 1);
    from.kill_agent();
    from.spawn();
    until("it goes on", || parts(&to) > 3);
    to.kill_agent();
    to.spawn();
    until("it goes on", || parts(&to) > 4);
    from.kill_agent();
    to.kill_agent();
    to.set_env("BERTH_FAILPOINTS", None);
    from.spawn();
    to.spawn();
    let ((exported, said), (imported, told)) = (rest(source), rest(sink));
    assert!(exported.status.success() && imported.status.success(), "{said} {told}");
    assert_eq!(to.sh(&["-v", "data:/data"], SUM), sum);
    assert!(nothing_is_kept(&to));
    from.finish();
    to.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_kept_and_checked() {
    use berth::v1::{self, import_volume_progress::Kind as Told, import_volume_request::Kind};
    let node = Node::with_busybox("resume-parts");
    filled(&node);
    let tar = tar_of(&node);
    let channel = node.channel_as(&node.pki.identity("operator")).await.expect("connect");
    let frame = |kind| v1::ImportVolumeRequest { kind: Some(kind) };
    let start = |id: &str| v1::ImportVolumeStart { request_id: id.into(), volume: "copy".into(), ..Default::default() };
    // Sends what is behind the first answer, and gives that answer and the last one.
    let send = async |id: &str, upto: usize, sha256: Option<String>| {
        let mut client = v1::volumes_client::VolumesClient::new(channel.clone());
        let (frames, stream) = tokio::sync::mpsc::channel(4);
        frames.send(frame(Kind::Start(start(id)))).await.expect("start");
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let mut answers = client.import_in_parts(stream).await?.into_inner();
        let mut at = 0;
        while let Some(answer) = answers.message().await? {
            match answer.kind.expect("an answer") {
                Told::Done(_) => break,
                Told::SafeBytes(_) if at > 0 => {}
                Told::SafeBytes(safe) => {
                    at = safe.max(1);
                    let mut rest = tar[safe as usize..upto]
                        .chunks(1 << 20)
                        .map(|p| Kind::Tar(p.to_vec().into()))
                        .collect::<Vec<_>>();
                    rest.extend(sha256.clone().map(|sha256| Kind::End(v1::VolumeTarEnd { sha256, bytes: 0 })));
                    let frames = frames.clone();
                    let last = sha256.is_none();
                    tokio::spawn(async move {
                        for kind in rest {
                            frames.send(v1::ImportVolumeRequest { kind: Some(kind) }).await.expect("piece");
                        }
                    })
                    .await
                    .expect("sent");
                    if last {
                        break;
                    }
                }
            }
        }
        Ok::<u64, tonic::Status>(at)
    };
    let eight = 8 << 20;
    // Cut off in the second part: the first one is kept, for this id alone.
    assert_eq!(send("one", eight + 77, None).await.expect("cut"), 1);
    until("a part is safe", || parts(&node) == 1);
    assert_eq!(send("two", 10, None).await.expect("cut"), 1);
    assert_eq!(send("one", 2 * eight + 77, None).await.expect("cut"), eight as u64);
    until("another part is safe", || parts(&node) == 2);
    // Another digest: nothing is imported, and nothing is kept.
    let refused = send("one", tar.len(), Some("0".repeat(64))).await.expect_err("another digest");
    assert!(refused.code() == tonic::Code::InvalidArgument && refused.message().contains("digest"), "{refused:?}");
    assert_eq!(parts(&node), 0);
    let digest = berth::hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &tar).as_ref());
    assert_eq!(send("one", tar.len(), Some(digest.clone())).await.expect("whole"), 1);
    // One that cannot end well is refused before anything is sent; and there is no import without a name of its own.
    let refused = send("three", 10, None).await.expect_err("not empty");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
    let refused = send("", 10, None).await.expect_err("no id");
    assert!(refused.message().contains("request_id"), "{refused:?}");
    node.finish();
}

/// What is kept of imports, the first part of each: which file it is.
fn first_parts(node: &Node) -> Vec<(u64, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let folders = std::fs::read_dir(node.data().join("volumes")).expect("volumes").flatten();
    let imports = folders.filter(|e| e.file_name().to_string_lossy().starts_with(".import-"));
    let files = imports.filter_map(|e| std::fs::metadata(e.path().join("0")).ok());
    files.map(|m| (m.ino(), m.modified().expect("time"))).collect()
}

#[test]
fn an_import_of_a_file_goes_on_when_its_command_was_killed() {
    let mut node = Node::with_busybox("resume-file");
    let sum = filled(&node);
    let tar = tar_of(&node);
    let file = node.scratch().join("data.tar");
    node.stop_agent();
    // Some seconds for the whole of it.
    node.set_env("BERTH_FAILPOINTS", Some("volume.while_arriving=sleep:15"));
    node.spawn();
    let begin = |node: &Node| {
        let mut command = node.ctl_command(&["volume", "import", "copy", &file.display().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("berthctl")
    };
    let killed = |node: &Node, at: usize| {
        let mut child = begin(node);
        until("some of it is safe", || parts(node) >= at);
        child.kill().and(child.wait().map(drop)).expect("killed");
    };
    killed(&node, 2);
    let (first, had) = (first_parts(&node), parts(&node));
    assert_eq!(first.len(), 1);
    // Half of a tar is no volume.
    assert!(node.fails(1, &["volume", "inspect", "copy"]).contains("no such volume"));
    // The same command goes on behind it, also with another agent; not a byte of the first parts is written again.
    killed(&node, had + 1);
    assert_eq!(first_parts(&node), first);
    node.kill_agent();
    // Slow enough for another one beside it.
    node.set_env("BERTH_FAILPOINTS", Some("volume.while_arriving=sleep:60"));
    node.spawn();
    let child = begin(&node);
    until("more of it is safe", || parts(&node) > had + 1);
    assert_eq!(first_parts(&node), first);
    // Two of them at once do not mix.
    let (output, said) = rest(begin(&node));
    assert!(!output.status.success() && said.contains("another import of the same tar"), "{said}");
    let (output, said) = rest(child);
    assert!(output.status.success(), "{said}");
    assert_eq!(node.sh(&["-v", "copy:/data"], SUM), sum);
    assert!(nothing_is_kept(&node));
    until("nobody has it", || node.ok(&["ps", "-aq"]).is_empty());
    node.ok(&["volume", "rm", "copy"]);
    // Changed in between, behind the back of its time: the digest tells, nothing is imported, and the next one begins anew.
    killed(&node, 2);
    let time = std::fs::metadata(&file).and_then(|m| m.modified()).expect("time");
    let mut other = tar.clone();
    other[4 << 20] ^= 1;
    std::fs::write(&file, &other).expect("write");
    let write = std::fs::File::options().write(true).open(&file).expect("open");
    write.set_modified(time).expect("time");
    node.kill_agent();
    node.set_env("BERTH_FAILPOINTS", None);
    node.spawn();
    let (output, said) = rest(begin(&node));
    assert!(!output.status.success() && said.contains("digest"), "{said}");
    assert!(nothing_is_kept(&node));
    assert!(node.fails(1, &["volume", "inspect", "copy"]).contains("no such volume"));
    std::fs::write(&file, &tar).expect("write");
    let (output, said) = rest(begin(&node));
    assert!(output.status.success(), "{said}");
    assert_eq!(node.sh(&["-v", "copy:/data"], SUM), sum);
    until("nobody has it", || node.ok(&["ps", "-aq"]).is_empty());
    node.ok(&["volume", "import", "--direct", "--replace", "copy", &file.display().to_string()]);
    assert_eq!(node.sh(&["-v", "copy:/data"], SUM), sum);
    node.finish();
}

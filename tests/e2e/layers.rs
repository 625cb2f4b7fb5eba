//! What is in layers arrives in containers: the same for both layer stores.

use crate::harness::{Node, image};

const ODD: &str = r#"
ls /whiteout; ls /opaque; cat /opaque/new; echo
cat /replaced/in /turned; echo
stat -c '%i' /links/a /links/b /links/c | sort -u | wc -l
readlink /links/absolute; readlink /links/dangling
stat -c '%F %t:%T' /zero /block /pipe
ls /long | while read n; do echo ${#n}; done | sort -n | tr '\n' ' '; cat /long/gggg*; readlink /long/link | wc -c
find /deep -name bottom -exec cat {} \; ; echo
stat -c '%u %g %a' /owner /sticky /setgid
stat -c '%Y' /old
stat -c '%s' /sparse; tail -c 4 /sparse; head -c 1048576 /sparse | tr -d '\0' | wc -c
ls / | grep -c '^utf8-' ; ls / | grep -c '^bytes-'
cat /twice /twice-link; echo
cat /implied/by/name; echo
"#;

const EXPECTED: &str = "stays\nnew\nn\nnow a foldernow a file\n1\n/links/a\nnowhere\ncharacter special file 1:5\n\
    block special file 7:c8\nfifo 0:0\n4 200 255 gnu181\nbottom\n3000000 3000001 4751\n0 0 1777\n0 7 2755\n1\n1048580\ntail0\n1\n1\nsecondsecond\ni\n";

fn odd_layers(store: &str) {
    let node = Node::builder(&format!("layers-{store}")).images(&format!("layer_store = \"{store}\"")).start();
    // Some of its files are of users beyond the ids of a user namespace.
    let output = node.ctl(&["run", "--rm", "--network", "none", "--userns", "host", &image("odd"), "sh", "-c", ODD]);
    assert_eq!(output.stdout, EXPECTED, "{}", output.stderr);
    // The file capability lets nobody bind a low port with that program only; here it is enough that it is there.
    let id = node.ok(&["run", "-d", "--network", "none", &image("odd"), "sleep", "1000"]);
    let pid = node.inspect(&id)["State"]["Pid"].as_u64().expect("pid");
    let script = format!(
        "import os; p='/proc/{pid}/root/xattr'; print(os.getxattr(p,'user.berth').decode(), os.getxattr(p,'security.capability').hex())"
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().expect("python3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // Revision 3 names the root whose capability it is, that of the container's user namespace.
    let capability = ["value 01000002000400000000", "value 01000003000400000000"].iter().any(|c| text.starts_with(c));
    assert!(capability, "{text}{}", String::from_utf8_lossy(&output.stderr));
    let deep =
        node.ok(&["run", "--rm", "--network", "none", &image("deep"), "sh", "-c", "cat /top; ls /layers | wc -l"]);
    assert_eq!(deep, "126126");
    let many = node.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        &image("many"),
        "sh",
        "-c",
        "find /many -type f | wc -l; ls /many/7 | head -1",
    ]);
    let count = std::env::var("BERTH_TEST_ENTRIES").unwrap_or_else(|_| "100000".into());
    assert_eq!(many, format!("{count}\n7000"));
    node.finish();
}

#[test]
fn odd_layers_in_the_erofs_store() {
    odd_layers("erofs");
}

#[test]
fn odd_layers_in_the_directory_store() {
    odd_layers("directory");
}

#[test]
fn containers_of_an_image_share_its_layers_and_not_their_writes() {
    let node = Node::with_busybox("layers-shared");
    let one = node.detached(&[], "echo one > /mine; rm /etc/passwd; while :; do sleep 1; done");
    let two = node.detached(&[], "while :; do sleep 1; done");
    crate::harness::until("the first has written", || node.ctl(&["exec", &one, "cat", "/mine"]).code == 0);
    assert_ne!(node.ctl(&["exec", &two, "cat", "/mine"]).code, 0);
    assert_eq!(node.ctl(&["exec", &two, "head", "-c", "4", "/etc/passwd"]).stdout, "root");
    node.finish();
}

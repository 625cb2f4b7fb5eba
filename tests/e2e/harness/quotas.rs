//! File systems with project quotas, in files.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Makes a file system of this type in a sparse file of 1 GiB, and mounts it so that project quotas hold.
pub fn mount(fs_type: &str, file: &Path, at: &Path) -> Result<(), String> {
    File::create(file).and_then(|f| f.set_len(1 << 30)).map_err(|e| e.to_string())?;
    let features: &[&str] = if fs_type == "ext4" { &["-F", "-m", "0", "-O", "project,quota"] } else { &[] };
    run(Command::new(format!("mkfs.{fs_type}")).arg("-q").args(features).arg(file))?;
    run(Command::new("mount").args(["-t", fs_type, "-o", "loop,prjquota"]).arg(file).arg(at))
}

/// Whether this kernel has project quotas of a file system; where it has not, says what is left out.
pub fn has(fs_type: &str) -> bool {
    let dir = super::test_dir().join("run").join(format!("quotas-{fs_type}-{}", std::process::id()));
    fs::create_dir_all(dir.join("at")).expect("folder");
    let mounted = mount(fs_type, &dir.join("disk"), &dir.join("at"));
    if mounted.is_ok() {
        run(Command::new("umount").arg(dir.join("at"))).expect("umount");
    }
    fs::remove_dir_all(&dir).expect("folder");
    if let Err(why) = &mounted {
        super::runtimes::say(&format!("skipped: project quotas of {fs_type}: this host makes or mounts none: {why}"));
    }
    mounted.is_ok()
}

/// An agent with busybox on such a file system; `None`: there is none here.
pub fn node(fs_type: &'static str, name: &str) -> Option<super::Node> {
    if !has(fs_type) {
        return None;
    }
    let node = super::Node::builder(name).quota_disk(fs_type).start();
    node.ok(&["pull", "-q", &super::image("busybox")]);
    Some(node)
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&done.stderr).split_whitespace().collect::<Vec<_>>().join(" "))
}

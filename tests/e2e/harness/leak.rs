//! Is anything left? The kernel is asked, not the agent.

use super::slot::Slot;
use super::{LONG, agent};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// While the agent still runs: nothing of a container is left.
pub fn none_running(slot: &Slot, dir: &Path, agent: u32) {
    settle(|| {
        let mut found = cgroups(slot, true);
        found.extend(ports_of(&slot.bridge()));
        found.extend(processes(slot, dir).into_iter().filter(|(pid, _)| *pid != agent).map(|(_, text)| text));
        found.extend(nft_elements(&slot.table()));
        for folder in ["data/containers", "run/containers"] {
            let entries = fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("folder {}", entry.path().display())));
        }
        found
    });
}

/// When the agent has ended: nothing at all.
pub fn none(slot: &Slot, dir: &Path) {
    settle(|| {
        let mut found = mounts(dir).into_iter().map(|path| format!("mount {path}")).collect::<Vec<_>>();
        found.extend(cgroups(slot, true));
        found.extend(ports_of(&slot.bridge()));
        found.extend(processes(slot, dir).into_iter().map(|(_, text)| text));
        found.extend(nft_elements(&slot.table()));
        found
    });
}

/// The kernel takes namespaces and links apart behind the last process: it is given time, then no mercy.
fn settle(mut look: impl FnMut() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let found = look();
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed() < LONG / 3, "left behind:\n  {}", found.join("\n  "));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Mounts of this namespace at or from `dir`, deepest first; not the data folder's own tmpfs.
fn mounts(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let own = format!("{dir}/data");
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut found: Vec<String> = text
        .lines()
        .filter(|line| line.contains(&*dir))
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect();
    found.retain(|path| *path != own);
    found.sort_by_key(|path| std::cmp::Reverse(path.len()));
    found
}

/// Folders of the test's parent cgroup in every hierarchy; `below`: the parent itself may be there.
fn cgroups(slot: &Slot, below: bool) -> Vec<String> {
    let mut found = Vec::new();
    for parent in cgroup_parents(slot) {
        let mut list = Vec::new();
        walk(&parent, &mut list);
        if below {
            list.pop();
        }
        found.extend(list.into_iter().map(|path| format!("cgroup {}", path.display())));
    }
    found
}

fn cgroup_parents(slot: &Slot) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_owned()];
    roots.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|path| path.join(slot.cgroup_parent())).filter(|path| path.is_dir()).collect()
}

/// Post order: children before their parents.
fn walk(dir: &Path, list: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), list);
        }
    }
    list.push(dir.to_owned());
}

/// Links that hang on the bridge.
fn ports_of(bridge: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/class/net/{bridge}/brif")).into_iter().flatten().flatten();
    entries.map(|entry| format!("link {} on {bridge}", entry.file_name().to_string_lossy())).collect()
}

/// Processes that are in a cgroup of the test or name its folder.
fn processes(slot: &Slot, dir: &Path) -> Vec<(u32, String)> {
    let (parent, dir) = (format!("/{}/", slot.cgroup_parent()), format!("{}/", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let read = |name: &str| {
            fs::read(entry.path().join(name))
                .map(|b| String::from_utf8_lossy(&b).replace('\0', " "))
                .unwrap_or_default()
        };
        let command = read("cmdline");
        let ours = read("cgroup").contains(&parent)
            || command.contains(&dir)
            || fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir.trim_end_matches('/')));
        // A zombie whose parent is somebody else's is the kernel's business.
        if ours && !read("stat").contains(") Z ") {
            found.push((pid, format!("process {pid}: {} {command}", read("comm").trim())));
        }
    }
    found
}

/// What containers had in the agent's tables: its maps, and the sets of its bridges' guard. The rest is the same for all and stays for the next
/// container.
fn nft_elements(table: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (family, kind) in [("ip", "map"), ("ip6", "map"), ("bridge", "set")] {
        let text = nft_table(family, table);
        let head = format!("\n\t{kind} ");
        let maps = text.split(&head).skip(1).map(|map| map.split("\n\t}").next().unwrap_or_default());
        let elements = maps.flat_map(str::lines).filter(|line| line.contains("elements"));
        found.extend(elements.map(|line| format!("nft {family} {table}: {}", line.trim())));
    }
    found
}

fn nft_table(family: &str, table: &str) -> String {
    let output = Command::new("nft").args(["list", "table", family, table]).output().expect("nft");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes away whatever an earlier, failed run of this slot or folder left, without a word.
pub fn clean(slot: &Slot, dir: &Path) {
    for _ in 0..50 {
        let list = processes(slot, dir);
        if list.is_empty() {
            break;
        }
        for (pid, _) in list {
            agent::signal(pid, "KILL");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for path in mounts(dir) {
        let _ = Command::new("umount").args(["-l", &path]).stderr(std::process::Stdio::null()).status();
    }
    let data = dir.join("data");
    if fs::read_to_string("/proc/self/mountinfo").is_ok_and(|text| text.contains(&format!(" {} ", data.display()))) {
        let _ = Command::new("umount").arg("-l").arg(&data).status();
    }
    for parent in cgroup_parents(slot) {
        let mut list = Vec::new();
        walk(&parent, &mut list);
        for path in list {
            let _ = fs::remove_dir(path);
        }
    }
    let quiet = |command: &mut Command| {
        drop(command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status())
    };
    quiet(Command::new("ip").args(["link", "delete", &slot.bridge()]));
    for letter in ["u", "v"] {
        quiet(Command::new("ip").args(["link", "delete", &format!("{}{letter}", slot.bridge())]));
    }
    // The interface of its detour goes with its rules: they name it.
    let rules = nft_table("ip", &slot.table());
    if let Some(device) = rules.split("device \"").nth(1).and_then(|rest| rest.split('"').next()) {
        quiet(Command::new("ip").args(["link", "delete", device]));
    }
    for family in ["ip", "ip6", "bridge"] {
        quiet(Command::new("nft").args(["delete", "table", family, &slot.table()]));
    }
    if dir.exists() {
        // Layers may hold folders without permissions and immutable names: rm as root copes.
        let _ = Command::new("rm").arg("-rf").arg(dir).status();
    }
}

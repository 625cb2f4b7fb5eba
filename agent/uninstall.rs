//! `berthd uninstall`: every container ends, and what berth made on the host goes.

use crate::config::Config;
use crate::run;
use anyhow::{Context, bail};
use berth_network::Networks;
use berth_node::{Node, Requester};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Removes containers, their cgroups and networks, the bridge and the firewall's table; with `purge` images, logs and
/// the store as well.
///
/// # Errors
/// When an agent runs, or something could not be removed: then all the rest was still tried.
pub async fn uninstall(config: Config, yes: bool, purge: bool) -> anyhow::Result<()> {
    if !yes {
        bail!("this stops and removes every container on this host\nhint: say --yes to do it");
    }
    let lock = run::lock(&config.data_root).context("stop the agent first: systemctl stop berthd")?;
    let mut failed = Vec::new();
    let unit = join_agents_group(&config.run_root).unwrap_or_else(|e| {
        println!("the cgroup that the agent ran in cannot be joined: {e}");
        None
    });
    let node = Node::open(config.node()).await?;
    let who = Requester { caller: "berthd uninstall".into(), request_id: String::new(), first: true };
    for view in node.containers() {
        let id = view.record.id.to_string();
        match node.remove(&who, &id, true, false).await {
            Ok(_) => println!("container {} ({}) removed", view.record.name, view.record.id.short()),
            Err(e) => failed.push(format!("container {id}: {e}")),
        }
    }
    for view in node.networks().into_iter().filter(|v| !v.record.is_predefined()) {
        match node.remove_network(&who, view.record.id.as_str()).await {
            Ok(_) => println!("network {} removed", view.record.name),
            Err(e) => failed.push(format!("network {}: {e}", view.record.name)),
        }
    }
    let network = config.node().network;
    node.close().await;
    drop(node);
    let removed = tokio::task::spawn_blocking(move || Networks::open(network)?.remove_all()).await?;
    if let Err(e) = removed {
        failed.push(format!("network: {e}"));
    }
    if !failed.is_empty() {
        bail!("not everything could be removed:\n{}", failed.join("\n"));
    }
    for parent in berth_runtime::known_parents(&config.run_root) {
        remove_cgroup(&parent)?;
    }
    remove_cgroup(Path::new(config.containers.own_parent()))?;
    if let Some(unit) = unit {
        leave(&unit, config.containers.own_parent()).context("leaving the agent's cgroup")?;
    }
    remove(&config.run_root)?;
    if purge {
        remove(&config.data_root)?;
    }
    drop(lock);
    println!(
        "{}",
        if purge { "nothing of berth is left" } else { "images, volumes and the store are left; --purge removes them" }
    );
    Ok(())
}

/// File below run_root with the agent's own cgroup on cgroup v2.
const GROUP: &str = "cgroup";

/// Writes down which cgroup (v2) the agent is in: containers' groups are found from there, and a unit's is not the one of a shell.
///
/// # Errors
/// Of writing to run_root.
pub fn remember_group(run_root: &Path) -> std::io::Result<()> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    match text.lines().find_map(|line| line.strip_prefix("0::")) {
        Some(group) => std::fs::write(run_root.join(GROUP), group),
        None => Ok(()),
    }
}

/// Goes where the last agent was, when a service manager had given it a leaf: groups of containers are beside that. The leaf may be gone
/// with the agent, while the groups are there.
fn join_agents_group(run_root: &Path) -> std::io::Result<Option<PathBuf>> {
    let Ok(group) = std::fs::read_to_string(run_root.join(GROUP)) else { return Ok(None) };
    let group = group.trim().trim_start_matches('/');
    let Some(unit) = group.strip_suffix("/agent").filter(|u| u.split('/').all(|part| part != "..")) else {
        return Ok(None);
    };
    let points = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let Some(unit) = points.iter().map(|p| p.join(unit)).find(|u| u.join("cgroup.procs").is_file()) else {
        return Ok(None);
    };
    let leaf = unit.join("agent");
    std::fs::create_dir_all(&leaf)?;
    std::fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
    Ok(Some(unit))
}

/// Goes to the top of the tree again, so that nothing of ours keeps the unit's group. Who manages the unit removes the rest of it.
fn leave(unit: &Path, parent: &str) -> std::io::Result<()> {
    let top = unit.ancestors().take_while(|a| a.join("cgroup.procs").is_file()).last().unwrap_or(unit);
    std::fs::write(top.join("cgroup.procs"), std::process::id().to_string())?;
    for folder in [unit.join("agent"), unit.join(parent.trim_matches('/')), unit.to_owned()] {
        let _ = std::fs::remove_dir(folder);
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    let removing = || format!("removing {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(removing),
    };
    for entry in entries {
        berth_rootfs::remove_tree(&entry.with_context(removing)?.path()).with_context(removing)?;
    }
    match std::fs::remove_dir(folder) {
        Ok(()) => println!("{} removed", folder.display()),
        // A disk of its own.
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
            println!("{} is empty; it stays, as something is mounted on it", folder.display());
        }
        Err(e) => return Err(e).with_context(removing),
    }
    Ok(())
}

/// A cgroup whose last process has just been killed is busy until the kernel has let go of that process.
const CGROUP_PATIENCE: Duration = Duration::from_secs(5);

/// The parent of the containers' cgroups, without processes by now, in every hierarchy.
fn remove_cgroup(parent: &Path) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_path_buf()];
    roots.extend(std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
    for root in roots {
        let group = root.join(parent);
        let begun = Instant::now();
        let removed = loop {
            // Those of containers that were removed a moment ago, and that nobody waited for. rmdir(2) takes only empty ones.
            for child in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                _ = std::fs::remove_dir(child.path());
            }
            match std::fs::remove_dir(&group) {
                Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && begun.elapsed() < CGROUP_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                removed => break removed,
            }
        };
        match removed {
            Ok(()) => println!("{} removed", group.display()),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(e).with_context(|| format!("removing {}", group.display())),
        }
    }
    Ok(())
}

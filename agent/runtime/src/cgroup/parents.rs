//! Where containers' groups are: below the configured parent, or still below the one of an earlier agent of this boot.
//!
//! The parent changes with `containers.cgroup_parent`, and on cgroup v2 with the group that a service manager gives the agent. What runs stays where it
//! is, and has to be found there: an exec that found no group would run without limits, and a kill would find nobody. A file of `run_root`, which is as
//! short-lived as cgroups are, has every parent that may hold some.

use berth_model::ContainerId;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Below run_root: a parent in each line, from the root of the hierarchies.
const FILE: &str = "cgroup-parents";

pub(super) struct Parents {
    /// Where hierarchies are mounted.
    roots: Vec<PathBuf>,
    /// Of new containers.
    current: PathBuf,
    /// Those of earlier agents that hold groups. Mostly none.
    earlier: Vec<PathBuf>,
}

impl Parents {
    /// `roots`: where hierarchies are mounted. `current`: relative to them.
    pub fn open(run_root: &Path, roots: Vec<PathBuf>, current: &Path) -> Self {
        let mut parents = Parents { roots, current: current.to_owned(), earlier: Vec::new() };
        let file = run_root.join(FILE);
        let known = read(run_root);
        parents.earlier = known.iter().filter(|p| *p != current && parents.holds(p)).cloned().collect();
        let all: Vec<&PathBuf> = parents.earlier.iter().chain([&parents.current]).collect();
        if all != known.iter().collect::<Vec<_>>()
            && let Err(e) = write(&file, &all)
        {
            tracing::warn!(file = %file.display(), error = %e, "an agent with another cgroup_parent will not find this one's containers");
        }
        for left in known.iter().filter(|p| !all.contains(p)) {
            // Without groups in it. Who else has some there keeps it.
            parents.roots.iter().for_each(|root| drop(fs::remove_dir(root.join(left))));
        }
        parents
    }

    fn holds(&self, parent: &Path) -> bool {
        self.roots.iter().any(|root| {
            let folders = super::subfolders(&root.join(parent));
            folders
                .iter()
                .any(|f| f.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<ContainerId>().is_ok()))
        })
    }

    /// Of new containers.
    pub fn current(&self) -> &Path {
        &self.current
    }

    /// The one that has the container's group, from the root of the hierarchies; the current one when there is none yet.
    pub fn of(&self, id: &ContainerId) -> &Path {
        let has = |parent: &&PathBuf| self.roots.iter().any(|root| root.join(parent).join(id.as_str()).is_dir());
        self.earlier.iter().find(has).unwrap_or(&self.current)
    }

    /// All, in each hierarchy.
    pub fn folders(&self) -> Vec<PathBuf> {
        let parents = || self.earlier.iter().chain([&self.current]);
        let mut folders: Vec<PathBuf> = self.roots.iter().flat_map(|root| parents().map(|p| root.join(p))).collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

/// Parents of this boot's containers, from the root of the hierarchies.
pub fn read(run_root: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(run_root.join(FILE)).unwrap_or_default();
    let inside = |p: &&str| !p.is_empty() && p.split('/').all(|part| !matches!(part, "" | "." | ".."));
    text.lines().filter(inside).map(PathBuf::from).collect()
}

fn write(file: &Path, parents: &[&PathBuf]) -> io::Result<()> {
    let draft = file.with_extension("new");
    let text: String = parents.iter().map(|p| format!("{}\n", p.display())).collect();
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_found_below_the_parent_of_its_agent() {
        let base = std::env::temp_dir().join(format!("berth-parents-{}", std::process::id()));
        let (run, roots) = (base.join("run"), vec![base.join("memory"), base.join("pids")]);
        fs::create_dir_all(&run).unwrap();
        let id = |c: &str| c.repeat(32).parse::<ContainerId>().unwrap();
        let (old, new) = (id("a1"), id("b2"));
        let first = Parents::open(&run, roots.clone(), Path::new("first"));
        assert_eq!((first.of(&old), first.folders().len()), (Path::new("first"), 2));
        // In one hierarchy only, as runtimes make them.
        fs::create_dir_all(roots[1].join("first").join(old.as_str())).unwrap();

        let second = Parents::open(&run, roots.clone(), Path::new("x/second"));
        assert_eq!((second.of(&old), second.of(&new)), (Path::new("first"), Path::new("x/second")));
        assert_eq!(second.folders().len(), 4);
        // A third agent of this boot, which goes back, knows them all.
        fs::create_dir_all(roots[0].join("x/second").join(new.as_str())).unwrap();
        let back = Parents::open(&run, roots.clone(), Path::new("first"));
        assert_eq!((back.of(&old), back.of(&new)), (Path::new("first"), Path::new("x/second")));

        // What holds nothing any more is forgotten, and its folder goes.
        fs::remove_dir(roots[0].join("x/second").join(new.as_str())).unwrap();
        let third = Parents::open(&run, roots.clone(), Path::new("first"));
        assert_eq!((third.folders().len(), read(&run)), (2, vec![PathBuf::from("first")]));
        assert!(!roots[0].join("x/second").exists());
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_file_leads_nowhere_else() {
        let run = std::env::temp_dir().join(format!("berth-parents-file-{}", std::process::id()));
        fs::create_dir_all(&run).unwrap();
        fs::write(run.join(FILE), "a\n/etc\n../b\na/../b\n\nb/c\n").unwrap();
        assert_eq!(read(&run), ["a", "b/c"].map(PathBuf::from));
        fs::remove_dir_all(&run).unwrap();
    }
}

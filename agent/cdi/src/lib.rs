//! The Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md): a vendor leaves a file in /etc/cdi or /run/cdi
//! that says, for each device, which nodes, files and variables a container needs for it, and a container asks for `VENDOR/CLASS=DEVICE`.
//!
//! What such a file can ask for and berth does not do (intelRdt, netDevices) is refused by name; so are hooks where nobody would run them.
#![forbid(unsafe_code)]

mod name;
mod spec;

pub use name::{Name, check_kind};
pub use spec::{DeviceNode, Edits, Hook, Mount, Spec, parse};

use berth_sys::fs::{self as sysfs, Kind, Open, Stat};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File as Opened;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CdiError {
    #[error("no CDI device {name}: {}", hint(.known, .broken))]
    NotFound { name: Name, known: Vec<String>, broken: Vec<String> },
    #[error("CDI device {name} is in {} and in {}: one of them has to go", .first.display(), .second.display())]
    Twice { name: Name, first: PathBuf, second: PathBuf },
    #[error("CDI device {name} needs {what}, which is not supported here: make {} without", .file.display())]
    Unsupported { name: Name, what: String, file: PathBuf },
    #[error(
        "CDI device {name} needs the hook {hook} ({}): hooks are run by the other runtimes of the agent's configuration only, see --runtime",
        .file.display()
    )]
    Hook { name: Name, hook: String, file: PathBuf },
}

fn hint(known: &[String], broken: &[String]) -> String {
    let known = match known {
        [] => "the host has none (see cdi_dirs in the agent's configuration)".to_owned(),
        some => format!("the host has {}", some.join(", ")),
    };
    if broken.is_empty() { known } else { format!("{known}; not read: {}", broken.join("; ")) }
}

struct File {
    path: PathBuf,
    /// The place of its folder in the list.
    rank: usize,
    spec: Spec,
}

/// What the host's files say now.
pub struct Registry {
    files: Vec<File>,
    /// Files that could not be used, and why.
    pub broken: Vec<String>,
}

impl Registry {
    /// Reads all files of these folders; one that comes later in the list goes before the others. What is missing or broken does not keep the
    /// rest from being used. Blocking.
    pub fn read(folders: &[PathBuf]) -> Registry {
        Self::read_of(folders, ROOT)
    }

    /// `owner`: whose folders and files are believed.
    fn read_of(folders: &[PathBuf], owner: u32) -> Registry {
        let mut all = Registry { files: Vec::new(), broken: Vec::new() };
        for (rank, folder) in folders.iter().enumerate() {
            let (fd, mut names) = match list(folder, owner) {
                Ok(Some(listed)) => listed,
                Ok(None) => continue,
                Err(why) => {
                    all.unused(folder, &why);
                    continue;
                }
            };
            names.sort();
            for name in names {
                let path = folder.join(&name);
                let yaml = match path.extension().and_then(|e| e.to_str()) {
                    Some("json") => false,
                    Some("yaml" | "yml") => true,
                    _ => continue,
                };
                match load(fd.as_fd(), &name, owner).and_then(|text| parse(&text, yaml)) {
                    Ok(spec) => all.files.push(File { path, rank, spec }),
                    Err(why) => all.unused(&path, &why),
                }
            }
        }
        all
    }

    /// One file with this text.
    #[cfg(fuzzing)]
    pub fn of(spec: Spec) -> Registry {
        Registry { files: vec![File { path: PathBuf::from("/etc/cdi/a.yaml"), rank: 0, spec }], broken: Vec::new() }
    }

    fn unused(&mut self, path: &Path, why: &str) {
        tracing::warn!(file = %path.display(), "this is not used for CDI devices: {why}");
        self.broken.push(format!("{}: {why}", path.display()));
    }

    /// Every device, by its whole name.
    pub fn names(&self) -> Vec<String> {
        let all = self.files.iter().flat_map(|f| f.spec.devices.iter().map(|d| format!("{}={}", f.spec.kind, d.name)));
        let mut names: Vec<String> = all.collect();
        names.sort();
        names.dedup();
        names
    }

    fn find(&self, name: &Name) -> Result<(usize, &Edits), CdiError> {
        let mut found: Option<(usize, &Edits)> = None;
        for (n, file) in self.files.iter().enumerate().filter(|(_, f)| f.spec.kind == name.kind) {
            let Some(device) = file.spec.devices.iter().find(|d| d.name == name.device) else { continue };
            match found {
                Some((other, _)) if self.files[other].rank == file.rank => {
                    let (first, second) = (self.files[other].path.clone(), file.path.clone());
                    return Err(CdiError::Twice { name: name.clone(), first, second });
                }
                _ => found = Some((n, &device.container_edits)),
            }
        }
        found.ok_or_else(|| {
            let (known, broken) = (self.names().into_iter().take(20).collect(), self.broken.clone());
            CdiError::NotFound { name: name.clone(), known, broken }
        })
    }

    /// What a container gets that asks for these devices: what their files say for all of a kind, once, and what they say for each.
    /// `hooks`: somebody runs them.
    pub fn edits(&self, names: &[Name], hooks: bool) -> Result<Edits, CdiError> {
        let mut all = Edits::default();
        let mut files = BTreeMap::new();
        for name in names {
            let (file, edits) = self.find(name)?;
            if files.insert(file, ()).is_none() {
                self.add(&mut all, file, name, &self.files[file].spec.container_edits, hooks)?;
            }
            self.add(&mut all, file, name, edits, hooks)?;
        }
        Ok(all)
    }

    fn add(&self, all: &mut Edits, file: usize, name: &Name, edits: &Edits, hooks: bool) -> Result<(), CdiError> {
        if let Some(hook) = edits.hooks.first().filter(|_| !hooks) {
            let hook = format!("{} at {}", hook.path, hook.hook_name);
            return Err(CdiError::Hook { name: name.clone(), hook, file: self.files[file].path.clone() });
        }
        let intel_rdt = edits.intel_rdt.is_some().then(|| "intelRdt".to_owned());
        let missing =
            intel_rdt.or_else(|| (!edits.net_devices.is_empty()).then(|| "netDevices".to_owned())).or_else(|| {
                edits.mounts.iter().find_map(|m| m.unsupported().map(|w| format!("{w} for {}", m.container_path)))
            });
        if let Some(what) = missing {
            return Err(CdiError::Unsupported { name: name.clone(), what, file: self.files[file].path.clone() });
        }
        all.env.extend(edits.env.iter().cloned());
        all.mounts.extend(edits.mounts.iter().cloned());
        all.additional_gids.extend(&edits.additional_gids);
        all.hooks.extend(edits.hooks.iter().cloned());
        for node in &edits.device_nodes {
            if !all.device_nodes.contains(node) {
                all.device_nodes.push(node.clone());
            }
        }
        Ok(())
    }
}

impl Mount {
    fn unsupported(&self) -> Option<String> {
        if let Some(kind) = self.kind.as_deref().filter(|k| !matches!(*k, "" | "bind" | "none")) {
            return Some(format!("the mount type {kind}"));
        }
        const KNOWN: [&str; 13] = [
            "ro", "rw", "bind", "rbind", "nosuid", "nodev", "private", "rprivate", "slave", "rslave", "shared",
            "rshared", "",
        ];
        if let Some(option) = self.options.iter().find(|o| !KNOWN.contains(&o.as_str())) {
            return Some(format!("the mount option {option}"));
        }
        (self.has("nosuid") != self.has("nodev")).then(|| "nosuid or nodev without the other one".to_owned())
    }

    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
    }
}

/// Whoever can write such a file, or put one there, decides over devices of the host: only root may.
const ROOT: u32 = 0;

fn believed(stat: &Stat, owner: u32) -> Result<(), String> {
    if stat.uid != owner {
        return Err(format!("belongs to user {}, and may belong to user {owner} only: chown {owner}", stat.uid));
    }
    if stat.mode & 0o022 != 0 {
        return Err("may be written by others than its owner: chmod go-w".into());
    }
    Ok(())
}

/// The folder, and the names in it. `None`: there is no such folder.
fn list(folder: &Path, owner: u32) -> Result<Option<(OwnedFd, Vec<OsString>)>, String> {
    let text = |e: io::Error| e.to_string();
    let fd = match sysfs::open(folder, Open::RDONLY | Open::DIRECTORY | Open::NONBLOCK, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(text)?,
    };
    believed(&sysfs::fstat(fd.as_fd()).map_err(text)?, owner)?;
    let mut names = Vec::new();
    loop {
        let more = sysfs::read_dir(fd.as_fd(), MAX_NAMES).map_err(text)?;
        if more.is_empty() {
            return Ok(Some((fd, names)));
        }
        names.extend(more.into_iter().map(|entry| entry.name));
        if names.len() > MAX_NAMES {
            return Err(format!("has more than {MAX_NAMES} files"));
        }
    }
}

/// Vendors have one or two files.
const MAX_NAMES: usize = 4096;

/// Opened as a path first: a pipe would keep who opens it until somebody writes, and a device may do something at being opened.
fn load(folder: BorrowedFd<'_>, name: &OsStr, owner: u32) -> Result<String, String> {
    let text = |e: io::Error| e.to_string();
    let at = sysfs::openat(folder, name, Open::PATH, 0).map_err(text)?;
    let stat = sysfs::fstat(at.as_fd()).map_err(text)?;
    if stat.kind != Kind::Regular {
        return Err("is no file".into());
    }
    believed(&stat, owner)?;
    let own = format!("/proc/self/fd/{}", at.as_raw_fd());
    let file = sysfs::open(own, Open::RDONLY | Open::NONBLOCK, 0).map_err(text)?;
    let mut text = String::new();
    let read = Opened::from(file).take(spec::MAX_BYTES as u64 + 1).read_to_string(&mut text);
    read.map_err(|e| e.to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests;

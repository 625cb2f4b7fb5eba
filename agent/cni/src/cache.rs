//! What is remembered of an attachment: `STATE/CONTAINER/INTERFACE.json`, there before its first plugin is run and gone behind its last.

use crate::conflist::Conflist;
use crate::{Act, Cni, CniError};
use berth_model::ContainerId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How far the plugins have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Some may have been run.
    Adding,
    Added,
    Deleting,
}

/// All that a DEL needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub container: ContainerId,
    /// eth0, eth1, …
    pub interface: String,
    /// Tells this attachment from later ones of the same container and interface.
    pub run: String,
    pub network: String,
    /// The list as it was at ADD: DEL goes by it, whatever has become of the network since.
    pub conflist: String,
    pub netns: PathBuf,
    /// By capability.
    #[serde(default)]
    pub capabilities: Map<String, Value>,
    pub phase: Phase,
    /// Of the last plugin that has answered.
    #[serde(default)]
    pub result: Option<Value>,
}

impl Entry {
    pub fn conflist(&self) -> Result<Conflist, CniError> {
        Conflist::parse(&self.conflist)
            .map_err(|e| CniError::Conflist { network: self.network.clone(), why: e.to_string() })
    }
}

/// An attachment that the disk knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    pub container: ContainerId,
    pub interface: String,
    pub network: String,
    /// All of its plugins had answered.
    pub whole: bool,
    pub(crate) run: String,
}

impl Cni {
    fn folder(&self, id: &ContainerId) -> PathBuf {
        self.config().state_dir.join(id.as_str())
    }

    pub(crate) fn entry_path(&self, id: &ContainerId, interface: &str) -> PathBuf {
        self.folder(id).join(format!("{interface}.json"))
    }

    /// `None`: no plugin has anything of it.
    pub(crate) fn entry(&self, id: &ContainerId, interface: &str) -> Result<Option<Entry>, CniError> {
        read(&self.entry_path(id, interface))
    }

    /// Takes the place of what was there; `durable`: on the disk when this returns.
    pub(crate) fn write(&self, entry: &Entry, durable: bool) -> Result<(), CniError> {
        let folder = self.folder(&entry.container);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .act(|| format!("making {}", folder.display()))?;
        let path = self.entry_path(&entry.container, &entry.interface);
        let act = || format!("writing {}", path.display());
        let text = serde_json::to_vec(entry).map_err(std::io::Error::from).act(act)?;
        let draft = path.with_extension("new");
        let mut file = File::create(&draft).act(act)?;
        file.write_all(&text).act(act)?;
        if durable {
            file.sync_all().act(act)?;
        }
        fs::rename(&draft, &path).act(act)?;
        if durable {
            for folder in [&folder, &self.config().state_dir] {
                File::open(folder).and_then(|f| f.sync_all()).act(act)?;
            }
        }
        Ok(())
    }

    /// Gone already is fine.
    pub(crate) fn forget(&self, id: &ContainerId, interface: &str) -> Result<(), CniError> {
        let path = self.entry_path(id, interface);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).act(|| format!("removing {}", path.display())),
            _ => {}
        }
        // Not empty: another interface is there.
        let _ = fs::remove_dir(self.folder(id));
        Ok(())
    }

    /// Whether plugins have something of a container. What cannot be read may be something.
    pub(crate) fn has_any(&self, id: &ContainerId) -> bool {
        match fs::read_dir(self.folder(id)) {
            Ok(mut all) => all.any(|e| e.map_or(true, |e| is_entry(&e.path()))),
            Err(e) => e.kind() != ErrorKind::NotFound,
        }
    }

    /// Every attachment that the disk knows, before any plugin is run. A file that is damaged is told and left out.
    pub fn known(&self) -> Result<Vec<Leftover>, CniError> {
        let mut all = Vec::new();
        for entry in self.read_all(true)? {
            all.push(Leftover {
                whole: entry.phase == Phase::Added,
                container: entry.container,
                interface: entry.interface,
                network: entry.network,
                run: entry.run,
            });
        }
        Ok(all)
    }

    /// Every attachment, or an error: an attachment that is left out here is given back by plugins.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, CniError> {
        self.read_all(false)
    }

    /// `tidy`: no plugin is at work, and what was being written will never be whole. What cannot be read is left out then, and else an error.
    fn read_all(&self, tidy: bool) -> Result<Vec<Entry>, CniError> {
        let root = &self.config().state_dir;
        let act = || format!("listing {}", root.display());
        let folders = match fs::read_dir(root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            folders => folders.act(act)?,
        };
        let mut all = Vec::new();
        for folder in folders {
            let folder = folder.act(act)?.path();
            let files = match fs::read_dir(&folder) {
                Err(e) if !tidy && e.kind() != ErrorKind::NotFound => return Err(e).act(act),
                files => files.into_iter().flatten(),
            };
            for file in files {
                let path = match file {
                    Ok(file) => file.path(),
                    Err(_) if tidy => continue,
                    Err(error) => return Err(error).act(act),
                };
                if !is_entry(&path) {
                    // A draft that was cut: what it was to replace is still there, or nothing was run.
                    let _ = tidy.then(|| fs::remove_file(&path));
                    continue;
                }
                match read(&path) {
                    Ok(entry) => all.extend(entry),
                    Err(error) if tidy => {
                        tracing::error!(%error, "an attachment to a CNI network cannot be taken back");
                    }
                    Err(error) => return Err(error),
                }
            }
            let _ = tidy.then(|| fs::remove_dir(&folder));
        }
        Ok(all)
    }
}

fn is_entry(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

fn read(path: &Path) -> Result<Option<Entry>, CniError> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.act(|| format!("reading {}", path.display()))?,
    };
    let entry = serde_json::from_slice(&text);
    entry.map(Some).map_err(|e| CniError::Damaged { path: path.to_owned(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CniConfig;
    use std::time::Duration;

    #[test]
    fn what_cannot_be_read_is_not_taken_for_gone() {
        let dir = std::env::temp_dir().join(format!("berth-cni-cache-{}", std::process::id()));
        let config = CniConfig {
            bin_dirs: Vec::new(),
            state_dir: dir.join("cni"),
            netns_dir: dir.join("netns"),
            timeout: Duration::from_secs(1),
            point: |_| Ok(()),
        };
        let cni = Cni::new(config);
        let (good, damaged) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
        let entry = |container: &ContainerId| Entry {
            container: container.clone(),
            interface: "eth0".into(),
            run: "1".into(),
            network: "lab".into(),
            conflist: String::new(),
            netns: PathBuf::from("/none"),
            capabilities: Map::new(),
            phase: Phase::Added,
            result: None,
        };
        assert!(!cni.has_any(&good));
        cni.write(&entry(&good), false).unwrap();
        cni.write(&entry(&damaged), false).unwrap();
        assert_eq!(cni.entries().unwrap().len(), 2);
        fs::write(cni.entry_path(&damaged, "eth0"), "{").unwrap();
        // Whoever lists what is to stay hears of it, whoever takes back goes on with the others.
        assert!(matches!(cni.entries(), Err(CniError::Damaged { .. })));
        assert_eq!(cni.known().unwrap().len(), 1);
        assert!(cni.has_any(&damaged));
        // A file in the folder's place: nobody can say what is in it.
        fs::remove_dir_all(cni.folder(&good)).unwrap();
        fs::write(cni.folder(&good), "").unwrap();
        assert!(cni.has_any(&good));
        fs::remove_dir_all(&dir).unwrap();
    }
}

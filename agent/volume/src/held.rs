//! Folders of the host whose contents others than its admins may change.
//!
//! What lies in one may be a folder now and a link to anywhere a moment later. A path that goes through it is therefore opened once, and what was
//! opened has to be in the folder, too; nothing is concluded from how the path looked before or looks behind that.

use berth_sys::fs::{self as sysfs, Open, Resolve};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Links of one path, as the kernel's own bound (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The folders, none of which is in another or leads through one: who may change one cannot say where the other is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shared(Arc<[Folder]>);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder {
    /// As the configuration has it.
    given: String,
    /// Where that led when the agent started.
    real: PathBuf,
}

impl Shared {
    /// Finds out where the folders are; asks the file system. With what is left out, for people: a folder in another one says nothing new, and one
    /// that leads through another could be led anywhere by those who may change that.
    pub fn settle(given: &[String]) -> (Shared, Vec<String>) {
        let ways: Vec<(&String, Vec<PathBuf>)> = outer(given).map(|folder| (folder, way(folder))).collect();
        let mut wrong = Vec::new();
        let mut folders: Vec<Folder> = Vec::new();
        for (folder, way) in &ways {
            let through = |(other, its): &&(&String, Vec<PathBuf>)| {
                let ends = [Path::new(other.as_str()), its.last().map_or(Path::new("/"), PathBuf::as_path)];
                // The same folder by another name is no danger: what lies in it has no part in where the names lead.
                let end_of_both = |part: &PathBuf| way.last() == Some(part) && its.last() == Some(part);
                let inside = |part: &PathBuf| ends.iter().any(|end| part.starts_with(end)) && !end_of_both(part);
                Path::new(other) != Path::new(folder) && way.iter().any(inside)
            };
            if let Some((other, _)) = ways.iter().find(through) {
                wrong.push(format!("{folder} leads through {other}, where others than admins may put links"));
            } else if folders.iter().all(|there| Path::new(&there.given) != Path::new(folder)) {
                let real = way.last().cloned().unwrap_or_else(|| "/".into());
                folders.push(Folder { given: (*folder).clone(), real });
            }
        }
        (Shared(folders.into()), wrong)
    }

    /// The folders as they are given, where nobody can be asked where they are.
    pub fn by_text(given: &[String]) -> Shared {
        Shared(outer(given).map(|folder| Folder { given: folder.clone(), real: folder.into() }).collect())
    }

    /// The folder that `path` is in or leads through: the first on its way, since what comes behind may be led anywhere. Asks the file system for the
    /// links on the way, and no further.
    pub fn of(&self, path: &Path) -> Option<&Folder> {
        let mut found = None;
        if !self.0.is_empty() {
            walk(path, |part| {
                found = self.0.iter().find(|folder| part == folder.real || part == Path::new(&folder.given));
                found.is_some()
            });
        }
        let root = || self.0.iter().find(|folder| folder.real == Path::new("/"));
        found.or_else(root)
    }

    /// The folder that `path` is in by its text alone.
    pub fn by_name(&self, path: &Path) -> Option<&Folder> {
        self.0.iter().find(|folder| path.starts_with(&folder.given) || path.starts_with(&folder.real))
    }

    /// The folder that the configuration names so; one that it names no more is where it leads now.
    pub fn named(&self, given: &str) -> Folder {
        let real = || walk(Path::new(given), |_| false);
        let known = self.0.iter().find(|folder| folder.given == given).cloned();
        known.unwrap_or_else(|| Folder { given: given.to_owned(), real: real() })
    }
}

/// Those that are not in another.
fn outer(given: &[String]) -> impl Iterator<Item = &String> {
    let inside = |folder: &Path, other: &Path| folder != other && folder.starts_with(other);
    given.iter().filter(move |folder| !given.iter().any(|other| inside(Path::new(folder), Path::new(other))))
}

/// Every place on the way of an absolute path, the last being where it leads.
fn way(path: &str) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    let end = walk(Path::new(path), |part| {
        parts.push(part.to_owned());
        false
    });
    // A link to the root, or to what is above, ends where the way has been.
    parts.push(end);
    parts
}

/// Follows an absolute path as the kernel does, until it ends or at a place where `stop` says so. What is not there is what it says.
fn walk(path: &Path, mut stop: impl FnMut(&Path) -> bool) -> PathBuf {
    let names = |path: &Path| -> Vec<OsString> {
        let name = |part: Component<'_>| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        };
        path.components().rev().filter_map(name).collect()
    };
    let (mut at, mut links, mut rest) = (PathBuf::from("/"), 0, names(path));
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(name);
        if stop(&next) {
            return next;
        }
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                if target.is_absolute() {
                    at = "/".into();
                }
                rest.extend(names(&target));
            }
            _ => at = next,
        }
    }
    at
}

impl Folder {
    pub fn given(&self) -> &str {
        &self.given
    }

    /// Opens the absolute `path`, which has to be in the folder however links lead there. Links of /proc are not followed: they lead to other mount
    /// namespaces, whose paths look like the host's.
    ///
    /// # Errors
    /// `NotFound`: it leads elsewhere or nowhere, both in the same words, or who puts links there could ask so what the host has; and those of
    /// openat2(2).
    pub fn open(&self, path: &Path, flags: Open) -> io::Result<OwnedFd> {
        // Needed for a relative path alone, which has no business here.
        let root = sysfs::open("/", Open::PATH | Open::DIRECTORY, 0)?;
        let fd = match sysfs::openat2(root.as_fd(), path, flags, 0, Resolve::NO_MAGICLINKS) {
            Err(e) if leads_nowhere(&e) => return Err(self.gone()),
            opened => opened?,
        };
        let found = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if found.starts_with(&self.real) { Ok(fd) } else { Err(self.gone()) }
    }

    /// `open`, and makes the folders of `path` that are missing.
    ///
    /// # Errors
    /// As those of `open`, and of mkdirat(2).
    pub fn open_or_make(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            match self.open(at, Open::PATH) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let (Some(name), Some(above)) = (at.file_name(), at.parent()) else { return Err(e) };
                    missing.push(name);
                    at = above;
                }
                found => break found?,
            }
        };
        for name in missing.into_iter().rev() {
            match sysfs::mkdirat(dir.as_fd(), name, 0o755) {
                // A link that leads nowhere, or another start that made it meanwhile; the next line tells.
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            dir = match sysfs::openat2(dir.as_fd(), name, Open::PATH, 0, Resolve::BENEATH | Resolve::NO_SYMLINKS) {
                Err(e) if leads_nowhere(&e) => return Err(self.gone()),
                made => made?,
            };
        }
        Ok(dir)
    }

    fn gone(&self) -> io::Error {
        let given = &self.given;
        let why = format!("it is not there, or a link leads out of {given}, where others than admins may put links");
        io::Error::new(io::ErrorKind::NotFound, why)
    }
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || sysfs::is_link_loop(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Base(PathBuf);

    impl Base {
        fn new(name: &str, folders: &[&str], links: &[(&str, &str)]) -> Base {
            let base = Base(std::env::temp_dir().join(format!("berth-held-{name}-{}", std::process::id())));
            for folder in folders {
                fs::create_dir_all(base.0.join(folder)).unwrap();
            }
            for (link, to) in links {
                symlink(base.0.join(to), base.0.join(link)).unwrap();
            }
            base
        }

        fn text(&self, path: &str) -> String {
            self.0.join(path).to_str().unwrap().to_owned()
        }

        fn settled(&self, folders: &[&str]) -> (Shared, usize) {
            let given: Vec<String> = folders.iter().map(|folder| self.text(folder)).collect();
            let (shared, wrong) = Shared::settle(&given);
            (shared, wrong.len())
        }

        /// The folder that a path is in, by its given name.
        fn of(&self, shared: &Shared, path: &str) -> Option<String> {
            shared.of(&self.0.join(path)).map(|f| f.given.strip_prefix(&self.text("")).unwrap().to_owned())
        }
    }

    impl Drop for Base {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_others_may_change_leads_nowhere_else() {
        let links = [
            ("shared/out", "secret"),
            ("shared/in", "shared/app"),
            ("alias", "shared"),
            ("shared/nowhere", "not-there"),
            ("deep", "shared/app/deep"),
        ];
        let base = Base::new("opened", &["shared/app/deep", "secret", "other"], &links);
        fs::write(base.0.join("shared/app/file"), "").unwrap();
        // To the folder itself, but by way of a process.
        let root = format!("/proc/{}/root{}", std::process::id(), base.text("shared/app"));
        symlink(root, base.0.join("shared/by-proc")).unwrap();
        let (shared, wrong) = base.settled(&["shared"]);
        assert_eq!(wrong, 0);
        for path in [
            "shared",
            "shared/app",
            "shared/app/not-there",
            "shared/out",
            "shared/out/x",
            "alias/app",
            "alias/out",
            "deep",
        ] {
            assert_eq!(base.of(&shared, path).as_deref(), Some("shared"), "{path}");
        }
        for path in ["secret", "other", "shared-too", ""] {
            assert_eq!(base.of(&shared, path), None, "{path}");
        }
        assert!(Shared::default().of(&base.0.join("shared")).is_none());
        let folder = shared.named(&base.text("shared"));
        let opened = |path: &str| folder.open(&base.0.join(path), Open::PATH);
        for path in ["shared", "shared/app", "shared/in", "alias/app", "deep"] {
            opened(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        let words = opened("shared/not-there").unwrap_err().to_string();
        for path in ["shared/out", "alias/out", "secret", "shared/by-proc", "shared/out/x", "shared/app/file/x"] {
            let error = opened(path).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::NotFound, words.clone()), "{path}");
        }
        let made = |path: &str| folder.open_or_make(&base.0.join(path));
        for path in ["shared/new/deep", "alias/newer", "shared/in/newest", "shared/app"] {
            made(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(base.0.join(path).is_dir(), "{path}");
        }
        for path in ["shared/out/new", "shared/out", "shared/by-proc/new", "shared/nowhere/new", "secret/new", "new"] {
            assert_eq!(made(path).unwrap_err().to_string(), words, "{path}");
        }
        assert!(fs::read_dir(base.0.join("secret")).unwrap().next().is_none() && !base.0.join("new").exists());
    }

    #[test]
    fn a_link_that_goes_in_and_out_again_goes_through() {
        let links = [("data", "shared/a/b"), ("shared/a/b", "secret")];
        let base = Base::new("through", &["shared/a", "secret"], &links);
        let (shared, _) = base.settled(&["shared"]);
        assert_eq!(base.of(&shared, "data").as_deref(), Some("shared"));
        let folder = shared.of(&base.0.join("data")).unwrap();
        assert!(folder.open(&base.0.join("data"), Open::PATH).is_err());
    }

    #[test]
    fn the_outer_folder_holds_and_none_leads_through_another() {
        let links = [("shared/app", "."), ("link", "shared/x"), ("given", "elsewhere"), ("again", "given")];
        let base = Base::new("nested", &["shared/x", "elsewhere/y"], &links);
        let (shared, wrong) = base.settled(&["shared", "shared/app"]);
        assert_eq!((shared.0.len(), wrong), (1, 0), "what is inside says nothing new");
        assert_eq!(base.of(&shared, "shared/app/etc").as_deref(), Some("shared"));
        assert!(shared.by_name(&base.0.join("secret")).is_none());
        let (shared, wrong) = base.settled(&["shared", "link"]);
        assert_eq!((shared.0.len(), wrong), (1, 1));
        // Given by a link, it is known by both names.
        let (shared, wrong) = base.settled(&["given", "shared"]);
        assert_eq!((shared.0.len(), wrong), (2, 0));
        for path in ["given/y", "elsewhere/y", "again/y"] {
            assert_eq!(base.of(&shared, path).as_deref(), Some("given"), "{path}");
            shared.of(&base.0.join(path)).unwrap().open(&base.0.join(path), Open::PATH).unwrap();
        }
        // Two names of one folder are both good, unless the folder itself has a say in one of them.
        let (shared, wrong) = base.settled(&["given", "elsewhere"]);
        assert_eq!((shared.0.len(), wrong), (2, 0));
        assert!(["given/y", "elsewhere/y"].iter().all(|path| base.of(&shared, path).is_some()));
        symlink("elsewhere/back", base.0.join("detour")).unwrap();
        symlink(".", base.0.join("elsewhere/back")).unwrap();
        assert_eq!(base.settled(&["detour", "elsewhere"]).1, 1);
        // A link that is changed later moves nothing that is held.
        fs::remove_file(base.0.join("given")).unwrap();
        symlink("/", base.0.join("given")).unwrap();
        assert!(shared.named(&base.text("given")).open(&base.0.join("given/etc"), Open::PATH).is_err());
        let (_, wrong) = base.settled(&["given", "shared"]);
        assert_eq!(wrong, 1, "what is in the root's place holds all");
    }
}

//! Folders of the host whose contents others than its admins may change.
//!
//! What lies in one may be a folder now and a link to anywhere a moment later. A path that goes through it is therefore opened once, and what was
//! opened has to be in the folder, too; nothing is concluded from how the path looked before or looks behind that.

use berth_sys::fs::{self as sysfs, Open};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The one of `folders` that `path` goes through, the deepest: the folder or what it is a link to is the path itself or above it, or is where one
/// of the path's own links leads. Asks the file system.
pub fn folder_of<'a>(folders: &'a [String], path: &Path) -> Option<&'a str> {
    if folders.is_empty() {
        return None;
    }
    // Each beginning of the path by itself: what is behind the first part that is in the folder may lead anywhere.
    let begun: Vec<PathBuf> = path.ancestors().filter_map(|part| std::fs::canonicalize(part).ok()).collect();
    let goes_through = |folder: &&String| {
        let real = std::fs::canonicalize(folder).ok();
        path.starts_with(folder) || real.is_some_and(|real| begun.iter().any(|part| part.starts_with(&real)))
    };
    folders.iter().filter(goes_through).max_by_key(|folder| folder.len()).map(String::as_str)
}

/// Opens `path`, which has to be in `folder` however links lead there.
///
/// # Errors
/// `PermissionDenied`: it leads elsewhere; and those of open(2).
pub fn open(path: &Path, folder: &str, flags: Open) -> io::Result<OwnedFd> {
    let fd = sysfs::open(path, flags, 0)?;
    let real = std::fs::canonicalize(folder)?;
    let found = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    if found.starts_with(&real) {
        return Ok(fd);
    }
    let why = format!("it leads to {}, out of {folder}, where others than admins may put links", found.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_others_may_change_leads_nowhere_else() {
        let base = std::env::temp_dir().join(format!("berth-held-{}", std::process::id()));
        for dir in ["shared/app", "secret", "other"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        symlink(base.join("secret"), base.join("shared/out")).unwrap();
        symlink(base.join("shared/app"), base.join("shared/in")).unwrap();
        symlink(base.join("shared"), base.join("alias")).unwrap();
        let shared = base.join("shared").to_str().unwrap().to_owned();
        let folders = [shared.clone()];
        let through = |path: &str| folder_of(&folders, &base.join(path)).is_some();
        for path in
            ["shared", "shared/app", "shared/app/not-there", "shared/out", "shared/out/x", "alias/app", "alias/out"]
        {
            assert!(through(path), "{path}");
        }
        for path in ["secret", "other", "shared-too", ""] {
            assert!(!through(path), "{path}");
        }
        assert_eq!(folder_of(&[], &base.join("shared")), None);
        let opened = |path: &str| open(&base.join(path), &shared, Open::PATH | Open::DIRECTORY);
        for path in ["shared", "shared/app", "shared/in", "alias/app"] {
            opened(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        for path in ["shared/out", "alias/out", "secret"] {
            let error = opened(path).unwrap_err();
            assert!(error.kind() == io::ErrorKind::PermissionDenied && error.to_string().contains("secret"), "{path}");
        }
        fs::remove_dir_all(&base).unwrap();
    }
}

//! Sizes that are kept by project quotas of the file system that volumes are on.
//!
//! Each such volume has a project of its own, whose number its files' folder has and hands on; what all files of the project may take is with the file
//! system. The number is given by whoever keeps the volume's record; here is said which are free, and what is set is taken back.

use crate::store::{DATA, is_half_done};
use crate::{Act, VolumeError};
use berth_sys::fs::{self as sysfs, Open};
use berth_sys::quota::{self, Quotas};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The numbers of berth's projects: far from those that people write into /etc/projects and from those that Docker and Kubernetes count up from
/// (1 and 1048577).
pub const PROJECTS: Range<u32> = 0x4245_0000..0x4246_0000;
/// Beside a volume's files: its project.
const TOLD: &str = "project";
/// The least limit that there is, in bytes: nothing is added to what is there.
const CLOSED: u64 = 1024;
/// Without a bound empty files would take those of the whole host.
pub(crate) use berth_model::files_of as most_files;

/// Whether volumes in this folder can have quotas.
///
/// # Errors
/// `NoQuota`, with the reason; `Io`.
pub(crate) fn probe(dir: &Path) -> Result<Quotas, VolumeError> {
    let no = |why: &str| Err(VolumeError::NoQuota { dir: dir.to_owned(), why: why.to_owned() });
    let quotas = Quotas::of(dir).act(|| format!("opening {}", dir.display()))?;
    match quotas.enforced() {
        Ok(true) => {}
        Ok(false) => return no("it is not mounted with prjquota"),
        Err(e) => {
            return no(&format!(
                "it has none: it has to be an ext4 made with -O project,quota, or an xfs, mounted with prjquota ({e})"
            ));
        }
    }
    let folder = sysfs::open(dir, Open::RDONLY | Open::DIRECTORY, 0).act(|| format!("opening {}", dir.display()))?;
    match quota::project(folder.as_fd()) {
        Ok(None) => Ok(quotas),
        // What is in it could not be given another one and moved there (EXDEV).
        Ok(Some(project)) => {
            no(&format!("the folder is in the project {project} of somebody else's, which keeps what is in it"))
        }
        Err(e) => no(&format!("its folders have no project numbers: {e}")),
    }
}

/// A number that no file has and no limit, none of those that are `taken`; looked for from `first` on.
///
/// # Errors
/// `NoQuota`; `Io`.
pub(crate) fn free(dir: &Path, first: u32, taken: &dyn Fn(u32) -> bool) -> Result<u32, VolumeError> {
    let quotas = probe(dir)?;
    let all = PROJECTS.len() as u32;
    let begin = first.saturating_sub(PROJECTS.start) % all;
    for n in 0..all {
        let project = PROJECTS.start + (begin + n) % all;
        if taken(project) {
            continue;
        }
        let used = quotas.get(project).act(|| format!("reading the quota of project {project}"))?;
        // Else it is another agent's on the same file system, or that of a volume whose files are being removed, or open still.
        if (used.files, used.bytes) == (0, 0) && [0, CLOSED].contains(&used.most_bytes) {
            return Ok(project);
        }
    }
    let why = format!("all numbers of projects from {} to {} are taken", PROJECTS.start, PROJECTS.end - 1);
    Err(VolumeError::NoQuota { dir: dir.to_owned(), why })
}

/// Puts an empty folder into a project.
pub(crate) fn mark(folder: &Path, project: u32) -> Result<(), VolumeError> {
    let act = || format!("putting {} into project {project}", folder.display());
    let fd = sysfs::open(folder, Open::RDONLY | Open::DIRECTORY, 0).act(act)?;
    quota::set_project(fd.as_fd(), project).act(act)
}

/// Limits a project.
pub(crate) fn limit(dir: &Path, project: u32, bytes: u64, files: u64) -> Result<(), VolumeError> {
    let act = || format!("limiting project {project} to {bytes} bytes");
    Quotas::of(dir).and_then(|quotas| quotas.set(project, bytes, files)).act(act)
}

/// Lets nothing be added to what a project has.
pub(crate) fn close(quotas: &Quotas, project: u32) -> io::Result<()> {
    quotas.set(project, CLOSED, 1)
}

/// The files are in their project, and the limit holds: else it is set again.
pub(crate) fn check(dir: &Path, data: &Path, project: u32, bytes: u64, files: u64) -> Result<(), VolumeError> {
    let quotas = probe(dir)?;
    if project_of(data)? != Some(project) {
        let why = format!(
            "{} is not in project {project} any more, as files that were copied there from elsewhere are: chattr -R -p {project} and chattr +P put them in",
            data.display()
        );
        return Err(VolumeError::NoQuota { dir: dir.to_owned(), why });
    }
    let found = quotas.get(project).act(|| format!("reading the quota of project {project}"))?;
    if found.most_bytes == bytes.next_multiple_of(1024) && found.most_files == files {
        return Ok(());
    }
    limit(dir, project, bytes, files)
}

/// The project of a folder, where it is one of berth's.
pub(crate) fn project_of(folder: &Path) -> Result<Option<u32>, VolumeError> {
    let act = || format!("looking at {}", folder.display());
    let fd = sysfs::open(folder, Open::RDONLY | Open::DIRECTORY, 0).act(act)?;
    Ok(quota::project(fd.as_fd()).ok().flatten().filter(|project| PROJECTS.contains(project)))
}

/// Says beside a volume's files which project is its own: whoever owns them in the host's user namespace may move their folder to another volume's.
pub(crate) fn tell(dir: &Path, project: u32) -> Result<(), VolumeError> {
    let path = dir.join(TOLD);
    let act = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).act(act)?;
    writeln!(file, "{project}").and_then(|()| file.sync_all()).act(act)
}

/// The same for a volume of an agent that kept it in the record alone.
pub(crate) fn tell_again(dir: &Path, project: u32) -> Result<(), VolumeError> {
    match told(dir)? {
        Some(_) => Ok(()),
        None => tell(dir, project),
    }
}

/// The project that a volume was given, or a draft of one.
pub(crate) fn told(dir: &Path) -> Result<Option<u32>, VolumeError> {
    let path = dir.join(TOLD);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok().filter(|project| PROJECTS.contains(project))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).act(|| format!("reading {}", path.display())),
    }
}

/// Lets what is no volume yet or none any more take nothing else, before its files are removed: some may be open still. Its project, if it had one.
///
/// # Errors
/// `Io`.
pub fn close_limit(dir: &Path) -> Result<Option<u32>, VolumeError> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !is_half_done(name) {
        return Ok(None);
    }
    let project = told(dir)?;
    // Without files its number may be another's already: who removed them was ended behind that.
    if let Some(project) = project.filter(|_| dir.join(DATA).exists()) {
        let act = || format!("closing project {project}");
        Quotas::of(dir).and_then(|quotas| close(&quotas, project)).act(act)?;
    }
    Ok(project)
}

/// Takes the limit of a closed project away, unless somebody still has files of it open; its number is free when they are gone.
///
/// # Errors
/// `Io`.
pub fn forget_limit(volumes: &Path, project: u32) -> Result<(), VolumeError> {
    let act = || format!("taking the limit of project {project} away");
    let quotas = Quotas::of(volumes).act(act)?;
    let found = quotas.get(project).act(act)?;
    if (found.files, found.bytes, found.most_bytes) == (0, 0, CLOSED) {
        quotas.set(project, 0, 0).act(act)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_a_file_system_of_that_size_has() {
        assert_eq!(most_files(16 << 20), 4096);
        assert_eq!(most_files(1 << 30), 65536);
    }

    #[test]
    fn where_there_are_none_it_is_said_why() {
        let dir = Path::new("/proc/self/task");
        let said = probe(dir).unwrap_err().to_string();
        assert!(said.contains("/proc/self/task") && said.contains("mounted with prjquota"), "{said}");
        free(dir, 0, &|_| false).unwrap_err();
        // Only what is no volume is looked at.
        assert_eq!(close_limit(Path::new("/proc/self/task")).unwrap(), None);
        assert_eq!(close_limit(Path::new("/nowhere/.gone-1")).unwrap(), None);
    }
}

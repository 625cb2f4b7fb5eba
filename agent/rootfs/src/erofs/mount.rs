//! Mounting an index and its tar from their files, without a loop device: Linux 6.12 (CONFIG_EROFS_FS_BACKED_BY_FILE).

use super::{IndexError, write_index};
use crate::tar::Parser;
use crate::tree::Tree;
use berth_sys::fs as sysfs;
use berth_sys::mount::{FsContext, MountAttr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The read-only detached mount of an index with its tar. Both files stay open by the mount alone. `label`: of SELinux, of everything in it; empty: none.
pub fn mount(index: &File, tar: &File, label: &str) -> io::Result<OwnedFd> {
    // By descriptor: a path may be longer than the 255 bytes that fsconfig takes.
    let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let context = FsContext::open("erofs")?;
    let mounted = (|| {
        context.set_string("source", path(index))?;
        context.set_string("device", path(tar))?;
        context.set_flag("ro")?;
        if !label.is_empty() {
            context.set_string("context", label)?;
        }
        context.create()?;
        context.mount(MountAttr::RDONLY)
    })();
    mounted.map_err(|e| {
        let said = context.messages();
        if said.is_empty() { e } else { io::Error::new(e.kind(), format!("{e} ({said})")) }
    })
}

/// Whether this kernel mounts such a pair from `folder`: tried with a layer of one file, which must read as it was written.
pub fn probe(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    let unnamed = || sysfs::open_unnamed(folder.as_fd(), 0o600).map(File::from);
    let (tar, index) = (unnamed()?, unnamed()?);
    let bytes = one_file_tar();
    let mut tree = Tree::new();
    Parser::new().push(&bytes, &mut tree).map_err(io::Error::other)?;
    std::os::unix::fs::FileExt::write_all_at(&tar, &bytes, 0)?;
    write_index(&tree, &tar, bytes.len() as u64, &index).map_err(|e| match e {
        // A full disk is told from a kernel that cannot.
        IndexError::Io(error) => error,
        other => io::Error::other(other),
    })?;
    let mounted = mount(&index, &tar, "")?;
    let file = sysfs::openat2(mounted.as_fd(), "a", sysfs::Open::RDONLY, 0, sysfs::Resolve::BENEATH)?;
    let read = io::read_to_string(File::from(file))?;
    if read == "berth" { Ok(()) } else { Err(io::Error::other("a file read back differs")) }
}

/// A tar with the file `a`.
fn one_file_tar() -> Vec<u8> {
    let mut block = [0u8; 512];
    block[0] = b'a';
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(b"00000000005");
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].fill(b' ');
    block[156] = b'0';
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut tar = block.to_vec();
    tar.extend_from_slice(b"berth");
    tar.resize(2048, 0);
    tar
}

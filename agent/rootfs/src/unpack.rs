//! The directory store: a tree written out below a fresh folder.
//!
//! Only names that are not there yet are made, one part at a time below an open folder, so no link can lead anywhere; a folder's own
//! attributes come last, when nothing is written into it any more. One descriptor is open however deep the tree is.

use crate::erofs::copy_range;
use crate::error::{Act, RootfsError};
use crate::tar::show;
use crate::tree::{FileKind, Inode, Order, ROOT, Tree};
use berth_sys::fs::{self as sysfs, Kind, Open, Resolve};
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

const FOLDER: Open = Open::DIRECTORY;

struct Unpack<'a> {
    tree: &'a Tree,
    order: &'a Order,
    tar: &'a File,
    root: BorrowedFd<'a>,
    /// Node of the first name of inodes that have several.
    linked: HashMap<u32, u32>,
}

/// Writes `tree` into the empty folder `root`; file contents come from `tar`.
pub fn unpack(tree: &Tree, tar: &File, root: BorrowedFd<'_>) -> Result<(), RootfsError> {
    let order = Order::new(tree);
    let mut unpack = Unpack { tree, order: &order, tar, root, linked: HashMap::new() };
    let mut at = sysfs::openat(root, ".", FOLDER, 0).act(|| "opening the layer's folder".into())?;
    // Folders that were entered, and how many of their names are done.
    let mut stack: Vec<(u32, usize)> = vec![(ROOT, 0)];
    while let Some((node, done)) = stack.last_mut() {
        let node = *node;
        let Some(&child) = order.children(node).get(*done) else {
            unpack.attributes(&at, "", node).map_err(|e| unpack.explain(node, e))?;
            stack.pop();
            if !stack.is_empty() {
                at = sysfs::openat(at.as_fd(), "..", FOLDER, 0).act(|| unpack.doing(node))?;
            }
            continue;
        };
        *done += 1;
        let name = OsStr::from_bytes(tree.name(child));
        let n = tree.node(child);
        if !n.is_whiteout() && tree.inode(n.inode).kind == FileKind::Directory {
            sysfs::mkdirat(at.as_fd(), name, 0o700).act(|| unpack.doing(child))?;
            at = sysfs::openat(at.as_fd(), name, FOLDER | Open::NOFOLLOW, 0).act(|| unpack.doing(child))?;
            stack.push((child, 0));
        } else {
            unpack.file(&at, name, child).map_err(|e| unpack.explain(child, e))?;
        }
    }
    Ok(())
}

impl Unpack<'_> {
    fn doing(&self, node: u32) -> String {
        format!("unpacking {:?}", show(&self.tree.path(node)))
    }

    /// An attribute that the file system cannot keep is the layer's fault, not a full disk (ext4 keeps one block of them).
    fn explain(&self, node: u32, source: io::Error) -> RootfsError {
        if let Some(XattrRefused(what)) = source.get_ref().and_then(|e| e.downcast_ref::<XattrRefused>()) {
            return RootfsError::Unkeepable(format!("{}: {what}", self.doing(node)));
        }
        RootfsError::Io { act: self.doing(node), source }
    }

    fn file(&mut self, folder: &OwnedFd, name: &OsStr, node: u32) -> io::Result<()> {
        let dir = folder.as_fd();
        let number = self.tree.node(node).inode;
        if self.tree.node(node).is_whiteout() {
            return sysfs::mknodat(dir, name, Kind::CharDevice, 0, 0, 0);
        }
        let inode = self.tree.inode(number);
        if self.order.links(number) > 1 {
            if let Some(first) = self.linked.get(&number) {
                return self.link(*first, dir, name);
            }
            self.linked.insert(number, node);
        }
        let (major, minor) = ((inode.data >> 32) as u32, inode.data as u32);
        match inode.kind {
            FileKind::Regular | FileKind::Sparse => {
                let flags = Open::WRONLY | Open::CREATE | Open::EXCL | Open::NOFOLLOW;
                let file = File::from(sysfs::openat(dir, name, flags, 0o600)?);
                self.contents(inode, &file)?;
                return self.attributes(&file.into(), "", node);
            }
            FileKind::Symlink => sysfs::symlinkat(OsStr::from_bytes(self.tree.symlink_target(inode)), dir, name)?,
            FileKind::CharDevice => sysfs::mknodat(dir, name, Kind::CharDevice, 0, major, minor)?,
            FileKind::BlockDevice => sysfs::mknodat(dir, name, Kind::BlockDevice, 0, major, minor)?,
            FileKind::Fifo => sysfs::mknodat(dir, name, Kind::Fifo, 0, 0, 0)?,
            FileKind::Directory => {}
        }
        self.attributes(folder, name, node)
    }

    fn contents(&self, inode: &Inode, file: &File) -> io::Result<()> {
        if inode.kind == FileKind::Regular {
            return copy_range(self.tar, inode.data, file, 0, inode.size);
        }
        file.set_len(inode.size)?;
        let map = self.tree.sparse_map(inode);
        let mut from = map.data_offset;
        for segment in &map.segments {
            copy_range(self.tar, from, file, segment.offset, segment.length)?;
            from += segment.length;
        }
        Ok(())
    }

    fn link(&self, first: u32, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let path = self.tree.path(first);
        let old_name = OsStr::from_bytes(self.tree.name(first));
        let parent = path[..path.len() - old_name.len()].strip_suffix(b"/").unwrap_or(b".");
        let how = Resolve::BENEATH | Resolve::NO_SYMLINKS;
        let old = sysfs::openat2(self.root, OsStr::from_bytes(parent), Open::PATH | Open::DIRECTORY, 0, how)?;
        sysfs::linkat(old.as_fd(), old_name, dir, name)
    }

    /// Owner, then mode (chown clears set-id bits), then attributes (chown clears capabilities), then the time. `name` empty: of `fd`.
    fn attributes(&self, fd: &OwnedFd, name: impl AsRef<OsStr>, node: u32) -> io::Result<()> {
        let (fd, name) = (fd.as_fd(), name.as_ref());
        let inode = self.tree.inode(self.tree.node(node).inode);
        if (inode.uid, inode.gid) != (0, 0) {
            sysfs::fchownat(fd, name, inode.uid, inode.gid)?;
        }
        match inode.kind {
            FileKind::Symlink => {}
            _ if name.is_empty() => sysfs::fchmod(fd, u32::from(inode.mode))?,
            _ => sysfs::chmodat(fd, name, u32::from(inode.mode))?,
        }
        for (key, value) in self.tree.xattrs(inode) {
            let set = CString::new(key).map_err(io::Error::other).and_then(|key| {
                if name.is_empty() {
                    sysfs::fsetxattr(fd, &key, value)
                } else {
                    sysfs::lsetxattrat(fd, name, &key, value)
                }
            });
            if let Err(e) = set {
                return Err(io::Error::other(XattrRefused(format!("setting extended attribute {:?}: {e}", show(key)))));
            }
        }
        sysfs::utimensat(fd, name, inode.mtime_secs, inode.mtime_nanos)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct XattrRefused(String);

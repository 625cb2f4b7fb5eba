//! A layer's files as a tree in memory: what the tar's entries come to, for both stores.
//!
//! Every decision about hostile or odd tars is made here, once: names never leave the layer, parents that are symlinks are followed inside
//! it, the last entry of a name wins, whiteouts become overlay's. The stores then write a tree that has only real folders above its files.
//!
//! Memory: about 16 bytes a name, 48 an inode, 8 of the table and the name itself; with [`MAX_NODES`] names of usual length that is 200 MB,
//! and a million entries take about 100 MB. Names and link targets together are bounded by [`MAX_TEXT`], attributes by [`MAX_XATTRS`].

mod names;
mod order;

pub use order::Order;

use crate::tar::{Entry, Kind, MAX_PATH, Problem, Segment, Sink, show};
use names::Names;

/// Names that a layer may have: twice the largest images that are known.
pub const MAX_NODES: u64 = 2 << 20;
/// Bytes of all names and symlink targets.
pub const MAX_TEXT: u64 = 192 << 20;
/// Bytes of all extended attributes.
pub const MAX_XATTRS: u64 = 32 << 20;
/// As the kernel: path_resolution(7).
const MAX_LINKS: u32 = 40;
/// Names in targets of symlinks that are walked through for a whole layer: without a bound every entry of 512 bytes, which compresses to
/// nothing, costs 40 targets of 4096 bytes. Images have a few for each entry at most (`lib` leads to `usr/lib`).
const MAX_DETOURS: u64 = 16 << 20;
/// An index that means nothing.
pub const NONE: u32 = u32::MAX;
/// The index of the root, both as a node and as an inode.
pub const ROOT: u32 = 0;

pub const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";
/// Empty on a folder: it may hold whiteouts although no other layer has the folder. Without it overlayfs lists them, and finds no file behind
/// the name (ovl_get_inode, "non-merge dir that may have whiteouts", Linux 4.12).
pub const ORIGIN_XATTR: &[u8] = b"trusted.overlay.origin";

/// A name.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub parent: u32,
    /// [`NONE`]: a whiteout.
    pub inode: u32,
    name_at: u32,
    name_len: u8,
    /// Another node has taken this one's name.
    replaced: bool,
}

impl Node {
    pub fn is_whiteout(&self) -> bool {
        self.inode == NONE
    }
}

/// What the names lead to.
#[derive(Clone, Copy, Debug)]
pub struct Inode {
    /// Bytes of a regular file with its holes, or of a symlink's target.
    pub size: u64,
    /// Regular: where the data begins in the tar. Sparse: index into the sparse maps. Symlink: where the target is kept. Device: the number.
    pub data: u64,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
    pub uid: u32,
    pub gid: u32,
    /// Offset of the attributes; [`NONE`]: none.
    xattrs: u32,
    /// Permission bits.
    pub mode: u16,
    pub kind: FileKind,
    /// The folder hides what lower layers have in it.
    pub opaque: bool,
    /// The folder holds whiteouts, or did.
    pub whiteouts: bool,
}

impl Inode {
    /// Overlay's whiteout: a character device 0:0.
    pub const fn whiteout() -> Self {
        Inode { kind: FileKind::CharDevice, mode: 0, ..IMPLIED }
    }
}

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    Regular,
    Sparse,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A sparse file's pieces.
#[derive(Clone, Debug)]
pub struct SparseMap {
    /// Where the first piece is in the tar; the others follow it.
    pub data_offset: u64,
    pub segments: Box<[Segment]>,
}

/// The tree of one layer.
pub struct Tree {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    names: Names,
    text: Vec<u8>,
    xattrs: Vec<u8>,
    last_xattrs: (u32, u32),
    sparse: Vec<SparseMap>,
    /// The parent of the last entry, as it was written: entries of one folder follow each other.
    last_parent: (Vec<u8>, u32),
    /// Names of targets that were walked through.
    detours: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

/// Attributes of folders that no entry describes.
const IMPLIED: Inode = Inode {
    size: 0,
    data: 0,
    mtime_secs: 0,
    mtime_nanos: 0,
    uid: 0,
    gid: 0,
    xattrs: NONE,
    mode: 0o755,
    kind: FileKind::Directory,
    opaque: false,
    whiteouts: false,
};

/// The parts of a name, lexically cleaned as Docker does; `..` above the root is refused.
fn clean(name: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    let mut parts = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err(Problem::Escapes);
                }
            }
            _ if part.len() > 255 => return Err(Problem::ComponentTooLong),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

/// `parent/last` where nothing needs cleaning at the end; `None`: the long way.
fn split_last(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let at = name.iter().rposition(|b| *b == b'/');
    let (parent, last) = at.map_or((&name[..0], name), |at| (&name[..at], &name[at + 1..]));
    (!matches!(last, b"" | b"." | b"..") && last.len() <= 255).then_some((parent, last))
}

impl Tree {
    pub fn new() -> Self {
        let mut tree = Tree {
            nodes: Vec::new(),
            inodes: Vec::new(),
            names: Names::new(),
            text: Vec::new(),
            xattrs: Vec::new(),
            last_xattrs: (NONE, NONE),
            sparse: Vec::new(),
            last_parent: (Vec::new(), NONE),
            detours: 0,
        };
        tree.inodes.push(IMPLIED);
        tree.nodes.push(Node { parent: ROOT, inode: ROOT, name_at: 0, name_len: 0, replaced: false });
        tree
    }

    pub fn node(&self, node: u32) -> &Node {
        &self.nodes[node as usize]
    }

    pub fn name(&self, node: u32) -> &[u8] {
        let n = &self.nodes[node as usize];
        &self.text[n.name_at as usize..][..usize::from(n.name_len)]
    }

    pub fn inode(&self, inode: u32) -> &Inode {
        &self.inodes[inode as usize]
    }

    pub fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    pub fn symlink_target(&self, inode: &Inode) -> &[u8] {
        &self.text[inode.data as usize..][..inode.size as usize]
    }

    pub fn sparse_map(&self, inode: &Inode) -> &SparseMap {
        &self.sparse[inode.data as usize]
    }

    /// Name and value of every attribute, overlay's marks of folders included.
    pub fn xattrs(&self, inode: &Inode) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest: &[u8] = if inode.xattrs == NONE { &[] } else { &self.xattrs[inode.xattrs as usize..] };
        let stored = std::iter::from_fn(move || {
            let name_len = usize::from(*rest.first()?);
            if name_len == 0 {
                return None;
            }
            let value_len = usize::from(u16::from_le_bytes([rest[1], rest[2]]));
            let name = &rest[3..3 + name_len];
            let value = &rest[3 + name_len..3 + name_len + value_len];
            rest = &rest[3 + name_len + value_len..];
            Some((name, value))
        });
        let opaque = inode.opaque.then_some((OPAQUE_XATTR, &b"y"[..]));
        let whiteouts = inode.whiteouts.then_some((ORIGIN_XATTR, &b""[..]));
        stored.chain(opaque).chain(whiteouts)
    }

    /// The full path of a node without a slash in front.
    pub fn path(&self, mut node: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        while node != ROOT {
            parts.push(self.name(node));
            node = self.node(node).parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn add_text(&mut self, text: &[u8]) -> Result<u32, Problem> {
        let at = self.text.len();
        if (at + text.len()) as u64 > MAX_TEXT {
            return Err(Problem::TooMany(MAX_TEXT, "bytes of names"));
        }
        self.text.extend_from_slice(text);
        Ok(at as u32)
    }

    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.names.find(parent, name, |node| {
            let n = &self.nodes[node as usize];
            n.parent == parent && self.name(node) == name
        })
    }

    fn add_node(&mut self, parent: u32, name: &[u8], inode: u32) -> Result<u32, Problem> {
        if self.nodes.len() as u64 >= MAX_NODES {
            return Err(Problem::TooMany(MAX_NODES, "entries"));
        }
        let node = self.nodes.len() as u32;
        if let Some(old) = self.find(parent, name) {
            let (name_at, name_len) = (self.nodes[old as usize].name_at, self.nodes[old as usize].name_len);
            self.nodes[old as usize].replaced = true;
            self.last_parent.1 = NONE;
            self.nodes.push(Node { parent, inode, name_at, name_len, replaced: false });
            self.names.replace(parent, name, old, node);
            return Ok(node);
        }
        let name_at = self.add_text(name)?;
        self.nodes.push(Node { parent, inode, name_at, name_len: name.len() as u8, replaced: false });
        let (nodes, text) = (&self.nodes, &self.text);
        self.names.insert(parent, name, node, |n| {
            let n = &nodes[n as usize];
            (n.parent, &text[n.name_at as usize..][..usize::from(n.name_len)])
        });
        Ok(node)
    }

    fn add_inode(&mut self, inode: Inode) -> u32 {
        self.inodes.push(inode);
        (self.inodes.len() - 1) as u32
    }

    /// Makes a folder that no entry describes (yet). Paths stay within PATH_MAX, so that everything in the layer can be reached.
    fn add_folder(&mut self, parent: u32, name: &[u8], opaque: bool) -> Result<u32, Problem> {
        let (mut length, mut up) = (name.len() + 1, parent);
        while up != ROOT {
            let n = self.node(up);
            length += usize::from(n.name_len) + 1;
            up = n.parent;
        }
        if length > MAX_PATH {
            return Err(Problem::NameTooLong);
        }
        let inode = self.add_inode(Inode { opaque, ..IMPLIED });
        self.add_node(parent, name, inode)
    }

    fn folder_of(&self, node: u32) -> Option<&Inode> {
        let n = self.node(node);
        if n.is_whiteout() {
            return None;
        }
        Some(self.inode(n.inode)).filter(|i| i.kind == FileKind::Directory)
    }

    /// The folder that `parts` lead to; symlinks on the way are followed inside the layer. Missing folders are made, or `None`.
    fn walk(&mut self, parts: &[&[u8]], make: bool) -> Result<Option<u32>, Problem> {
        let mut at = ROOT;
        let mut links = 0;
        // What is still to be walked behind a symlink, last part first.
        let mut rest: Vec<Vec<u8>> = Vec::new();
        let mut parts = parts.iter();
        loop {
            let owned;
            let part: &[u8] = if let Some(part) = rest.pop() {
                owned = part;
                &owned
            } else if let Some(part) = parts.next() {
                part
            } else {
                return Ok(Some(at));
            };
            match part {
                b"" | b"." => continue,
                // Only from a symlink's target: above the root is the root.
                b".." => {
                    at = self.node(at).parent;
                    continue;
                }
                _ if part.starts_with(b".wh.") => return Err(Problem::Whiteout),
                _ if part.len() > 255 => return Err(Problem::ComponentTooLong),
                _ => {}
            }
            match self.find(at, part) {
                Some(node) if self.folder_of(node).is_some() => at = node,
                Some(node) if self.node(node).is_whiteout() => {
                    if !make {
                        return Ok(None);
                    }
                    at = self.add_folder(at, part, true)?;
                }
                Some(node) => {
                    let inode = *self.inode(self.node(node).inode);
                    if inode.kind != FileKind::Symlink {
                        return if make { Err(Problem::ParentNotFolder(show(&self.path(node)))) } else { Ok(None) };
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Problem::LinkLoop);
                    }
                    let target = self.symlink_target(&inode);
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    let before = rest.len();
                    rest.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                    self.detours += (rest.len() - before) as u64;
                    if self.detours > MAX_DETOURS {
                        return Err(Problem::TooMany(MAX_DETOURS, "names on the ways of its links"));
                    }
                }
                None if make => at = self.add_folder(at, part, false)?,
                None => return Ok(None),
            }
        }
    }

    /// Where an entry goes: its folder and its last part; `None`: it is the root itself.
    fn place<'n>(&mut self, name: &'n [u8]) -> Result<Option<(u32, &'n [u8])>, Problem> {
        if let Some((parent, last)) = split_last(name)
            && self.last_parent.1 != NONE
            && self.last_parent.0 == parent
        {
            return Ok(Some((self.last_parent.1, last)));
        }
        let parts = clean(name)?;
        let Some((last, parents)) = parts.split_last() else { return Ok(None) };
        // `walk` makes what is missing, or fails.
        let folder = self.walk(parents, true)?.unwrap_or(ROOT);
        if let Some((parent, _)) = split_last(name) {
            self.last_parent.0.clear();
            self.last_parent.0.extend_from_slice(parent);
            self.last_parent.1 = folder;
        }
        Ok(Some((folder, last)))
    }

    /// A name that begins with `.wh.`: hides what lower layers have, never what this one has (image-spec, layer.md, "Whiteouts").
    fn whiteout(&mut self, folder: u32, hidden: &[u8]) -> Result<(), Problem> {
        if hidden == b".wh..opq" {
            let inode = self.node(folder).inode;
            self.inodes[inode as usize].opaque = true;
            return Ok(());
        }
        // Notes of AUFS to itself (.wh..wh.plnk, .wh..wh.aufs): Docker leaves them out.
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Problem::Whiteout);
        }
        match self.find(folder, hidden) {
            Some(node) if self.folder_of(node).is_some() => {
                let inode = self.node(node).inode;
                self.inodes[inode as usize].opaque = true;
            }
            Some(_) => {}
            None => {
                self.add_node(folder, hidden, NONE)?;
                let inode = self.node(folder).inode;
                self.inodes[inode as usize].whiteouts = true;
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, folder: u32, name: &[u8], target: &[u8]) -> Result<(), Problem> {
        let parts = clean(target)?;
        let missing = || Problem::LinkTarget(show(target));
        let (last, parents) = parts.split_last().ok_or_else(|| Problem::LinkToFolder(show(target)))?;
        let parent = self.walk(parents, false)?.ok_or_else(missing)?;
        let node = self.find(parent, last).ok_or_else(missing)?;
        let inode = self.node(node).inode;
        if inode == NONE {
            return Err(missing());
        }
        if self.inode(inode).kind == FileKind::Directory {
            return Err(Problem::LinkToFolder(show(target)));
        }
        if self.find(folder, name) == Some(node) {
            // A link to itself: it is there already.
            return Ok(());
        }
        self.add_node(folder, name, inode)?;
        Ok(())
    }

    fn keep_xattrs(&mut self, entry: &Entry<'_>) -> Result<u32, Problem> {
        let start = self.xattrs.len();
        for (i, (name, value)) in entry.xattrs.iter().enumerate() {
            // An entry's own attribute goes over a global one.
            let overridden = entry.xattrs[i + 1..].iter().any(|(n, _)| n == name);
            if overridden || !keeps_xattr(name, value, entry.kind)? {
                continue;
            }
            if (self.xattrs.len() + name.len() + value.len()) as u64 > MAX_XATTRS {
                return Err(Problem::TooMany(MAX_XATTRS, "bytes of extended attributes"));
            }
            self.xattrs.push(name.len() as u8);
            self.xattrs.extend_from_slice(&(value.len() as u16).to_le_bytes());
            self.xattrs.extend_from_slice(name);
            self.xattrs.extend_from_slice(value);
        }
        if self.xattrs.len() == start {
            return Ok(NONE);
        }
        self.xattrs.push(0);
        // Labels are often the same from file to file: kept once in a row.
        let (last_start, last_end) = self.last_xattrs;
        if last_start != NONE && self.xattrs[start..] == self.xattrs[last_start as usize..last_end as usize] {
            self.xattrs.truncate(start);
            return Ok(last_start);
        }
        self.last_xattrs = (start as u32, self.xattrs.len() as u32);
        Ok(start as u32)
    }
}

/// Which attributes a layer may carry. Those of overlayfs are its own business: an image must not steer the mount. Attributes of files that
/// Linux gives none of that kind are left out. Malformed ones are refused, as the kernel would when they are set.
fn keeps_xattr(name: &[u8], value: &[u8], kind: Kind) -> Result<bool, Problem> {
    let malformed = || Problem::Xattr(show(name), "its value is malformed");
    if name.starts_with(b"trusted.overlay.") {
        return Ok(false);
    }
    if name == b"system.posix_acl_access" || name == b"system.posix_acl_default" {
        if kind == Kind::Symlink || (name.ends_with(b"default") && kind != Kind::Directory) {
            return Ok(false);
        }
        return if good_acl(value) { Ok(true) } else { Err(malformed()) };
    }
    if name == b"security.capability" {
        if kind != Kind::Regular {
            return Ok(false);
        }
        // struct vfs_cap_data: revision in the highest byte; 1: 12 bytes, 2: 20, 3: 24 (with the root's uid).
        let good = matches!((value.len(), value.get(3)), (12, Some(1)) | (20, Some(2)) | (24, Some(3)));
        return if good { Ok(true) } else { Err(malformed()) };
    }
    if let Some(rest) = name.strip_prefix(b"user.") {
        return Ok(!rest.is_empty() && matches!(kind, Kind::Regular | Kind::Directory));
    }
    Ok([&b"trusted."[..], b"security."].iter().any(|p| name.starts_with(p) && name.len() > p.len()))
}

/// A POSIX ACL as setxattr takes it: version 2, entries of 8 bytes, in order, with the three that must be there (acl(5)).
fn good_acl(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk::<4>() else { return false };
    if *version != [2, 0, 0, 0] || entries.len() % 8 != 0 {
        return false;
    }
    let tags: Vec<u8> =
        entries.chunks_exact(8).map(|e| if e[1] == 0 && e[2] < 8 && e[3] == 0 { e[0] } else { 0 }).collect();
    let count = |tag: u8| tags.iter().filter(|t| **t == tag).count();
    let needs_mask = count(2) + count(8) > 0;
    tags.is_sorted()
        && tags.iter().all(|t| matches!(t, 1 | 2 | 4 | 8 | 0x10 | 0x20))
        && [1, 4, 0x20].iter().all(|t| count(*t) == 1)
        && count(0x10) <= 1
        && (!needs_mask || count(0x10) == 1)
}

impl Sink for Tree {
    fn entry(&mut self, entry: Entry<'_>) -> Result<(), Problem> {
        let Some((folder, name)) = self.place(entry.name)? else {
            if entry.kind != Kind::Directory {
                return Err(Problem::RootNotFolder);
            }
            let xattrs = self.keep_xattrs(&entry)?;
            self.describe(ROOT, &entry, xattrs);
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(folder, hidden);
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(folder, name, entry.link);
        }
        let existing = self.find(folder, name);
        let was_whiteout = existing.is_some_and(|n| self.node(n).is_whiteout());
        if entry.kind == Kind::CharDevice && entry.dev_major == 0 && entry.dev_minor == 0 {
            // Overlay's whiteout, but whiteouts have names: a raw one is dropped, and with it what had its name before.
            if let Some(node) = existing
                && !was_whiteout
            {
                self.drop_node(node, name);
            }
            return Ok(());
        }
        let xattrs = self.keep_xattrs(&entry)?;
        if entry.kind == Kind::Directory {
            let node = match existing {
                Some(node) if self.folder_of(node).is_some() => node,
                _ => self.add_folder(folder, name, was_whiteout)?,
            };
            let inode = self.node(node).inode;
            self.describe(inode, &entry, xattrs);
            return Ok(());
        }
        let (kind, size, data) = match entry.kind {
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() >= MAX_PATH {
                    return Err(Problem::BadName);
                }
                (FileKind::Symlink, entry.link.len() as u64, u64::from(self.add_text(entry.link)?))
            }
            Kind::CharDevice => (FileKind::CharDevice, 0, device(&entry)),
            Kind::BlockDevice => (FileKind::BlockDevice, 0, device(&entry)),
            Kind::Fifo => (FileKind::Fifo, 0, 0),
            _ => match entry.sparse {
                Some(segments) => {
                    self.sparse.push(SparseMap { data_offset: entry.data_offset, segments: segments.into() });
                    (FileKind::Sparse, entry.size, (self.sparse.len() - 1) as u64)
                }
                None => (FileKind::Regular, entry.size, entry.data_offset),
            },
        };
        let inode = self.add_inode(Inode { size, data, kind, ..IMPLIED });
        self.describe(inode, &entry, xattrs);
        self.add_node(folder, name, inode)?;
        Ok(())
    }
}

fn device(entry: &Entry<'_>) -> u64 {
    u64::from(entry.dev_major) << 32 | u64::from(entry.dev_minor)
}

impl Tree {
    fn describe(&mut self, inode: u32, entry: &Entry<'_>, xattrs: u32) {
        let i = &mut self.inodes[inode as usize];
        i.mode = if i.kind == FileKind::Symlink { 0o777 } else { entry.mode };
        (i.uid, i.gid) = (entry.uid, entry.gid);
        (i.mtime_secs, i.mtime_nanos) = (entry.mtime_secs, entry.mtime_nanos);
        i.xattrs = xattrs;
    }

    fn drop_node(&mut self, node: u32, name: &[u8]) {
        let parent = self.node(node).parent;
        self.nodes[node as usize].replaced = true;
        self.last_parent.1 = NONE;
        self.names.remove(parent, name, node);
    }
}

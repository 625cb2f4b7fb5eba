//! The EROFS store's index: a small EROFS image with the names and attributes of a layer, whose files' data is the tar itself.
//!
//! On-disk format: Linux's Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. What is used of it:
//! - blocks of 512 bytes (Linux 6.4), so that a file's data in the tar begins at a block and needs no copy;
//! - a second device, the tar, mapped behind the index's own blocks (`device table`, Linux 5.16): flat inodes point into it;
//! - extended inodes (64 bytes: 32-bit owners, nanoseconds), small folders and symlinks inline behind them, attributes inline;
//! - sparse files, whose pieces do not lie in the tar as the file has them: they are laid out behind the index, holes staying holes.
//!
//! The index is written front to back in one pass, each folder's inodes side by side.

mod layout;
mod mount;

pub use mount::{mount, probe};

use crate::tar::Problem;
use crate::tree::{FileKind, Inode, NONE, Order, ROOT, Tree};
use layout::{Layout, Tail};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

const BLOCK_BITS: u8 = 9;
const BLOCK: u64 = 1 << BLOCK_BITS;
const MAGIC: u32 = 0xE0F5_E1E2;
const SUPER_OFFSET: usize = 1024;
/// Behind the superblock (128 bytes), in units of its own 128 bytes.
const DEVICE_SLOT: usize = 9;
/// The root's inode comes first: its number has only 16 bits in the superblock.
const ROOT_OFFSET: u64 = 1280;
const INODE_BYTES: u64 = 64;
/// EROFS's word for "no address", and the end of all addresses.
const NO_ADDRESS: u32 = u32::MAX;
const FEATURE_COMPAT_MTIME: u32 = 2;
const FEATURE_INCOMPAT_DEVICE_TABLE: u32 = 8;
const FLAT_PLAIN: u16 = 0;
const FLAT_INLINE: u16 = 2;

/// Why an index could not be written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Layer(Problem),
}

fn mode_bits(kind: FileKind) -> u16 {
    match kind {
        FileKind::Regular | FileKind::Sparse => 0o100_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => 0o120_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Fifo => 0o010_000,
    }
}

/// The file type in a folder's entry: as the kernel's FT_*.
fn entry_type(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular | FileKind::Sparse => 1,
        FileKind::Directory => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Fifo => 5,
        FileKind::Symlink => 7,
    }
}

/// Overlay's whiteout: a character device 0:0.
const WHITEOUT: Inode = Inode::whiteout();

/// The kernel's new_encode_dev.
fn device_bits(data: u64) -> u32 {
    let (major, minor) = ((data >> 32) as u32, data as u32);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// EROFS's number of an attribute's prefix, and the rest of its name.
fn split_xattr(name: &[u8]) -> (u8, &[u8]) {
    match name {
        b"system.posix_acl_access" => (2, b""),
        b"system.posix_acl_default" => (3, b""),
        _ if name.starts_with(b"user.") => (1, &name[5..]),
        _ if name.starts_with(b"trusted.") => (4, &name[8..]),
        // The tree keeps no other prefix.
        _ => (6, name.strip_prefix(b"security.").unwrap_or(name)),
    }
}

/// The attributes as they lie behind the inode; empty when there are none.
fn encode_xattrs(tree: &Tree, inode: &Inode, out: &mut Vec<u8>) {
    out.clear();
    for (name, value) in tree.xattrs(inode) {
        if out.is_empty() {
            out.resize(12, 0);
        }
        let (index, name) = split_xattr(name);
        out.extend_from_slice(&[name.len() as u8, index]);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Where sparse files go: the next block of the index behind all else, and the copies to make.
struct SparseArea {
    next: u64,
    copies: Vec<(u32, u64)>,
}

impl SparseArea {
    fn place(&mut self, inode: u32, size: u64) -> Result<u64, Problem> {
        let at = self.next;
        self.next = at
            .checked_add(size.next_multiple_of(4096))
            .filter(|end| end / BLOCK < u64::from(NO_ADDRESS))
            .ok_or(Problem::TooLarge("its sparse files are larger than 2 TiB together"))?;
        self.copies.push((inode, at));
        Ok(at)
    }
}

/// Writes the index of `tree` into the empty file `index`; `tar` (of `tar_bytes` bytes, a multiple of 512) is read only for sparse files.
pub fn write_index(tree: &Tree, tar: &File, tar_bytes: u64, index: &File) -> Result<(), IndexError> {
    let order = Order::new(tree);
    let layout = Layout::new(tree, &order)?;
    let mut sparse = SparseArea { next: layout.end.next_multiple_of(4096), copies: Vec::new() };
    let mut sparse_at = std::collections::HashMap::new();
    for i in layout.sequence() {
        let (inode_number, _) = *i;
        if inode_number != NONE && tree.inode(inode_number).kind == FileKind::Sparse {
            let size = tree.inode(inode_number).size;
            sparse_at.insert(inode_number, sparse.place(inode_number, size).map_err(IndexError::Layer)?);
        }
    }
    let own_blocks = sparse.next / BLOCK;
    let tar_blocks = tar_bytes / BLOCK;
    if own_blocks + tar_blocks >= u64::from(NO_ADDRESS) {
        return Err(IndexError::Layer(Problem::TooLarge("EROFS addresses 2 TiB")));
    }
    let mut out = Output { file: BufWriter::with_capacity(1 << 20, index), at: 0 };
    out.superblock(order.live() as u64 + 1, own_blocks as u32, tar_blocks as u32)?;
    let mut xattrs = Vec::new();
    let mut folder = Vec::new();
    for &(number, node) in layout.sequence() {
        let inode = if number == NONE { &WHITEOUT } else { tree.inode(number) };
        let place = layout.place(number, node);
        out.pad_to(place.offset)?;
        encode_xattrs(tree, inode, &mut xattrs);
        let body: &[u8] = match inode.kind {
            FileKind::Directory => {
                layout.folder(tree, &order, node, &mut folder);
                &folder
            }
            FileKind::Symlink => tree.symlink_target(inode),
            _ => &[],
        };
        let (format, address, size) = match inode.kind {
            FileKind::Regular if inode.size == 0 => (FLAT_PLAIN, NO_ADDRESS, 0),
            FileKind::Regular => (FLAT_PLAIN, (own_blocks + inode.data / BLOCK) as u32, inode.size),
            FileKind::Sparse => (FLAT_PLAIN, (sparse_at[&number] / BLOCK) as u32, inode.size),
            FileKind::CharDevice | FileKind::BlockDevice => (FLAT_PLAIN, device_bits(inode.data), 0),
            FileKind::Fifo => (FLAT_PLAIN, 0, 0),
            FileKind::Directory | FileKind::Symlink => match place.tail {
                Tail::Inline => (FLAT_INLINE, 0, body.len() as u64),
                Tail::Blocks(at) => (FLAT_PLAIN, (at / BLOCK) as u32, body.len() as u64),
            },
        };
        let links = if number == NONE { 1 } else { order.links(number) };
        out.inode(inode, format, address, size, links, (place.offset / 32) as u32, xattrs.len())?;
        out.write(&xattrs)?;
        if !body.is_empty() {
            if let Tail::Blocks(at) = place.tail {
                out.pad_to(at)?;
            }
            out.write(body)?;
        }
    }
    out.pad_to(layout.end.next_multiple_of(4096))?;
    out.file.flush()?;
    drop(out);
    if sparse.copies.is_empty() {
        return Ok(());
    }
    index.set_len(sparse.next)?;
    for (number, at) in sparse.copies {
        let map = tree.sparse_map(tree.inode(number));
        let mut from = map.data_offset;
        for segment in &map.segments {
            copy_range(tar, from, index, at + segment.offset, segment.length)?;
            from += segment.length;
        }
    }
    Ok(())
}

/// Copies bytes between places of two files.
pub fn copy_range(from: &File, mut from_at: u64, to: &File, mut to_at: u64, mut length: u64) -> io::Result<()> {
    let mut buffer = vec![0u8; length.min(1 << 20) as usize];
    while length > 0 {
        let n = length.min(buffer.len() as u64) as usize;
        from.read_exact_at(&mut buffer[..n], from_at)?;
        to.write_all_at(&buffer[..n], to_at)?;
        (from_at, to_at, length) = (from_at + n as u64, to_at + n as u64, length - n as u64);
    }
    Ok(())
}

struct Output<'f> {
    file: BufWriter<&'f File>,
    at: u64,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < offset {
            let n = (offset - self.at).min(4096) as usize;
            self.write(&ZEROS[..n])?;
        }
        Ok(())
    }

    /// The first 1280 bytes: nothing, the superblock, and the tar's device slot.
    fn superblock(&mut self, inodes: u64, own_blocks: u32, tar_blocks: u32) -> io::Result<()> {
        let mut head = [0u8; ROOT_OFFSET as usize];
        let mut put =
            |at: usize, bytes: &[u8]| head[SUPER_OFFSET + at..SUPER_OFFSET + at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &FEATURE_COMPAT_MTIME.to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &((ROOT_OFFSET / 32) as u16).to_le_bytes());
        put(16, &inodes.to_le_bytes());
        put(36, &own_blocks.to_le_bytes());
        put(80, &FEATURE_INCOMPAT_DEVICE_TABLE.to_le_bytes());
        put(86, &1u16.to_le_bytes());
        put(88, &(DEVICE_SLOT as u16).to_le_bytes());
        let slot = DEVICE_SLOT * 128 - SUPER_OFFSET;
        put(slot + 64, &tar_blocks.to_le_bytes());
        put(slot + 68, &own_blocks.to_le_bytes());
        self.write(&head)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn inode(
        &mut self,
        inode: &Inode,
        format: u16,
        address: u32,
        size: u64,
        links: u32,
        number: u32,
        xattr_bytes: usize,
    ) -> io::Result<()> {
        let mut raw = [0u8; INODE_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        // Bit 0: extended; bits 1 to 3: the layout.
        put(0, &(1 | format << 1).to_le_bytes());
        let xattr_count = if xattr_bytes == 0 { 0 } else { (xattr_bytes - 12) / 4 + 1 };
        put(2, &(xattr_count as u16).to_le_bytes());
        put(4, &(mode_bits(inode.kind) | inode.mode).to_le_bytes());
        put(8, &size.to_le_bytes());
        put(16, &address.to_le_bytes());
        put(20, &number.to_le_bytes());
        put(24, &inode.uid.to_le_bytes());
        put(28, &inode.gid.to_le_bytes());
        put(32, &inode.mtime_secs.to_le_bytes());
        put(40, &inode.mtime_nanos.to_le_bytes());
        put(44, &links.to_le_bytes());
        self.write(&raw)
    }
}

/// The number of the root, for the layout.
const fn root_node() -> u32 {
    ROOT
}

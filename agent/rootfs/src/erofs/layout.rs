//! Where everything lies in the index: decided before a byte is written, since folders name their children by place.

use super::{BLOCK, INODE_BYTES, IndexError, ROOT_OFFSET, encode_xattrs, entry_type, root_node};
use crate::tar::Problem;
use crate::tree::{FileKind, NONE, Order, ROOT, Tree};

/// Bytes of a folder's entry without its name.
const ENTRY: usize = 12;

/// Where the body of a folder or a symlink lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Right behind the inode and its attributes, inside one block.
    Inline,
    /// From this byte on.
    Blocks(u64),
}

/// Where an inode lies.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub offset: u64,
    pub tail: Tail,
}

pub struct Layout {
    /// Inodes in the order of the file: number ([`NONE`]: a whiteout) and, for folders and whiteouts, the node.
    sequence: Vec<(u32, u32)>,
    /// By inode: offset / 32.
    slots: Vec<u32>,
    /// By inode: the block of a body that is not inline; 0: inline.
    bodies: Vec<u32>,
    /// All whiteouts are one inode.
    whiteout: u32,
    pub end: u64,
}

/// The length of a folder's body: blocks of entries and names, the last one cut.
fn folder_bytes<'n>(names: impl Iterator<Item = &'n [u8]>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for name in names {
        let n = (ENTRY + name.len()) as u64;
        if used + n > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += n;
    }
    blocks * BLOCK + used
}

/// A folder's names with `.` and `..` in their places among them.
fn entries<'t>(tree: &'t Tree, order: &'t Order, node: u32) -> impl Iterator<Item = (&'t [u8], u32)> {
    let children = order.children(node);
    let below = children.partition_point(|c| tree.name(*c) < b".".as_slice());
    let between = children[below..].partition_point(|c| tree.name(*c) < b"..".as_slice());
    let named = |c: &u32| (tree.name(*c), *c);
    let parent = tree.node(node).parent;
    (children[..below].iter().map(named))
        .chain([(&b"."[..], node)])
        .chain(children[below..below + between].iter().map(named))
        .chain([(&b".."[..], parent)])
        .chain(children[below + between..].iter().map(named))
}

impl Layout {
    pub fn new(tree: &Tree, order: &Order) -> Result<Self, IndexError> {
        let mut layout = Layout {
            sequence: Vec::with_capacity(order.live() + 1),
            slots: vec![0; tree.inode_count()],
            bodies: vec![0; tree.inode_count()],
            whiteout: 0,
            end: ROOT_OFFSET,
        };
        let mut xattrs = Vec::new();
        layout.add(tree, order, ROOT, root_node(), &mut xattrs)?;
        // Folders in the order they were laid out: the sequence is its own queue.
        let mut next = 0;
        while let Some(&(number, node)) = layout.sequence.get(next) {
            next += 1;
            if number == NONE || tree.inode(number).kind != FileKind::Directory {
                continue;
            }
            for &child in order.children(node) {
                let number = tree.node(child).inode;
                let done = if number == NONE { layout.whiteout != 0 } else { layout.slots[number as usize] != 0 };
                if !done {
                    layout.add(tree, order, number, child, &mut xattrs)?;
                }
            }
        }
        Ok(layout)
    }

    fn add(
        &mut self,
        tree: &Tree,
        order: &Order,
        number: u32,
        node: u32,
        xattrs: &mut Vec<u8>,
    ) -> Result<(), IndexError> {
        self.sequence.push((number, node));
        if number == NONE {
            let offset = self.end.next_multiple_of(32);
            self.whiteout = slot(offset)?;
            self.end = offset + INODE_BYTES;
            return Ok(());
        }
        let inode = tree.inode(number);
        encode_xattrs(tree, inode, xattrs);
        let fixed = INODE_BYTES + xattrs.len() as u64;
        let body = match inode.kind {
            FileKind::Directory => folder_bytes(entries(tree, order, node).map(|(name, _)| name)),
            FileKind::Symlink => inode.size,
            _ => 0,
        };
        // A folder's last name reaches to the end of its block or to a NUL: erofs_dirnamecmp() in the kernel's namei.c looks no further
        // than that, and not at the folder's size. Without room for the NUL, the next inode's first byte would belong to the name.
        let held = if inode.kind == FileKind::Directory && body % BLOCK != 0 { body + 1 } else { body };
        let mut offset = self.end.next_multiple_of(32);
        // An inline body must not cross a block: the inode moves on until it does not. The root cannot move.
        let inline = body > 0 && body <= BLOCK && {
            let fits = |at: u64| (at + fixed) % BLOCK + held <= BLOCK;
            let steps = if number == ROOT { 1 } else { BLOCK / 32 };
            match (0..steps).map(|i| offset + i * 32).find(|at| fits(*at)) {
                Some(at) => {
                    offset = at;
                    true
                }
                None => false,
            }
        };
        self.slots[number as usize] = slot(offset)?;
        self.end = offset + fixed;
        if inline {
            self.end += held;
        } else if body > 0 {
            let at = self.end.next_multiple_of(BLOCK);
            self.bodies[number as usize] = slot(at / BLOCK * 32)?;
            self.end = at + held;
        }
        Ok(())
    }

    pub fn sequence(&self) -> &[(u32, u32)] {
        &self.sequence
    }

    pub fn place(&self, number: u32, _node: u32) -> Place {
        if number == NONE {
            return Place { offset: u64::from(self.whiteout) * 32, tail: Tail::Inline };
        }
        let tail = match self.bodies[number as usize] {
            0 => Tail::Inline,
            block => Tail::Blocks(u64::from(block) * BLOCK),
        };
        Place { offset: u64::from(self.slots[number as usize]) * 32, tail }
    }

    /// The body of a folder.
    pub fn folder(&self, tree: &Tree, order: &Order, node: u32, out: &mut Vec<u8>) {
        out.clear();
        let all: Vec<(&[u8], u32)> = entries(tree, order, node).collect();
        let mut rest = &all[..];
        while !rest.is_empty() {
            let mut used = 0;
            let count = rest.iter().take_while(|(name, _)| {
                used += ENTRY + name.len();
                used <= BLOCK as usize
            });
            let (now, later) = rest.split_at(count.count());
            let mut name_at = now.len() * ENTRY;
            for (name, node) in now {
                let number = tree.node(*node).inode;
                let (slot, kind) = if number == NONE {
                    (self.whiteout, FileKind::CharDevice)
                } else {
                    (self.slots[number as usize], tree.inode(number).kind)
                };
                out.extend_from_slice(&u64::from(slot).to_le_bytes());
                out.extend_from_slice(&(name_at as u16).to_le_bytes());
                out.extend_from_slice(&[entry_type(kind), 0]);
                name_at += name.len();
            }
            for (name, _) in now {
                out.extend_from_slice(name);
            }
            if !later.is_empty() {
                out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
            }
            rest = later;
        }
    }
}

/// An offset in units of 32 bytes, as EROFS numbers inodes; four bytes do for 128 GiB of index.
fn slot(offset: u64) -> Result<u32, IndexError> {
    u32::try_from(offset / 32).map_err(|_| IndexError::Layer(Problem::TooLarge("its index is over 128 GiB")))
}

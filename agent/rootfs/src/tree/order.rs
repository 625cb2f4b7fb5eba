//! The tree as the stores write it: which names live, what each folder holds, in the order of the bytes.

use super::{FileKind, NONE, ROOT, Tree};

/// Children of every folder, sorted, and the link counts.
pub struct Order {
    /// Live nodes, those of one folder side by side.
    children: Vec<u32>,
    /// Where a node's children begin, by node; one more at the end.
    starts: Vec<u32>,
    /// By inode: names that lead to it; folders: 2 and one for each folder in it.
    links: Vec<u32>,
}

impl Order {
    pub fn new(tree: &Tree) -> Self {
        let count = tree.nodes.len();
        // A node is made after its parent: one pass finds those whose every parent lives.
        let mut live = vec![false; count];
        let mut starts = vec![0u32; count + 1];
        let mut links = vec![0u32; tree.inodes.len()];
        live[ROOT as usize] = true;
        links[ROOT as usize] = 2;
        for (i, node) in tree.nodes.iter().enumerate().skip(1) {
            if node.replaced || !live[node.parent as usize] {
                continue;
            }
            live[i] = true;
            starts[node.parent as usize + 1] += 1;
            if node.inode == NONE {
                continue;
            }
            if tree.inodes[node.inode as usize].kind == FileKind::Directory {
                links[node.inode as usize] = 2;
                links[tree.nodes[node.parent as usize].inode as usize] += 1;
            } else {
                links[node.inode as usize] += 1;
            }
        }
        for i in 0..count {
            starts[i + 1] += starts[i];
        }
        let mut next = starts.clone();
        let mut children = vec![0u32; starts[count] as usize];
        for (i, node) in tree.nodes.iter().enumerate().skip(1) {
            if live[i] {
                let at = &mut next[node.parent as usize];
                children[*at as usize] = i as u32;
                *at += 1;
            }
        }
        let mut order = Order { children, starts, links };
        for i in 0..count {
            let range = order.starts[i] as usize..order.starts[i + 1] as usize;
            order.children[range].sort_unstable_by(|a, b| tree.name(*a).cmp(tree.name(*b)));
        }
        order
    }

    /// The names in a folder, sorted by their bytes.
    pub fn children(&self, node: u32) -> &[u32] {
        &self.children[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// Names in the whole tree, without the root.
    pub fn live(&self) -> usize {
        self.children.len()
    }

    pub fn links(&self, inode: u32) -> u32 {
        self.links[inode as usize]
    }
}

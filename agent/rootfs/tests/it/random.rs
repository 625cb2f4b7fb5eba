//! Random tars, valid and damaged: both stores come to the same.

use crate::compare::{both, through};
use crate::tarball::{Entry, Tar};
use berth_rootfs::Driver;

/// xorshift64*: the seed is in every failure message.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

const PARTS: &[&str] = &[
    "a",
    "b",
    "c",
    "-",
    "..x",
    ".h",
    "~",
    "\u{e9}",
    "with space",
    "long-name-that-fills-some-of-a-block-of-the-folder-it-is-in",
];

fn name(r: &mut Random) -> String {
    let depth = 1 + r.below(4);
    (0..depth).map(|_| PARTS[r.below(PARTS.len() as u64) as usize]).collect::<Vec<_>>().join("/")
}

fn random_tar(r: &mut Random) -> Vec<u8> {
    let mut tar = Tar::new();
    let mut files: Vec<String> = Vec::new();
    for i in 0..r.below(40) {
        // Mostly names of their own, so that files are seldom in the way of folders.
        let name = if r.below(25) == 0 { name(r) } else { format!("{}/n{}", name(r), r.below(9)) };
        let data = vec![b'0' + (i % 10) as u8; r.below(3000) as usize];
        let some = files.get(r.below(8) as usize).cloned();
        let target = some.unwrap_or_else(|| self::name(r));
        let kind = match r.below(12) {
            0..=4 => b'0',
            5..=7 => b'5',
            8 => b'2',
            9 => b'1',
            10 => b'6',
            _ => b'3',
        };
        if kind == b'1' && files.len() < 8 && r.below(20) != 0 {
            continue;
        }
        if kind == b'0' {
            files.push(name.clone());
        }
        let mut entry = Entry::new(&name, kind);
        entry.mode = r.below(0o10000) as u32;
        (entry.uid, entry.gid, entry.mtime) = (r.below(70000) as u32, r.below(70000) as u32, r.below(1 << 32));
        if kind == b'0' {
            entry.data = &data;
        }
        if kind == b'2' || kind == b'1' {
            entry.link = target.as_bytes();
        }
        if kind == b'3' {
            entry.dev = (r.below(3) as u32, r.below(3) as u32);
        }
        if r.below(6) == 0 {
            entry.pax.push((b"mtime", format!("{}.{:09}", r.below(1 << 31), r.below(1_000_000_000)).into_bytes()));
        }
        if r.below(6) == 0 {
            entry.pax.push((b"SCHILY.xattr.user.k", vec![b'v'; r.below(700) as usize]));
            entry.pax.push((b"SCHILY.xattr.trusted.t", vec![0; r.below(9) as usize]));
        }
        tar.add(entry);
        if r.below(10) == 0 {
            let (dir, last) = name.rsplit_once('/').unwrap_or(("", &name));
            tar.file(format!("{dir}/.wh.{}", if r.below(3) == 0 { ".wh..opq" } else { last }), "");
        }
    }
    tar.end()
}

#[test]
fn both_stores_agree_on_random_layers() {
    let (mut kept, mut refused) = (0, 0);
    for seed in 1..=150u64 {
        let mut r = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let layers: Vec<Vec<u8>> = (0..1 + r.below(3)).map(|_| random_tar(&mut r)).collect();
        let erofs = through(Driver::Erofs, &layers);
        let directory = through(Driver::Directory, &layers);
        match (erofs, directory) {
            (Ok(left), Ok(right)) => {
                crate::listing::same(&format!("seed {seed}"), &left, &right);
                kept += 1;
            }
            (Err(left), Err(right)) => {
                assert!(left.bad_layer() && right.bad_layer(), "seed {seed}: {left} / {right}");
                assert_eq!(left.to_string(), right.to_string(), "seed {seed}");
                refused += 1;
            }
            (left, right) => panic!("seed {seed}: {:?} / {:?}", left.map(|_| ()), right.map(|_| ())),
        }
    }
    assert!(kept > 10 && refused > 10, "the generator makes both kinds: {kept} kept, {refused} refused");
}

#[test]
fn large_folders() {
    let mut tar = Tar::new();
    let mut r = Random(42);
    for i in 0..5000 {
        tar.file(format!("big/{}{i}", PARTS[r.below(PARTS.len() as u64) as usize].replace('/', "")), "x");
    }
    for i in 0..3000 {
        tar.file(format!("{i}"), "");
    }
    assert_eq!(both(&[tar.end()]).len(), 8001);
}

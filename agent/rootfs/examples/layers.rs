//! Measures the layer store: `layers STORE [directory] TAR...` writes the tars, commits, mounts and removes them;
//! `layers STORE entries N` does so with a layer of N empty files.

use anyhow_free::Result;
use berth_model::{Digest, digest::Algorithm};
use berth_rootfs::{Driver, LayerStore, MountOptions, WritableLayer, remove_tree};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

mod anyhow_free {
    pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM unknown").replace('\t', " ")
}

/// A header of an empty file.
fn header(name: &str) -> [u8; 512] {
    let mut b = [0u8; 512];
    b[..name.len()].copy_from_slice(name.as_bytes());
    for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (124, "00000000000"), (136, "14000000000")]
    {
        b[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    b[148..156].fill(b' ');
    b[156] = b'0';
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    b[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    b
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    let dir = args.next().ok_or("usage: layers STORE [directory] TAR... | layers STORE entries N")?;
    let dir = Path::new(&dir);
    let driver = if args.next_if_eq("directory").is_some() { Driver::Directory } else { Driver::Erofs };
    let store = LayerStore::open(&dir.join("store"), driver)?;
    let mut digests = Vec::new();
    let (mut writing, mut committing) = (Duration::ZERO, Duration::ZERO);
    if args.next_if_eq("entries").is_some() {
        let count: u32 = args.next().ok_or("how many")?.parse()?;
        let mut writer = store.writer()?;
        let start = Instant::now();
        for i in 0..count {
            writer.write(&header(&format!("usr/share/folder-{:04}/file-number-{i}", i / 256)))?;
        }
        writing = start.elapsed();
        let digest = Digest::from_bytes(Algorithm::Sha256, &[7; 32]);
        let start = Instant::now();
        writer.commit(&digest)?;
        committing = start.elapsed();
        digests.push(digest);
    }
    for (i, tar) in args.enumerate() {
        let mut file = std::fs::File::open(&tar)?;
        let mut buffer = vec![0; 256 << 10];
        let mut writer = store.writer()?;
        let mut wrote = Duration::ZERO;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            let start = Instant::now();
            writer.write(&buffer[..n])?;
            wrote += start.elapsed();
        }
        let digest = Digest::from_bytes(Algorithm::Sha256, &[i as u8; 32]);
        let start = Instant::now();
        let info = writer.commit(&digest)?;
        let committed = start.elapsed();
        println!("{tar}: {} bytes, write {:.1} ms, commit {:.1} ms", info.tar_bytes, ms(wrote), ms(committed));
        (writing, committing) = (writing + wrote, committing + committed);
        digests.push(digest);
    }
    println!("all: write {:.1} ms, commit {:.1} ms, {}", ms(writing), ms(committing), peak_memory());
    let mut times = Vec::new();
    let mut removals = Vec::new();
    for i in 0..200 {
        let own = dir.join(format!("c{i}"));
        std::fs::create_dir(&own)?;
        let start = Instant::now();
        let upper = WritableLayer::create(&own)?;
        let made = start.elapsed();
        let start = Instant::now();
        let root = store.mount(&digests, &upper, MountOptions { volatile: true, ..MountOptions::default() })?;
        let mounted = start.elapsed();
        if i == 0 {
            println!("first mount {:.0} us", mounted.as_secs_f64() * 1e6);
        }
        let start = Instant::now();
        drop(root);
        let dropped = start.elapsed();
        let start = Instant::now();
        WritableLayer::remove(&own)?;
        removals.push(start.elapsed());
        times.push((mounted, made, dropped));
    }
    times.sort();
    removals.sort();
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let (mounted, made, dropped) = times[times.len() / 2];
    println!(
        "median: mount {:.0} us, upper+work {:.0} us, umount {:.0} us, remove upper+work {:.0} us",
        us(mounted),
        us(made),
        us(dropped),
        us(removals[100])
    );
    let start = Instant::now();
    for digest in &digests {
        store.remove(digest)?;
    }
    let removed = start.elapsed();
    store.settle()?;
    println!("remove {:.2} ms, space given back after {:.1} ms", ms(removed), ms(start.elapsed()));
    drop(store);
    remove_tree(&dir.join("store"))?;
    Ok(())
}

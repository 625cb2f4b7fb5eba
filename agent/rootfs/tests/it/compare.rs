//! Both stores and GNU tar agree on what a tar is.

use crate::listing::{Scratch, folder, list, same};
use crate::tarball::Tar;
use berth_model::{Digest, digest::Algorithm};
use berth_rootfs::{Driver, LayerStore, MountOptions, RootMount, RootfsError, WritableLayer};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

/// A made-up digest: the store believes its caller.
pub fn digest(n: u8) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, &[n; 32])
}

pub fn ingest(store: &LayerStore, n: u8, tar: &[u8]) -> Result<Digest, RootfsError> {
    let mut writer = store.writer()?;
    // Pieces that cut headers anywhere.
    for piece in tar.chunks(100_003) {
        writer.write(piece)?;
    }
    let digest = digest(n);
    writer.commit(&digest)?;
    Ok(digest)
}

pub fn mount(store: &LayerStore, scratch: &Scratch, name: &str, layers: &[Digest]) -> RootMount {
    let upper = WritableLayer::create(&scratch.path(name)).expect("upper");
    store.mount(layers, &upper, MountOptions { volatile: true, ..MountOptions::default() }).expect("mount")
}

/// Layers (bottom first) through one store.
pub fn through(driver: Driver, layers: &[Vec<u8>]) -> Result<BTreeMap<String, String>, RootfsError> {
    let scratch = Scratch::new();
    let store = LayerStore::open(&scratch.path("store"), driver)?;
    let mut digests = Vec::new();
    for (i, tar) in layers.iter().enumerate() {
        digests.push(ingest(&store, i as u8, tar)?);
    }
    let root = mount(&store, &scratch, "c", &digests);
    let fd = root.fd().expect("fd");
    let mut listing = list(fd.as_fd());
    // The root's own attributes are the upper folder's.
    listing.remove("/");
    Ok(listing)
}

/// The listing that both stores agree on.
pub fn both(layers: &[Vec<u8>]) -> BTreeMap<String, String> {
    let erofs = through(Driver::Erofs, layers).expect("erofs");
    let directory = through(Driver::Directory, layers).expect("directory");
    same("erofs and directory", &erofs, &directory);
    erofs
}

/// GNU tar's idea. Marks of an overlayfs on which the tar was made mean nothing here.
pub fn gnu_tar(tar: &Path) -> BTreeMap<String, String> {
    let scratch = Scratch::new();
    let out = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--xattrs-exclude=trusted.overlay.*", "--numeric-owner", "-xpf"])
        .arg(tar)
        .arg("-C")
        .arg(&scratch.0)
        .output()
        .expect("tar");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut listing = list(folder(&scratch.0).as_fd());
    listing.remove("/");
    listing
}

fn sh(script: &str, dir: &Path) {
    let out = Command::new("sh").arg("-ec").arg(script).current_dir(dir).output().expect("sh");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn every_format_of_gnu_tar() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("in")).expect("mkdir");
    sh(
        r#"cd in
        umask 022
        mkdir -p a/b/c empty "$(printf 'odd\nname\\')" sticky
        chmod 1777 sticky; chmod 2755 a
        echo hello > a/file; chmod 4755 a/file; chown 1000:1001 a/file
        : > a/empty; ln a/file a/b/hard; ln -s file a/sym; ln -s /etc/passwd a/abs
        head -c 100000 /dev/urandom > a/b/c/data; touch -d '2001-02-03 04:05:06.789012345' a/b/c/data
        mknod a/fifo p; mknod a/char c 1 3; mknod a/block b 7 5
        for i in $(seq 1 300); do echo $i > a/b/f$i; done
        truncate -s 3M sparse; printf x | dd of=sparse bs=1 seek=1048576 conv=notrunc status=none; printf end >> sparse
        truncate -s 1M hole
        for i in $(seq 1 40); do printf '%08192d' $i | dd of=many bs=8192 seek=$((i*3)) conv=notrunc status=none; done
        ln -s "$(printf 'x%.0s' $(seq 1 600))" longsym"#,
        &scratch.0,
    );
    let long = "n".repeat(250);
    let deep = scratch.path("in").join(&long).join("d".repeat(200)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).expect("mkdir");
    std::fs::write(deep.join("leaf"), "deep").expect("write");
    for format in ["gnu", "pax", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0", "plain-gnu"] {
        let tar = scratch.path("t.tar");
        let args: &[&str] = match format {
            "gnu" => &["--format=gnu", "--sparse"],
            "plain-gnu" => &["--format=gnu"],
            "pax" => &["--format=posix"],
            version => &["--format=posix", "--sparse", version],
        };
        let out =
            Command::new("tar").args(args).args(["-cf"]).arg(&tar).arg("-C").arg(scratch.path("in")).arg(".").output();
        assert!(out.expect("tar").status.success());
        let bytes = std::fs::read(&tar).expect("tar file");
        same(format, &both(std::slice::from_ref(&bytes)), &gnu_tar(&tar));
    }
    // Attributes: GNU tar writes them as SCHILY.xattr.
    sh(
        "setfattr -n user.a -v 1 in/a/file; setfattr -n user.b -v two in/a; setfattr -n trusted.t -v 3 in/a/sym -h
         setcap cap_net_raw+ep in/a/b/f1 2>/dev/null || setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 in/a/b/f1
         tar --format=posix --xattrs --xattrs-include='*' -cf t.tar -C in .",
        &scratch.0,
    );
    let bytes = std::fs::read(scratch.path("t.tar")).expect("tar file");
    let listing = both(std::slice::from_ref(&bytes));
    assert!(listing["/a/b/f1"].contains("security.capability"), "{}", listing["/a/b/f1"]);
    assert!(listing["/a/sym"].contains("trusted.t=3"), "{}", listing["/a/sym"]);
    same("xattrs", &listing, &gnu_tar(&scratch.path("t.tar")));
}

/// Real layers: `BERTH_LAYER_TARS` is a list of tars with colons between.
#[test]
fn layers_named_in_the_environment() {
    let Ok(tars) = std::env::var("BERTH_LAYER_TARS") else { return };
    for tar in tars.split(':') {
        let bytes = std::fs::read(tar).expect("tar");
        let mut wanted = gnu_tar(Path::new(tar));
        // Folders without an entry have no time in the tar; GNU tar takes the clock's.
        for (path, line) in through(Driver::Erofs, std::slice::from_ref(&bytes)).expect("erofs") {
            if line == "Directory 755 0:0 0.000000000" {
                wanted.insert(path, line);
            }
        }
        same(tar, &through(Driver::Erofs, std::slice::from_ref(&bytes)).expect("erofs"), &wanted);
        same(tar, &through(Driver::Directory, std::slice::from_ref(&bytes)).expect("directory"), &wanted);
        println!("{tar}: {} names agree", wanted.len());
    }
}

#[test]
fn the_last_name_of_a_folder_is_found_whatever_its_size() {
    // Names of every length end folders on every byte of an inode's 32; and one folder has a tail behind whole blocks.
    let mut tar = Tar::new();
    for length in 1..=64 {
        let name = "n".repeat(length);
        tar.file(format!("folders/{length:02}/{name}"), "x");
    }
    for number in 0..1000 {
        tar.file(format!("folders/many/{number:04}"), "x");
    }
    let found = both(&[tar.file("folders/next/file", "x").end()]);
    let missing: Vec<usize> =
        (1..=64).filter(|l| !found.contains_key(&format!("/folders/{l:02}/{}", "n".repeat(*l)))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(found.keys().filter(|name| name.starts_with("/folders/many/")).count(), 1000);
}

//! Tars made to do harm: contained, or refused by name; always the same in both stores.

use crate::compare::{both, through};
use crate::tarball::{Entry, Tar, header, seal};
use berth_rootfs::{Driver, RootfsError};
use std::path::Path;

fn refused(tar: &[u8], entry: &str, problem: &str) {
    for driver in [Driver::Erofs, Driver::Directory] {
        match through(driver, &[tar.to_vec()]) {
            Err(e @ RootfsError::BadLayer(_)) => {
                assert!(e.bad_layer() && !e.disk_full());
                let text = e.to_string();
                assert!(
                    text.contains(entry) && text.contains(problem),
                    "{driver:?}: {text} (wanted {entry:?}, {problem:?})"
                );
            }
            other => panic!("{driver:?}: {entry}: {problem}: {other:?}"),
        }
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["../x", "a/../../x", "/../x", "./..", "a/b/../../../etc/x"] {
        refused(&Tar::new().file(name, "x").end(), name, "leads out");
    }
    refused(&Tar::new().dir("a").link("a/l", "../../etc/passwd").end(), "a/l", "leads out");
    let got = both(&[Tar::new().file("/abs/./x", "1").file("a/b/../c", "2").file("./d//e/", "3").end()]);
    assert_eq!(got.keys().collect::<Vec<_>>(), ["/a", "/a/c", "/abs", "/abs/x", "/d", "/d/e"]);
    assert!(!Path::new("/abs").exists());
}

#[test]
fn links_as_parents_stay_inside() {
    let mut tar = Tar::new();
    tar.symlink("out", "/").symlink("up", "../../../..").symlink("chain", "out/up/out").symlink("dangling", "no/where");
    tar.file("out/one", "1").file("up/two", "2").file("chain/three", "3").file("dangling/four", "4");
    let got = both(&[tar.end()]);
    for path in ["/one", "/two", "/three", "/no/where/four"] {
        assert!(got.contains_key(path), "{path} {got:?}");
        assert!(!Path::new(path).exists(), "{path} on the host");
    }
    refused(&Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "").end(), "a/x", "too many levels");
    refused(&Tar::new().file("f", "").file("f/x", "").end(), "f/x", "not a folder");
    let mut device = Tar::new();
    device.add(Entry { dev: (1, 3), ..Entry::new("d", b'3') }).file("d/x", "");
    refused(&device.end(), "d/x", "not a folder");
}

#[test]
fn hard_links_reach_only_files_of_the_layer() {
    refused(&Tar::new().link("l", "etc/passwd").end(), "\"l\"", "not in this layer");
    refused(&Tar::new().link("a", "b").link("b", "a").end(), "\"a\"", "not in this layer");
    refused(&Tar::new().dir("d").link("l", "d").end(), "\"l\"", "is a folder");
    refused(&Tar::new().link("l", "/").end(), "\"l\"", "is a folder");
    refused(&Tar::new().file(".wh.x", "").link("l", "x").end(), "\"l\"", "not in this layer");
    let mut tar = Tar::new();
    tar.file("a", "1").link("b", "a").link("a", "a").symlink("s", "a").link("t", "s").symlink("dir", "sub").dir("sub");
    tar.file("sub/x", "2").link("y", "dir/x").file("a", "new");
    let got = both(&[tar.end()]);
    assert!(got["/a"].contains("links 1") && got["/b"].contains("links 1"), "the last a is another file: {got:?}");
    assert!(got["/t"].contains("-> a") && got["/t"].contains("links 2"), "{got:?}");
    assert!(got["/y"].contains("links 2"), "{got:?}");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let mut tar = Tar::new();
    tar.file("x", "file").dir("x").file("x/in", "1").dir("y").file("y/in", "1").file("y", "now a file");
    tar.dir("z").file("z/keep", "").add(Entry { mode: 0o700, ..Entry::new("z", b'5') });
    tar.symlink("l", "z").file("l", "a file over a link");
    let got = both(&[tar.end()]);
    let names: Vec<_> = got.keys().map(String::as_str).collect();
    assert_eq!(names, ["/l", "/x", "/x/in", "/y", "/z", "/z/keep"]);
    assert!(got["/z"].starts_with("Directory 700") && got["/l"].starts_with("Regular"));
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = Tar::new()
        .file("a", "")
        .file("b", "")
        .dir("d")
        .file("d/one", "")
        .dir("e")
        .file("e/one", "")
        .dir("f")
        .file("f/x", "")
        .end();
    let mut upper = Tar::new();
    upper.file(".wh.a", "").file("d/.wh..wh..opq", "").file("d/two", "");
    // A name that is whited out and made again, in both orders.
    upper
        .file(".wh.e", "")
        .file("e/two", "")
        .file("b", "new")
        .file(".wh.b", "")
        .file(".wh.not-there", "")
        .file(".wh..wh.plnk", "");
    let upper = upper.end();
    let got = both(&[lower.clone(), upper]);
    let names: Vec<_> = got.keys().map(String::as_str).collect();
    assert_eq!(names, ["/b", "/d", "/d/two", "/e", "/e/two", "/f", "/f/x"]);
    let all = both(&[lower, Tar::new().file(".wh..wh..opq", "").file("only", "").end()]);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["/only"]);
    for name in [".wh.", "d/.wh.", ".wh..", ".wh..."] {
        refused(&Tar::new().file(name, "").end(), name, "whiteout");
    }
    refused(&Tar::new().file(".wh.x/y", "").end(), ".wh.x/y", "whiteout");
}

#[test]
fn whiteouts_that_hide_nothing_are_not_seen() {
    // Folders that only one layer has: overlayfs hands on what that layer's file system lists.
    let mut top = Tar::new();
    top.dir("d").file("d/.wh.gone", "").file("d/y", "").file("d/.wh.x", "").file("d/x", "again");
    top.file("implied/.wh.a", "").file("implied/deep/.wh.b", "");
    top.file("opaque/.wh..wh..opq", "").file("opaque/.wh.c", "");
    let top = top.end();
    let names = ["/d", "/d/x", "/d/y", "/implied", "/implied/deep", "/opaque"];
    let bottom = Tar::new().file("other", "").file("opaque/c", "").file("opaque/d", "").end();
    let got = both(&[bottom, top.clone()]);
    assert_eq!(got.keys().filter(|k| *k != "/other").collect::<Vec<_>>(), names);
    assert_eq!(both(&[top]).keys().collect::<Vec<_>>(), names);
}

#[test]
fn an_image_cannot_steer_the_overlay() {
    let lower = Tar::new().dir("d").file("d/secret", "").file("gone", "").end();
    let mut upper = Tar::new();
    upper.add(Entry { pax: vec![(b"SCHILY.xattr.trusted.overlay.opaque", b"y".to_vec())], ..Entry::new("d", b'5') });
    upper.add(Entry {
        pax: vec![(b"LIBARCHIVE.xattr.trusted.overlay.redirect", b"L2V0Yw==".to_vec())],
        ..Entry::new("r", b'5')
    });
    // A raw character device 0:0.
    upper.add(Entry::new("gone", b'3')).file("mine", "").add(Entry::new("mine", b'3'));
    let got = both(&[lower, upper.end()]);
    assert_eq!(got.keys().map(String::as_str).collect::<Vec<_>>(), ["/d", "/d/secret", "/gone", "/r"]);
    assert!(!got.values().any(|l| l.contains("overlay")), "{got:?}");
}

#[test]
fn devices_are_kept_and_odd_types_refused() {
    let mut tar = Tar::new();
    tar.add(Entry { dev: (1, 3), mode: 0o666, ..Entry::new("null", b'3') });
    tar.add(Entry { dev: (259, 70_000), ..Entry::new("disk", b'4') }).add(Entry::new("fifo", b'6'));
    let got = both(&[tar.end()]);
    assert!(got["/null"].contains("CharDevice 666") && got["/null"].contains(" 1:3"), "{got:?}");
    assert!(got["/disk"].contains(" 259:70000"), "{got:?}");
    assert!(got["/fifo"].contains("Fifo"));
    refused(&Tar::new().add(Entry::new("odd", b'Z')).end(), "odd", "type 'Z'");
    refused(&Tar::new().add(Entry { dev: (4096, 0), ..Entry::new("far", b'4') }).end(), "far", "out of range");
    refused(&Tar::new().symlink("empty", "").end(), "empty", "name is empty");
    refused(&Tar::new().file(".", "").end(), "\".\"", "root must be a folder");
}

#[test]
fn names_are_bounded() {
    let long = "n".repeat(255);
    both(&[Tar::new().file(&long, "x").end()]);
    refused(&Tar::new().file("n".repeat(256), "").end(), "nnn", "longer than 255");
    refused(&Tar::new().file("n".repeat(65536), "").end(), "nnn", "longer than 4096");
    let mut gnu = Tar::new();
    let name = vec![b'g'; 65536];
    let h = header(b"././@LongLink", b'L', name.len() as u64, &Entry::new("", b'L'));
    gnu.raw(&h, &name);
    refused(&gnu.file("g", "").end(), "ggg", "longer than 4096");
    // 2,000 levels are fine, more than PATH_MAX by way of a link are not.
    let deep = "d/".repeat(2000);
    assert_eq!(both(&[Tar::new().file(format!("{deep}leaf"), "x").end()]).len(), 2001);
    let deeper = Tar::new().dir(&deep).symlink("l", &deep).dir(format!("l/{deep}")).end();
    refused(&deeper, "l/d", "longer than 4096");
    let mut nul = Tar::new();
    nul.add(Entry { pax: vec![(b"path", b"a\0b".to_vec())], ..Entry::new("x", b'0') });
    refused(&nul.end(), "a\\0b", "NUL");
}

/// Each entry goes through 39 links, each of which goes down and up 800 times: an hour for a tar that compresses to a megabyte.
#[test]
fn the_ways_of_links_are_bounded() {
    let mut tar = Tar::new();
    tar.dir("d").symlink("l", "d/../".repeat(800));
    for n in 0..4000 {
        // Not the folder of the entry before.
        tar.file(format!("{}x{n}", "l/".repeat(38 + n % 2)), "");
    }
    let begun = std::time::Instant::now();
    refused(&tar.end(), "l/l/", "names on the ways of its links");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    // What images do is far from it.
    let mut tar = Tar::new();
    tar.symlink("lib", "usr/lib").dir("usr/lib");
    for n in 0..3000 {
        tar.file(format!("lib/d{n}/f"), "");
    }
    assert_eq!(both(&[tar.end()]).len(), 3 + 6000);
}

#[test]
fn broken_tars_are_refused() {
    let good = Tar::new().file("file", "0123456789").end();
    for cut in [1, 100, 511, 512 + 9] {
        refused(&good[..cut], "", "ends in the middle");
    }
    // The end mark and the last padding may be missing.
    for length in [512 + 10, 1024, 1536] {
        assert_eq!(both(&[good[..length].to_vec()]).len(), 1, "{length}");
    }
    let mut bad = good.clone();
    bad[0] ^= 1;
    refused(&bad, "gile", "checksum");
    let mut field: [u8; 512] = good[..512].try_into().expect("a block");
    field[124] = b'z';
    seal(&mut field);
    refused(&field, "file", "size is no number");
    for (key, value, problem) in [
        (&b"size"[..], &b"-1"[..], "PAX record \"size\""),
        (b"uid", b"4294967296", "PAX record \"uid\""),
        (b"mtime", b"now", "PAX record \"mtime\""),
        (b"GNU.sparse.map", b"0,1,x", "sparse map"),
        (b"GNU.sparse.numbytes", b"1", "sparse map"),
        (b"SCHILY.xattr.", b"1", "extended attribute"),
        (b"SCHILY.xattr.security.capability", b"1", "malformed"),
        (b"SCHILY.xattr.system.posix_acl_access", b"1", "malformed"),
    ] {
        let mut tar = Tar::new();
        tar.add(Entry { pax: vec![(key, value.to_vec())], data: b"x", ..Entry::new("entry", b'0') });
        refused(&tar.end(), "", problem);
    }
    let mut huge = header(b"huge", b'x', 1 << 30, &Entry::new("", b'x'));
    seal(&mut huge);
    refused(&huge, "huge", "larger than");
    assert_eq!(both(&[vec![0; 1024]]).len(), 0);
    assert_eq!(both(&[Vec::new()]).len(), 0);
    // Behind the end nothing counts, as for Docker.
    let mut twice = good.clone();
    twice.extend_from_slice(&Tar::new().file("hidden", "").end());
    assert_eq!(both(&[twice]).len(), 1);
}

#[test]
fn sparse_maps_must_fit() {
    let sparse = |map: &str, real: &str, data: &[u8]| {
        let mut tar = Tar::new();
        let pax =
            vec![(&b"GNU.sparse.map"[..], map.as_bytes().to_vec()), (b"GNU.sparse.size", real.as_bytes().to_vec())];
        tar.add(Entry { pax, data, ..Entry::new("s", b'0') });
        tar.end()
    };
    for (map, real) in [
        ("0,5,3,5", "100"),
        ("5,5,0,5", "100"),
        ("0,11", "100"),
        ("95,10", "100"),
        ("0,9", "100"),
        ("18446744073709551615,10", "100"),
    ] {
        refused(&sparse(map, real, b"0123456789"), "\"s\"", "sparse map");
    }
    refused(&sparse("0,10", "9223372036854775808", b"0123456789"), "\"s\"", "out of range");
    // Pieces at odd places; a terabyte of nothing costs nothing.
    let got = both(&[sparse("3,4,1001,6", "5000", b"0123456789")]);
    assert!(got["/s"].contains(" 5000 "), "{got:?}");
    let one = through(Driver::Erofs, &[Tar::new().end()]).expect("empty");
    assert!(one.is_empty());
    match through(Driver::Erofs, &[sparse("0,10", "9000000000000000", b"0123456789")]) {
        Err(e) => assert!(e.bad_layer(), "{e}"),
        Ok(_) => panic!("EROFS cannot address 8 PiB"),
    }
}

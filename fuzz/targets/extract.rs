//! Tars that are written into a folder (`cp`, `volume import`): nothing gets out of it, whatever links they bring.
#![no_main]

#[path = "../tar_bytes.rs"]
mod tar_bytes;

use berth_sys::process::fchdir;
use berth_tar::{Extractor, Owner, Rules, Top};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The folder's parent, with a file beside the folder that nobody may touch.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("berth-fuzz-extract-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a folder");
    place
});

/// Runs `act` with the place as the root: what leads out of that, too, finds nothing of the host's. Only root can; others have little to lose.
fn enclosed(act: impl FnOnce()) {
    let [root, here] = ["/", "."].map(|path| std::fs::File::open(path).expect("a folder"));
    let inside = std::os::unix::fs::chroot(&*PLACE).is_ok();
    act();
    if inside {
        fchdir(root.as_fd()).and_then(|()| std::os::unix::fs::chroot(".")).expect("the way back");
    }
    fchdir(here.as_fd()).expect("the way back");
}

fn others(place: &Path) -> Vec<(PathBuf, u64, u32, i64, u64)> {
    let mut found: Vec<_> = std::fs::read_dir(place)
        .expect("the place")
        .flatten()
        .filter(|e| e.file_name() != "in")
        .map(|e| (e.path(), e.metadata().expect("its metadata")))
        .map(|(path, m)| (path, m.len(), m.mode(), m.mtime(), m.ino()))
        .collect();
    found.sort();
    found
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else { return };
    let bytes = tar_bytes::mend(bytes);
    let (inside, witness) = (PLACE.join("in"), PLACE.join("witness"));
    let _ = std::fs::remove_dir_all(&inside);
    std::fs::create_dir(&inside).expect("the folder");
    if !witness.exists() {
        std::fs::write(&witness, "nobody may touch this").expect("the witness");
    }
    // A link that was there before leads out, as a container would leave it.
    std::os::unix::fs::symlink("../witness", inside.join("l")).expect("a link");
    std::os::unix::fs::symlink("..", inside.join("d")).expect("a link");
    let before = others(&PLACE);
    let base = std::fs::File::open(&inside).expect("the folder");
    let top = if how & 1 == 0 { Top::AsIs } else { Top::Renamed { from: b"a".to_vec(), to: b"b".to_vec() } };
    let rules = Rules {
        owner: if how & 2 == 0 { Owner::Mine } else { Owner::Kept },
        top,
        skip_devices: how & 4 == 0,
        keep_top: how & 8 == 0,
        follow: None,
        ids: None,
    };
    enclosed(|| {
        let mut extractor = Extractor::new(base.into(), rules);
        let _ = extractor.push(&bytes).map(|()| extractor.finish());
    });
    assert_eq!(others(&PLACE), before, "it got out");
});

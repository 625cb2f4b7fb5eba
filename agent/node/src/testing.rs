//! Records and folders for tests.

use berth_model::image::{ImageConfig, ImageRecord, LayerRecord};
use berth_model::{ContainerId, ContainerRecord, ContainerSpec, Digest, Phase, Platform, Timestamp, digest::Algorithm};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes with its value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("berth-node-{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        TempDir(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn digest(n: u8) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, &[n; 32])
}

pub fn container_record(n: u8) -> ContainerRecord {
    ContainerRecord {
        id: ContainerId::from_bytes([n; 32]),
        name: format!("test{n}"),
        spec: ContainerSpec { image: "busybox".to_owned(), ..ContainerSpec::default() },
        image_id: digest(n),
        layers: vec![digest(100)],
        created: Timestamp(1),
        phase: Phase::Created,
        started: None,
        finished: None,
        exit: None,
        error: None,
        process: None,
        networks: Default::default(),
        request: None,
        starts: 0,
        start_request: None,
        warnings: Vec::new(),
        paused: false,
        supervision: Default::default(),
        remove_volumes: false,
        userns: Default::default(),
        selinux: Default::default(),
    }
}

pub fn image_record(n: u8) -> ImageRecord {
    ImageRecord {
        id: digest(n),
        manifest: digest(n.wrapping_add(1)),
        target: digest(n.wrapping_add(2)),
        platform: Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None },
        layers: vec![LayerRecord {
            digest: digest(50),
            diff_id: digest(100),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            compressed_bytes: 1,
            size_bytes: 2,
        }],
        config: ImageConfig::default(),
        created: None,
        pulled: Timestamp(1),
        repo_digests: Vec::new(),
        author: None,
        history: Vec::new(),
        annotations: Default::default(),
    }
}

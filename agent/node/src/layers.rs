//! Layers between the registry and the layer store, and what keeps them from being removed.

use berth_image::{LayerSink, LayerWriter, SinkError};
use berth_model::Digest;
use berth_rootfs::{LayerStore, RootfsError};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// The layer store, with a memory of what pulls under way count on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Layers {
    pub store: LayerStore,
    pulls: Arc<Mutex<Pulls>>,
}

#[derive(Default)]
struct Pulls {
    under_way: usize,
    /// Layers that a pull under way was told to be there, or has brought. Empty when none is under way.
    counted_on: HashSet<Digest>,
}

/// While this lives, no layer goes that the pull counts on.
pub(crate) struct PullGuard(Layers);

impl Drop for PullGuard {
    fn drop(&mut self) {
        let mut pulls = self.0.pulls.lock().expect("pulls");
        pulls.under_way -= 1;
        if pulls.under_way == 0 {
            pulls.counted_on = HashSet::new();
        }
    }
}

impl Layers {
    pub fn new(store: LayerStore) -> Self {
        Layers { store, pulls: Arc::default() }
    }

    pub fn begin_pull(&self) -> PullGuard {
        self.pulls.lock().expect("pulls").under_way += 1;
        PullGuard(self.clone())
    }

    pub fn is_pulling(&self) -> bool {
        self.pulls.lock().expect("pulls").under_way > 0
    }

    /// A pull under way was told that it is there.
    pub fn is_counted_on(&self, diff_id: &Digest) -> bool {
        self.pulls.lock().expect("pulls").counted_on.contains(diff_id)
    }

    /// Removes a layer (blocking). `None`: a pull under way counts on it.
    pub fn remove(&self, diff_id: &Digest) -> Result<Option<u64>, RootfsError> {
        // The lock is held until it is gone: a pull is told the truth, before or after.
        let pulls = self.pulls.lock().expect("pulls");
        if pulls.counted_on.contains(diff_id) {
            return Ok(None);
        }
        self.store.remove(diff_id).map(Some)
    }
}

impl LayerSink for Layers {
    fn get(&self, diff_id: &Digest) -> Option<u64> {
        let mut pulls = self.pulls.lock().expect("pulls");
        let info = self.store.get(diff_id)?;
        if pulls.under_way > 0 {
            pulls.counted_on.insert(diff_id.clone());
        }
        Some(info.tar_bytes)
    }

    fn writer(&self) -> Result<Box<dyn LayerWriter>, SinkError> {
        let writer = self.store.writer().map_err(sink_error)?;
        Ok(Box::new(Writer { writer, layers: self.clone() }))
    }
}

struct Writer {
    writer: berth_rootfs::LayerWriter,
    layers: Layers,
}

impl LayerWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.writer.write(bytes).map_err(sink_error)
    }

    fn commit(self: Box<Self>, diff_id: &Digest) -> Result<u64, SinkError> {
        // Before it is there: from its first moment on it is counted on.
        self.layers.pulls.lock().expect("pulls").counted_on.insert(diff_id.clone());
        self.writer.commit(diff_id).map(|info| info.tar_bytes).map_err(sink_error)
    }
}

fn sink_error(e: RootfsError) -> SinkError {
    SinkError { message: e.to_string(), disk_full: e.disk_full(), bad_layer: e.bad_layer() }
}

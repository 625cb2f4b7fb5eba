//! Measures a pull: `pull REFERENCE [DIR [erofs|directory]]`. Without DIR layers are thrown away, with it they are written there: as
//! tars, or into a layer store.

use berth_image::{Images, ImagesConfig, LayerSink, LayerWriter, Progress, ProgressState, SinkError};
use berth_model::{Digest, Platform, Reference};
use berth_rootfs::{Driver, LayerStore, RootfsError};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

struct Sink(Option<PathBuf>);
struct Tar {
    bytes: u64,
    file: Option<(File, PathBuf)>,
}

/// A layer store as the node has it.
struct Layers(LayerStore);
struct Layer(berth_rootfs::LayerWriter);

fn rootfs_error(e: RootfsError) -> SinkError {
    SinkError { message: e.to_string(), disk_full: e.disk_full(), bad_layer: e.bad_layer() }
}

impl LayerSink for Layers {
    fn get(&self, diff_id: &Digest) -> Option<u64> {
        self.0.get(diff_id).map(|l| l.tar_bytes)
    }
    fn writer(&self) -> Result<Box<dyn LayerWriter>, SinkError> {
        Ok(Box::new(Layer(self.0.writer().map_err(rootfs_error)?)))
    }
}

impl LayerWriter for Layer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.0.write(bytes).map_err(rootfs_error)
    }
    fn commit(self: Box<Self>, diff_id: &Digest) -> Result<u64, SinkError> {
        self.0.commit(diff_id).map(|l| l.tar_bytes).map_err(rootfs_error)
    }
}

fn error(e: std::io::Error) -> SinkError {
    SinkError { disk_full: e.kind() == std::io::ErrorKind::StorageFull, message: e.to_string(), bad_layer: false }
}

impl LayerSink for Sink {
    fn get(&self, _: &Digest) -> Option<u64> {
        None
    }
    fn writer(&self) -> Result<Box<dyn LayerWriter>, SinkError> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let file = match &self.0 {
            Some(dir) => {
                let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let path = dir.join(format!("{n}.tar"));
                Some((File::create(&path).map_err(error)?, path))
            }
            None => None,
        };
        Ok(Box::new(Tar { bytes: 0, file }))
    }
}

impl LayerWriter for Tar {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.bytes += bytes.len() as u64;
        if let Some((file, _)) = &mut self.file {
            file.write_all(bytes).map_err(error)?;
        }
        Ok(())
    }
    fn commit(self: Box<Self>, diff_id: &Digest) -> Result<u64, SinkError> {
        if let Some((file, path)) = &self.file {
            file.sync_all().map_err(error)?;
            std::fs::rename(path, path.with_file_name(format!("{}.tar", diff_id.hex()))).map_err(error)?;
        }
        Ok(self.bytes)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let reference: Reference = args.next().ok_or("usage: pull REFERENCE [DIR]")?.parse()?;
    let out = args.next().map(PathBuf::from);
    let driver = match args.next().as_deref() {
        None => None,
        Some("erofs") => Some(Driver::Erofs),
        Some("directory") => Some(Driver::Directory),
        Some(other) => return Err(format!("no layer store is called {other}").into()),
    };
    let store = std::env::temp_dir().join(format!("berth-image-pull-{}", std::process::id()));
    if let Some(dir) = &out {
        std::fs::create_dir_all(dir)?;
    }
    let config = ImagesConfig { dir: store.clone(), ..ImagesConfig::default() };
    let layers = match (&out, driver) {
        (Some(dir), Some(driver)) => Some(LayerStore::open(&dir.join("store"), driver)?),
        _ => None,
    };
    let sink: Arc<dyn LayerSink> = match &layers {
        Some(layers) => Arc::new(Layers(layers.clone())),
        None => Arc::new(Sink(out)),
    };
    let images = Images::open(config, sink)?;
    let start = Instant::now();
    let tell = move |p: Progress| {
        if std::env::var_os("VERBOSE").is_some() || p.state == ProgressState::Done || p.status.is_some() {
            let layer = p.layer.as_ref().map_or("image", |d| d.short());
            eprintln!(
                "{:6.3} s  {layer:12} {:?} {} of {} {}",
                start.elapsed().as_secs_f64(),
                p.state,
                p.current_bytes,
                p.total_bytes,
                p.status.unwrap_or_default()
            );
        }
    };
    let pulled = images.pull(&reference, &Platform::host(), None, Arc::new(tell)).await;
    let took = start.elapsed();
    std::fs::remove_dir_all(&store)?;
    let pulled = pulled?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    println!(
        "{} fetched {} tar {} in {took:.3?}; {peak}",
        pulled.record.id,
        pulled.fetched_bytes,
        pulled.record.size_bytes()
    );
    if let Some(layers) = layers {
        let start = Instant::now();
        for layer in &pulled.record.layers {
            layers.remove(&layer.diff_id)?;
        }
        let removed = start.elapsed();
        layers.settle()?;
        println!("layers removed in {removed:.3?}, their space given back in {:.3?}", start.elapsed());
    }
    Ok(())
}

//! A registry on loopback that misbehaves as a test wants, and a layer store in memory.

use aws_lc_rs::digest::{SHA256, digest};
use berth_image::{Images, ImagesConfig, LayerSink, LayerWriter, Limits, Progress, SinkError};
use berth_model::digest::Algorithm;
use berth_model::{Digest, Platform, Reference};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Algorithm::Sha256, digest(&SHA256, bytes).as_ref())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress to nothing, different for each seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&(state & 0x3f3f_3f3f_3f3f_3f3f).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// One gzip layer of `length` bytes of tar.
pub fn layer(length: usize, seed: u64) -> (&'static str, Vec<u8>, Vec<u8>) {
    let tar = noise(length, seed);
    ("+gzip", gzip(&tar), tar)
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// An answer, and how it goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Content-Length; None: the body's.
    pub length: Option<usize>,
    /// No Content-Length: the body ends with the connection.
    pub until_close: bool,
    /// The connection ends behind so many bytes of the body.
    pub cut: Option<usize>,
    /// Nothing more comes behind so many bytes of the body.
    pub stall: Option<usize>,
    /// Bytes per millisecond.
    pub rate: Option<usize>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Reply { status, ..Reply::default() }
    }
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Hook = dyn Fn(&Request, Reply) -> Reply + Send + Sync;

/// Serves what it holds; the hook may change every answer.
pub struct Fake {
    pub address: SocketAddr,
    pub content: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    pub log: Mutex<Vec<Request>>,
    hook: Box<Hook>,
}

impl Fake {
    pub async fn start(hook: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Arc<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Fake {
            address: listener.local_addr().unwrap(),
            content: Mutex::default(),
            log: Mutex::default(),
            hook: Box::new(hook),
        });
        let server = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let _ = server.serve(stream).await;
                });
            }
        });
        fake
    }

    pub async fn honest() -> Arc<Fake> {
        Fake::start(|_, reply| reply).await
    }

    pub fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub fn put(&self, path: &str, content_type: &str, bytes: &[u8]) {
        self.content.lock().unwrap().insert(path.to_owned(), (content_type.to_owned(), bytes.to_vec()));
    }

    pub fn put_manifest(&self, name: &str, tag: &str, manifest: &Value) -> Digest {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = sha256(&bytes);
        let kind = manifest["mediaType"].as_str().unwrap_or_default().to_owned();
        self.put(&format!("/v2/{name}/manifests/{tag}"), &kind, &bytes);
        self.put(&format!("/v2/{name}/manifests/{digest}"), &kind, &bytes);
        digest
    }

    /// Puts an image whose layers are `(media type suffix, blob, tar)`.
    pub fn put_image(&self, name: &str, layers: &[(&str, Vec<u8>, Vec<u8>)]) -> Digest {
        let diff_ids: Vec<String> = layers.iter().map(|(_, _, tar)| sha256(tar).to_string()).collect();
        self.put_image_with(name, layers, &diff_ids)
    }

    pub fn put_image_with(&self, name: &str, layers: &[(&str, Vec<u8>, Vec<u8>)], diff_ids: &[String]) -> Digest {
        let host = Platform::host();
        let config = json!({
            "os": host.os, "architecture": host.architecture, "created": "2024-02-03T04:05:06Z",
            "config": {"Env": ["A=b"], "Cmd": ["/bin/x"], "ExposedPorts": {"80/tcp": {}}, "Labels": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "test"}],
        });
        let config = serde_json::to_vec(&config).unwrap();
        self.put(&format!("/v2/{name}/blobs/{}", sha256(&config)), "", &config);
        let mut descriptors = Vec::new();
        for (suffix, blob, _) in layers {
            let digest = sha256(blob);
            self.put(&format!("/v2/{name}/blobs/{digest}"), "", blob);
            let kind = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
            descriptors.push(json!({"mediaType": kind, "digest": digest, "size": blob.len()}));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(&config), "size": config.len()},
            "layers": descriptors,
        });
        self.put_manifest(name, "latest", &manifest)
    }

    pub fn requests(&self, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|r| wanted(r)).cloned().collect()
    }

    pub fn blob_requests(&self, blob: &[u8]) -> Vec<Request> {
        let digest = sha256(blob).to_string();
        self.requests(|r| r.path.ends_with(&digest))
    }

    fn default_reply(&self, request: &Request) -> Reply {
        let found = self.content.lock().unwrap().get(&request.path).cloned();
        let Some((kind, bytes)) = found else {
            let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not here"}]}"#.to_vec();
            return Reply { body, ..Reply::status(404) };
        };
        let digest = sha256(&bytes).to_string();
        let total = bytes.len();
        let reply = match request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'))
        {
            Some((from, to)) => {
                let from: usize = from.parse().unwrap();
                let to = to.parse().map_or(total, |t: usize| (t + 1).min(total));
                let body = bytes[from..to].to_vec();
                Reply { body, ..Reply::status(206) }.with("Content-Range", format!("bytes {from}-{}/{total}", to - 1))
            }
            None => Reply { body: bytes, ..Reply::status(200) },
        };
        let reply = reply.with("Docker-Content-Digest", digest);
        if kind.is_empty() { reply } else { reply.with("Content-Type", kind) }
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
                // A TLS client hello: this registry speaks plain http.
                if buffer[0] == 0x16 {
                    return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
                }
            };
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end);
            let mut lines = head.lines();
            let mut first = lines.next().unwrap().split(' ');
            let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
            let headers: HashMap<String, String> =
                lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
            let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
            while buffer.len() < length {
                stream.read_buf(&mut buffer).await?;
            }
            let body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
            let request = Request { method, path, headers, body };
            self.log.lock().unwrap().push(request.clone());
            let reply = (self.hook)(&request, self.default_reply(&request));
            if !answer(&mut stream, &request, reply).await? {
                return Ok(());
            }
        }
    }
}

/// False when the connection is over.
async fn answer(stream: &mut TcpStream, request: &Request, reply: Reply) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.until_close {
        head.push_str("Connection: close\r\n\r\n");
    } else {
        head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.length.unwrap_or(reply.body.len())));
    }
    stream.write_all(head.as_bytes()).await?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
    match reply.rate {
        None => stream.write_all(&reply.body[..end]).await?,
        Some(rate) => {
            for piece in reply.body[..end].chunks(rate * 5) {
                stream.write_all(piece).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    if reply.stall.is_some() {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    Ok(reply.cut.is_none() && !reply.until_close)
}

/// Layers by diff_id.
#[derive(Default)]
pub struct Layers {
    pub committed: Mutex<HashMap<Digest, Vec<u8>>>,
    pub writers: AtomicU32,
    /// Fails with a full disk behind so many bytes; 0: never.
    pub room: AtomicU64,
}

pub struct Sink(pub Arc<Layers>);

struct Writer {
    layers: Arc<Layers>,
    bytes: Vec<u8>,
}

impl LayerSink for Sink {
    fn get(&self, diff_id: &Digest) -> Option<u64> {
        self.0.committed.lock().unwrap().get(diff_id).map(|b| b.len() as u64)
    }
    fn writer(&self) -> Result<Box<dyn LayerWriter>, SinkError> {
        self.0.writers.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Writer { layers: self.0.clone(), bytes: Vec::new() }))
    }
}

impl LayerWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.bytes.extend_from_slice(bytes);
        let room = self.layers.room.load(Ordering::SeqCst);
        if room > 0 && self.bytes.len() as u64 > room {
            return Err(SinkError { message: "full".to_owned(), disk_full: true, bad_layer: false });
        }
        Ok(())
    }
    fn commit(self: Box<Self>, diff_id: &Digest) -> Result<u64, SinkError> {
        assert_eq!(sha256(&self.bytes), *diff_id, "commit means that it was checked");
        let size = self.bytes.len() as u64;
        self.layers.committed.lock().unwrap().insert(diff_id.clone(), self.bytes);
        Ok(size)
    }
}

/// A node's folder, its layers and its images.
pub struct Node {
    pub dir: PathBuf,
    pub layers: Arc<Layers>,
    pub images: Images,
    pub heard: Arc<Mutex<Vec<Progress>>>,
}

pub fn limits() -> Limits {
    Limits {
        stall: Duration::from_millis(400),
        tries: 4,
        backoff: Duration::from_millis(10),
        longest_wait: Duration::from_secs(2),
        ..Limits::default()
    }
}

impl Node {
    pub fn new() -> Node {
        Node::with(|_| {}, limits())
    }

    pub fn with(change: impl FnOnce(&mut ImagesConfig), limits: Limits) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("berth-image-test-{}-{n}", std::process::id()));
        let mut config = ImagesConfig { dir: dir.clone(), ..ImagesConfig::default() };
        change(&mut config);
        let layers = Arc::new(Layers::default());
        let images = Images::open_with(config, limits, Arc::new(Sink(layers.clone()))).unwrap();
        Node { dir, layers, images, heard: Arc::default() }
    }

    /// The same folder, opened by the next process.
    pub fn reopen(&mut self) {
        let config = ImagesConfig { dir: self.dir.clone(), ..ImagesConfig::default() };
        self.images = Images::open_with(config, limits(), Arc::new(Sink(self.layers.clone()))).unwrap();
    }

    pub async fn pull(&self, reference: &Reference) -> Result<berth_image::Pulled, berth_image::ImageError> {
        self.pull_as(reference, None).await
    }

    pub async fn pull_as(
        &self,
        reference: &Reference,
        auth: Option<berth_image::Auth>,
    ) -> Result<berth_image::Pulled, berth_image::ImageError> {
        let heard = self.heard.clone();
        let tell = Arc::new(move |p| heard.lock().unwrap().push(p));
        let platform = Platform::host();
        let pull = self.images.pull(reference, &platform, auth, tell);
        tokio::time::timeout(Duration::from_secs(30), pull).await.expect("the pull ends by itself")
    }

    pub fn layer(&self, tar: &[u8]) -> Option<Vec<u8>> {
        self.layers.committed.lock().unwrap().get(&sha256(tar)).cloned()
    }

    pub fn partials(&self) -> Vec<(PathBuf, u64)> {
        let list = |dir: &Path| -> Vec<(PathBuf, u64)> {
            std::fs::read_dir(dir)
                .unwrap()
                .map(|e| e.unwrap())
                .filter(|e| e.path().extension().is_some_and(|x| x == "partial"))
                .map(|e| (e.path(), e.metadata().unwrap().len()))
                .collect()
        };
        list(&self.dir.join("ingest"))
    }

    pub fn said(&self, words: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|p| p.status.as_deref().is_some_and(|s| s.contains(words)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

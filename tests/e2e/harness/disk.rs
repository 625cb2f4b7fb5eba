//! A disk whose every write is on record: a file system of one file, served through /dev/fuse, with a loop device on top.
//!
//! The loop driver turns the writes of the block layer into FUSE_WRITE and its flushes into FUSE_FSYNC (drivers/block/loop.c), so that the record
//! holds what a real disk would have seen, in order. [`Recording::at`] gives the bytes of a disk whose power went at any point.
//! The server can also fall silent, as a network file system does whose server is gone.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

// include/uapi/linux/fuse.h
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const BATCH_FORGET: u32 = 42;
const BIG_WRITES: u32 = 1 << 5;
const MAX_WRITE: usize = 128 << 10;
const ENOENT: i32 = -2;
const ENOSYS: i32 = -38;
const FILE: u64 = 2;

#[derive(Clone)]
pub enum Entry {
    Write(u64, Arc<[u8]>),
    Flush,
}

/// What came, in order, on top of what was there.
#[derive(Clone)]
pub struct Recording {
    pub base: Arc<Vec<u8>>,
    pub log: Vec<Entry>,
}

/// Writes that were not flushed yet when the power went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// All of them were on the disk.
    Kept,
    /// None was.
    Lost,
    /// Some were, by a number that decides which.
    Some(u64),
}

impl Recording {
    /// The disk after the first `n` entries.
    pub fn at(&self, n: usize, cache: Cache) -> Vec<u8> {
        let mut disk = (*self.base).clone();
        let log = &self.log[..n];
        let flushed = log.iter().rposition(|e| matches!(e, Entry::Flush)).map_or(0, |at| at + 1);
        for (at, entry) in log.iter().enumerate() {
            let Entry::Write(offset, bytes) = entry else { continue };
            // A disk keeps or loses its blocks one by one, not the requests.
            for (part, block) in bytes.chunks(4096).enumerate() {
                let keep = at < flushed
                    || match cache {
                        Cache::Kept => true,
                        Cache::Lost => false,
                        Cache::Some(seed) => mix(seed ^ (at as u64) << 20 ^ part as u64) & 1 == 0,
                    };
                if keep {
                    let from = *offset as usize + part * 4096;
                    disk[from..from + block.len()].copy_from_slice(block);
                }
            }
        }
        disk
    }
}

/// splitmix64's last step: the same number gives the same bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

struct State {
    disk: Vec<u8>,
    log: Vec<Entry>,
}

/// The file system with its one file. Unmounted when it is dropped.
pub struct Disk {
    mount: PathBuf,
    base: Arc<Vec<u8>>,
    state: Arc<Mutex<State>>,
    silent: Arc<AtomicBool>,
    loop_device: Option<String>,
}

impl Disk {
    /// Serves `bytes` as `mount`/disk.
    pub fn serve(mount: &Path, bytes: Vec<u8>) -> Disk {
        use std::os::fd::AsRawFd;
        fs::create_dir_all(mount).expect("mount point");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        berth_sys::mount::mount("berth-test".as_ref(), mount, "fuse", berth_sys::mount::MountFlags::NONE, &options)
            .expect("mounting fuse");
        let base = Arc::new(bytes.clone());
        let state = Arc::new(Mutex::new(State { disk: bytes, log: Vec::new() }));
        let silent = Arc::new(AtomicBool::new(false));
        let (state_, silent_) = (state.clone(), silent.clone());
        std::thread::spawn(move || serve(device, &state_, &silent_));
        Disk { mount: mount.into(), base, state, silent, loop_device: None }
    }

    /// The file as a block device.
    pub fn attach(&mut self) -> String {
        let file = self.mount.join("disk");
        let device = tool("losetup", &["-f", "--show", file.to_str().expect("utf-8")]);
        self.loop_device = Some(device.clone());
        device
    }

    /// Entries until now.
    pub fn position(&self) -> usize {
        self.state.lock().expect("state").log.len()
    }

    pub fn recording(&self) -> Recording {
        Recording { base: self.base.clone(), log: self.state.lock().expect("state").log.clone() }
    }

    /// From now on nothing is answered.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// What waits is answered, and all that comes.
    pub fn speak(&self) {
        self.silent.store(false, Ordering::SeqCst);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.speak();
        if let Some(device) = &self.loop_device {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// Runs a tool of the system; its output.
pub fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn serve(mut device: File, state: &Mutex<State>, silent: &AtomicBool) {
    let mut buffer = vec![0; MAX_WRITE + 4096];
    // An error is the end: the file system was unmounted.
    while let Ok(length) = device.read(&mut buffer) {
        while silent.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let request = &buffer[..length];
        let opcode = number(request, 4);
        if opcode == FORGET || opcode == BATCH_FORGET {
            continue;
        }
        let (error, body) = match answer(opcode, request, state) {
            Ok(body) => (0, body),
            Err(error) => (error, Vec::new()),
        };
        // fuse_out_header: length, error, the request's number.
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend(u32::try_from(16 + body.len()).expect("length").to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(body);
        // ENOENT: the caller was interrupted and no longer waits.
        let _ = device.write(&reply);
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// fuse_in_header is 40 bytes: length, opcode, number, node, uid, gid, pid, lengths.
fn answer(opcode: u32, request: &[u8], state: &Mutex<State>) -> Result<Vec<u8>, i32> {
    let (node, body) = (long(request, 16), &request[40..]);
    let size = || state.lock().expect("state").disk.len() as u64;
    match opcode {
        INIT => Ok(init()),
        LOOKUP if body == b"disk\0" => {
            // fuse_entry_out: node, generation, four times of validity, attributes.
            let mut out = Vec::new();
            out.extend(FILE.to_ne_bytes());
            out.extend(0u64.to_ne_bytes());
            out.extend(3600u64.to_ne_bytes());
            out.extend(3600u64.to_ne_bytes());
            out.extend(0u64.to_ne_bytes());
            out.extend(attributes(FILE, size()));
            Ok(out)
        }
        LOOKUP => Err(ENOENT),
        GETATTR | SETATTR => {
            let mut out = Vec::new();
            out.extend(3600u64.to_ne_bytes());
            out.extend(0u64.to_ne_bytes());
            out.extend(attributes(node, size()));
            Ok(out)
        }
        OPEN | OPENDIR => Ok(vec![0; 16]),
        READDIR | RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
        READ => {
            let state = state.lock().expect("state");
            let from = (long(body, 8) as usize).min(state.disk.len());
            let to = (from + number(body, 16) as usize).min(state.disk.len());
            Ok(state.disk[from..to].to_vec())
        }
        WRITE => {
            let (offset, length) = (long(body, 8), number(body, 16) as usize);
            let bytes: Arc<[u8]> = body[40..40 + length].into();
            let mut state = state.lock().expect("state");
            state.disk[offset as usize..offset as usize + length].copy_from_slice(&bytes);
            state.log.push(Entry::Write(offset, bytes));
            let mut out = u32::try_from(length).expect("length").to_ne_bytes().to_vec();
            out.extend([0; 4]);
            Ok(out)
        }
        FSYNC => {
            state.lock().expect("state").log.push(Entry::Flush);
            Ok(Vec::new())
        }
        STATFS => Ok(vec![0; 80]),
        _ => Err(ENOSYS),
    }
}

/// fuse_init_out of protocol 7.31.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7u32, 31, 128 << 10, BIG_WRITES] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(16u16.to_ne_bytes());
    out.extend(12u16.to_ne_bytes());
    out.extend((MAX_WRITE as u32).to_ne_bytes());
    out.extend(1u32.to_ne_bytes());
    out.resize(64, 0);
    out
}

/// fuse_attr: 88 bytes.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (mode, size) = if node == FILE { (0o100_600u32, size) } else { (0o040_755u32, 0) };
    let mut out = Vec::new();
    for value in [node, size, size.div_ceil(512), 0, 0, 0] {
        out.extend(value.to_ne_bytes());
    }
    for value in [0u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        out.extend(value.to_ne_bytes());
    }
    out
}

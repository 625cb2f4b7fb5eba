//! Sealed files in memory.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a seal may take. The kernel refuses it while somebody else holds a page of the file, and tries for 150 ms by itself
/// (mm/memfd.c); what moves pages about for the whole machine may hold one longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A file in memory with this content that nobody can change any more (memfd_create(2), F_ADD_SEALS): safe to execute from and to share
/// with anyone. Close-on-exec, at offset 0.
pub fn sealed(name: &str, content: &[u8], executable: bool) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC and MFD_NOEXEC_SEAL are of Linux 6.3; a kernel with vm.memfd_noexec=1 needs the first to be said.
    let wish = if executable { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    let fd = match memfd_create(name, flags | wish) {
        Err(rustix::io::Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.seek(SeekFrom::Start(0))?;
    // Without, whoever has run it writes to it: for a test that sees what comes of it (CVE-2019-5736).
    if crate::wall::is_down("sealed") {
        return Ok(file.into());
    }
    seal(&file)?;
    Ok(file.into())
}

/// All seals or none.
fn seal(file: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fcntl_add_seals(file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE) {
            Err(Errno::BUSY) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            sealed => return Ok(sealed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn content_stays() {
        let mut file = File::from(sealed("berth-test", b"abc", false).unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
    #[test]
    fn whoever_holds_the_file_is_waited_for() {
        let fd = memfd_create("berth-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(4096).unwrap();
        let write = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping; nothing else is touched.
        let held = unsafe { libc::mmap(std::ptr::null_mut(), 4096, write, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(held, libc::MAP_FAILED);
        let once = fcntl_add_seals(&file, SealFlags::WRITE);
        assert_eq!(once, Err(Errno::BUSY), "nobody holds it");
        let held = held as usize;
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            // SAFETY: the mapping made above, which nobody reads.
            assert_eq!(unsafe { libc::munmap(held as *mut libc::c_void, 4096) }, 0);
        });
        seal(&file).unwrap();
        holder.join().unwrap();
        assert!((&file).write_all(b"x").is_err());
    }
}

//! Sealed files in memory.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

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
    fcntl_add_seals(file.as_fd(), SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn content_stays() {
        let mut file = File::from(sealed("berth-test", b"abc", false).unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}

//! Terminals: made inside the container, handed to whoever asked, or fed here for a person.

use crate::config::ConsoleSize;
use crate::error::Error;
use crate::rootfs;
use crate::tree;
use berth_sys::process::{self, Ended, Poll};
use berth_sys::{mount, oci, pty, socket, term};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Opens a terminal of the container's own devpts, sends its master through `to`, and makes it the standard streams of this process.
/// `console`: /dev/console is it, too.
pub fn make(
    root: BorrowedFd<'_>,
    to: Option<BorrowedFd<'_>>,
    size: Option<ConsoleSize>,
    console: bool,
) -> io::Result<()> {
    let (master, terminal) = pty::open(c"/dev/pts/ptmx")?;
    if let Some(size) = size {
        pty::resize(master.as_fd(), size.height, size.width)?;
    }
    if console {
        let target = tree::target(root, "/dev/console", false)?;
        // /dev may be the image's, and this a link to where a mount would hide the kernel's files (CVE-2025-52881).
        rootfs::guard_proc("/dev/console", target.as_fd(), false)?;
        let copy = oci::clone_mount(terminal.as_fd(), false)?;
        mount::move_mount_to_fd(copy.as_fd(), target.as_fd())?;
    }
    if let Some(to) = to {
        socket::send(to, &[IoSlice::new(b"/dev/ptmx")], &[master.as_fd()], true)?;
    }
    for stream in 0..3 {
        process::dup_onto(terminal.as_fd(), stream)?;
    }
    pty::make_controlling(terminal.as_fd())
}

/// Carries bytes between this process's streams and the container's terminal until the process ends.
pub fn relay(master: &OwnedFd, pid: u32, pidfd: BorrowedFd<'_>) -> Result<Ended, Error> {
    let act = |e: io::Error| Error::io("carrying the terminal's bytes")(e);
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let raw = if term::is_terminal(&stdin) { Some(term::make_raw(stdin.as_fd()).map_err(act)?) } else { None };
    let result = carry(master, stdin.as_fd(), stdout.as_fd(), pidfd);
    if let Some(saved) = raw {
        term::restore(stdin.as_fd(), &saved).map_err(act)?;
    }
    result.map_err(act)?;
    match process::reap(Some(pid), true).map_err(act)? {
        Some((_, ended)) => Ok(ended),
        None => Err(Error::State("the process ended without a status".into())),
    }
}

fn carry(master: &OwnedFd, stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = None;
    let mut reads = true;
    let mut buffer = [0; 16 << 10];
    loop {
        let now = term::window_size(stdin).ok();
        if now != size
            && let Some((rows, columns)) = now
        {
            let _ = pty::resize(master.as_fd(), rows, columns);
            size = now;
        }
        let input = if reads { Poll::new(stdin, true, false) } else { Poll::NONE };
        let mut polled = [Poll::new(master.as_fd(), true, false), input, Poll::new(pidfd, true, false)];
        // The window's size is looked at now and then.
        process::poll(&mut polled, 250)?;
        if polled[0].readable() {
            let n = process::read(master.as_fd(), &mut buffer).unwrap_or(0);
            write_all(stdout, &buffer[..n])?;
            continue;
        }
        if polled[2].readable() || polled[0].hung_up() && !polled[1].readable() {
            return Ok(());
        }
        if polled[1].readable() || polled[1].hung_up() {
            match process::read(stdin, &mut buffer) {
                Ok(n) if n > 0 => write_all(master.as_fd(), &buffer[..n])?,
                _ => {
                    // End of file, as a terminal says it: ^D.
                    reads = false;
                    write_all(master.as_fd(), &[4])?;
                }
            }
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = process::write(to, bytes)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

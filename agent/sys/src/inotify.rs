//! Folders that say when something is written in them (inotify(7)).

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Watches that have ended: each tells of one change and is gone then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fired {
    One(i32),
    /// More changes than the kernel keeps (`fs.inotify.max_queued_events`): any watch may have fired.
    Any,
}

/// A non-blocking, close-on-exec inotify instance.
pub fn open() -> io::Result<OwnedFd> {
    Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
}

/// Watches a folder until something in it is written to, made or renamed, once. The same folder has the same number as long as its watch
/// has not fired. `ENOSPC`: the user's `fs.inotify.max_user_watches` are used up.
pub fn watch_once(instance: BorrowedFd<'_>, folder: &Path) -> io::Result<i32> {
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    Ok(inotify::add_watch(instance, folder, what | WatchFlags::ONESHOT | WatchFlags::ONLYDIR)?)
}

/// Which watches have fired; empty: none since the last call. `EAGAIN` is no error here.
pub fn fired(instance: BorrowedFd<'_>) -> io::Result<Vec<Fired>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(instance.as_fd(), &mut buffer);
    let mut all = Vec::new();
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => all.push(Fired::Any),
            // The event, and a second one for the end of the watch.
            Ok(event) => all.push(Fired::One(event.wd())),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(all),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_fires_once() {
        let dir = std::env::temp_dir().join(format!("berth-sys-inotify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let instance = open().unwrap();
        let number = watch_once(instance.as_fd(), &dir).unwrap();
        assert_eq!(watch_once(instance.as_fd(), &dir).unwrap(), number);
        assert_eq!(fired(instance.as_fd()).unwrap(), []);
        std::fs::write(dir.join("a"), "1").unwrap();
        std::fs::write(dir.join("a"), "2").unwrap();
        let all = fired(instance.as_fd()).unwrap();
        assert!(!all.is_empty() && all.iter().all(|f| *f == Fired::One(number)), "{all:?}");
        std::fs::write(dir.join("a"), "3").unwrap();
        assert_eq!(fired(instance.as_fd()).unwrap(), []);
        assert_ne!(watch_once(instance.as_fd(), &dir).unwrap(), number);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

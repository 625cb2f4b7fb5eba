//! Where a path of the host leads, asked in a way that holds nobody up.
//!
//! The file system may be another machine's that does not answer (a hard NFS mount, a FUSE daemon that has stopped): whoever asks it then
//! sleeps until it does, and cannot be ended. So a thread of its own asks, and only so many of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// For an answer. Who asks is a call that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// That ask at the same time; more are not answered.
const MOST: usize = 16;

static ASKING: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Without links.
    To(String),
    /// It is not there.
    Nowhere,
    /// None came.
    None,
}

struct Asking;

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn leads_to(path: &str) -> Answer {
    let path = path.to_owned();
    ask(move || std::fs::canonicalize(path).map(|real| real.to_string_lossy().into_owned()), PATIENCE)
}

fn ask(question: impl FnOnce() -> std::io::Result<String> + Send + 'static, patience: Duration) -> Answer {
    let before = ASKING.fetch_add(1, Ordering::Relaxed);
    let asking = Asking;
    if before >= MOST {
        return Answer::None;
    }
    let (answer, answered) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("path".to_owned()).spawn(move || {
        let _asking = asking;
        let _ = answer.send(question());
    });
    if thread.is_err() {
        return Answer::None;
    }
    let wait = || match answered.recv_timeout(patience) {
        Ok(Ok(real)) => Answer::To(real),
        Ok(Err(_)) => Answer::Nowhere,
        Err(_) => Answer::None,
    };
    // The runtime's other tasks go on meanwhile.
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_holds_nobody_up() {
        assert_eq!(leads_to("/proc/self/.."), Answer::To("/proc".to_owned()));
        assert_eq!(leads_to("/not/there"), Answer::Nowhere);
        let (go, wait) = mpsc::channel::<()>();
        let stuck = move || {
            let _ = wait.recv();
            Ok(String::new())
        };
        assert_eq!(ask(stuck, Duration::from_millis(50)), Answer::None);
        assert_eq!(leads_to("/"), Answer::To("/".to_owned()));
        drop(go);
    }
}

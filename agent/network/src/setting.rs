//! Settings of the network namespace of the calling thread: /proc/sys/net.
//!
//! The kernel keeps all namespaces' entries of one name in one chain of its name cache, for each mount of procfs: through the host's /proc a
//! write beside 1,000 namespaces compares 1,000 entries for every part of the path, which was a fifth of what such a start cost. So they are
//! written through a mount of berth's own, which nobody else sees and which is given up after some namespaces.

use crate::error::NetworkError;
use berth_sys::mount::{FsContext, MountAttr};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Namespaces for one mount. Making and ending one costs what some ten walks past as many strangers do.
const USES: u32 = 64;

static VIEW: Mutex<Option<View>> = Mutex::new(None);

struct View {
    /// A mount that is in no tree. `None`: there can be none here, and the host's has to do.
    proc: Option<Arc<OwnedFd>>,
    uses: u32,
}

/// Writes settings of one namespace: keys below /proc/sys/net. A key that the kernel does not have is left out if `optional` says so.
pub(crate) fn write(settings: &[(&str, &'static str)], optional: bool) -> Result<(), NetworkError> {
    let proc = view();
    let root = proc.as_ref().map_or_else(|| "/proc".to_owned(), |fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    for (key, value) in settings {
        match fs::write(format!("{root}/sys/net/{key}"), value) {
            Err(source) if !(optional && source.kind() == ErrorKind::NotFound) => {
                return Err(NetworkError::Sysctl { key: format!("/proc/sys/net/{key}"), value, source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn view() -> Option<Arc<OwnedFd>> {
    let mut view = VIEW.lock().unwrap_or_else(PoisonError::into_inner);
    if view.as_ref().is_none_or(|v| v.uses >= USES) {
        let proc = open().inspect_err(|error| tracing::debug!(%error, "mounting a procfs for network settings"));
        *view = Some(View { proc: proc.ok().map(Arc::new), uses: 0 });
    }
    let view = view.as_mut()?;
    view.uses += 1;
    view.proc.clone()
}

/// Each is an instance of its own, with its own names (proc(5), Linux 5.8).
fn open() -> io::Result<OwnedFd> {
    let context = FsContext::open("proc")?;
    context.create()?;
    context.mount(MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_sys::net;
    use std::thread;

    const PORTS: &str = "ipv4/ip_unprivileged_port_start";

    /// In a namespace of its own: what was written, as /proc has it there.
    fn written(value: &'static str) -> String {
        thread::scope(|scope| {
            let within = || {
                net::unshare_network().unwrap();
                write(&[(PORTS, value)], false).unwrap();
                fs::read_to_string(format!("/proc/sys/net/{PORTS}")).unwrap().trim().to_owned()
            };
            scope.spawn(within).join().unwrap()
        })
    }

    #[test]
    fn each_namespace_gets_its_own() {
        let before = fs::read_to_string(format!("/proc/sys/net/{PORTS}")).unwrap();
        // More than one mount serves.
        for n in 0..2 * USES + 3 {
            let value = ["0", "80", "1023"][n as usize % 3];
            assert_eq!(written(value), value);
        }
        assert_eq!(fs::read_to_string(format!("/proc/sys/net/{PORTS}")).unwrap(), before);
    }

    #[test]
    fn what_the_kernel_does_not_have_is_told_or_left_out() {
        write(&[("ipv4/there_is_none", "1")], true).unwrap();
        let error = write(&[("ipv4/there_is_none", "1")], false).unwrap_err();
        assert!(error.to_string().contains("/proc/sys/net/ipv4/there_is_none"), "{error}");
    }
}

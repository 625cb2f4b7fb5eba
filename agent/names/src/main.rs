//! `berth-names FOLDER BUILD`, with the socket that agents connect to as standard input. Started by the agent, and outlives it.
#![forbid(unsafe_code)]

use berth_names::Server;
use berth_sys::filter::{self, Rule, Test};
use berth_sys::fs::{self, Open};
use berth_sys::landlock::{self, Domain};
use berth_sys::{cap, process};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

/// nobody's: what it may do is in the two capabilities that are left.
const NOBODY: u32 = 65534;
/// Descriptors: a socket for each question that another server is asked, and those that listen.
const MAX_FILES: u64 = 8192;

/// Beside what every program calls, and epoll.
const CALLS: &[Rule] = &[
    filter::SOCKET.when(filter::INTERNET),
    filter::BIND.always(),
    filter::LISTEN.always(),
    filter::ACCEPT4.always(),
    filter::CONNECT.always(),
    filter::GETSOCKNAME.always(),
    filter::GETSOCKOPT.always(),
    filter::SETSOCKOPT.always(),
    filter::RECVMMSG.always(),
    filter::RECVMSG.always(),
    filter::RECVFROM.always(),
    filter::SENDMSG.always(),
    filter::SENDTO.always(),
    filter::IOCTL.when(&[Test { argument: 1, mask: u32::MAX, values: &[filter::INTERFACE_INDEX] }]),
    filter::GETDENTS64.always(),
    filter::GETRANDOM.always(),
];

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("berth-names: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<std::convert::Infallible> {
    // Not the agent's session: its death, its terminal and its signals are not ours.
    process::setsid()?;
    process::set_name(c"berth-names")?;
    process::unblock_signals()?;
    let mut args = std::env::args_os().skip(1);
    let (folder, build) = (args.next().unwrap_or_default(), args.next().and_then(|b: OsString| b.into_string().ok()));
    let agents = io::stdin().as_fd().try_clone_to_owned()?;
    let folder = fs::open(&folder, Open::RDONLY | Open::DIRECTORY, 0)?;
    // The files of networks are read from here later on, when the way to them is closed.
    process::fchdir(folder.as_fd())?;
    let pid = std::process::id();
    let mark = format!("{pid} {} {}\n", process::start_time(pid)?, build.as_deref().unwrap_or("-"));
    std::fs::write("pid.new", mark)?;
    std::fs::rename("pid.new", "pid")?;
    let (_, hard) = process::rlimit(nofile())?;
    process::set_rlimit(nofile(), MAX_FILES.min(hard), hard)?;
    drop_rights(folder.as_fd())?;
    drop(folder);
    Server::open(agents, build.unwrap_or_default())?.run()
}

fn nofile() -> u32 {
    process::RESOURCES.iter().find(|(name, _)| *name == "nofile").map_or(7, |(_, number)| *number)
}

/// Keeps what opens port 53 on an interface and asks other servers: everything else was done before the first packet.
fn drop_rights(folder: BorrowedFd<'_>) -> io::Result<()> {
    let keep = ["NET_BIND_SERVICE", "NET_RAW"].iter().filter_map(|name| cap::bit(name)).fold(0, |all, bit| all | bit);
    cap::limit_bounding(keep)?;
    process::keep_capabilities()?;
    process::set_user(NOBODY, NOBODY, &[])?;
    cap::set(keep)?;
    process::set_undumpable()?;
    process::set_no_new_privileges()?;
    stay_among_files(folder)?;
    filter::keep_to(&[CALLS, filter::EPOLL])
}

/// Reads the networks' files and resolv.conf(5), which another program may replace, or lead to another place, at any time: so its folders. Of TCP it
/// has port 53, and to listen also one of the kernel's choice, where 53 is somebody else's.
fn stay_among_files(folder: BorrowedFd<'_>) -> io::Result<()> {
    let Some(abi) = landlock::abi() else { return Ok(()) };
    let domain = Domain::new(landlock::rights(abi), landlock::tcp(abi), landlock::scopes(abi))?;
    domain.allow(landlock::READ_FILE | landlock::READ_DIR, folder)?;
    let real = std::fs::canonicalize("/etc/resolv.conf").ok().and_then(|file| file.parent().map(Path::to_owned));
    for place in [Path::new("/etc"), Path::new("/run")].into_iter().chain(real.as_deref()) {
        // One that is not there holds no resolv.conf.
        if let Ok(place) = fs::open(place, Open::PATH | Open::DIRECTORY, 0) {
            domain.allow(landlock::READ_FILE, place.as_fd())?;
        }
    }
    for port in [0, 53] {
        domain.allow_port(landlock::BIND_TCP, port)?;
    }
    domain.allow_port(landlock::CONNECT_TCP, 53)?;
    domain.enter()
}

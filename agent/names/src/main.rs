//! `berth-names FOLDER BUILD`, with the socket that agents connect to as standard input. Started by the agent, and outlives it.
#![forbid(unsafe_code)]

use berth_names::Server;
use berth_sys::{cap, process};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

/// nobody's: what it may do is in the two capabilities that are left.
const NOBODY: u32 = 65534;
/// Descriptors: a socket for each question that another server is asked, and those that listen.
const MAX_FILES: u64 = 8192;

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
    let folder = berth_sys::fs::open(&folder, berth_sys::fs::Open::RDONLY | berth_sys::fs::Open::DIRECTORY, 0)?;
    // The files of networks are read from here later on, when the way to them is closed.
    process::fchdir(folder.as_fd())?;
    let pid = std::process::id();
    let mark = format!("{pid} {} {}\n", process::start_time(pid)?, build.as_deref().unwrap_or("-"));
    std::fs::write("pid.new", mark)?;
    std::fs::rename("pid.new", "pid")?;
    let (_, hard) = process::rlimit(nofile())?;
    process::set_rlimit(nofile(), MAX_FILES.min(hard), hard)?;
    drop_rights()?;
    Server::open(agents, build.unwrap_or_default())?.run()
}

fn nofile() -> u32 {
    process::RESOURCES.iter().find(|(name, _)| *name == "nofile").map_or(7, |(_, number)| *number)
}

/// Keeps what opens port 53 on an interface: everything else was done before the first packet.
fn drop_rights() -> io::Result<()> {
    let keep = ["NET_BIND_SERVICE", "NET_RAW"].iter().filter_map(|name| cap::bit(name)).fold(0, |all, bit| all | bit);
    cap::limit_bounding(keep)?;
    process::keep_capabilities()?;
    process::set_user(NOBODY, NOBODY, &[])?;
    cap::set(keep)?;
    process::set_no_new_privileges()
}

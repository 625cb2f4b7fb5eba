//! berth's runtime as an OCI command line, so that Podman and containerd can run their containers with it.
//!
//! `plan` decides what a config.json means; `create` does what needs the host's rights and makes the new process, `init` and `rootfs` are
//! that process until its execve; `state` is what is known between two commands, `lifecycle` and `exec` are the other commands. No process
//! of berth's stays: the container's first process is the child of whoever called `create` last, or of its subreaper, which so sees its end.
//!
//! Shared with the agent: the seccomp compiler (berth-runtime) and every system call (berth-sys). Not shared: the planner, because a bundle
//! says much that a container of the agent's never does, and the shim, because an OCI caller keeps the streams itself. Needs root.
#![forbid(unsafe_code)]

mod cgroup;
mod cli;
mod commands;
mod config;
mod console;
mod create;
mod error;
mod exec;
mod features;
mod hooks;
mod init;
mod lifecycle;
mod plan;
mod rootfs;
mod state;
mod tree;
mod trees;

use clap::Parser;
use cli::{Cli, LogFormat};
use error::{Error, Log};
use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

/// What every command needs.
#[derive(Clone, Debug)]
pub struct Context {
    pub root: PathBuf,
    /// New containers' groups are made by systemd.
    pub systemd_cgroup: bool,
    pub log: Log,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let log = Log { file: cli.log.clone(), json: cli.log_format == LogFormat::Json, debug: cli.debug };
    match run(cli, &log) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            log.error(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, log: &Log) -> Result<u8, Error> {
    if cli.version {
        println!("berth-runtime version {}\nspec: {}", env!("CARGO_PKG_VERSION"), state::OCI_VERSION);
        return Ok(0);
    }
    let Some(command) = cli.command else { return Err(Error::State("no command is given: see --help".into())) };
    let root = std::path::absolute(&cli.root).map_err(Error::io("--root"))?;
    if commands::makes_processes(&command) {
        seal()?;
        // So is what it makes, from its birth on: a process that joins a container is seen there before it has done anything.
        init::hide().map_err(Error::io("hiding this process"))?;
    }
    // What a careless caller has open is none of the container's, nor of a hook's.
    berth_sys::process::cloexec_from(3).map_err(Error::io("marking descriptors close-on-exec"))?;
    commands::run(&Context { root, systemd_cgroup: cli.systemd_cgroup, log: log.clone() }, command)
}

/// Goes on as a sealed copy of this program in memory: a container could overwrite the file by /proc/PID/exe otherwise (CVE-2019-5736).
fn seal() -> Result<(), Error> {
    const NAME: &str = "berth-runtime";
    let act = "making a sealed copy of this program";
    let own = std::fs::read_link("/proc/self/exe").map_err(Error::io(act))?;
    if own.as_os_str().as_bytes().starts_with(format!("/memfd:{NAME}").as_bytes()) {
        // It would be called by its descriptor's number otherwise.
        return berth_sys::process::set_name(c"berth-runtime").map_err(Error::io(act));
    }
    let program = std::fs::read("/proc/self/exe").map_err(Error::io(act))?;
    let copy = berth_sys::memfd::sealed(NAME, &program, true).map_err(Error::io(act))?;
    let strings = |list: Vec<std::ffi::OsString>| {
        list.into_iter().map(|s| CString::new(s.into_encoded_bytes()).unwrap_or_default()).collect::<Vec<_>>()
    };
    let args = strings(std::env::args_os().collect());
    let env = strings(
        std::env::vars_os()
            .map(|(mut key, value)| {
                key.push("=");
                key.push(value);
                key
            })
            .collect(),
    );
    let path = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap_or_default();
    let (args, env): (Vec<&CStr>, Vec<&CStr>) =
        (args.iter().map(|s| &**s).collect(), env.iter().map(|s| &**s).collect());
    Err(Error::io(act)(berth_sys::process::execve(&path, &args, &env)))
}

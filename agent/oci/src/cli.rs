//! The command line: runc's, which Podman's conmon and containerd's shims speak.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "berth-runtime",
    about = "Runs OCI containers: berth's runtime as a command line for Podman, containerd and people",
    disable_version_flag = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Folder of the containers' state
    #[arg(long, value_name = "FOLDER", default_value = "/run/berth-runtime")]
    pub root: PathBuf,
    /// File for messages, beside standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// How lines of that file look
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Write more to that file
    #[arg(long)]
    pub debug: bool,
    /// Have systemd make the group, a scope: cgroupsPath is slice:prefix:name (cgroup v2 alone)
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Print the version
    #[arg(short = 'v', long)]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a container; its program waits for `start`
    Create {
        #[command(flatten)]
        options: CreateOptions,
        /// Name of the container
        id: String,
    },
    /// Let the program of a created container run
    Start { id: String },
    /// Make a container, start it, wait for its end and delete it
    Run {
        #[command(flatten)]
        options: CreateOptions,
        /// Do not wait
        #[arg(short, long)]
        detach: bool,
        /// Do not delete it at its end
        #[arg(long)]
        keep: bool,
        /// Name of the container
        id: String,
    },
    /// Print the state of a container as JSON
    State { id: String },
    /// Send a signal to a container's first process
    Kill {
        /// To all processes
        #[arg(short, long)]
        all: bool,
        id: String,
        /// Name or number; 0: only look whether it could get one
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Delete a stopped container
    Delete {
        /// Kill it first; none of that name is fine
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Run one more process in a container
    Exec(Box<ExecOptions>),
    /// List the processes of a container
    Ps {
        #[arg(short, long, default_value = "table")]
        format: Format,
        id: String,
        /// Options for ps(1), with `--format table`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// List containers
    List {
        #[arg(short, long, default_value = "table")]
        format: Format,
        /// Names alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Freeze the processes of a container
    Pause { id: String },
    /// Let the processes of a paused container go on
    Resume { id: String },
    /// Change the limits of a container
    Update(Box<UpdateOptions>),
    /// Print what a container uses, again and again
    Events {
        /// Once
        #[arg(long)]
        stats: bool,
        /// Time between two looks, such as 5s
        #[arg(long, default_value = "5s", value_parser = seconds)]
        interval: u64,
        id: String,
    },
    /// Write a config.json to start from
    Spec {
        /// Folder for it
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
    },
    /// Print what this runtime can do, as JSON
    Features,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Table,
    Json,
}

#[derive(Args, Debug)]
pub struct CreateOptions {
    /// Folder with config.json
    #[arg(short, long, default_value = ".")]
    pub bundle: PathBuf,
    /// Socket that the master of the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File for the pid of the first process
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Enter the root by chroot(2), for hosts that run from a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Hand on this many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
}

#[derive(Args, Debug)]
pub struct ExecOptions {
    /// File with the process as JSON
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["cwd", "env", "user", "additional_gids", "cap", "no_new_privs", "apparmor", "process_label"])]
    pub process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(short, long)]
    pub user: Option<String>,
    /// One more group
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Working folder
    #[arg(long)]
    pub cwd: Option<String>,
    /// KEY=value
    #[arg(short, long)]
    pub env: Vec<String>,
    /// One more capability
    #[arg(short, long)]
    pub cap: Vec<String>,
    /// No execve gains rights
    #[arg(long)]
    pub no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Socket that the master of the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File for its pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Hand on this many descriptors from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// In a paused container, too
    #[arg(long)]
    pub ignore_paused: bool,
    pub id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Args, Debug)]
pub struct UpdateOptions {
    /// File with `linux.resources` as JSON; `-`: standard input
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Bytes; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// Bytes that are kept under pressure
    #[arg(long, allow_hyphen_values = true)]
    pub memory_reservation: Option<i64>,
    #[arg(long)]
    pub cpu_share: Option<u64>,
    /// Microseconds of a period
    #[arg(long, allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Microseconds
    #[arg(long)]
    pub cpu_period: Option<u64>,
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    /// Processes; -1: no limit
    #[arg(long, allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// 10 to 1000
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    pub id: String,
}

fn seconds(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("{text:?} is no time such as 5s"))
}

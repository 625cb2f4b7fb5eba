//! The flags of `run` and `create`, and what the API makes of them. Docker's words; a flag that is here does what it says.

pub mod limits;
pub mod mount;
pub mod network;
pub mod pairs;
pub mod port;
pub mod supervise;

use crate::complete;
use crate::error::{Error, Result};
use crate::pki::files;
use crate::units::{parse_bytes, parse_duration};
use berth::v1;
use berth_model::selinux::LabelOptions;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::path::{Path, PathBuf};

/// A profile larger than this is no seccomp profile.
const HELP_TEMPLATE_NOTE: &str = "Sizes are bytes, or numbers with b, k, m or g.";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Pull {
    Always,
    #[default]
    Missing,
    Never,
}

// What a container is made of. No doc comment: clap would take it for the description of each command that has these options.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Container", after_help = HELP_TEMPLATE_NOTE)]
pub struct Create {
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub rm: bool,
    /// Start it again when it ends: no, always, on-failure[:MAX] or unless-stopped [default: no]
    #[arg(long, value_name = "POLICY", conflicts_with = "rm")]
    pub restart: Option<String>,
    /// Start it after another container: NAME, NAME:healthy or NAME:completed
    #[arg(long, value_name = "NAME[:CONDITION]")]
    pub after: Vec<String>,
    /// Command for /bin/sh that says whether it is healthy
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub health_cmd: Option<String>,
    /// Time between two checks, such as 500ms or 30s [default: the image's, else 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Health")]
    pub health_interval: Option<std::time::Duration>,
    /// Time after which a check has failed [default: the image's, else 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Health")]
    pub health_timeout: Option<std::time::Duration>,
    /// Failures in a row that make it unhealthy [default: the image's, else 3]
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    pub health_retries: Option<u32>,
    /// Time at the start in which failures do not count
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Health")]
    pub health_start_period: Option<std::time::Duration>,
    /// Time between two checks at the start [default: the image's, else 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Health")]
    pub health_start_interval: Option<std::time::Duration>,
    /// No health check, whatever the image says
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout", "health_retries", "health_start_period", "health_start_interval"], help_heading = "Health")]
    pub no_healthcheck: bool,
    /// What becomes of it when it is unhealthy
    #[arg(long, value_name = "ACTION", value_enum, help_heading = "Health")]
    pub health_on_failure: Option<supervise::OnFailure>,
    /// Environment variable; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Program instead of the image's; empty: none
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Folder to start in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Group beside the user's own
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Run an init as process 1 that forwards signals and reaps processes
    #[arg(long)]
    pub init: bool,
    /// Label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// File of labels, one a line
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Annotation for the OCI runtime
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Signal that stops it
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds between the stop signal and the kill [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,
    /// Where the output goes: local, json-file, none, journald or syslog
    #[arg(long, value_name = "DRIVER", value_parser = ["local", "json-file", "none", "journald", "syslog"])]
    pub log_driver: Option<String>,
    /// Option of the log driver: max-size=10m (bytes of a file), max-file=5, max-age=7d, compress=false, tag, labels, env, syslog-address
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// When to pull the image
    #[arg(long, value_enum, default_value = "missing", help_heading = "Image")]
    pub pull: Pull,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", help_heading = "Image")]
    pub platform: Option<String>,

    /// Volume by its name, or a folder or file of the host; options: ro, rw, nocopy (volume), a propagation such as rslave (host), z and Z: where
    /// containers have SELinux labels, the files become all containers' (z) or this one's alone (Z); elsewhere they do nothing. CONTAINER alone: a
    /// volume of its own
    #[arg(short, long, value_name = "[SOURCE:]CONTAINER[:OPTIONS]", help_heading = "Files")]
    pub volume: Vec<String>,
    /// Volumes and bind mounts of another container, too; :ro for read-only
    #[arg(long, value_name = "CONTAINER[:ro]", help_heading = "Files", add = ArgValueCompleter::new(complete::containers))]
    pub volumes_from: Vec<String>,
    /// Mount: type=volume,source=NAME,target=/a[,readonly][,volume-subpath=DIR], type=bind,source=/a,target=/b[,bind-recursive=disabled],
    /// type=tmpfs,target=/c[,tmpfs-size=64m] or type=image,source=IMAGE,target=/d[,image-subpath=DIR]
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Files")]
    pub mount: Vec<String>,
    /// Memory file system; options: size=64m, mode=1777, exec, noexec, ro, rw
    #[arg(long, value_name = "PATH[:OPTIONS]", help_heading = "Files")]
    pub tmpfs: Vec<String>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Files")]
    pub read_only: bool,
    /// Size of /dev/shm in bytes [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Files")]
    pub shm_size: Option<u64>,
    /// How much its own files may take of the disk: size=10g and, where that gives too many or too few, inodes=100000; size=0: no limit
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Files")]
    pub storage_opt: Vec<String>,
    /// Device of the host; permissions are letters of rwm. Or what a vendor describes (CDI): vendor.com/class=name
    #[arg(long, value_name = "HOST[:CONTAINER[:PERMISSIONS]]", help_heading = "Files")]
    pub device: Vec<String>,
    /// Devices to use by their numbers, beside those that it has: "c 189:* rwm"
    #[arg(long, value_name = "TYPE MAJOR:MINOR LETTERS", help_heading = "Files")]
    pub device_cgroup_rule: Vec<String>,

    #[command(flatten)]
    pub network: network::Network,
    /// Publish a port on the host; ranges and /udp too; of 9300-9302:80 the first free port
    #[arg(short, long, value_name = "[IP:][HOST:]CONTAINER[/PROTOCOL]", help_heading = "Network")]
    pub publish: Vec<String>,
    /// Port that it listens on, beside those of its image; ranges and /udp too
    #[arg(long, value_name = "PORT[/PROTOCOL]", help_heading = "Network")]
    pub expose: Vec<String>,
    /// Publish all exposed ports, the image's and those of --expose, on free ports
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Name of the host inside
    #[arg(short = 'h', long, help_heading = "Network")]
    pub hostname: Option<String>,
    /// NIS domain name inside
    #[arg(long, help_heading = "Network")]
    pub domainname: Option<String>,
    /// Line for /etc/hosts; the address may be host-gateway
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    pub add_host: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub dns: Vec<std::net::IpAddr>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// Option for resolv.conf
    #[arg(long, alias = "dns-opt", value_name = "OPTION", help_heading = "Network")]
    pub dns_option: Vec<String>,

    #[command(flatten)]
    pub limits: limits::Limits,
    /// Resource limit; -1: none
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub ulimit: Vec<String>,
    /// Who is killed first when memory runs out, -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000), help_heading = "Limits")]
    pub oom_score_adj: Option<i32>,

    /// Capability to add, or ALL; nothing is added to --privileged
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub cap_add: Vec<String>,
    /// Capability to drop, or ALL, which leaves those that are added by name; nothing is dropped with --privileged
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub cap_drop: Vec<String>,
    /// no-new-privileges[=false], writable-cgroups, seccomp=unconfined, seccomp=PROFILE.json, apparmor=unconfined, apparmor=PROFILE, label=disable, label=user:|role:|type:|level:|filetype:NAME (SELinux) or landlock=on|off
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    pub security_opt: Vec<String>,
    /// All capabilities and devices, no seccomp
    #[arg(long, help_heading = "Security")]
    pub privileged: bool,
    /// Kernel parameter of its namespaces
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Security")]
    pub sysctl: Vec<String>,
    /// Process namespace: host
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub pid: Option<String>,
    /// System V IPC namespace: host
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub ipc: Option<String>,
    /// UTS namespace (host name): host
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub uts: Option<String>,
    /// User namespace: auto, auto:size=N, host, keep:UID[:GID] or range:BASE[:SIZE]
    #[arg(long, value_name = "MODE", help_heading = "Security")]
    pub userns: Option<String>,
    /// OCI runtime: one of the agent's configuration, or berth, its own
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub runtime: Option<String>,

    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"], add = ArgValueCompleter::new(complete::images))]
    pub image_and_command: Vec<String>,
}

impl Create {
    /// The configuration for the API.
    pub fn config(&self) -> Result<v1::ContainerConfig> {
        let (image, command) = self.image_and_command.split_first().ok_or_else(|| Error::usage("no image given"))?;
        image.parse::<berth_model::Reference>().map_err(|e| Error::usage(e.to_string()))?;
        let mut mounts = Vec::new();
        for v in &self.volume {
            mounts.push(mount::volume(v)?);
        }
        for m in &self.mount {
            mounts.push(mount::mount(m)?);
        }
        for t in &self.tmpfs {
            mounts.push(mount::tmpfs(t)?);
        }
        let mut ports = Vec::new();
        for p in &self.publish {
            ports.extend(port::publish(p)?);
        }
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(pairs::env_lines(&files::read_text(file)?, &file.display().to_string())?);
        }
        env.extend(pairs::env("--env", &self.env)?);
        let mut labels = std::collections::HashMap::new();
        for file in &self.label_file {
            let lines = pairs::lines(&files::read_text(file)?);
            labels.extend(pairs::labels(&file.display().to_string(), &lines)?);
        }
        labels.extend(pairs::labels("--label", &self.label)?);
        let Security { no_new_privileges, writable_cgroups, seccomp, apparmor, label, landlock } = self.security()?;
        let chosen = self.network.chosen()?;
        let (storage_bytes, storage_inodes) = pairs::storage(&self.storage_opt)?;
        Ok(v1::ContainerConfig {
            image: image.clone(),
            name: self.name.clone().unwrap_or_default(),
            entrypoint: self
                .entrypoint
                .as_ref()
                .map(|e| v1::StringList { values: if e.is_empty() { Vec::new() } else { vec![e.clone()] } }),
            command: command.to_vec(),
            env,
            workdir: self.workdir.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            groups: self.group_add.clone(),
            hostname: self.hostname.clone().unwrap_or_default(),
            domainname: self.domainname.clone().unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive,
            read_only_root: self.read_only,
            mounts,
            volumes_from: self.volumes_from.clone(),
            extra_hosts: self.add_host.iter().map(|h| pairs::extra_host(h)).collect::<Result<_>>()?,
            dns: self.dns.iter().map(ToString::to_string).collect(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            labels,
            annotations: pairs::strict("--annotation", &self.annotation)?,
            ulimits: self.ulimit.iter().map(|u| pairs::ulimit(u)).collect::<Result<_>>()?,
            sysctls: pairs::strict("--sysctl", &self.sysctl)?,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            no_new_privileges,
            writable_cgroups,
            privileged: self.privileged,
            init: self.init,
            seccomp,
            apparmor,
            selinux: (!label.is_default()).then_some(v1::SelinuxOptions {
                disable: label.disable,
                user: label.user,
                role: label.role,
                r#type: label.kind,
                level: label.level,
                file_type: label.file_type,
            }),
            landlock,
            resources: Some(self.limits.resources()?),
            devices: self
                .device
                .iter()
                .filter(|d| !mount::is_cdi(d))
                .map(|d| mount::device(d))
                .collect::<Result<_>>()?,
            cdi_devices: self.device.iter().filter(|d| mount::is_cdi(d)).cloned().collect(),
            device_rules: {
                let rules = self.device_cgroup_rule.iter().map(|rule| mount::device_rules(rule));
                rules.collect::<Result<Vec<_>>>()?.concat()
            },
            network: chosen.mode.into(),
            networks: chosen.endpoints,
            network_container: chosen.container,
            ports,
            publish_all: self.publish_all,
            expose: self.expose.iter().map(|e| port::exposed(e)).collect::<Result<Vec<_>>>()?.concat(),
            host_pid: host_only("--pid", self.pid.as_deref())?,
            host_ipc: host_only("--ipc", self.ipc.as_deref())?,
            host_uts: host_only("--uts", self.uts.as_deref())?,
            userns: self.userns.clone().unwrap_or_default(),
            runtime: self.runtime.clone().unwrap_or_default(),
            cgroup_parent: self.limits.cgroup_parent.clone().unwrap_or_default(),
            stop_signal: self.stop_signal.clone().unwrap_or_default(),
            stop_timeout_seconds: self.stop_timeout,
            auto_remove: self.rm,
            oom_score_adj: self.oom_score_adj,
            shm_bytes: self.shm_size.unwrap_or(0),
            storage_bytes,
            storage_inodes,
            log: pairs::log(self.log_driver.as_deref(), &self.log_opt)?,
            restart: self.restart.as_deref().map(supervise::restart).transpose()?,
            health: supervise::health(self)?,
            health_on_failure: supervise::on_failure(self.health_on_failure).into(),
            after: self.after.iter().map(|a| supervise::after(a)).collect::<Result<_>>()?,
        })
    }

    /// The request for the API; a new request id each time.
    pub fn request(&self) -> Result<v1::CreateContainerRequest> {
        let auth = match self.pull {
            Pull::Never => None,
            Pull::Always | Pull::Missing => {
                self.image_and_command.first().and_then(|i| crate::credentials::for_image(i))
            }
        };
        Ok(v1::CreateContainerRequest {
            request_id: crate::connect::request_id()?,
            config: Some(self.config()?),
            pull: match self.pull {
                Pull::Always => v1::PullPolicy::Always,
                Pull::Missing => v1::PullPolicy::Missing,
                Pull::Never => v1::PullPolicy::Never,
            }
            .into(),
            auth,
            platform: self.platform.as_deref().map(platform).transpose()?,
        })
    }

    fn security(&self) -> Result<Security> {
        let mut security = Security::default();
        for option in &self.security_opt {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = Some(true),
                ("no-new-privileges", "false") => security.no_new_privileges = Some(false),
                ("writable-cgroups", "" | "true") => security.writable_cgroups = true,
                ("writable-cgroups", "false") => security.writable_cgroups = false,
                ("seccomp", "unconfined") => security.seccomp = "unconfined".into(),
                ("apparmor", name) if !name.is_empty() => security.apparmor = name.into(),
                ("landlock", "on") => security.landlock = Some(true),
                ("landlock", "off") => security.landlock = Some(false),
                ("seccomp", path) if !path.is_empty() => security.seccomp = profile(Path::new(path))?,
                ("label", word) if security.label.take(word) => {}
                ("label", _) => {
                    return Err(Error::usage(format!("--security-opt {option:?} is not supported")).hint(
                        "there are label=disable and label=user:, role:, type:, level: and filetype: with a name",
                    ));
                }
                _ => {
                    return Err(Error::usage(format!("--security-opt {option:?} is not supported")).hint(
                        "there are no-new-privileges[=false], writable-cgroups, seccomp=unconfined, seccomp=PROFILE.json, apparmor=unconfined, apparmor=PROFILE, label=disable, label=KEY:NAME and landlock=on|off",
                    ));
                }
            }
        }
        Ok(security)
    }
}

/// What `--security-opt` says.
#[derive(Default)]
struct Security {
    no_new_privileges: Option<bool>,
    writable_cgroups: bool,
    seccomp: String,
    apparmor: String,
    label: LabelOptions,
    landlock: Option<bool>,
}

fn profile(path: &Path) -> Result<String> {
    let text = files::read_text(path)?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text)
        .map_err(|e| Error::usage(format!("--security-opt seccomp={}: no JSON: {e}", path.display())))?;
    Ok(text)
}

fn host_only(flag: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None => Ok(false),
        Some("host") => Ok(true),
        Some(other) => {
            Err(Error::usage(format!("{flag} {other:?}: must be host; leave it out for a namespace of its own")))
        }
    }
}

/// `os/architecture[/variant]`.
pub fn platform(text: &str) -> Result<v1::Platform> {
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let platform = v1::Platform { os: next(), architecture: next(), variant: next() };
    if platform.os.is_empty() || platform.architecture.is_empty() || parts.next().is_some() {
        return Err(Error::usage(format!(
            "--platform {text:?}: write os/architecture[/variant], such as linux/arm64/v8"
        )));
    }
    Ok(platform)
}

#[cfg(test)]
mod tests;

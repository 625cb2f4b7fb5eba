//! `context`: the hosts that berthctl knows, groups of them, and which one is current.

use crate::cli::NoHosts;
use crate::complete;
use crate::config::{Config, Context, parse_endpoint};
use crate::error::{Error, Result};
use crate::output::{self, Format, Listing, Shape, Show, print};
use crate::pki::files;
use crate::yaml;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ContextCommand {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub hosts: NoHosts,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a host
    Create(Create),
    /// Make a host the one that commands use
    Use(Use),
    /// List the hosts
    Ls(Ls),
    /// Show hosts
    Show(ShowContexts),
    /// Remove hosts
    Rm(Rm),
    /// Make, change or remove a group of hosts; without HOSTs: list the groups
    Group(Group),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berthctl context create web-1 --endpoint https://web-1.example.com:7443 \\\n    \
    --ca ca.pem --cert ann.pem --key ann.key")]
pub struct Create {
    /// Name of the host
    name: String,
    /// https://host:7443 or unix:///run/berth/berthd.sock
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// Certificate of the authority (PEM) [default: ca.pem beside the configuration file]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate of the caller (PEM) [default: client.pem beside the configuration file]
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of the caller (PEM, mode 0600) [default: client.key beside the configuration file]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name that the agent's certificate is for, where it is not the endpoint's
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A line for people
    #[arg(long)]
    description: Option<String>,
    /// Make it the current one
    #[arg(long)]
    r#use: bool,
    /// Change a host that is there
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Use {
    /// Name of the host, or 'local' for the socket of this machine
    #[arg(add = ArgValueCompleter::new(complete::contexts))]
    name: String,
}

#[derive(Debug, Args)]
pub struct Ls {
    /// Only names
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct ShowContexts {
    /// Names of hosts [default: the current one]
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    names: Vec<String>,
    /// Shape of the output
    #[arg(short, long, value_parser = ["json", "yaml"], default_value = "json")]
    output: String,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Names of hosts
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  berthctl context group web web-1 web-2\n  berthctl context group --rm web")]
pub struct Group {
    /// Name of the group
    #[arg(add = ArgValueCompleter::new(complete::groups))]
    name: Option<String>,
    /// Hosts of the group, in place of those it had
    #[arg(value_name = "HOST", add = ArgValueCompleter::new(complete::contexts))]
    hosts: Vec<String>,
    /// Remove the group; its hosts stay
    #[arg(long, requires = "name", conflicts_with = "hosts")]
    rm: bool,
}

const SHAPE: Shape = Shape {
    columns: &[
        ("NAME", "Name"),
        ("CURRENT", "Current"),
        ("ENDPOINT", "Endpoint"),
        ("GROUPS", "Groups"),
        ("DESCRIPTION", "Description"),
    ],
    name: "Name",
};

/// `local` is the socket of this machine; the others must not look like `host:port`.
fn check_name(name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(good) || name.starts_with(['-', '.']) || name == "local"
    {
        return Err(Error::usage(format!(
            "name {name:?} must be letters, digits, '.', '_' and '-', not start with '-' or '.', and not be 'local'"
        )));
    }
    Ok(())
}

fn unknown(name: &str) -> Error {
    Error::usage(format!("no context {name:?}")).hint("berthctl context ls lists them")
}

pub fn run(args: ContextCommand, path: &Path) -> Result<()> {
    let mut config = Config::read(path)?;
    match args.command {
        Command::Create(a) => create(&mut config, a, path),
        Command::Use(a) => {
            if a.name == "local" {
                config.current = None;
            } else if config.contexts.contains_key(&a.name) {
                config.current = Some(a.name.clone());
            } else {
                return Err(unknown(&a.name));
            }
            config.write(path)?;
            print(format!("{}\n", a.name))
        }
        Command::Ls(a) => ls(&config, &a),
        Command::Show(a) => show(&config, &a),
        Command::Rm(a) => {
            if let Some(name) = a.names.iter().find(|n| !config.contexts.contains_key(*n)) {
                return Err(unknown(name));
            }
            for name in &a.names {
                config.contexts.remove(name);
                config.groups.values_mut().for_each(|g| g.retain(|h| h != name));
                if config.current.as_ref() == Some(name) {
                    config.current = None;
                }
            }
            config.groups.retain(|_, hosts| !hosts.is_empty());
            config.write(path)?;
            print(a.names.join("\n") + "\n")
        }
        Command::Group(a) => group(&mut config, a, path),
    }
}

fn create(config: &mut Config, a: Create, path: &Path) -> Result<()> {
    check_name(&a.name)?;
    parse_endpoint(&a.endpoint)?;
    if config.contexts.contains_key(&a.name) && !a.force {
        return Err(Error::new(format!("context {:?} is there already", a.name)).hint("--force changes it"));
    }
    // Absolute: the command may be run from anywhere later.
    let file = |f: Option<PathBuf>, key: bool| -> Result<Option<PathBuf>> {
        let Some(f) = f else { return Ok(None) };
        if key {
            files::read_key(&f)?
        } else {
            files::read_text(&f)?
        };
        std::path::absolute(&f).map(Some).map_err(|e| Error::io(format_args!("finding {}", f.display()), &e))
    };
    let context = Context {
        endpoint: a.endpoint,
        ca: file(a.ca, false)?,
        cert: file(a.cert, false)?,
        key: file(a.key, true)?,
        server_name: a.server_name,
        description: a.description,
    };
    if a.r#use || config.contexts.is_empty() {
        config.current = Some(a.name.clone());
    }
    config.contexts.insert(a.name.clone(), context);
    config.write(path)?;
    print(format!("{}\n", a.name))
}

fn ls(config: &Config, a: &Ls) -> Result<()> {
    let row = |name: &str, context: &Context, current: bool| {
        let groups: Vec<&str> =
            config.groups.iter().filter(|(_, h)| h.iter().any(|h| h == name)).map(|(g, _)| g.as_str()).collect();
        json!({
            "Name": name, "Current": if current { "*" } else { "" }, "Endpoint": context.endpoint,
            "Groups": groups.join(","), "Description": context.description.clone().unwrap_or_default(),
        })
    };
    let local = Context {
        endpoint: crate::config::LOCAL_SOCKET.into(),
        description: Some("this machine".into()),
        ..Context::default()
    };
    let mut rows = vec![row("local", &local, config.current.is_none())];
    rows.extend(config.contexts.iter().map(|(n, c)| row(n, c, config.current.as_ref() == Some(n))));
    let format = if a.quiet { Format::Name } else { a.show.format()? };
    let mut list = Listing::new(SHAPE, format, None);
    list.add("", rows)?;
    list.finish()
}

fn show(config: &Config, a: &ShowContexts) -> Result<()> {
    let names = if a.names.is_empty() {
        vec![
            config
                .current
                .clone()
                .ok_or_else(|| Error::new("no context is current").hint("berthctl context use NAME"))?,
        ]
    } else {
        a.names.clone()
    };
    let mut all = Vec::new();
    for name in names {
        let context = config.contexts.get(&name).ok_or_else(|| unknown(&name))?;
        let mut value = serde_json::to_value(context).map_err(|e| Error::new(e.to_string()))?;
        value["name"] = name.into();
        all.push(value);
    }
    let all = Value::Array(all);
    print(if a.output == "yaml" { yaml::emit(&all) } else { output::pretty(&all) + "\n" })
}

fn group(config: &mut Config, a: Group, path: &Path) -> Result<()> {
    let Some(name) = a.name else {
        return config.groups.iter().try_for_each(|(name, hosts)| print(format!("{name}: {}\n", hosts.join(" "))));
    };
    if a.rm {
        config.groups.remove(&name).ok_or_else(|| Error::usage(format!("no group {name:?}")))?;
    } else if a.hosts.is_empty() {
        let hosts = config.groups.get(&name).ok_or_else(|| Error::usage(format!("no group {name:?}")))?;
        return print(hosts.join("\n") + "\n");
    } else {
        check_name(&name)?;
        if let Some(host) = a.hosts.iter().find(|h| !config.contexts.contains_key(*h)) {
            return Err(unknown(host));
        }
        config.groups.insert(name.clone(), a.hosts);
    }
    config.write(path)?;
    print(format!("{name}\n"))
}

//! `info` and `version`.

use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Format, Show, print, printable};
use crate::units::human_bytes;
use crate::{view, yaml};
use berth::v1;
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Debug, Args)]
pub struct Info {
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct Version {
    #[command(flatten)]
    show: Show,
}

pub async fn info(fleet: &Fleet, args: Info) -> Result<u8> {
    let format = args.show.format()?;
    let call = async |c: Connection| {
        let answer = c.retry(async || c.node().info(c.request(v1::InfoRequest {}, Some(UNARY_TIMEOUT))).await).await?;
        Ok(answer.into_inner())
    };
    let mut all = Vec::new();
    let code = fleet
        .each(call, |host, r| {
            let text = info_text(&r);
            object(fleet, host, view::info(&r), &text, &r.hostname, &format, &mut all)
        })
        .await?;
    finish(fleet, all, &format)?;
    Ok(code)
}

pub async fn version(fleet: &Fleet, args: Version) -> Result<u8> {
    let format = args.show.format()?;
    let call = async |c: Connection| {
        let answer =
            c.retry(async || c.node().version(c.request(v1::VersionRequest {}, Some(UNARY_TIMEOUT))).await).await?;
        Ok(answer.into_inner())
    };
    let client = json!({"Version": berth::VERSION, "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH});
    let client_text = format!("Client:\n  Version:  {}\n", berth::VERSION);
    if format == Format::Table && !fleet.labelled {
        // Ours is true whether the agent answers or not.
        print(&client_text)?;
    }
    let mut all = Vec::new();
    let code = fleet
        .each(call, |host, r| {
            let value = json!({"Client": client, "Server": {
                "Version": r.version, "ApiVersions": r.api_versions, "GitCommit": r.git_commit, "Rustc": r.rustc,
                "Os": r.os, "Arch": r.architecture, "KernelVersion": r.kernel_version,
            }});
            let mut text = "Server:\n".to_owned();
            for (key, v) in [
                ("Version", r.version.clone()),
                ("API", r.api_versions.join(", ")),
                ("Commit", r.git_commit.clone()),
                ("Rust", r.rustc.clone()),
                ("OS/Arch", format!("{}/{}", r.os, r.architecture)),
                ("Kernel", r.kernel_version.clone()),
            ] {
                if !v.is_empty() {
                    _ = writeln!(text, "  {:<9} {}", format!("{key}:"), printable(&v));
                }
            }
            object(fleet, host, value, &text, &r.version, &format, &mut all)
        })
        .await?;
    finish(fleet, all, &format)?;
    Ok(code)
}

/// Shows one host's object in the form that was asked for; JSON and YAML of several hosts wait for the last.
fn object(
    fleet: &Fleet,
    host: &str,
    mut value: Value,
    text: &str,
    name: &str,
    format: &Format,
    all: &mut Vec<Value>,
) -> Result<()> {
    let prefix = fleet.label(host).unwrap_or_default();
    if fleet.labelled {
        value["Host"] = host.into();
    }
    match format {
        Format::Json | Format::Yaml => {
            all.push(value);
            Ok(())
        }
        Format::JsonLines => print(output::json(&value) + "\n"),
        Format::Name => print(format!("{prefix}{}\n", printable(name))),
        Format::Template(t) | Format::TableTemplate(t) => {
            print(format!("{prefix}{}\n", t.render(&value).map_err(Error::usage)?))
        }
        Format::Table => print(text.lines().fold(String::new(), |mut s, line| {
            _ = writeln!(s, "{prefix}{line}");
            s
        })),
    }
}

fn finish(fleet: &Fleet, mut all: Vec<Value>, format: &Format) -> Result<()> {
    let value = if fleet.labelled { Value::Array(all) } else { all.pop().unwrap_or_default() };
    match format {
        Format::Json => print(output::pretty(&value) + "\n"),
        Format::Yaml => print(yaml::emit(&value)),
        _ => Ok(()),
    }
}

fn info_text(r: &v1::InfoResponse) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| _ = writeln!(text, "{:<19} {}", format!("{key}:"), printable(&value));
    line("Name", r.hostname.clone());
    line("Agent", format!("{} (pid {})", r.agent_version, r.agent_pid));
    line(
        "Containers",
        format!(
            "{} ({} running, {} created, {} exited)",
            r.containers, r.containers_running, r.containers_created, r.containers_exited
        ),
    );
    line("Images", r.images.to_string());
    line("Operating system", r.operating_system.clone());
    line("Kernel", r.kernel_version.clone());
    line("Architecture", r.architecture.clone());
    line("CPUs", r.cpus.to_string());
    line("Memory", human_bytes(r.memory_bytes));
    line(
        "Cgroups",
        format!("{}, made by {}", r.cgroup_mode, if r.cgroup_driver == "systemd" { "systemd" } else { "berth" }),
    );
    line("Layer store", r.layer_store.clone());
    let runtime = |r: &v1::RuntimeInfo| {
        let more: Vec<&str> = [r.version.as_str(), if r.is_default { "default" } else { "" }]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect();
        if more.is_empty() { r.name.clone() } else { format!("{} ({})", r.name, more.join(", ")) }
    };
    line("Runtimes", r.runtimes.iter().map(runtime).collect::<Vec<_>>().join(", "));
    let landlock = match (r.landlock_abi, r.landlock_by_default) {
        (0, _) => "none".to_owned(),
        (abi, true) => format!("ABI {abi}, around every container by default"),
        (abi, false) => format!("ABI {abi}, where asked for"),
    };
    line("Landlock", landlock);
    let apparmor = match (r.apparmor, r.apparmor_by_default) {
        (false, _) => "not enabled",
        (true, true) => "profile berth-default",
        (true, false) => "enabled, but the profile berth-default is not loaded",
    };
    line("AppArmor", apparmor.to_owned());
    let selinux = match r.selinux() {
        v1::Selinux::Unspecified => "not enabled",
        v1::Selinux::Unused => "enabled, but containers have no labels",
        v1::Selinux::Used => "containers have labels",
    };
    line("SELinux", selinux.to_owned());
    line("Data", r.data_root.clone());
    line("Disk", format!("{} free of {}", human_bytes(r.disk_free_bytes), human_bytes(r.disk_total_bytes)));
    line("Caller", format!("{} ({})", r.caller, r.caller_role));
    let mut features: Vec<_> = r.features.iter().collect();
    features.sort();
    let named = |want: bool| {
        let names: Vec<&str> = features.iter().filter(|(_, on)| **on == want).map(|(n, _)| n.as_str()).collect();
        names.join(", ")
    };
    line("Features", named(true));
    if !named(false).is_empty() {
        line("Not there", named(false));
    }
    for warning in &r.warnings {
        line("Warning", warning.clone());
    }
    text
}

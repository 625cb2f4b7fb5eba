//! What runs: command, environment, folder, user, stop signal.

use crate::{Effective, ExecRequest, RuntimeError, signal, user};
use berth_model::ContainerSpec;
use berth_model::image::ImageConfig;
use berth_model::spec::ExecSpec;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment without HOSTNAME and HOME, which only a plan knows.
pub(crate) fn effective(spec: &ContainerSpec, image: &ImageConfig) -> Result<Effective, RuntimeError> {
    let entrypoint = spec.entrypoint.clone().or_else(|| image.entrypoint.clone()).unwrap_or_default();
    let command = if !spec.command.is_empty() {
        spec.command.clone()
    } else if spec.entrypoint.is_some() {
        // The image's command was written for the image's entrypoint.
        Vec::new()
    } else {
        image.cmd.clone().unwrap_or_default()
    };
    let args: Vec<String> = entrypoint.into_iter().chain(command).collect();
    if args.is_empty() {
        return Err(RuntimeError::spec("command", "no command is given, and the image has none"));
    }
    let workdir = spec.workdir.as_deref().or(image.working_dir.as_deref()).filter(|w| !w.is_empty()).unwrap_or("/");
    let workdir = if workdir.starts_with('/') { workdir.to_owned() } else { format!("/{workdir}") };
    let user = spec.user.as_deref().or(image.user.as_deref()).unwrap_or_default().to_owned();
    let name = spec.stop_signal.as_deref().or(image.stop_signal.as_deref()).filter(|s| !s.is_empty()).unwrap_or("TERM");
    let stop_signal =
        signal::parse(name).ok_or_else(|| RuntimeError::spec("stop_signal", format!("unknown signal {name:?}")))?;
    Ok(Effective {
        args,
        env: merged(&[&[DEFAULT_PATH.to_owned()], &image.env, &spec.env]),
        workdir,
        user,
        stop_signal,
    })
}

/// Later ones win, in the place of the first; `KEY` without a value takes the variable away, as Docker's API has it.
fn merged(lists: &[&[String]]) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    for entry in lists.iter().flat_map(|l| l.iter()) {
        let key = entry.split_once('=').map_or(entry.as_str(), |(k, _)| k);
        let at = env.iter().position(|e| e.split_once('=').is_some_and(|(k, _)| k == key));
        match (at, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
    env
}

fn with_home(mut env: Vec<String>, home: &str) -> Vec<String> {
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

pub(super) fn env(spec: &ContainerSpec, image: &ImageConfig, hostname: &str, home: &str) -> Vec<String> {
    let mut first = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if spec.tty {
        first.push("TERM=xterm".into());
    }
    with_home(merged(&[&first, &image.env, &spec.env]), home)
}

pub(super) fn exec_env(container: &Effective, spec: &ExecSpec, home: &str) -> Vec<String> {
    let terminal: &[String] = if spec.tty { &["TERM=xterm".to_owned()] } else { &[] };
    with_home(merged(&[terminal, &container.env, &spec.env]), home)
}

/// The container's command, environment and folder, and who an exec in it runs as.
pub(crate) fn of_exec(request: &ExecRequest<'_>) -> Result<(Effective, user::User), RuntimeError> {
    let mut effective = effective(request.container, request.image)?;
    let hostname = request.container.hostname.clone().unwrap_or_else(|| request.id.short().to_owned());
    effective.env.insert(1, format!("HOSTNAME={hostname}"));
    // A user of its own brings its own groups; the container's extra ones stay with the container's user.
    let (wanted, extra) = match &request.spec.user {
        Some(user) => (user.as_str(), &[][..]),
        None => (effective.user.as_str(), &request.container.groups[..]),
    };
    let user = user::resolve("user", wanted, extra, request.passwd, request.group)?;
    Ok((effective, user))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn entrypoints_and_commands_as_docker_joins_them() {
        let image =
            ImageConfig { entrypoint: Some(strings(&["/e"])), cmd: Some(strings(&["c"])), ..ImageConfig::default() };
        let args = |spec: &ContainerSpec| effective(spec, &image).map(|e| e.args).map_err(|e| e.to_string());
        assert_eq!(args(&ContainerSpec::default()).unwrap(), ["/e", "c"]);
        assert_eq!(args(&ContainerSpec { command: strings(&["x"]), ..Default::default() }).unwrap(), ["/e", "x"]);
        assert_eq!(args(&ContainerSpec { entrypoint: Some(strings(&["/n"])), ..Default::default() }).unwrap(), ["/n"]);
        assert!(args(&ContainerSpec { entrypoint: Some(vec![]), ..Default::default() }).is_err());
    }

    #[test]
    fn environments_are_merged_by_key() {
        let env = merged(&[&strings(&["A=1", "B=2"]), &strings(&["A=3", "C=x=y"]), &strings(&["B", "D"])]);
        assert_eq!(env, ["A=3", "C=x=y"]);
    }
}

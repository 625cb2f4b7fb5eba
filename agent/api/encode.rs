//! From the model to the wire.

use berth::v1;
use berth_model::image::{ImageConfig, ImageRecord};
use berth_model::log::LogDriver;
use berth_model::supervision::ExitCause;
use berth_model::userns::Userns;
use berth_model::{ContainerRecord, ContainerSpec, ExitStatus, Phase, Platform, Timestamp};
use berth_node::{ContainerDetail, ContainerView, ImageView, LogState, PullOutcome};

pub fn time(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.parts();
    prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or_default() }
}

pub fn exit(exit: &ExitStatus) -> v1::ExitStatus {
    let oom = match &exit.cause {
        ExitCause::OutOfMemory { cgroup, limit_bytes } => (cgroup.clone(), limit_bytes.unwrap_or_default()),
        _ => Default::default(),
    };
    v1::ExitStatus {
        code: exit.code,
        signal: exit.signal.unwrap_or_default(),
        oom_killed: exit.oom_killed,
        reason: exit.reason.clone().unwrap_or_default(),
        finished: Some(time(exit.finished)),
        cause: exit.cause.name().into(),
        by: match &exit.cause {
            ExitCause::Stopped { by, .. } | ExitCause::Killed { by, .. } | ExitCause::Shutdown { by } => by.clone(),
            _ => String::new(),
        },
        oom_cgroup: oom.0,
        oom_limit_bytes: oom.1,
        sentence: exit.sentence.clone(),
    }
}

pub fn platform(platform: &Platform) -> v1::Platform {
    v1::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
    }
}

pub fn state(record: &ContainerRecord) -> v1::ContainerState {
    match record.phase {
        Phase::Running if record.paused => v1::ContainerState::Paused,
        Phase::Exited if record.is_restarting() => v1::ContainerState::Restarting,
        Phase::Creating => v1::ContainerState::Creating,
        Phase::Created => v1::ContainerState::Created,
        Phase::Starting => v1::ContainerState::Starting,
        Phase::Running => v1::ContainerState::Running,
        Phase::Exited => v1::ContainerState::Exited,
        Phase::Removing => v1::ContainerState::Removing,
    }
}

pub fn container(view: &ContainerView) -> v1::ContainerSummary {
    let record = &view.record;
    let network = record.networks.main();
    v1::ContainerSummary {
        id: record.id.to_string(),
        name: record.name.clone(),
        image: record.spec.image.clone(),
        image_id: record.image_id.to_string(),
        command: view.effective.args.clone(),
        created: Some(time(record.created)),
        state: state(record) as i32,
        started: record.started.map(time),
        exit: record.exit.as_ref().map(exit),
        ports: super::ports::published(record),
        networks: super::endpoints::names(record),
        labels: record.spec.labels.clone().into_iter().collect(),
        ip_address: network.map(|n| n.address.to_string()).unwrap_or_default(),
        pid: record.process.as_ref().filter(|_| record.phase == Phase::Running).map_or(0, |p| p.pid),
        restart_count: record.supervision.restarts,
        next_start: record.supervision.next.map(time),
        health: super::supervise::health_status(record.supervision.health.as_ref().map(|h| h.status)).into(),
        ..Default::default()
    }
}

pub fn container_detail(detail: &ContainerDetail) -> v1::InspectContainerResponse {
    let record = &detail.view.record;
    let effective = &detail.view.effective;
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    v1::InspectContainerResponse {
        summary: Some(container(&detail.view)),
        config: Some(config(&record.spec)),
        error: record.error.clone().unwrap_or_default(),
        start_count: record.starts,
        network: record.networks.main().map(super::endpoints::container_network),
        networks: record.networks.iter().map(super::endpoints::container_network).collect(),
        log_path: path(&detail.log_path),
        upper_path: path(&detail.upper_path),
        storage_limited_by: detail.storage_limited_by.map_or_else(String::new, |by| by.as_str().to_owned()),
        cgroup_paths: detail.cgroup_paths.iter().map(|p| path(p)).collect(),
        shim_pid: record.process.as_ref().filter(|_| record.phase == Phase::Running).map_or(0, |p| p.shim_pid),
        effective_env: effective.env.clone(),
        effective_workdir: effective.workdir.clone(),
        effective_user: effective.user.clone(),
        effective_stop_signal: berth_runtime::signal::name(effective.stop_signal),
        warnings: record.warnings.clone(),
        start_failure: record.supervision.failure.as_ref().map(|f| v1::StartFailure {
            step: f.step.clone(),
            errno: f.errno.unwrap_or_default(),
            exit_code: f.exit_code,
            time: Some(time(f.time)),
        }),
        stopped_by_caller: record.supervision.stopped,
        log: None,
        volume_mountpoints: Default::default(),
        userns: Some(userns(&record.userns)),
        process_label: record.selinux.process.clone(),
        mount_label: record.selinux.mount.clone(),
        health: detail.health.as_ref().map(super::supervise::health_state),
    }
}

/// As it was asked for, with the runtime's name also where that is our own.
fn config(spec: &ContainerSpec) -> v1::ContainerConfig {
    let mut config = super::spec::encode(spec);
    if config.runtime.is_empty() {
        config.runtime = berth_runtime::OWN_RUNTIME.to_owned();
    }
    config
}

fn userns(userns: &Userns) -> v1::UserNamespace {
    let (keep_uid, keep_gid) = userns.range.and_then(|r| r.keep).unwrap_or_default();
    v1::UserNamespace {
        base: userns.range.map_or(0, |r| r.base),
        size: userns.range.map_or(0, |r| r.size),
        keep_uid,
        keep_gid,
        reason: userns.reason.clone().unwrap_or_default(),
    }
}

pub fn log_state(log: &LogState, driver: LogDriver) -> v1::LogState {
    v1::LogState {
        driver: driver.name().to_owned(),
        files: log.files,
        stored_bytes: log.stored_bytes,
        removed_files: log.removed_files,
        removed_bytes: log.removed_bytes,
        lost_lines: log.lost_lines,
        forwarded_entries: log.forwarded_entries,
        gaps: log.gaps,
        lost_bytes: log.lost_bytes,
        forward_error: log.forward_error.clone().unwrap_or_default(),
    }
}

/// Takes the values out of the environment, where passwords and tokens are handed to containers, and passwords out of the options of volumes.
pub fn hide_secrets(detail: &mut v1::InspectContainerResponse) {
    for mount in detail.config.iter_mut().flat_map(|c| c.mounts.iter_mut()) {
        if let Some(v1::mount::Kind::Volume(volume)) = &mut mount.kind {
            super::volumes::hide_secrets(&mut volume.options);
        }
    }
    let config = detail.config.iter_mut().flat_map(|c| c.env.iter_mut());
    detail.effective_env.iter_mut().chain(config).for_each(hide_value);
}

/// `KEY=***`
fn hide_value(entry: &mut String) {
    if let Some(equals) = entry.find('=') {
        entry.replace_range(equals + 1.., "***");
    }
}

/// The same of an image, which has the environment of the container that it was committed from; and what its history says of values.
pub fn hide_image_secrets(detail: &mut v1::InspectImageResponse) {
    detail.config.iter_mut().flat_map(|c| c.env.iter_mut()).for_each(hide_value);
    for entry in &mut detail.history {
        hide_created_by(&mut entry.created_by);
    }
}

/// Of a builder's line, all behind the first name that `ENV` or `ARG` gives a value, and what a `RUN` has of arguments: their values may have blanks.
fn hide_created_by(line: &mut String) {
    let nop = line.find("#(nop)").map_or(0, |at| at + "#(nop)".len());
    let begin = line.len() - line[nop..].trim_start().len();
    if line[begin..].starts_with("ENV ") || line[begin..].starts_with("ARG ") {
        let name = line.len() - line[begin + 4..].trim_start().len();
        if let Some(end) = line[name..].find(|c: char| c == '=' || c.is_ascii_whitespace()) {
            line.replace_range(name + end + 1.., "***");
        }
        return;
    }
    // `|2 A=1 B=2 /bin/sh -c command`, behind `RUN` or alone.
    let run = if line.starts_with("RUN ") { 4 } else { 0 };
    if line[run..].starts_with('|') {
        // A value may have blanks and paths: where one may still come, all is hidden.
        let shell = line.match_indices(" /bin/").map(|(at, _)| at).find(|at| !line[*at..].contains('='));
        let shell = shell.unwrap_or(line.len());
        line.replace_range(run + 1..shell, "***");
    }
}

pub fn image(view: &ImageView) -> v1::ImageSummary {
    let record = &view.record;
    v1::ImageSummary {
        id: record.id.to_string(),
        tags: view.tags.iter().map(ToString::to_string).collect(),
        digests: record.repo_digests.clone(),
        created: record.created.map(time),
        size_bytes: record.size_bytes(),
        platform: Some(platform(&record.platform)),
        labels: record.config.labels.clone().into_iter().collect(),
        containers: view.containers,
    }
}

pub fn image_detail(view: &ImageView) -> v1::InspectImageResponse {
    let record: &ImageRecord = &view.record;
    v1::InspectImageResponse {
        summary: Some(image(view)),
        manifest_digest: record.manifest.to_string(),
        layers: record
            .layers
            .iter()
            .map(|layer| v1::ImageLayer {
                digest: layer.digest.to_string(),
                diff_id: layer.diff_id.to_string(),
                media_type: layer.media_type.clone(),
                compressed_bytes: layer.compressed_bytes,
                size_bytes: layer.size_bytes,
            })
            .collect(),
        config: Some(image_config(&record.config)),
        history: record
            .history
            .iter()
            .map(|entry| v1::ImageHistory {
                created: entry.created.map(time),
                created_by: entry.created_by.clone().unwrap_or_default(),
                comment: entry.comment.clone().unwrap_or_default(),
                empty_layer: entry.empty_layer,
            })
            .collect(),
        author: record.author.clone().unwrap_or_default(),
        pulled: Some(time(record.pulled)),
        annotations: record.annotations.clone().into_iter().collect(),
    }
}

fn image_config(config: &ImageConfig) -> v1::ImageConfig {
    v1::ImageConfig {
        user: config.user.clone().unwrap_or_default(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        cmd: config.cmd.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
        working_dir: config.working_dir.clone().unwrap_or_default(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        labels: config.labels.clone().into_iter().collect(),
    }
}

pub fn pulled(outcome: &PullOutcome) -> v1::PullResult {
    v1::PullResult {
        reference: outcome.reference.to_string(),
        digest: outcome.image.target.to_string(),
        image_id: outcome.image.id.to_string(),
        up_to_date: outcome.up_to_date,
        fetched_bytes: outcome.fetched_bytes,
    }
}

/// A layer or blob that was looked at.
pub fn checked(one: berth_node::Checked) -> v1::CheckImagesResponse {
    use berth_node::Condition;
    let (condition, problem) = match one.condition {
        Condition::Good => (v1::ImageCondition::Good, String::new()),
        Condition::Unverifiable => (v1::ImageCondition::Unverifiable, String::new()),
        Condition::Damaged(problem) => (v1::ImageCondition::Damaged, problem),
    };
    v1::CheckImagesResponse { digest: one.digest.to_string(), condition: condition.into(), problem, images: one.images }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_sees_no_values_of_an_image() {
        let config = v1::ImageConfig { env: vec!["DBPASS=hunter2".into(), "EMPTY".into()], ..Default::default() };
        let history = |line: &str| v1::ImageHistory { created_by: line.into(), ..Default::default() };
        let cases = [
            ("/bin/sh -c #(nop)  ENV DBPASS=hunter2 A=b", "/bin/sh -c #(nop)  ENV DBPASS=***"),
            ("ENV DBPASS=hunter2 with blanks", "ENV DBPASS=***"),
            ("ENV DBPASS hunter2", "ENV DBPASS ***"),
            ("ARG DBPASS=hunter2", "ARG DBPASS=***"),
            ("ARG DBPASS", "ARG DBPASS"),
            ("|1 DBPASS=hunter2 /bin/sh -c make", "|*** /bin/sh -c make"),
            ("RUN |2 DBPASS=hunter2 A=b /bin/sh -c make # buildkit", "RUN |*** /bin/sh -c make # buildkit"),
            ("RUN |1 DBPASS=hunter2", "RUN |***"),
            ("|2 DIRS=/usr/bin /bin/x TOKEN=hunter2 /bin/sh -c make", "|*** /bin/sh -c make"),
            ("|1 A=b /bin/sh -c C=/bin/x make", "|***"),
            ("sh -c 'A=b make | tee log'", "sh -c 'A=b make | tee log'"),
            ("COPY é /", "COPY é /"),
            ("", ""),
        ];
        let mut detail = v1::InspectImageResponse {
            config: Some(config),
            history: cases.iter().map(|&(line, _)| history(line)).collect(),
            ..Default::default()
        };
        hide_image_secrets(&mut detail);
        assert_eq!(detail.config.expect("config").env, ["DBPASS=***", "EMPTY"]);
        for (entry, (line, want)) in detail.history.iter().zip(cases) {
            assert_eq!(entry.created_by, want, "{line}");
        }
    }
}

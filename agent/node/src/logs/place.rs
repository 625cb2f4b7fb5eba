//! Where a container's output is kept and what it is called, worked out from its record.

use super::files;
use crate::NodeError;
use crate::container::Container;
use crate::node::Inner;
use berth_model::image::ImageConfig;
use berth_model::log::{LogConfig, LogDriver, LogFacts};
use berth_model::wire::LogPlan;
use berth_model::{ContainerId, ContainerRecord, ContainerSpec};
use berth_runtime::Effective;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Bytes of attributes beside each entry: more would be most of every line.
const ATTRIBUTES_MAX: usize = 16 << 10;

/// What the files' names begin with.
fn name(id: &ContainerId, driver: LogDriver) -> String {
    match driver {
        LogDriver::JsonFile => format!("{id}-json.log"),
        _ => "log".to_owned(),
    }
}

/// What tags and attributes are made from.
pub(crate) fn facts(container: &Container, record: &ContainerRecord) -> LogFacts {
    LogFacts {
        id: record.id.to_string(),
        name: record.name.clone(),
        image: record.spec.image.clone(),
        image_id: record.image_id.to_string(),
        ..values(&record.spec, &container.image.config, &container.effective)
    }
}

/// What attributes are made from.
fn values(spec: &ContainerSpec, image: &ImageConfig, effective: &Effective) -> LogFacts {
    let mut labels = image.labels.clone();
    labels.extend(spec.labels.clone());
    LogFacts { labels: labels.into_iter().collect(), env: effective.env.clone(), ..LogFacts::default() }
}

fn text_of(attributes: &BTreeMap<String, String>) -> String {
    serde_json::to_string(attributes).unwrap_or_default()
}

/// What is wrong with the attributes of a container to be made.
///
/// # Errors
/// `Invalid`: they are too long to be beside each line; names the option that brings most of them.
pub(crate) fn check(spec: &ContainerSpec, image: &ImageConfig, effective: &Effective) -> Result<(), NodeError> {
    let facts = values(spec, image, effective);
    let length = |log: &LogConfig| text_of(&log.attributes(&facts)).len();
    let all = length(&spec.log);
    if spec.log.driver != LogDriver::JsonFile || all <= ATTRIBUTES_MAX {
        return Ok(());
    }
    let labels = length(&LogConfig { env: Vec::new(), ..spec.log.clone() });
    let option = if labels > all / 2 { "labels" } else { "env" };
    let why = format!("the values would be {all} bytes beside each line; at most {ATTRIBUTES_MAX} may be");
    Err(NodeError::Invalid(vec![(format!("log.options.{option}"), why)]))
}

/// What the shim is told. None: it keeps nothing.
pub(crate) fn plan(container: &Container, record: &ContainerRecord) -> Option<LogPlan<'static>> {
    let log = &record.spec.log;
    let json = match log.driver {
        LogDriver::None => return None,
        LogDriver::JsonFile => {
            let attributes = log.attributes(&facts(container, record));
            let text = text_of(&attributes);
            // Longer ones are refused when a container is made; one that was made before goes without.
            Some(if attributes.is_empty() || text.len() > 2 * ATTRIBUTES_MAX { String::new() } else { text })
        }
        LogDriver::Local | LogDriver::Journald | LogDriver::Syslog => None,
    };
    Some(LogPlan {
        max_file_bytes: log.max_file_bytes.max(1),
        max_files: log.max_files.max(1),
        name: name(&record.id, log.driver).into_bytes().into(),
        json: json.map(|text| text.into_bytes().into()),
    })
}

/// Docker's LogPath: the file that Docker's tools read, for others the folder; none: nothing.
pub(crate) fn path(inner: &Inner, record: &ContainerRecord) -> PathBuf {
    let dir = inner.paths(&record.id).log;
    match record.spec.log.driver {
        LogDriver::None => PathBuf::new(),
        LogDriver::JsonFile => dir.join(name(&record.id, LogDriver::JsonFile)),
        LogDriver::Local | LogDriver::Journald | LogDriver::Syslog => dir,
    }
}

/// Files and bytes that are kept. Blocking.
pub(crate) fn stored(inner: &Inner, id: &ContainerId) -> (u32, u64) {
    let files = files::list(&inner.paths(id).log).unwrap_or_default();
    (u32::try_from(files.len()).unwrap_or(u32::MAX), files.iter().map(|f| f.bytes).sum())
}

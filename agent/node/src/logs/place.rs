//! Where a container's output is kept and what it is called, worked out from its record.

use super::files;
use crate::container::Container;
use crate::node::Inner;
use berth_model::log::{LogDriver, LogFacts};
use berth_model::wire::LogPlan;
use berth_model::{ContainerId, ContainerRecord};
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
    let mut labels = container.image.config.labels.clone();
    labels.extend(record.spec.labels.clone());
    LogFacts {
        id: record.id.to_string(),
        name: record.name.clone(),
        image: record.spec.image.clone(),
        image_id: record.image_id.to_string(),
        labels: labels.into_iter().collect(),
        env: container.effective.env.clone(),
    }
}

/// What the shim is told. None: it keeps nothing.
pub(crate) fn plan(container: &Container, record: &ContainerRecord) -> Option<LogPlan<'static>> {
    let log = &record.spec.log;
    let json = match log.driver {
        LogDriver::None => return None,
        LogDriver::JsonFile => {
            let attributes = log.attributes(&facts(container, record));
            let text = serde_json::to_string(&attributes).unwrap_or_default();
            Some(if attributes.is_empty() || text.len() > ATTRIBUTES_MAX { String::new() } else { text })
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

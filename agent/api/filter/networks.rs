//! Filters of `Networks.List` and `Networks.Prune`.

use super::{MAX_FILTERS, PruneFilter, label, values_fit};
use crate::api::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::network::NetworkRecord;
use berth_node::NetworkView;
use std::collections::BTreeMap;

const KEYS: &str = "driver, id, label, name, scope, type, dangling";

/// Filters of `Networks.List`.
#[derive(Debug, Default)]
pub struct NetworkFilter {
    values: BTreeMap<String, Vec<String>>,
}

impl NetworkFilter {
    pub fn decode(f: &mut Fields, list: Vec<v1::ListFilter>) -> NetworkFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = NetworkFilter::default();
        for (n, one) in list.into_iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            match one.key.as_str() {
                "driver" | "id" | "label" | "name" => {}
                "scope" => {
                    let known = matches!(one.value.as_str(), "local" | "global" | "swarm");
                    f.check(known, at, "must be local (there are no others here), global or swarm");
                }
                "type" => f.check(matches!(one.value.as_str(), "builtin" | "custom"), at, "must be builtin or custom"),
                "dangling" => {
                    let known = matches!(one.value.as_str(), "true" | "1" | "false" | "0");
                    f.check(known, at, "must be true or false");
                }
                key => f.unknown_filter(n, key, KEYS),
            }
            filter.values.entry(one.key).or_default().push(one.value);
        }
        filter
    }

    pub fn fits(&self, view: &NetworkView) -> bool {
        let n = &view.record;
        values_fit(&self.values, |key, value| match key {
            "driver" => n.driver.name() == value,
            "id" => n.id.as_str().starts_with(value),
            // Docker: part of a name is enough.
            "name" => n.name.contains(value),
            "label" => label(value, |key| n.labels.get(key)),
            "scope" => value == "local",
            "type" => n.is_predefined() == (value == "builtin"),
            "dangling" => {
                let dangling = !n.is_predefined() && view.members.is_empty();
                dangling == matches!(value, "true" | "1")
            }
            _ => false,
        })
    }
}

/// What a prune of networks goes for.
#[derive(Debug, Default)]
pub struct PruneNetworksFilter(PruneFilter);

impl PruneNetworksFilter {
    pub fn decode(f: &mut Fields, list: &[v1::ListFilter]) -> PruneNetworksFilter {
        PruneNetworksFilter(PruneFilter::decode(f, list))
    }

    pub fn fits(&self, n: &NetworkRecord) -> bool {
        self.0.until.is_none_or(|until| n.created < until)
            && self.0.labels.with.iter().all(|l| l.fits(|key| n.labels.get(key)))
            && !self.0.labels.without.iter().any(|l| l.fits(|key| n.labels.get(key)))
    }
}

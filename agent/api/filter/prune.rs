//! Filters of prunes: `until`, `label` and `label!`.

use super::{MAX_FILTERS, point_in_time};
use crate::api::decode::{Fields, MAX_NAME};
use berth::v1;
use berth_model::Timestamp;
use berth_model::pattern::LabelPattern;
use berth_node::LabelFilter;

const KEYS: &str = "until, label, label!";

/// What a prune goes for.
#[derive(Debug, Default)]
pub struct PruneFilter {
    /// Only what was made before.
    pub until: Option<Timestamp>,
    pub labels: LabelFilter,
}

impl PruneFilter {
    pub fn decode(f: &mut Fields, list: &[v1::ListFilter]) -> PruneFilter {
        f.count("filters", list.len(), MAX_FILTERS);
        let mut filter = PruneFilter::default();
        for (n, one) in list.iter().enumerate() {
            let at = format!("filters[{n}].value");
            f.line(&at, &one.value, MAX_NAME);
            f.check(!one.value.is_empty(), &at, "must not be empty");
            match one.key.as_str() {
                "label" => filter.labels.with.push(LabelPattern::parse(&one.value)),
                "label!" => filter.labels.without.push(LabelPattern::parse(&one.value)),
                "until" if filter.until.is_some() => f.wrong(at, "only one until can be given"),
                "until" => match point_in_time(&one.value) {
                    Some(time) => filter.until = Some(time),
                    None => f.wrong(at, "must be a time, or a duration before now such as 24h"),
                },
                key => f.unknown_filter(n, key, KEYS),
            }
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_prunes() {
        let mut f = Fields::default();
        let one = |k: &str, v: &str| v1::ListFilter { key: k.into(), value: v.into() };
        let filter = PruneFilter::decode(&mut f, &[one("until", "24h"), one("label", "a"), one("label!", "b=c")]);
        assert_eq!(f.errors(), []);
        assert!(filter.until.is_some_and(|t| t < Timestamp::now()));
        assert_eq!((filter.labels.with.len(), filter.labels.without.len()), (1, 1));
        PruneFilter::decode(&mut f, &[one("until", "soon"), one("name", "x"), one("label", ""), one("until", "1h")]);
        let fields: Vec<&str> = f.errors().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["filters[0].value", "filters[1].key", "filters[2].value"]);
    }
}

//! What `ps`, `images` and `system df` have in common: filters, and rows of many hosts in one list.

use crate::connect::Connection;
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, Listing, Shape, Show};
use berth::v1;
use serde_json::Value;

/// Docker's filter keys; a wrong one is refused here, with the right ones.
pub fn filters(given: &[String], known: &[&str]) -> Result<Vec<v1::ListFilter>> {
    given
        .iter()
        .map(|text| match split(text) {
            Some((key, value)) if known.contains(&key) && !value.is_empty() => {
                Ok(v1::ListFilter { key: key.to_owned(), value: value.to_owned() })
            }
            Some((key, _)) if !known.contains(&key) => {
                Err(Error::usage(format!("--filter {text:?}: unknown key {key:?}; there are {}", known.join(", "))))
            }
            _ => Err(Error::usage(format!("--filter {text:?}: write KEY=VALUE"))),
        })
        .collect()
}

/// `label=a`, and `label!=a`, whose key is `label!`.
fn split(text: &str) -> Option<(&str, &str)> {
    text.split_once('=')
}

/// Filters for a call, with times as the agent reads them.
pub fn prune_filters(given: &[String]) -> Result<Vec<v1::ListFilter>> {
    let mut found = filters(given, &["until", "label", "label!"])?;
    for filter in found.iter_mut().filter(|f| f.key == "until") {
        let time = crate::units::parse_time(&filter.value).map_err(|e| Error::usage(format!("--filter until: {e}")))?;
        filter.value = time.to_string();
    }
    Ok(found)
}

/// How a list is shown. `quiet`: only ids, a line each.
pub fn shape(shape: Shape, quiet: bool, show: &Show) -> Result<(Shape, Format)> {
    match quiet {
        true => Ok((Shape { name: "ID", ..shape }, Format::Name)),
        false => Ok((shape, show.format()?)),
    }
}

/// Asks every host for its rows, and shows them as they come.
pub async fn show<F, Fut>(fleet: &Fleet, (shape, format): (Shape, Format), rows: F) -> Result<u8>
where
    F: Fn(Connection) -> Fut + 'static,
    Fut: Future<Output = Result<Vec<Value>>> + 'static,
{
    let mut list = Listing::new(shape, format, fleet.labelled.then(|| fleet.width()));
    let code = fleet.each(rows, |host, rows| list.add(host, rows)).await?;
    list.finish()?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        let one = |text: &str| filters(&[text.to_owned()], &["label", "label!", "name"]);
        let found = one("label!=a=b").expect("good");
        assert_eq!((found[0].key.as_str(), found[0].value.as_str()), ("label!", "a=b"));
        for bad in ["colour=red", "name", "name="] {
            one(bad).expect_err(bad);
        }
        let found = prune_filters(&["until=1970-01-02".to_owned()]).expect("good");
        assert_eq!(found[0].value, "1970-01-02T00:00:00Z");
        prune_filters(&["until=soon".to_owned()]).expect_err("no time");
    }
}

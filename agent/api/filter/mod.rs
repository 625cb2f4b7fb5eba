//! Docker's filters of lists: for each key that is there, one of its values must fit.

mod containers;
mod events;
mod images;
mod networks;
mod prune;

pub use containers::ContainerFilter;
pub use events::EventFilter;
pub use images::ImageFilter;
pub use networks::{NetworkFilter, PruneNetworksFilter};
pub use prune::PruneFilter;

use berth_model::Timestamp;
use berth_model::pattern::LabelPattern;
use std::collections::BTreeMap;

const MAX_FILTERS: usize = 256;

/// `fits` is asked for a key and one of its values.
fn values_fit(values: &BTreeMap<String, Vec<String>>, fits: impl Fn(&str, &str) -> bool) -> bool {
    values.iter().all(|(key, values)| values.iter().any(|value| fits(key, value)))
}

/// `key`, or `key=value`.
fn label<'a>(filter: &str, get: impl Fn(&str) -> Option<&'a String>) -> bool {
    LabelPattern::parse(filter).fits(get)
}

/// RFC 3339, Unix seconds with or without a fraction, or a time before now such as 10m or 1h30m.
fn point_in_time(text: &str) -> Option<Timestamp> {
    let nanos = |t: jiff::Timestamp| i64::try_from(t.as_nanosecond()).ok().map(Timestamp);
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return nanos(time);
    }
    if text.bytes().next()?.is_ascii_digit() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction: u32 = (fraction.len() <= 9).then(|| format!("{fraction:0<9}").parse().ok())??;
        return Some(Timestamp::from_parts(seconds.parse().ok()?, fraction));
    }
    // Without a zone: UTC.
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        return nanos(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
    }
    let mut left = text;
    let mut seconds: i64 = 0;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = left[..digits].parse().ok()?;
        let unit = match left.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        left = &left[digits + 1..];
    }
    let ago = seconds.checked_mul(1_000_000_000)?;
    Some(Timestamp(Timestamp::now().nanos().saturating_sub(ago)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time() {
        assert_eq!(point_in_time("1.5"), Some(Timestamp(1_500_000_000)));
        assert_eq!(point_in_time("1970-01-01T00:00:02Z"), Some(Timestamp(2_000_000_000)));
        assert_eq!(point_in_time("1970-01-02"), Some(Timestamp(86_400_000_000_000)));
        assert_eq!(point_in_time("1970-01-01T00:00:02"), Some(Timestamp(2_000_000_000)));
        let ago = Timestamp::now().nanos() - point_in_time("1h30m").expect("a time").nanos();
        assert!((5_400_000_000_000 - 1_000_000_000..5_401_000_000_000).contains(&ago), "{ago}");
        for bad in ["", "m", "10", "yesterday", "5x", "1.1.1", "-5m", "99999999999999999999s", "1.0000000000"] {
            assert!(point_in_time(bad).is_none() || bad == "10", "{bad}");
        }
    }
}

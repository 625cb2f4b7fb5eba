//! Other OCI runtimes that containers may be of.

use berth_runtime::{OWN_RUNTIME, OtherRuntime};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The table `[runtimes]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Runtimes {
    /// Which one containers get that ask for none. Unset: berth's own.
    pub default: Option<String>,
    /// By name: `[runtimes.crun]`.
    #[serde(flatten)]
    pub others: BTreeMap<String, Entry>,
}

/// One program with runc's commands.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub path: PathBuf,
    /// Before all that berth says to it.
    #[serde(default)]
    pub args: Vec<String>,
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    (1..=32).contains(&name.len()) && name.bytes().all(good) && name.as_bytes()[0].is_ascii_alphanumeric()
}

impl Runtimes {
    /// Keys that are wrong, and why.
    pub(super) fn wrong(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        for (name, entry) in &self.others {
            let key = format!("runtimes.{name}");
            if name == OWN_RUNTIME {
                wrong.push((key.clone(), "is berth's own, which needs no entry".to_owned()));
            } else if !is_name(name) {
                wrong.push((key.clone(), "must be 1 to 32 lower-case letters, digits, '-', '_' and '.'".to_owned()));
            }
            if !entry.path.is_absolute() {
                wrong.push((format!("{key}.path"), "must be an absolute path".to_owned()));
            }
            if entry.args.iter().any(|a| a.contains('\0')) {
                wrong.push((format!("{key}.args"), "cannot hold a NUL byte".to_owned()));
            }
        }
        if let Some(name) = &self.default
            && name != OWN_RUNTIME
            && !self.others.contains_key(name)
        {
            wrong.push(("runtimes.default".to_owned(), format!("{name:?} is no runtime of this file")));
        }
        wrong
    }

    pub(super) fn decode(&self) -> BTreeMap<String, OtherRuntime> {
        let runtime = |e: &Entry| OtherRuntime { path: e.path.clone(), args: e.args.clone() };
        self.others.iter().map(|(name, entry)| (name.clone(), runtime(entry))).collect()
    }

    /// Empty: berth's own.
    pub(super) fn default_name(&self) -> String {
        self.default.clone().filter(|name| name != OWN_RUNTIME).unwrap_or_default()
    }
}

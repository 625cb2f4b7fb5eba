//! Names of the groups that systemd makes.

use crate::error::Error;
use berth_systemd::unit::{DEFAULT_SLICE, scope_name, slice_path};
use std::path::PathBuf;

/// Where a bundle says nothing.
const PREFIX: &str = "berth-runtime";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    pub unit: String,
    pub slice: String,
}

impl Scope {
    /// From `SLICE:PREFIX:NAME`, as runc has it.
    pub fn plan(path: Option<&str>, id: &str) -> Result<Self, Error> {
        let bad = |message: String| Error::field("linux.cgroupsPath", message);
        let parts: Vec<&str> = path.filter(|p| !p.is_empty()).map_or(vec!["", PREFIX, id], |p| p.split(':').collect());
        let [slice, prefix, name] = parts[..] else {
            let path = path.unwrap_or_default();
            return Err(bad(format!("{path:?} must be slice:prefix:name with --systemd-cgroup")));
        };
        if name.is_empty() || name.ends_with(".slice") {
            return Err(bad(format!("{name:?} is no name of a scope")));
        }
        let slice = if slice.is_empty() { DEFAULT_SLICE } else { slice };
        slice_path(slice).map_err(bad)?;
        Ok(Scope { unit: scope_name(prefix, name), slice: slice.to_owned() })
    }

    /// Below the hierarchy's root.
    pub fn path(&self) -> PathBuf {
        slice_path(&self.slice).unwrap_or_default().join(&self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_runcs() {
        let plan = |path| Scope::plan(path, "c1").map(|s| (s.unit.clone(), s.path().display().to_string()));
        assert_eq!(
            plan(Some("user-app.slice:libpod:abc")).unwrap(),
            ("libpod-abc.scope".into(), "user.slice/user-app.slice/libpod-abc.scope".into())
        );
        let own = ("berth-runtime-c1.scope".to_owned(), "system.slice/berth-runtime-c1.scope".to_owned());
        assert_eq!((plan(None).unwrap(), plan(Some("")).unwrap()), (own.clone(), own));
        assert_eq!(plan(Some("::x")).unwrap().1, "system.slice/x.scope");
        for bad in ["/a/b", "a:b", "a.slice:b:c:d", "a:b:c", "a.slice:b:", "a.slice:b:c.slice"] {
            let why = plan(Some(bad)).unwrap_err().to_string();
            assert!(why.starts_with("linux.cgroupsPath: "), "{bad}: {why}");
        }
    }
}

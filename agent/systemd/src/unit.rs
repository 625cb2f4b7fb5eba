//! Names of units, and where their cgroups are (systemd.unit(5), systemd.slice(5)).

use std::path::PathBuf;

/// Where units are that say nothing else (systemd.scope(5)).
pub const DEFAULT_SLICE: &str = "system.slice";

/// Bytes of a unit's name (UNIT_NAME_MAX).
const MAX: usize = 255;

fn good(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\')
}

/// The cgroup of a slice below the manager's: `a-b.slice` is `a.slice/a-b.slice`, `-.slice` is the manager's own.
///
/// # Errors
/// Why this is no name of a slice.
pub fn slice_path(slice: &str) -> Result<PathBuf, String> {
    let wrong = |why: &str| Err(format!("{slice:?} {why}"));
    let Some(name) = slice.strip_suffix(".slice") else {
        return wrong("must be the name of a slice of systemd, such as machine.slice");
    };
    if slice.len() > MAX {
        return wrong("is longer than the 255 bytes of a unit's name");
    }
    if name == "-" {
        return Ok(PathBuf::new());
    }
    if !name.chars().all(good) {
        return wrong("must be letters, digits, '-', '_', '.', ':' and '\\' only: a slice has a name and no path");
    }
    if name.split('-').any(str::is_empty) {
        return wrong("must have a word on both sides of each '-', which parts a slice from the one that it is in");
    }
    let mut path = PathBuf::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push(format!("{}.slice", &name[..end]));
    }
    Ok(path)
}

/// `PREFIX-ID.scope`; without a prefix `ID.scope`. What no unit's name may have is written as `systemd-escape` does.
pub fn scope_name(prefix: &str, id: &str) -> String {
    let whole = if prefix.is_empty() { id.to_owned() } else { format!("{prefix}-{id}") };
    let mut name = String::new();
    for c in whole.chars() {
        match c {
            c if good(c) && c != '\\' => name.push(c),
            c => c.to_string().bytes().for_each(|b| name.push_str(&format!("\\x{b:02x}"))),
        }
    }
    name + ".scope"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_nested_by_their_names() {
        let path = |slice: &str| slice_path(slice).map(|p| p.display().to_string());
        assert_eq!(path("system.slice").unwrap(), "system.slice");
        assert_eq!(path("a-b-c.slice").unwrap(), "a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(path("kube.d-pod_1.slice").unwrap(), "kube.d.slice/kube.d-pod_1.slice");
        assert_eq!(path("-.slice").unwrap(), "");
        for bad in ["", ".slice", "a", "a.scope", "a/b.slice", "../a.slice", "a--b.slice", "-a.slice", "a-.slice"] {
            let why = path(bad).unwrap_err();
            assert!(why.contains(&format!("{bad:?}")), "{why}");
        }
        assert!(path("a b.slice").is_err() && path("ü.slice").is_err() && path("a@b.slice").is_err());
        assert!(path(&format!("{}.slice", "a".repeat(250))).is_err());
    }

    #[test]
    fn scopes_are_named_by_prefix_and_id() {
        assert_eq!(scope_name("berth", "0123ab"), "berth-0123ab.scope");
        assert_eq!(scope_name("", "x"), "x.scope");
        assert_eq!(scope_name("cri-containerd", "a_b.c-d"), "cri-containerd-a_b.c-d.scope");
        assert_eq!(scope_name("p", "a+b"), "p-a\\x2bb.scope");
    }
}

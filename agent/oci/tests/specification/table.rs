//! specification.md is what it says.

use std::collections::BTreeSet;

/// Test files by the names that the table has for them.
const FILES: [(&str, &str); 5] = [
    ("lifecycle", include_str!("../lifecycle.rs")),
    ("walls", include_str!("../walls.rs")),
    ("specification", include_str!("main.rs")),
    ("cgroups", include_str!("cgroups.rs")),
    ("features", include_str!("features.rs")),
];

/// Functions of a file that are tests.
fn tests(source: &str) -> BTreeSet<&str> {
    let after = source.split("#[test]\n").skip(1);
    after.filter_map(|rest| rest.split_once("fn ")?.1.split_once('(')).map(|(name, _)| name).collect()
}

#[test]
fn the_table_is_true() {
    let table = include_str!("specification.md");
    let (mut rows, mut named) = (BTreeSet::new(), BTreeSet::new());
    for row in table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| section |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [section, what, here] = cells[..] else { panic!("three cells: {row}") };
        assert!(!section.is_empty() && !what.is_empty(), "{row}");
        assert!(rows.insert((section, what)), "twice: {row}");
        let reason = ["does not apply: ", "not tried: "].iter().any(|start| here.starts_with(start));
        assert!(reason || here.contains("`"), "neither a test nor a reason: {row}");
    }
    assert!(rows.len() > 120, "{} rows", rows.len());
    for name in table.split('`').skip(1).step_by(2).filter(|name| name.contains("::") && !name.ends_with("::")) {
        let Some((file, function)) = name.split_once("::").filter(|(file, _)| *file != "file") else { continue };
        let (_, source) = FILES.iter().find(|(f, _)| *f == file).unwrap_or_else(|| panic!("{name}: no such file"));
        assert!(tests(source).contains(function), "{name} is no test");
        named.insert((file, function));
    }
    for (file, source) in FILES.iter().skip(2) {
        for function in tests(source) {
            assert!(named.contains(&(*file, function)), "{file}::{function} is not in specification.md");
        }
    }
}

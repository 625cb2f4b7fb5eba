//! Other OCI runtimes, as Debian installs them.

use std::fmt::Write as _;
use std::path::Path;

/// Name and program of those that this host has; all, where everything is said to be installed.
pub fn there() -> Vec<(&'static str, &'static str)> {
    const PLACES: [(&str, &[&str]); 2] = [
        ("crun", &["/usr/bin/crun", "/usr/sbin/crun", "/usr/local/bin/crun", "/usr/local/sbin/crun"]),
        ("runc", &["/usr/bin/runc", "/usr/sbin/runc", "/usr/local/bin/runc", "/usr/local/sbin/runc"]),
    ];
    let place = |paths: &[&'static str]| paths.iter().copied().find(|path| Path::new(path).exists());
    let found: Vec<_> = PLACES.iter().filter_map(|(name, paths)| Some((*name, place(paths)?))).collect();
    let may_lack = std::env::var_os("BERTH_TEST_INSTALLED").is_none();
    assert!(may_lack || found.len() == PLACES.len(), "there is only {found:?}: tests/fixtures/setup.sh");
    found
}

/// The table `[runtimes]` with all of them; the default is what BERTH_TEST_RUNTIME says, so that every test can be run with another runtime.
pub fn table() -> String {
    let mut text = String::new();
    if let Some(name) = other() {
        writeln!(text, "[runtimes]\ndefault = \"{name}\"").expect("string");
    }
    for (name, path) in there() {
        writeln!(text, "[runtimes.{name}]\npath = \"{path}\"").expect("string");
    }
    text
}

/// The runtime that containers get, where it is not our own.
pub fn other() -> Option<String> {
    std::env::var("BERTH_TEST_RUNTIME").ok()
}

const LANDLOCK: &str = "--security-opt landlock=on is our own";
const CRUN_BELOW: &str = "crun 1.8 leaves out mounts below one in a user namespace";

/// Tests of what only our own runtime has, and why: module and function, for a runtime or for every one.
const NEED_OURS: &[(&str, &str, &str)] = &[
    ("every", "run::an_init_reaps_orphans_and_forwards_signals", "--init is the shim's"),
    ("every", "resources::a_container_may_part_its_group_when_that_is_asked", "others show groups read-only"),
    ("every", "visible::of_a_container", "it compares with what our own gives, to the letter"),
    ("every", "visible::of_what_joins_it", "it compares with what our own gives, to the letter"),
    ("every", "landlock::a_container_works_as_ever", LANDLOCK),
    ("every", "landlock::abstract_sockets_and_processes_of_the_host_are_out_of_reach", LANDLOCK),
    ("every", "landlock::an_agent_may_have_it_around_all", LANDLOCK),
    ("every", "landlock::each_process_in_it_is_in_a_domain", LANDLOCK),
    ("every", "cgroup_driver::who_has_no_groups_is_not_joined", "others keep in mind where a container's groups are"),
    ("every", "damage::a_killed_shim_of_an_exec_is_reported", "what others start does not end with its shim"),
    ("crun", "permissions::a_permitted_folder_is_not_left_by_links", CRUN_BELOW),
    ("crun", "binds::read_only_reaches_as_far_below_as_it_is_told", CRUN_BELOW),
    ("every", "escapes::a_null_device_of_ones_own_does_not_unmask", "Debian 12's runc and crun have CVE-2025-31133"),
    ("crun", "escapes::nothing_is_mounted_over_proc", "crun 1.8 follows an image's link to /proc with a mount's place"),
    (
        "runc",
        "limits::those_of_processes_hold_for_the_first_one_and_for_what_joins_it",
        "runc 1.1 needs more memory than such a limit leaves, once it is set",
    ),
];

/// Ends the process of a test that another runtime cannot pass, and says why: each test is a process of its own with nextest.
pub fn skip_what_needs_ours() {
    let Some(runtime) = other() else { return };
    let is_asked = |(of, test, _): &&(&str, &str, &str)| {
        (*of == "every" || *of == runtime) && std::env::args().any(|argument| argument == *test)
    };
    if let Some((_, test, why)) = NEED_OURS.iter().find(is_asked) {
        say(&format!("skipped: {test} needs our own runtime: {why}"));
        std::process::exit(0);
    }
}

/// Whether `what` can be tested: only our own runtime has it.
pub fn has(what: &str) -> bool {
    let ours = other().is_none();
    if !ours {
        say(&format!("left out: {what} needs our own runtime"));
    }
    ours
}

/// Others leave the folder that v1's hierarchies hang in writable, runc in a user namespace: a small tmpfs with nothing of the host's. They
/// themselves are read-only.
pub fn leaves_folder_of_groups() -> bool {
    other().is_some() && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Output of tests that succeed is seen nowhere: BERTH_TEST_SKIPPED names a file for it.
pub fn say(text: &str) {
    println!("{text}");
    if let Some(file) = std::env::var_os("BERTH_TEST_SKIPPED") {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(file).expect("BERTH_TEST_SKIPPED");
        file.write_all(format!("{text}\n").as_bytes()).expect("BERTH_TEST_SKIPPED");
    }
}

#[test]
fn what_is_skipped_is_there() {
    for (_, test, why) in NEED_OURS {
        let (module, function) = test.split_once("::").expect("module::function");
        let path = super::source_dir().join(format!("tests/e2e/{module}.rs"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(source.contains(&format!("fn {function}(")), "{test} is no test any more");
        assert!(!why.is_empty());
    }
}

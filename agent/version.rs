//! The version of this program.

/// As it was built.
#[cfg(not(feature = "failpoints"))]
pub fn version() -> &'static str {
    berth::VERSION
}

/// As it was built, unless a test has written another one behind the end of the file.
#[cfg(feature = "failpoints")]
pub fn version() -> &'static str {
    trait_of("version").unwrap_or(berth::VERSION)
}

/// What a test has written behind the end of this program's file, such as `\nberth-test:version=9.0.0;fail=crash\n`: a build of its own for each
/// case would take minutes. Only in builds with fail points.
#[cfg(feature = "failpoints")]
pub fn trait_of(key: &str) -> Option<&'static str> {
    use std::io::{Read, Seek, SeekFrom};
    use std::sync::OnceLock;
    static TRAITS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let traits = TRAITS.get_or_init(|| {
        let mut tail = Vec::new();
        let read = std::fs::File::open("/proc/self/exe")
            .and_then(|mut f| f.seek(SeekFrom::End(-256)).map(|_| f))
            .and_then(|mut f| f.read_to_end(&mut tail));
        let text = String::from_utf8_lossy(&tail);
        let line = read.ok().and(text.strip_suffix('\n')).and_then(|t| t.rsplit_once("\nberth-test:"));
        let pairs = line.map(|(_, line)| line).unwrap_or_default().split(';').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    });
    traits.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

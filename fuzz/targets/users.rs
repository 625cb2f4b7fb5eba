//! passwd and group of an image: whom a name means.
#![no_main]

#[path = "../../agent/runtime/src/error.rs"]
#[allow(dead_code)]
mod error;
#[path = "../../agent/runtime/src/user.rs"]
#[allow(dead_code)]
mod user;

use error::RuntimeError;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The wanted user, the supplementary groups, passwd and group, apart from each other by a NUL.
    let mut parts = bytes.splitn(4, |b| *b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let wanted = String::from_utf8_lossy(next());
    let extra: Vec<String> =
        String::from_utf8_lossy(next()).split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
    let (passwd, group) = (next(), next());
    if let Ok(found) = user::resolve("user", &wanted, &extra, Some(passwd), Some(group)) {
        // (uid_t) -1 would leave root as it is.
        let ids = [found.uid, found.gid].into_iter().chain(found.groups.iter().copied());
        assert!(ids.into_iter().all(|id| id <= i32::MAX as u32));
        assert!(found.groups.is_sorted() && found.groups.contains(&found.gid), "the primary group is one of them");
        assert!(!found.home.is_empty() && !found.home.contains('\n'));
        let name = wanted.split(':').next().unwrap();
        let listed = String::from_utf8_lossy(passwd).contains(name);
        assert!(listed || found.uid == name.parse().unwrap_or(0), "nobody becomes who he is not");
        let is_number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        assert!(!is_number || name.parse() == Ok(found.uid), "a number is no name");
    }
});

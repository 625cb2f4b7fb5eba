//! `user[:group]` by the files of the image (passwd(5), group(5)).

use crate::RuntimeError;

/// What a process runs as.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

fn lines(file: Option<&[u8]>) -> impl Iterator<Item = Vec<String>> {
    file.unwrap_or_default()
        .split(|&b| b == b'\n')
        .map(|l| String::from_utf8_lossy(l).trim().to_owned())
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split(':').map(str::to_owned).collect())
}

fn number(text: &str) -> Option<u32> {
    // (uid_t) -1 means "leave as it is" to the kernel; Docker's highest is i32::MAX too.
    text.parse().ok().filter(|n| *n <= i32::MAX as u32)
}

/// Digits are a number, and never a name: whom a caller wants by number must not be whom an image calls so (CVE-2026-46680).
fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Docker's rules: a name must be in the file, a number need not be; supplementary groups come from the group file when no group is
/// named, and the primary group is one of them. `field` is what an error names.
pub(crate) fn resolve(
    field: &str,
    wanted: &str,
    extra: &[String],
    passwd: Option<&[u8]>,
    group: Option<&[u8]>,
) -> Result<User, RuntimeError> {
    let bad = |message: String| RuntimeError::spec(field, message);
    let (user, named_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let as_number = number(user);
    let too_large = |what: &str, text: &str| bad(format!("{text} is no {what}: the highest is {}", i32::MAX));
    let entry = match (as_number, is_number(user)) {
        (None, true) => return Err(too_large("uid", user)),
        (Some(n), _) => lines(passwd).find(|f| f.len() >= 4 && number(&f[2]) == Some(n)),
        (None, false) => lines(passwd).find(|f| f.len() >= 4 && f[0] == user),
    };
    let mut found = User { home: "/".into(), ..User::default() };
    let mut name = None;
    match (&entry, as_number) {
        (Some(fields), _) => {
            found.uid =
                number(&fields[2]).ok_or_else(|| bad(format!("{user:?} has a bad uid in the image's passwd")))?;
            found.gid =
                number(&fields[3]).ok_or_else(|| bad(format!("{user:?} has a bad gid in the image's passwd")))?;
            found.home = fields.get(5).filter(|h| !h.is_empty()).cloned().unwrap_or_else(|| "/".into());
            name = Some(fields[0].clone());
        }
        (None, Some(uid)) => found.uid = uid,
        (None, None) => return Err(bad(format!("no user {user:?} in the image's passwd file"))),
    }
    let group_id = |text: &str| -> Option<u32> {
        if is_number(text) {
            return number(text);
        }
        lines(group).find(|f| f.len() >= 3 && f[0] == text).and_then(|f| number(&f[2]))
    };
    match named_group {
        Some(text) if is_number(text) && number(text).is_none() => return Err(too_large("gid", text)),
        Some(text) => {
            found.gid = group_id(text).ok_or_else(|| bad(format!("no group {text:?} in the image's group file")))?;
        }
        None => {
            if let Some(name) = &name {
                let member = |f: &Vec<String>| f.len() >= 4 && f[3].split(',').any(|m| m == name);
                found.groups.extend(lines(group).filter(member).filter_map(|f| number(&f[2])));
            }
        }
    }
    for text in extra {
        if is_number(text) && number(text).is_none() {
            return Err(RuntimeError::spec("groups", format!("{text} is no gid: the highest is {}", i32::MAX)));
        }
        let id = group_id(text)
            .ok_or_else(|| RuntimeError::spec("groups", format!("no group {text:?} in the image's group file")))?;
        found.groups.push(id);
    }
    // Docker's way since CVE-2022-36109: without it a process that drops a group by setgroups(2) passes what is closed to that group.
    found.groups.push(found.gid);
    found.groups.sort_unstable();
    found.groups.dedup();
    Ok(found)
}

/// The home of a user by the image's passwd file; `/` when that does not say.
pub fn home(uid: u32, passwd: &[u8]) -> String {
    let entry = lines(Some(passwd)).find(|f| f.len() >= 4 && number(&f[2]) == Some(uid));
    entry
        .and_then(|mut f| (f.len() > 5).then(|| f.swap_remove(5)))
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| "/".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nweb:x:33:34::/srv:/bin/sh\nbroken\nbad:x:z:1::/:\n";
    const GROUP: &[u8] = b"root:x:0:\nweb:x:34:\nadm:x:4:other,web\nlogs:x:50:web\n";

    fn get(wanted: &str) -> Result<User, RuntimeError> {
        resolve("user", wanted, &[], Some(PASSWD), Some(GROUP))
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.into() }
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(get("").unwrap(), user(0, 0, &[0], "/root"));
        assert_eq!(get("web").unwrap(), user(33, 34, &[4, 34, 50], "/srv"));
        assert_eq!(get("33").unwrap(), user(33, 34, &[4, 34, 50], "/srv"));
        assert_eq!(get("web:adm").unwrap(), user(33, 4, &[4], "/srv"));
        assert_eq!(get("1000").unwrap(), user(1000, 0, &[0], "/"));
        assert_eq!(get("1000:2000").unwrap(), user(1000, 2000, &[2000], "/"));
        assert_eq!(
            resolve("user", "0", &["logs".into(), "7".into()], Some(PASSWD), Some(GROUP)).unwrap().groups,
            [0, 7, 50]
        );
        assert_eq!(resolve("user", "5", &[], None, None).unwrap(), user(5, 0, &[0], "/"));
    }

    #[test]
    fn a_number_is_never_a_name() {
        let (passwd, group) = (&b"1000:x:0:0::/:\n4294967296:x:0:0::/:\n"[..], &b"1000:x:0:\n4294967296:x:0:\n"[..]);
        let get = |wanted| resolve("user", wanted, &["1000".into()], Some(passwd), Some(group));
        assert_eq!(get("1000:1000").unwrap(), user(1000, 1000, &[1000], "/"));
        for bad in ["4294967296", "7:4294967296", "2147483648", "00000000004294967296"] {
            let error = get(bad).unwrap_err().to_string();
            assert!(error.contains("the highest is 2147483647"), "{error}");
        }
        let error = resolve("user", "0", &["2147483648".into()], None, Some(group)).unwrap_err().to_string();
        assert!(error.starts_with("groups:") && error.contains("the highest is 2147483647"), "{error}");
    }

    #[test]
    fn homes() {
        assert_eq!((home(33, PASSWD), home(0, PASSWD)), ("/srv".into(), "/root".into()));
        assert_eq!((home(1000, PASSWD), home(0, b""), home(1, PASSWD)), ("/".into(), "/".into(), "/".into()));
    }

    #[test]
    fn what_is_not_there_is_said() {
        for bad in ["nobody", "web:none", "bad", "4294967295", "-1"] {
            assert!(matches!(get(bad), Err(RuntimeError::Spec { .. })), "{bad}");
        }
    }
}

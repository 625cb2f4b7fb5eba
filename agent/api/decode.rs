//! Reading requests: every field is looked at, and all that is wrong is said at once.

use crate::status;
use berth_model::{Platform, Reference, Timestamp};
use tonic::Status;

/// An argument or variable of execve(2): MAX_ARG_STRLEN, 32 pages.
pub const MAX_ARGUMENT: usize = 128 << 10;
/// Names, ids, prefixes and patterns.
pub const MAX_NAME: usize = 512;
/// PATH_MAX.
pub const MAX_PATH: usize = 4095;

/// The errors of a request, by the paths of their fields.
#[derive(Default, Debug)]
pub struct Fields {
    prefix: String,
    errors: Vec<(String, String)>,
}

impl Fields {
    /// Fields of a message inside the request, such as `create.config.`.
    pub fn under(prefix: &str) -> Fields {
        Fields { prefix: prefix.to_owned(), errors: Vec::new() }
    }

    pub fn wrong(&mut self, field: impl AsRef<str>, why: impl Into<String>) {
        self.errors.push((format!("{}{}", self.prefix, field.as_ref()), why.into()));
    }

    pub fn check(&mut self, good: bool, field: impl AsRef<str>, why: &str) {
        if !good {
            self.wrong(field, why);
        }
    }

    /// What `result` holds; its error goes to the list.
    pub fn take<T, E: std::fmt::Display>(&mut self, field: impl AsRef<str>, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.wrong(field, e.to_string())).ok()
    }

    /// At most `max` entries of a list or a map. Where it is false, nobody compares them with each other.
    pub fn count(&mut self, field: &str, count: usize, max: usize) -> bool {
        if count > max {
            self.wrong(field, format!("has {count} entries; at most {max} are taken"));
        }
        count <= max
    }

    /// Any text without NUL, of at most `max` bytes.
    pub fn text(&mut self, field: impl AsRef<str>, value: &str, max: usize) -> bool {
        if value.len() > max {
            self.wrong(field, format!("is longer than {max} bytes"));
        } else if value.contains('\0') {
            self.wrong(field, "must not hold NUL");
        } else {
            return true;
        }
        false
    }

    /// A line: text without control characters.
    pub fn line(&mut self, field: impl AsRef<str>, value: &str, max: usize) -> bool {
        if !self.text(field.as_ref(), value, max) {
            return false;
        }
        let good = !value.chars().any(char::is_control);
        self.check(good, field, "must not hold control characters");
        good
    }

    /// What a request names: it must be there.
    pub fn name(&mut self, field: &str, value: &str) {
        if value.is_empty() {
            self.wrong(field, "must not be empty");
        } else {
            self.line(field, value, MAX_NAME);
        }
    }

    /// An absolute path without `..`.
    pub fn path(&mut self, field: impl AsRef<str>, value: &str) -> bool {
        let field = field.as_ref();
        if !self.text(field, value, MAX_PATH) {
            return false;
        }
        if !value.starts_with('/') {
            self.wrong(field, format!("{value:?} must be an absolute path"));
        } else if value.split('/').any(|part| part == "..") {
            self.wrong(field, format!("{value:?} must not hold '..'"));
        } else {
            return true;
        }
        false
    }

    /// A client's id of a request.
    pub fn request_id(&mut self, value: &str) {
        let good = value.len() <= 64 && value.bytes().all(|b| b.is_ascii_graphic());
        self.check(good, "request_id", "must be at most 64 printable ASCII characters");
    }

    /// Arguments of a process.
    pub fn arguments(&mut self, field: &str, values: &[String]) {
        self.count(field, values.len(), 4096);
        for (n, value) in values.iter().enumerate() {
            self.text(format!("{field}[{n}]"), value, MAX_ARGUMENT);
        }
    }

    /// `KEY=value` each.
    pub fn env(&mut self, field: &str, values: &[String]) {
        self.count(field, values.len(), 4096);
        for (n, value) in values.iter().enumerate() {
            let at = format!("{field}[{n}]");
            if self.text(&at, value, MAX_ARGUMENT) {
                let good = value.split_once('=').is_some_and(|(key, _)| !key.is_empty());
                // Never the value: it may be a secret.
                self.check(good, at, "must be KEY=value");
            }
        }
    }

    /// A signal's name or number; empty: none.
    pub fn signal(&mut self, field: &str, value: &str) {
        if !value.is_empty() && !is_signal(value) {
            let shown: String = value.chars().take(32).collect();
            self.wrong(
                field,
                format!("{shown:?} is no signal; use a name such as SIGTERM or TERM, or a number of 1 to 64"),
            );
        }
    }

    /// Rows and columns of a terminal.
    pub fn size(&mut self, field: &str, size: Option<berth::v1::TerminalSize>) -> Option<(u16, u16)> {
        let size = size?;
        match (u16::try_from(size.rows), u16::try_from(size.columns)) {
            (Ok(rows), Ok(columns)) => Some((rows, columns)),
            _ => {
                self.wrong(field, "rows and columns must be at most 65535");
                None
            }
        }
    }

    /// A point in time.
    pub fn time(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        match u32::try_from(time.nanos) {
            // The model counts nanoseconds in 64 bits: until the year 2262.
            Ok(nanos) if nanos < 1_000_000_000 && (-9_223_372_036..9_223_372_036).contains(&time.seconds) => {
                Some(Timestamp::from_parts(time.seconds, nanos))
            }
            _ => {
                self.wrong(field, "must be a time of the years 1678 to 2262, with nanos of 0 to 999999999");
                None
            }
        }
    }

    /// An image's name.
    pub fn reference(&mut self, field: &str, value: &str) -> Option<Reference> {
        if !self.line(field, value, 1024) {
            return None;
        }
        self.take(field, value.parse::<Reference>())
    }

    /// A platform; `None`: the node's.
    pub fn platform(&mut self, field: &str, value: Option<berth::v1::Platform>) -> Option<Platform> {
        let value = value?;
        let word = |s: &str| {
            (1..=32).contains(&s.len())
                && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
        };
        let mut part = |name: &str, text: &str| {
            self.check(word(text), format!("{field}.{name}"), "must be 1 to 32 lower-case letters and digits");
        };
        part("os", &value.os);
        part("architecture", &value.architecture);
        if !value.variant.is_empty() {
            part("variant", &value.variant);
        }
        Some(Platform {
            os: value.os,
            architecture: value.architecture,
            variant: Some(value.variant).filter(|v| !v.is_empty()),
        })
    }

    /// Credentials for one call.
    pub fn auth(&mut self, field: &str, value: Option<berth::v1::RegistryAuth>) -> Option<berth_image::Auth> {
        let value = value?;
        for (name, text) in [
            ("username", &value.username),
            ("password", &value.password),
            ("identity_token", &value.identity_token),
            ("registry_token", &value.registry_token),
        ] {
            self.line(format!("{field}.{name}"), text, 64 << 10);
        }
        Some(berth_image::Auth {
            username: value.username,
            password: value.password,
            identity_token: value.identity_token,
            registry_token: value.registry_token,
        })
    }

    /// A filter that the list does not know.
    pub fn unknown_filter(&mut self, n: usize, key: &str, known: &str) {
        let shown: String = key.chars().take(64).collect();
        self.wrong(format!("filters[{n}].key"), format!("{shown:?} is no filter; there are {known}"));
    }

    /// Takes the errors of a part in.
    pub fn merge(&mut self, part: Fields) {
        self.errors.extend(part.errors);
    }

    /// All that was wrong, as INVALID_ARGUMENT.
    pub fn done(self) -> Result<(), Status> {
        if self.errors.is_empty() { Ok(()) } else { Err(status::invalid(self.errors)) }
    }

    /// The errors, for a caller that goes on.
    #[cfg(test)]
    pub fn errors(&self) -> &[(String, String)] {
        &self.errors
    }
}

/// `None` for an empty text.
pub fn some(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

/// signal(7): names with or without SIG, in any case; 1 to 64; RTMIN+n and RTMAX-n.
fn is_signal(text: &str) -> bool {
    const NAMES: &[&str] = &[
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "POLL", "PWR", "SYS", "RTMIN", "RTMAX",
    ];
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign| rest.strip_prefix(sign).is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 30));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| offset(rest, '+'))
        || name.strip_prefix("RTMAX").is_some_and(|rest| offset(rest, '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for good in ["9", "64", "KILL", "SIGTERM", "sigterm", "int", "RTMIN", "SIGRTMIN+3", "RTMAX-2"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["0", "65", "-9", "SIG", "TERMINATE", "RTMIN-1", "RTMIN+99", "+9", "SIGSIGTERM"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }

    #[test]
    fn texts_paths_and_names() {
        let mut f = Fields::under("config.");
        f.text("a", "x\0y", 10);
        f.text("b", "12345", 4);
        f.line("c", "x\ny", 10);
        f.path("d", "relative");
        f.path("e", "/a/../b");
        f.path("ok", "/a/..b/c");
        f.name("f", "");
        f.env("env", &["A=1".into(), "=x".into(), "B".into(), "C=".into()]);
        f.request_id("a b");
        let fields: Vec<&str> = f.errors().iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "config.a",
                "config.b",
                "config.c",
                "config.d",
                "config.e",
                "config.f",
                "config.env[1]",
                "config.env[2]",
                "config.request_id"
            ]
        );
    }

    #[test]
    fn times() {
        let mut f = Fields::default();
        let t = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(f.time("t", t(1, 5)), Some(Timestamp(1_000_000_005)));
        assert_eq!(f.time("t", None), None);
        assert_eq!(f.time("t", t(1, -1)), None);
        assert_eq!(f.time("t", t(i64::MAX, 0)), None);
        assert_eq!(f.time("t", t(0, 1_000_000_000)), None);
        assert_eq!(f.errors().len(), 3);
    }
}

//! Where a container's output goes: the driver and its options, as Docker names them.
//!
//! Every driver but `none` keeps the output in the container's own bounded files; `journald` and `syslog` are forwarded out of those.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

mod syslog;
mod tag;

pub use syslog::{SyslogAddress, SyslogConfig, SyslogFormat};
pub use tag::{LogFacts, TagError};

/// Smallest bound of one file: a few lines.
pub const MIN_FILE_BYTES: u64 = 4096;
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// Files of one container: each is a name in one folder.
pub const MAX_FILES: u32 = 10_000;

/// Who takes a container's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// The own format, rotated and compressed.
    #[default]
    Local,
    /// Docker's JSON lines.
    JsonFile,
    /// Nobody: it cannot be read back.
    None,
    /// systemd's journal.
    Journald,
    /// A collector by RFC 5424 or RFC 3164.
    Syslog,
}

impl LogDriver {
    const ALL: [LogDriver; 5] =
        [LogDriver::Local, LogDriver::JsonFile, LogDriver::None, LogDriver::Journald, LogDriver::Syslog];

    /// Docker's word.
    pub const fn name(self) -> &'static str {
        match self {
            LogDriver::Local => "local",
            LogDriver::JsonFile => "json-file",
            LogDriver::None => "none",
            LogDriver::Journald => "journald",
            LogDriver::Syslog => "syslog",
        }
    }

    /// Somebody beside the own files gets the output.
    pub const fn forwards(self) -> bool {
        matches!(self, LogDriver::Journald | LogDriver::Syslog)
    }

    /// The names of its options.
    pub fn options(self) -> Vec<&'static str> {
        const STORE: [&str; 4] = ["max-size", "max-file", "max-age", "compress"];
        const ABOUT: [&str; 3] = ["tag", "labels", "env"];
        const SYSLOG: [&str; 3] = ["syslog-address", "syslog-facility", "syslog-format"];
        match self {
            LogDriver::None => Vec::new(),
            LogDriver::Local => STORE.to_vec(),
            LogDriver::JsonFile | LogDriver::Journald => [&STORE[..], &ABOUT].concat(),
            LogDriver::Syslog => [&STORE[..], &ABOUT, &SYSLOG].concat(),
        }
    }
}

impl fmt::Display for LogDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No driver of that name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no log driver; there are local, json-file, none, journald and syslog")]
pub struct NoSuchDriver(String);

impl FromStr for LogDriver {
    type Err = NoSuchDriver;

    fn from_str(text: &str) -> Result<Self, NoSuchDriver> {
        Self::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| NoSuchDriver(text.to_owned()))
    }
}

/// How a container's output is kept, and who else gets it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Bytes of one file before it is rotated.
    pub max_file_bytes: u64,
    /// Files kept, the current one counted.
    pub max_files: u32,
    pub driver: LogDriver,
    /// Files that are full are compressed.
    pub compress: bool,
    /// Files that were written to last before so many seconds are removed.
    pub max_age_secs: Option<u64>,
    /// What a container's output is called where it is forwarded: Docker's template; empty: the short id.
    pub tag: String,
    /// Names of labels, and of environment variables, that go with each entry.
    pub labels: Vec<String>,
    pub env: Vec<String>,
    pub syslog: SyslogConfig,
    /// The caller named the collector, not the node.
    pub own_address: bool,
    /// What was asked for, as it was written.
    pub options: BTreeMap<String, String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            max_file_bytes: 10 << 20,
            max_files: 5,
            driver: LogDriver::Local,
            compress: true,
            max_age_secs: None,
            tag: String::new(),
            labels: Vec::new(),
            env: Vec::new(),
            syslog: SyslogConfig::default(),
            own_address: false,
            options: BTreeMap::new(),
        }
    }
}

impl LogConfig {
    /// What `driver` (`None`: the node's) with `options` means on a node whose default is `self`. The node's options hold for its own
    /// driver only, its sizes for every one.
    ///
    /// # Errors
    /// Every wrong option with the reason; an unknown one by its name.
    pub fn with(
        &self,
        driver: Option<LogDriver>,
        options: &BTreeMap<String, String>,
    ) -> Result<LogConfig, Vec<(String, String)>> {
        let driver = driver.unwrap_or(self.driver);
        let mut config = if driver == self.driver {
            self.clone()
        } else {
            let (max_file_bytes, max_files) = (self.max_file_bytes, self.max_files);
            // Docker's tools read plain files.
            let compress = driver != LogDriver::JsonFile;
            LogConfig { driver, max_file_bytes, max_files, compress, ..LogConfig::default() }
        };
        let mut wrong = Vec::new();
        for (key, value) in options {
            if let Err(why) = config.set(key, value) {
                wrong.push((key.clone(), why));
            }
        }
        if options.contains_key("syslog-address") && config.syslog.address != self.syslog.address {
            config.own_address = true;
        }
        config.options.extend(options.clone());
        if wrong.is_empty() { Ok(config) } else { Err(wrong) }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let known = self.driver.options();
        if !known.contains(&key) {
            return Err(match known[..] {
                [] => format!("the log driver {} has no options", self.driver),
                _ => format!("is no option of the log driver {}; there are {}", self.driver, known.join(", ")),
            });
        }
        match key {
            "max-size" => {
                let bytes = parse_bytes(value).ok_or("must be a size such as 500k, 10m or 1g")?;
                if !(MIN_FILE_BYTES..=MAX_FILE_BYTES).contains(&bytes) {
                    return Err("must be 4k to 1t: logs are always bounded".into());
                }
                self.max_file_bytes = bytes;
            }
            "max-file" => {
                let files = value.parse().ok().filter(|n| (1..=MAX_FILES).contains(n));
                self.max_files = files.ok_or_else(|| format!("must be a number of files, 1 to {MAX_FILES}"))?;
            }
            "max-age" => {
                let seconds = parse_seconds(value).filter(|s| *s > 0);
                self.max_age_secs = Some(seconds.ok_or("must be a time such as 90s, 12h or 7d")?);
            }
            "compress" => {
                self.compress = value.parse().map_err(|_| "must be true or false")?;
            }
            "tag" => {
                tag::check(value).map_err(|e| e.to_string())?;
                self.tag = value.to_owned();
            }
            "labels" => self.labels = names(value)?,
            "env" => self.env = names(value)?,
            "syslog-address" => self.syslog.address = value.parse()?,
            "syslog-facility" => self.syslog.facility = syslog::facility(value)?,
            "syslog-format" => self.syslog.format = value.parse()?,
            _ => return Err(format!("is no option of the log driver {}", self.driver)),
        }
        Ok(())
    }
}

fn names(value: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = value.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    if names.is_empty() || names.len() > 64 {
        Err("must be 1 to 64 names with commas between".into())
    } else {
        Ok(names)
    }
}

/// Docker's sizes: bytes, or with k, m, g, t (1024 each), b behind them or not.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Seconds, or with s, m, h, d.
fn parse_seconds(text: &str) -> Option<u64> {
    let (digits, each) = match text.as_bytes().last()? {
        b's' => (&text[..text.len() - 1], 1),
        b'm' => (&text[..text.len() - 1], 60),
        b'h' => (&text[..text.len() - 1], 3600),
        b'd' => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_of_every_driver() {
        let node = LogConfig { max_files: 9, ..LogConfig::default() };
        let all = options(&[("max-size", "1m"), ("max-file", "3"), ("max-age", "2h"), ("compress", "false")]);
        let local = node.with(None, &all).unwrap();
        assert_eq!(
            (local.max_file_bytes, local.max_files, local.max_age_secs, local.compress),
            (1 << 20, 3, Some(7200), false)
        );
        assert_eq!(local.options, all);
        let json = node.with(Some(LogDriver::JsonFile), &options(&[("labels", "a, b"), ("tag", "{{.Name}}")])).unwrap();
        assert_eq!((json.max_files, json.compress, json.labels.len(), json.tag.as_str()), (9, false, 2, "{{.Name}}"));
        let syslog = options(&[("syslog-address", "tcp://127.0.0.1:601"), ("syslog-facility", "local3")]);
        let syslog = node.with(Some(LogDriver::Syslog), &syslog).unwrap();
        assert!(syslog.own_address);
        assert_eq!(syslog.syslog.facility, 19);
        // The node's own collector is nobody's choice.
        let same = syslog.with(None, &options(&[("syslog-address", "tcp://127.0.0.1:601")])).unwrap();
        assert_eq!(same.syslog, syslog.syslog);
    }

    #[test]
    fn wrong_options_are_named_all_of_them() {
        let refused = |driver, list: &[(&str, &str)]| {
            let wrong = LogConfig::default().with(Some(driver), &options(list)).unwrap_err();
            wrong.into_iter().map(|(key, why)| format!("{key} {why}")).collect::<Vec<_>>()
        };
        let wrong = refused(LogDriver::Local, &[("tag", "x"), ("max-size", "0"), ("mode", "blocking")]);
        assert_eq!(wrong.len(), 3);
        assert!(wrong.iter().any(|w| w.starts_with("mode is no option of the log driver local; there are max-size")));
        assert_eq!(refused(LogDriver::None, &[("max-size", "1m")]), ["max-size the log driver none has no options"]);
        for (key, value) in [
            ("max-size", "-1"),
            ("max-size", "x"),
            ("max-file", "0"),
            ("max-age", "soon"),
            ("compress", "yes"),
            ("tag", "{{.Nmae}}"),
            ("labels", ","),
            ("syslog-address", "tcp+tls://x:1"),
            ("syslog-facility", "kernel"),
            ("syslog-format", "json"),
        ] {
            assert_eq!(refused(LogDriver::Syslog, &[(key, value)]).len(), 1, "{key}={value}");
        }
        assert!("fluentd".parse::<LogDriver>().unwrap_err().to_string().contains("\"fluentd\" is no log driver"));
    }

    #[test]
    fn old_records_load() {
        let old: LogConfig = serde_json::from_str(r#"{"max_file_bytes":5000,"max_files":7}"#).unwrap();
        assert_eq!(old, LogConfig { max_file_bytes: 5000, max_files: 7, ..LogConfig::default() });
        let text = serde_json::to_string(&old).unwrap();
        assert_eq!(serde_json::from_str::<LogConfig>(&text).unwrap(), old);
    }

    #[test]
    fn sizes_and_times() {
        for (text, bytes) in [("1", 1), ("4k", 4096), ("10m", 10 << 20), ("1G", 1 << 30), ("2kb", 2048), ("7b", 7)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in ["", "k", "1.5m", "-1", "99999999999t", "1 m"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        assert_eq!([parse_seconds("90"), parse_seconds("2d"), parse_seconds("x")], [Some(90), Some(172_800), None]);
    }
}

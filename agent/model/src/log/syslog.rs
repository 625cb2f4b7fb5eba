//! Where syslog messages go and how they look.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The collector and what it is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SyslogConfig {
    pub address: SyslogAddress,
    /// 0 to 23, RFC 5424 section 6.2.1.
    pub facility: u8,
    pub format: SyslogFormat,
}

impl Default for SyslogConfig {
    fn default() -> Self {
        // Docker's facility: daemon.
        SyslogConfig { address: SyslogAddress::default(), facility: 3, format: SyslogFormat::default() }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SyslogAddress {
    /// /dev/log of the host.
    #[default]
    Local,
    UnixStream(String),
    UnixDatagram(String),
    /// Host and port.
    Udp(String, u16),
    Tcp(String, u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogFormat {
    Rfc3164,
    /// Times in whole seconds.
    Rfc5424,
    /// Times in microseconds.
    #[default]
    Rfc5424micro,
}

impl FromStr for SyslogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rfc3164" => Ok(SyslogFormat::Rfc3164),
            "rfc5424" => Ok(SyslogFormat::Rfc5424),
            "rfc5424micro" => Ok(SyslogFormat::Rfc5424micro),
            _ => Err("must be rfc5424micro, rfc5424 or rfc3164".to_owned()),
        }
    }
}

impl FromStr for SyslogAddress {
    type Err = String;

    /// `unix:///path`, `unixgram:///path`, `udp://host[:port]`, `tcp://host[:port]`; port 514 when none is said.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be unix://PATH, unixgram://PATH, udp://HOST[:PORT] or tcp://HOST[:PORT]".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        match scheme {
            "unix" | "unixgram" => {
                // sun_path of unix(7) has 108 bytes.
                if !rest.starts_with('/') || rest.len() > 107 || rest.contains('\0') {
                    return Err(
                        "must be an absolute path of at most 107 bytes behind unix:// or unixgram://".to_owned()
                    );
                }
                let path = rest.to_owned();
                Ok(if scheme == "unix" { SyslogAddress::UnixStream(path) } else { SyslogAddress::UnixDatagram(path) })
            }
            "udp" | "tcp" => {
                let (host, port) = host_and_port(rest).ok_or_else(wrong)?;
                Ok(if scheme == "udp" { SyslogAddress::Udp(host, port) } else { SyslogAddress::Tcp(host, port) })
            }
            "tcp+tls" => Err("tcp+tls is not supported: use a relay on this host, or tcp".to_owned()),
            _ => Err(wrong()),
        }
    }
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_good = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
    host_good.then_some(())?;
    let port = port.map_or(Some(514), |p| p.parse().ok().filter(|p| *p > 0))?;
    Some((host.to_owned(), port))
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = |host: &str, port: u16| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        match self {
            SyslogAddress::Local => f.write_str("the local syslog (/dev/log)"),
            SyslogAddress::UnixStream(path) => write!(f, "unix://{path}"),
            SyslogAddress::UnixDatagram(path) => write!(f, "unixgram://{path}"),
            SyslogAddress::Udp(host, port) => write!(f, "udp://{}", network(host, *port)),
            SyslogAddress::Tcp(host, port) => write!(f, "tcp://{}", network(host, *port)),
        }
    }
}

impl From<SyslogAddress> for String {
    fn from(address: SyslogAddress) -> String {
        if address == SyslogAddress::Local { String::new() } else { address.to_string() }
    }
}

impl TryFrom<String> for SyslogAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() { Ok(SyslogAddress::Local) } else { text.parse() }
    }
}

/// A name of RFC 5424's table, or its number.
pub(super) fn facility(text: &str) -> Result<u8, String> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
        "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    let number = NAMES.iter().position(|n| *n == text).or_else(|| text.parse().ok().filter(|n| *n < NAMES.len()));
    let number = number.and_then(|n| u8::try_from(n).ok());
    number.ok_or_else(|| "must be a facility such as daemon or local0, or a number of 0 to 23".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_went() {
        for text in ["unix:///dev/log", "unixgram:///x", "udp://h:514", "tcp://10.0.0.1:601", "tcp://[::1]:6514"] {
            let address: SyslogAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(SyslogAddress::try_from(String::from(address.clone())), Ok(address));
        }
        assert_eq!("udp://h".parse(), Ok(SyslogAddress::Udp("h".into(), 514)));
        assert_eq!(SyslogAddress::try_from(String::from(SyslogAddress::Local)), Ok(SyslogAddress::Local));
        for bad in ["", "h:1", "unix://x", "tcp://", "tcp://h:0", "tcp://h:x", "tcp://[h]:1", "tcp://h:1:2", "http://h"]
        {
            assert!(bad.parse::<SyslogAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn facilities() {
        assert_eq!([facility("kern"), facility("local7"), facility("5")], [Ok(0), Ok(23), Ok(5)]);
        assert!(facility("24").is_err() && facility("").is_err());
    }
}

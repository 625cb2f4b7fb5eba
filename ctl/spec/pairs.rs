//! Flags of the form `KEY=VALUE`, and files of them.

use crate::error::{Error, Result};
use crate::units::parse_bytes;
use berth::v1;
use std::collections::HashMap;

/// The lines of a file that are neither empty nor comments.
pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(|l| l.trim_start().to_owned()).filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
}

/// Environment variables; a name without a value takes ours, and is left out when we have none.
pub fn env(flag: &str, values: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for value in values {
        let (key, rest) = match value.split_once('=') {
            Some((k, v)) => (k, Some(v)),
            None => (value.as_str(), None),
        };
        if key.is_empty() || key.contains(char::is_whitespace) || value.contains('\0') {
            return Err(Error::usage(format!("{flag} {value:?}: write KEY=VALUE or KEY")));
        }
        match rest {
            Some(_) => all.push(value.clone()),
            None => all.extend(std::env::var(key).ok().map(|v| format!("{key}={v}"))),
        }
    }
    Ok(all)
}

/// A file of environment variables.
pub fn env_lines(text: &str, file: &str) -> Result<Vec<String>> {
    env(file, &lines(text))
}

/// `KEY[=VALUE]`.
pub fn labels(flag: &str, values: &[String]) -> Result<HashMap<String, String>> {
    values
        .iter()
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(Error::usage(format!("{flag} {text:?}: write KEY[=VALUE]")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `KEY=VALUE`, both there.
pub fn strict(flag: &str, values: &[String]) -> Result<HashMap<String, String>> {
    values
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::usage(format!("{flag} {text:?}: write KEY=VALUE"))),
        })
        .collect()
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub fn extra_host(text: &str) -> Result<v1::ExtraHost> {
    let bad = |why: &str| Error::usage(format!("--add-host {text:?}: {why}"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(|| bad("write NAME:ADDRESS"))?;
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() {
        return Err(bad("the name is missing"));
    }
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(bad(&format!("{address:?} is neither an address nor host-gateway")));
    }
    Ok(v1::ExtraHost { name: name.to_owned(), address: bare.to_owned() })
}

/// `NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<v1::Ulimit> {
    let bad = |why: String| Error::usage(format!("--ulimit {text:?}: {why}"));
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("write NAME=SOFT[:HARD]".into()))?;
    let number = |s: &str| match s {
        "-1" | "unlimited" => Ok(u64::MAX),
        n => n.parse::<u64>().map_err(|_| bad(format!("{n:?} is no number and not -1"))),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((s, h)) => (number(s)?, number(h)?),
        None => (number(limits)?, number(limits)?),
    };
    if name.is_empty() {
        return Err(bad("the name is missing".into()));
    }
    if soft > hard {
        return Err(bad("the soft limit is above the hard one".into()));
    }
    Ok(v1::Ulimit { name: name.to_owned(), soft, hard })
}

/// Bytes and inodes of a container's own files.
pub fn storage(options: &[String]) -> Result<(Option<u64>, u64)> {
    let (mut size, mut inodes) = (None, 0);
    for option in options {
        let bad = |why: &str| Error::usage(format!("--storage-opt {option:?}: {why}"));
        match option.split_once('=') {
            Some(("size", v)) => size = Some(parse_bytes(v).map_err(|e| bad(&e))?),
            Some(("inodes", v)) => inodes = v.parse().map_err(|_| bad("must be a number of files and folders"))?,
            _ => return Err(bad("there are size=SIZE and inodes=NUMBER")),
        }
    }
    Ok((size, inodes))
}

/// The log driver and its options, which the agent knows; sizes are read here.
pub fn log(driver: Option<&str>, options: &[String]) -> Result<Option<v1::LogConfig>> {
    let mut log = v1::LogConfig { driver: driver.unwrap_or_default().to_owned(), ..Default::default() };
    for option in options {
        let bad = |why: &str| Error::usage(format!("--log-opt {option:?}: {why}"));
        match option.split_once('=') {
            // With the driver none the agent says that there are no options.
            Some(("max-size", v)) if driver != Some("none") => {
                log.max_file_bytes = parse_bytes(v).map_err(|e| bad(&e))?;
                if log.max_file_bytes == 0 {
                    return Err(bad("logs are always bounded; give a size above 0"));
                }
            }
            Some(("max-file", v)) if driver != Some("none") => {
                log.max_files =
                    v.parse().ok().filter(|&n| n > 0).ok_or_else(|| bad("must be a number of files, at least 1"))?;
            }
            Some((key, value)) if !key.is_empty() => {
                log.options.insert(key.to_owned(), value.to_owned());
            }
            _ => return Err(bad("write KEY=VALUE")),
        }
    }
    Ok(if options.is_empty() && driver.is_none() { None } else { Some(log) })
}

//! Changes to an image's configuration, in the words of a Dockerfile: what `commit --change` takes.

use serde_json::{Map, Value, json};
use std::time::Duration;

/// Ports of one range.
const MAX_PORTS: u32 = 1000;

/// One instruction.
#[derive(Clone, PartialEq, Eq, Debug, Hash, serde::Serialize)]
pub enum Change {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<(String, String)>),
    /// `port/protocol`
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    User(String),
    Workdir(String),
    StopSignal(String),
    Volume(Vec<String>),
    OnBuild(String),
    Healthcheck(Health),
}

/// Nanoseconds, as configurations have them; 0: not set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash, serde::Serialize)]
pub struct Health {
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub start_interval: u64,
    pub retries: u64,
}

/// `["a", "b"]`, or a line for a shell.
fn command(text: &str) -> Vec<String> {
    match list(text) {
        Some(list) => list,
        None => vec!["/bin/sh".into(), "-c".into(), text.into()],
    }
}

fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// Words with quotes and backslashes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.push(chars.next().ok_or("ends with a backslash")?),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
                continue;
            }
            (c, _) => word.push(c),
        }
        begun = true;
    }
    if quote.is_some() {
        return Err("a quote is not closed".into());
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn pairs(text: &str, old_form: bool) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or("");
    if old_form && !first.contains('=') {
        let value = text[first.len()..].trim();
        return if value.is_empty() {
            Err(format!("{first} has no value"))
        } else {
            Ok(vec![(first.into(), value.into())])
        };
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is not KEY=value")),
    };
    words(text)?.into_iter().map(pair).collect()
}

fn ports(text: &str) -> Result<Vec<String>, String> {
    let mut ports = Vec::new();
    for word in text.split_whitespace() {
        let bad = || format!("{word:?} is no port: 80, 80/udp or 8000-8010");
        let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last): (u16, u16) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        let good = first > 0 && first <= last && u32::from(last - first) < MAX_PORTS;
        if !good || !matches!(&protocol[..], "tcp" | "udp" | "sctp") {
            return Err(bad());
        }
        ports.extend((first..=last).map(|p| format!("{p}/{protocol}")));
    }
    Ok(ports)
}

/// Go's durations: `1m30s`, `500ms`.
fn nanos(text: &str) -> Option<u64> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    u64::try_from(total.as_nanos()).ok().filter(|n| *n > 0)
}

fn health(text: &str) -> Result<Health, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Health { test: vec!["NONE".into()], ..Health::default() });
    }
    let mut health = Health::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).ok_or("has no CMD")?;
        let (name, value) = option.split_once('=').ok_or_else(|| format!("--{option} has no value"))?;
        let time = || nanos(value).ok_or_else(|| format!("--{name}={value}: {value:?} is no duration such as 30s"));
        match name {
            "interval" => health.interval = time()?,
            "timeout" => health.timeout = time()?,
            "start-period" => health.start_period = time()?,
            "start-interval" => health.start_interval = time()?,
            "retries" => health.retries = value.parse().map_err(|_| format!("--retries={value}: no number"))?,
            _ => return Err(format!("--{name} is no option of HEALTHCHECK")),
        }
        rest = after.trim_start();
    }
    let (word, test) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = test.trim();
    if !word.eq_ignore_ascii_case("cmd") || test.is_empty() {
        return Err("must be NONE, or CMD with a command".into());
    }
    health.test = match list(test) {
        Some(list) => [vec!["CMD".to_owned()], list].concat(),
        None => vec!["CMD-SHELL".into(), test.into()],
    };
    Ok(health)
}

impl Change {
    /// Reads one instruction.
    ///
    /// # Errors
    /// In words, without the line itself.
    pub fn parse(line: &str) -> Result<Change, String> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let name = name.to_ascii_uppercase();
        let known = [
            "CMD",
            "ENTRYPOINT",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "LABEL",
            "ONBUILD",
            "STOPSIGNAL",
            "USER",
            "VOLUME",
            "WORKDIR",
        ];
        if !known.contains(&&name[..]) {
            return Err(format!("{name:?} is not one of {}", known.join(", ")));
        }
        if rest.is_empty() {
            return Err(format!("{name} needs something behind it"));
        }
        let one = || match rest.split_whitespace().count() {
            1 => Ok(rest.to_owned()),
            _ => Err(format!("{name} takes one word")),
        };
        Ok(match &name[..] {
            "CMD" => Change::Cmd(command(rest)),
            "ENTRYPOINT" => Change::Entrypoint(command(rest)),
            "ENV" => Change::Env(pairs(rest, true)?),
            "EXPOSE" => Change::Expose(ports(rest)?),
            "HEALTHCHECK" => Change::Healthcheck(health(rest)?),
            "LABEL" => Change::Label(pairs(rest, true)?),
            "STOPSIGNAL" => Change::StopSignal(one()?),
            "USER" => Change::User(one()?),
            "VOLUME" => Change::Volume(list(rest).map_or_else(|| words(rest), Ok)?),
            "WORKDIR" => Change::Workdir(rest.to_owned()),
            _ => {
                let inner = rest.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
                if matches!(&inner[..], "ONBUILD" | "FROM" | "MAINTAINER") {
                    return Err(format!("ONBUILD {inner} is not allowed"));
                }
                Change::OnBuild(rest.to_owned())
            }
        })
    }

    /// Puts it into the `config` object of an image's configuration.
    pub(crate) fn apply(&self, config: &mut Map<String, Value>) {
        match self {
            Change::Cmd(command) => _ = config.insert("Cmd".into(), json!(command)),
            Change::Entrypoint(command) => _ = config.insert("Entrypoint".into(), json!(command)),
            Change::Env(pairs) => {
                let env = array(config, "Env");
                for (key, value) in pairs {
                    let is = |v: &Value| v.as_str().and_then(|v| v.split_once('=')).is_some_and(|(k, _)| k == key);
                    match env.iter_mut().find(|v| is(v)) {
                        Some(there) => *there = json!(format!("{key}={value}")),
                        None => env.push(json!(format!("{key}={value}"))),
                    }
                }
            }
            Change::Expose(ports) => {
                ports.iter().for_each(|p| _ = object(config, "ExposedPorts").insert(p.clone(), json!({})))
            }
            Change::Label(pairs) => {
                pairs.iter().for_each(|(k, v)| _ = object(config, "Labels").insert(k.clone(), json!(v)))
            }
            Change::User(user) => _ = config.insert("User".into(), json!(user)),
            Change::Workdir(dir) => {
                let before = config.get("WorkingDir").and_then(Value::as_str).filter(|d| !d.is_empty()).unwrap_or("/");
                let whole = std::path::Path::new(before).join(dir);
                config.insert("WorkingDir".into(), json!(whole.to_string_lossy()));
            }
            Change::StopSignal(signal) => _ = config.insert("StopSignal".into(), json!(signal)),
            Change::Volume(paths) => {
                paths.iter().for_each(|p| _ = object(config, "Volumes").insert(p.clone(), json!({})))
            }
            Change::OnBuild(line) => array(config, "OnBuild").push(json!(line)),
            Change::Healthcheck(h) => {
                let mut value = json!({"Test": h.test});
                let numbers = [
                    ("Interval", h.interval),
                    ("Timeout", h.timeout),
                    ("StartPeriod", h.start_period),
                    ("StartInterval", h.start_interval),
                    ("Retries", h.retries),
                ];
                for (key, n) in numbers.into_iter().filter(|(_, n)| *n > 0) {
                    value[key] = json!(n);
                }
                config.insert("Healthcheck".into(), value);
            }
        }
    }

    /// All of them, in their order. An entrypoint drops the command that was there, as in a Dockerfile, unless one is among the changes.
    pub(crate) fn apply_all(changes: &[Change], config: &mut Map<String, Value>) {
        let sets_command = changes.iter().any(|c| matches!(c, Change::Cmd(_)));
        if !sets_command && changes.iter().any(|c| matches!(c, Change::Entrypoint(_))) {
            config.remove("Cmd");
        }
        changes.iter().for_each(|c| c.apply(config));
    }
}

fn array<'c>(config: &'c mut Map<String, Value>, key: &str) -> &'c mut Vec<Value> {
    let slot = config.entry(key).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = json!([]);
    }
    slot.as_array_mut().expect("it is one")
}

fn object<'c>(config: &'c mut Map<String, Value>, key: &str) -> &'c mut Map<String, Value> {
    let slot = config.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("it is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction() {
        let mut config = json!({"Env": ["PATH=/bin", "A=old"], "Cmd": ["old"], "WorkingDir": "/srv", "Labels": null});
        let changes: Vec<Change> = [
            r#"ENTRYPOINT ["/entry", "-x"]"#,
            "ENV A=1 B=\"two words\" C=t\\ hree",
            "env LEGACY all of it",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL a=b \"c d\"='e f'",
            "USER 10:20",
            "WORKDIR app",
            "STOPSIGNAL SIGQUIT",
            "VOLUME /data /more",
            r#"VOLUME ["/third"]"#,
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
        ]
        .iter()
        .map(|line| Change::parse(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
        Change::apply_all(&changes, config.as_object_mut().expect("object"));
        assert_eq!(
            config,
            json!({
                "Entrypoint": ["/entry", "-x"],
                "Env": ["PATH=/bin", "A=1", "B=two words", "C=t hree", "LEGACY=all of it"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
                "Labels": {"a": "b", "c d": "e f"},
                "User": "10:20",
                "WorkingDir": "/srv/app",
                "StopSignal": "SIGQUIT",
                "Volumes": {"/data": {}, "/more": {}, "/third": {}},
                "OnBuild": ["RUN true"],
                "Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 90_000_000_000u64, "Retries": 2},
            })
        );
        assert_eq!(
            Change::parse("CMD echo hi").expect("shell"),
            Change::Cmd(vec!["/bin/sh".into(), "-c".into(), "echo hi".into()])
        );
        let long = format!("HEALTHCHECK --interval={0}s{0}s CMD true", 1e19);
        assert!(Change::parse(&long).is_err_and(|why| why.contains("no duration")), "a sum that is too long");
        assert_eq!(
            Change::parse("HEALTHCHECK NONE").expect("none"),
            Change::Healthcheck(Health { test: vec!["NONE".into()], ..Health::default() })
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            ("RUN true", "is not one of"),
            ("", "is not one of"),
            ("ENV", "needs something"),
            ("ENV A", "has no value"),
            ("ENV A=1 B", "is not KEY=value"),
            ("LABEL a=\"b", "not closed"),
            ("EXPOSE http", "is no port"),
            ("EXPOSE 0", "is no port"),
            ("EXPOSE 80/icmp", "is no port"),
            ("USER a b", "one word"),
            ("ONBUILD FROM x", "not allowed"),
            ("HEALTHCHECK --interval=x CMD true", "no duration"),
            ("HEALTHCHECK true", "must be NONE"),
        ] {
            let e = Change::parse(line).expect_err(line);
            assert!(e.contains(words), "{line}: {e}");
        }
    }
}

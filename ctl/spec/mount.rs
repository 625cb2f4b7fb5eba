//! `-v`, `--mount`, `--tmpfs` and `--device`.

use crate::error::{Error, Result};
use crate::units::parse_bytes;
use berth::v1::{self, mount::Kind};

fn absolute(flag: &str, whole: &str, path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    Err(Error::usage(format!("{flag} {whole:?}: {path:?} must be an absolute path"))
        .hint("paths are those of the host that runs the container, and of the container"))
}

fn propagation(word: &str) -> Option<v1::Propagation> {
    Some(match word {
        "private" => v1::Propagation::Private,
        "rprivate" => v1::Propagation::Rprivate,
        "shared" => v1::Propagation::Shared,
        "rshared" => v1::Propagation::Rshared,
        "slave" => v1::Propagation::Slave,
        "rslave" => v1::Propagation::Rslave,
        _ => return None,
    })
}

/// `HOST:CONTAINER[:OPTIONS]`, `VOLUME:CONTAINER[:OPTIONS]` or `CONTAINER`; a source that is not there is made, as Docker does.
pub fn volume(text: &str) -> Result<v1::Mount> {
    let flag = "--volume";
    let mut parts = text.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(t), None, ..) => ("", t, ""),
        (Some(s), Some(t), o, None) => (s, t, o.unwrap_or("")),
        _ => {
            return Err(Error::usage(format!("{flag} {text:?}: write [SOURCE:]CONTAINER[:OPTIONS]"))
                .hint("--mount takes paths with ':'"));
        }
    };
    let mut bind = v1::BindMount { create_source: true, ..Default::default() };
    let mut named = v1::VolumeMount::default();
    let is_bind = source.starts_with('/');
    if is_bind {
        bind.source = source.to_owned();
    } else if text.contains(':') {
        volume_name(flag, text, source)?;
        named.name = source.to_owned();
    }
    let (mut read_only, mut relabel) = (false, v1::Relabel::Unspecified);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "z" | "Z" if relabel != v1::Relabel::Unspecified => {
                return Err(Error::usage(format!("{flag} {text:?}: z and Z go one at a time")));
            }
            "z" => relabel = v1::Relabel::Shared,
            "Z" => relabel = v1::Relabel::Private,
            "nocopy" if !is_bind => named.no_copy = true,
            "idmap" if is_bind => bind.idmap = Some(true),
            "noidmap" if is_bind => bind.idmap = Some(false),
            word => match propagation(word) {
                Some(p) if is_bind => bind.propagation = p.into(),
                _ => {
                    let there = if is_bind {
                        "there are ro, rw, z, Z, idmap, noidmap, private, rprivate, shared, rshared, slave and rslave"
                    } else {
                        "there are ro, rw, z, Z and nocopy"
                    };
                    return Err(Error::usage(format!("{flag} {text:?}: option {word:?} is not supported")).hint(there));
                }
            },
        }
    }
    let kind = if is_bind { Kind::Bind(bind) } else { Kind::Volume(named) };
    Ok(v1::Mount { target: absolute(flag, text, target)?, read_only, kind: Some(kind), relabel: relabel.into() })
}

fn volume_name(flag: &str, whole: &str, name: &str) -> Result<()> {
    berth_model::volume::check_volume_name(name).map_err(|why| {
        Error::usage(format!("{flag} {whole:?}: {name:?} is neither an absolute path of the host nor a volume: {why}"))
    })
}

fn truth(flag: &str, whole: &str, key: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(v) => Err(Error::usage(format!("{flag} {whole:?}: {key}={v} must be true or false"))),
    }
}

fn octal(flag: &str, whole: &str, value: &str) -> Result<u32> {
    u32::from_str_radix(value, 8)
        .ok()
        .filter(|m| *m <= 0o7777)
        .ok_or_else(|| Error::usage(format!("{flag} {whole:?}: mode {value:?} must be octal, such as 1777")))
}

/// `type=bind|tmpfs|volume|image,KEY=VALUE,…`; without a type it is a volume, as in Docker.
pub fn mount(text: &str) -> Result<v1::Mount> {
    let flag = "--mount";
    let bad = |why: String| Error::usage(format!("{flag} {text:?}: {why}"));
    let mut kind = None;
    let (mut source, mut target) = (None, None);
    let (mut read_only, mut needs_readonly) = (false, false);
    let mut relabel = v1::Relabel::Unspecified;
    let mut bind = v1::BindMount::default();
    let mut tmpfs = v1::TmpfsMount::default();
    let mut volume = v1::VolumeMount::default();
    let mut image = v1::ImageMount::default();
    let (mut bind_key, mut tmpfs_key, mut volume_key, mut image_key) = (None, None, None, None);
    let parts = fields(text).ok_or_else(|| bad("a quote is not closed".into()))?;
    for part in parts.iter().map(String::as_str) {
        let (key, value) = match part.split_once('=') {
            Some((k, v)) => (k, Some(v)),
            None => (part, None),
        };
        let need = || value.filter(|v| !v.is_empty()).ok_or_else(|| bad(format!("{key} needs a value")));
        match key {
            "type" => kind = Some(need()?),
            "source" | "src" => source = Some(need()?),
            "target" | "destination" | "dst" => target = Some(need()?),
            "readonly" | "ro" => read_only = truth(flag, text, key, value)?,
            "relabel" => {
                relabel = match need()? {
                    "shared" => v1::Relabel::Shared,
                    "private" => v1::Relabel::Private,
                    other => return Err(bad(format!("relabel={other} must be shared or private"))),
                }
            }
            "bind-propagation" => {
                let word = need()?;
                bind.propagation =
                    propagation(word).ok_or_else(|| bad(format!("unknown propagation {word:?}")))?.into();
                bind_key = Some(key);
            }
            "idmap" => {
                bind.idmap = Some(truth(flag, text, key, value)?);
                bind_key = Some(key);
            }
            "bind-nonrecursive" => {
                bind.non_recursive = truth(flag, text, key, value)?;
                bind_key = Some(key);
            }
            "bind-recursive" => {
                match need()? {
                    "enabled" => {}
                    "disabled" => bind.non_recursive = true,
                    "writable" => bind.writable_below = true,
                    // What `enabled` does here anyway: the kernel is new enough, or the start fails.
                    "readonly" => needs_readonly = true,
                    other => {
                        let words = "enabled, disabled, writable or readonly";
                        return Err(bad(format!("bind-recursive={other} must be {words}")));
                    }
                }
                bind_key = Some(key);
            }
            "volume-nocopy" => {
                volume.no_copy = truth(flag, text, key, value)?;
                volume_key = Some(key);
            }
            "volume-subpath" => {
                volume.subpath = need()?.to_owned();
                volume_key = Some(key);
            }
            "volume-label" => {
                let (k, v) = need()?.split_once('=').unwrap_or((need()?, ""));
                volume.labels.insert(k.to_owned(), v.to_owned());
                volume_key = Some(key);
            }
            "volume-opt" => {
                let (k, v) = need()?.split_once('=').ok_or_else(|| bad("volume-opt is KEY=VALUE".into()))?;
                volume.options.insert(k.to_owned(), v.to_owned());
                volume_key = Some(key);
            }
            "volume-driver" => {
                if need()? != "local" {
                    return Err(bad("the only volume driver is local".into()));
                }
                volume_key = Some(key);
            }
            "image-subpath" => {
                image.subpath = need()?.to_owned();
                image_key = Some(key);
            }
            "tmpfs-size" => {
                tmpfs.size_bytes = parse_bytes(need()?).map_err(bad)?;
                tmpfs_key = Some(key);
            }
            "tmpfs-mode" => {
                tmpfs.mode = Some(octal(flag, text, need()?)?);
                tmpfs_key = Some(key);
            }
            other => return Err(bad(format!("key {other:?} is not supported"))),
        }
    }
    let target = absolute(flag, text, target.ok_or_else(|| bad("target is missing".into()))?)?;
    let kind = kind.unwrap_or("volume");
    for (word, key) in [("bind", bind_key), ("tmpfs", tmpfs_key), ("volume", volume_key), ("image", image_key)] {
        if let Some(key) = key.filter(|_| word != kind) {
            return Err(bad(format!("{key} goes with type={word}")));
        }
    }
    if relabel != v1::Relabel::Unspecified && !matches!(kind, "bind" | "volume") {
        return Err(bad("relabel goes with type=bind and type=volume".into()));
    }
    if (needs_readonly || bind.writable_below) && !read_only {
        return Err(bad("bind-recursive=readonly and writable go with readonly".into()));
    }
    let need_source = || source.ok_or_else(|| bad("source is missing".into()));
    let kind = match kind {
        "bind" => {
            bind.source = absolute(flag, text, need_source()?)?;
            Kind::Bind(bind)
        }
        "tmpfs" => {
            if source.is_some() {
                return Err(bad("source goes with type=bind, volume and image".into()));
            }
            Kind::Tmpfs(tmpfs)
        }
        "volume" => {
            if let Some(name) = source {
                volume_name(flag, text, name)?;
                volume.name = name.to_owned();
            }
            Kind::Volume(volume)
        }
        "image" => {
            image.image = need_source()?.to_owned();
            read_only = true;
            Kind::Image(image)
        }
        other => {
            return Err(bad(format!("type={other} is not supported; there are bind, tmpfs, volume and image")));
        }
    };
    Ok(v1::Mount { target, read_only, kind: Some(kind), relabel: relabel.into() })
}

/// Fields between commas; one that is in quotes may hold commas, as in CSV: `"volume-opt=o=addr=10.0.0.1,ro"`. `None`: a quote is open.
fn fields(text: &str) -> Option<Vec<String>> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}

/// `PATH[:OPTIONS]`. Always without set-uid programs and devices.
pub fn tmpfs(text: &str) -> Result<v1::Mount> {
    let flag = "--tmpfs";
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let mut tmpfs = v1::TmpfsMount::default();
    let mut read_only = false;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("size", v)) => {
                tmpfs.size_bytes = parse_bytes(v).map_err(|e| Error::usage(format!("{flag} {text:?}: {e}")))?;
            }
            Some(("mode", v)) => tmpfs.mode = Some(octal(flag, text, v)?),
            None if option == "exec" => tmpfs.exec = true,
            None if option == "noexec" => tmpfs.exec = false,
            None if option == "ro" => read_only = true,
            None if option == "rw" => read_only = false,
            None if matches!(option, "nosuid" | "nodev") => {}
            _ => {
                return Err(Error::usage(format!("{flag} {text:?}: option {option:?} is not supported")).hint(
                    "there are size=, mode=, exec, noexec, ro, rw, nosuid and nodev (the last two always hold)",
                ));
            }
        }
    }
    Ok(v1::Mount { target: absolute(flag, text, path)?, read_only, kind: Some(Kind::Tmpfs(tmpfs)), relabel: 0 })
}

/// `VENDOR/CLASS=NAME` rather than a file of the host; the agent checks the name.
pub fn is_cdi(text: &str) -> bool {
    !text.starts_with('/') && text.split_once('=').is_some_and(|(kind, _)| kind.contains('/'))
}

/// `HOST[:CONTAINER[:PERMISSIONS]]`.
pub fn device(text: &str) -> Result<v1::Device> {
    let flag = "--device";
    let is_permissions = |s: &str| !s.is_empty() && s.len() <= 3 && s.bytes().all(|b| b"rwm".contains(&b));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [h] => (*h, *h, "rwm"),
        [h, p] if is_permissions(p) => (*h, *h, *p),
        [h, c] => (*h, *c, "rwm"),
        [h, c, p] if is_permissions(p) => (*h, *c, *p),
        [_, _, p] => return Err(Error::usage(format!("{flag} {text:?}: permissions {p:?} must be letters of rwm"))),
        _ => return Err(Error::usage(format!("{flag} {text:?}: write HOST[:CONTAINER[:PERMISSIONS]]"))),
    };
    Ok(v1::Device {
        host_path: absolute(flag, text, host)?,
        container_path: absolute(flag, text, container)?,
        permissions: permissions.into(),
    })
}

/// `TYPE MAJOR:MINOR LETTERS` as cgroup v1 has it: c, b or, for both, a; `*` is every number.
pub fn device_rules(text: &str) -> Result<Vec<v1::DeviceRule>> {
    let bad = |why: &str| Error::usage(format!("--device-cgroup-rule {text:?}: {why}, as in \"c 189:* rwm\""));
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, letters] = parts.as_slice() else { return Err(bad("write TYPE MAJOR:MINOR LETTERS")) };
    let number = |n: &str| match n {
        "*" => Ok(None),
        n => n.parse().map(Some).map_err(|_| bad("MAJOR and MINOR are numbers or *")),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(|| bad("write MAJOR:MINOR"))?;
    let (major, minor) = (number(major)?, number(minor)?);
    if letters.is_empty() || letters.len() > 3 || !letters.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(bad("LETTERS are some of rwm"));
    }
    let rule = |block| v1::DeviceRule { block, major, minor, permissions: (*letters).to_owned() };
    match *kind {
        "c" => Ok(vec![rule(false)]),
        "b" => Ok(vec![rule(true)]),
        "a" => Ok(vec![rule(false), rule(true)]),
        _ => Err(bad("TYPE is c, b or a")),
    }
}

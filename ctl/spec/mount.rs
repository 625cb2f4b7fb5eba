//! `-v`, `--mount`, `--tmpfs` and `--device`.

use crate::error::{Error, Result};
use crate::units::parse_bytes;
use berth::v1::{self, mount::Kind};

fn absolute(flag: &str, whole: &str, path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    Err(Error::usage(format!("{flag} {whole:?}: {path:?} must be an absolute path"))
        .hint("paths are those of the host that runs the container; named volumes are not supported"))
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

/// `HOST:CONTAINER[:OPTIONS]`; a source that is not there is made, as Docker does.
pub fn volume(text: &str) -> Result<v1::Mount> {
    let flag = "--volume";
    let mut parts = text.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(s), Some(t), o, None) => (s, t, o.unwrap_or("")),
        _ => {
            return Err(Error::usage(format!("{flag} {text:?}: write HOST:CONTAINER[:OPTIONS]"))
                .hint("volumes without a folder of the host are not supported; --mount takes paths with ':'"));
        }
    };
    let mut bind = v1::BindMount { source: absolute(flag, text, source)?, create_source: true, ..Default::default() };
    let mut read_only = false;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            word => match propagation(word) {
                Some(p) => bind.propagation = p.into(),
                None => {
                    return Err(Error::usage(format!("{flag} {text:?}: option {word:?} is not supported"))
                        .hint("there are ro, rw, private, rprivate, shared, rshared, slave and rslave"));
                }
            },
        }
    }
    Ok(v1::Mount { target: absolute(flag, text, target)?, read_only, kind: Some(Kind::Bind(bind)) })
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

/// `type=bind|tmpfs,KEY=VALUE,…`.
pub fn mount(text: &str) -> Result<v1::Mount> {
    let flag = "--mount";
    let bad = |why: String| Error::usage(format!("{flag} {text:?}: {why}"));
    let mut kind = None;
    let (mut source, mut target) = (None, None);
    let mut read_only = false;
    let mut bind = v1::BindMount::default();
    let mut tmpfs = v1::TmpfsMount::default();
    let (mut bind_key, mut tmpfs_key) = (None, None);
    if text.contains('"') {
        return Err(bad("quotes are not supported".into()));
    }
    for part in text.split(',') {
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
            "bind-propagation" => {
                let word = need()?;
                bind.propagation =
                    propagation(word).ok_or_else(|| bad(format!("unknown propagation {word:?}")))?.into();
                bind_key = Some(key);
            }
            "bind-nonrecursive" => {
                bind.non_recursive = truth(flag, text, key, value)?;
                bind_key = Some(key);
            }
            "bind-recursive" => {
                bind.non_recursive = match need()? {
                    "enabled" => false,
                    "disabled" => true,
                    other => return Err(bad(format!("bind-recursive={other} must be enabled or disabled"))),
                };
                bind_key = Some(key);
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
    let kind = match kind {
        Some("bind") => {
            if let Some(key) = tmpfs_key {
                return Err(bad(format!("{key} goes with type=tmpfs")));
            }
            bind.source = absolute(flag, text, source.ok_or_else(|| bad("source is missing".into()))?)?;
            Kind::Bind(bind)
        }
        Some("tmpfs") => {
            if let Some(key) = bind_key.or(source.map(|_| "source")) {
                return Err(bad(format!("{key} goes with type=bind")));
            }
            Kind::Tmpfs(tmpfs)
        }
        Some(other) => return Err(bad(format!("type={other} is not supported; there are bind and tmpfs"))),
        None => return Err(bad("type is missing; there are bind and tmpfs".into())),
    };
    Ok(v1::Mount { target, read_only, kind: Some(kind) })
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
    Ok(v1::Mount { target: absolute(flag, text, path)?, read_only, kind: Some(Kind::Tmpfs(tmpfs)) })
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

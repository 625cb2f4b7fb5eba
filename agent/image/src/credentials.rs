//! Credentials: a request's own, else those of Docker's config.json.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// A config.json is a few kilobytes; one of more than this is none.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The name under which `docker login` keeps Docker Hub's credentials.
const HUB_KEY: &str = "index.docker.io";

/// Credentials for one registry: a token for the registry, else a refresh token, else a name and a password. All empty: none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    pub username: String,
    pub password: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// Shows no secret.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(..)")
    }
}

/// How to prove who asks. `Debug` hides all of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// OAuth2 refresh token.
    IdentityToken(String),
    /// A bearer token that is used as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What is known for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub credentials: Option<Credentials>,
    /// Why there are none although the file speaks of this registry; shown when the registry denies.
    pub note: Option<String>,
}

impl From<&Auth> for Found {
    fn from(auth: &Auth) -> Self {
        let credentials = if !auth.registry_token.is_empty() {
            Some(Credentials::RegistryToken(auth.registry_token.clone()))
        } else if !auth.identity_token.is_empty() {
            Some(Credentials::IdentityToken(auth.identity_token.clone()))
        } else if !auth.username.is_empty() {
            Some(Credentials::Password { username: auth.username.clone(), password: auth.password.clone() })
        } else {
            None
        };
        Found { credentials, note: None }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What a config.json of Docker holds for one registry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Docker {
    pub auth: Option<Auth>,
    /// Why there is none although the file speaks of this registry.
    pub note: Option<String>,
}

/// Looks a registry (`host[:port]`, `docker.io` for Docker Hub) up in the config.json at `path`; no file holds nothing. Credential
/// helpers are named in the note and never run.
///
/// # Errors
/// The file cannot be read or parsed; in words without any of its contents.
pub fn docker_config(path: &Path, registry: &str) -> Result<Docker, String> {
    let found = from_file(path, registry)?;
    let auth = found.credentials.map(|credentials| match credentials {
        Credentials::Password { username, password } => Auth { username, password, ..Auth::default() },
        Credentials::IdentityToken(identity_token) => Auth { identity_token, ..Auth::default() },
        Credentials::RegistryToken(registry_token) => Auth { registry_token, ..Auth::default() },
    });
    Ok(Docker { auth, note: found.note })
}

/// Looks `registry` (`host[:port]`, `docker.io` for Docker Hub) up in the file at `path`. A file that is not there holds
/// nothing; one that cannot be read or parsed is an error in words without any of its contents.
pub(crate) fn from_file(path: &Path, registry: &str) -> Result<Found, String> {
    let text = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_CONFIG_BYTES => {
            return Err(format!("{} is larger than {MAX_CONFIG_BYTES} bytes", path.display()));
        }
        Ok(_) => std::fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(e) => return Err(format!("reading {}: {e}", path.display())),
    };
    from_json(&text, registry).map_err(|e| format!("{}: {e}", path.display()))
}

/// Docker's format (`docker login`); helpers are named, never run: the agent starts no program of a user's choice.
pub(crate) fn from_json(text: &[u8], registry: &str) -> Result<Found, String> {
    // serde_json's message may quote a value: only where it is goes out.
    let config: DockerConfig = serde_json::from_slice(text)
        .map_err(|e| format!("not Docker's config.json (line {}, column {})", e.line(), e.column()))?;
    let wanted = canonical(registry);
    let matching = |key: &String| canonical(key) == wanted;
    let helper = config.helpers.iter().find(|(key, _)| matching(key)).map(|(_, helper)| helper.clone());
    let mut found = Found::default();
    for (_, entry) in config.auths.iter().filter(|(key, _)| matching(key)) {
        found.credentials = entry_credentials(entry).map_err(|e| format!("credentials for {registry}: {e}"))?;
        if found.credentials.is_some() {
            return Ok(found);
        }
    }
    if let Some(helper) = helper.or(config.store).filter(|h| !h.is_empty()) {
        found.note = Some(format!(
            "config.json keeps this registry's credentials in docker-credential-{helper}, and berth runs no credential helpers: put them into \"auths\" or send them with the request"
        ));
    }
    Ok(found)
}

fn entry_credentials(entry: &AuthEntry) -> Result<Option<Credentials>, &'static str> {
    let said = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    if let Some(token) = said(&entry.registrytoken) {
        return Ok(Some(Credentials::RegistryToken(token)));
    }
    if let Some(token) = said(&entry.identitytoken) {
        return Ok(Some(Credentials::IdentityToken(token)));
    }
    if let Some(auth) = said(&entry.auth) {
        let raw = STANDARD
            .decode(auth.trim())
            .or_else(|_| STANDARD_NO_PAD.decode(auth.trim()))
            .map_err(|_| "\"auth\" is not base64")?;
        let text = String::from_utf8(raw).map_err(|_| "\"auth\" is not base64 of UTF-8")?;
        let (username, password) = text.split_once(':').ok_or("\"auth\" is not base64 of user:password")?;
        // Old Docker versions pad the password with NUL.
        let password = password.trim_end_matches('\0').to_owned();
        if username == "<token>" {
            return Ok(Some(Credentials::IdentityToken(password)));
        }
        return Ok(Some(Credentials::Password { username: username.to_owned(), password }));
    }
    Ok(said(&entry.username)
        .map(|username| Credentials::Password { username, password: entry.password.clone().unwrap_or_default() }))
}

/// `https://Host/v1/` and `host` mean the same; so do Docker Hub's names.
fn canonical(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = key.split('/').next().unwrap_or(key).to_ascii_lowercase();
    match host.as_str() {
        "docker.io" | "registry-1.docker.io" | HUB_KEY => HUB_KEY.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { username: username.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn reads_dockers_config() {
        let json = br#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
                "plain.example:5000": {"username": "u", "password": "p"},
                "id.example": {"auth": "PHRva2VuPjp0aWNrZXQ=", "email": "x"},
                "refresh.example": {"auth": "dTpw", "identitytoken": "tok"},
                "helped.example": {},
                "http://slashed.example/": {"auth": "dTpw"}
            },
            "credHelpers": {"helped.example": "ecr-login"},
            "HttpHeaders": {"User-Agent": "x"}
        }"#;
        let get = |registry: &str| from_json(json, registry).unwrap();
        assert_eq!(get("docker.io").credentials, password("user", "pa:ss"));
        assert_eq!(get("plain.example:5000").credentials, password("u", "p"));
        assert_eq!(get("plain.example"), Found::default());
        assert_eq!(get("id.example").credentials, Some(Credentials::IdentityToken("ticket".to_owned())));
        assert_eq!(get("refresh.example").credentials, Some(Credentials::IdentityToken("tok".to_owned())));
        assert_eq!(get("slashed.example").credentials, password("u", "p"));
        let helped = get("helped.example");
        assert_eq!(helped.credentials, None);
        assert!(helped.note.unwrap().contains("docker-credential-ecr-login"));
    }

    #[test]
    fn errors_hold_no_secret() {
        for bad in
            [r#"{"auths": {"a.example": {"auth": "s3cret!"}}}"#, r#"{"auths": {"a.example": "s3cret!"}}"#, "s3cret!"]
        {
            let e = from_json(bad.as_bytes(), "a.example").unwrap_err();
            assert!(!e.contains("s3cret"), "{e}");
        }
        let hidden =
            format!("{:?}", from_json(br#"{"auths":{"a.example":{"username":"u","password":"s3cret"}}}"#, "a.example"));
        assert!(!hidden.contains("s3cret"), "{hidden}");
    }

    #[test]
    fn no_file_is_no_credentials() {
        assert_eq!(from_file(Path::new("/nonexistent/config.json"), "docker.io"), Ok(Found::default()));
    }
}

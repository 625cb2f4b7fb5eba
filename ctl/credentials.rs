//! Credentials for registries: of `--creds`, else of the caller's own Docker config.json. They go with one request, for the registry of its
//! image, to the hosts of the command, and nowhere else.

use crate::error::{Error, Result};
use crate::term;
use berth::v1;
use berth_model::Reference;
use std::io::{BufRead, Read};
use std::path::PathBuf;

/// A password longer than this is none.
const MAX_PASSWORD: u64 = 64 << 10;

/// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
fn config_path() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    Some(var("DOCKER_CONFIG").or_else(|| Some(var("HOME")?.join(".docker")))?.join("config.json"))
}

/// What the caller's config.json has for the registry of `image`. A file that cannot be used is told and passed over: most images need
/// no credentials, and hosts have their own.
pub fn for_image(image: &str) -> Option<v1::RegistryAuth> {
    // What is no reference the agent will refuse by name.
    let reference: Reference = image.parse().ok()?;
    let path = config_path()?;
    match berth_image::docker_config(&path, reference.registry()) {
        Ok(found) => found.auth.map(|a| v1::RegistryAuth {
            username: a.username,
            password: a.password,
            identity_token: a.identity_token,
            registry_token: a.registry_token,
        }),
        Err(why) => {
            anstream::eprintln!("warning: no credentials: {why}");
            None
        }
    }
}

/// `USER:PASSWORD`, or `USER` with the password typed, or read as the first line of standard input.
pub fn parse(text: &str) -> Result<v1::RegistryAuth> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password.to_owned())),
        None => (text, None),
    };
    if user.is_empty() {
        return Err(Error::usage("--creds: there is no user before the ':'"));
    }
    let password = match password {
        Some(password) => password,
        None if term::stdin_is_terminal() => term::ask_secret(&format!("Password of {user}: "))?,
        None => {
            let mut line = String::new();
            let read = std::io::stdin().lock().take(MAX_PASSWORD).read_line(&mut line);
            read.map_err(|e| Error::io("reading the password from standard input", &e))?;
            line.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    if password.is_empty() {
        return Err(Error::usage(format!("--creds {user}: the password is empty")));
    }
    Ok(v1::RegistryAuth { username: user.to_owned(), password, ..Default::default() })
}

/// The one registry that all of `images` are in: a password is for one.
pub fn same_registry(images: &[String]) -> Result<()> {
    let mut registries: Vec<String> = Vec::new();
    for image in images {
        let reference: Reference =
            image.parse().map_err(|e: berth_model::reference::ReferenceError| Error::usage(e.to_string()))?;
        registries.push(reference.registry().to_owned());
    }
    registries.dedup();
    match registries.as_slice() {
        [] | [_] => Ok(()),
        many => Err(Error::usage(format!("--creds is for one registry, and these images are in {}", many.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_hold_colons() {
        let auth = parse("u:p:q").expect("good");
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p:q"));
        for bad in [":p", "u:"] {
            let error = parse(bad).expect_err(bad);
            assert!(!error.message.contains(":p"), "the password is not repeated");
        }
    }

    #[test]
    fn a_password_is_for_one_registry() {
        let images = |list: &[&str]| list.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        same_registry(&images(&["r.example/a", "r.example/b:1"])).expect("one");
        same_registry(&images(&["nginx", "docker.io/library/busybox"])).expect("one");
        same_registry(&images(&["r.example/a", "nginx"])).expect_err("two");
    }
}

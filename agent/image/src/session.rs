//! Proving who asks, towards one registry for one repository (distribution, token authentication; RFC 6749 section 6).

use crate::answer;
use crate::challenge::Challenge;
use crate::credentials::{Credentials, Found};
use crate::error::ImageError;
use crate::reach;
use crate::registry::{Registries, cause};
use crate::retry::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{Client, StatusCode, Url};
use std::time::Duration;
use tokio::sync::Mutex;

/// A token is some kilobytes.
const MAX_TOKEN_ANSWER_BYTES: usize = 1 << 20;

/// The `Authorization` header in use, renewed when the registry answers 401.
pub(crate) struct Session {
    found: Found,
    header: Mutex<Option<HeaderValue>>,
}

/// Where a session belongs: for errors and for what is asked.
pub(crate) struct Realm<'a> {
    pub registry: &'a str,
    pub repository: &'a str,
    pub client: &'a Client,
    /// Know the way to other places than the registry's own.
    pub registries: &'a Registries,
    pub scheme: &'static str,
    pub timeout: Duration,
}

impl Session {
    pub fn new(found: Found) -> Self {
        let header = match &found.credentials {
            Some(Credentials::RegistryToken(token)) => secret(format!("Bearer {token}")),
            _ => None,
        };
        Session { found, header: Mutex::new(header) }
    }

    pub async fn header(&self) -> Option<HeaderValue> {
        self.header.lock().await.clone()
    }

    /// The registry answered 401 to `used`: gets what its challenges ask for. Of several requests that were refused at
    /// once, one does it.
    pub async fn renew(
        &self,
        used: Option<&HeaderValue>,
        challenges: &[Challenge],
        at: &Realm<'_>,
    ) -> Result<(), Failure> {
        let mut header = self.header.lock().await;
        if header.as_ref() != used {
            return Ok(());
        }
        let bearer = challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        let credentials = self.found.credentials.as_ref();
        *header = match (bearer, credentials) {
            (_, Some(Credentials::RegistryToken(_))) => {
                return Err(self.denied(at, "the token of the request was refused"));
            }
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref(), at).await?;
                secret(format!("Bearer {token}"))
            }
            _ if !challenges.contains(&Challenge::Basic) => {
                return Err(self.denied(at, "it asks for a kind of authentication that is not supported"));
            }
            (_, Some(Credentials::Password { username, password })) if used.is_none() => {
                secret(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            (_, Some(Credentials::Password { .. })) => return Err(self.denied(at, "user name or password was refused")),
            _ => return Err(self.denied(at, "it asks for a user name and a password")),
        };
        Ok(())
    }

    /// Denied, with what is known about the credentials.
    pub fn denied(&self, at: &Realm<'_>, reason: &str) -> Failure {
        let reason = match (&self.found.note, &self.found.credentials) {
            (Some(note), _) => format!("{reason}; {note}"),
            (None, None) => format!("{reason}; there are no credentials for this registry"),
            (None, Some(_)) => reason.to_owned(),
        };
        Failure::Final(ImageError::Denied {
            registry: at.registry.to_owned(),
            what: format!("pulling {}", at.repository),
            reason,
        })
    }

    /// What asks the token server at `url`, where it is one that the registry may name.
    fn way(&self, url: &Url, at: &Realm<'_>) -> Result<Client, Failure> {
        let home = Url::parse(&format!("{}://{}", at.scheme, at.registry));
        let home = home.map_err(|e| self.denied(at, &format!("its URL cannot be read: {e}")))?;
        if url.origin() == home.origin() {
            return Ok(at.client.clone());
        }
        let found = at.registries.client_for(&home, url, at.registry);
        found.map_err(|why| self.denied(at, &format!("its token server is at {why}")))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        at: &Realm<'_>,
    ) -> Result<String, Failure> {
        let mut url = Url::parse(realm).map_err(|_| self.denied(at, "its token server's URL cannot be read"))?;
        let client = self.way(&url, at)?;
        let wanted = format!("repository:{}:pull", at.repository);
        let scope = scope.unwrap_or(&wanted);
        let request = match &self.found.credentials {
            Some(Credentials::IdentityToken(refresh)) => {
                let mut form = Url::parse("form:").map_err(|e| Failure::again(e.to_string()))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", service.unwrap_or(at.registry))
                    .append_pair("client_id", "berth")
                    .append_pair("scope", scope)
                    .append_pair("refresh_token", refresh);
                client
                    .post(url)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            credentials => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = service {
                        query.append_pair("service", service);
                    }
                    for part in scope.split(' ').filter(|s| !s.is_empty()) {
                        query.append_pair("scope", part);
                    }
                    if let Some(Credentials::Password { username, .. }) = credentials {
                        query.append_pair("account", username);
                    }
                }
                match credentials {
                    Some(Credentials::Password { username, password }) => {
                        client.get(url).basic_auth(username, Some(password))
                    }
                    _ => client.get(url),
                }
            }
        };
        // The whole exchange is small: one deadline for all of it.
        let exchange = async {
            let mut response = request.send().await.map_err(|e| match reach::refused(&e) {
                Some(why) => self.denied(at, &format!("its token server is at {why}")),
                None => Failure::again(cause(&e)),
            })?;
            let status = response.status();
            let mut body = Vec::new();
            while let Some(bytes) = response.chunk().await.map_err(|e| Failure::again(cause(&e)))? {
                if body.len() + bytes.len() > MAX_TOKEN_ANSWER_BYTES {
                    return Err(Failure::again("its token server's answer is too large"));
                }
                body.extend_from_slice(&bytes);
            }
            Ok((status, body))
        };
        let (status, body) = tokio::time::timeout(at.timeout, exchange)
            .await
            .map_err(|_| Failure::again(format!("its token server did not answer within {:?}", at.timeout)))??;
        match status {
            s if s.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS => return Err(Failure::again("its token server has too many requests")),
            s if s.is_server_error() => return Err(Failure::again(format!("its token server answers {s}"))),
            s => return Err(self.denied(at, &format!("its token server answers {s}"))),
        }
        answer::token(&body).map_err(Failure::again)
    }
}

/// A header that `Debug` does not show. None when a credential has bytes that no header can carry.
fn secret(value: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

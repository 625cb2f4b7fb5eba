//! One registry (or mirror) spoken to over HTTP: scheme, TLS, redirects, authentication, status codes.

use crate::answer::{self, retry_after};
use crate::challenge;
use crate::credentials::{self, Found};
use crate::error::ImageError;
use crate::reach::{self, Outside, authority, is_loopback};
use crate::retry::{Backoff, Failure};
use crate::session::{Realm, Session};
use crate::{Auth, ImagesConfig, Limits, RegistryConfig};
use berth_model::Reference;
use berth_model::reference::DEFAULT_REGISTRY;
use reqwest::header::{self, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The host that serves `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";
const MAX_REDIRECTS: usize = 5;
/// Of an error answer's body, this much is read.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// All registries: connections are shared by all pulls.
pub(crate) struct Registries {
    config: ImagesConfig,
    pub limits: Limits,
    clients: Mutex<HashMap<(String, Reach), Client>>,
    /// Loopback registries (`host:port`) that turned out to speak no TLS.
    plain: Mutex<HashSet<String>>,
}

/// One repository, wherever it can be had: mirrors first, the registry itself last.
pub(crate) struct Source {
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// One repository at one place, for one pull.
pub(crate) struct Endpoint {
    registries: Arc<Registries>,
    /// `host[:port]`
    pub host: String,
    /// Path in front of `/v2/`.
    prefix: String,
    scheme: Scheme,
    client: Client,
    repository: String,
    session: Session,
    pub is_mirror: bool,
    /// It could not be reached: the rest of this pull goes elsewhere.
    down: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Scheme {
    Https,
    Http,
    /// https, and http when it speaks no TLS: for loopback only, as Docker does.
    Either,
}

/// What a client connects to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Reach {
    /// Whatever was asked for.
    All,
    /// Nothing on the host's loopback or link-local: a registry's answer led there.
    Outside,
}

/// A whole small answer.
pub(crate) struct Answer {
    pub body: Vec<u8>,
    pub content_type: Option<String>,
    /// `Docker-Content-Digest`
    pub digest: Option<String>,
}

/// Tells the caller what is being waited for.
pub(crate) type Status<'a> = &'a (dyn Fn(String) + Send + Sync);

impl Registries {
    pub fn new(config: ImagesConfig, limits: Limits) -> Arc<Self> {
        Arc::new(Registries { config, limits, clients: Mutex::default(), plain: Mutex::default() })
    }

    /// Where `reference` can be pulled from. Credentials of the request go to the registry itself only.
    pub fn source(self: &Arc<Self>, reference: &Reference, auth: Option<&Auth>) -> Result<Source, ImageError> {
        let registry = reference.registry();
        let default = RegistryConfig::default();
        let config = self.config.registries.get(registry).unwrap_or(&default);
        let bad = |reason: String| ImageError::Config { registry: registry.to_owned(), reason };
        let mut endpoints = Vec::new();
        for mirror in &config.mirrors {
            let url = Url::parse(mirror).map_err(|e| bad(format!("mirror {mirror:?}: {e}")))?;
            let scheme = match url.scheme() {
                "https" => Scheme::Https,
                "http" => Scheme::Http,
                _ => return Err(bad(format!("mirror {mirror:?} must start with https:// or http://"))),
            };
            let host = authority(&url).ok_or_else(|| bad(format!("mirror {mirror:?} has no host")))?;
            let prefix = url.path().trim_end_matches('/').trim_end_matches("/v2").to_owned();
            endpoints.push(self.endpoint(host, prefix, scheme, reference.repository(), None, true)?);
        }
        let host = if registry == DEFAULT_REGISTRY { HUB_HOST } else { registry };
        let secured = config.ca_file.is_some() || config.cert_file.is_some();
        let scheme = match () {
            () if config.plain_http => Scheme::Http,
            () if is_loopback(host) && !secured => Scheme::Either,
            () => Scheme::Https,
        };
        endpoints.push(self.endpoint(host.to_owned(), String::new(), scheme, reference.repository(), auth, false)?);
        Ok(Source { endpoints })
    }

    fn endpoint(
        self: &Arc<Self>,
        host: String,
        prefix: String,
        scheme: Scheme,
        repository: &str,
        auth: Option<&Auth>,
        is_mirror: bool,
    ) -> Result<Arc<Endpoint>, ImageError> {
        let mut found = auth.map(Found::from).unwrap_or_default();
        if found.credentials.is_none()
            && let Some(path) = &self.config.docker_config
        {
            found = credentials::from_file(path, &host)
                .map_err(|reason| ImageError::Config { registry: host.clone(), reason })?;
        }
        Ok(Arc::new(Endpoint {
            client: self.client(&host, Reach::All)?,
            registries: self.clone(),
            host,
            prefix,
            scheme,
            repository: repository.to_owned(),
            session: Session::new(found),
            is_mirror,
            down: AtomicBool::new(false),
        }))
    }

    /// The client for what an answer of `from` says is at `to`, another place. `host`: whose configuration holds there when it has none of its own.
    ///
    /// # Errors
    /// Why the agent does not go there, behind "it redirects to" and the like.
    pub fn client_for(&self, from: &Url, to: &Url, host: &str) -> Result<Client, String> {
        let with_port = || Some(format!("{}:{}", to.host_str()?, to.port_or_known_default()?));
        let names = [authority(to), with_port()];
        let known = names.iter().flatten().find_map(|name| self.config.registries.get_key_value(name));
        reach::check(from, to, known.map(|(_, config)| config))?;
        let client = match known {
            Some((name, _)) => self.client(name, Reach::All),
            None => self.client(host, Reach::Outside),
        };
        client.map_err(|e| format!("{to}: {e}"))
    }

    /// One client per host that has its own configuration, one for all other hosts, one for loopback.
    fn client(&self, host: &str, reach: Reach) -> Result<Client, ImageError> {
        let name = if host == HUB_HOST { DEFAULT_REGISTRY } else { host };
        let config = self.config.registries.get(name);
        let loopback = is_loopback(host) && reach == Reach::All;
        let key = match config {
            Some(_) => (name.to_owned(), reach),
            None if loopback => ("(loopback)".to_owned(), reach),
            None => ("(any)".to_owned(), reach),
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let bad = |reason: String| ImageError::Config { registry: name.to_owned(), reason };
        let tls = crate::tls::client_config(config.unwrap_or(&RegistryConfig::default())).map_err(bad)?;
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.limits.connect)
            .pool_idle_timeout(Duration::from_secs(5))
            // getaddrinfo(3): the host's own rules (nsswitch, hosts, changed resolv.conf) hold for the agent too.
            .no_hickory_dns();
        if loopback {
            // As Go's proxy rules: loopback never goes through a proxy.
            builder = builder.no_proxy();
        }
        if reach == Reach::Outside {
            builder = builder.dns_resolver(Outside::new());
        }
        let client = builder.build().map_err(|e| bad(cause(&e)))?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

impl Source {
    /// Those that are worth asking, in order.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|e| !e.is_mirror || !e.down.load(Ordering::Relaxed))
    }

    /// Gets `manifests/...` or `blobs/...` of at most `max` bytes from the first place that has it and whose answer passes
    /// `check`. The error is the last place's: the registry's own.
    pub async fn get(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        max: u64,
        status: Status<'_>,
        check: &(dyn Fn(&Answer) -> Result<(), ImageError> + Send + Sync),
    ) -> Result<Answer, ImageError> {
        let mut last = ImageError::Cancelled;
        for endpoint in self.alive() {
            let answer = endpoint.get(method.clone(), path, accept, max, status).await;
            match answer.and_then(|a| check(&a).map(|()| a)) {
                Ok(answer) => return Ok(answer),
                Err(e) => {
                    endpoint.note(&e);
                    last = e;
                }
            }
        }
        Err(last)
    }
}

impl Endpoint {
    /// Mirrors get less patience: the next place may have it.
    pub fn backoff(&self) -> Backoff {
        let limits = &self.registries.limits;
        Backoff::new(limits, if self.is_mirror { 2.min(limits.tries) } else { limits.tries })
    }

    pub fn limits(&self) -> &Limits {
        &self.registries.limits
    }

    /// Remembers that a mirror is of no use now, and says so in the log: nobody else sees a mirror's error.
    pub fn note(&self, error: &ImageError) {
        if self.is_mirror {
            tracing::warn!(mirror = self.host, repository = self.repository, "{error}; trying the next place");
            if matches!(error, ImageError::Unavailable { .. } | ImageError::Denied { .. }) {
                self.down.store(true, Ordering::Relaxed);
            }
        }
    }

    pub fn unavailable(&self, path: &str, reason: String, retry_after: Option<Duration>) -> ImageError {
        ImageError::Unavailable {
            registry: self.host.clone(),
            what: format!("{}/{path}", self.repository),
            reason,
            retry_after,
        }
    }

    async fn get(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        max: u64,
        status: Status<'_>,
    ) -> Result<Answer, ImageError> {
        let mut backoff = self.backoff();
        loop {
            let (reason, retry_after) = match self.get_once(method.clone(), path, accept, max).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Again { reason, retry_after }) => (reason, retry_after),
            };
            self.pause(&mut backoff, path, reason, retry_after, status).await?;
        }
    }

    /// Waits before the next try, or gives the error when there is none.
    pub async fn pause(
        &self,
        backoff: &mut Backoff,
        path: &str,
        reason: String,
        retry_after: Option<Duration>,
        status: Status<'_>,
    ) -> Result<(), ImageError> {
        let Some(wait) = backoff.wait(retry_after) else { return Err(self.unavailable(path, reason, retry_after)) };
        tracing::debug!(registry = self.host, path, reason, ?wait, "trying again");
        status(format!("{}: {reason}; trying again in {:.1} s", self.host, wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn get_once(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        max: u64,
    ) -> Result<Answer, Failure> {
        let mut response = self.send(method, path, accept, None).await?;
        let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (content_type, digest) = (text("content-type"), text("docker-content-digest"));
        let mut body = Vec::new();
        while let Some(bytes) = self.chunk(&mut response).await? {
            if (body.len() + bytes.len()) as u64 > max {
                let what = format!("{}/{path} on {}", self.repository, self.host);
                return Err(Failure::Final(ImageError::TooLarge { what, limit_bytes: max }));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(Answer { body, content_type, digest })
    }

    /// The next bytes of a body; a stall and a cut are worth another try.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Failure> {
        let stall = self.limits().stall;
        match tokio::time::timeout(stall, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(e)) => Err(Failure::again(format!("connection cut: {}", cause(&e)))),
            Err(_) => Err(Failure::again(format!("no byte for {} s", stall.as_secs_f32()))),
        }
    }

    /// Sends until there is an answer of 2xx or one that is an error: renews the authentication, follows redirects.
    /// `range` is in bytes, both ends included.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Response, Failure> {
        // An expired token and one that came too late, then it is a no.
        for _ in 0..3 {
            let authorization = self.session.header().await;
            let (response, at_home) = self.follow(&method, path, accept, range, authorization.as_ref()).await?;
            if response.status() == StatusCode::UNAUTHORIZED && at_home {
                let challenges: Vec<_> = response
                    .headers()
                    .get_all(header::WWW_AUTHENTICATE)
                    .iter()
                    .filter_map(|v| v.to_str().ok())
                    .flat_map(challenge::parse)
                    .collect();
                self.session.renew(authorization.as_ref(), &challenges, &self.realm()).await?;
                continue;
            }
            return self.judge(response, path).await;
        }
        Err(self.session.denied(&self.realm(), "the repository does not exist or may not be pulled"))
    }

    fn realm(&self) -> Realm<'_> {
        Realm {
            registry: &self.host,
            repository: &self.repository,
            client: &self.client,
            registries: &self.registries,
            scheme: self.base_scheme(),
            timeout: self.limits().stall,
        }
    }

    fn base_scheme(&self) -> &'static str {
        match self.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::Either => {
                let plain = self.registries.plain.lock().unwrap_or_else(PoisonError::into_inner);
                if plain.contains(&self.host) { "http" } else { "https" }
            }
        }
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let text = format!("{}://{}{}/v2/{}/{path}", self.base_scheme(), self.host, self.prefix, self.repository);
        Url::parse(&text).map_err(|e| self.unavailable(path, format!("{text}: {e}"), None).into())
    }

    /// Follows redirects to blob stores. The second value is false when the answer is another host's: `Authorization` goes
    /// to the registry only, never along with a redirect to another scheme, host or port.
    async fn follow(
        &self,
        method: &Method,
        path: &str,
        accept: Option<&'static str>,
        range: Option<(u64, Option<u64>)>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), Failure> {
        let home = self.url(path)?;
        let mut url = home.clone();
        let mut client = self.client.clone();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = url.origin() == home.origin();
            let mut request = client.request(method.clone(), url.clone()).header(header::ACCEPT_ENCODING, "identity");
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            if let Some((from, to)) = range {
                let to = to.map(|t| t.to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={from}-{to}"));
            }
            if let Some(value) = authorization.filter(|_| at_home) {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            let answer = tokio::time::timeout(self.limits().stall, request.send()).await;
            let response = match answer {
                Ok(Ok(response)) => response,
                Ok(Err(e)) if self.scheme == Scheme::Either && url.scheme() == "https" && at_home && no_tls(&e) => {
                    self.registries.plain.lock().unwrap_or_else(PoisonError::into_inner).insert(self.host.clone());
                    return Box::pin(self.follow(method, path, accept, range, authorization)).await;
                }
                Ok(Err(e)) => {
                    return Err(match reach::refused(&e) {
                        Some(why) => self.unavailable(path, format!("it redirects to {why}"), None).into(),
                        None => Failure::again(cause(&e)),
                    });
                }
                Err(_) => {
                    return Err(Failure::again(format!("no answer within {} s", self.limits().stall.as_secs_f32())));
                }
            };
            let target = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let Some(target) = target.filter(|_| response.status().is_redirection()) else {
                return Ok((response, at_home));
            };
            let next = url.join(target).map_err(|e| self.unavailable(path, format!("redirect: {e}"), None))?;
            client = self.way(&home, &url, &next).map_err(|why| self.unavailable(path, why, None))?;
            url = next;
        }
        Err(self.unavailable(path, format!("more than {MAX_REDIRECTS} redirects"), None).into())
    }

    /// What follows a redirect from `url` to `next`, where the agent may be led there.
    fn way(&self, home: &Url, url: &Url, next: &Url) -> Result<Client, String> {
        if next.origin() == home.origin() {
            return Ok(self.client.clone());
        }
        let own = authority(next).unwrap_or_default();
        self.registries.client_for(url, next, &own).map_err(|why| format!("it redirects to {why}"))
    }

    /// What a status code means for a pull.
    async fn judge(&self, response: Response, path: &str) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(retry_after);
        let said = self.error_text(response).await;
        let reason =
            if said.is_empty() { format!("it answers {status}") } else { format!("it answers {status}: {said}") };
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Failure::Final(ImageError::NotFound {
                what: format!("{}/{path}", self.repository),
                registry: self.host.clone(),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.session.denied(&self.realm(), &reason),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Failure::Again { reason, retry_after: after }
            }
            s if s.is_server_error() => Failure::Again { reason, retry_after: after },
            _ => self.unavailable(path, reason, after).into(),
        })
    }

    /// The message of a registry's error (distribution-spec, error codes), short and printable.
    async fn error_text(&self, mut response: Response) -> String {
        let mut body = Vec::new();
        while let Ok(Some(bytes)) = self.chunk(&mut response).await {
            body.extend_from_slice(&bytes);
            if body.len() > MAX_ERROR_BYTES {
                break;
            }
        }
        answer::error(&body)
    }
}

/// The innermost reason, without the URL: those of blob stores carry signatures.
pub(crate) fn cause(e: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = e;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    if std::ptr::eq(innermost as *const _ as *const (), e as *const _ as *const ()) {
        return if e.is_timeout() { "timed out".to_owned() } else { "request failed".to_owned() };
    }
    innermost.to_string()
}

/// Whether the other side does not speak TLS at all: a bad certificate is no reason to go on without.
fn no_tls(e: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = e.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidMessage(_));
    }
    if let Some(io) = e.downcast_ref::<std::io::Error>() {
        // An io::Error's source() is its inner error's source: the inner one would be skipped.
        return match io.get_ref() {
            Some(inner) => no_tls(inner),
            None => matches!(io.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset),
        };
    }
    e.source().is_some_and(no_tls)
}

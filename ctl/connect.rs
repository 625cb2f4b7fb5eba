//! From a host to a gRPC channel: TCP or Unix socket, TLS 1.3 with a client certificate, HTTP/2.
//!
//! The connection is made before the first call, so that what goes wrong is said as what it is: no such name, nobody there, a certificate
//! that does not fit. An agent's refusal of *our* certificate comes later (TLS 1.3 ends the client's part of the handshake first); the
//! stream notes it when it is read, and [`Connection::error`] tells it instead of "transport error".

use crate::config::Host;
use crate::dial::{Dialer, Failed, Refusal, tls_error};
use crate::error::{Error, FAILED_ITSELF, Result};
use crate::status;
use berth::trace::{TRACEPARENT, TraceParent};
use berth::v1::ErrorReason;
use berth::v1::containers_client::ContainersClient;
use berth::v1::files_client::FilesClient;
use berth::v1::images_client::ImagesClient;
use berth::v1::networks_client::NetworksClient;
use berth::v1::node_client::NodeClient;
use berth::v1::volumes_client::VolumesClient;
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A host that is there answers within this, handshake counted; one that is not should not hold up the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For calls that answer once and at once.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);
/// An interrupted call is tried again for so long; its request id, cursor or session makes the tries one.
const RESUME: Duration = Duration::from_secs(30);
/// The caller is told when it takes longer than this.
const TELL: Duration = Duration::from_secs(2);
/// A first connection that is refused, or breaks before anything was asked, is made again for so long: an agent that restarts is back by
/// then, and who calls a host without one waits no longer.
const DOOR: Duration = Duration::from_secs(2);
/// Between two tries of that.
const KNOCK: Duration = Duration::from_millis(40);
/// Before the second try; longer before each further one. An agent restarts in less than the first few together.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// An agent without room says itself when to come again; this at the latest.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Flow-control windows: one stream of output fills a gigabit at 8 ms of round trip.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// An inspect with a large label set still fits.
const MAX_MESSAGE: usize = 16 << 20;

type Traced = tonic::metadata::MetadataValue<tonic::metadata::Ascii>;

/// A channel to one host.
#[derive(Clone, Debug)]
pub struct Connection {
    pub label: String,
    channel: Channel,
    refusal: Refusal,
    tls: bool,
    /// The connector's last try was in vain.
    shut: Arc<AtomicBool>,
    limits: Limits,
}

/// How long the caller waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `--deadline`: for every call.
    pub deadline: Option<Duration>,
    /// `BERTH_RECONNECT`: for an agent that is away or has no room, before the first call as in the middle of one.
    pub reconnect: Option<Duration>,
}

impl Limits {
    /// How long something that usually takes `usual` is tried again.
    fn patience(self, usual: Duration) -> Duration {
        self.reconnect.unwrap_or(usual).min(self.deadline.unwrap_or(Duration::MAX))
    }
}

impl Connection {
    /// Connects to a host.
    pub async fn open(host: &Host, limits: Limits) -> Result<Connection> {
        let refusal = Refusal::default();
        let dialer = Arc::new(Dialer::new(host, refusal.clone())?);
        let (begun, limit) = (Instant::now(), limits.patience(DOOR));
        let mut told = false;
        loop {
            let failed = match Connection::try_open(host, limits, &dialer).await {
                Ok(connection) => return Ok(connection),
                Err(failed) => failed,
            };
            if !failed.passing || begun.elapsed() >= limit {
                return Err(failed.error);
            }
            if !told && begun.elapsed() >= TELL {
                tell_silence(&host.label, limit.saturating_sub(begun.elapsed()));
                told = true;
            }
            tokio::time::sleep(KNOCK).await;
        }
    }

    async fn try_open(host: &Host, limits: Limits, dialer: &Arc<Dialer>) -> Result<Connection, Failed> {
        let within = limits.deadline.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
        let first = tokio::time::timeout(within, dialer.dial()).await.unwrap_or_else(|_| {
            let error = format!("no connection to {} within {} s", dialer.shown, CONNECT_TIMEOUT.as_secs());
            Err(Failed::for_good(Error::new(error).hint("is the host up, and is the port open in its firewall?")))
        })?;
        let (mut first, shut) = (Some(first), Arc::new(AtomicBool::new(false)));
        let (connecting, closed) = (dialer.clone(), shut.clone());
        let connector = tower::service_fn(move |_| {
            let (made, dialer, shut) = (first.take(), connecting.clone(), closed.clone());
            async move {
                let dialed = match made {
                    Some(io) => Ok(io),
                    // An agent that comes back answers; a host that does not must not hold the next try up.
                    None => match tokio::time::timeout(CONNECT_TIMEOUT, dialer.dial()).await {
                        Ok(dialed) => dialed.map_err(|failed| failed.error),
                        Err(_) => Err(Error::new(format!("no answer from {}", dialer.shown))),
                    },
                };
                shut.store(dialed.is_err(), Ordering::Relaxed);
                dialed.map(TokioIo::new)
            }
        });
        let channel = tonic::transport::Endpoint::from_static("http://berth")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .user_agent(concat!("berthctl/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| Failed::for_good(Error::new(e.to_string())))?
            .connect_with_connector(connector)
            .await
            .map_err(|e| match dialer.refusal.lock().ok().and_then(|refused| refused.clone()) {
                Some(refused) => Failed::for_good(tls_error(&host.label, &refused, None)),
                None => {
                    let error = Error::new(format!("starting HTTP/2 with {}: {e}", host.label));
                    Failed { error: error.hint("does berthd listen there?"), passing: true }
                }
            })?;
        let (label, refusal, tls) = (host.label.clone(), dialer.refusal.clone(), dialer.tls.is_some());
        Ok(Connection { label, channel, refusal, tls, shut, limits })
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn volumes(&self) -> VolumesClient<Channel> {
        VolumesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// A request with the caller's deadline, else the one that is usual for it.
    pub fn request<T>(&self, message: T, usual: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.limits.deadline.or(usual) {
            request.set_timeout(timeout);
        }
        if let Some(value) = traceparent() {
            request.metadata_mut().insert(TRACEPARENT, value.clone());
        }
        request
    }

    /// Repeats a call that ended before any answer, for as long as that can help.
    pub async fn retry<T, F, Fut>(&self, call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.retry_unsure(call).await.map(|(answer, _)| answer)
    }

    /// As [`Connection::retry`]; and whether an earlier try may have done it, whose answer was lost.
    pub async fn retry_unsure<T, F, Fut>(&self, mut call: F) -> Result<(T, bool)>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let (mut patience, mut unsure) = (Patience::default(), false);
        loop {
            match call().await {
                Ok(answer) => return Ok((answer, unsure)),
                Err(status) => {
                    // Of what there was no room for nothing was begun.
                    unsure |= status::overloaded(&status).is_none();
                    patience.wait(self, &status).await?;
                }
            }
        }
    }

    /// As [`Connection::retry`]. None: the agent has nothing of this name.
    pub async fn find<T, F, Fut>(&self, mut call: F) -> Result<Option<T>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.retry(|| {
            let answer = call();
            async {
                match answer.await {
                    // A name that nothing of the kind can have is one that nothing has.
                    Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
                    answer => answer.map(Some),
                }
            }
        })
        .await
    }

    /// The connection broke, the agent is on its way out, or it has no room just now; a refused certificate or a registry that is away does not mend in a second.
    pub fn worth_repeating(&self, status: &Status) -> bool {
        use tonic_types::StatusExt;
        let stopping =
            || status.get_details_error_info().is_some_and(|i| i.reason == ErrorReason::AgentStopping.as_str_name());
        self.refusal.lock().is_ok_and(|r| r.is_none())
            && (status::broken(status) || stopping() || status::overloaded(status).is_some())
    }

    /// What a failed call means, for people.
    pub fn error(&self, status: &Status) -> Error {
        if let Ok(refusal) = self.refusal.lock()
            && let Some(refused) = &*refusal
        {
            return tls_error(&self.label, refused, None);
        }
        status::error(status, &self.label, self.tls, self.limits.deadline)
    }
}

/// How long a call was in vain.
#[derive(Debug, Default)]
pub struct Patience {
    since: Option<Instant>,
    pause: Duration,
    told: bool,
}

impl Patience {
    /// It works again.
    pub fn rest(&mut self) {
        if self.told {
            talk("going on");
        }
        *self = Patience::default();
    }

    /// As [`Patience::wait`], for a call that may last and was `begun` then: an agent that took it and went again has used up no patience.
    pub async fn wait_long(&mut self, connection: &Connection, status: &Status, begun: Instant) -> Result<()> {
        let lasted = begun.elapsed() > LONGEST_DELAY && status::overloaded(status).is_none();
        let taken = lasted || status::broken(status);
        if taken && !connection.shut.load(Ordering::Relaxed) {
            self.since = None;
        }
        self.wait(connection, status).await
    }

    /// Waits a moment before the next try.
    ///
    /// # Errors
    /// What the status says, when another try does not help, or there were enough.
    pub async fn wait(&mut self, connection: &Connection, status: &Status) -> Result<()> {
        if !connection.worth_repeating(status) {
            return Err(connection.error(status));
        }
        let full = status::overloaded(status);
        let since = *self.since.get_or_insert_with(Instant::now);
        let limit = connection.limits.patience(RESUME);
        if since.elapsed() >= limit {
            let mut error = connection.error(status);
            error.message = format!("{} (tried again for {} s)", error.message, limit.as_secs_f64());
            if full.is_none() {
                error.exit = Some(FAILED_ITSELF);
            }
            return Err(error);
        }
        let left = limit.saturating_sub(since.elapsed());
        if !self.told && since.elapsed() >= TELL {
            match full {
                Some(_) => tell_no_room(&connection.label, left),
                None => tell_silence(&connection.label, left),
            }
            self.told = true;
        }
        let pause = match full {
            Some(delay) => jittered(delay.min(LONGEST_DELAY)),
            None => {
                self.pause = if self.pause.is_zero() { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
                self.pause
            }
        };
        tokio::time::sleep(pause.min(left)).await;
        Ok(())
    }
}

/// Those who were refused together do not come back together.
fn jittered(delay: Duration) -> Duration {
    let mut byte = [0u8; 1];
    let _ = aws_lc_rs::rand::fill(&mut byte);
    delay + delay * u32::from(byte[0]) / 256
}

fn tell_no_room(host: &str, left: Duration) {
    talk(&format!("{host} has no room for one more call; trying for {} s more", left.as_secs()));
}

fn tell_silence(host: &str, left: Duration) {
    talk(&format!("{host} does not answer; trying for {} s more", left.as_secs()));
}

/// The trace that this command belongs to, where its caller says so: every call carries it.
fn traceparent() -> Option<&'static Traced> {
    static TRACE: LazyLock<Option<Traced>> = LazyLock::new(|| {
        let given: Option<TraceParent> = std::env::var("TRACEPARENT").ok().and_then(|text| text.parse().ok());
        given.or_else(own_trace)?.to_string().parse().ok()
    });
    TRACE.as_ref()
}

/// A trace of the command's own, where agents may be collecting them.
fn own_trace() -> Option<TraceParent> {
    if !cfg!(feature = "otel") {
        return None;
    }
    let mut bytes = [0; 24];
    berth_sys::store::random(&mut bytes).ok()?;
    let (trace, span) = bytes.split_at(16);
    Some(TraceParent { trace: trace.try_into().ok()?, span: span.try_into().ok()?, sampled: true })
}

/// To stderr, which may be a terminal that is raw just now.
fn talk(text: &str) {
    let end = if crate::term::stderr_is_terminal() { "\r\n" } else { "\n" };
    anstream::eprint!("{text}{end}");
}

/// A random name for one mutation, so that repeating it does it once.
pub fn request_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::new("the system gives no random bytes"))?;
    Ok(berth::hex::encode(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tonic_types::{ErrorDetails, StatusExt};

    fn connection(deadline: Option<Duration>) -> Connection {
        Connection {
            label: "web".into(),
            channel: tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
            refusal: Refusal::default(),
            tls: true,
            shut: Arc::default(),
            limits: Limits { deadline, reconnect: None },
        }
    }

    fn refused(reason: &str, domain: &str, delay: Option<u64>) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, domain, std::collections::HashMap::new());
        if let Some(ms) = delay {
            details.set_retry_info(Some(Duration::from_millis(ms)));
        }
        Status::with_error_details(Code::ResourceExhausted, "no room", details)
    }

    #[tokio::test]
    async fn a_call_for_which_there_was_no_room_is_made_again() {
        for (reason, domain, delay, calls) in [
            ("CALLER_OVERLOADED", "berth.dev", Some(20), 3),
            ("AGENT_OVERLOADED", "berth.dev", Some(20), 3),
            // What was begun, says nothing of later, or is somebody else's word.
            ("CONTAINER_BUSY", "berth.dev", Some(20), 1),
            ("CALLER_OVERLOADED", "berth.dev", None, 1),
            ("CALLER_OVERLOADED", "elsewhere", Some(20), 1),
        ] {
            let (web, made, begun) = (connection(None), Cell::new(0), Instant::now());
            let answer = web.retry(async || {
                made.set(made.get() + 1);
                if made.get() < 3 { Err(refused(reason, domain, delay)) } else { Ok(()) }
            });
            assert_eq!(answer.await.is_ok(), calls == 3, "{reason} {domain}");
            assert_eq!(made.get(), calls, "{reason} {domain}");
            assert!(begun.elapsed() >= Duration::from_millis(20 * (calls - 1)), "{reason}: as late as the agent said");
        }
    }

    #[tokio::test]
    async fn only_a_try_that_may_have_done_it_makes_unsure() {
        let mut broken = Status::unavailable("broken");
        broken.set_source(Arc::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        for (first, unsure) in [(refused("CALLER_OVERLOADED", "berth.dev", Some(1)), false), (broken, true)] {
            let (web, first) = (connection(None), Cell::new(Some(first)));
            let answer = web.retry_unsure(async || first.take().map_or(Ok("gone"), Err)).await;
            assert_eq!(answer.ok(), Some(("gone", unsure)));
        }
    }

    #[tokio::test]
    async fn no_room_is_waited_for_as_long_as_the_call_has() {
        let (made, begun) = (Cell::new(0), Instant::now());
        let answer: Result<()> = connection(Some(Duration::from_millis(200)))
            .retry(async || {
                made.set(made.get() + 1);
                Err(refused("CALLER_OVERLOADED", "berth.dev", Some(30)))
            })
            .await;
        let error = answer.unwrap_err();
        assert_eq!((error.message.as_str(), error.exit), ("no room (tried again for 0.2 s)", None));
        assert!((2..=8).contains(&made.get()), "{}", made.get());
        assert!((200..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }

    #[test]
    fn those_who_were_refused_together_come_back_one_by_one() {
        let delay = Duration::from_millis(500);
        let pauses: std::collections::HashSet<Duration> = (0..64).map(|_| jittered(delay)).collect();
        assert!(pauses.iter().all(|pause| (delay..delay * 2).contains(pause)), "{pauses:?}");
        assert!(pauses.len() > 16, "{pauses:?}");
    }
}

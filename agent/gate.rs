//! What every call passes on its way in and out: who calls, may they, how many at once, until when, and the record.
//!
//! In this order: the caller's certificate is still good, the RPC has a rule and the role is enough, there was room for the connection and is
//! for one more call, of all and of this caller; then the service works until it is done, the caller's deadline passes or the agent stops; then
//! the audit record is written. A call that ends in any other way (the caller hangs up) is recorded too.

use crate::audit::{AuditLog, Record, Verdict};
use crate::auth::{self, Duration as Length, Rule, Takes};
use crate::metrics::Calls;
use crate::peer::{self, Lapse, Peer, PeerInfo};
use crate::permission::{self, Need, Policy, Refusal};
use crate::request::{self, Request as Receive, Sender};
use crate::room::{Answering, Held, Receiving};
use crate::status;
use berth::role::Role;
use berth::trace::{TRACEPARENT, TraceParent};
use berth::v1::ErrorReason;
use berth_model::ContainerSpec;
use berth_node::{Requester, Shares};
use http_body::Frame;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::{Instrument, Span};

/// Permissions in one audit record.
const MAX_NEEDS: usize = 32;

/// What all calls share.
#[derive(Clone)]
pub struct Gate {
    pub audit: AuditLog,
    pub calls: Arc<Shares>,
    /// Bytes of one message.
    pub message_bytes: usize,
    pub receiving: Arc<Receiving>,
    pub answering: Arc<Answering>,
    /// For bounded calls.
    pub patience: Duration,
    /// Ends endless calls, so that their callers come back to the next agent at once.
    pub stopping: CancellationToken,
    pub activity: crate::quiet::Activity,
    /// Where figures are wanted.
    pub counted: Option<Arc<Calls>>,
    pub policy: Arc<Policy>,
}

impl<S> tower::Layer<S> for Gate {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { gate: self.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Guarded<S> {
    gate: Gate,
    inner: S,
}

/// One call: handlers find it in the request's extensions.
pub struct Call {
    peer: Arc<Peer>,
    role: Option<Role>,
    path: String,
    mutates: bool,
    long: bool,
    begun: Instant,
    audit: AuditLog,
    policy: Arc<Policy>,
    counted: Option<Arc<Calls>>,
    trace: Option<TraceParent>,
    span: Span,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    object: String,
    request_id: String,
    /// Permissions that the call needs.
    needs: Vec<String>,
    denied: bool,
    ended: bool,
}

impl Call {
    /// The caller's name: the certificate's CN, or `uid:0`.
    pub fn caller(&self) -> String {
        self.peer.name()
    }

    /// Who has a part of what there is.
    fn party(&self) -> String {
        peer::party(self.role, &self.caller())
    }

    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// Admins, and root on the Unix socket, get in when nobody else does.
    fn is_admins(&self) -> bool {
        self.role == Some(Role::Admin)
    }

    /// Says what the call is about, for the record; long streams leave their first line here.
    pub fn about(&self, object: &str, request_id: &str) -> Requester {
        {
            let mut told = self.told();
            told.object = object.chars().take(512).collect();
            told.request_id = request_id.chars().take(64).collect();
        }
        if self.long && self.mutates {
            self.record("start", None, None);
        }
        Requester { caller: self.caller(), request_id: request_id.to_owned(), first: self.is_admins() }
    }

    /// Denies what the caller's role has no permission for. The object is named for the record, in which a denied call has no start.
    pub fn permit(&self, needs: &[Need], object: &str, request_id: &str) -> Result<(), Status> {
        self.decide(needs, false, object, request_id)
    }

    /// As [`Call::permit`], for what is done inside a container or to its files.
    pub fn permit_inside(&self, needs: &[Need], object: &str, request_id: &str) -> Result<(), Status> {
        self.decide(needs, true, object, request_id)
    }

    fn decide(&self, needs: &[Need], going_in: bool, object: &str, request_id: &str) -> Result<(), Status> {
        let needs = permission::follow(self.role, needs);
        let decided = self.policy.decide(self.role, &needs, going_in);
        let mut told = self.told();
        let token = |need: &Need| need.token().chars().take(256).collect();
        told.needs = needs.iter().take(MAX_NEEDS).map(token).collect();
        let Err(refusal) = decided else { return Ok(()) };
        told.object = object.chars().take(512).collect();
        told.request_id = request_id.chars().take(64).collect();
        drop(told);
        Err(self.refused(refusal))
    }

    /// Holds a new container's bind mounts inside the folders that its caller may mount. Those were permitted before.
    pub fn confine(&self, spec: &mut ContainerSpec) -> Result<(), Status> {
        self.policy.confine(self.role, spec).map_err(|refusal| self.refused(refusal))
    }

    /// Where nobody can tell, the caller was not denied anything.
    fn refused(&self, refusal: Refusal) -> Status {
        match refusal {
            Refusal::Denied(why) => {
                self.told().denied = true;
                status::denied(self.role.map_or("none", Role::name), &why)
            }
            Refusal::Silent(path) => status::path_silent(&path),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: &'static str, result: Option<Code>, reason: Option<String>) {
        let told = self.told();
        self.audit.write(Record {
            time: crate::audit::now(),
            event,
            caller: self.peer.name(),
            role: self.role.map_or("none", Role::name),
            serial: self.peer.serial().to_owned(),
            peer: self.peer.to_string(),
            rpc: self.path.chars().take(256).collect(),
            object: told.object.clone(),
            needs: told.needs.clone(),
            verdict: if told.denied { Verdict::Denied } else { Verdict::Allowed },
            result: result.map(|code| status::code_name(code).to_owned()),
            reason,
            request_id: told.request_id.clone(),
            trace_id: self.trace.map(|t| t.trace_id()),
            duration_ms: result.map(|_| (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e3),
            count: None,
        });
    }

    /// Once, however the call ends.
    fn end(&self, code: Code, reason: Option<String>) {
        let denied = {
            let mut told = self.told();
            if std::mem::replace(&mut told.ended, true) {
                return;
            }
            told.denied
        };
        if let Some(calls) = &self.counted {
            calls.ended(&self.path, code, self.begun.elapsed());
        }
        self.span.record("code", status::code_name(code));
        let ms = self.begun.elapsed().as_millis();
        tracing::debug!(rpc = self.path, caller = self.peer.name(), code = status::code_name(code), ms, "call");
        if self.mutates || denied {
            self.record(if self.long { "end" } else { "call" }, Some(code), reason);
        }
    }

    fn end_with(&self, headers: &HeaderMap) {
        match Status::from_header_map(headers) {
            Some(status) if status.code() != Code::Ok => {
                self.end(status.code(), status.get_details_error_info().map(|info| info.reason));
            }
            _ => self.end(Code::Ok, None),
        }
    }
}

/// What is said in the log for a call has the trace that it belongs to. At any level: the span is not what is said.
pub fn span(path: &str, trace: Option<&TraceParent>) -> Span {
    if !cfg!(feature = "otel") && trace.is_none() {
        return Span::none();
    }
    let span = tracing::error_span!(
        target: berth_node::TRACE,
        "call",
        otel.name = path,
        otel.kind = "server",
        trace_id = trace.map(TraceParent::trace_id),
        code = tracing::field::Empty
    );
    #[cfg(feature = "otel")]
    if let Some(trace) = trace {
        crate::log::otel::continue_from(&span, trace);
    }
    span
}

/// A call that nobody ended was given up by its caller.
struct Ending(Arc<Call>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Code::Cancelled, Some(ErrorReason::CallerGone.as_str_name().into()));
    }
}

impl Gate {
    /// The decision on one call, before anything is done for it.
    fn admit(
        &self,
        peer: &Arc<Peer>,
        path: &str,
        trace: Option<TraceParent>,
    ) -> (Arc<Call>, Result<&'static Rule, Status>) {
        let role = peer.role();
        let rule = auth::rule(path);
        if let Some(calls) = &self.counted {
            calls.begun();
        }
        let call = Arc::new(Call {
            peer: peer.clone(),
            role: role.as_ref().ok().copied(),
            path: path.to_owned(),
            mutates: rule.is_some_and(|rule| rule.mutates),
            long: rule.is_some_and(|rule| rule.duration == Length::Endless),
            begun: Instant::now(),
            audit: self.audit.clone(),
            policy: self.policy.clone(),
            counted: self.counted.clone(),
            trace,
            span: span(path, trace.as_ref()),
            told: Mutex::default(),
        });
        let verdict = match (peer.lapse(), role, rule) {
            (Some(Lapse::Revoked), ..) => {
                Err(status::lapsed(ErrorReason::CertificateRevoked, "your certificate was revoked"))
            }
            (Some(Lapse::Expired), ..) => {
                Err(status::lapsed(ErrorReason::CertificateExpired, "your certificate has expired"))
            }
            (None, Err(why), _) => Err(status::denied("none", &format!("your certificate carries no role: {why}"))),
            (None, Ok(_), None) => Err(status::unknown_method(path)),
            (None, Ok(role), Some(rule)) if role < rule.least => {
                Err(status::denied(role.name(), &format!("{path} needs the {} role", rule.least)))
            }
            (None, Ok(_), Some(rule)) => Ok(rule),
        };
        if verdict.is_err() {
            call.told().denied = true;
        }
        (call, verdict)
    }
}

impl Gate {
    /// The request, with its body watched on its way in.
    fn receive(&self, request: Request<Body>, rule: &Rule, call: &Call) -> Request<Body> {
        let sender = Sender {
            caller: call.party(),
            first: call.is_admins(),
            most: rule.message_bytes(self.message_bytes),
            one: rule.takes != Takes::Stream,
            patience: request::PATIENCE,
        };
        request.map(|body| Body::new(Receive::new(body, sender, self.receiving.clone())))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, tonic::codegen::StdError>> + Send>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<tonic::codegen::StdError>,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = tonic::codegen::StdError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        let Some(PeerInfo { peer, over }) = request.extensions().get::<PeerInfo>().cloned() else {
            let nobody = status::lapsed(ErrorReason::NoCaller, "the connection has no caller");
            return Box::pin(std::future::ready(Ok(nobody.into_http())));
        };
        self.gate.activity.mark();
        // What is none is ignored.
        let trace = request.headers().get(TRACEPARENT).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let (call, verdict) = self.gate.admit(&peer, request.uri().path(), trace);
        let ending = Ending(call.clone());
        let admitted = verdict.and_then(|rule| {
            if let Some(why) = over {
                return Err(Status::clone(&why));
            }
            let deadline = deadline(request.headers(), rule, self.gate.patience)?;
            let share = self.gate.calls.enter(&call.party(), call.is_admins()).map_err(status::full)?;
            Ok((rule, deadline, share))
        });
        let (rule, deadline, share) = match admitted {
            Ok(admitted) => admitted,
            Err(status) => {
                let response = status.into_http();
                call.end_with(response.headers());
                return Box::pin(std::future::ready(Ok(response)));
            }
        };
        request.extensions_mut().insert(call.clone());
        let mut limits = Limits {
            deadline: deadline.map(|left| Box::pin(tokio::time::sleep(left))),
            stopping: (rule.duration == Length::Endless)
                .then(|| Box::pin(self.gate.stopping.clone().cancelled_owned())),
        };
        let span = call.span.clone();
        let request = self.gate.receive(request, rule, &call);
        let answering = rule.gives_much.then(|| self.gate.answering.clone().take(call.party()));
        // The one that is ready goes, another one stays.
        let ready = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, ready);
        let work = async move {
            let answer = match answering {
                Some(place) => match place.await {
                    Some(place) => Some(place),
                    None => return (Ok(status::unread().into_http()), None),
                },
                None => None,
            };
            let answered = ready.call(request).await.map_err(Into::into);
            (answered, Some(Held { _share: share, _answer: answer }))
        }
        .instrument(span.clone());
        Box::pin(async move {
            let mut work = std::pin::pin!(work);
            let (answer, held) = std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending => limits.poll(cx).map(|status| (Ok(status.into_http()), None)),
            })
            .await;
            let answer = answer?;
            if answer.headers().contains_key("grpc-status") {
                call.end_with(answer.headers());
            }
            Ok(answer.map(|inner| {
                Body::new(GuardedBody { inner, limits, span, done: false, ending: Some(ending), _held: held })
            }))
        })
    }
}

/// What ends a call from outside.
struct Limits {
    deadline: Option<Pin<Box<Sleep>>>,
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Limits {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if let Some(sleep) = &mut self.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(status::deadline());
        }
        if let Some(stopping) = &mut self.stopping
            && stopping.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(status::stopping());
        }
        Poll::Pending
    }
}

/// The answer's body: ended by the deadline, watched for its end.
struct GuardedBody {
    inner: Body,
    limits: Limits,
    span: Span,
    done: bool,
    ending: Option<Ending>,
    _held: Option<Held>,
}

impl GuardedBody {
    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        self.done = true;
        if let Some(ending) = self.ending.take() {
            match trailers {
                Some(trailers) => ending.0.end_with(trailers),
                None => ending.0.end(Code::Ok, None),
            }
        }
    }
}

impl http_body::Body for GuardedBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        // First, so that a stream that always has more to say ends in time too.
        if let Poll::Ready(status) = this.limits.poll(cx) {
            // The service's stream ends here, and with it what it does for this call.
            this.inner = Body::empty();
            let mut trailers = HeaderMap::new();
            if let Err(unsent) = status.add_header(&mut trailers) {
                return Poll::Ready(Some(Err(unsent)));
            }
            this.finish(Some(&trailers));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(this.span.in_scope(|| Pin::new(&mut this.inner).poll_frame(cx)));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.finish(Some(trailers));
                }
            }
            None => this.finish(None),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.done || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

/// How long the call may last; `None`: as long as it takes.
fn deadline(headers: &HeaderMap, rule: &Rule, patience: Duration) -> Result<Option<Duration>, Status> {
    let most = (rule.duration == Length::Bounded).then_some(patience);
    let Some(value) = headers.get("grpc-timeout") else { return Ok(most) };
    let wanted = value.to_str().ok().and_then(parse_timeout);
    let wanted = wanted.ok_or_else(|| {
        status::invalid(vec![("grpc-timeout".into(), "must be 1 to 8 digits and one of HMSmun".into())])
    })?;
    Ok(Some(most.map_or(wanted, |most| wanted.min(most))))
}

/// gRPC over HTTP/2, "Timeout": 1 to 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// A door for the fuzz targets: the headers of a call that are read here.
#[cfg(fuzzing)]
pub fn fuzz(text: &str) {
    // 99,999,999 hours.
    const LONGEST: Duration = Duration::from_secs(99_999_999 * 3600);
    if let Some(timeout) = parse_timeout(text) {
        assert!(timeout <= LONGEST && (2..=9).contains(&text.len()));
        assert!(Instant::now().checked_add(timeout).is_some(), "a deadline that no clock reaches");
    }
    if let Ok(trace) = text.parse::<TraceParent>() {
        assert_eq!(trace.to_string().parse().ok(), Some(trace));
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;

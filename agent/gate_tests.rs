//! Deadlines, and what the gate lets through at once.

use super::*;
use crate::audit::AuditConfig;
use berth_node::Shares;
use std::sync::atomic::{AtomicUsize, Ordering};
use tower::{Layer, service_fn};

/// Answers that nobody reads to their end.
struct Unread;

impl http_body::Body for Unread {
    type Data = bytes::Bytes;
    type Error = Status;
    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        Poll::Pending
    }
}

fn gate(calls: usize) -> Gate {
    Gate {
        audit: AuditLog::open(AuditConfig { file: None, file_bytes: 1 << 20, files: 1, log: false }).unwrap(),
        calls: Shares::with(calls, calls, 0),
        message_bytes: 4 << 20,
        receiving: Arc::new(Receiving::new(4 << 20)),
        answering: Arc::default(),
        patience: Duration::from_millis(900),
        stopping: CancellationToken::new(),
        activity: crate::quiet::Activity::default(),
        counted: None,
        policy: Arc::default(),
    }
}

fn call_of(uid: u32, path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    request.extensions_mut().insert(PeerInfo { peer: Arc::new(Peer::Unix { uid, pid: None }), over: None });
    request
}

#[tokio::test]
async fn answers_that_are_not_read_hold_up_their_caller_only() {
    const INSPECT: &str = "/berth.v1.Containers/Inspect";
    let made = Arc::new(AtomicUsize::new(0));
    let service = service_fn({
        let made = made.clone();
        move |_: Request<Body>| {
            made.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok::<_, tonic::codegen::StdError>(Response::new(Body::new(Unread))))
        }
    });
    let guarded = gate(1000).layer(service);
    let call = |uid, path| {
        let mut guarded = guarded.clone();
        tokio::time::timeout(Duration::from_millis(300), guarded.call(call_of(uid, path)))
    };
    let mut unread = Vec::new();
    while let Ok(answer) = call(0, INSPECT).await {
        unread.push(answer.unwrap());
        assert!(unread.len() <= 16, "they are not without end");
    }
    assert_eq!((unread.len(), made.load(Ordering::Relaxed)), (16, 16), "no answer is made before there is room for it");
    let _other = call(1, INSPECT).await.expect("another caller has its own").unwrap();
    let _stream = call(0, "/berth.v1.Containers/Logs").await.expect("streams are bounded otherwise").unwrap();
    unread.pop();
    let _next = call(0, INSPECT).await.expect("one was read").unwrap();
    // The deadline holds for who waits, too.
    let mut guarded = guarded.clone();
    let begun = Instant::now();
    let late = guarded.call(call_of(0, INSPECT)).await.unwrap();
    assert_eq!(Status::from_header_map(late.headers()).unwrap().code(), Code::DeadlineExceeded);
    assert!((900..4500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_waits_for_a_place_is_told_why_and_small_answers_need_none() {
    let service = service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, tonic::codegen::StdError>(Response::new(Body::new(Unread))))
    });
    let mut gate = gate(1000);
    (gate.answering, gate.patience) = (Arc::new(Answering::with(Duration::from_millis(200))), Duration::from_secs(600));
    let guarded = gate.layer(service);
    let call = |path: &str| guarded.clone().call(call_of(0, path));
    let mut unread = Vec::new();
    for rule in auth::RULES.iter().filter(|rule| rule.gives_much).cycle().take(16) {
        unread.push(call(rule.path).await.unwrap());
    }
    for rule in auth::RULES {
        let answer = call(rule.path).await.unwrap();
        let refused = Status::from_header_map(answer.headers());
        assert_eq!(refused.is_some(), rule.gives_much, "{}: {refused:?}", rule.path);
        let Some(refused) = refused else { continue };
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!((refused.code(), reason.as_str()), (Code::ResourceExhausted, "CALLER_OVERLOADED"));
        assert!(refused.message().contains("16 large answers") && refused.message().contains("try again"), "{refused}");
    }
    unread.pop();
    let answer = call("/berth.v1.Containers/List").await.unwrap();
    assert!(Status::from_header_map(answer.headers()).is_none(), "one was read");
}

#[test]
fn a_caller_may_shorten_a_bounded_call_and_not_lengthen_it() {
    let patience = Duration::from_secs(600);
    for (path, header, want) in [
        ("/berth.v1.Containers/Inspect", "", Some(600)),
        ("/berth.v1.Containers/Inspect", "5S", Some(5)),
        ("/berth.v1.Containers/Inspect", "99999999H", Some(600)),
        ("/berth.v1.Containers/Wait", "", None),
        ("/berth.v1.Containers/Wait", "2H", Some(7200)),
    ] {
        let mut headers = HeaderMap::new();
        if !header.is_empty() {
            headers.insert("grpc-timeout", header.parse().unwrap());
        }
        let deadline = deadline(&headers, auth::rule(path).unwrap(), patience).unwrap();
        assert_eq!(deadline, want.map(Duration::from_secs), "{path} {header}");
    }
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    for (text, want) in [
        ("1H", Some(Duration::from_secs(3600))),
        ("90M", Some(Duration::from_secs(5400))),
        ("99999999S", Some(Duration::from_secs(99_999_999))),
        ("100m", Some(Duration::from_millis(100))),
        ("5u", Some(Duration::from_micros(5))),
        ("0n", Some(Duration::ZERO)),
        ("", None),
        ("S", None),
        ("1", None),
        ("123456789S", None),
        ("-1S", None),
        ("1.5S", None),
        ("1s", None),
        ("1é", None),
    ] {
        assert_eq!(parse_timeout(text), want, "{text:?}");
    }
}

#[test]
fn a_path_that_does_not_answer_is_told_from_a_refusal() {
    let gate = gate(10);
    let peer = Arc::new(Peer::Unix { uid: 0, pid: None });
    let call = |role| {
        let (call, _) = gate.admit(&peer, "/berth.v1.Containers/Exec", None);
        Call { role: Some(role), ..Arc::into_inner(call).unwrap() }
    };
    let hung = [Need::Links(format!("{}/gate", crate::leads::tests::HUNG))];
    let operators = call(Role::Operator);
    let status = operators.permit_inside(&hung, "web", "r1").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "PATH_SILENT");
    assert!(status.message().contains("/gate of the host does not answer") && status.message().contains("try again"));
    assert!(!operators.told().denied, "nobody was denied anything");
    assert_eq!(operators.told().object, "web");
    assert_eq!(operators.told().needs.len(), 1);
    let links = [Need::Links("/proc/self/..".into())];
    let status = operators.permit_inside(&links, "web", "").unwrap_err();
    assert!(status.message().contains("the host's path /proc needs the admin role"), "{status}");
    assert!(operators.told().denied);
    let admins = call(Role::Admin);
    admins.permit_inside(&hung, "web", "").unwrap();
    assert!(admins.told().needs.is_empty());
}

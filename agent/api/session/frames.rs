//! The messages of sessions: three pairs of types that say the same.

use berth::v1;
use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Status;

/// What callers send once a session runs.
pub(super) enum Frame {
    Stdin(Bytes),
    Eof,
    Resize(v1::TerminalSize),
    Signal(String),
    Taken([u64; 2]),
    Leave(bool),
}

/// What sessions send, in the words of their own message types.
pub(super) trait Answer: Sized + Send + 'static {
    fn stdout(bytes: Bytes) -> Self;
    fn stderr(bytes: Bytes) -> Self;
    fn exit(exit: v1::ExitStatus) -> Self;
    fn begun(begun: v1::SessionBegun) -> Self;
    fn fed(position: u64) -> Self;
}

/// What sessions receive.
pub(super) trait Asks: Send + 'static {
    type Start: Send;
    /// `Err`: the first frame; `None`: nothing that is known.
    fn split(self) -> Option<Result<Frame, Self::Start>>;
}

macro_rules! session_messages {
    ($request:ident, $request_kind:path, $start:ty, $response:ident, $response_kind:path) => {
        impl Asks for v1::$request {
            type Start = $start;
            fn split(self) -> Option<Result<Frame, $start>> {
                use $request_kind as Kind;
                Some(match self.kind? {
                    Kind::Start(start) => Err(start),
                    Kind::Stdin(bytes) => Ok(Frame::Stdin(bytes)),
                    Kind::Eof(_) => Ok(Frame::Eof),
                    Kind::Resize(size) => Ok(Frame::Resize(size)),
                    Kind::Signal(signal) => Ok(Frame::Signal(signal)),
                    Kind::Taken(taken) => Ok(Frame::Taken([taken.stdout, taken.stderr])),
                    Kind::Leave(leave) => Ok(Frame::Leave(leave.hang_up)),
                })
            }
        }
        impl Answer for v1::$response {
            fn stdout(bytes: Bytes) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Stdout(bytes)) }
            }
            fn stderr(bytes: Bytes) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Stderr(bytes)) }
            }
            fn exit(exit: v1::ExitStatus) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Exit(exit)) }
            }
            fn begun(begun: v1::SessionBegun) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::Session(begun)) }
            }
            fn fed(position: u64) -> Self {
                use $response_kind as Kind;
                v1::$response { kind: Some(Kind::StdinTaken(position)) }
            }
        }
    };
}

session_messages!(RunRequest, v1::run_request::Kind, v1::RunStart, RunResponse, v1::run_response::Kind);
session_messages!(ExecRequest, v1::exec_request::Kind, v1::ExecStart, ExecResponse, v1::exec_response::Kind);
session_messages!(AttachRequest, v1::attach_request::Kind, v1::AttachStart, AttachResponse, v1::attach_response::Kind);

pub(super) type Sender<M> = mpsc::Sender<Result<M, Status>>;

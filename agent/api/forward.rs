//! `Containers.PortForward`: one TCP connection into a container.

use super::Answers;
use super::decode::Fields;
use crate::gate::Call;
use crate::{permission, status};
use berth::tunnel::{self, Broken, Frame, Until};
use berth::v1::{self, port_forward_request, port_forward_response};
use berth_model::network::Protocol;
use berth_node::{Dialed, Node, NodeError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// A caller that opens a stream says at once what it is for.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Frames on their way to the caller.
const QUEUE: usize = 2;
/// What an ended container said last is still delivered to a caller who takes it within this.
const LAST_WORDS: Duration = Duration::from_secs(10);

type Answer = Result<v1::PortForwardResponse, Status>;

pub async fn port_forward(
    node: Node,
    call: Arc<Call>,
    mut requests: Streaming<v1::PortForwardRequest>,
) -> Result<Response<Answers<v1::PortForwardResponse>>, Status> {
    let start = first(&mut requests).await?;
    let mut f = Fields::under("start.");
    f.name("container", &start.container);
    let port = u16::try_from(start.port).ok().filter(|port| *port > 0);
    f.check(port.is_some(), "port", "must be 1 to 65535");
    let tcp = super::ports::protocol(start.protocol) == Some(Protocol::Tcp);
    f.check(tcp, "protocol", "must be TCP: only TCP connections are forwarded, not UDP or SCTP");
    f.done()?;
    let object = format!("{} {}/tcp", start.container, start.port);
    let detail = node.container(&start.container).map_err(status::from_node)?;
    call.permit_inside(&permission::of_container(&node, &detail.view.record.spec), &object, "")?;
    call.about(&object, "");
    let id = detail.view.record.id.clone();
    let dialed = node.dial(id.as_str(), port.unwrap_or_default()).await.map_err(status::from_node)?;
    let (answers, stream) = mpsc::channel(QUEUE);
    super::spawn(carry(dialed, requests, answers));
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn first(requests: &mut Streaming<v1::PortForwardRequest>) -> Result<v1::PortForwardStart, Status> {
    let message = tokio::time::timeout(FIRST_FRAME, requests.message()).await;
    let message = message.map_err(|_| status::bad_stream("the first frame did not come within 30 seconds"))??;
    match message.and_then(|m| m.kind) {
        Some(port_forward_request::Kind::Start(start)) => Ok(start),
        _ => Err(status::bad_stream("the first frame must be start")),
    }
}

async fn carry(mut dialed: Dialed, requests: Streaming<v1::PortForwardRequest>, answers: mpsc::Sender<Answer>) {
    let connected = v1::PortForwardConnected { address: dialed.address.to_string() };
    let connected = port_forward_response::Kind::Connected(connected);
    if answers.send(Ok(v1::PortForwardResponse { kind: Some(connected) })).await.is_err() {
        return;
    }
    let ended = match carry_until_ended(&mut dialed, requests, &answers).await {
        Some(Ok(_)) => return,
        Some(Err(Broken::There(status))) => status,
        Some(Err(Broken::Rules(why))) => Some(status::bad_stream(why)),
        Some(Err(Broken::Here(e))) => {
            Some(status::connection_reset(format!("the connection inside container {} broke: {e}", dialed.container)))
        }
        None => Some(status::from_node(NodeError::EndedMeanwhile(dialed.container.clone()))),
    };
    // The process in the container hears that the rest is missing. Err: it broke the connection itself.
    let _ = dialed.stream.set_zero_linger();
    if let Some(status) = ended {
        let _ = answers.send(Err(status)).await;
    }
}

/// None: the container ended.
async fn carry_until_ended(
    dialed: &mut Dialed,
    requests: Streaming<v1::PortForwardRequest>,
    answers: &mpsc::Sender<Answer>,
) -> Option<Result<tunnel::Carried, Broken>> {
    let mut run = dialed.run.clone();
    let (reader, writer) = dialed.stream.split();
    let frames = requests.filter_map(|message| message.and_then(frame).transpose());
    let carried = tunnel::carry(reader, writer, frames, answers, |f| Ok(answer(f)), Until::BothEnd);
    let mut carried = std::pin::pin!(carried);
    tokio::select! {
        carried = &mut carried => return Some(carried),
        () = run.over() => {}
    }
    tokio::time::timeout(LAST_WORDS, carried).await.ok()
}

/// None: nothing that is known.
fn frame(message: v1::PortForwardRequest) -> Result<Option<Frame>, Status> {
    use port_forward_request::Kind;
    Ok(match message.kind {
        Some(Kind::Start(_)) => return Err(status::bad_stream("start is only for the first frame")),
        Some(Kind::Data(bytes)) => Some(Frame::Data(bytes)),
        Some(Kind::End(_)) => Some(Frame::End),
        Some(Kind::Taken(taken)) => Some(Frame::Taken(taken)),
        None => None,
    })
}

fn answer(frame: Frame) -> v1::PortForwardResponse {
    use port_forward_response::Kind;
    let kind = match frame {
        Frame::Data(bytes) => Kind::Data(bytes),
        Frame::End => Kind::End(v1::PortForwardEnd {}),
        Frame::Taken(taken) => Kind::Taken(taken),
    };
    v1::PortForwardResponse { kind: Some(kind) }
}

//! Live streams of containers and execs, from the shim to the caller.

use crate::NodeError;
use crate::view::Streams;
use berth_runtime::Attachment;
use tokio::sync::mpsc;

/// Pieces of output between the shim and a caller; a full queue makes the shim wait, and cuts the caller off after its patience.
const QUEUE: usize = 16;

/// Moves output until it ends or the caller goes.
pub(crate) fn pump(mut attachment: Attachment, tty: bool) -> Streams {
    let input = attachment.input();
    let session = attachment.is_session().then_some(0);
    let (send, output) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let item = tokio::select! {
                item = attachment.next() => item,
                () = send.closed() => return,
            };
            let Some(item) = item else { return };
            let last = item.is_err();
            if send.send(item.map_err(NodeError::from)).await.is_err() || last {
                return;
            }
        }
    });
    Streams { tty, output, input, session }
}

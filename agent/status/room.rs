//! What has no room, and what comes too slowly.

use super::{Draft, RETRY_SOON};
use crate::room::ANSWERS_EACH;
use berth::v1::ErrorReason as R;
use berth_node::Full;
use std::time::Duration;
use tonic::{Code, Status};

/// Too many calls at once.
pub fn overloaded() -> Status {
    Draft::new(Code::ResourceExhausted, R::AgentOverloaded, "the agent has too many calls under way; try again")
        .retry(RETRY_SOON)
        .done()
}

/// No place for one more call.
pub fn full(full: Full) -> Status {
    let Full::Caller(own) = full else { return overloaded() };
    let message = format!(
        "you have {own} calls under way, as many as one caller may have now: end some of them (each logs --follow, stats, wait and events \
         is one) and try again, or raise limits.calls in the agent's configuration"
    );
    Draft::new(Code::ResourceExhausted, R::CallerOverloaded, message).retry(RETRY_SOON).done()
}

/// No place for one more large answer.
pub fn unread() -> Status {
    let message = format!(
        "{ANSWERS_EACH} large answers to you (each list, inspect and top is one) are being made or were not read to their end, as many as one \
         caller may have: read them or end those calls, and try again"
    );
    Draft::new(Code::ResourceExhausted, R::CallerOverloaded, message).retry(RETRY_SOON).done()
}

/// No place for work that goes on for long: copies and diffs.
pub(super) fn no_place(full: Full, message: String) -> Draft {
    let reason = if matches!(full, Full::Caller(_)) { R::CallerOverloaded } else { R::AgentOverloaded };
    Draft::new(Code::ResourceExhausted, reason, message).retry(RETRY_SOON)
}

/// No place for one more connection; `setting`: what gives more.
pub fn no_connection(full: Full, caller: &str, setting: Option<&str>) -> Status {
    let raise = setting.map_or(String::new(), |name| format!(", or raise {name} in the agent's configuration"));
    let (reason, message) = match full {
        Full::Caller(own) => (
            R::CallerOverloaded,
            format!(
                "caller {caller} has {own} connections, as many as one caller may have now: end some of them and try again{raise}"
            ),
        ),
        Full::All => (
            R::AgentOverloaded,
            format!(
                "the agent has no room for one more connection of {caller}: try again when others have ended{raise}"
            ),
        ),
    };
    Draft::new(Code::ResourceExhausted, reason, message).retry(RETRY_SOON).done()
}

/// A message that is larger than its call needs, before a byte of it is kept.
pub fn request_too_large(length: usize, most: usize) -> Status {
    let message = format!("the request is too large: {length} bytes; at most {most} are taken here");
    Draft::new(Code::ResourceExhausted, R::RequestTooLarge, message).done()
}

/// The rest of a message did not come.
pub fn request_late(patience: Duration) -> Status {
    let message = format!("the request did not come to its end within {} seconds; try again", patience.as_secs());
    Draft::new(Code::DeadlineExceeded, R::RequestLate, message).done()
}

/// Too many large messages are on their way.
pub fn no_room() -> Status {
    let message =
        "there was no room for so large a request: others are still being received; try again, or send less at once";
    Draft::new(Code::ResourceExhausted, R::NoRoomForRequest, message).retry(RETRY_SOON).done()
}

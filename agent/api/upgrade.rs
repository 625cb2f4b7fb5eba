//! The agent's own upgrade, of `berth.v1.Node`.

use super::decode::Fields;
use crate::gate::Call;
use crate::status;
use crate::upgrade::{Asked, Phase, UpgradeError, Upgrades};
use crate::version::version;
use berth::release::{self, MAX_PROGRAM_BYTES, Release};
use berth::v1::{self, upgrade_agent_request::Kind};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Between two chunks of a program.
const STALL: Duration = Duration::from_secs(30);
/// Chunks that wait for the disk.
const QUEUE: usize = 4;
const CONFIRM_SECONDS: u32 = 60;

/// Takes a program and puts it in its place.
pub async fn take(
    upgrades: &Upgrades,
    call: &Call,
    mut stream: Streaming<v1::UpgradeAgentRequest>,
) -> Result<v1::UpgradeAgentResponse, Status> {
    let first = next(&mut stream).await?.and_then(|r| r.kind);
    let Some(Kind::Start(start)) = first else {
        return Err(status::bad_stream("the first message must be the start"));
    };
    let asked = decode(start)?;
    call.about(&asked.release.version, &asked.id);
    let answer = v1::UpgradeAgentResponse {
        from_version: version().into(),
        to_version: asked.release.version.clone(),
        already: false,
        confirm_seconds: asked.confirm_seconds,
    };
    let (send, chunks) = mpsc::channel(QUEUE);
    let upgrades = upgrades.clone();
    let taking = tokio::task::spawn_blocking(move || upgrades.take(&asked, chunks));
    let fed = feed(&mut stream, send).await;
    let taken = taking.await.map_err(|e| status::internal(format!("the upgrade ended without an answer: {e}")))?;
    match (taken, fed) {
        (Ok(already), _) => Ok(v1::UpgradeAgentResponse { already, ..answer }),
        // Cut short on the way: what the stream says is nearer to the cause.
        (Err(UpgradeError::Damaged(_)), Err(status)) => Err(status),
        (Err(e), _) => Err(status::from_upgrade(e)),
    }
}

pub(super) fn decode(start: v1::UpgradeStart) -> Result<Asked, Status> {
    let mut f = Fields::under("start.");
    f.request_id(&start.request_id);
    f.check(!start.request_id.is_empty(), "request_id", "must not be empty");
    f.check(release::version_order(&start.version).is_some(), "version", "must be a version such as 1.2.3");
    f.line("architecture", &start.architecture, 32);
    let digest = start.sha256.len() == 64 && berth::hex::decode(&start.sha256).is_some();
    f.check(
        digest && start.sha256 == start.sha256.to_lowercase(),
        "sha256",
        "must be 64 lower-case hexadecimal digits",
    );
    let size = (1..=MAX_PROGRAM_BYTES).contains(&start.size_bytes);
    f.check(size, "size_bytes", &format!("must be 1 to {MAX_PROGRAM_BYTES}"));
    f.check(start.signature.len() <= 256, "signature", "must be at most 256 bytes");
    let seconds = if start.confirm_seconds == 0 { CONFIRM_SECONDS } else { start.confirm_seconds };
    f.check((5..=600).contains(&seconds), "confirm_seconds", "must be 5 to 600");
    f.done()?;
    Ok(Asked {
        id: start.request_id,
        release: Release {
            version: start.version,
            architecture: start.architecture,
            sha256: start.sha256,
            size: start.size_bytes,
            signature: String::new(),
        },
        signature: start.signature.to_vec(),
        allow_downgrade: start.allow_downgrade,
        confirm_seconds: seconds,
    })
}

async fn next(stream: &mut Streaming<v1::UpgradeAgentRequest>) -> Result<Option<v1::UpgradeAgentRequest>, Status> {
    match tokio::time::timeout(STALL, stream.message()).await {
        Ok(message) => message,
        Err(_) => Err(status::bad_stream(&format!("nothing came for {} s", STALL.as_secs()))),
    }
}

async fn feed(stream: &mut Streaming<v1::UpgradeAgentRequest>, to: mpsc::Sender<bytes::Bytes>) -> Result<(), Status> {
    while let Some(message) = next(stream).await? {
        let Some(Kind::Chunk(chunk)) = message.kind else {
            return Err(status::bad_stream("behind the start, only chunks may come"));
        };
        // Closed: it was refused already.
        if to.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Keeps the new agent.
pub async fn confirm(
    upgrades: &Upgrades,
    call: &Call,
    request: v1::ConfirmUpgradeRequest,
) -> Result<v1::ConfirmUpgradeResponse, Status> {
    let mut f = Fields::default();
    f.name("id", &request.id);
    f.done()?;
    call.about(&request.id, "");
    let upgrades = upgrades.clone();
    let confirmed = tokio::task::spawn_blocking(move || upgrades.confirm(&request.id)).await;
    let confirmed = confirmed.map_err(|e| status::internal(format!("confirming: {e}")))?;
    Ok(v1::ConfirmUpgradeResponse { version: confirmed.map_err(status::from_upgrade)?.into() })
}

/// What became of the last upgrade.
pub async fn last(upgrades: &Upgrades) -> Result<v1::UpgradeStatusResponse, Status> {
    let upgrades = upgrades.clone();
    let last = tokio::task::spawn_blocking(move || upgrades.last()).await;
    let last =
        last.map_err(|e| status::internal(format!("reading the journal: {e}")))?.map_err(status::from_upgrade)?;
    let mut answer = v1::UpgradeStatusResponse {
        running_version: version().into(),
        agent_pid: std::process::id(),
        ..Default::default()
    };
    if let Some(journal) = last {
        answer.set_phase(match journal.phase {
            Phase::Swapping => v1::UpgradePhase::Swapping,
            Phase::Trial => v1::UpgradePhase::Trial,
            Phase::Confirmed => v1::UpgradePhase::Confirmed,
            Phase::RolledBack => v1::UpgradePhase::RolledBack,
        });
        answer.id = journal.id;
        answer.from_version = journal.from_version;
        answer.to_version = journal.to_version;
        answer.reason = journal.reason.unwrap_or_default();
    }
    Ok(answer)
}

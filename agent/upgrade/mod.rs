//! The agent replaces itself: a signed program comes in, is checked, takes the old one's place, and is kept only when it was confirmed.
//!
//! ```text
//! come ─► signature, processor, version, self-check ─► journal: swapping ─► watcher ─► keep berthd.previous ─► rename
//!      ─► journal: trial ─► answer ─► drain, close ─► execve(2) in place ─► serve ─► ConfirmUpgrade ─► journal: confirmed
//! ```
//!
//! What goes wrong before the rename leaves the old agent running. Behind it, whoever is left puts `berthd.previous` back: the new agent
//! when nobody confirms it in time, the watcher (`watch.rs`) when the new one ends or hangs, `berthd upgrade-guard` when the service is
//! started in the middle of a trial (a power cut), and an old agent that finds an exchange half done.

mod children;
mod exchange;
mod journal;
mod package;
pub mod watch;

pub use children::reap_inherited;
pub use journal::{Journal, Phase};
pub use package::SelfCheck;

use crate::version::version;
use berth::release::Release;
use berth_node::fail;
use bytes::Bytes;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Between two looks of an agent under trial at its journal.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The answer to the caller goes out before the agent stops listening.
const ANSWER: Duration = Duration::from_millis(200);

/// Why there is no upgrade.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(
        "{0}; `berthctl pki release-key` makes one, and [upgrade] public_key in the agent's configuration names its public half"
    )]
    NoKey(String),
    #[error("none of the configured keys has signed this program")]
    Signature,
    #[error("what came is not what was signed: {0}")]
    Damaged(String),
    #[error("the program does not fit: {0}")]
    Architecture(String),
    #[error("{to} is older than {from}, which runs: --allow-downgrade takes it anyway")]
    Downgrade { from: String, to: String },
    #[error("the new program does not work on this host: {0}")]
    SelfCheck(String),
    #[error(
        "the databases of both programs differ, so that there would be no way back: {0}; install a version between them first"
    )]
    Schema(String),
    #[error("another upgrade is under way")]
    UnderWay,
    #[error("no such upgrade is under trial: {0}")]
    NotPending(String),
    #[error("{act}: {source}")]
    Io { act: String, source: std::io::Error },
}

fn io(act: impl Into<String>) -> impl FnOnce(std::io::Error) -> UpgradeError {
    let act = act.into();
    move |source| UpgradeError::Io { act, source }
}

fn point(name: &'static str) -> Result<(), UpgradeError> {
    fail::point(name).map_err(|e| UpgradeError::Io { act: name.into(), source: std::io::Error::other(e) })
}

/// Where the program is and how it was started.
#[derive(Clone, Debug)]
pub struct Place {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub config: Option<PathBuf>,
    pub data_root: PathBuf,
}

impl Place {
    /// Of this process. The path is that of the start: an installation may have replaced the file since.
    pub fn of_this_process(config: Option<&Path>, data_root: &Path) -> std::io::Result<Place> {
        let program = std::env::current_exe()?;
        let text = program.to_string_lossy();
        let program = text.strip_suffix(" (deleted)").map_or(program.clone(), PathBuf::from);
        let arguments = std::env::args_os().skip(1).collect();
        Ok(Place { program, arguments, config: config.map(Into::into), data_root: data_root.into() })
    }

    fn previous(&self) -> PathBuf {
        let mut name = self.program.file_name().unwrap_or_default().to_owned();
        name.push(".previous");
        self.program.with_file_name(name)
    }

    /// Becomes the program that is in this place now. Returns only when that fails.
    pub fn become_it(&self) -> std::io::Error {
        use std::os::unix::process::CommandExt;
        let told = journal::hold(&self.data_root).and_then(|held| match held.read()? {
            Some(journal) if journal.phase == Phase::Trial => held.write(&Journal { handed_over: true, ..journal }),
            _ => Ok(()),
        });
        if let Err(e) = told {
            tracing::error!(error = %e, "writing down that the new program takes over");
        }
        let name = std::env::args_os().next().unwrap_or_else(|| "berthd".into());
        std::process::Command::new(&self.program).arg0(name).args(&self.arguments).exec()
    }
}

/// What was asked for with a program.
pub struct Asked {
    pub id: String,
    pub release: Release,
    pub signature: Vec<u8>,
    pub allow_downgrade: bool,
    pub confirm_seconds: u32,
}

/// Upgrades of this agent. Cheap to clone.
#[derive(Clone)]
pub struct Upgrades(Arc<Shared>);

struct Shared {
    place: Place,
    public_key: Option<PathBuf>,
    under_way: AtomicBool,
    /// This very program waits to be confirmed.
    trial: Option<Journal>,
    /// The agent shall end and become the program that is in its place.
    successor: Notify,
}

/// One upgrade at a time.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.store(false, Ordering::Release);
    }
}

impl Upgrades {
    /// Finds out what became of the last upgrade, and takes back one that was cut. For who holds the lock of the data folder.
    pub fn open(place: Place, public_key: Option<PathBuf>) -> std::io::Result<Upgrades> {
        let trial = found(&place)?;
        if trial.is_none() {
            // Of an upload that was cut.
            let _ = std::fs::remove_file(journal::aside(&place.program));
        }
        let shared = Shared { place, public_key, under_way: AtomicBool::new(false), trial, successor: Notify::new() };
        Ok(Upgrades(Arc::new(shared)))
    }

    /// Returns when the agent shall end and go on as the program in its place.
    pub async fn successor(&self) {
        self.0.successor.notified().await;
    }

    /// This agent answers calls. Under trial, it waits to be confirmed; in vain, it takes itself back.
    pub fn serving(&self) -> std::io::Result<()> {
        let Some(trial) = self.0.trial.clone() else { return Ok(()) };
        let data_root = &self.0.place.data_root;
        fail::point("upgrade.before_serving").map_err(std::io::Error::other)?;
        {
            let held = journal::hold(data_root)?;
            match held.read()?.filter(|j| j.id == trial.id && j.phase == Phase::Trial) {
                Some(journal) => held.write(&Journal { serving: true, ..journal })?,
                None => tracing::warn!("the upgrade to this program was taken back meanwhile"),
            }
        }
        tracing::info!(seconds = trial.confirm_seconds, "under trial: waiting to be confirmed");
        let this = self.clone();
        tokio::spawn(async move { this.wait_for_word(trial).await });
        Ok(())
    }

    async fn wait_for_word(self, trial: Journal) {
        let patience = tokio::time::sleep(Duration::from_secs(trial.confirm_seconds.into()));
        let mut patience = std::pin::pin!(patience);
        loop {
            let last = tokio::select! {
                () = &mut patience => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let (place, id) = (self.0.place.clone(), trial.id.clone());
            let looked = tokio::task::spawn_blocking(move || look(&place, &id, last)).await;
            match looked {
                Ok(Ok(Word::Wait)) => {}
                Ok(Ok(Word::Confirmed)) => return,
                Ok(Ok(Word::Back)) => return self.0.successor.notify_one(),
                Ok(Err(e)) => tracing::error!(error = %e, "looking at the upgrade's journal"),
                Err(_) => return,
            }
        }
    }

    /// Takes a program from `chunks`, checks it and puts it in its place (blocking). The agent ends soon after a success that was not
    /// `already` there, and goes on as the new program.
    pub fn take(&self, asked: &Asked, chunks: mpsc::Receiver<Bytes>) -> Result<bool, UpgradeError> {
        let shared = &self.0;
        let Some(keys) = &shared.public_key else {
            return Err(UpgradeError::NoKey("this agent knows no key that releases are signed with".into()));
        };
        if shared.under_way.swap(true, Ordering::AcqRel) {
            return Err(UpgradeError::UnderWay);
        }
        let under_way = UnderWay(shared.clone());
        let last = journal::read(&shared.place.data_root).map_err(io("reading the journal"))?;
        if let Some(journal) = last.filter(|j| j.id == asked.id || j.is_open()) {
            // The same request again; its first answer was lost.
            return match journal.phase {
                Phase::Confirmed if journal.id == asked.id => Ok(true),
                Phase::RolledBack => Err(UpgradeError::SelfCheck(journal.reason.unwrap_or_default())),
                _ => Err(UpgradeError::UnderWay),
            };
        }
        // Before a byte is read: who is not trusted does not fill the disk.
        package::check_signature(keys, &asked.release, &asked.signature)?;
        let new = journal::aside(&shared.place.program);
        let taken = store(&new, &asked.release, chunks).and_then(|()| self.exchange(asked, &new));
        if !matches!(taken, Ok(false)) {
            let _ = std::fs::remove_file(&new);
        }
        if !taken? {
            tracing::info!(
                from = version(),
                to = asked.release.version,
                "the program was exchanged; going on as the new one"
            );
            let shared = shared.clone();
            tokio::runtime::Handle::current().spawn(async move {
                tokio::time::sleep(ANSWER).await;
                shared.successor.notify_one();
            });
            // Until the end of this process.
            std::mem::forget(under_way);
            return Ok(false);
        }
        Ok(true)
    }

    /// Checks the program at `new` and puts it in its place. True: it runs already.
    fn exchange(&self, asked: &Asked, new: &Path) -> Result<bool, UpgradeError> {
        let place = &self.0.place;
        if exchange::own_digest().map_err(io("reading the running program"))? == asked.release.sha256 {
            return Ok(true);
        }
        let mut head = [0; 64];
        std::io::Read::read(&mut File::open(new).map_err(io("reading the new program"))?, &mut head)
            .map_err(io("reading the new program"))?;
        package::check_place(&asked.release, &head, asked.allow_downgrade)?;
        package::self_check(new, place.config.as_deref(), &asked.release)?;
        point("upgrade.after_check")?;
        let journal = Journal {
            id: asked.id.clone(),
            phase: Phase::Swapping,
            from_version: version().into(),
            to_version: asked.release.version.clone(),
            to_sha256: asked.release.sha256.clone(),
            program: place.program.clone(),
            previous: place.previous(),
            confirm_seconds: asked.confirm_seconds,
            handed_over: false,
            serving: false,
            reason: None,
        };
        journal::hold(&place.data_root).and_then(|h| h.write(&journal)).map_err(io("writing the journal"))?;
        let swapped = self.swap(&journal, new);
        if let Err(e) = &swapped {
            let reason = Some(e.to_string());
            let undone = exchange::put_back(&journal).and_then(|()| {
                journal::hold(&place.data_root)?.write(&Journal { phase: Phase::RolledBack, reason, ..journal })
            });
            if let Err(e) = undone {
                tracing::error!(error = %e, "taking the exchange of the program back");
            }
        }
        swapped.map(|()| false)
    }

    fn swap(&self, journal: &Journal, new: &Path) -> Result<(), UpgradeError> {
        let place = &self.0.place;
        point("upgrade.after_journal")?;
        watch::start(place).map_err(io("starting the watcher"))?;
        point("upgrade.after_watcher")?;
        exchange::keep(&journal.previous).map_err(io(format!("keeping {}", journal.previous.display())))?;
        point("upgrade.after_previous")?;
        let act = || format!("putting the new program at {}", place.program.display());
        exchange::put_in_place(new, &place.program).map_err(io(act()))?;
        point("upgrade.after_swap")?;
        let trial = Journal { phase: Phase::Trial, ..journal.clone() };
        let held = journal::hold(&place.data_root).map_err(io("writing the journal"))?;
        // The watcher may have lost its patience.
        match held.read().map_err(io("reading the journal"))? {
            Some(now) if now.phase == Phase::Swapping => held.write(&trial).map_err(io("writing the journal"))?,
            _ => return Err(UpgradeError::SelfCheck("the exchange took too long".into())),
        }
        point("upgrade.after_trial")
    }

    /// Keeps this program. Blocking. Gives its version.
    pub fn confirm(&self, id: &str) -> Result<&'static str, UpgradeError> {
        let held = journal::hold(&self.0.place.data_root).map_err(io("reading the journal"))?;
        let journal = held.read().map_err(io("reading the journal"))?.filter(|j| j.id == id);
        let Some(journal) = journal else {
            return Err(UpgradeError::NotPending("this agent knows nothing of it".into()));
        };
        match journal.phase {
            Phase::Confirmed => Ok(version()),
            Phase::RolledBack => Err(UpgradeError::NotPending(journal.reason.unwrap_or_default())),
            Phase::Trial if self.0.trial.as_ref().is_some_and(|t| t.id == id) => {
                point("upgrade.before_confirm")?;
                held.write(&Journal { phase: Phase::Confirmed, ..journal }).map_err(io("writing the journal"))?;
                point("upgrade.after_confirm")?;
                tracing::info!(version = version(), "confirmed");
                Ok(version())
            }
            Phase::Trial | Phase::Swapping => Err(UpgradeError::NotPending("the old agent still runs".into())),
        }
    }

    /// The last upgrade. Blocking.
    pub fn last(&self) -> Result<Option<Journal>, UpgradeError> {
        journal::read(&self.0.place.data_root).map_err(io("reading the journal"))
    }
}

enum Word {
    Wait,
    Confirmed,
    Back,
}

/// What the journal says of this program; with `last`, its time is over.
fn look(place: &Place, id: &str, last: bool) -> std::io::Result<Word> {
    let quick = journal::read(&place.data_root)?;
    if !last && quick.as_ref().is_some_and(|j| j.id == id && j.phase == Phase::Trial) {
        return Ok(Word::Wait);
    }
    let held = journal::hold(&place.data_root)?;
    match held.read()? {
        Some(journal) if journal.id == id && journal.phase == Phase::Trial => {
            tracing::error!(
                from = journal.to_version,
                to = journal.from_version,
                "nobody has confirmed this program: the old one comes back"
            );
            exchange::put_back(&journal)?;
            let reason = Some("nobody has confirmed it in time".to_owned());
            held.write(&Journal { phase: Phase::RolledBack, reason, ..journal })?;
            Ok(Word::Back)
        }
        Some(journal) if journal.id == id && journal.phase == Phase::RolledBack => Ok(Word::Back),
        _ => Ok(Word::Confirmed),
    }
}

/// At the start: the open upgrade whose new program this is. One that was cut is taken back.
fn found(place: &Place) -> std::io::Result<Option<Journal>> {
    let held = journal::hold(&place.data_root)?;
    let journal = match held.read() {
        Ok(Some(journal)) if journal.is_open() => journal,
        Ok(Some(journal)) if journal.phase == Phase::RolledBack && is_taken_back(&journal)? => {
            tracing::warn!("this program was taken back while it was started: going on as the one before");
            drop(held);
            return Err(place.become_it());
        }
        Ok(_) => return Ok(None),
        Err(e) => {
            tracing::error!(error = %e, "what became of the last upgrade is not known");
            return Ok(None);
        }
    };
    if journal.to_version == version() && exchange::own_digest()? == journal.to_sha256 {
        let trial = Journal { phase: Phase::Trial, ..journal };
        held.write(&trial)?;
        return Ok(Some(trial));
    }
    tracing::warn!(to = journal.to_version, "an upgrade was cut: the old program stays");
    exchange::put_back(&journal)?;
    let reason = Some("the agent ended before the new program was started".to_owned());
    held.write(&Journal { phase: Phase::RolledBack, reason, ..journal })?;
    Ok(None)
}

/// This is the program that was taken back, started in the moment before; another one is in its place now.
fn is_taken_back(journal: &Journal) -> std::io::Result<bool> {
    Ok(journal.to_version == version()
        && exchange::own_digest()? == journal.to_sha256
        && exchange::digest(&journal.program)? != journal.to_sha256)
}

/// `berthd.previous upgrade-guard`, before a service manager starts the agent: a start in the middle of a trial means that the new program
/// ended, or the host did. Says what it did.
pub fn guard(data_root: &Path) -> anyhow::Result<()> {
    if !data_root.exists() {
        return Ok(());
    }
    let held = journal::hold(data_root)?;
    if let Some(journal) = held.read()?.filter(Journal::is_open) {
        exchange::put_back(&journal)?;
        println!("the upgrade to {} was not confirmed: {} is back", journal.to_version, journal.from_version);
        let reason = Some("the agent was started anew before it was confirmed".to_owned());
        held.write(&Journal { phase: Phase::RolledBack, reason, ..journal })?;
    }
    Ok(())
}

/// Writes what comes to the disk; it must be what was signed.
fn store(to: &Path, release: &Release, mut chunks: mpsc::Receiver<Bytes>) -> Result<(), UpgradeError> {
    use std::os::unix::fs::PermissionsExt;
    let act = || format!("writing {}", to.display());
    let mut file = File::create(to).map_err(io(act()))?;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut size = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        size += chunk.len() as u64;
        if size > release.size {
            break;
        }
        hash.update(&chunk);
        file.write_all(&chunk).map_err(io(act()))?;
    }
    if size != release.size {
        return Err(UpgradeError::Damaged(format!("{size} bytes or more came, {} were signed", release.size)));
    }
    let found = berth::hex::encode(hash.finish().as_ref());
    if found != release.sha256 {
        return Err(UpgradeError::Damaged(format!("sha256 {found}, signed {}", release.sha256)));
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).map_err(io(act()))?;
    file.sync_all().map_err(io(act()))
}

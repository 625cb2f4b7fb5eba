//! `agent`: the agents themselves: a signed program for them, and the way it gets there.

use crate::connect::{Connection, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Columns, Sink, print, printable};
use crate::pki::files;
use crate::units::{human_bytes, parse_deadline};
use berth::hex;
use berth::release::{CHUNK_BYTES, MAX_PROGRAM_BYTES, Release, elf_architecture, own_architecture};
use berth::v1::{self, upgrade_agent_request::Kind};
use bytes::Bytes;
use clap::{Args, Subcommand};
use rcgen::{KeyPair, SigningKey};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A new agent that does not confirm takes itself back, or is taken back, this long behind its time at most.
const BACK: Duration = Duration::from_secs(90);
/// Between two questions to an agent that starts.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Agent {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replace the program of agents by a signed one, while containers run on
    #[command(
        after_help = "The agent checks the signature with its own key ([upgrade] public_key in berthd.toml), tries the program, puts it in its \
            place and goes on as it. When the new one does not answer, the old one comes back by itself.\n\n\
            Example:\n  berthctl agent sign berthd --key release.key\n  berthctl -g web agent upgrade berthd --max-parallel 2"
    )]
    Upgrade(Upgrade),
    /// Sign a program for agents; the signature is FILE.sig
    Sign(Sign),
    /// Compare all images with their digests; what is damaged is fetched again when it is needed
    #[command(
        after_help = "Reads all layers from the disk. Exit code 1 (3 or 4 with several hosts) when something is damaged; a pull or a create of the \
            image brings it back."
    )]
    Check,
    /// Show the version of agents, and what became of their last upgrade
    Status,
}

#[derive(Debug, Args)]
pub struct Upgrade {
    /// The program: a berthd
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its signature [default: FILE.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Hosts that are upgraded at once
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_parallel: u16,
    /// When more hosts than this have failed, the others are left as they are
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    max_failures: u16,
    /// Take a version before the running one, too
    #[arg(long)]
    allow_downgrade: bool,
    /// How long a new agent has to answer before the old one comes back: 5 s to 10 m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = confirm_within)]
    confirm_within: Duration,
}

#[derive(Debug, Args)]
pub struct Sign {
    /// The program: a berthd
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Private key, as `berthctl pki release-key` makes it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Version of the program [default: what it says itself]
    #[arg(long, value_name = "VERSION")]
    release_version: Option<String>,
}

fn confirm_within(text: &str) -> Result<Duration, String> {
    let time = parse_deadline(text)?;
    if (5..=600).contains(&time.as_secs()) { Ok(time) } else { Err("must be 5 seconds to 10 minutes".into()) }
}

/// Writes the signature of a program beside it.
pub fn sign(a: &Sign) -> Result<()> {
    let program = read_program(&a.file)?;
    let architecture =
        elf_architecture(&program).map_err(|e| Error::new(format!("{}: {e}", a.file.display())))?.to_owned();
    let version = match &a.release_version {
        Some(version) => version.clone(),
        None => ask_version(&a.file, &architecture)?,
    };
    if berth::release::version_order(&version).is_none() {
        return Err(Error::usage(format!("{version:?} is no version such as 1.2.3")));
    }
    let sha256 = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &program).as_ref());
    let size = program.len() as u64;
    let mut release = Release { version, architecture, sha256, size, signature: String::new() };
    let key = KeyPair::from_pem(&files::read_key(&a.key)?)
        .map_err(|e| Error::new(format!("{} is no private key: {e}", a.key.display())))?;
    let signature = key.sign(&release.statement()).map_err(|e| Error::new(format!("signing: {e}")))?;
    release.signature = hex::encode(&signature);
    let text = toml::to_string(&release).map_err(|e| Error::new(format!("writing the signature: {e}")))?;
    let path = signature_path(&a.file);
    files::write_atomically(&path, text.as_bytes(), 0o644)?;
    print(format!("{}\n", path.display()))?;
    eprintln!("Signed berthd {} for {}, {}.", release.version, release.architecture, human_bytes(size));
    Ok(())
}

fn signature_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

fn read_program(file: &Path) -> Result<Vec<u8>> {
    let act = |e: std::io::Error| Error::io(format_args!("reading {}", file.display()), &e);
    let size = std::fs::metadata(file).map_err(act)?.len();
    if size == 0 || size > MAX_PROGRAM_BYTES {
        return Err(Error::new(format!("{} has {size} bytes, and is no program for an agent", file.display())));
    }
    std::fs::read(file).map_err(act)
}

/// The program's own word; only where it can be run.
fn ask_version(file: &Path, architecture: &str) -> Result<String> {
    let why = |why: String| {
        Error::new(format!("{} does not say its version: {why}", file.display())).hint("say it with --release-version")
    };
    if architecture != own_architecture() {
        return Err(why(format!("it is for {architecture}")));
    }
    let path = std::path::absolute(file).map_err(|e| why(e.to_string()))?;
    let said = std::process::Command::new(path).arg("--version").output().map_err(|e| why(e.to_string()))?;
    let text = String::from_utf8_lossy(&said.stdout);
    match text.trim().strip_prefix("berthd ") {
        Some(version) if said.status.success() => Ok(version.to_owned()),
        _ => Err(why(format!("it says {:?}", text.trim()))),
    }
}

/// A program with its signature, ready to send.
struct Program {
    bytes: Bytes,
    release: Release,
    signature: Vec<u8>,
    allow_downgrade: bool,
    confirm: Duration,
}

pub async fn run(fleet: &Fleet, a: Agent) -> Result<u8> {
    match a.command {
        Command::Upgrade(a) => upgrade(fleet, a).await,
        Command::Status => status(fleet).await,
        Command::Check => check(fleet).await,
        Command::Sign(a) => sign(&a).map(|()| 0),
    }
}

async fn upgrade(fleet: &Fleet, a: Upgrade) -> Result<u8> {
    let program = Rc::new(load(&a)?);
    let labels = fleet.clone();
    let call = move |c: Connection| {
        let program = program.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move { one(&c, &program, &sink).await }
    };
    fleet.rolling(a.max_parallel.into(), a.max_failures.into(), call, |_, ()| Ok(())).await
}

fn load(a: &Upgrade) -> Result<Program> {
    let bytes = read_program(&a.file)?;
    let path = a.signature.clone().unwrap_or_else(|| signature_path(&a.file));
    let text = files::read_text(&path).map_err(|e| e.hint("berthctl agent sign makes it"))?;
    let release: Release =
        toml::from_str(&text).map_err(|e| Error::new(format!("{} is no signature: {e}", path.display())))?;
    let signature = hex::decode(&release.signature)
        .ok_or_else(|| Error::new(format!("{}: signature is not hexadecimal", path.display())))?;
    Ok(Program {
        bytes: bytes.into(),
        release,
        signature,
        allow_downgrade: a.allow_downgrade,
        confirm: a.confirm_within,
    })
}

/// One host: sends the program, waits for the new agent, looks whether it works, and keeps it.
async fn one(c: &Connection, program: &Program, sink: &Sink) -> Result<()> {
    let id = request_id()?;
    let before = state(c).await.map_err(|s| c.error(&s))?;
    let sent = c.node().upgrade_agent(c.request(tokio_stream::iter(messages(program, &id)), None)).await;
    match sent {
        Ok(answer) => {
            let answer = answer.into_inner();
            if answer.already {
                return sink.line(&format!("runs this very program of {} already", printable(&answer.to_version)));
            }
        }
        // The answer may be lost with the old agent; what became of it is asked for below.
        Err(status) if crate::status::broken(&status) => {}
        Err(status) => return Err(c.error(&status)),
    }
    sink.say(&format!("{} is in its place; waiting for it to answer", printable(&program.release.version)));
    settle(c, program, &id).await?;
    sink.line(&format!(
        "upgraded from {} to {}",
        printable(&before.running_version),
        printable(&program.release.version)
    ))
}

fn messages(program: &Program, id: &str) -> Vec<v1::UpgradeAgentRequest> {
    let start = v1::UpgradeStart {
        request_id: id.to_owned(),
        version: program.release.version.clone(),
        architecture: program.release.architecture.clone(),
        sha256: program.release.sha256.clone(),
        size_bytes: program.release.size,
        signature: program.signature.clone().into(),
        allow_downgrade: program.allow_downgrade,
        confirm_seconds: u32::try_from(program.confirm.as_secs()).unwrap_or(600),
    };
    // Slices of one buffer: nothing is copied.
    let chunks = (0..program.bytes.len()).step_by(CHUNK_BYTES).map(|at| {
        let chunk = program.bytes.slice(at..(at + CHUNK_BYTES).min(program.bytes.len()));
        v1::UpgradeAgentRequest { kind: Some(Kind::Chunk(chunk)) }
    });
    [v1::UpgradeAgentRequest { kind: Some(Kind::Start(start)) }].into_iter().chain(chunks).collect()
}

async fn state(c: &Connection) -> Result<v1::UpgradeStatusResponse, tonic::Status> {
    let request = c.request(v1::UpgradeStatusRequest {}, Some(UNARY_TIMEOUT));
    Ok(c.node().upgrade_status(request).await?.into_inner())
}

/// Waits until the upgrade is confirmed, by us, or rolled back.
async fn settle(c: &Connection, program: &Program, id: &str) -> Result<()> {
    let begun = Instant::now();
    let mut last = "nothing was heard of it".to_owned();
    while begun.elapsed() < program.confirm + BACK {
        tokio::time::sleep(ASK_EVERY).await;
        let now = match state(c).await {
            Ok(now) => now,
            Err(status) => {
                last = c.error(&status).message;
                continue;
            }
        };
        if now.id != id {
            return Err(Error::new("the upgrade was cut before the program was exchanged; the old agent runs on"));
        }
        match now.phase() {
            v1::UpgradePhase::Confirmed => return Ok(()),
            v1::UpgradePhase::RolledBack => {
                let (to, from, why) =
                    (printable(&now.to_version), printable(&now.from_version), printable(&now.reason));
                return Err(Error::new(format!("{to} was rolled back, {from} runs: {why}"))
                    .hint("the log of the agent says more: journalctl -u berthd"));
            }
            // The old one, on its way out.
            v1::UpgradePhase::Trial if now.running_version != program.release.version => {}
            v1::UpgradePhase::Trial => match keep(c, id).await {
                Ok(()) => return Ok(()),
                Err(status) => last = c.error(&status).message,
            },
            v1::UpgradePhase::Swapping | v1::UpgradePhase::Unspecified => {}
        }
    }
    Err(Error::new(format!("what became of the upgrade is not known: {last}"))
        .hint("berthctl agent status, or journalctl -u berthd on the host"))
}

/// It answers; does it work? Then it stays.
async fn keep(c: &Connection, id: &str) -> Result<(), tonic::Status> {
    c.node().info(c.request(v1::InfoRequest {}, Some(UNARY_TIMEOUT))).await?;
    let mut list =
        c.containers().list(c.request(v1::ListContainersRequest::default(), Some(UNARY_TIMEOUT))).await?.into_inner();
    while list.message().await?.is_some() {}
    let request = v1::ConfirmUpgradeRequest { id: id.to_owned() };
    c.node().confirm_upgrade(c.request(request, Some(UNARY_TIMEOUT))).await?;
    Ok(())
}

async fn status(fleet: &Fleet) -> Result<u8> {
    let call = async |c: Connection| {
        let c = &c;
        c.retry(async || state(c).await).await
    };
    let mut table = Columns::new(&["HOST", "VERSION", "PID", "LAST UPGRADE"]);
    let code = fleet
        .each(call, |host, r| {
            let words = match r.phase() {
                v1::UpgradePhase::Unspecified => "none".to_owned(),
                v1::UpgradePhase::Swapping => format!("to {}: under way", r.to_version),
                v1::UpgradePhase::Trial => format!("to {}: waits to be confirmed", r.to_version),
                v1::UpgradePhase::Confirmed => format!("from {} to {}", r.from_version, r.to_version),
                v1::UpgradePhase::RolledBack => format!("to {}: rolled back, {}", r.to_version, r.reason),
            };
            table.row(vec![host.to_owned(), printable(&r.running_version), r.agent_pid.to_string(), printable(&words)]);
            Ok(())
        })
        .await?;
    print(table.render())?;
    Ok(code)
}

async fn check(fleet: &Fleet) -> Result<u8> {
    let labels = fleet.clone();
    let call = move |c: Connection| {
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let (mut good, mut unverifiable, mut damaged) = (0, 0, 0);
            let answer = c.node().check_images(c.request(v1::CheckImagesRequest {}, None)).await;
            let mut stream = answer.map_err(|s| c.error(&s))?.into_inner();
            while let Some(one) = stream.message().await.map_err(|s| c.error(&s))? {
                match one.condition() {
                    v1::ImageCondition::Good => good += 1,
                    v1::ImageCondition::Unverifiable => unverifiable += 1,
                    v1::ImageCondition::Damaged | v1::ImageCondition::Unspecified => {
                        damaged += 1;
                        let (problem, images) = (printable(&one.problem), printable(&one.images.join(", ")));
                        sink.line(&format!("damaged: {} ({problem}) of {images}", printable(&one.digest)))?;
                    }
                }
            }
            let mut words = format!("{good} layers and manifests are as they should be");
            if unverifiable > 0 {
                words.push_str(&format!(", {unverifiable} are kept as directories and cannot be verified"));
            }
            sink.line(&words)?;
            match damaged {
                0 => Ok(()),
                n => Err(Error::new(format!("{n} are damaged, and were put aside"))
                    .hint("pull the images again, or let the next create do it")),
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

//! `run` and `create`.

use crate::connect::{Connection, Patience, request_id};
use crate::error::{Error, FAILED_ITSELF, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use crate::progress::Progress;
use crate::session::{self, End, Output};
use crate::spec::Create;
use crate::term::{self, DetachKeys};
use berth::v1::{self, run_response::Kind};
use clap::Args;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use tonic::{Status, Streaming};

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "berthctl run [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "Sizes are bytes, or numbers with b, k, m or g. Exit code: the workload's own; 125: berthctl or the agent failed; \
        126: the command cannot be run; 127: there is no such command.\n\nExamples:\n  berthctl run -d --name web -p 8080:80 nginx\n  \
        berthctl run --rm -it debian bash\n  berthctl -g web run --rm busybox uname -r"
)]
pub struct Run {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: (),
    /// Print the id and let it run
    #[arg(short, long)]
    detach: bool,
    /// Attach only this stream: stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM")]
    attach: Vec<Stream>,
    /// Keys that end the attachment
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on to the process (not with a terminal)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
    /// Say nothing about a pull
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    create: Create,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "berthctl create [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "Sizes are bytes, or numbers with b, k, m or g.\n\nExample:\n  berthctl create --name web -p 8080:80 nginx"
)]
pub struct CreateOnly {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: (),
    /// Say nothing about a pull
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    create: Create,
}

/// Everything that is the same for all hosts.
struct Plan {
    create: v1::CreateContainerRequest,
    attach: [bool; 3],
    detach: bool,
    quiet: bool,
    cidfile: Option<std::path::PathBuf>,
    options: session::Options,
    fleet: Fleet,
}

/// `default_keys`: the configuration's detach keys.
pub async fn run(fleet: &Fleet, args: Run, default_keys: Option<&str>) -> Result<u8> {
    let plan = Rc::new(plan(fleet, args, default_keys)?);
    let call = {
        let plan = plan.clone();
        move |connection| one(connection, plan.clone())
    };
    fleet.each(call, |_, ()| Ok(())).await.map_err(ours)
}

/// A failure of ours must not look like the workload's.
fn ours(mut error: Error) -> Error {
    error.exit = error.exit.or(Some(FAILED_ITSELF));
    error
}

fn plan(fleet: &Fleet, args: Run, default_keys: Option<&str>) -> Result<Plan> {
    if args.detach && !args.attach.is_empty() {
        return Err(Error::usage("--detach and --attach exclude each other"));
    }
    let named = |s| args.attach.contains(&s);
    let attach = match (args.detach, args.attach.is_empty()) {
        (true, _) => [false; 3],
        (false, true) => [args.create.interactive, true, true],
        (false, false) => [named(Stream::Stdin), named(Stream::Stdout), named(Stream::Stderr)],
    };
    if attach[0] && !args.create.interactive {
        return Err(Error::usage("--attach stdin needs --interactive"));
    }
    if fleet.labelled && (attach[0] || args.create.tty && !args.detach) {
        return Err(
            Error::usage("-i and -t go with one host only").hint("with several hosts, leave them out or use -d")
        );
    }
    if attach[0] && args.create.tty && !term::stdin_is_terminal() {
        return Err(Error::usage("-t: standard input is no terminal").hint("leave -t out to send a pipe or a file"));
    }
    if let Some(file) = &args.create.cidfile {
        if fleet.labelled {
            return Err(Error::usage("--cidfile goes with one host only"));
        }
        if file.exists() {
            return Err(Error::usage(format!("--cidfile {:?}: the file is there already", file.display().to_string())));
        }
    }
    let keys = args.detach_keys.as_deref().or(default_keys).unwrap_or(term::DETACH_KEYS);
    let mut create = args.create.request()?;
    if let Some(config) = &mut create.config {
        // As Docker: input ends with the caller that sends it, and stays open for others when nobody does.
        config.stdin_once = args.create.interactive && !args.detach;
    }
    Ok(Plan {
        attach,
        detach: args.detach,
        quiet: args.quiet,
        cidfile: args.create.cidfile.clone(),
        options: session::Options {
            stdin: attach[0],
            shown: [attach[1], attach[2]],
            detach: args.detach,
            tty: args.create.tty,
            sig_proxy: args.sig_proxy && !args.create.tty && !fleet.labelled,
            detach_keys: DetachKeys::parse(keys)?,
        },
        create,
        fleet: fleet.clone(),
    })
}

async fn one(connection: Connection, plan: Rc<Plan>) -> Result<()> {
    let mut sink = Sink::new(plan.fleet.label(&connection.label));
    let mut create = plan.create.clone();
    create.request_id = request_id()?;
    let [attach_stdin, attach_stdout, attach_stderr] = plan.attach;
    let attached = attach_stdin || attach_stdout || attach_stderr;
    let start = v1::RunStart {
        create: Some(create),
        attach_stdin,
        // A session has all of it; what is not asked for is not shown.
        attach_stdout: attached,
        attach_stderr: attached,
        size: if plan.options.tty && !plan.detach { term::size() } else { None },
        session_id: if attached { request_id()? } else { String::new() },
        resume: None,
    };
    let dial = async |resume| {
        let start = v1::RunStart { resume, ..start.clone() };
        let first = v1::RunRequest { kind: Some(v1::run_request::Kind::Start(start)) };
        let (sender, stream) = session::queue(first).map_err(|e| Status::internal(e.message))?;
        let frames = connection.containers().run(connection.request(stream, None)).await?.into_inner();
        Ok((sender, frames))
    };
    let mut progress = Progress::new(&connection.label, sink.clone(), plan.quiet, false);
    let talk = sink.clone();
    let mut id = String::new();
    let mut read = |frame: v1::RunResponse| {
        Ok(match frame.kind {
            Some(Kind::Progress(p)) => {
                progress.show(&p)?;
                Output::Other
            }
            Some(Kind::Created(c)) => {
                // Once: a stream that goes on says it again.
                if id.is_empty() {
                    super::warn(&talk, &c.warnings);
                    if let Some(file) = &plan.cidfile {
                        write_cidfile(file, &c.id)?;
                    }
                    id = c.id;
                }
                Output::Other
            }
            Some(Kind::Started(s)) => {
                super::warn(&talk, &s.warnings);
                Output::Started(None)
            }
            Some(Kind::Stdout(bytes)) => Output::Stdout(bytes),
            Some(Kind::Stderr(bytes)) => Output::Stderr(bytes),
            Some(Kind::Exit(status)) => Output::Exit(status),
            Some(Kind::Session(begun)) => Output::Session(begun),
            Some(Kind::StdinTaken(position)) => Output::StdinTaken(position),
            None => Output::Other,
        })
    };
    let ended = session::run(&connection, &plan.options, dial, &mut sink, &mut read).await?;
    if plan.detach {
        return sink.line(&id);
    }
    if ended == End::Closed && plan.attach.contains(&true) {
        return Err(Error::new(format!("{} ended the stream before the container ended", connection.label))
            .hint("the container may still run: berthctl ps, berthctl attach"));
    }
    session::verdict(&ended, sink.labelled())
}

fn write_cidfile(file: &Path, id: &str) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .and_then(|mut f| f.write_all(id.as_bytes()))
        .map_err(|e| Error::io(format_args!("writing {}", file.display()), &e))
}

pub async fn create(fleet: &Fleet, args: CreateOnly) -> Result<u8> {
    if let Some(file) = &args.create.cidfile {
        if fleet.labelled {
            return Err(Error::usage("--cidfile goes with one host only"));
        }
        if file.exists() {
            return Err(Error::usage(format!("--cidfile {:?}: the file is there already", file.display().to_string())));
        }
    }
    let request = Rc::new(args.create.request()?);
    let (labels, quiet, cidfile) = (fleet.clone(), args.quiet, args.create.cidfile);
    let call = move |connection: Connection| {
        let (request, sink) = (request.clone(), Sink::new(labels.label(&connection.label)));
        let cidfile = cidfile.clone();
        async move {
            let mut request = (*request).clone();
            request.request_id = request_id()?;
            let mut progress = Progress::new(&connection.label, sink.clone(), quiet, false);
            let mut patience = Patience::default();
            let mut stream: Option<Streaming<v1::CreateContainerResponse>> = None;
            loop {
                let answer = async {
                    let open = match &mut stream {
                        Some(open) => open,
                        None => {
                            let call = connection.request(request.clone(), None);
                            stream.insert(connection.containers().create(call).await?.into_inner())
                        }
                    };
                    open.message().await
                };
                let frame = match answer.await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    // The same request once more: its id makes it one.
                    Err(status) => {
                        patience.wait(&connection, &status).await?;
                        stream = None;
                        continue;
                    }
                };
                patience.rest();
                match frame.kind {
                    Some(v1::create_container_response::Kind::Progress(p)) => progress.show(&p)?,
                    Some(v1::create_container_response::Kind::Created(c)) => {
                        super::warn(&sink, &c.warnings);
                        if let Some(file) = &cidfile {
                            write_cidfile(file, &c.id)?;
                        }
                        return sink.line(&c.id);
                    }
                    None => {}
                }
            }
            Err(Error::new(format!("{} ended the stream before the container was there", connection.label)))
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

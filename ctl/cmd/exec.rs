//! `exec` and `attach`.

use crate::complete;
use crate::connect::{Connection, request_id};
use crate::error::{Error, FAILED_ITSELF, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use crate::pki::files;
use crate::session::{self, End, Output};
use crate::spec::pairs;
use crate::term::{self, DetachKeys};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::path::PathBuf;
use std::rc::Rc;
use tonic::Status;

#[derive(Debug, Args)]
#[command(
    override_usage = "berthctl exec [OPTIONS] CONTAINER COMMAND [ARG]...",
    after_help = "Exit code: the command's own; 125: berthctl or the agent failed; 126: the command cannot be run; \
        127: there is no such command.\n\nExample:\n  berthctl exec -it web sh"
)]
pub struct Exec {
    /// Let it run, and do not wait
    #[arg(short, long)]
    detach: bool,
    /// Keys that end the attachment
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Environment variable; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Send standard input
    #[arg(short, long)]
    interactive: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// User, and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Folder to start in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"], add = ArgValueCompleter::new(complete::running))]
    container_and_command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// Keys that end the attachment
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not send standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process (not with a terminal)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    sig_proxy: bool,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::running))]
    container: String,
}

pub fn keys(given: Option<&str>, default: Option<&str>) -> Result<DetachKeys> {
    DetachKeys::parse(given.or(default).unwrap_or(term::DETACH_KEYS))
}

fn ours(mut error: Error) -> Error {
    error.exit = error.exit.or(Some(FAILED_ITSELF));
    error
}

pub async fn exec(fleet: &Fleet, args: Exec, default_keys: Option<&str>) -> Result<u8> {
    let (container, command) =
        args.container_and_command.split_first().ok_or_else(|| Error::usage("no container given"))?;
    if fleet.labelled && (args.interactive || args.tty) {
        return Err(Error::usage("-i and -t go with one host only"));
    }
    if args.interactive && args.tty && !args.detach && !term::stdin_is_terminal() {
        return Err(Error::usage("-t: standard input is no terminal").hint("leave -t out to send a pipe or a file"));
    }
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(pairs::env_lines(&files::read_text(file)?, &file.display().to_string())?);
    }
    env.extend(pairs::env("--env", &args.env)?);
    let stdin = args.interactive && !args.detach;
    let start = Rc::new(v1::ExecStart {
        container: container.clone(),
        command: command.to_vec(),
        env,
        workdir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        tty: args.tty,
        attach_stdin: stdin,
        detach: args.detach,
        privileged: args.privileged,
        size: if args.tty && !args.detach { term::size() } else { None },
        request_id: String::new(),
        session_id: String::new(),
        resume: None,
    });
    // Docker's exec passes no signals on; an interrupt ends berthctl, and the agent then ends the process.
    let options = Rc::new(session::Options {
        stdin,
        shown: [true; 2],
        detach: args.detach,
        tty: args.tty,
        sig_proxy: false,
        detach_keys: keys(args.detach_keys.as_deref(), default_keys)?,
    });
    let (labels, detach) = (fleet.clone(), args.detach);
    let call = move |c: Connection| {
        let (start, options) = (start.clone(), options.clone());
        let mut sink = Sink::new(labels.label(&c.label));
        async move {
            let start = v1::ExecStart { request_id: request_id()?, session_id: request_id()?, ..(*start).clone() };
            let dial = async |resume| {
                let start = v1::ExecStart { resume, ..start.clone() };
                let first = v1::ExecRequest { kind: Some(v1::exec_request::Kind::Start(start)) };
                let (sender, stream) = session::queue(first).map_err(|e| Status::internal(e.message))?;
                let frames = c.containers().exec(c.request(stream, None)).await?.into_inner();
                Ok((sender, frames))
            };
            let read = |frame: v1::ExecResponse| {
                use v1::exec_response::Kind;
                Ok(match frame.kind {
                    Some(Kind::Started(_)) => Output::Started(None),
                    Some(Kind::Stdout(bytes)) => Output::Stdout(bytes),
                    Some(Kind::Stderr(bytes)) => Output::Stderr(bytes),
                    Some(Kind::Exit(status)) => Output::Exit(status),
                    Some(Kind::Session(begun)) => Output::Session(begun),
                    Some(Kind::StdinTaken(position)) => Output::StdinTaken(position),
                    None => Output::Other,
                })
            };
            let end = session::run(&c, &options, dial, &mut sink, read).await?;
            if end == End::Closed && !detach {
                return Err(Error::new(format!("{} ended the stream before the command ended", c.label)));
            }
            session::verdict(&end, sink.labelled())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await.map_err(ours)
}

pub async fn attach(fleet: &Fleet, args: Attach, default_keys: Option<&str>) -> Result<u8> {
    let keys = keys(args.detach_keys.as_deref(), default_keys)?;
    let stdin = !args.no_stdin && !fleet.labelled;
    join(fleet, Join { container: args.container, start: false, stdin, sig_proxy: args.sig_proxy, keys }).await
}

/// An attachment to a container.
pub struct Join {
    pub container: String,
    /// Unless it runs, it is started.
    pub start: bool,
    pub stdin: bool,
    pub sig_proxy: bool,
    pub keys: DetachKeys,
}

pub async fn join(fleet: &Fleet, args: Join) -> Result<u8> {
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let args = args.clone();
        let mut sink = Sink::new(labels.label(&c.label));
        let talk = sink.clone();
        async move {
            let start = v1::AttachStart {
                container: args.container.clone(),
                stdin: args.stdin,
                size: term::size(),
                start: args.start,
                request_id: if args.start { request_id()? } else { String::new() },
                session_id: request_id()?,
                resume: None,
            };
            let dial = async |resume| {
                let start = v1::AttachStart { resume, ..start.clone() };
                let first = v1::AttachRequest { kind: Some(v1::attach_request::Kind::Start(start)) };
                let (sender, stream) = session::queue(first).map_err(|e| Status::internal(e.message))?;
                let frames = c.containers().attach(c.request(stream, None)).await?.into_inner();
                Ok((sender, frames))
            };
            use v1::attach_response::Kind;
            let options = session::Options {
                stdin: args.stdin,
                shown: [true; 2],
                detach: false,
                // Known from the first answer.
                tty: false,
                sig_proxy: args.sig_proxy && !sink.labelled(),
                detach_keys: args.keys.clone(),
            };
            let mut told = false;
            let read = |frame: v1::AttachResponse| {
                Ok(match frame.kind {
                    Some(Kind::Started(started)) => {
                        // Once: a stream that goes on says it again.
                        if !std::mem::replace(&mut told, true) {
                            super::warn(&talk, &started.warnings);
                        }
                        Output::Started(Some(started.tty))
                    }
                    Some(Kind::Stdout(bytes)) => Output::Stdout(bytes),
                    Some(Kind::Stderr(bytes)) => Output::Stderr(bytes),
                    Some(Kind::Exit(status)) => Output::Exit(status),
                    Some(Kind::Session(begun)) => Output::Session(begun),
                    Some(Kind::StdinTaken(position)) => Output::StdinTaken(position),
                    None => Output::Other,
                })
            };
            let end = session::run(&c, &options, dial, &mut sink, read).await?;
            if end == End::Closed {
                return Err(Error::new(format!("{} ended the stream before the container ended", c.label)));
            }
            session::verdict(&end, sink.labelled())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await.map_err(ours)
}

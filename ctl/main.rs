//! `berthctl`: drives berth agents over mutual TLS, one host or many.
//!
//! `cli` says what there is; `cmd` has a file for each verb; `connect` makes a channel and `fanout` one for each host; `session` joins the
//! terminal to a process far away; `output`, `view` and `template` say how answers look; `pki` is the operator's certificate authority.
#![forbid(unsafe_code)]

mod cli;
mod cmd;
mod complete;
mod config;
mod connect;
mod credentials;
mod dial;
mod error;
mod fanout;
mod feed;
mod fields;
mod local;
mod output;
mod pki;
mod progress;
mod replay;
mod session;
mod spec;
mod status;
mod template;
mod term;
mod units;
mod view;
mod yaml;

use clap::{CommandFactory, Parser};
use std::io::Write;

fn main() {
    let code = start();
    // What is printed is flushed where it is printed; the kernel takes the rest apart faster than destructors do.
    _ = std::io::stdout().flush();
    std::process::exit(code.into());
}

fn start() -> u8 {
    // The shell asks for candidates with COMPLETE=SHELL in the environment.
    if std::env::var_os("COMPLETE").is_some() {
        clap_complete::CompleteEnv::with_factory(cli::Cli::command).complete();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            _ = e.print();
            // Docker's code for a wrong command line; --help and --version are no failure.
            return if e.use_stderr() { error::FAILED_ITSELF } else { 0 };
        }
    };
    match cli::run(cli) {
        Ok(code) => code,
        Err(e) => {
            e.report();
            e.exit.unwrap_or(1)
        }
    }
}

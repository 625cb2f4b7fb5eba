//! `berthctl`: drives berth agents over mutual TLS, one host or many.
#![forbid(unsafe_code)]

mod cli;
mod cmd;
mod error;
mod output;
mod pki;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            _ = e.print();
            // Docker's code for a wrong command line; --help and --version are no failure.
            return ExitCode::from(if e.use_stderr() { error::FAILED_ITSELF } else { 0 });
        }
    };
    let result = match cli.command {
        cli::Command::Pki(pki) => cmd::pki::run(pki, std::path::Path::new("pki")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            e.report();
            ExitCode::from(e.exit.unwrap_or(1))
        }
    }
}

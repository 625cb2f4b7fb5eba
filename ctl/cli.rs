//! The command line.

use crate::cmd;
use clap::{Parser, Subcommand};

/// Drive berth agents, one host or many
#[derive(Debug, Parser)]
#[command(name = "berthctl", version = berth::VERSION, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make certificates for agents and callers
    Pki(cmd::pki::Pki),
}

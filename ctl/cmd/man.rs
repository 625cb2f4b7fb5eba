//! `completion` and `man`: made from the command line's own description.

use crate::cli::{Cli, NoHosts};
use crate::error::{Error, Result};
use crate::output::print;
use clap::{Args, CommandFactory};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(berthctl completion bash)\n  berthctl completion zsh > ~/.zfunc/_berthctl\n  \
    berthctl completion fish > ~/.config/fish/completions/berthctl.fish"
)]
pub struct Completion {
    /// Shell
    #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
    shell: String,
    #[command(flatten)]
    hosts: NoHosts,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Folder for the pages
    dir: PathBuf,
    #[command(flatten)]
    hosts: NoHosts,
}

/// Prints the script that asks berthctl for candidates whenever Tab is pressed.
pub fn completion(args: &Completion) -> Result<()> {
    let shells = clap_complete::env::Shells::builtins();
    let shell =
        shells.completer(&args.shell).ok_or_else(|| Error::usage(format!("no completion for {:?}", args.shell)))?;
    let mut script = Vec::new();
    shell
        .write_registration("COMPLETE", "berthctl", "berthctl", "berthctl", &mut script)
        .map_err(|e| Error::io("writing the completion script", &e))?;
    print(script)
}

/// Writes one page for each command.
pub fn man(args: &Man) -> Result<()> {
    let act = |e: std::io::Error| Error::io(format_args!("writing man pages to {}", args.dir.display()), &e);
    std::fs::create_dir_all(&args.dir).map_err(act)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(act)
}

//! `diff` and `export`.

use crate::complete;
use crate::connect::Connection;
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Sink};
use berth::v1::{self, file_change};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[derive(Debug, Args)]
#[command(after_help = "A: added, C: changed (a folder also when something in it is), D: deleted.")]
pub struct Diff {
    /// json: one object a line
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    /// Container
    container: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What is mounted in the container is not in the tar.\n\nExample:\n  berthctl export web | tar x -C /srv/web"
)]
pub struct Export {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
}

pub async fn diff(fleet: &Fleet, args: Diff) -> Result<u8> {
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let args = args.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let mut changes = all(&c, &args.container).await?;
            // As Docker: by the whole path.
            changes.sort_by(|a, b| a.path.cmp(&b.path));
            for change in changes {
                let letter = match change.kind() {
                    file_change::Kind::Added => "A",
                    file_change::Kind::Deleted => "D",
                    file_change::Kind::Modified | file_change::Kind::Unspecified => "C",
                };
                let path = String::from_utf8_lossy(&change.path);
                if args.output == "json" {
                    let mut value = json!({"Kind": letter, "Path": path});
                    if sink.labelled() {
                        value["Host"] = c.label.clone().into();
                    }
                    output::print(format!("{value}\n"))?;
                } else {
                    sink.line(&output::printable(&format!("{letter} {path}")))?;
                }
            }
            Ok(())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

async fn all(c: &Connection, container: &str) -> Result<Vec<v1::FileChange>> {
    let request = v1::DiffRequest { container: container.to_owned() };
    c.retry(async || {
        let mut frames = c.files().diff(c.request(request.clone(), None)).await?.into_inner();
        let mut changes = Vec::new();
        while let Some(frame) = frames.message().await? {
            changes.extend(frame.changes);
        }
        Ok(changes)
    })
    .await
}

pub async fn export(fleet: &Fleet, args: Export) -> Result<u8> {
    if fleet.hosts.len() > 1 {
        return Err(Error::usage("the tars of several hosts do not go into one").hint("export from one host: -H HOST"));
    }
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::usage("a tar is nothing for a terminal").hint("-o FILE writes it to a file"));
    }
    let args = Rc::new(args);
    let call = move |c: Connection| {
        let args = args.clone();
        async move {
            let request = v1::ExportRequest { container: args.container.clone() };
            let (mut frames, mut next) = c
                .retry(async || {
                    let mut frames = c.files().export(c.request(request.clone(), None)).await?.into_inner();
                    let first = frames.message().await?;
                    Ok((frames, first))
                })
                .await?;
            let mut out = Out::open(args.output.as_deref())?;
            while let Some(frame) = next {
                out.write(&frame.tar)?;
                next = frames.message().await.map_err(|s| c.error(&s))?;
            }
            out.finish()
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Standard output, or a file that gets its name when it is whole.
enum Out {
    Stdout,
    File { file: File, part: PathBuf, path: PathBuf, whole: bool },
}

impl Out {
    fn open(path: Option<&Path>) -> Result<Out> {
        let Some(path) = path else { return Ok(Out::Stdout) };
        let name = path.file_name().ok_or_else(|| Error::usage(format!("{} is no name of a file", path.display())))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create_new(&part).map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
        Ok(Out::File { file, part, path: path.to_owned(), whole: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Out::Stdout => output::print(bytes),
            Out::File { file, path, .. } => {
                file.write_all(bytes).map_err(|e| Error::io(format!("writing {}", path.display()), &e))
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        if let Out::File { part, path, whole, .. } = self {
            fs::rename(&*part, &*path).map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
            *whole = true;
        }
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Out::File { part, whole: false, .. } = self {
            let _ = fs::remove_file(part);
        }
    }
}

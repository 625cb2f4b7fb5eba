//! `diff` and `export`.

use crate::complete;
use crate::connect::{Connection, Patience};
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
                    output::print(output::json(&value) + "\n")?;
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
            let mut patience = Patience::default();
            loop {
                let mut out = None;
                let cut = match exported(&c, &args, &mut out).await {
                    Ok(()) => break out.map_or(Ok(()), Out::finish),
                    Err(Cut::Local(error)) => break Err(error),
                    Err(Cut::Remote(status)) => status,
                };
                // What standard output has cannot be taken back; a file begins anew.
                if let Some(bytes) = out.as_ref().and_then(Out::given) {
                    let mut error = c.error(&cut);
                    error.message = format!("{}; the tar is cut off after {bytes} bytes", error.message);
                    break Err(
                        error.hint("-o FILE writes a file that is whole or not there, and begins again by itself")
                    );
                }
                drop(out);
                patience.wait(&c, &cut).await?;
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Why an export ended too early.
enum Cut {
    Local(Error),
    Remote(tonic::Status),
}

/// One try. `out` is opened with the first bytes.
async fn exported(c: &Connection, args: &Export, out: &mut Option<Out>) -> Result<(), Cut> {
    let request = c.request(v1::ExportRequest { container: args.container.clone() }, None);
    let mut frames = c.files().export(request).await.map_err(Cut::Remote)?.into_inner();
    while let Some(frame) = frames.message().await.map_err(Cut::Remote)? {
        let to = match &mut *out {
            Some(to) => to,
            none => none.insert(Out::open(args.output.as_deref()).map_err(Cut::Local)?),
        };
        to.write(&frame.tar).map_err(Cut::Local)?;
    }
    Ok(())
}

/// Standard output, or a file that gets its name when it is whole.
pub(super) enum Out {
    /// Standard output, or what is no plain file: a device, a pipe. Bytes that it has.
    Stream {
        to: Option<File>,
        written: u64,
    },
    File {
        file: File,
        part: PathBuf,
        path: PathBuf,
        whole: bool,
    },
}

impl Out {
    pub(super) fn open(path: Option<&Path>) -> Result<Out> {
        let Some(path) = path else { return Ok(Out::Stream { to: None, written: 0 }) };
        let act = |e: io::Error| Error::io(format!("writing {}", path.display()), &e);
        // A rename would put a file in the place of a device, a pipe or a link.
        let path = &match fs::metadata(path) {
            Ok(there) if there.is_file() => fs::canonicalize(path).map_err(act)?,
            Ok(_) => {
                let to = File::options().write(true).open(path).map_err(act)?;
                return Ok(Out::Stream { to: Some(to), written: 0 });
            }
            Err(_) => path.to_owned(),
        };
        let name = path.file_name().ok_or_else(|| Error::usage(format!("{} is no name of a file", path.display())))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create_new(&part).map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
        Ok(Out::File { file, part, path: path.to_owned(), whole: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Out::Stream { to, written } => {
                match to {
                    Some(to) => to.write_all(bytes).map_err(|e| Error::io("writing", &e))?,
                    None => output::print(bytes)?,
                }
                *written += bytes.len() as u64;
                Ok(())
            }
            Out::File { file, path, .. } => {
                file.write_all(bytes).map_err(|e| Error::io(format!("writing {}", path.display()), &e))
            }
        }
    }

    /// How many bytes somebody has who cannot be asked to give them back.
    pub(super) fn given(&self) -> Option<u64> {
        match self {
            Out::Stream { written: written @ 1.., .. } => Some(*written),
            _ => None,
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        if let Out::File { file, part, path, whole } = &mut self {
            // Whole behind a power cut, too.
            let named = file.sync_all().and_then(|()| fs::rename(&*part, &*path));
            named.map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn write(path: &Path) {
        let mut out = Out::open(Some(path)).unwrap();
        out.write(b"new").unwrap();
        out.finish().unwrap();
    }

    #[test]
    fn what_is_no_plain_file_stays_what_it_is() {
        let dir = std::env::temp_dir().join(format!("berthctl-out-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, link, null) = (dir.join("file"), dir.join("link"), dir.join("null"));
        fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        symlink("/dev/null", &null).unwrap();
        write(&link);
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        write(&null);
        assert!(null.is_symlink() && fs::metadata(&null).unwrap().file_type().is_char_device());
        write(&dir.join("fresh"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
        assert!(Out::open(Some(&dir)).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}

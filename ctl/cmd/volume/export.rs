//! `volume export`: a tar that goes on where it was cut off.

use super::Export;
use crate::cmd::changes::Out;
use crate::cmd::cp::Going;
use crate::connect::{Connection, Patience};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use aws_lc_rs::digest::{Context, SHA256};
use berth::hex;
use berth::v1;
use std::io::IsTerminal;
use std::rc::Rc;
use tonic::Status;
use tonic_types::StatusExt;

/// Why a try ended too early.
enum Cut {
    Local(Error),
    Remote(Status),
    /// The tar cannot go on at the byte where it broke off.
    Stuck(Error),
}

/// What came of a tar, over all tries.
struct Tar {
    out: Option<Out>,
    hash: Context,
    bytes: u64,
}

impl Tar {
    fn new() -> Tar {
        Tar { out: None, hash: Context::new(&SHA256), bytes: 0 }
    }

    fn sha256(&self) -> String {
        hex::encode(self.hash.clone().finish().as_ref())
    }
}

pub async fn export(fleet: &Fleet, args: Export) -> Result<u8> {
    if fleet.hosts.len() > 1 {
        return Err(Error::usage("the tars of several hosts do not go into one").hint("export from one host: -H HOST"));
    }
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::usage("a tar is nothing for a terminal").hint("-o FILE writes it to a file"));
    }
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let (args, sink) = (args.clone(), Sink::new(labels.label(&c.label)));
        async move {
            let going = Going::new(&sink, args.output.is_none(), "Exporting");
            let done = whole(&c, &args, &going).await;
            going.end();
            done
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Tries until all of the tar has come.
async fn whole(c: &Connection, args: &Export, going: &Going) -> Result<()> {
    let mut patience = Patience::default();
    let mut tar = Tar::new();
    loop {
        let cut = match some(c, args, &mut tar, going, &mut patience).await {
            Ok(()) => return tar.out.map_or(Ok(()), Out::finish),
            Err(cut) => cut,
        };
        // What a pipe has cannot be taken back.
        let given = tar.out.as_ref().and_then(Out::given);
        let cut_off = |mut error: Error| {
            if let Some(bytes) = given {
                error.message = format!("{}; the tar is cut off after {bytes} bytes", error.message);
            }
            error
        };
        match cut {
            Cut::Local(error) => return Err(error),
            Cut::Remote(status) => patience.wait(c, &status).await.map_err(cut_off)?,
            Cut::Stuck(error) if given.is_some() => return Err(cut_off(error)),
            // A file begins anew.
            Cut::Stuck(_) => tar = Tar::new(),
        }
    }
}

fn changed(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|i| i.reason == v1::ErrorReason::VolumeChanged.as_str_name())
}

/// One try. What comes is hashed, and must be what the agent says of it at the end.
async fn some(
    c: &Connection,
    args: &Export,
    tar: &mut Tar,
    going: &Going,
    patience: &mut Patience,
) -> std::result::Result<(), Cut> {
    use v1::export_volume_response::Kind;
    let again = tar.bytes > 0;
    let sha256 = if again { tar.sha256() } else { String::new() };
    let request = v1::ExportVolumeRequest { volume: args.volume.clone(), offset: tar.bytes, sha256 };
    let refused = |status: Status| if changed(&status) { Cut::Stuck(c.error(&status)) } else { Cut::Remote(status) };
    let mut frames = c.volumes().export(c.request(request, None)).await.map_err(refused)?.into_inner();
    let mut agreed = !again;
    while let Some(frame) = frames.message().await.map_err(refused)? {
        match frame.kind {
            Some(Kind::At(at)) => agreed = at.bytes == tar.bytes,
            // An agent that does not know the request's offset begins at the beginning.
            _ if !agreed => {
                let error = Error::new(format!("{} cannot go on in the middle of a tar", c.label));
                return Err(Cut::Stuck(
                    error.hint("its agent is older than this berthctl: upgrade it, or use -o FILE"),
                ));
            }
            Some(Kind::Tar(piece)) => {
                patience.rest();
                let to = match &mut tar.out {
                    Some(to) => to,
                    none => none.insert(Out::open(args.output.as_deref()).map_err(Cut::Local)?),
                };
                to.write(&piece).map_err(Cut::Local)?;
                tar.hash.update(&piece);
                tar.bytes += piece.len() as u64;
                going.add(piece.len());
            }
            Some(Kind::End(end)) => {
                let is = tar.sha256();
                if is != end.sha256 {
                    return Err(Cut::Local(Error::new(format!(
                        "what came is not what {} sent: its digest is {is}, and should be {}",
                        c.label, end.sha256
                    ))));
                }
                return Ok(());
            }
            None => {}
        }
    }
    Err(Cut::Local(Error::new(format!("{} ended the tar before its digest: it is a part", c.label))))
}

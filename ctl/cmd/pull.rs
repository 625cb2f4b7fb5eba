//! `pull`.

use crate::connect::{Connection, Patience, request_id};
use crate::credentials;
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Sink, print};
use crate::progress::Progress;
use crate::spec::platform;
use berth::v1::{self, pull_response};
use clap::Args;
use serde_json::json;
use std::rc::Rc;
use tonic::Streaming;

#[derive(Debug, Args)]
#[command(
    after_help = "Credentials are those of --creds, else of ~/.docker/config.json ($DOCKER_CONFIG/config.json; no helpers are run), else the \
        host's own.\n\nExample:\n  berthctl -g web pull nginx:1.27\n  berthctl pull --creds ci registry.example/app < password"
)]
pub struct Pull {
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Who asks the registry; without a password it is asked for, or read from standard input
    #[arg(long, value_name = "USER[:PASSWORD]")]
    creds: Option<String>,
    /// Say only the name
    #[arg(short, long)]
    quiet: bool,
    /// json: progress and result as JSON, one object a line
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub async fn pull(fleet: &Fleet, args: Pull) -> Result<u8> {
    for image in &args.images {
        image.parse::<berth_model::Reference>().map_err(|e| Error::usage(e.to_string()))?;
    }
    let given = match &args.creds {
        Some(text) => {
            credentials::same_registry(&args.images)?;
            Some(credentials::parse(text)?)
        }
        None => None,
    };
    // Looked up once, not for each host.
    let auth = |image: &String| given.clone().or_else(|| credentials::for_image(image));
    let auths: Vec<_> = args.images.iter().map(auth).collect();
    let platform = args.platform.as_deref().map(platform).transpose()?;
    let json = args.output == "json";
    let (labels, args, auths) = (fleet.clone(), Rc::new(args), Rc::new(auths));
    let call = move |c: Connection| {
        let (args, auths, platform) = (args.clone(), auths.clone(), platform.clone());
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let mut failed = Vec::new();
            for (image, auth) in args.images.iter().zip(auths.iter()) {
                let request = v1::PullRequest {
                    request_id: request_id()?,
                    reference: image.clone(),
                    platform: platform.clone(),
                    auth: auth.clone(),
                };
                match one(&c, request, &sink, args.quiet, json).await {
                    Err(e) if e.quiet => return Err(e),
                    Err(e) => {
                        if !sink.labelled() {
                            e.report();
                        }
                        failed.push(e);
                    }
                    Ok(()) => {}
                }
            }
            super::together(failed, sink.labelled())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

async fn one(c: &Connection, request: v1::PullRequest, sink: &Sink, quiet: bool, json: bool) -> Result<()> {
    let mut progress = Progress::new(&c.label, sink.clone(), quiet, json);
    let mut patience = Patience::default();
    let mut stream: Option<Streaming<v1::PullResponse>> = None;
    loop {
        let answer = async {
            let open = match &mut stream {
                Some(open) => open,
                None => stream.insert(c.images().pull(c.request(request.clone(), None)).await?.into_inner()),
            };
            open.message().await
        };
        let frame = match answer.await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            // The same request once more: what was fetched is not fetched again.
            Err(status) => {
                patience.wait(c, &status).await?;
                stream = None;
                continue;
            }
        };
        patience.rest();
        match frame.kind {
            Some(pull_response::Kind::Progress(p)) => progress.show(&p)?,
            Some(pull_response::Kind::Result(r)) => {
                drop(progress);
                return result(&c.label, &r, sink, quiet, json);
            }
            None => {}
        }
    }
    Err(Error::new(format!("{} ended the stream before the image was there", c.label)))
}

fn result(host: &str, r: &v1::PullResult, sink: &Sink, quiet: bool, json: bool) -> Result<()> {
    if json {
        let mut value = json!({
            "Reference": r.reference, "Digest": r.digest, "ID": r.image_id, "UpToDate": r.up_to_date, "Fetched": r.fetched_bytes,
        });
        if sink.labelled() {
            value["Host"] = host.into();
        }
        return print(output::json(&value) + "\n");
    }
    if !quiet {
        sink.say(&format!("Digest: {}", r.digest));
        let status = if r.up_to_date { "Image is up to date" } else { "Downloaded newer image" };
        sink.say(&format!("Status: {status} for {}", r.reference));
    }
    sink.line(&r.reference)
}

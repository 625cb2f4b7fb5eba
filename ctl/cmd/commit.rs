//! `commit`.

use crate::complete;
use crate::connect::{Connection, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::rc::Rc;

#[derive(Debug, Args)]
#[command(
    after_help = "--change takes CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR, as in a \
        Dockerfile. What is mounted in the container is not part of the image.\n\n\
        Example:\n  berthctl commit -m 'tools' -c 'CMD [\"sh\"]' box tools:1"
)]
pub struct Commit {
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    author: String,
    /// What was done
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// A change to the image's configuration
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Stop the container's processes while its files are read
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
    /// Let the container go on while its files are read
    #[arg(long)]
    no_pause: bool,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::containers))]
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
}

pub async fn commit(fleet: &Fleet, args: Commit) -> Result<u8> {
    if let Some(image) = &args.image {
        image.parse::<berth_model::Reference>().map_err(|e| Error::usage(e.to_string()))?;
    }
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let args = args.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let request = v1::CommitRequest {
                request_id: request_id()?,
                container: args.container.clone(),
                reference: args.image.clone().unwrap_or_default(),
                author: args.author.clone(),
                message: args.message.clone(),
                changes: args.change.clone(),
                no_pause: args.no_pause || !args.pause,
            };
            let done = c.retry(async || c.files().commit(c.request(request.clone(), None)).await).await?;
            sink.line(&done.get_ref().image_id)
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

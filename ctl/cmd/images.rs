//! `images`, `rmi` and `tag`.

use super::{for_names, list};
use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Shape, Show, Sink};
use crate::view;
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use std::rc::Rc;

const SHAPE: Shape = Shape {
    columns: &[
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ],
    name: "Name",
};
const WITH_DIGESTS: Shape = Shape {
    columns: &[
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("DIGEST", "Digest"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ],
    name: "Name",
};

#[derive(Debug, Args)]
pub struct Images {
    /// Only images of this name; '*' stands for anything
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete::images))]
    name: Option<String>,
    /// Only images that fit: dangling=, reference=, before=, since=, until=, label=, label!=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    quiet: bool,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct Rmi {
    /// Remove it under all its names, and when stopped containers were made from it
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCompleter::new(complete::images))]
    images: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Tag {
    /// Name or id
    #[arg(add = ArgValueCompleter::new(complete::images))]
    source: String,
    /// The new name
    target: String,
}

/// A name without a pattern means all its tags, as in Docker; the agent compares full names.
fn pattern(name: &str) -> Result<String> {
    if name.contains('*') {
        return Ok(name.to_owned());
    }
    let reference: berth_model::Reference = name.parse().map_err(|e| Error::usage(format!("{e}")))?;
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    Ok(if tagged || name.contains('@') { reference.to_string() } else { format!("{}:*", reference.name()) })
}

const FILTERS: [&str; 7] = ["dangling", "reference", "before", "since", "until", "label", "label!"];

pub async fn images(fleet: &Fleet, args: Images) -> Result<u8> {
    let mut filters = list::filters(&args.filter, &FILTERS)?;
    for filter in filters.iter_mut().filter(|f| f.key == "reference") {
        filter.value = pattern(&filter.value)?;
    }
    let request = v1::ListImagesRequest {
        references: args.name.as_deref().map(pattern).into_iter().collect::<Result<_>>()?,
        filters,
    };
    let shape = if args.digests { WITH_DIGESTS } else { SHAPE };
    list::show(fleet, list::shape(shape, args.quiet, &args.show)?, move |c: Connection| {
        let request = request.clone();
        async move {
            let now = Timestamp::now();
            c.retry(async || {
                let mut rows = Vec::new();
                let request = c.request(request.clone(), Some(UNARY_TIMEOUT));
                let mut stream = c.images().list(request).await?.into_inner();
                while let Some(answer) = stream.message().await? {
                    if let Some(image) = answer.image {
                        let mut named = view::images(&image, now, !args.no_trunc);
                        if args.quiet {
                            named.truncate(1);
                        }
                        rows.extend(named);
                    }
                }
                Ok(rows)
            })
            .await
        }
    })
    .await
}

pub async fn rmi(fleet: &Fleet, args: Rmi) -> Result<u8> {
    for_names(fleet, args.images, move |c, image| async move {
        let request = v1::RemoveImageRequest { request_id: request_id()?, image, force: args.force };
        let call = async || c.images().remove(c.request(request.clone(), Some(UNARY_TIMEOUT))).await;
        let (answer, unsure) = c.retry_unsure(call).await?;
        let answer = answer.into_inner();
        // Nothing to say of what a try took away whose answer was lost.
        if answer.untagged.is_empty() && answer.deleted.is_empty() && !unsure {
            let error = Error::new(format!("no such image: {}", request.image));
            if !args.force {
                return Err(error.hint("berthctl images lists what the host has"));
            }
            // As in Docker: told, and no failure.
            error.report();
        }
        let untagged = answer.untagged.iter().map(|u| format!("Untagged: {u}"));
        Ok(untagged.chain(answer.deleted.iter().map(|d| format!("Deleted: {d}"))).collect())
    })
    .await
}

pub async fn tag(fleet: &Fleet, args: Tag) -> Result<u8> {
    args.target.parse::<berth_model::Reference>().map_err(|e| Error::usage(e.to_string()))?;
    let (labels, args) = (fleet.clone(), Rc::new(args));
    let call = move |c: Connection| {
        let (args, sink) = (args.clone(), Sink::new(labels.label(&c.label)));
        async move {
            let request = v1::TagImageRequest {
                request_id: request_id()?,
                source: args.source.clone(),
                target: args.target.clone(),
            };
            c.retry(async || c.images().tag(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
            // Docker says nothing; several hosts are told apart.
            if sink.labelled() { sink.line("tagged") } else { Ok(()) }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

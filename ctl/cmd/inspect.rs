//! `inspect`: everything about containers and images.

use super::details;
use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::{complete, view};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Type {
    Container,
    Image,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  berthctl inspect -f '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web\n  berthctl inspect -o docker web"
)]
pub struct Inspect {
    /// Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Shape of the output; docker: the JSON of Docker's Engine API, which is also what --format sees then
    #[arg(short, long, value_parser = ["json", "yaml", "docker"], default_value = "json")]
    output: String,
    /// Only things of this type
    #[arg(long, value_enum)]
    r#type: Option<Type>,
    /// Containers or images
    #[arg(required = true, value_name = "NAME", add = ArgValueCompleter::new(complete::containers))]
    names: Vec<String>,
}

pub async fn inspect(fleet: &Fleet, args: Inspect) -> Result<u8> {
    let format = details::format(args.format.as_deref(), &args.output)?;
    let (shape, only) = (shape(&args), args.r#type);
    details::show(fleet, format, args.names, move |c, name| async move { one(&c, &name, only, shape).await }).await
}

/// How an answer is shown.
#[derive(Clone, Copy)]
enum Shape {
    Own,
    Docker,
    /// Our own, with what Docker has beside it: for templates written for either.
    Both,
}

fn shape(args: &Inspect) -> Shape {
    match (args.output.as_str(), &args.format) {
        ("docker", _) => Shape::Docker,
        (_, Some(template)) if template != "json" => Shape::Both,
        _ => Shape::Own,
    }
}

impl Shape {
    fn show<T>(self, answer: &T, own: fn(&T) -> Value, docker: fn(&T) -> Value) -> Value {
        match self {
            Shape::Own => own(answer),
            Shape::Docker => docker(answer),
            Shape::Both => view::docker::beneath(own(answer), docker(answer)),
        }
    }
}

async fn one(c: &Connection, name: &str, r#type: Option<Type>, shape: Shape) -> Result<Value> {
    let of_image = |r: &v1::InspectImageResponse| shape.show(r, view::inspect_image, view::docker::image);
    let of_container =
        |r: &v1::InspectContainerResponse| shape.show(r, view::inspect_container, view::docker::container);
    let container = async || {
        let request = v1::InspectContainerRequest { container: name.into() };
        c.containers().inspect(c.request(request, Some(UNARY_TIMEOUT))).await
    };
    let image = async || {
        let request = v1::InspectImageRequest { image: name.into() };
        c.images().inspect(c.request(request, Some(UNARY_TIMEOUT))).await
    };
    match r#type {
        Some(Type::Image) => Ok(of_image(&c.retry(image).await?.into_inner())),
        Some(Type::Container) => Ok(of_container(&c.retry(container).await?.into_inner())),
        None => {
            if let Some(found) = c.find(container).await? {
                return Ok(of_container(found.get_ref()));
            }
            // A name that no container can have, such as host:5000/app, may still be an image's.
            match c.find(image).await? {
                Some(found) => Ok(of_image(found.get_ref())),
                None => Err(Error::new(format!("no container and no image {name:?}"))
                    .hint("berthctl ps -a and berthctl images list what is there")),
            }
        }
    }
}

//! `inspect`: everything about containers and images.

use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Format, print};
use crate::template::Template;
use crate::{view, yaml};
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;
use std::rc::Rc;

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
    if args.format.is_some() && args.output == "yaml" {
        return Err(Error::usage("--format and --output yaml exclude each other"));
    }
    let format = match args.format.as_deref() {
        None if args.output == "yaml" => Format::Yaml,
        None => Format::Json,
        Some("json") => Format::JsonLines,
        Some(t) => Format::Template(
            Template::parse(&t.replace("\\t", "\t").replace("\\n", "\n"))
                .map_err(|e| Error::usage(format!("--format {t:?}: {e}")))?,
        ),
    };
    let (args, labelled) = (Rc::new(args), fleet.labelled);
    let call = move |c: Connection| {
        let args = args.clone();
        async move {
            let (mut found, mut failed) = (Vec::new(), Vec::new());
            for name in &args.names {
                match one(&c, name, args.r#type, shape(&args)).await {
                    Ok(value) => found.push(value),
                    Err(e) => failed.push(e),
                }
            }
            if labelled && found.is_empty() {
                // This host failed as a whole: it counts among those that did.
                super::together(std::mem::take(&mut failed), true)?;
            }
            Ok((found, failed))
        }
    };
    let mut all: Vec<Value> = Vec::new();
    let mut code = 0;
    let answered = fleet
        .each(call, |host, (found, failed)| {
            for error in failed {
                let error = if fleet.labelled {
                    Error { message: format!("{host}: {}", error.message), ..error }
                } else {
                    error
                };
                error.report();
                code = if fleet.labelled { crate::fanout::SOME_FAILED } else { 1 };
            }
            for mut value in found {
                if fleet.labelled {
                    value["Host"] = host.into();
                }
                let prefix = fleet.label(host).unwrap_or_default();
                match &format {
                    Format::Template(t) => print(format!("{prefix}{}\n", t.render(&value).map_err(Error::usage)?))?,
                    Format::JsonLines => print(format!("{value}\n"))?,
                    _ => all.push(value),
                }
            }
            Ok(())
        })
        .await?;
    match format {
        Format::Json => print(format!("{:#}\n", Value::Array(all)))?,
        Format::Yaml => print(yaml::emit(&Value::Array(all)))?,
        _ => {}
    }
    Ok(answered.max(code))
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

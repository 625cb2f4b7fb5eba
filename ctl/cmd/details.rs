//! What every `inspect` shares: some names, everything about each, in one document or by a template.

use crate::connect::Connection;
use crate::error::{Error, Result};
use crate::fanout::{Fleet, SOME_FAILED};
use crate::output::{self, Format, print};
use crate::template::Template;
use crate::yaml;
use serde_json::Value;
use std::rc::Rc;

/// From `--format` and `--output json|yaml`.
pub fn format(template: Option<&str>, output: &str) -> Result<Format> {
    Ok(match template {
        Some(_) if output == "yaml" => return Err(Error::usage("--format and --output yaml exclude each other")),
        None if output == "yaml" => Format::Yaml,
        None => Format::Json,
        Some("json") => Format::JsonLines,
        Some(t) => Format::Template(
            Template::parse(&t.replace("\\t", "\t").replace("\\n", "\n"))
                .map_err(|e| Error::usage(format!("--format {t:?}: {e}")))?,
        ),
    })
}

/// Shows what is found, says what is not, and goes on: on each host.
pub async fn show<F, Fut>(fleet: &Fleet, format: Format, names: Vec<String>, one: F) -> Result<u8>
where
    F: Fn(Connection, String) -> Fut + 'static,
    Fut: Future<Output = Result<Value>> + 'static,
{
    let (names, one, labelled) = (Rc::new(names), Rc::new(one), fleet.labelled);
    let call = move |c: Connection| {
        let (names, one) = (names.clone(), one.clone());
        async move {
            let (mut found, mut failed) = (Vec::new(), Vec::new());
            for name in names.iter() {
                match one(c.clone(), name.clone()).await {
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
                code = if fleet.labelled { SOME_FAILED } else { 1 };
            }
            for mut value in found {
                if fleet.labelled {
                    value["Host"] = host.into();
                }
                let prefix = fleet.label(host).unwrap_or_default();
                match &format {
                    Format::Template(t) => print(format!("{prefix}{}\n", t.render(&value).map_err(Error::usage)?))?,
                    Format::JsonLines => print(output::json(&value) + "\n")?,
                    _ => all.push(value),
                }
            }
            Ok(())
        })
        .await?;
    match format {
        Format::Json => print(output::pretty(&Value::Array(all)) + "\n")?,
        Format::Yaml => print(yaml::emit(&Value::Array(all)))?,
        _ => {}
    }
    Ok(answered.max(code))
}

//! What goes with each entry: the tag from Docker's template, and attributes from labels and environment.

use super::LogConfig;
use std::collections::BTreeMap;

/// What a template and the attributes are made from.
#[derive(Clone, Debug, Default)]
pub struct LogFacts {
    /// All 64 digits.
    pub id: String,
    pub name: String,
    /// As it was asked for.
    pub image: String,
    /// `sha256:…`
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    /// `KEY=value`
    pub env: Vec<String>,
}

/// Docker's default.
const DEFAULT: &str = "{{.ID}}";
/// Digits of a short id.
const SHORT: usize = 12;
/// Bytes of a template.
const MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TagError {
    #[error("must have at most {MAX} bytes and no control characters")]
    Text,
    #[error("has {{{{ without }}}}")]
    Open,
    #[error(
        "{{{{{0}}}}} is unknown; there are {{{{.ID}}}}, {{{{.FullID}}}}, {{{{.Name}}}}, {{{{.ImageName}}}}, {{{{.ImageID}}}}, \
         {{{{.ImageFullID}}}} and {{{{.DaemonName}}}}"
    )]
    Unknown(String),
}

/// Whether `template` means something.
pub(super) fn check(template: &str) -> Result<(), TagError> {
    if template.len() > MAX || template.contains(char::is_control) {
        return Err(TagError::Text);
    }
    render(template, &LogFacts::default()).map(drop)
}

fn render(template: &str, facts: &LogFacts) -> Result<String, TagError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((text, from)) = rest.split_once("{{") {
        out.push_str(text);
        let (field, behind) = from.split_once("}}").ok_or(TagError::Open)?;
        let short = |id: &str| id.get(..SHORT).unwrap_or(id).to_owned();
        match field.trim() {
            ".ID" => out.push_str(&short(&facts.id)),
            ".FullID" => out.push_str(&facts.id),
            ".Name" => out.push_str(&facts.name),
            ".ImageName" => out.push_str(&facts.image),
            ".ImageID" => out.push_str(&short(facts.image_id.strip_prefix("sha256:").unwrap_or(&facts.image_id))),
            ".ImageFullID" => out.push_str(&facts.image_id),
            ".DaemonName" => out.push_str("berth"),
            other => return Err(TagError::Unknown(other.to_owned())),
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

impl LogConfig {
    /// What the container's output is called by collectors.
    pub fn tag_of(&self, facts: &LogFacts) -> String {
        let template = if self.tag.is_empty() { DEFAULT } else { &self.tag };
        // Templates are checked before they are kept.
        render(template, facts).unwrap_or_else(|_| facts.id.clone())
    }

    /// The labels and variables that were asked for, as far as the container has them; the tag where one was asked for.
    pub fn attributes(&self, facts: &LogFacts) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for name in &self.labels {
            all.extend(facts.labels.get(name).map(|value| (name.clone(), value.clone())));
        }
        for name in &self.env {
            let value = facts.env.iter().find_map(|e| e.strip_prefix(name.as_str())?.strip_prefix('='));
            all.extend(value.map(|value| (name.clone(), value.to_owned())));
        }
        if !self.tag.is_empty() {
            all.insert("tag".to_owned(), self.tag_of(facts));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> LogFacts {
        LogFacts {
            id: "0123456789abcdef".repeat(4),
            name: "web".into(),
            image: "nginx".into(),
            image_id: format!("sha256:{}", "ab".repeat(32)),
            labels: [("app".to_owned(), "shop".to_owned())].into(),
            env: vec!["MODEL=x".into(), "MODE=a=b".into()],
        }
    }

    #[test]
    fn tags() {
        let tag = |tag: &str| LogConfig { tag: tag.into(), ..LogConfig::default() }.tag_of(&facts());
        assert_eq!(tag(""), "0123456789ab");
        assert_eq!(tag("{{.ImageName}}/{{ .Name }}/{{.ID}}"), "nginx/web/0123456789ab");
        assert_eq!(tag("{{.ImageID}} {{.DaemonName}}!"), "abababababab berth!");
        for bad in ["{{", "{{.ID", "{{.Nope}}", "a\nb", &"x".repeat(300)] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("{{.X}}").unwrap_err().to_string().starts_with("{{.X}} is unknown; there are {{.ID}}, "));
    }

    #[test]
    fn attributes() {
        let config = LogConfig {
            labels: vec!["app".into(), "none".into()],
            env: vec!["MODE".into()],
            tag: "{{.Name}}".into(),
            ..LogConfig::default()
        };
        let all: Vec<_> = config.attributes(&facts()).into_iter().collect();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(all, [pair("MODE", "a=b"), pair("app", "shop"), pair("tag", "web")]);
        assert!(LogConfig::default().attributes(&facts()).is_empty());
    }
}

//! Patterns that people write for names of images.

use crate::Reference;

/// Does a pattern with `*` fit the whole text?
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Does a full or a short name, with or without `*`, mean this image? A name without a tag means every tag, as in Docker.
pub fn names_image(pattern: &str, name: &Reference) -> bool {
    pattern.parse::<Reference>().is_ok_and(|wanted| wanted == *name)
        || glob(pattern, &name.to_string())
        || glob(pattern, &name.familiar())
        || glob(pattern, &name.name())
        || name.familiar().rsplit_once(':').is_some_and(|(name, _)| glob(pattern, name))
}

/// A label as a rule or a filter names it: `key`, or `key=value`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelPattern {
    pub key: String,
    /// None: any.
    pub value: Option<String>,
}

impl LabelPattern {
    pub fn parse(text: &str) -> LabelPattern {
        match text.split_once('=') {
            Some((key, value)) => LabelPattern { key: key.to_owned(), value: Some(value.to_owned()) },
            None => LabelPattern { key: text.to_owned(), value: None },
        }
    }

    /// `get` gives the value of a label.
    pub fn fits<'a>(&self, get: impl FnOnce(&str) -> Option<&'a String>) -> bool {
        get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("*", "abc"), ("a*c", "abbc"), ("*b*", "abc"), ("a*b*c", "aXbYc"), ("ab*", "ab")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("", "a"), ("a*c", "ab"), ("*b", "abc"), ("aa*aa", "aaa")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn images_are_meant() {
        let name: Reference = "docker.io/library/nginx:1.27".parse().unwrap();
        for pattern in ["nginx", "nginx:1.27", "docker.io/library/nginx:*", "ng*", "*/nginx", "nginx:1*"] {
            assert!(names_image(pattern, &name), "{pattern}");
        }
        for pattern in ["nginx:1.26", "redis", "library", "inx"] {
            assert!(!names_image(pattern, &name), "{pattern}");
        }
    }
}

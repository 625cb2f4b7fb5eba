//! SELinux labels of containers, as data: what is asked for, and what a container has.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest label: as an option of a mount it goes to the kernel in 255 bytes.
pub const MAX_LABEL: usize = 250;

/// A security context: `user:role:type[:level]`. The level may hold colons.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    pub user: String,
    pub role: String,
    pub kind: String,
    /// Empty: the policy has no levels.
    pub level: String,
}

impl Context {
    /// `None`: it is none.
    pub fn parse(text: &str) -> Option<Context> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let context = Context { user, role, kind, level: parts.next().unwrap_or_default() };
        let whole = [&context.user, &context.role, &context.kind].iter().all(|part| !part.is_empty());
        (whole && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"')).then_some(context)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        if self.level.is_empty() { Ok(()) } else { write!(f, ":{}", self.level) }
    }
}

/// `--security-opt label=…`. What is empty is as the host's policy has it for containers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelOptions {
    /// Its processes have no label of their own.
    pub disable: bool,
    pub user: String,
    pub role: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub level: String,
    pub file_type: String,
}

impl LabelOptions {
    fn parts(&self) -> [(&'static str, &str); 5] {
        [
            ("user", &self.user),
            ("role", &self.role),
            ("type", &self.kind),
            ("level", &self.level),
            ("filetype", &self.file_type),
        ]
    }

    /// Nothing is said.
    pub fn is_default(&self) -> bool {
        !self.disable && !self.names_a_part()
    }

    /// A part of a label is asked for, which a host without SELinux cannot give.
    pub fn names_a_part(&self) -> bool {
        self.parts().iter().any(|(_, value)| !value.is_empty())
    }

    /// In Docker's words, as they stand behind `label=`.
    pub fn words(&self) -> Vec<String> {
        let parts = self.parts().into_iter().filter(|(_, value)| !value.is_empty());
        let disable = self.disable.then(|| "disable".to_owned());
        disable.into_iter().chain(parts.map(|(key, value)| format!("{key}:{value}"))).collect()
    }

    /// Takes one of Docker's words; `false`: there is no such one.
    pub fn take(&mut self, word: &str) -> bool {
        if word == "disable" {
            self.disable = true;
            return true;
        }
        let Some((key, value)) = word.split_once(':').filter(|(_, value)| !value.is_empty()) else { return false };
        let part = match key {
            "user" => &mut self.user,
            "role" => &mut self.role,
            "type" => &mut self.kind,
            "level" => &mut self.level,
            "filetype" => &mut self.file_type,
            _ => return false,
        };
        value.clone_into(part);
        true
    }
}

/// What a container has from its making to its removal. Empty: none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its root, its other file systems and what is relabelled for it.
    pub mount: String,
}

impl Labels {
    pub const NONE: Labels = Labels { process: String::new(), mount: String::new() };

    /// Of what all containers may share: the mount label without categories.
    pub fn shared(&self) -> String {
        match Context::parse(&self.mount) {
            Some(context) if !context.level.is_empty() => Context { level: "s0".to_owned(), ..context }.to_string(),
            _ => self.mount.clone(),
        }
    }
}

/// `:z` and `:Z`: whose the files of a mount become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relabel {
    #[default]
    Keep,
    /// All containers'.
    Shared,
    /// This container's alone.
    Private,
}

/// Categories of MCS policies (c0 to c1023).
pub const CATEGORIES: u16 = 1024;

/// The two categories of a level such as `s0:c3,c700`, sorted. `None`: it has not just two.
pub fn pair_of(level: &str) -> Option<(u16, u16)> {
    let (_, categories) = level.split_once(':')?;
    let number = |text: &str| text.strip_prefix('c')?.parse::<u16>().ok().filter(|n| *n < CATEGORIES);
    let (one, other) = match categories.split_once(',') {
        Some((one, other)) => (number(one)?, number(other)?),
        // c7.c8: from the one to the other.
        None => {
            let (first, last) = categories.split_once('.')?;
            let (first, last) = (number(first)?, number(last)?);
            (first.checked_add(1) == Some(last)).then_some((first, last))?
        }
    };
    (one != other).then_some((one.min(other), one.max(other)))
}

pub fn level_of((one, other): (u16, u16)) -> String {
    format!("s0:c{one},c{other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_have_three_parts_or_four() {
        for (text, kind, level) in [
            ("system_u:system_r:container_t:s0", "container_t", "s0"),
            ("u:r:t", "t", ""),
            ("u:r:t:s0-s0:c0.c1023", "t", "s0-s0:c0.c1023"),
            ("system_u:object_r:f_t:s0:c1,c2", "f_t", "s0:c1,c2"),
        ] {
            let context = Context::parse(text).unwrap();
            assert_eq!((&*context.kind, &*context.level, &*context.to_string()), (kind, level, text));
        }
        for wrong in ["", "kernel", "u:r", "u::t:s0", "u:r:t s0", "u:r:t:s0\"", "u:r:t:s0\n"] {
            assert_eq!(Context::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn pairs_are_two_categories_whatever_their_order() {
        for (level, pair) in [
            ("s0:c1,c2", Some((1, 2))),
            ("s0:c1023,c0", Some((0, 1023))),
            ("s0:c7.c8", Some((7, 8))),
            ("s0:c7.c9", None),
            ("s0:c7,c7", None),
            ("s0:c1,c1024", None),
            ("s0:c1,c2,c3", None),
            ("s0:c1", None),
            ("s0", None),
            ("s0-s0:c0.c1023", None),
        ] {
            assert_eq!(pair_of(level), pair, "{level}");
        }
        assert_eq!(pair_of(&level_of((5, 900))), Some((5, 900)));
    }

    #[test]
    fn words_come_back() {
        let mut options = LabelOptions::default();
        for word in ["disable", "type:spc_t", "level:s0:c1,c2", "filetype:f_t", "user:u", "role:r"] {
            assert!(options.take(word), "{word}");
        }
        let words = ["disable", "user:u", "role:r", "type:spc_t", "level:s0:c1,c2", "filetype:f_t"];
        assert_eq!(options.words(), words);
        for wrong in ["", "type", "type:", "kind:x", "disabled", "nested"] {
            assert!(!options.take(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_is_shared_has_no_categories() {
        let labels = |mount: &str| Labels { process: String::new(), mount: mount.into() };
        assert_eq!(labels("u:r:t:s0:c1,c2").shared(), "u:r:t:s0");
        assert_eq!(labels("u:r:t").shared(), "u:r:t");
        assert_eq!(Labels::NONE.shared(), "");
    }
}

//! SELinux in a container's configuration.

use super::decode::Fields;
use berth::v1;
use berth_model::selinux::{LabelOptions, MAX_LABEL, Relabel};
use berth_model::spec::MountKind;

/// The parts of a context have letters that its syntax and a mount's options leave.
pub fn decode(f: &mut Fields, given: v1::SelinuxOptions) -> LabelOptions {
    let v1::SelinuxOptions { disable, user, role, r#type: kind, level, file_type } = given;
    let parts = [("user", &user), ("role", &role), ("type", &kind), ("level", &level), ("file_type", &file_type)];
    for (name, part) in parts {
        let (more, said): (&[u8], _) = match name {
            "level" => (b":,-_.", "must be a level such as s0:c1,c2: letters, digits and the signs of : , - _ ."),
            _ => (b"_-.", "must be a part of a context: letters, digits, '_', '-' and '.'"),
        };
        let good = part.len() <= MAX_LABEL && part.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
        f.check(good, format!("selinux.{name}"), said);
    }
    LabelOptions { disable, user, role, kind, level, file_type }
}

pub fn encode(options: &LabelOptions) -> Option<v1::SelinuxOptions> {
    let LabelOptions { disable, user, role, kind, level, file_type } = options.clone();
    let given = v1::SelinuxOptions { disable, user, role, r#type: kind, level, file_type };
    (!options.is_default()).then_some(given)
}

pub fn relabel(f: &mut Fields, at: &str, given: i32, kind: &MountKind) -> Relabel {
    let relabel = match v1::Relabel::try_from(given) {
        Ok(v1::Relabel::Unspecified) => return Relabel::Keep,
        Ok(v1::Relabel::Shared) => Relabel::Shared,
        Ok(v1::Relabel::Private) => Relabel::Private,
        Err(_) => {
            f.wrong(at, "must be a value of Relabel");
            return Relabel::Keep;
        }
    };
    let good = matches!(kind, MountKind::Bind { .. } | MountKind::Volume(_));
    f.check(good, at, "goes with bind and volume: a tmpfs and an image are the container's as they are");
    relabel
}

pub fn encode_relabel(relabel: Relabel) -> v1::Relabel {
    match relabel {
        Relabel::Keep => v1::Relabel::Unspecified,
        Relabel::Shared => v1::Relabel::Shared,
        Relabel::Private => v1::Relabel::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_contexts_hold_nothing_else() {
        for (part, level, good) in [
            ("container_t", "s0:c1,c2", true),
            ("", "s0-s15:c0.c1023", true),
            ("a:b", "", false),
            ("a\"", "", false),
            ("", "s0,x=\"", false),
            ("a\n", "", false),
        ] {
            let mut f = Fields::under("config");
            let given = v1::SelinuxOptions { r#type: part.into(), level: level.into(), ..Default::default() };
            let decoded = decode(&mut f, given.clone());
            assert_eq!(f.done().is_ok(), good, "{part:?} {level:?}");
            let expected = (decoded != LabelOptions::default()).then_some(given);
            assert_eq!(encode(&decoded), expected);
        }
    }
}

//! SELinux labels of a bundle (config.md, `selinuxLabel`; config-linux.md, `mountLabel`).

use super::mounts::{MountKind, MountPlan};
use crate::error::Error;
use berth_model::selinux::{Context, MAX_LABEL};
use std::path::Path;

/// A label that a bundle gives. Empty: none.
pub fn label(field: &str, given: Option<&str>) -> Result<String, Error> {
    let Some(label) = given.filter(|label| !label.is_empty()) else { return Ok(String::new()) };
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Error::field(field, "SELinux is not enabled on this host"));
    }
    if label.len() > MAX_LABEL || Context::parse(label).is_none() {
        return Err(Error::field(
            field,
            format!("{label:?} is no context such as system_u:object_r:container_file_t:s0:c1,c2"),
        ));
    }
    Ok(label.to_owned())
}

/// As an option of mount(2): in quotes, as a level holds commas.
pub fn option(data: &str, label: &str) -> String {
    match (label, data) {
        ("", _) => data.to_owned(),
        (_, "") => format!("context=\"{label}\""),
        _ => format!("{data},context=\"{label}\""),
    }
}

/// Has the file systems that are the container's own carry its label, those of the kernel's own not, as with runc. In a user namespace the kernel
/// takes such an option for a few alone (security/selinux/hooks.c).
pub fn mounts(mounts: &mut [MountPlan], label: &str, in_user_namespace: bool) {
    if label.is_empty() {
        return;
    }
    for mount in mounts {
        let MountKind::Fs { fs_type, .. } = &mount.kind else { continue };
        let takes = matches!(&**fs_type, "tmpfs" | "ramfs" | "devpts" | "overlay");
        match &**fs_type {
            "proc" | "sysfs" => {}
            // It has it from a change of its root, everywhere.
            "mqueue" => label.clone_into(&mut mount.label),
            _ if mount.data.split(',').any(|option| option.starts_with("context=")) => {}
            _ if takes || !in_user_namespace => mount.data = option(&mount.data, label),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_containers_has_its_label() {
        let label = "u:o:f_t:s0:c1,c2";
        let context = "context=\"u:o:f_t:s0:c1,c2\"";
        for (fs_type, data, outside, inside) in [
            ("proc", "", "", ""),
            ("sysfs", "", "", ""),
            ("tmpfs", "size=1k", &*format!("size=1k,{context}"), &*format!("size=1k,{context}")),
            ("tmpfs", "context=x", "context=x", "context=x"),
            ("devpts", "", context, context),
            ("mqueue", "", "", ""),
            ("hugetlbfs", "", context, ""),
        ] {
            for (in_user_namespace, expected) in [(false, outside), (true, inside)] {
                let mut all = [MountPlan {
                    target: "/x".into(),
                    kind: MountKind::Fs { fs_type: fs_type.into(), source: fs_type.into() },
                    data: data.into(),
                    ..MountPlan::default()
                }];
                mounts(&mut all, label, in_user_namespace);
                assert_eq!(all[0].data, expected, "{fs_type}");
                assert_eq!(all[0].label == label, fs_type == "mqueue", "{fs_type}");
            }
        }
    }
}

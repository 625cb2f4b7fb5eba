//! What a plan's steps say of SELinux.

use super::bytes;
use berth_model::selinux::Labels;
use berth_model::wire::Step;
use berth_model::wire::plan::Bytes;

// Flag of mount(2).
const REMOUNT: u64 = 32;

/// As an option of mount(2): in quotes, as a level holds commas.
pub(super) fn option(label: &str) -> String {
    format!("context=\"{label}\"")
}

fn add(data: &mut Bytes<'static>, label: &str) {
    let data = data.to_mut();
    if !data.is_empty() {
        data.push(b',');
    }
    data.extend_from_slice(option(label).as_bytes());
}

/// Has the file systems that these steps make carry the container's label, those of the kernel's own (proc, sysfs, cgroups) not, as with runc.
pub(super) fn mounts(steps: Vec<Step<'static>>, labels: &Labels) -> Vec<Step<'static>> {
    let label = &labels.mount;
    if label.is_empty() {
        return steps;
    }
    let mut all = Vec::with_capacity(steps.len() + 1);
    for mut step in steps {
        let mut more = None;
        match &mut step {
            Step::Mount { fs_type, flags, data, .. }
                if *flags & REMOUNT == 0 && matches!(&**fs_type, b"tmpfs" | b"devpts") =>
            {
                add(data, label);
            }
            // In a user namespace it takes no such option (security/selinux/hooks.c).
            Step::Mount { fs_type, target, .. } if &**fs_type == b"mqueue" => {
                more = Some(Step::FileLabel { path: target.clone(), label: bytes(label.as_str()) });
            }
            Step::Tmpfs { data, .. } => add(data, label),
            Step::DeviceTree { data, .. } => data.push((bytes("context"), bytes(label.as_str()))),
            Step::Mask { label: own, .. } => *own = bytes(label.as_str()),
            _ => {}
        }
        all.push(step);
        all.extend(more);
    }
    all
}

/// What the next execve(2) enters, or this process from `now` on.
pub(super) fn process(labels: &Labels, now: bool) -> Option<Step<'static>> {
    let label = &labels.process;
    (!label.is_empty()).then(|| Step::ProcessLabel { label: bytes(label.as_str()), now })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, flags: u64, data: &str) -> Step<'static> {
        let (fs_type, data) = (bytes(fs_type), bytes(data));
        Step::Mount { source: fs_type.clone(), fs_type, target: bytes("/x"), flags, data, optional: false }
    }

    #[test]
    fn what_is_the_containers_has_its_label() {
        let labels = Labels { process: "p".into(), mount: "u:o:f_t:s0:c1,c2".into() };
        let steps = vec![
            mount("proc", 0, ""),
            mount("tmpfs", 0, "mode=755"),
            mount("devpts", 0, ""),
            mount("mqueue", 0, ""),
            mount("tmpfs", REMOUNT, ""),
            Step::Mask { paths: Vec::new(), label: bytes("") },
            Step::Tmpfs { target: bytes("/t"), flags: 0, data: bytes("mode=1777") },
        ];
        assert_eq!(mounts(steps.clone(), &Labels::NONE), steps);
        let label = "u:o:f_t:s0:c1,c2";
        let context = "context=\"u:o:f_t:s0:c1,c2\"";
        let expected = vec![
            mount("proc", 0, ""),
            mount("tmpfs", 0, &format!("mode=755,{context}")),
            mount("devpts", 0, context),
            mount("mqueue", 0, ""),
            Step::FileLabel { path: bytes("/x"), label: bytes(label) },
            mount("tmpfs", REMOUNT, ""),
            Step::Mask { paths: Vec::new(), label: bytes(label) },
            Step::Tmpfs { target: bytes("/t"), flags: 0, data: bytes(format!("mode=1777,{context}")) },
        ];
        assert_eq!(mounts(steps, &labels), expected);
        assert_eq!(process(&Labels::NONE, false), None);
    }
}

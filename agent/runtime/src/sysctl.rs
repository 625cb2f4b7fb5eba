//! Which namespace a kernel parameter belongs to: everything else would change the host.

/// The namespaces that have parameters (namespaces(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Network,
    Ipc,
    Uts,
    User,
}

const IPC: [&str; 9] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.msg_next_id",
];

/// Of a name with dots. `None`: the host's.
pub fn owner(name: &str) -> Option<Owner> {
    if name.starts_with("net.") {
        return Some(Owner::Network);
    }
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some(Owner::Ipc);
    }
    if ["kernel.hostname", "kernel.domainname"].contains(&name) {
        return Some(Owner::Uts);
    }
    name.starts_with("user.").then_some(Owner::User)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_no_namespace_is_the_hosts() {
        for (name, whose) in [
            ("net.ipv4.ip_forward", Some(Owner::Network)),
            ("kernel.shmmax", Some(Owner::Ipc)),
            ("fs.mqueue.msg_max", Some(Owner::Ipc)),
            ("kernel.hostname", Some(Owner::Uts)),
            ("user.max_user_namespaces", Some(Owner::User)),
            ("kernel.core_pattern", None),
            ("net", None),
            ("vm.overcommit_memory", None),
        ] {
            assert_eq!(owner(name), whose, "{name}");
        }
    }
}

//! Who may do what: one table over all RPCs. What has no rule is denied.

use berth::role::Role;

/// How long a call may last that brings no deadline of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duration {
    /// As the configuration says.
    Bounded,
    /// As long as what it follows; it is ended when the agent stops.
    Endless,
}

/// What a caller sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// One message of at most [`LITTLE`].
    Little,
    /// One message of at most [`NAMES`].
    Names,
    /// One message, as large as the configuration lets it be.
    Much,
    /// Messages as they come, each as large as the configuration lets it be.
    Stream,
}

/// Bytes of a request that names a thing and no more.
pub const LITTLE: usize = 64 << 10;
/// Bytes of one that names as many as a host may have: 4096 ids, 256 images.
const NAMES: usize = 512 << 10;

/// What holds for one RPC.
#[derive(Debug)]
pub struct Rule {
    /// `/package.Service/Method`, HTTP/2's path.
    pub path: &'static str,
    /// The least role that may call it.
    pub least: Role,
    /// It changes something: it leaves an audit record.
    pub mutates: bool,
    pub duration: Duration,
    pub takes: Takes,
    /// Its answer may be some megabytes, and is whole in memory until it is read: what lists or inspects. Not what is small however much there
    /// is on the host, nor what is small and takes long: that would keep the others waiting.
    pub gives_much: bool,
}

impl Rule {
    const fn much(mut self) -> Rule {
        self.takes = Takes::Much;
        self
    }

    const fn gives_much(mut self) -> Rule {
        self.gives_much = true;
        self
    }

    const fn names(mut self) -> Rule {
        self.takes = Takes::Names;
        self
    }

    const fn stream(mut self) -> Rule {
        self.takes = Takes::Stream;
        self
    }

    /// Bytes of one message of a request, where the configuration takes `most`.
    pub fn message_bytes(&self, most: usize) -> usize {
        match self.takes {
            Takes::Little => LITTLE.min(most),
            Takes::Names => NAMES.min(most),
            Takes::Much | Takes::Stream if self.least > Role::Viewer => most,
            Takes::Much | Takes::Stream => LITTLE.min(most),
        }
    }
}

const fn new(path: &'static str, least: Role, mutates: bool, duration: Duration) -> Rule {
    Rule { path, least, mutates, duration, takes: Takes::Little, gives_much: false }
}

const fn look(path: &'static str) -> Rule {
    new(path, Role::Viewer, false, Duration::Bounded)
}

const fn follow(path: &'static str) -> Rule {
    new(path, Role::Viewer, false, Duration::Endless)
}

const fn change(path: &'static str) -> Rule {
    new(path, Role::Operator, true, Duration::Bounded)
}

const fn long_change(path: &'static str) -> Rule {
    new(path, Role::Operator, true, Duration::Endless)
}

const fn admin_change(path: &'static str) -> Rule {
    new(path, Role::Admin, true, Duration::Bounded)
}

/// Sorted by path: it is searched by halves.
///
/// Some options of these calls need more than the call: see [`crate::permission`].
pub static RULES: &[Rule] = &[
    long_change("/berth.v1.Containers/Attach").stream(),
    long_change("/berth.v1.Containers/Create").much(),
    long_change("/berth.v1.Containers/Exec").stream(),
    look("/berth.v1.Containers/Inspect").gives_much(),
    change("/berth.v1.Containers/Kill"),
    look("/berth.v1.Containers/List").names().gives_much(),
    follow("/berth.v1.Containers/Logs"),
    change("/berth.v1.Containers/Pause"),
    long_change("/berth.v1.Containers/PortForward").stream(),
    long_change("/berth.v1.Containers/Prune"),
    change("/berth.v1.Containers/Remove"),
    change("/berth.v1.Containers/Rename"),
    change("/berth.v1.Containers/Resize"),
    long_change("/berth.v1.Containers/Restart"),
    long_change("/berth.v1.Containers/Run").stream(),
    change("/berth.v1.Containers/Start"),
    follow("/berth.v1.Containers/Stats").names(),
    long_change("/berth.v1.Containers/Stop"),
    long_change("/berth.v1.Containers/StopAll"),
    look("/berth.v1.Containers/Top").gives_much(),
    change("/berth.v1.Containers/Unpause"),
    change("/berth.v1.Containers/Update").much(),
    change("/berth.v1.Containers/UpdatePorts").much(),
    follow("/berth.v1.Containers/Wait"),
    long_change("/berth.v1.Files/Commit").much(),
    long_change("/berth.v1.Files/CopyFrom"),
    long_change("/berth.v1.Files/CopyTo").stream(),
    follow("/berth.v1.Files/Diff"),
    long_change("/berth.v1.Files/Export"),
    look("/berth.v1.Images/Inspect").gives_much(),
    look("/berth.v1.Images/List").names().gives_much(),
    long_change("/berth.v1.Images/Prune"),
    long_change("/berth.v1.Images/Pull").much(),
    change("/berth.v1.Images/Remove"),
    change("/berth.v1.Images/Tag"),
    change("/berth.v1.Networks/Connect").much(),
    change("/berth.v1.Networks/Create").much(),
    change("/berth.v1.Networks/Disconnect"),
    // It changes nothing, and tells of the host's firewall and processes.
    change("/berth.v1.Networks/ExplainPort"),
    look("/berth.v1.Networks/Inspect").gives_much(),
    look("/berth.v1.Networks/List").names().gives_much(),
    change("/berth.v1.Networks/Prune"),
    change("/berth.v1.Networks/Remove"),
    long_change("/berth.v1.Node/CheckImages"),
    long_change("/berth.v1.Node/CollectGarbage"),
    admin_change("/berth.v1.Node/ConfirmUpgrade"),
    look("/berth.v1.Node/DiskUsage"),
    look("/berth.v1.Node/Doctor"),
    follow("/berth.v1.Node/Events"),
    look("/berth.v1.Node/Info"),
    admin_change("/berth.v1.Node/UpgradeAgent").stream(),
    look("/berth.v1.Node/UpgradeStatus"),
    look("/berth.v1.Node/Version"),
    long_change("/berth.v1.Volumes/Clone").much(),
    long_change("/berth.v1.Volumes/Create").much(),
    long_change("/berth.v1.Volumes/Export"),
    long_change("/berth.v1.Volumes/Import").stream(),
    long_change("/berth.v1.Volumes/ImportInParts").stream(),
    look("/berth.v1.Volumes/Inspect").gives_much(),
    look("/berth.v1.Volumes/List").names().gives_much(),
    long_change("/berth.v1.Volumes/Prune"),
    long_change("/berth.v1.Volumes/Remove"),
    look("/grpc.health.v1.Health/Check"),
    follow("/grpc.health.v1.Health/Watch"),
    follow("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo").stream(),
];

/// The rule of an RPC. `None`: nobody may call it.
pub fn rule(path: &str) -> Option<&'static Rule> {
    index(path).map(|index| &RULES[index])
}

/// Where in [`RULES`] it is.
pub fn index(path: &str) -> Option<usize> {
    RULES.binary_search_by(|rule| rule.path.cmp(path)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;

    /// Every RPC that is served, from the descriptors that reflection shows.
    fn served() -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let sets = [
            berth::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    for method in &service.method {
                        paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                    }
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let ruled: BTreeSet<String> = RULES.iter().map(|rule| rule.path.to_owned()).collect();
        assert_eq!(ruled, served());
        assert_eq!(ruled.len(), RULES.len(), "no rule twice");
    }

    #[test]
    fn the_table_is_sorted_and_every_rule_is_found() {
        assert!(RULES.is_sorted_by(|a, b| a.path < b.path));
        for one in RULES {
            assert!(std::ptr::eq(rule(one.path).unwrap(), one));
        }
        for unknown in ["", "/", "/berth.v1.Containers/", "/berth.v1.Containers/list", "/berth.v1.Images/List/"] {
            assert!(rule(unknown).is_none(), "{unknown}");
        }
    }

    #[test]
    fn what_comes_as_a_stream_is_told_from_what_comes_at_once() {
        let set = FileDescriptorSet::decode(berth::FILE_DESCRIPTOR_SET).unwrap();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let takes = rule(&path).unwrap().takes;
                    assert_eq!(takes == Takes::Stream, method.client_streaming(), "{path}");
                }
            }
        }
    }

    #[test]
    fn large_requests_are_for_those_who_make_something() {
        for rule in RULES {
            let small = rule.message_bytes(4 << 20) <= NAMES;
            assert!(small || rule.least > Role::Viewer, "{}", rule.path);
            assert!(rule.message_bytes(1000) == 1000, "the configuration's limit holds for {}", rule.path);
        }
        let bytes = |path: &str| rule(path).unwrap().message_bytes(4 << 20);
        assert_eq!(bytes("/berth.v1.Containers/Create"), 4 << 20);
        assert_eq!(bytes("/berth.v1.Containers/Kill"), LITTLE);
        // All that a field takes, with what each has around it.
        let ids = 4096 * (64 + 2);
        assert!(ids < bytes("/berth.v1.Containers/Stats"));
    }

    #[test]
    fn only_large_answers_need_a_place() {
        let large: Vec<&str> = RULES.iter().filter(|rule| rule.gives_much).map(|rule| rule.path).collect();
        let want = [
            "/berth.v1.Containers/Inspect",
            "/berth.v1.Containers/List",
            // 16384 processes with a KiB of arguments each.
            "/berth.v1.Containers/Top",
            "/berth.v1.Images/Inspect",
            "/berth.v1.Images/List",
            "/berth.v1.Networks/Inspect",
            "/berth.v1.Networks/List",
            "/berth.v1.Volumes/Inspect",
            "/berth.v1.Volumes/List",
        ];
        assert_eq!(large, want);
        for rule in RULES {
            let lists = ["/Inspect", "/List"].iter().any(|end| rule.path.ends_with(end));
            assert!(rule.gives_much || !lists, "{} lists, and has a bound", rule.path);
            assert!(!rule.gives_much || rule.duration == Duration::Bounded, "{} keeps its place for ever", rule.path);
        }
    }

    #[test]
    fn a_viewer_changes_nothing() {
        for rule in RULES {
            assert_eq!(rule.mutates, rule.least > Role::Viewer, "{}", rule.path);
        }
    }
}

//! CDI files, in JSON and YAML: what is taken names its devices well, leads nowhere else, and takes no more memory than its text.
#![no_main]

use berth_cdi::{Name, Registry};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for yaml in [false, true] {
        let Ok(spec) = berth_cdi::parse(&text, yaml) else { continue };
        // With all the names of fields, which defaults have, too. An alias of YAML's that stands for much, many times, would be more.
        let shown = format!("{spec:?}").len();
        assert!(shown <= 400 * (text.len() + 1) + 4096, "{shown} bytes out of {}", text.len());
        let registry = Registry::of(spec);
        for name in registry.names() {
            let name: Name = name.parse().expect("a name of a device that was taken");
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            for hooks in [false, true] {
                let Ok(edits) = registry.edits(&[name.clone(), name.clone()], hooks) else { continue };
                assert!(hooks || edits.hooks.is_empty(), "nobody would run them");
                let nodes = edits.device_nodes.iter().flat_map(|n| [Some(&n.path), n.host_path.as_ref()]).flatten();
                let mounts = edits.mounts.iter().flat_map(|m| [&m.host_path, &m.container_path]);
                for path in nodes.chain(mounts).chain(edits.hooks.iter().map(|h| &h.path)) {
                    assert!(path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|p| p == ".."), "{path:?}");
                }
                assert!(edits.env.iter().all(|e| e.find('=').is_some_and(|at| at > 0) && !e.contains('\0')));
                for (n, node) in edits.device_nodes.iter().enumerate() {
                    assert!(!edits.device_nodes[..n].contains(node), "the same one twice");
                }
            }
        }
    }
});

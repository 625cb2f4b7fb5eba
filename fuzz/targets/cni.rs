//! Configuration lists, and what plugins answer: only what can be acted upon comes out.
#![no_main]

use berth_cni::{Conflist, Outcome, Version, is_plugin_name};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = Conflist::parse(&String::from_utf8_lossy(bytes)) {
        assert!(!list.plugins.is_empty() && list.plugins.len() <= 16);
        for plugin in &list.plugins {
            // It becomes the name of a file in a folder that programs are started from.
            assert!(is_plugin_name(&plugin.kind) && !plugin.kind.contains('/') && plugin.kind != "..");
        }
        let _ = (list.with_prefix([10, 1, 2, 3].into()), list.bridges(), list.takes("portMappings"));
    }
    for asked in Version::ALL {
        let Ok(outcome) = Outcome::parse(bytes, asked) else { return };
        let read = outcome.read("eth0");
        assert!(read.ipv4.is_none_or(|(_, len, _)| len <= 32));
        assert!(read.ipv6.is_none_or(|six| six.prefix_len <= 128));
        let words = read.cni.dns.search.iter().chain(&read.cni.dns.options).chain([&read.cni.dns.domain]);
        // They are written into a resolv.conf.
        assert!(words.into_iter().all(|w| !w.contains(|c: char| c.is_whitespace() || c.is_control())));
        for version in Version::ALL {
            let text = outcome.as_version(version).to_string();
            let again = Outcome::parse(text.as_bytes(), version).expect("an answer in another shape is one");
            assert_eq!(again.read("eth0").all, read.all);
        }
    }
});

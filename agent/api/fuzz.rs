//! Doors for the fuzz targets: requests as they come from the wire.
//!
//! One that is taken means the same when it is asked for as it is shown; one that is refused says why in as much as goes into an answer's headers.

use super::decode::Fields;
use super::filter::{ContainerFilter, EventFilter, ImageFilter, NetworkFilter, PruneFilter, PruneNetworksFilter};
use super::{explain, files, limits, networks, ports, session, spec, upgrade};
use berth::v1;
use berth_model::publish::PublishPolicy;
use berth_model::spec::LogConfig;
use berth_model::volume::check_volume_name;
use prost::Message;
use tonic::Status;

/// Peers of HTTP/2 take 16 KiB of headers, 32 bytes more counted for each (RFC 9113 section 6.5.2).
const MAX_HEADERS: usize = 16 << 10;

/// The first byte says which message the others are.
pub fn requests(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which % 12 {
        0..=2 => with(bytes, container),
        3 => with(bytes, resources),
        4 => with(bytes, update),
        5 => with(bytes, |r: v1::CreateNetworkRequest| {
            let mut f = Fields::default();
            let wanted = networks::decode(&mut f, r);
            if taken(f) {
                assert!(wanted.ipv4.is_none_or(|s| (8..=30).contains(&s.prefix_len) && s.subnet != s.gateway));
                assert!(wanted.ipv6.is_none_or(|s| (8..=126).contains(&s.prefix_len) && s.subnet != s.gateway));
                assert!(wanted.mtu.is_none_or(|mtu| (68..=65535).contains(&mtu)));
            }
        }),
        6 => with(bytes, |r: v1::UpdatePortsRequest| {
            let mut f = Fields::default();
            let (add, remove) = ports::decode_update(&mut f, &r, &PublishPolicy::default());
            if taken(f) {
                assert!(!(add.is_empty() && remove.is_empty()));
                let end = |port: u16, count: u16| u32::from(port) + u32::from(count) - 1;
                assert!(add.iter().chain(&remove).all(|p| end(p.container_port, p.count) <= 65535));
                assert!(add.iter().all(|p| p.addresses().iter().all(|a| a.is_loopback())), "beyond the policy");
            }
        }),
        7 => with(bytes, lists),
        8 => with(bytes, |r: v1::ExplainPortRequest| {
            let mut f = Fields::default();
            let question = explain::decode(&mut f, &r);
            assert!(!taken(f) || question.is_some(), "an error was lost");
        }),
        9 => with(bytes, |start: v1::CopyToStart| {
            let mut f = Fields::under("start.");
            let copy = files::copy_into(start, &mut f);
            if taken(f) {
                assert!(!copy.path.contains(&0) && !copy.name.contains(&b'/') && copy.name != b"..");
            }
        }),
        10 => with(bytes, |start: v1::UpgradeStart| match upgrade::decode(start) {
            Ok(asked) => assert!(asked.release.sha256.len() == 64 && !asked.id.is_empty()),
            Err(status) => fits(&status),
        }),
        _ => session::fuzz(bytes),
    }
}

/// Reads a message, and sees that it is written as the same one.
fn with<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8], then: impl FnOnce(M)) {
    let Ok(message) = M::decode(bytes) else { return };
    let written = message.encode_to_vec();
    assert!(M::decode(&written[..]).is_ok_and(|again| again == message), "{message:?}");
    then(message);
}

/// Whether the request is good.
fn taken(f: Fields) -> bool {
    f.done().inspect_err(fits).is_ok()
}

fn fits(status: &Status) {
    let mut headers = tonic::metadata::MetadataMap::new().into_headers();
    status.add_header(&mut headers).expect("a status that can be sent");
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size <= MAX_HEADERS - 512, "{size} bytes of headers: {}", status.message());
}

fn container(config: v1::ContainerConfig) {
    let (log, publish) = (LogConfig::default(), PublishPolicy { default: None, ..PublishPolicy::default() });
    let mut f = Fields::under("config.");
    let mut read = spec::decode(&mut f, config, &log, &publish);
    if !taken(f) {
        return;
    }
    // What is not asked for is the agent's to choose, before it is shown.
    read.new_privileges |= !read.no_new_privileges;
    let shown = spec::encode(&read);
    let mut f = Fields::under("config.");
    let again = spec::decode(&mut f, shown, &log, &publish);
    assert!(f.done().is_ok_and(|()| again == read), "{read:?}\nis shown as\n{again:?}");
    let paths = read.devices.iter().map(|d| &d.container_path).chain(read.mounts.iter().map(|m| &m.target));
    for path in paths.chain(&read.workdir) {
        assert!(path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == ".."), "{path:?}");
    }
    // They become lines of files in the container.
    let words = read.dns_search.iter().chain(&read.dns_options).chain(read.extra_hosts.iter().map(|h| &h.name));
    assert!(words.chain(&read.hostname).all(|w| !w.contains(|c: char| c.is_whitespace() || c.is_control())));
    assert!(read.sysctls.iter().all(|(key, value)| !key.contains('/') && !value.contains(char::is_control)));
}

fn resources(asked: v1::Resources) {
    let mut f = Fields::default();
    let read = limits::resources(&mut f, asked);
    if taken(f) {
        let mut f = Fields::default();
        assert_eq!(limits::resources(&mut f, limits::encode(&read)), read);
        assert!(f.done().is_ok());
        let (memory, swap) = (read.memory_bytes.unwrap_or(0), read.memory_swap_bytes.unwrap_or(-1));
        assert!(u64::try_from(swap).is_ok_and(|s| s >= memory) || swap == -1);
    }
}

fn update(asked: v1::ResourceUpdate) {
    let mut f = Fields::default();
    let read = limits::update(&mut f, Some(asked.clone())).resources;
    if taken(f) {
        // What is not asked for is not changed.
        let said = [asked.memory_bytes.is_some(), asked.cpu_shares.is_some(), asked.cpuset_cpus.is_some()];
        assert_eq!([read.memory_bytes.is_some(), read.cpu_shares.is_some(), read.cpuset_cpus.is_some()], said);
        assert!(read.blkio_weight.is_none_or(|w| w == 0 || (10..=1000).contains(&w)));
        assert!(read.block_devices.iter().all(|d| d.path.starts_with('/')));
    }
}

/// The filters of every list.
fn lists(request: v1::ListImagesRequest) {
    let filters = request.filters;
    let made = |name: &str| name.parse().ok().map(berth_model::Timestamp);
    let events = filters.iter().map(|f| v1::EventFilter { key: f.key.clone(), value: f.value.clone() }).collect();
    let mut all: [Fields; 6] = Default::default();
    ContainerFilter::decode(&mut all[0], filters.clone(), made);
    ImageFilter::decode(&mut all[1], filters.clone(), made);
    NetworkFilter::decode(&mut all[2], filters.clone());
    PruneFilter::decode(&mut all[3], &filters);
    PruneNetworksFilter::decode(&mut all[4], &filters);
    EventFilter::decode(&mut all[5], events);
    for (n, f) in all.into_iter().enumerate() {
        assert!(taken(f) || !filters.is_empty(), "list {n} refuses what it was not asked");
    }
    for filter in &filters {
        let _ = check_volume_name(&filter.value);
    }
}

//! Doors for the fuzz targets: what an agent finds on its disk, and what images and health checks say.

use crate::health;
use berth_model::event::Event;
use berth_model::image::{ImageConfig, ImageRecord};
use berth_model::network::NetworkRecord;
use berth_model::supervision::{HealthCheck, HealthState, ProbeResult};
use berth_model::volume::VolumeRecord;
use berth_model::{ContainerRecord, ContainerSpec, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

pub use crate::logs::fuzz as logs;

/// Rows of the database, each read as every kind of record: what is read is written as the same again.
pub fn records(bytes: &[u8]) {
    again::<ContainerRecord>(bytes);
    again::<ImageRecord>(bytes);
    again::<NetworkRecord>(bytes);
    again::<VolumeRecord>(bytes);
    again::<Event>(bytes);
}

fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&read).expect("a record has a text");
    // Fields that are not there are written with their defaults.
    assert!(written.len() <= 6 * bytes.len() + (16 << 10), "{} bytes out of {}", written.len(), bytes.len());
    let read_again: T = serde_json::from_slice(&written).expect("what was written");
    assert_eq!(read_again, read);
}

/// A health check of an image's configuration, and what its command writes.
pub fn health(bytes: &[u8]) {
    let image = ImageConfig { healthcheck: serde_json::from_slice(bytes).ok(), ..ImageConfig::default() };
    let asked = HealthCheck { timeout_ms: 250, ..HealthCheck::default() };
    for spec in [ContainerSpec::default(), ContainerSpec { health: asked, ..ContainerSpec::default() }] {
        let Some(check) = health::resolve(&spec, &image) else { continue };
        let least = Duration::from_millis(100);
        assert!(check.interval >= least && check.timeout >= least && check.start_interval >= least);
        assert!(!check.command.is_empty() && check.retries > 0);
        assert!(spec.health.timeout_ms == 0 || check.timeout == Duration::from_millis(250), "the request goes first");
        let (mut state, began) = (HealthState::default(), Timestamp(0));
        for (n, byte) in bytes.iter().take(16).enumerate() {
            let end = Timestamp(n as i64 * 1_000_000_000);
            let result = ProbeResult { start: end, end, exit_code: i32::from(byte % 2), output: health::shown(bytes) };
            assert!(result.output.len() <= 4096);
            state = health::judge(&check, &state, began, result);
            assert!(state.log.len() <= 5 && state.failing_streak <= n as u32 + 1);
        }
    }
}

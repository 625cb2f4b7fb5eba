//! What callers may take.

use super::Check;
use serde::Deserialize;
use std::time::Duration;

/// What one caller, and all of them, may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one request message that holds more than names.
    pub message_bytes: usize,
    /// Calls at once on one connection.
    pub streams_per_connection: u32,
    /// Connections at once, over all TCP listeners; a quarter for one caller, the last eighth for admins.
    pub connections: usize,
    /// Calls at once, over all connections, with the same parts; more are answered with RESOURCE_EXHAUSTED.
    pub calls: usize,
    /// TLS handshakes under way at once; the oldest give way to new ones.
    pub handshakes: usize,
    /// Seconds for a TLS handshake, and for the first bytes behind it.
    pub handshake_seconds: u64,
    /// Seconds for calls, except streams, Stop and Wait; a caller's own deadline may be shorter.
    pub request_seconds: u64,
    /// Seconds that running calls get when the agent stops.
    pub drain_seconds: u64,
    /// Seconds for the stop of all containers with `shutdown = "stop"`.
    pub shutdown_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 4 << 20,
            streams_per_connection: 256,
            connections: 1024,
            calls: 2048,
            handshakes: 64,
            handshake_seconds: 10,
            request_seconds: 600,
            drain_seconds: 10,
            shutdown_seconds: 60,
        }
    }
}

impl Limits {
    pub fn handshake(&self) -> Duration {
        Duration::from_secs(self.handshake_seconds)
    }
    pub fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(super) fn check(&self, check: Check<'_>) {
        let message = (64 << 10..=64 << 20).contains(&self.message_bytes);
        check(message, "limits.message_bytes", "must be 65536 to 67108864");
        let streams = (1..=10_000).contains(&self.streams_per_connection);
        check(streams, "limits.streams_per_connection", "must be 1 to 10000");
        check((1..=100_000).contains(&self.connections), "limits.connections", "must be 1 to 100000");
        check((1..=100_000).contains(&self.calls), "limits.calls", "must be 1 to 100000");
        check((1..=10_000).contains(&self.handshakes), "limits.handshakes", "must be 1 to 10000");
        check((1..=300).contains(&self.handshake_seconds), "limits.handshake_seconds", "must be 1 to 300");
        check((1..=86_400).contains(&self.request_seconds), "limits.request_seconds", "must be 1 to 86400");
        check((1..=3600).contains(&self.shutdown_seconds), "limits.shutdown_seconds", "must be 1 to 3600");
        check(self.drain_seconds <= 600, "limits.drain_seconds", "must be at most 600");
    }
}

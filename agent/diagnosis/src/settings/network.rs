//! Thresholds for what goes wrong between processes over the network.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Thresholds of rung 4, and of what is seen of rung 6 from one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// A connection attempt whose first packet was sent again so often gets no answer.
    pub syn_retransmits: u8,
    /// Nobody on the wire may have the address: then the network says so after three seconds. An attempt under way has to
    /// be older than this, be its first packet sent again or not (arp(7): three questions, a second apart).
    pub unreachable_after: Duration,
    /// An attempt that waited for this long without an answer counts, also if the application then gave it up.
    pub connect_patience: Duration,
    /// So many such attempts to one destination, and none that was answered, are reported.
    pub unanswered_attempts: u64,
    /// Refused attempts in the window from which on they are reported,
    pub refused_attempts: u64,
    /// if they are this share of the attempts.
    pub refused_share: f64,
    /// Back-off steps of the retransmission timer from which on a connection counts as dead,
    pub dead_backoff: u8,
    /// if the last acknowledgement is older than so many retransmission timeouts (without back-off).
    pub dead_timeouts: u32,
    /// A peer is well if it acknowledged something within this time, as long as others are dead.
    pub healthy_peer: Duration,
    /// Connections of one peer that end by its reset within `flapping_window`,
    pub flapping_resets: u64,
    /// if they are this share of those that ended.
    pub flapping_share: f64,
    /// See `flapping_resets`.
    pub flapping_window: Duration,
    /// A smaller share flaps as well if the peer resets so many times as often as in the `flapping_window` before,
    pub flapping_factor: f64,
    /// for this time.
    pub flapping_burst: Duration,
    /// Share of segments that had to be sent again,
    pub loss_share: f64,
    /// of at least so many.
    pub loss_segments: u64,
    /// A single client that loses segments is its own affair if its round trip is at least this long.
    pub far_client: Duration,
    /// Connections left in CLOSE_WAIT
    pub close_wait_count: usize,
    /// for at least this long.
    pub close_wait_age: Duration,
    /// Share of the local ports in use towards one destination.
    pub ports_share: f64,
    /// A wait for a name server's answer of this length is reported.
    pub dns_wait: Duration,
    /// Keepalive probes out without an answer.
    pub unanswered_probes: u8,
    /// Round trips of this length count as those between regions.
    pub region_round_trip: Duration,
    /// Requests over them in the window,
    pub region_requests: u64,
    /// and the share of the window that a connection spends waiting for them.
    pub region_share: f64,
    /// Exchanges with more bytes a request than this are bulk transfers, for which distance does not count.
    pub bulk_bytes: u64,
    /// How far back the balance of traffic with a peer is looked at: what it was before, and what it is now,
    pub balance_window: Duration,
    /// with at least so much time on either side of the change.
    pub balance_length: Duration,
    /// Where more goes in one direction and nothing else has changed it may be a backup or a copy: that has to go on for so
    /// long.
    pub balance_backup: Duration,
    /// How far off the ratio of bytes sent to bytes received has to be, as a factor,
    pub balance_factor: f64,
    /// with so many bytes exchanged on each side of the change.
    pub balance_bytes: u64,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        NetworkSettings {
            syn_retransmits: 2,
            unreachable_after: Duration::from_millis(3200),
            connect_patience: Duration::from_millis(400),
            unanswered_attempts: 2,
            refused_attempts: 3,
            refused_share: 0.5,
            dead_backoff: 3,
            dead_timeouts: 3,
            healthy_peer: Duration::from_secs(10),
            flapping_resets: 5,
            flapping_share: 0.5,
            flapping_window: Duration::from_secs(60),
            flapping_factor: 10.0,
            flapping_burst: Duration::from_secs(10),
            loss_share: 0.02,
            loss_segments: 100,
            far_client: Duration::from_millis(20),
            close_wait_count: 10,
            close_wait_age: Duration::from_secs(60),
            ports_share: 0.8,
            dns_wait: Duration::from_secs(1),
            unanswered_probes: 2,
            region_round_trip: Duration::from_millis(50),
            region_requests: 3,
            region_share: 0.3,
            bulk_bytes: 256 << 10,
            balance_window: Duration::from_secs(1200),
            balance_length: Duration::from_secs(60),
            balance_backup: Duration::from_secs(300),
            balance_factor: 10.0,
            balance_bytes: 10 << 20,
        }
    }
}

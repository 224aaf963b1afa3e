//! Thresholds. Structure (a proof) needs none; these are for waits that could still end.

mod network;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::network::NetworkSettings;

/// Every threshold, with the project's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A wait that only a signal or somebody unseen could end is suspected after this time.
    pub suspect_after: Duration,
    /// A pipe that nobody drained for this long stands still.
    pub pipe_stall: Duration,
    /// A Unix socket whose peer did not read or accept for this long stands still.
    pub unix_stall: Duration,
    /// A wait for a file lock of this length is reported.
    pub file_lock: Duration,
    /// A stopped process that kept somebody waiting for this long is reported.
    pub stopped: Duration,
    /// A zombie of this age is reported by itself.
    pub zombie_age: Duration,
    /// So many zombies of one parent are reported when younger, if they are at least `zombie_settled` old.
    pub zombie_count: usize,
    /// See `zombie_count`.
    pub zombie_settled: Duration,
    /// An orphan younger than this is left in peace.
    pub orphan_age: Duration,
    /// Share of one CPU above which an orphan counts as burning it.
    pub orphan_cpu_share: f64,
    /// Share of a process's busy thread time that queueing for one lock may take.
    pub contention_share: f64,
    /// Mean number of waiters from which on a lock counts as contended.
    pub contention_waiters: f64,
    /// A wait for a mutex of this length is contention without any sampling.
    pub contention_wait: Duration,
    /// Growth of a process tree, processes a second, that is reported if it goes on.
    pub churn_growth: f64,
    /// Least growth over the window, processes.
    pub churn_least: usize,
    /// The window that rates need.
    pub rate_window: Duration,
    /// What goes wrong over the network.
    pub network: NetworkSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            suspect_after: Duration::from_secs(30),
            pipe_stall: Duration::from_secs(5),
            unix_stall: Duration::from_secs(3),
            file_lock: Duration::from_secs(5),
            stopped: Duration::from_secs(5),
            zombie_age: Duration::from_secs(30),
            zombie_count: 5,
            zombie_settled: Duration::from_secs(1),
            orphan_age: Duration::from_secs(5),
            orphan_cpu_share: 0.5,
            contention_share: 0.3,
            contention_waiters: 2.0,
            contention_wait: Duration::from_secs(5),
            churn_growth: 10.0,
            churn_least: 50,
            rate_window: Duration::from_millis(4500),
            network: NetworkSettings::default(),
        }
    }
}

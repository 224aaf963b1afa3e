//! Thresholds for what grows until something breaks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Thresholds of the modes that watch memory, descriptors and threads grow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrowthSettings {
    /// Threads that a process has to gain over the window, in a steady rise.
    pub threads_least: u32,
    /// Descriptors, likewise.
    pub descriptors_least: u32,
    /// Share of its limit on descriptors from which on a process is about to run out, growing or not,
    pub descriptors_share: f64,
    /// if the limit is at least this: a sandbox may set a lower one so that nothing can be opened any more.
    pub descriptors_limit_least: u64,
    /// A process younger than this may be warming up: its growth is only suspected to go on.
    pub warm_up: Duration,
    /// What is going to run out within this time is critical.
    pub soon: Duration,
    /// Share of its limit by which anonymous memory has to grow over the window.
    pub memory_share: f64,
    /// A kill for want of memory is reported for this long.
    pub kill_age: Duration,
}

impl Default for GrowthSettings {
    fn default() -> Self {
        GrowthSettings {
            threads_least: 10,
            descriptors_least: 10,
            descriptors_share: 0.95,
            descriptors_limit_least: 64,
            warm_up: Duration::from_secs(30),
            soon: Duration::from_secs(60),
            memory_share: 0.05,
            kill_age: Duration::from_secs(300),
        }
    }
}

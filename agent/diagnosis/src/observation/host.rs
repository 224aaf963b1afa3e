//! Facts about the host and its control groups, and details of the processes that a report names.

use serde::{Deserialize, Serialize};

use super::NameObservation;

/// Facts that do not change while the tool runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostObservation {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Boot id (random(4)); empty if unknown.
    pub boot_id: String,
    /// CPUs.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Largest pid plus one (kernel.pid_max); 0 if unknown.
    pub pid_max: u64,
    /// Names of addresses that the host has at hand.
    pub names: Vec<NameObservation>,
}

/// A control group's limit on its number of tasks (the `pids` controller, v1 or v2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsLimitObservation {
    /// Path of the group below the controller's root.
    pub path: String,
    /// Tasks in it now.
    pub current: u64,
    /// The limit.
    pub max: u64,
    /// How often a fork failed for it (`max` in pids.events).
    pub refused: u64,
    /// Processes in it, at most the first few hundred.
    pub members: Vec<u32>,
}

/// What a report says about a process beyond what is in the picture. Secrets are already redacted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessDetail {
    /// Process id.
    pub pid: u32,
    /// Start time of the process, ns of `CLOCK_BOOTTIME`, to be sure that it is the same one.
    pub start_ns: u64,
    /// Control group path, as in /proc/PID/cgroup.
    pub cgroup: Option<String>,
    /// Command line, redacted.
    pub command: Option<String>,
}

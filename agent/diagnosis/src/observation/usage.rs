//! What processes and their control groups use of memory and descriptors, and how far they may go.

use serde::{Deserialize, Serialize};

use super::Comm;

/// One reading, at most once a second; with a picture, or between two pictures that are further apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageObservation {
    /// When it was read, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Processes whose figures are of this moment: those that were read, and those that have not run since they were.
    pub processes: Vec<ProcessUsageObservation>,
    /// Limits of the processes that grow or are large.
    pub limits: Vec<ProcessLimitsObservation>,
    /// The control groups of those processes that have a limit on memory, and those above them.
    pub groups: Vec<MemoryGroupObservation>,
    /// The host as a whole.
    pub host: HostUsageObservation,
    /// Kills for want of memory that the kernel's log told of since the last reading; at the first one, since boot.
    pub kills: Vec<OomKillObservation>,
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUsageObservation {
    /// Process id.
    pub pid: u32,
    /// Start time of its leader, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// Resident anonymous memory, bytes; without what was swapped out.
    pub anonymous_bytes: u64,
    /// Resident memory of files and shared memory, bytes.
    pub shared_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Data and stack of that, bytes.
    pub data_bytes: u64,
    /// Open descriptors; `None` if the kernel does not count them, or not for this reader.
    pub descriptors: Option<u32>,
    /// Threads that are not yet gone.
    pub threads: u32,
}

/// How far a process may go. `None` stands for no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimitsObservation {
    /// Process id.
    pub pid: u32,
    /// Start time of its leader, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// Soft limit on descriptors (RLIMIT_NOFILE).
    pub descriptors: Option<u64>,
    /// Soft limit on the address space, bytes (RLIMIT_AS).
    pub virtual_bytes: Option<u64>,
    /// Soft limit on data, bytes (RLIMIT_DATA).
    pub data_bytes: Option<u64>,
    /// Swapped out, bytes.
    pub swapped_bytes: u64,
    /// Its control group for memory, as the path in that hierarchy; empty if unknown.
    pub memory_group: String,
    /// Its control group for the number of tasks, likewise.
    pub pids_group: String,
}

/// A control group that has a limit on memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryGroupObservation {
    /// Path below the root of the hierarchy, `/` first.
    pub path: String,
    /// Charged to it, bytes (v2: memory.current; v1: memory.usage_in_bytes).
    pub used_bytes: u64,
    /// Of that the kernel can drop: pages of files, bytes.
    pub reclaimable_bytes: u64,
    /// Its limit, bytes (memory.max; memory.limit_in_bytes); `None` for none.
    pub limit_bytes: Option<u64>,
    /// Where it is slowed down, bytes (memory.high); `None` for nowhere.
    pub high_bytes: Option<u64>,
    /// Processes killed in it for want of memory so far (memory.events, memory.oom_control).
    pub kills: u64,
    /// How often its limit was met (`max` in memory.events; memory.failcnt).
    pub limit_hits: u64,
}

/// Memory, kills and threads of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostUsageObservation {
    /// Memory, bytes; 0 if unknown.
    pub memory_bytes: u64,
    /// What can be had without swapping, bytes (MemAvailable).
    pub available_bytes: u64,
    /// Free swap, bytes.
    pub swap_free_bytes: u64,
    /// Processes killed for want of memory since boot (`oom_kill` in /proc/vmstat); `None` before Linux 4.13.
    pub kills: Option<u64>,
    /// Share of the last 10 s in which somebody waited for memory, percent (`some avg10` in /proc/pressure/memory).
    pub pressure_percent: Option<f64>,
    /// Largest number of threads of the host (kernel.threads-max, or kernel.pid_max if that is less); 0 if unknown.
    pub threads_max: u64,
}

/// A kill for want of memory, as the kernel's log tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomKillObservation {
    /// When, ns of the log's clock, which is about `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The process that was killed.
    pub victim: u32,
    /// Its command name.
    pub comm: Comm,
    /// The control group whose limit it was; `None` if the whole host ran out.
    pub group: Option<String>,
    /// What the log names as the constraint, such as `CONSTRAINT_MEMCG`; empty if the log dropped that line.
    pub constraint: String,
    /// Who asked for memory and did not get it, by command name; empty if the log dropped that line.
    pub invoker: Comm,
    /// Anonymous memory of the victim, bytes.
    pub anonymous_bytes: u64,
}

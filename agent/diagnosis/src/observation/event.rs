//! What happened between two pictures.

use serde::{Deserialize, Serialize};

use super::{Comm, FlowObservation};

/// Process life-cycle events between two pictures, counted in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventsObservation {
    /// Start of the span, `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// End of the span.
    pub to_ns: u64,
    /// Processes (not threads) forked in the span, by parent.
    pub forks: Vec<(u32, u64)>,
    /// Processes forked in the span, by anybody, those that fell out of the map above included.
    pub forks_total: u64,
    /// Programs executed in the span.
    pub execs_total: u64,
    /// Processes that exited in the span.
    pub exits_total: u64,
    /// The exits that left living children behind.
    pub exits: Vec<ExitObservation>,
    /// Such exits that were lost because nobody read fast enough.
    pub exits_lost: u64,
    /// TCP connections by process and destination.
    pub flows: Vec<FlowObservation>,
    /// Events of connections that are in no flow: a map was full, or they came and went between two pictures.
    pub flows_lost: u64,
}

/// A process that died and left children behind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitObservation {
    /// When, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Its process id.
    pub pid: u32,
    /// Its command name.
    pub comm: Comm,
    /// Wait status, as wait(2) gives it.
    pub exit_code: i32,
    /// Its session.
    pub sid: u32,
    /// Its process group.
    pub pgid: u32,
    /// The first of its living children, and 0s.
    pub children: [u32; 8],
}

impl ExitObservation {
    /// The signal that killed it, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.exit_code & 0x7f).filter(|signal| *signal != 0)
    }
}

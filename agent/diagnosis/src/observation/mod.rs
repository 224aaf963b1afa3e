//! What probes hand to the diagnosis: facts only, with the time inside.
//!
//! Times ending in `_ns` are nanoseconds of `CLOCK_MONOTONIC` unless the field says otherwise. Identifiers that are
//! opaque (addresses of kernel objects) serve for equality within one boot only.

mod descriptor;
mod event;
mod host;
mod network;
mod sight;
mod task;
mod usage;

pub use descriptor::{
    DescriptorObservation, FdObject, FileId, InetObservation, LockKind, LockObservation, PipeFill,
    PipeObservation, SocketAddress, SocketId, TcpFigures, Turn, UnixKind, UnixObservation, UnixState, Watch,
    WriteCallsObservation,
};
pub use event::{EventsObservation, ExitObservation};
pub use host::{HostObservation, PidsLimitObservation, ProcessDetail};
pub use network::{
    Direction, FlowKey, FlowObservation, LATENCY_CLASSES, NameObservation, NetworkObservation,
    OwnerlessObservation, RECENT_STARTS,
};
pub use sight::{Sight, Signal, Source, View};
pub use task::{
    BlockedCall, Call, Comm, FutexCall, FutexOp, FutexWords, SignalMasks, TaskObservation, TaskState, WaitFor,
};
pub use usage::{
    HostUsageObservation, MemoryGroupObservation, OomKillObservation, ProcessLimitsObservation,
    ProcessUsageObservation, UsageObservation,
};

use serde::{Deserialize, Serialize};

/// Nanoseconds of a clock tick of /proc: USER_HZ is 100 on x86_64 and aarch64, whatever the kernel's own HZ.
pub const TICK_NS: u64 = 10_000_000;

/// One picture of the host: every thread, and every descriptor that somebody can wait on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// When the walk began, `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When the walk ended, `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
    /// The wall clock at `began_ns`, nanoseconds since the Unix epoch.
    pub unix_ns: i64,
    /// `CLOCK_BOOTTIME - CLOCK_MONOTONIC`: the time spent suspended, so that start times can be compared.
    pub suspended_ns: u64,
    /// Every thread, by tid; zombies included.
    pub tasks: Vec<TaskObservation>,
    /// Descriptors of pipes, sockets, event polls, terminals and locked files.
    pub descriptors: Vec<DescriptorObservation>,
    /// Pipes and FIFOs behind those descriptors, each once.
    pub pipes: Vec<PipeObservation>,
    /// Unix sockets, each once.
    pub unix_sockets: Vec<UnixObservation>,
    /// TCP and UDP sockets, each once.
    pub inet_sockets: Vec<InetObservation>,
    /// The kernel's file lock table; read only when some thread waits in a lock call.
    pub locks: Vec<LockObservation>,
    /// Who of the holders of an inherited write end ever wrote; of those that were asked.
    pub write_calls: Vec<WriteCallsObservation>,
    /// Limits on the number of processes, of the control groups that have one.
    pub pids_limits: Vec<PidsLimitObservation>,
    /// Network namespaces with their counters; read at most once a second, and repeated in between, as their times say.
    pub networks: Vec<NetworkObservation>,
    /// TCP sockets without a descriptor, counted; read with `networks`.
    pub ownerless: Vec<OwnerlessObservation>,
    /// What processes use of memory and descriptors, if it was read with this picture: at most once a second.
    pub usage: Option<Box<UsageObservation>>,
    /// What this picture could see, and what it could not.
    pub sight: Sight,
    /// Rows that were dropped because they contradicted each other: a process or thread that changed mid-walk.
    pub torn_rows: u32,
}

impl Picture {
    /// Length of the walk, nanoseconds.
    pub fn walk_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.began_ns)
    }
}

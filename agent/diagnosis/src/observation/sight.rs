//! What a source can see: each signal with its view, so that a detector can tell silence from blindness.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where observations come from, best first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// BPF iterators, with the memory of blocked threads (futex words, poll sets).
    BpfIter,
    /// BPF iterators without it.
    BpfIterPlain,
    /// /proc, all processes.
    Procfs,
    /// /proc, own processes only.
    #[default]
    ProcfsOwn,
}

impl Source {
    /// The name used in evidence.
    pub fn name(self) -> &'static str {
        match self {
            Source::BpfIter | Source::BpfIterPlain => "bpf-iter",
            Source::Procfs | Source::ProcfsOwn => "procfs",
        }
    }
}

/// A kind of fact that detectors build on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Signal {
    /// State, parent, start time of every thread.
    Tasks,
    /// The system call of blocked threads.
    SystemCalls,
    /// Futex words of blocked threads.
    FutexWords,
    /// For how long a thread has been off the CPU.
    OffCpuAge,
    /// Who holds which descriptor.
    Descriptors,
    /// How full pipes are.
    PipeFill,
    /// Unix sockets with their peers and queues.
    UnixSockets,
    /// TCP and UDP sockets.
    InetSockets,
    /// What TCP knows of path and peer: round trips, retransmissions, windows, times.
    TcpFigures,
    /// TCP sockets without a descriptor.
    OwnerlessSockets,
    /// Counters of network namespaces.
    NetworkCounters,
    /// Connection attempts and their fates, as they happen.
    ConnectEvents,
    /// How attempts and connections end: refused, unreachable, reset.
    ConnectionFates,
    /// Turns of requests and answers on connections.
    RequestTurns,
    /// /proc/locks.
    FileLocks,
    /// Exits as they happen.
    ExitEvents,
    /// Forks, counted.
    ForkCounts,
    /// pids limits of control groups.
    PidsLimits,
    /// What each process uses of memory.
    MemoryUse,
    /// How many descriptors each process has open.
    DescriptorCounts,
    /// Limits on memory and descriptors, of processes and control groups.
    UsageLimits,
    /// Kills for want of memory, as the kernel's log tells them.
    OomLog,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Signal; 22] = [
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::FutexWords,
        Signal::OffCpuAge,
        Signal::Descriptors,
        Signal::PipeFill,
        Signal::UnixSockets,
        Signal::InetSockets,
        Signal::TcpFigures,
        Signal::OwnerlessSockets,
        Signal::NetworkCounters,
        Signal::ConnectEvents,
        Signal::ConnectionFates,
        Signal::RequestTurns,
        Signal::FileLocks,
        Signal::ExitEvents,
        Signal::ForkCounts,
        Signal::PidsLimits,
        Signal::MemoryUse,
        Signal::DescriptorCounts,
        Signal::UsageLimits,
        Signal::OomLog,
    ];

    /// What the signal is, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Signal::Tasks => "threads and their states",
            Signal::SystemCalls => "system calls of blocked threads",
            Signal::FutexWords => "lock owners (futex words)",
            Signal::OffCpuAge => "time off the CPU",
            Signal::Descriptors => "who holds which descriptor",
            Signal::PipeFill => "fill of pipes",
            Signal::UnixSockets => "Unix sockets with peer and queues",
            Signal::InetSockets => "TCP and UDP sockets",
            Signal::TcpFigures => "round trips, retransmissions and windows of TCP",
            Signal::OwnerlessSockets => "TCP sockets without a descriptor",
            Signal::NetworkCounters => "counters of network namespaces",
            Signal::ConnectEvents => "connection attempts as they happen",
            Signal::ConnectionFates => "refusals and resets of connections",
            Signal::RequestTurns => "turns of requests and answers",
            Signal::FileLocks => "file locks and their waiters",
            Signal::ExitEvents => "exits as they happen",
            Signal::ForkCounts => "forks, counted",
            Signal::PidsLimits => "limits on the number of processes",
            Signal::MemoryUse => "memory of each process",
            Signal::DescriptorCounts => "number of descriptors of each process",
            Signal::UsageLimits => "limits on memory and descriptors",
            Signal::OomLog => "the kernel's log of kills for want of memory",
        }
    }
}

/// How well a signal is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// For every process.
    Full,
    /// For some only, or less well: why, and what would help.
    Partial {
        /// What is missing and why.
        why: String,
        /// What the reader can do about it.
        remedy: String,
    },
    /// Not at all: why, and what would help.
    Blind {
        /// Why.
        why: String,
        /// What the reader can do about it.
        remedy: String,
    },
}

/// Everything a picture could and could not see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// The main source.
    pub source: Source,
    /// The view of each signal; a signal that is not listed was not looked for.
    pub views: Vec<(Signal, View)>,
}

impl Sight {
    /// Sets the view of one signal, replacing an earlier one.
    pub fn set(&mut self, signal: Signal, view: View) {
        self.views.retain(|(known, _)| *known != signal);
        self.views.push((signal, view));
    }

    /// The view of one signal.
    pub fn view(&self, signal: Signal) -> Option<&View> {
        self.views
            .iter()
            .find(|(known, _)| *known == signal)
            .map(|(_, view)| view)
    }

    /// Whether a signal is seen at all.
    pub fn sees(&self, signal: Signal) -> bool {
        matches!(self.view(signal), Some(View::Full | View::Partial { .. }))
    }
}

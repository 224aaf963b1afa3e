//! Detectors: pure functions from what was observed to drafts of findings. One file each, one table of them all.

mod asymmetric_traffic;
mod backpressure;
mod black_hole;
mod breaker_open;
mod cascading_wait;
mod close_wait_leak;
mod connect_refused;
mod connect_timeout;
mod cross_region_latency;
mod deadlock;
mod dns_stall;
mod fd_leak;
mod file_lock_wait;
#[cfg(test)]
pub(crate) mod fixture;
mod flapping;
mod growing;
mod half_open;
mod lock_contention;
mod memory_growth;
mod metastable;
mod oom_kill;
mod orphan;
mod packet_loss;
mod partition;
mod peer;
mod pipe_stall;
mod port_exhaustion;
mod process_churn;
mod process_deadlock;
mod retry_amplification;
mod retry_storm;
mod service;
mod stopped_process;
#[cfg(test)]
mod tests;
mod thread_leak;
mod thread_pile_up;
mod unix_socket_stall;
mod zombie;

use std::net::SocketAddr;
use std::time::Duration;

use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{Knot, Node, WaitGraph};
use crate::index::Index;
use crate::mode::Mode;
use crate::observation::{HostObservation, Picture, Signal, Source, TaskObservation, TaskState};
use crate::settings::Settings;
use crate::window::Window;

/// Everything a detector may look at.
pub struct Context<'a> {
    /// The window.
    pub window: &'a Window,
    /// Its last picture.
    pub picture: &'a Picture,
    /// The picture, indexed.
    pub index: &'a Index<'a>,
    /// The wait graph of the picture.
    pub graph: &'a WaitGraph,
    /// The knots of the graph.
    pub knots: &'a [Knot],
    /// Facts of the host.
    pub host: &'a HostObservation,
    /// Thresholds.
    pub settings: &'a Settings,
}

impl Context<'_> {
    /// The source's name, for evidence.
    pub fn source(&self) -> Source {
        self.picture.sight.source
    }

    /// How long ago a moment of `CLOCK_MONOTONIC` was when the picture began.
    pub fn age(&self, since_ns: u64) -> Duration {
        Duration::from_nanos(self.picture.began_ns.saturating_sub(since_ns))
    }

    /// How long a thread has been waiting; `None` if it does not, or if that is unknown.
    pub fn waiting(&self, tid: u32) -> Option<Duration> {
        self.graph.wait(tid)?.since_ns.map(|since| self.age(since))
    }

    /// Threads and processes are named by their command name.
    pub fn comm(&self, pid: u32) -> String {
        self.index
            .process(pid)
            .map_or_else(|| "?".into(), |task| task.comm.to_string())
    }

    /// Whether a process waits, directly or through others, for a person at a terminal: then nothing is wrong.
    pub fn awaits_person(&self, pid: u32) -> bool {
        self.index.threads(pid).iter().any(|task| {
            self.graph
                .reach(Node::Thread(task.tid))
                .iter()
                .any(|(node, _)| *node == Node::Terminal)
        })
    }

    /// Whether every living thread of a process is stopped by a signal.
    pub fn is_stopped(&self, pid: u32) -> bool {
        let living = |task: &&&TaskObservation| !matches!(task.state, TaskState::Zombie | TaskState::Dead);
        let mut living = self.index.threads(pid).iter().filter(living).peekable();
        living.peek().is_some() && living.all(|task| task.state == TaskState::Stopped)
    }

    /// Whether all these threads wait in one and the same knot: then the knot is the finding.
    pub fn in_one_knot(&self, tids: &[u32]) -> bool {
        self.knots
            .iter()
            .any(|knot| tids.iter().all(|tid| knot.threads.contains(tid)))
    }

    /// Whether a process outlived the one that started it, and did not found a session of its own (setsid(2)): the kernel
    /// knows that its parent did not fork it, or its parent is of another session, in which a process does not begin.
    pub fn outlived_parent(&self, task: &TaskObservation) -> bool {
        let Some(parent) = self.index.process(task.parent) else {
            return false;
        };
        let of_another_session = task.sid != 0 && parent.sid != task.sid;
        task.sid != task.tgid && task.ns_tgid != 1 && (task.adopted || of_another_session)
    }

    /// Whether one process is the parent, the parent's parent, ... of another.
    pub fn is_ancestor(&self, ancestor: u32, of: u32) -> bool {
        let mut at = of;
        // Bounded: a picture can hold a circle of parents if pids were reused during the walk.
        for _ in 0..256 {
            match self.index.process(at).map(|task| task.parent) {
                Some(parent) if parent == ancestor => return true,
                Some(parent) if parent != 0 && parent != at => at = parent,
                _ => return false,
            }
        }
        false
    }
}

/// A process, or one thread of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    /// Process id.
    pub pid: u32,
    /// Thread id, if one thread is meant.
    pub tid: Option<u32>,
}

impl Party {
    /// A process.
    pub fn process(pid: u32) -> Self {
        Party { pid, tid: None }
    }

    /// A thread.
    pub fn thread(task: &TaskObservation) -> Self {
        Party {
            pid: task.tgid,
            tid: Some(task.tid),
        }
    }
}

/// A finding before it has an id, a cause and a date.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The mode.
    pub mode: Mode,
    /// How bad.
    pub severity: Severity,
    /// How sure.
    pub confidence: Confidence,
    /// The culprit.
    pub subject: Party,
    /// The other parties.
    pub others: Vec<(Role, Party)>,
    /// The threads that stand for the finding in the graph, besides those of the subject: the members of a knot.
    pub members: Vec<u32>,
    /// Since when, `CLOCK_MONOTONIC` ns.
    pub since_ns: Option<u64>,
    /// One sentence.
    pub summary: String,
    /// What proves it.
    pub evidence: Vec<Evidence>,
    /// The thread at which the wait chain begins.
    pub chain_from: Option<u32>,
    /// The connection or destination that it is about: the local end, if it is one connection, and the remote one.
    pub flow: Option<(Option<SocketAddr>, SocketAddr)>,
    /// Processes that the subject depends on, be there a thread that waits for them just now or not: the listener that it
    /// connects to, the peer of its connections.
    pub depends_on: Vec<u32>,
}

impl Draft {
    /// A finding about a process: a warning that is likely, with nothing else known yet.
    pub(crate) fn of_process(mode: Mode, pid: u32, summary: String) -> Self {
        Draft {
            mode,
            severity: Severity::Warning,
            confidence: Confidence::Likely,
            subject: Party::process(pid),
            others: Vec::new(),
            members: Vec::new(),
            since_ns: None,
            summary,
            evidence: Vec::new(),
            chain_from: None,
            flow: None,
            depends_on: Vec::new(),
        }
    }
}

/// A row of the table.
pub struct Detector {
    /// What it detects.
    pub mode: Mode,
    /// The signals without which it is blind.
    pub needs: &'static [Signal],
    /// Signals that make it see more, or sooner.
    pub helped_by: &'static [Signal],
    /// The window that it needs to say that nothing is wrong; `None` if a picture suffices.
    pub needs_window: Option<fn(&Settings) -> Duration>,
    /// The detector.
    pub detect: fn(&Context<'_>) -> Vec<Draft>,
    /// What in this very picture it cannot judge, if there is such a thing.
    pub blind_spot: Option<fn(&Context<'_>) -> Option<BlindSpot>>,
}

/// Something in a picture that a detector cannot judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlindSpot {
    /// What, and why.
    pub why: String,
    /// What would help.
    pub remedy: String,
}

/// Every detector.
pub static DETECTORS: &[Detector] = &[
    memory_growth::DETECTOR,
    oom_kill::DETECTOR,
    fd_leak::DETECTOR,
    deadlock::DETECTOR,
    lock_contention::DETECTOR,
    zombie::DETECTOR,
    orphan::DETECTOR,
    pipe_stall::DETECTOR,
    process_deadlock::DETECTOR,
    unix_socket_stall::DETECTOR,
    file_lock_wait::DETECTOR,
    stopped_process::DETECTOR,
    process_churn::DETECTOR,
    connect_timeout::DETECTOR,
    connect_refused::DETECTOR,
    black_hole::DETECTOR,
    partition::DETECTOR,
    flapping::DETECTOR,
    packet_loss::DETECTOR,
    close_wait_leak::DETECTOR,
    port_exhaustion::DETECTOR,
    dns_stall::DETECTOR,
    half_open::DETECTOR,
    cross_region_latency::DETECTOR,
    asymmetric_traffic::DETECTOR,
    thread_leak::DETECTOR,
    thread_pile_up::DETECTOR,
    backpressure::DETECTOR,
    retry_storm::DETECTOR,
    retry_amplification::DETECTOR,
    cascading_wait::DETECTOR,
    metastable::DETECTOR,
    breaker_open::DETECTOR,
];

/// "1 thread", "3 threads".
pub(crate) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

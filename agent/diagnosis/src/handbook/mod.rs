//! The handbook: what each rung and each failure mode means, how to confirm it, and what to do.
//!
//! The texts are TOML files below `handbook/`, compiled in. Nothing is read at run time, and only
//! the page asked for is parsed. A mode without a page does not compile; a page that does not parse
//! or lacks a section fails the tests of this module.

mod ladder;
mod mode_page;
mod programs;
mod prose;
mod quiz;
mod rung_page;
#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;

pub use ladder::{Ladder, Step};
pub use mode_page::{Confirm, MistakenFor, ModePage};
pub use programs::{Origin, Program, Programs};
pub use prose::Prose;
pub use quiz::{Choice, Question, Tempting};
pub use rung_page::{Failure, Note, NoteKind, Primitive, Reading, ReadingKind, RungPage};

use crate::mode::{Mode, Rung};

/// The way into the handbook; every page is parsed when asked for.
#[derive(Clone, Copy, Debug)]
pub struct Handbook;

impl Handbook {
    /// The page of a failure mode.
    pub fn mode(mode: Mode) -> ModePage {
        parse(mode_text(mode))
    }

    /// The page of a rung.
    pub fn rung(rung: Rung) -> RungPage {
        parse(rung_text(rung))
    }

    /// The overview: all rungs, and how to use them.
    pub fn ladder() -> Ladder {
        parse(include_str!("../../handbook/ladder.toml"))
    }

    /// The self-test, in the order in which to ask.
    pub fn quiz() -> Vec<Question> {
        parse::<quiz::Quiz>(include_str!("../../handbook/quiz.toml")).questions
    }

    /// The programs that the pages' commands start, and what the placeholders in them stand for.
    pub fn programs() -> Programs {
        parse(include_str!("../../handbook/programs.toml"))
    }
}

/// Reads one of the texts compiled in, all of which the tests of this module parse.
fn parse<T: DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).expect("the tests parse every text of the handbook")
}

/// Maps each mode to its file. The match is exhaustive and `include_str!` needs the file, so neither
/// a missing row nor a missing page compiles.
macro_rules! mode_texts {
    ($( $variant:ident $file:literal; )*) => {
        /// The text of a mode's page.
        fn mode_text(mode: Mode) -> &'static str {
            match mode {
                $( Mode::$variant => include_str!(concat!("../../handbook/modes/", $file, ".toml")), )*
            }
        }
    };
}

mode_texts! {
    CpuSpin "cpu-spin";
    MemoryGrowth "memory-growth";
    OomKill "oom-kill";
    FileNotFoundStorm "file-not-found-storm";
    SyscallErrorStorm "syscall-error-storm";
    CrashLoop "crash-loop";
    DiskStall "disk-stall";
    FdLeak "fd-leak";
    Deadlock "deadlock";
    LockContention "lock-contention";
    ThreadPileUp "thread-pile-up";
    RunQueueStarvation "run-queue-starvation";
    Livelock "livelock";
    ThreadLeak "thread-leak";
    Zombie "zombie";
    Orphan "orphan";
    PipeStall "pipe-stall";
    ProcessDeadlock "process-deadlock";
    UnixSocketStall "unix-socket-stall";
    FileLockWait "file-lock-wait";
    StoppedProcess "stopped-process";
    ProcessChurn "process-churn";
    ConnectTimeout "connect-timeout";
    ConnectRefused "connect-refused";
    BlackHole "black-hole";
    Partition "partition";
    Flapping "flapping";
    PacketLoss "packet-loss";
    CloseWaitLeak "close-wait-leak";
    PortExhaustion "port-exhaustion";
    DnsStall "dns-stall";
    HalfOpen "half-open";
    RetryStorm "retry-storm";
    RetryAmplification "retry-amplification";
    CascadingWait "cascading-wait";
    Backpressure "backpressure";
    Metastable "metastable";
    BreakerOpen "breaker-open";
    Ordering "ordering";
    CrossRegionLatency "cross-region-latency";
    AsymmetricTraffic "asymmetric-traffic";
    StaleRead "stale-read";
    SplitBrain "split-brain";
    LeaderFlapping "leader-flapping";
    Consistency "consistency";
}

/// The text of a rung's page.
fn rung_text(rung: Rung) -> &'static str {
    match rung {
        Rung::Thread => include_str!("../../handbook/rungs/1.toml"),
        Rung::Threads => include_str!("../../handbook/rungs/2.toml"),
        Rung::Processes => include_str!("../../handbook/rungs/3.toml"),
        Rung::Network => include_str!("../../handbook/rungs/4.toml"),
        Rung::Services => include_str!("../../handbook/rungs/5.toml"),
        Rung::Regions => include_str!("../../handbook/rungs/6.toml"),
    }
}

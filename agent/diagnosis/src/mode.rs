//! The closed table of failure modes: one row each with its stable id, its rung and its title.
//!
//! Everything that lists modes (help, handbook, coverage, metrics, tests) iterates over [`Mode::ALL`].

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A rung of the systems ladder, 1 to 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(into = "u8", try_from = "u8")]
#[schemars(with = "u8")]
pub enum Rung {
    /// One process, one thread.
    Thread = 1,
    /// One process, many threads.
    Threads = 2,
    /// One host, many processes.
    Processes = 3,
    /// Many hosts, one network.
    Network = 4,
    /// Many services, one system.
    Services = 5,
    /// Many regions, one product.
    Regions = 6,
}

impl Rung {
    /// All rungs, lowest first.
    pub const ALL: [Rung; 6] = [
        Rung::Thread,
        Rung::Threads,
        Rung::Processes,
        Rung::Network,
        Rung::Services,
        Rung::Regions,
    ];

    /// The rung's number on the ladder, 1 to 6.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Where the rung stands, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Rung::Thread => "one process, one thread",
            Rung::Threads => "one process, many threads",
            Rung::Processes => "one host, many processes",
            Rung::Network => "many hosts, one network",
            Rung::Services => "many services, one system",
            Rung::Regions => "many regions, one product",
        }
    }
}

impl From<Rung> for u8 {
    fn from(rung: Rung) -> u8 {
        rung.number()
    }
}

impl TryFrom<u8> for Rung {
    type Error = UnknownName;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Rung::ALL
            .into_iter()
            .find(|rung| rung.number() == number)
            .ok_or_else(|| UnknownName {
                kind: "rung",
                given: number.to_string(),
                known: "1 to 6".into(),
            })
    }
}

/// A name that is in none of the closed tables; the message lists what there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} is called {given:?}; there is: {known}")]
pub struct UnknownName {
    /// What was looked for ("failure mode", "rung").
    pub kind: &'static str,
    /// The name as given.
    pub given: String,
    /// The names that exist.
    pub known: String,
}

macro_rules! modes {
    ($( $variant:ident $id:literal $rung:ident $title:literal; )*) => {
        /// A failure mode. Its rung is a property of the mode.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mode {
            $( #[doc = $title] $variant, )*
        }

        impl Mode {
            /// Every mode, by rung.
            pub const ALL: &[Mode] = &[ $( Mode::$variant, )* ];

            /// The stable kebab-case id, as in the JSON contract.
            pub fn id(self) -> &'static str {
                match self { $( Mode::$variant => $id, )* }
            }

            /// The rung this mode belongs to.
            pub fn rung(self) -> Rung {
                match self { $( Mode::$variant => Rung::$rung, )* }
            }

            /// One line saying what the mode is.
            pub fn title(self) -> &'static str {
                match self { $( Mode::$variant => $title, )* }
            }
        }
    };
}

modes! {
    CpuSpin "cpu-spin" Thread "a thread burns a CPU and makes no visible progress";
    MemoryGrowth "memory-growth" Thread "memory grows steadily towards a limit";
    OomKill "oom-kill" Thread "the kernel killed a process for want of memory";
    FileNotFoundStorm "file-not-found-storm" Thread "one process asks for a missing path over and over";
    SyscallErrorStorm "syscall-error-storm" Thread "one system call of one process fails over and over";
    CrashLoop "crash-loop" Thread "a command dies and is started again in a loop";
    DiskStall "disk-stall" Thread "a thread hangs in uninterruptible sleep on a device";
    FdLeak "fd-leak" Thread "open file descriptors grow towards their limit";
    Deadlock "deadlock" Threads "threads of one process wait for each other for ever";
    LockContention "lock-contention" Threads "threads lose their time queueing for one lock";
    ThreadPileUp "thread-pile-up" Threads "most of a thread pool hangs in the same wait";
    RunQueueStarvation "run-queue-starvation" Threads "runnable threads do not get a CPU";
    Livelock "livelock" Threads "threads keep yielding to each other and do no work";
    ThreadLeak "thread-leak" Threads "the number of threads grows without bound";
    Zombie "zombie" Processes "dead children that their parent has not reaped";
    Orphan "orphan" Processes "a process outlived its parent and still holds something";
    PipeStall "pipe-stall" Processes "a pipe stands still while somebody waits on it";
    ProcessDeadlock "process-deadlock" Processes "processes wait for each other for ever";
    UnixSocketStall "unix-socket-stall" Processes "a Unix socket's peer does not read or accept";
    FileLockWait "file-lock-wait" Processes "a file lock is held while others wait for it";
    StoppedProcess "stopped-process" Processes "a stopped process keeps others waiting";
    ProcessChurn "process-churn" Processes "processes are created at a runaway rate";
    ConnectTimeout "connect-timeout" Network "connection attempts get no answer";
    ConnectRefused "connect-refused" Network "connection attempts are refused";
    BlackHole "black-hole" Network "sent data is never acknowledged";
    Partition "partition" Network "some peers cannot be reached while others can";
    Flapping "flapping" Network "connections to a peer come and go";
    PacketLoss "packet-loss" Network "segments are lost and sent again";
    CloseWaitLeak "close-wait-leak" Network "connections that the peer closed are never closed here";
    PortExhaustion "port-exhaustion" Network "no local port is left towards a destination";
    DnsStall "dns-stall" Network "name look-ups get no answer";
    HalfOpen "half-open" Network "a connection stands here and is gone at the peer";
    RetryStorm "retry-storm" Services "failing requests are repeated at a high rate";
    RetryAmplification "retry-amplification" Services "each tier multiplies the retries of the one above";
    CascadingWait "cascading-wait" Services "a service's workers all wait for one slow downstream";
    Backpressure "backpressure" Services "a bounded queue is full and pushes back";
    Metastable "metastable" Services "overload keeps itself going after its trigger has gone";
    BreakerOpen "breaker-open" Services "a caller has stopped calling";
    Ordering "ordering" Services "messages take effect in the wrong order";
    CrossRegionLatency "cross-region-latency" Regions "requests wait for round trips between regions";
    AsymmetricTraffic "asymmetric-traffic" Regions "traffic between regions has become lopsided";
    StaleRead "stale-read" Regions "a replica that serves reads lags behind";
    SplitBrain "split-brain" Regions "two members act as leader at once";
    LeaderFlapping "leader-flapping" Regions "leadership changes again and again";
    Consistency "consistency" Regions "concurrent writes conflict or get lost";
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl FromStr for Mode {
    type Err = UnknownName;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        Mode::ALL
            .iter()
            .copied()
            .find(|mode| mode.id() == given)
            .ok_or_else(|| UnknownName {
                kind: "failure mode",
                given: given.to_owned(),
                known: Mode::ALL
                    .iter()
                    .map(|mode| mode.id())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = Cow::<str>::deserialize(deserializer)?;
        id.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let ids: Vec<&str> = Mode::ALL.iter().map(|mode| mode.id()).collect();
        json_schema!({ "type": "string", "enum": ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_kebab_case_and_parse_back() {
        let mut seen = std::collections::BTreeSet::new();
        for &mode in Mode::ALL {
            assert!(seen.insert(mode.id()), "{mode} listed twice");
            assert!(
                mode.id().chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{mode}"
            );
            assert_eq!(mode.id().parse::<Mode>(), Ok(mode));
        }
    }

    #[test]
    fn modes_are_ordered_by_rung() {
        assert!(Mode::ALL.is_sorted_by_key(|mode| mode.rung()));
        assert_eq!(
            Rung::try_from(7).unwrap_err().to_string(),
            "no rung is called \"7\"; there is: 1 to 6"
        );
    }
}

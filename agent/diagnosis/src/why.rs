//! The answer of `rung why`: what every thread of a process waits for, followed to the end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::{ChainLink, Subject};

/// The verdict on a wait (see the wait graph).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prospect {
    /// It runs, or something alive can end its wait.
    Alive,
    /// Only whoever may continue a stopped or traced process can end its wait.
    HeldByStopped,
    /// Only a signal from outside could end its wait.
    Doubtful,
    /// Nothing can end its wait.
    Dead,
}

/// One thread's wait, followed to its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThreadWait {
    /// The thread.
    pub thread: Subject,
    /// Its state, as in proc_pid_stat(5): "running", "sleeping", ...
    pub state: String,
    /// For how long it has been off the CPU, seconds; absent if it runs or if that is unknown.
    pub age_seconds: Option<f64>,
    /// Whether the wait can end.
    pub prospect: Prospect,
    /// From this thread to the end of its chain; empty if it runs.
    pub chain: Vec<ChainLink>,
}

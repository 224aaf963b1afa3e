//! What the engine is asked, and what it answers besides a report.

use std::time::Duration;

use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::{Source, View};
use rung_diagnosis::report::{Coverage, HostFacts, Report};
use serde::Serialize;
use thiserror::Error;

/// Which source to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceChoice {
    /// The best one that is to be had.
    #[default]
    Auto,
    /// BPF iterators, or an error.
    Bpf,
    /// /proc.
    Procfs,
}

/// What to diagnose.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How long to look; zero takes a single picture.
    pub window: Duration,
    /// Only findings that involve this process.
    pub pid: Option<u32>,
    /// Only these modes; all if empty.
    pub modes: Vec<Mode>,
}

/// What happens while a window runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The first picture has been diagnosed: what is stuck is known.
    First(&'a Report),
    /// So much of the window has passed.
    Elapsed {
        /// Since its start.
        elapsed: Duration,
        /// Its length.
        window: Duration,
    },
}

/// A source, with the means to be had or the reason why not.
#[derive(Clone, Debug, Serialize)]
pub struct Tier {
    /// The source.
    pub source: Source,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Whether it can be used here.
    pub usable: bool,
    /// Whether it is the one that would be used.
    pub chosen: bool,
    /// Why not.
    pub why: Option<String>,
    /// What would help.
    pub remedy: Option<String>,
}

/// A signal and how well it is seen.
#[derive(Clone, Debug, Serialize)]
pub struct SignalView {
    /// The signal, in a few words.
    pub signal: &'static str,
    /// How well it is seen.
    pub view: View,
}

/// The answer of `rung doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Checkup {
    /// Name and number of this format: `rung.doctor/1`.
    pub schema: &'static str,
    /// The host.
    pub host: HostFacts,
    /// Sources, best first.
    pub tiers: Vec<Tier>,
    /// Signals of the chosen source.
    pub signals: Vec<SignalView>,
    /// Failure modes: `clear` stands for "can be observed".
    pub modes: Vec<Coverage>,
}

/// Why the work could not be done: exit status 2.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The demanded source is not to be had.
    #[error("{why}; {remedy}")]
    SourceUnavailable {
        /// Why.
        why: String,
        /// What would help.
        remedy: String,
    },
    /// A probe failed while running.
    #[error("{0}")]
    Probe(String),
    /// `rung why` was given a name or pid that no process has.
    #[error("no process has the {kind} {given:?}; `ps -e` lists what there is")]
    NoSuchProcess {
        /// "pid" or "name".
        kind: &'static str,
        /// As given.
        given: String,
    },
}

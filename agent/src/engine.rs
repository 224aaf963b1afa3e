//! From probes to reports: chooses the source, takes pictures over a window, and has them diagnosed.

use std::time::Duration;

use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::{Signal, Source, View};
use rung_diagnosis::report::{Coverage, HostFacts, Report};
use rung_diagnosis::why::ThreadWait;
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

/// A chosen source and what was learnt of the host.
pub struct Engine {
    _private: (),
}

impl Engine {
    /// Chooses a source and prepares it.
    pub fn open(choice: SourceChoice) -> Result<Self, EngineError> {
        let _ = choice;
        Ok(Engine { _private: () })
    }

    /// Looks at the host for the length of the window and diagnoses it. Ends early, with what was seen until then, on
    /// SIGINT.
    pub async fn diagnose(
        &mut self,
        request: &Request,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Report, EngineError> {
        let _ = (request, progress);
        Err(EngineError::Probe("not connected yet".into()))
    }

    /// Takes one picture and follows the wait of every thread of a process; by name, of every process of that name.
    pub fn why(&mut self, target: &str) -> Result<Vec<ThreadWait>, EngineError> {
        let _ = target;
        Err(EngineError::Probe("not connected yet".into()))
    }

    /// Tries every source and says what can be seen with it.
    pub fn checkup() -> Checkup {
        let _ = Signal::ALL;
        Checkup {
            host: HostFacts::default(),
            tiers: Vec::new(),
            signals: Vec::new(),
            modes: Vec::new(),
        }
    }
}

//! The page of one failure mode.

use serde::{Deserialize, Serialize};

use super::Prose;
use super::programs::programs_of;
use crate::mode::Mode;

/// What the handbook says about a failure mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModePage {
    /// The mode this page is about.
    pub mode: Mode,
    /// What the mode means, one entry a paragraph.
    pub meaning: Vec<Prose>,
    /// How to confirm it by hand, in this order.
    pub confirm: Vec<Confirm>,
    /// What to do now, in this order.
    pub now: Vec<Prose>,
    /// What to change so that it does not come back.
    pub for_good: Vec<Prose>,
    /// What not to do, and why.
    pub avoid: Vec<Prose>,
    /// What looks the same, and how to tell it apart.
    pub mistaken_for: Vec<MistakenFor>,
}

impl ModePage {
    /// The programs that the confirming commands start, each once, in order of appearance. Every
    /// part of a pipeline or list counts; all are keys of [`Programs::programs`].
    ///
    /// [`Programs::programs`]: super::Programs::programs
    pub fn commands(&self) -> Vec<&str> {
        let mut programs = Vec::new();
        for confirm in &self.confirm {
            for program in programs_of(&confirm.command) {
                if !programs.contains(&program) {
                    programs.push(program);
                }
            }
        }
        programs
    }
}

/// A command to run by hand and what to look for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// A shell command of at most 78 columns, for root. Words in capitals such as `PID` are
    /// placeholders, explained in [`Programs::placeholders`].
    ///
    /// [`Programs::placeholders`]: super::Programs::placeholders
    pub command: String,
    /// What its output shows, and what the command costs if it costs anything.
    pub shows: Prose,
}

/// Something that looks like the mode and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum MistakenFor {
    /// Another failure mode.
    Mode {
        /// The other mode.
        mode: Mode,
        /// How to tell the two apart.
        tell_apart: Prose,
    },
    /// Something that is no failure mode, often a healthy state.
    Other {
        /// What it is, in a few words.
        other: Prose,
        /// How to tell the two apart.
        tell_apart: Prose,
    },
}

impl MistakenFor {
    /// The mode's id, or the few words.
    pub fn name(&self) -> &str {
        match self {
            MistakenFor::Mode { mode, .. } => mode.id(),
            MistakenFor::Other { other, .. } => other.as_str(),
        }
    }

    /// How to tell the two apart.
    pub fn tell_apart(&self) -> &Prose {
        match self {
            MistakenFor::Mode { tell_apart, .. } | MistakenFor::Other { tell_apart, .. } => tell_apart,
        }
    }
}

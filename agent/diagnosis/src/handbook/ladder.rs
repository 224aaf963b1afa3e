//! The overview of all rungs.

use serde::{Deserialize, Serialize};

use super::Prose;
use crate::mode::Rung;

/// What holds for the ladder as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ladder {
    /// Its title.
    pub title: String,
    /// The idea, in a paragraph.
    pub summary: Prose,
    /// A rung contains all below it.
    pub superset: Prose,
    /// No rung can be left out.
    pub no_skipping: Prose,
    /// The rung comes before the remedy.
    pub diagnose_first: Prose,
    /// A drawing in ASCII, several lines of less than 76 columns, to print as it is.
    pub diagram: String,
    /// How to find the rung of a fault, in this order.
    pub method: Vec<Prose>,
    /// How to read a design's failure modes off the ladder.
    pub predict: Prose,
    /// Every rung in two sentences, lowest first.
    pub steps: Vec<Step>,
}

/// A rung in two sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which rung.
    pub rung: Rung,
    /// What it adds.
    pub adds: Prose,
    /// What breaks there.
    pub breaks: Prose,
}

//! The self-test.

use serde::{Deserialize, Serialize};

use super::Prose;
use crate::mode::Rung;

/// The file of questions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quiz {
    pub(super) questions: Vec<Question>,
}

/// A question with choices, each of which stands on another rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// A stable kebab-case id.
    pub id: String,
    /// The rung of the problem: the right choice is the one on this rung.
    pub rung: Rung,
    /// The primitive it is about, one of that rung's page.
    pub primitive: String,
    /// What is asked.
    pub question: Prose,
    /// The choices, no two on the same rung.
    pub choices: Vec<Choice>,
    /// The full answer.
    pub answer: Prose,
    /// What one need not do.
    pub need_not: Prose,
    /// Why the answer is right.
    pub explanation: Prose,
    /// The wrong choice that tempts most.
    pub tempting: Tempting,
}

impl Question {
    /// Whether a choice is the right one.
    pub fn is_right(&self, choice: &Choice) -> bool {
        choice.rung == self.rung
    }
}

/// One of the choices of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The rung on which it puts the problem.
    pub rung: Rung,
    /// What it says.
    pub text: Prose,
}

/// The wrong choice that tempts most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tempting {
    /// The rung of that choice.
    pub rung: Rung,
    /// Why it is wrong.
    pub why_wrong: Prose,
}

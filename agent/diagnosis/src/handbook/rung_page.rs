//! The page of one rung.

use serde::{Deserialize, Serialize};

use super::Prose;
use crate::mode::{Mode, Rung};

/// What the handbook says about a rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RungPage {
    /// The rung this page is about.
    pub rung: Rung,
    /// Its title, with a capital at the beginning.
    pub title: String,
    /// What it adds to the rung below.
    pub adds: Prose,
    /// The model to hold in mind.
    pub model: Prose,
    /// What it inherits from the rungs below.
    pub inherits: Prose,
    /// A drawing in ASCII, several lines of less than 76 columns, to print as it is.
    pub diagram: String,
    /// The means of building it introduces.
    pub primitives: Vec<Primitive>,
    /// Its ways of failing, in the handbook's terms.
    pub failures: Vec<Failure>,
    /// The menu of remedies.
    pub fixes: Vec<Prose>,
    /// Warnings, cautions and tips.
    pub notes: Vec<Note>,
    /// What to read, watch or do next.
    pub reading: Vec<Reading>,
}

/// A means of building that a rung introduces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Primitive {
    /// Its name, by which questions of the quiz refer to it.
    pub name: String,
    /// What it is.
    pub what: Prose,
}

/// A way of failing, and the modes that `rung` tells apart in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Its name in the handbook.
    pub name: String,
    /// What happens, in a sentence or two.
    pub text: Prose,
    /// The failure modes of this rung that belong to it.
    pub modes: Vec<Mode>,
}

/// A remark that stands out from the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// How much it matters.
    pub kind: NoteKind,
    /// The remark.
    pub text: Prose,
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// Ignoring it does harm.
    Warning,
    /// Ignoring it misleads.
    Caution,
    /// It makes work easier.
    Tip,
}

/// Something to read, to watch or to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// What sort of thing it is.
    pub kind: ReadingKind,
    /// Its title.
    pub title: String,
    /// Who wrote or gave it; exercises have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Which part, and what it is good for.
    pub why: Prose,
}

/// The sort of a [`Reading`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadingKind {
    /// A book, with the chapters in `why`.
    Book,
    /// A research paper.
    Paper,
    /// A recorded talk.
    Talk,
    /// An article or a series.
    Article,
    /// Something to do oneself.
    Exercise,
}

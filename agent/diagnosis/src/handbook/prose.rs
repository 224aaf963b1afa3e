//! Running text, whose line breaks in the file mean nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A paragraph without line breaks; whoever prints it wraps it.
///
/// On reading, every run of white space becomes one blank, so the files can break lines at will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Prose(String);

impl Prose {
    /// The text, on one line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Prose {
    fn from(text: String) -> Self {
        Prose(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl From<Prose> for String {
    fn from(prose: Prose) -> Self {
        prose.0
    }
}

impl AsRef<str> for Prose {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

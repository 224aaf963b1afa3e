//! The programs that the handbook's commands start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All programs and placeholders of the handbook's commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// Each program by the name it is called by.
    pub programs: BTreeMap<String, Program>,
    /// Each word in capitals that stands for something, and what that is.
    pub placeholders: BTreeMap<String, String>,
}

/// A program that a command starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Where to get it.
    pub from: Origin,
    /// Whether it belongs to a language, a database or a service that a host need not have.
    #[serde(default)]
    pub optional: bool,
}

/// Where to get a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The name of a Debian package.
    Debian(String),
    /// Not in Debian: where else, in words.
    Elsewhere(String),
}

/// The program of each part of a command line: the first word after the start and after `|`, `||`,
/// `&&` and `;` outside of quotes. `2>&1` would split as well; a test keeps it out of the handbook.
pub(super) fn programs_of(command: &str) -> Vec<&str> {
    let mut open_quote = None;
    let ends_part = |c: char| match (open_quote, c) {
        (None, '\'' | '"') => {
            open_quote = Some(c);
            false
        }
        (Some(quote), _) => {
            if c == quote {
                open_quote = None;
            }
            false
        }
        (None, _) => matches!(c, '|' | ';' | '&'),
    };
    command
        .split(ends_part)
        .filter_map(|part| part.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::programs_of;

    #[test]
    fn quoted_bars_do_not_split() {
        let command = "dmesg -T | grep -iE 'oom|killed' | awk '{print $1; next}' && wc -l; ls";
        assert_eq!(programs_of(command), ["dmesg", "grep", "awk", "wc", "ls"]);
    }
}

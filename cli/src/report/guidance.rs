//! The handbook's advice for a finding: what to do now, and how to confirm by hand, with the finding's ids filled in.

use std::collections::BTreeMap;

use rung_diagnosis::finding::{Finding, Subject};
use rung_diagnosis::handbook::{Confirm, Handbook};

use crate::page::Page;
use crate::screen::Style;

/// Commands shown; the page of the handbook has all.
const COMMANDS: usize = 2;

/// Writes the advice.
pub(super) fn write(page: &mut Page<'_>, finding: &Finding) {
    let handbook = Handbook::mode(finding.guidance);
    page.styled(2, Style::Heading, "WHAT TO DO NOW");
    page.numbered(4, &handbook.now);
    let meanings = Handbook::programs().placeholders;
    page.styled(2, Style::Heading, "CONFIRM BY HAND");
    for confirm in chosen(&handbook.confirm, &finding.subject, &meanings) {
        let command = filled(&confirm.command, &finding.subject);
        page.command(4, &command);
        page.paragraph(8, confirm.shows.as_str());
        for (placeholder, meaning) in placeholders_in(&command, &meanings) {
            page.item(8, &format!("{placeholder}:"), meaning);
        }
    }
    let pid = finding.subject.pid;
    page.row(
        "more",
        &format!("`rung explain {}`, `rung why {pid}`", finding.guidance),
    );
}

/// The first commands that can be run as they are; if there are none, the first one.
fn chosen<'a>(
    confirm: &'a [Confirm],
    subject: &Subject,
    meanings: &BTreeMap<String, String>,
) -> Vec<&'a Confirm> {
    let ready: Vec<&Confirm> = confirm
        .iter()
        .filter(|confirm| placeholders_in(&filled(&confirm.command, subject), meanings).is_empty())
        .take(COMMANDS)
        .collect();
    if ready.is_empty() {
        confirm.iter().take(1).collect()
    } else {
        ready
    }
}

/// A command with the subject's ids in the place of the words `PID` and `TID`.
fn filled(command: &str, subject: &Subject) -> String {
    let mut text = String::with_capacity(command.len() + 8);
    for (word, is_word) in words(command) {
        match (word, subject.tid) {
            ("PID", _) if is_word => text.push_str(&subject.pid.to_string()),
            ("TID", Some(tid)) if is_word => text.push_str(&tid.to_string()),
            _ => text.push_str(word),
        }
    }
    text
}

/// The placeholders that occur in a command, with their meanings. `HOLDER2` is one of several of `HOLDER`.
pub(crate) fn placeholders_in<'a>(
    command: &str,
    meanings: &'a BTreeMap<String, String>,
) -> BTreeMap<String, &'a str> {
    words(command)
        .filter(|(_, is_word)| *is_word)
        .filter_map(|(word, _)| {
            let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
            meanings
                .get(stem)
                .map(|meaning| (stem.to_owned(), meaning.as_str()))
        })
        .collect()
}

/// Cuts a command into runs of letters, digits and underscores, and what is between.
fn words(command: &str) -> impl Iterator<Item = (&str, bool)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut rest = command;
    std::iter::from_fn(move || {
        let kind = is_word(rest.chars().next()?);
        let end = rest.find(|c| is_word(c) != kind).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        Some((word, kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(tid: Option<u32>) -> Subject {
        Subject {
            pid: 42,
            tid,
            comm: "x".into(),
            start_ticks: 0,
            cgroup: None,
            command: None,
            flow: None,
        }
    }

    #[test]
    fn fills_whole_words_only() {
        let command = "cat /proc/PID/task/TID/stack; ps --ppid PPID PID1 $PID_X";
        assert_eq!(
            filled(command, &subject(Some(43))),
            "cat /proc/42/task/43/stack; ps --ppid PPID PID1 $PID_X"
        );
        assert_eq!(filled("ls TID", &subject(None)), "ls TID");
        assert_eq!(filled("ñ PID", &subject(None)), "ñ 42");
    }

    #[test]
    fn finds_placeholders() {
        let meanings = BTreeMap::from([("HOLDER".to_owned(), "who holds it".to_owned())]);
        let found = placeholders_in("ps -p HOLDER1,HOLDER2 -o HOLDERS", &meanings);
        assert_eq!(found, BTreeMap::from([("HOLDER".to_owned(), "who holds it")]));
    }
}

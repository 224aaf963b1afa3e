//! What was not seen, why, and what would help: grouped, because one reason often covers many failure modes.

use rung_diagnosis::report::{Coverage, Status};

use crate::duration;
use crate::grouping::grouped;
use crate::page::Page;

/// Modes named for one reason; the others are counted.
const MODES: usize = 8;

/// Modes that share a reason and a remedy.
pub(crate) struct Gap<'a> {
    /// Why they were not seen.
    pub(crate) why: &'a str,
    /// What would help.
    pub(crate) remedy: Option<&'a str>,
    /// Their ids.
    pub(crate) modes: Vec<&'a str>,
}

/// Groups the entries with a reason that the filter lets pass by reason and remedy, in order of appearance.
pub(crate) fn gaps(coverage: &[Coverage], wanted: impl Fn(&Coverage) -> bool) -> Vec<Gap<'_>> {
    let wanted = coverage.iter().filter(|entry| wanted(entry));
    let reason = |entry: &&Coverage| (entry.why.clone(), entry.remedy.clone());
    grouped(wanted, reason)
        .into_iter()
        .filter_map(|entries| {
            let first = *entries.first()?;
            Some(Gap {
                why: first.why.as_deref().unwrap_or("no reason is given"),
                remedy: first.remedy.as_deref(),
                modes: entries.iter().map(|entry| entry.mode.id()).collect(),
            })
        })
        .collect()
}

/// Names with commas; at most `most`, and how many more.
pub(crate) fn list(names: &[&str], most: usize) -> String {
    // One name more is shorter than saying that there is one more.
    if names.len() <= most + 1 {
        names.join(", ")
    } else {
        format!("{} and {} more", names[..most].join(", "), names.len() - most)
    }
}

/// Writes the coverage in short.
pub(super) fn write(page: &mut Page<'_>, coverage: &[Coverage]) {
    if coverage.is_empty() {
        page.term(
            0,
            "COVERAGE",
            "unknown: the report does not say what was looked for",
        );
        return;
    }
    let count = |status: Status| coverage.iter().filter(|entry| entry.status == status).count();
    let counts: Vec<String> = [
        (Status::Observed, "found"),
        (Status::Clear, "clear"),
        (Status::NeedsLonger, "in need of a longer look"),
        (Status::CouldNotObserve, "not seen"),
    ]
    .into_iter()
    .map(|(status, words)| (count(status), words))
    .filter(|(count, _)| *count > 0)
    .map(|(count, words)| format!("{count} {words}"))
    .collect();
    let all = coverage.len();
    page.term(
        0,
        "COVERAGE",
        &format!("of {all} failure modes: {}", counts.join(", ")),
    );
    write_needs(page, coverage);
    let blind = gaps(coverage, |entry| entry.status == Status::CouldNotObserve);
    write_gaps(page, "not seen", &blind);
    let partly = gaps(coverage, |entry| {
        entry.why.is_some() && matches!(entry.status, Status::Observed | Status::Clear)
    });
    write_gaps(page, "seen in part", &partly);
}

fn write_needs(page: &mut Page<'_>, coverage: &[Coverage]) {
    let short: Vec<&Coverage> = coverage
        .iter()
        .filter(|entry| entry.status == Status::NeedsLonger)
        .collect();
    if short.is_empty() {
        return;
    }
    let modes: Vec<&str> = short.iter().map(|entry| entry.mode.id()).collect();
    let needed = short
        .iter()
        .filter_map(|entry| entry.needs_seconds)
        .reduce(f64::max);
    let remedy = match needed {
        Some(seconds) if seconds <= duration::LONGEST.as_secs_f64() => {
            format!("run `rung --for {}`", duration::argument(seconds))
        }
        Some(seconds) => format!(
            "they need {}, longer than one look may take",
            duration::words(seconds)
        ),
        None => "run it with a longer --for".to_owned(),
    };
    page.item(2, "longer look:", &format!("{}; {remedy}", list(&modes, MODES)));
}

fn write_gaps(page: &mut Page<'_>, label: &str, gaps: &[Gap<'_>]) {
    for gap in gaps {
        page.item(2, &format!("{label}:"), &list(&gap.modes, MODES));
        page.item(4, "why:", gap.why);
        if let Some(remedy) = gap.remedy {
            page.item(4, "remedy:", remedy);
        }
    }
}

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
    pub(crate) why: String,
    /// What would help.
    pub(crate) remedy: Option<String>,
    /// Their ids.
    pub(crate) modes: Vec<&'a str>,
}

/// Groups the entries that the filter lets pass by reason and remedy, in order of appearance. Where these name the
/// mode itself and there is more than one, `MODE` stands in its place.
pub(crate) fn gaps(coverage: &[Coverage], wanted: impl Fn(&Coverage) -> bool) -> Vec<Gap<'_>> {
    let wanted = coverage.iter().filter(|entry| wanted(entry));
    let why = |entry: &Coverage| entry.why.clone().unwrap_or_else(|| "no reason is given".into());
    let alike = |entry: &&Coverage| {
        let id = entry.mode.id();
        let remedy = entry.remedy.as_ref().map(|text| without(text, id));
        (without(&why(entry), id), remedy)
    };
    grouped(wanted, alike)
        .into_iter()
        .filter_map(|entries| {
            let first = *entries.first()?;
            let (why, remedy) = match entries.len() {
                1 => (why(first), first.remedy.clone()),
                _ => alike(&first),
            };
            let modes = entries.iter().map(|entry| entry.mode.id()).collect();
            Some(Gap { why, remedy, modes })
        })
        .collect()
}

/// The text with `MODE` for the mode's id where that stands as a word of its own.
fn without(text: &str, id: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let named = words.iter().map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if bare == id {
            word.replace(id, "MODE")
        } else {
            (*word).to_owned()
        }
    });
    named.collect::<Vec<_>>().join(" ")
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
        page.item(4, "why:", &gap.why);
        if let Some(remedy) = &gap.remedy {
            page.item(4, "remedy:", remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use rung_diagnosis::mode::Mode;

    use super::*;

    #[test]
    fn remedies_that_differ_in_the_mode_only_are_one() {
        let entry = |mode: Mode| Coverage {
            mode,
            status: Status::CouldNotObserve,
            why: Some("no detector".into()),
            remedy: Some(format!("look by hand: `rung explain {mode}`")),
            needs_seconds: None,
        };
        let coverage = [entry(Mode::CpuSpin), entry(Mode::Livelock), entry(Mode::FdLeak)];
        let gaps_of = |count: usize| gaps(&coverage[..count], |_| true);
        assert_eq!(
            gaps_of(1)[0].remedy.as_deref(),
            Some("look by hand: `rung explain cpu-spin`")
        );
        assert_eq!(gaps_of(3).len(), 1);
        assert_eq!(
            gaps_of(3)[0].remedy.as_deref(),
            Some("look by hand: `rung explain MODE`")
        );
        assert_eq!(gaps_of(3)[0].modes, ["cpu-spin", "livelock", "fd-leak"]);
    }

    #[test]
    fn lists_name_the_last_one_rather_than_count_it() {
        assert_eq!(list(&["a", "b", "c"], 2), "a, b, c");
        assert_eq!(list(&["a", "b", "c", "d"], 2), "a, b and 2 more");
    }
}

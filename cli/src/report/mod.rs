//! A report as text: the verdict first, then evidence and advice, then what was looked at and what was not seen.

mod coverage;
mod forest;
mod guidance;
mod incident;
mod notices;
mod parties;

use std::collections::{BTreeMap, BTreeSet};

use rung_agent::engine::Request;
use rung_diagnosis::finding::Finding;
use rung_diagnosis::observation::Source;
use rung_diagnosis::report::{Report, Status};

pub(crate) use coverage::{gaps, list};
pub(crate) use guidance::placeholders_in;
pub(crate) use parties::who;

use crate::duration;
use crate::page::Page;
use crate::screen::{Screen, Style};
use forest::{Tree, trees};

/// Incidents shown in full; of the others one line each.
const IN_FULL: usize = 5;
/// Incidents shown at all; the others are counted.
const AT_ALL: usize = 30;

/// The whole report.
pub fn whole(report: &Report, request: &Request, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    if report.findings.is_empty() {
        verdict_of_nothing(&mut page, report, request);
    } else {
        findings(&mut page, &trees(&report.findings), report, request);
    }
    foot(&mut page, report);
    page.finish()
}

/// What the first picture showed, while the window goes on; empty if nothing.
pub fn first(report: &Report, request: &Request, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    if !report.findings.is_empty() {
        findings(&mut page, &trees(&report.findings), report, request);
    }
    page.finish()
}

/// What is new or has changed since the first picture was printed, what is gone, and the foot.
pub fn rest(first: &Report, last: &Report, request: &Request, screen: &Screen) -> String {
    let before: BTreeMap<&str, &Finding> = first
        .findings
        .iter()
        .map(|found| (found.id.as_str(), found))
        .collect();
    let is_news = |found: &Finding| {
        before
            .get(found.id.as_str())
            .is_none_or(|old| differs(old, found))
    };
    let news: Vec<Tree<'_>> = trees(&last.findings)
        .into_iter()
        .filter(|tree| tree.findings().any(is_news))
        .collect();
    let ids: BTreeSet<&str> = last.findings.iter().map(|found| found.id.as_str()).collect();
    let is_gone = |old: &&Finding| !ids.contains(old.id.as_str());
    let gone: Vec<&Finding> = first.findings.iter().filter(is_gone).collect();

    let mut page = Page::new(screen);
    let after = format!("AFTER {}", duration::words(last.window.seconds));
    page.paragraph(0, "");
    if news.is_empty() {
        page.term(0, &after, "nothing is new or worse than what is printed above");
    } else {
        page.term(0, &after, "new or changed since what is printed above");
        page.blank();
        findings(&mut page, &news, last, request);
    }
    if !gone.is_empty() {
        page.term(0, "NO LONGER SEEN", "");
        for found in gone.iter().take(AT_ALL) {
            page.item(2, "-", &format!("{}: {}", found.mode, found.summary));
        }
        remainder(&mut page, gone.len(), AT_ALL);
    }
    foot(&mut page, last);
    page.finish()
}

/// Whether a finding says something else than before. Ages and figures always change and are no news.
fn differs(old: &Finding, new: &Finding) -> bool {
    old.severity != new.severity
        || old.confidence != new.confidence
        || old.cause != new.cause
        || (old.subject.pid, old.subject.tid) != (new.subject.pid, new.subject.tid)
}

fn findings(page: &mut Page<'_>, trees: &[Tree<'_>], report: &Report, request: &Request) {
    let (incidents, notices): (Vec<_>, Vec<_>) = trees.iter().partition(|tree| tree.is_alarming());
    if incidents.is_empty() {
        let text = format!("Nothing calls for action{}; worth knowing:", scope(request));
        page.styled(0, Style::Heading, &text);
        write_unjudged(page, report);
    }
    if incidents.len() > 1 {
        let text = format!("{} incidents{}, worst first", incidents.len(), scope(request));
        page.styled(0, Style::Heading, &text);
        page.blank();
    }
    let mut advised = BTreeMap::new();
    for (index, tree) in incidents.iter().enumerate().take(AT_ALL) {
        let number = (incidents.len() > 1).then_some(index + 1);
        if index < IN_FULL {
            incident::write(page, number, tree, report, &mut advised);
            page.blank();
        } else {
            incident::write_short(page, index + 1, tree);
        }
    }
    remainder(page, incidents.len(), AT_ALL);
    notices::write(page, &notices);
}

fn remainder(page: &mut Page<'_>, count: usize, shown: usize) {
    if count > shown {
        page.paragraph(2, &format!("and {} more; `--format json` has all", count - shown));
    }
}

/// To what the request restricts the answer.
fn scope(request: &Request) -> String {
    let mut scope = String::new();
    if let Some(pid) = request.pid {
        scope.push_str(&format!(" around pid {pid}"));
    }
    if !request.modes.is_empty() {
        let modes: Vec<&str> = request.modes.iter().map(|mode| mode.id()).collect();
        scope.push_str(&format!(" of {}", modes.join(", ")));
    }
    scope
}

fn verdict_of_nothing(page: &mut Page<'_>, report: &Report, request: &Request) {
    let unseen = unjudged(report);
    let all = report.coverage.len();
    let picture = &report.picture;
    let looked = format!(
        "{} in {} looked at",
        counted(picture.threads, "thread"),
        counted(picture.processes, "process"),
    );
    if all > 0 && unseen == all {
        page.styled(0, Style::Warning, "Nothing was found, and nothing could be seen.");
        page.paragraph(
            0,
            &format!("{looked}, but none of {all} failure modes could be judged; see below."),
        );
        return;
    }
    let style = if unseen == 0 { Style::Good } else { Style::Heading };
    let own = picture.source == Source::ProcfsOwn;
    let among = if own {
        " among the processes within reach"
    } else {
        ""
    };
    let text = format!("Nothing is stuck{among}{}: {looked}.", scope(request));
    page.styled(0, style, &text);
    if own {
        page.paragraph(0, "Those of others could not be seen; run it as root to see all.");
    }
    write_unjudged(page, report);
}

/// Says for how many failure modes silence means nothing.
fn write_unjudged(page: &mut Page<'_>, report: &Report) {
    let (unseen, all) = (unjudged(report), report.coverage.len());
    if unseen > 0 {
        let text = format!(
            "This says nothing of {unseen} of {all} failure modes, which were not judged; see below."
        );
        page.paragraph(0, &text);
    }
}

/// How many failure modes were not judged.
fn unjudged(report: &Report) -> usize {
    let statuses = report.coverage.iter().map(|entry| entry.status);
    statuses
        .filter(|status| matches!(status, Status::CouldNotObserve | Status::NeedsLonger))
        .count()
}

fn foot(page: &mut Page<'_>, report: &Report) {
    let picture = &report.picture;
    let source = match picture.source {
        Source::BpfIter => "BPF iterators",
        Source::BpfIterPlain => "BPF iterators, without the memory of blocked threads",
        Source::Procfs => "/proc",
        Source::ProcfsOwn => "/proc, as far as it can be read",
    };
    let pictures = if picture.pictures > 1 {
        let over = duration::words(report.window.seconds);
        format!(
            "{} over {over}, the last in {:.1} ms",
            counted(picture.pictures, "picture"),
            picture.walk_ms
        )
    } else {
        format!("one picture in {:.1} ms", picture.walk_ms)
    };
    let mut looked = format!(
        "{}, {}, {}; {pictures}; by {source}",
        counted(picture.processes, "process"),
        counted(picture.threads, "thread"),
        counted(picture.descriptors, "descriptor"),
    );
    if picture.torn_rows > 0 {
        looked.push_str(&format!(
            "; {} dropped because they changed under the look",
            counted(picture.torn_rows, "row")
        ));
    }
    page.blank();
    page.term(0, "LOOKED AT", &looked);
    let host = &report.host;
    if !host.name.is_empty() {
        let start = duration::stamp(&report.window.start);
        page.paragraph(
            4,
            &format!("on {}, kernel {}, at {start}", host.name, host.kernel),
        );
    }
    coverage::write(page, &report.coverage);
}

/// A count with its noun, thousands separated.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let plural = match noun {
        _ if count == 1 => "",
        "process" => "es",
        _ => "s",
    };
    format!("{text} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_with_thousands() {
        assert_eq!(counted(1, "thread"), "1 thread");
        assert_eq!(counted(0, "process"), "0 processes");
        assert_eq!(counted(12_345, "row"), "12,345 rows");
        assert_eq!(counted(1_000_000, "row"), "1,000,000 rows");
    }
}

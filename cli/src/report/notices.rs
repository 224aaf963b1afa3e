//! Notices: findings worth knowing that are no reason to act, folded where they are alike.

use rung_diagnosis::finding::Finding;
use rung_diagnosis::mode::Mode;

use super::forest::Tree;
use super::parties::ids_in_short;
use crate::page::Page;

/// Folds shown; the others are counted.
const FOLDS: usize = 10;

/// Writes the notices, those of one mode and one name together.
pub(super) fn write(page: &mut Page<'_>, trees: &[&Tree<'_>]) {
    let findings: Vec<&Finding> = trees.iter().flat_map(|tree| tree.findings()).collect();
    if findings.is_empty() {
        return;
    }
    let mut folds: Vec<(Mode, &str, Vec<&Finding>)> = Vec::new();
    for finding in &findings {
        let (mode, comm) = (finding.mode, finding.subject.comm.as_str());
        match folds.iter_mut().find(|fold| (fold.0, fold.1) == (mode, comm)) {
            Some(fold) => fold.2.push(finding),
            None => folds.push((mode, comm, vec![finding])),
        }
    }
    page.heading("NOTICES");
    for (mode, comm, alike) in folds.iter().take(FOLDS) {
        let summary = alike.first().map_or("", |finding| finding.summary.as_str());
        let more: Vec<u32> = alike.iter().skip(1).map(|finding| finding.subject.pid).collect();
        let tail = if more.is_empty() {
            String::new()
        } else {
            format!(" ({} more of {comm}: pid {})", more.len(), ids_in_short(&more))
        };
        page.term(2, mode.id(), &format!("{summary}{tail}"));
    }
    if folds.len() > FOLDS {
        let more: usize = folds[FOLDS..].iter().map(|fold| fold.2.len()).sum();
        page.paragraph(2, &format!("and {more} more; `--format json` has all"));
    }
    page.blank();
}

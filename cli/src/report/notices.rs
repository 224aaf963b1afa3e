//! Notices: findings worth knowing that are no reason to act, folded where they are alike.

use rung_diagnosis::finding::Finding;

use super::forest::Tree;
use super::parties::ids_in_short;
use crate::grouping::grouped;
use crate::page::Page;

/// Folds shown; the others are counted.
const FOLDS: usize = 10;

/// Writes the notices, those of one mode and one name together.
pub(super) fn write(page: &mut Page<'_>, trees: &[&Tree<'_>]) {
    let findings: Vec<&Finding> = trees.iter().flat_map(|tree| tree.findings()).collect();
    if findings.is_empty() {
        return;
    }
    let folds = grouped(findings, |finding| (finding.mode, finding.subject.comm.as_str()));
    page.heading("NOTICES");
    for alike in folds.iter().take(FOLDS) {
        let Some((first, others)) = alike.split_first() else {
            continue;
        };
        let pids: Vec<u32> = others.iter().map(|finding| finding.subject.pid).collect();
        let tail = if pids.is_empty() {
            String::new()
        } else {
            format!(
                " ({} more of {}: pid {})",
                pids.len(),
                first.subject.comm,
                ids_in_short(&pids)
            )
        };
        page.term(2, first.mode.id(), &format!("{}{tail}", first.summary));
    }
    if folds.len() > FOLDS {
        let more: usize = folds[FOLDS..].iter().map(|fold| fold.len()).sum();
        page.paragraph(2, &format!("and {more} more; `--format json` has all"));
    }
    page.blank();
}

//! Findings as trees: a root cause and, below it, what it explains.

use std::collections::{BTreeMap, BTreeSet};

use rung_diagnosis::finding::{Finding, Severity};

/// A root cause with its symptoms.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    /// What nothing else in the report explains.
    pub(super) root: &'a Finding,
    /// Every symptom with its depth, 1 for those the root explains directly; each behind its cause.
    pub(super) symptoms: Vec<(usize, &'a Finding)>,
}

impl<'a> Tree<'a> {
    /// The root and the symptoms.
    pub(super) fn findings(&self) -> impl Iterator<Item = &'a Finding> {
        std::iter::once(self.root).chain(self.symptoms.iter().map(|(_, symptom)| *symptom))
    }

    /// Whether anything in it is of severity warning or above.
    pub(super) fn is_alarming(&self) -> bool {
        self.findings()
            .any(|finding| finding.severity >= Severity::Warning)
    }
}

/// The trees, in the order of their roots. Every finding is in exactly one, even where causes name findings that are
/// not there, or each other.
pub(super) fn trees(findings: &[Finding]) -> Vec<Tree<'_>> {
    let ids: BTreeSet<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
    let mut explained: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, finding) in findings.iter().enumerate() {
        if let Some(cause) = &finding.cause {
            explained.entry(cause).or_default().push(index);
        }
    }
    let mut placed = vec![false; findings.len()];
    let mut trees = Vec::new();
    let is_root = |finding: &Finding| finding.cause.as_deref().is_none_or(|cause| !ids.contains(cause));
    // The second pass starts trees at what no root leads to: rings of causes.
    for roots_only in [true, false] {
        for (index, root) in findings.iter().enumerate() {
            if placed[index] || (roots_only && !is_root(root)) {
                continue;
            }
            placed[index] = true;
            let mut symptoms = Vec::new();
            let mut pending = symptoms_of(root, 1, &explained);
            while let Some((depth, index)) = pending.pop() {
                if !std::mem::replace(&mut placed[index], true) {
                    symptoms.push((depth, &findings[index]));
                    pending.extend(symptoms_of(&findings[index], depth + 1, &explained));
                }
            }
            trees.push(Tree { root, symptoms });
        }
    }
    trees
}

/// The depth and the places of what a finding explains directly, the last first.
fn symptoms_of(cause: &Finding, depth: usize, explained: &BTreeMap<&str, Vec<usize>>) -> Vec<(usize, usize)> {
    let places = explained.get(cause.id.as_str()).into_iter().flatten();
    places.rev().map(|&place| (depth, place)).collect()
}

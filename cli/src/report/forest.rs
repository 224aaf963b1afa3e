//! Findings as trees: a root cause and, below it, what it explains.

use std::collections::BTreeSet;

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
    let mut placed = vec![false; findings.len()];
    let mut trees = Vec::new();
    let is_root = |finding: &Finding| finding.cause.as_deref().is_none_or(|cause| !ids.contains(cause));
    // The second pass starts trees at what no root leads to: rings of causes.
    for pass in [true, false] {
        for (index, root) in findings.iter().enumerate() {
            if placed[index] || (pass && !is_root(root)) {
                continue;
            }
            placed[index] = true;
            let mut tree = Tree {
                root,
                symptoms: Vec::new(),
            };
            grow(&mut tree, root, 1, findings, &mut placed);
            trees.push(tree);
        }
    }
    trees
}

fn grow<'a>(
    tree: &mut Tree<'a>,
    cause: &Finding,
    depth: usize,
    findings: &'a [Finding],
    placed: &mut [bool],
) {
    for (index, finding) in findings.iter().enumerate() {
        if !placed[index] && finding.cause.as_deref() == Some(cause.id.as_str()) {
            placed[index] = true;
            tree.symptoms.push((depth, finding));
            grow(tree, finding, depth + 1, findings, placed);
        }
    }
}

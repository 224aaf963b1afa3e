//! # What
//! Processes are created without end: a tree that keeps growing, or a control group whose limit refuses forks.
//!
//! # Signal
//! The number of processes at each picture, the growth of each subtree, forks counted by parent; `pids.events` and
//! `pids.current` of control groups with a limit.
//!
//! # Healthy twin
//! make -j, shell scripts, servers that fork their workers: many forks, no growth that goes on.
//!
//! # Thresholds
//! `churn_growth` (10 a second) over the window with at least `churn_least` (50) more, as much in the second half as in
//! the first; or a limit reached.
//!
//! # Source
//! fork(2), "ERRORS"; Documentation/admin-guide/cgroup-v1/pids.rst and cgroup-v2.rst.

use rustc_hash::FxHashMap;

use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{PidsLimitObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ProcessChurn,
    needs: &[Signal::Tasks],
    helped_by: &[Signal::ForkCounts, Signal::PidsLimits],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

/// A subtree stands for the growth if it has this share of it.
const MOST: f64 = 0.8;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = context
        .picture
        .pids_limits
        .iter()
        .filter_map(|limit| at_limit(context, limit))
        .collect();
    if let Some(draft) = growing(context)
        && !drafts.iter().any(|other| other.subject == draft.subject)
    {
        drafts.push(draft);
    }
    drafts
}

/// A control group that refuses forks now, or stands at its limit after having refused some.
fn at_limit(context: &Context<'_>, limit: &PidsLimitObservation) -> Option<Draft> {
    let refused_before = context
        .window
        .first_refused
        .get(&limit.path)
        .copied()
        .unwrap_or(0);
    let refused = limit.refused.saturating_sub(refused_before);
    let full = limit.current >= limit.max && limit.refused > 0;
    if refused == 0 && !full {
        return None;
    }
    let subject = root_of(context, &limit.members)?;
    let source = "pids controller";
    let comm = context.comm(subject);
    Some(Draft {
        mode: Mode::ProcessChurn,
        severity: Severity::Warning,
        confidence: Confidence::Proven,
        subject: Party::process(subject),
        others: Vec::new(),
        members: Vec::new(),
        since_ns: None,
        summary: format!(
            "control group {} is at its limit of {} and forks fail; {comm} ({subject}) is the root of its tree",
            limit.path,
            count(limit.max as usize, "task"),
        ),
        evidence: vec![
            Evidence::from_file("tasks", limit.current, "tasks", source),
            Evidence::from_file("limit", limit.max, "tasks", source),
            Evidence::from_file("forks_refused", limit.refused, "forks", source),
            Evidence::from_file("forks_refused_in_window", refused, "forks", source),
        ],
        chain_from: None,
        flow: None,
        depends_on: Vec::new(),
    })
}

/// The member that most of the others descend from; among equals the oldest.
fn root_of(context: &Context<'_>, members: &[u32]) -> Option<u32> {
    let alive = members.iter().copied().filter(|pid| context.index.lives(*pid));
    alive.max_by_key(|pid| {
        let below = members
            .iter()
            .filter(|other| context.is_ancestor(*pid, **other))
            .count();
        let age = context.index.process(*pid).map_or(u64::MAX, |task| task.start_ns);
        (below, std::cmp::Reverse(age))
    })
}

fn growing(context: &Context<'_>) -> Option<Draft> {
    let window = context.window;
    let seconds = window.length_ns() as f64 / 1e9;
    if window.length_ns() < context.settings.rate_window.as_nanos() as u64 {
        return None;
    }
    let counts = &window.process_counts;
    let (first, last) = (counts.first()?.1, counts.last()?.1);
    let middle_at = window.began_ns + window.length_ns() / 2;
    let middle = counts.iter().find(|(at, _)| *at >= middle_at)?.1;
    let grown = last.saturating_sub(first);
    let goes_on = last.saturating_sub(middle) * 2 >= middle.saturating_sub(first);
    if grown < context.settings.churn_least
        || (grown as f64 / seconds) < context.settings.churn_growth
        || !goes_on
    {
        return None;
    }
    // How many of the new processes stand below each process.
    let mut below: FxHashMap<u32, usize> = FxHashMap::default();
    let mut added = 0;
    for task in context
        .index
        .processes()
        .filter(|task| !window.first_parents.contains_key(&task.tgid))
    {
        added += 1;
        let mut at = task.parent;
        for _ in 0..256 {
            let Some(row) = context.index.process(at) else {
                break;
            };
            *below.entry(at).or_default() += 1;
            if row.parent == at || row.parent == 0 {
                break;
            }
            at = row.parent;
        }
    }
    // The deepest one that still has most of them: the fewest below it.
    let enough = |share: &usize| *share as f64 >= MOST * added as f64;
    let subject = below
        .iter()
        .filter(|(_, share)| enough(share))
        .min_by_key(|(pid, share)| {
            let depth = below
                .keys()
                .filter(|other| context.is_ancestor(**other, **pid))
                .count();
            (**share, std::cmp::Reverse(depth), **pid)
        });
    let (subject, share) = subject.map(|(pid, share)| (*pid, *share))?;
    let forks = window
        .events
        .forks
        .iter()
        .find(|(pid, _)| *pid == subject)
        .map(|(_, forks)| *forks);
    let mut evidence = vec![
        Evidence::new("tree_growth", share, "processes", context.source()),
        Evidence::new(
            "growth_rate",
            grown as f64 / seconds,
            "processes/s",
            context.source(),
        ),
        Evidence::new("processes", last, "processes", context.source()),
    ];
    if let Some(forks) = forks {
        evidence.push(Evidence::from_file(
            "forks",
            forks as f64 / seconds,
            "forks/s",
            "tracepoint",
        ));
    }
    let parent = context
        .index
        .process(subject)
        .map(|task| task.parent)
        .filter(|parent| *parent != 0);
    Some(Draft {
        mode: Mode::ProcessChurn,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject: Party::process(subject),
        others: parent
            .map(|parent| (Role::Parent, Party::process(parent)))
            .into_iter()
            .collect(),
        members: Vec::new(),
        since_ns: Some(window.began_ns),
        summary: format!(
            "the tree below {} ({subject}) grew by {} in {seconds:.1} s and goes on growing",
            context.comm(subject),
            count(share, "process").replace("processs", "processes"),
        ),
        evidence,
        chain_from: None,
        flow: None,
        depends_on: Vec::new(),
    })
}

//! Cause and symptom: which finding explains which, by the wait graph.
//!
//! A finding is the cause of another when its subject can be reached from the other's subject along edges, and it did
//! not begin later. Edges decide; where two findings reach each other, or have the same subject, the structural one
//! explains the other.

use rustc_hash::FxHashMap;

use crate::detect::{Context, Draft};
use crate::graph::Node;
use crate::mode::Mode;

/// Two dates of one moment can differ by this much: a sampling interval, and the time between two waits.
const TOLERANCE_NS: u64 = 1_000_000_000;

/// Modes that say why a process does nothing, structural ones first. Others say only that it does not.
fn precedence(mode: Mode) -> usize {
    const ORDER: [Mode; 10] = [
        Mode::Deadlock,
        Mode::ProcessDeadlock,
        Mode::StoppedProcess,
        Mode::Orphan,
        Mode::ProcessChurn,
        Mode::LockContention,
        Mode::FileLockWait,
        Mode::PipeStall,
        Mode::UnixSocketStall,
        Mode::Zombie,
    ];
    ORDER.iter().position(|one| *one == mode).unwrap_or(ORDER.len())
}

/// Whether a mode explains what else its own subject fails to do.
fn explains_own_subject(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::Deadlock | Mode::ProcessDeadlock | Mode::StoppedProcess | Mode::Orphan
    )
}

/// For each draft the index of the one that causes it.
pub(crate) fn causes(context: &Context<'_>, drafts: &[Draft]) -> Vec<Option<usize>> {
    let reach: Vec<FxHashMap<u32, u32>> = drafts.iter().map(|draft| reach(context, draft)).collect();
    let bodies: Vec<Vec<u32>> = drafts.iter().map(|draft| body(context, draft)).collect();
    let distance = |from: usize, to: usize| -> Option<u32> {
        bodies[to]
            .iter()
            .filter_map(|tid| reach[from].get(tid))
            .min()
            .copied()
    };
    let mut causes = vec![None; drafts.len()];
    for effect in 0..drafts.len() {
        causes[effect] = (0..drafts.len())
            .filter(|cause| *cause != effect && explains(&drafts[*cause], &drafts[effect]))
            .filter_map(|cause| {
                if is_cut_off(&drafts[cause], &drafts[effect]) {
                    let rank = precedence(drafts[cause].mode);
                    return Some((0, drafts[cause].mode.rung(), rank, cause));
                }
                let there = distance(effect, cause)?;
                let mutual = distance(cause, effect).is_some();
                let ranks = (precedence(drafts[cause].mode), precedence(drafts[effect].mode));
                let allowed = if there == 0 {
                    explains_own_subject(drafts[cause].mode)
                } else {
                    true
                };
                (allowed && (!mutual || ranks.0 < ranks.1)).then_some((
                    there,
                    drafts[cause].mode.rung(),
                    ranks.0,
                    cause,
                ))
            })
            .min()
            .map(|(.., cause)| cause);
    }
    break_circles(&mut causes, |index| precedence(drafts[index].mode));
    causes
}

/// Whether an effect is what a partition looks like on one destination: the same program, and the port of its set.
fn is_cut_off(cause: &Draft, effect: &Draft) -> bool {
    let affected = || {
        let others = cause.others.iter().map(|(_, party)| party.pid);
        others
            .chain([cause.subject.pid])
            .any(|pid| pid == effect.subject.pid)
    };
    let port = |draft: &Draft| draft.flow.map(|(_, remote)| remote.port());
    cause.mode == Mode::Partition
        && matches!(effect.mode, Mode::ConnectTimeout | Mode::BlackHole)
        && port(cause) == port(effect)
        && affected()
}

/// Whether an effect lies in the packets' way: no process explains it, since its kernel answers for it whatever it does.
fn is_of_the_path(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::BlackHole | Mode::Partition | Mode::PacketLoss | Mode::HalfOpen
    )
}

/// Whether the dates admit it: a cause does not begin after its effect. An orphan is known by what it holds on to, and
/// others may have waited for that before its parent died.
fn explains(cause: &Draft, effect: &Draft) -> bool {
    if is_cut_off(cause, effect) {
        return true;
    }
    if is_of_the_path(effect.mode) {
        return false;
    }
    if cause.mode == Mode::Orphan && cause.subject.pid == effect.subject.pid {
        return true;
    }
    match (cause.since_ns, effect.since_ns) {
        (Some(cause), Some(effect)) => cause <= effect.saturating_add(TOLERANCE_NS),
        _ => true,
    }
}

/// The threads that stand for a finding: those of its subject, and the members of its knot.
fn body(context: &Context<'_>, draft: &Draft) -> Vec<u32> {
    let mut threads = draft.members.clone();
    match draft.subject.tid {
        Some(tid) => threads.push(tid),
        None => threads.extend(
            context
                .index
                .threads(draft.subject.pid)
                .iter()
                .map(|task| task.tid),
        ),
    }
    threads
}

/// The threads that the subject waits for or depends on, directly or through others, with their distance.
fn reach(context: &Context<'_>, draft: &Draft) -> FxHashMap<u32, u32> {
    let mut reached: FxHashMap<u32, u32> = FxHashMap::default();
    let starts: Vec<u32> = match draft.subject.tid {
        Some(tid) => vec![tid],
        None => context
            .index
            .threads(draft.subject.pid)
            .iter()
            .map(|task| task.tid)
            .collect(),
    };
    let depends_on = draft.depends_on.iter().filter(|pid| **pid != draft.subject.pid);
    let beyond = depends_on
        .flat_map(|pid| context.index.threads(*pid))
        .map(|task| (task.tid, 1));
    let starts: Vec<(u32, u32)> = starts.into_iter().map(|tid| (tid, 0)).chain(beyond).collect();
    for (start, away) in starts {
        for (node, distance) in context.graph.reach(Node::Thread(start)) {
            if let Node::Thread(tid) = node {
                let distance = distance + away;
                reached
                    .entry(tid)
                    .and_modify(|known| *known = distance.min(*known))
                    .or_insert(distance);
            }
        }
    }
    reached
}

/// Three or more findings could point round in a circle; then the one with the highest precedence is the root.
fn break_circles(causes: &mut [Option<usize>], precedence: impl Fn(usize) -> usize) {
    for start in 0..causes.len() {
        let mut path = vec![start];
        while let Some(next) = causes[path[path.len() - 1]] {
            if let Some(at) = path.iter().position(|seen| *seen == next) {
                let root = path[at..]
                    .iter()
                    .copied()
                    .min_by_key(|index| (precedence(*index), *index));
                if let Some(root) = root {
                    causes[root] = None;
                }
                break;
            }
            path.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::break_circles;

    #[test]
    fn a_circle_is_broken_at_its_highest_precedence_and_what_leads_into_it_stays() {
        // 0 -> 1 -> 2 -> 3 -> 1; 2 has the highest precedence.
        let mut causes = [Some(1), Some(2), Some(3), Some(1)];
        break_circles(&mut causes, |index| [5, 4, 0, 3][index]);
        assert_eq!(causes, [Some(1), Some(2), None, Some(1)]);
        let mut straight = [Some(1), Some(2), None];
        break_circles(&mut straight, |index| index);
        assert_eq!(straight, [Some(1), Some(2), None]);
        let mut two = [Some(1), Some(0), Some(3), Some(2)];
        break_circles(&mut two, |index| index);
        assert_eq!(two, [None, Some(0), None, Some(2)]);
    }
}

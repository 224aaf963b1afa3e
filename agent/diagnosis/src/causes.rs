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

/// Where two findings reach each other, the one whose mode stands first explains the other: structural modes first, then
/// what the network does, then who is slow or full, and last what clients make of it.
fn precedence(mode: Mode) -> usize {
    const ORDER: [Mode; 33] = [
        Mode::Deadlock,
        Mode::ProcessDeadlock,
        Mode::StoppedProcess,
        Mode::Orphan,
        Mode::ThreadLeak,
        Mode::ProcessChurn,
        Mode::LockContention,
        Mode::FileLockWait,
        Mode::PipeStall,
        Mode::UnixSocketStall,
        Mode::Partition,
        Mode::BlackHole,
        Mode::DnsStall,
        Mode::PortExhaustion,
        Mode::PacketLoss,
        Mode::CascadingWait,
        Mode::Backpressure,
        Mode::Flapping,
        Mode::ConnectRefused,
        Mode::ConnectTimeout,
        Mode::CrossRegionLatency,
        Mode::Metastable,
        Mode::RetryAmplification,
        Mode::RetryStorm,
        Mode::ThreadPileUp,
        Mode::CloseWaitLeak,
        Mode::FdLeak,
        Mode::MemoryGrowth,
        Mode::OomKill,
        Mode::Zombie,
        Mode::HalfOpen,
        Mode::AsymmetricTraffic,
        Mode::BreakerOpen,
    ];
    ORDER.iter().position(|one| *one == mode).unwrap_or(ORDER.len())
}

/// Whether a mode explains what else is said of its own subject.
fn explains_own_subject(cause: &Draft, effect: &Draft) -> bool {
    match cause.mode {
        // They say why a process does nothing.
        Mode::Deadlock | Mode::ProcessDeadlock | Mode::StoppedProcess | Mode::Orphan => true,
        Mode::LockContention => matches!(
            effect.mode,
            Mode::CascadingWait | Mode::Backpressure | Mode::ThreadPileUp
        ),
        Mode::Partition => is_of_services(effect.mode) && same_port(cause, effect),
        cause_mode if is_of_network(cause_mode) => is_of_services(effect.mode) && same_remote(cause, effect),
        Mode::CascadingWait => matches!(effect.mode, Mode::ThreadPileUp | Mode::Backpressure),
        // Who does not read or accept keeps the threads of others waiting.
        Mode::Backpressure => effect.mode == Mode::ThreadPileUp,
        Mode::Metastable => {
            matches!(effect.mode, Mode::RetryStorm | Mode::RetryAmplification) && same_remote(cause, effect)
        }
        Mode::RetryAmplification => effect.mode == Mode::RetryStorm && same_remote(cause, effect),
        // Threads bring stacks and descriptors, and use up the limit on tasks; memory that grows ends in a kill.
        Mode::ThreadLeak => matches!(
            effect.mode,
            Mode::MemoryGrowth | Mode::FdLeak | Mode::ProcessChurn | Mode::OomKill
        ),
        Mode::MemoryGrowth => effect.mode == Mode::OomKill,
        Mode::CloseWaitLeak => effect.mode == Mode::FdLeak,
        _ => false,
    }
}

/// What may happen to the connections of a process, whoever is to blame.
fn is_of_network(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::Partition
            | Mode::BlackHole
            | Mode::DnsStall
            | Mode::PortExhaustion
            | Mode::PacketLoss
            | Mode::Flapping
            | Mode::ConnectRefused
            | Mode::ConnectTimeout
    )
}

/// What clients make of it.
fn is_of_services(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::RetryStorm
            | Mode::RetryAmplification
            | Mode::BreakerOpen
            | Mode::Metastable
            | Mode::ThreadPileUp
            | Mode::CascadingWait
    )
}

/// Whether two findings are about the same destination, or one of them about none in particular.
fn same_remote(one: &Draft, other: &Draft) -> bool {
    match (one.flow, other.flow) {
        (Some((_, one)), Some((_, other))) => one == other,
        _ => true,
    }
}

/// Whether two findings are about the same port, of whatever host: a partition is about a set of peers.
fn same_port(one: &Draft, other: &Draft) -> bool {
    let port = |draft: &Draft| draft.flow.map(|(_, remote)| remote.port());
    port(one) == port(other)
}

/// Whether a mode can be a cause at all: some only describe what was left behind, where something else shows, or what is
/// harmless.
fn can_explain_others(mode: Mode) -> bool {
    !matches!(
        mode,
        Mode::ThreadPileUp | Mode::BreakerOpen | Mode::HalfOpen | Mode::AsymmetricTraffic
    )
}

/// Whether a process uses ever more of something. That is no reason why others wait for it, so it explains only what else
/// is said of the same process.
fn is_growth(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::ThreadLeak | Mode::FdLeak | Mode::MemoryGrowth | Mode::OomKill | Mode::CloseWaitLeak
    )
}

/// A loop that sustains itself explains what its clients do to the destination, and that the server's queue is full.
/// Neither has to wait for the other at this moment.
fn is_held_up_by_loop(cause: &Draft, effect: &Draft) -> bool {
    if cause.mode != Mode::Metastable {
        return false;
    }
    let of_clients = matches!(effect.mode, Mode::RetryStorm | Mode::RetryAmplification)
        && effect.flow.is_some()
        && same_remote(cause, effect);
    let of_server = effect.mode == Mode::Backpressure && cause.depends_on.contains(&effect.subject.pid);
    of_clients || of_server
}

/// What is full or slow in the loop is part of it, not its cause.
fn is_part_of_loop(cause: &Draft, effect: &Draft) -> bool {
    effect.mode == Mode::Metastable
        && matches!(
            cause.mode,
            Mode::Backpressure | Mode::CascadingWait | Mode::RetryStorm | Mode::RetryAmplification
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
                let (one, other) = (&drafts[cause], &drafts[effect]);
                if is_cut_off(one, other) || is_held_up_by_loop(one, other) {
                    let rank = precedence(one.mode);
                    return Some((0, one.mode.rung(), rank, cause));
                }
                let there = distance(effect, cause)?;
                let mutual = distance(cause, effect).is_some();
                let ranks = (precedence(drafts[cause].mode), precedence(drafts[effect].mode));
                let allowed = if there == 0 {
                    explains_own_subject(&drafts[cause], &drafts[effect])
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
    cause.mode == Mode::Partition
        && matches!(effect.mode, Mode::ConnectTimeout | Mode::BlackHole)
        && same_port(cause, effect)
        && affected()
}

/// Whether an effect lies in the packets' way: no process explains it, since its kernel answers for it whatever it does.
fn is_of_the_path(mode: Mode) -> bool {
    matches!(
        mode,
        Mode::BlackHole | Mode::Partition | Mode::PacketLoss | Mode::HalfOpen
    )
}

/// Whether the modes and the dates admit it: a cause does not begin after its effect. An orphan is known by what it holds on to, and
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
    if is_growth(cause.mode) || effect.mode == Mode::OomKill {
        return cause.subject.pid == effect.subject.pid && explains_own_subject(cause, effect);
    }
    if !can_explain_others(cause.mode) || is_part_of_loop(cause, effect) {
        return false;
    }
    // The waits of a cascade end one by one, and others begin: its date is that of the oldest which still lasts. And what
    // clients do is dated by the window where it began before.
    let counted = matches!(
        effect.mode,
        Mode::RetryStorm | Mode::RetryAmplification | Mode::BreakerOpen
    );
    if counted || matches!(cause.mode, Mode::CascadingWait | Mode::Metastable) {
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
mod tests;

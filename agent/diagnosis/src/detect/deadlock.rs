//! # What
//! Threads of one process wait for each other, or for a lock that nobody holds any more: none of them will ever go on.
//!
//! # Signal
//! A knot of the wait graph within one process. Owners come from glibc mutexes, PI mutexes and joins; where the owner
//! is not known, every thread of the process could end the wait, and only if all of them are stuck it is a knot. If the
//! process also catches signals, a handler might end the wait, and the knot is suspected after a while, not proven.
//!
//! # Healthy twin
//! Idle pools on a condition variable with a live thread that could signal; timed waits; try-lock with back-off.
//!
//! # Thresholds
//! None for a proof. `suspect_after` (30 s) for what a signal could end, and for lock words that look contended while
//! only a part of the process is stuck.
//!
//! # Source
//! futex(2), pthread_mutex_lock(3), pthread_join(3); Coffman, Elphick, Shoshani: System Deadlocks (1971).

use rustc_hash::FxHashMap;

use super::{BlindSpot, Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{Knot, Prospect, Wait, WaitKind, chain};
use crate::mode::Mode;
use crate::observation::{Signal, View};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Deadlock,
    needs: &[Signal::Tasks, Signal::SystemCalls, Signal::FutexWords],
    helped_by: &[Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: Some(monitors),
};

/// SIGINT, which interpreters catch by default to raise an exception.
const SIGINT: u64 = 1 << 1;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    for knot in context.knots {
        if processes(context, knot).len() == 1
            && let Some(draft) = draft(context, knot)
        {
            drafts.push(draft);
        }
    }
    drafts.extend(partly_stuck(context));
    drafts
}

/// The processes that a knot's threads belong to, in order.
pub(super) fn processes(context: &Context<'_>, knot: &Knot) -> Vec<u32> {
    let tasks = knot.threads.iter().filter_map(|tid| context.index.task(*tid));
    let mut pids: Vec<u32> = tasks.map(|task| task.tgid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// A knot came to be when the last of its threads joined it.
pub(super) fn since(context: &Context<'_>, knot: &Knot) -> Option<u64> {
    knot.threads
        .iter()
        .filter_map(|tid| context.graph.wait(*tid)?.since_ns)
        .max()
}

/// How sure and how bad a knot is; `None` if it is too early to say.
pub(super) fn judge(context: &Context<'_>, knot: &Knot) -> Option<(Confidence, Severity)> {
    if knot.prospect == Prospect::Dead {
        let confidence = if rests_on_unseen(context, knot) {
            Confidence::Likely
        } else {
            Confidence::Proven
        };
        return Some((confidence, Severity::Critical));
    }
    let since = since(context, knot)?;
    if context.age(since) < context.settings.suspect_after {
        return None;
    }
    // Who installs a handler for more than the interpreter's interrupt may well be waiting for that signal.
    let caught = knot
        .threads
        .iter()
        .filter_map(|tid| context.index.task(*tid)?.signals)
        .map(|masks| masks.caught);
    let only_interrupt = caught.reduce(|all, one| all | one).is_some_and(|all| {
        let all = crate::observation::SignalMasks {
            caught: all & !SIGINT,
            ignored: 0,
        };
        !all.may_be_woken_from_outside()
    });
    let severity = if only_interrupt && knot.threads.len() > 1 {
        Severity::Warning
    } else {
        Severity::Notice
    };
    Some((Confidence::Suspected, severity))
}

/// Whether somebody who cannot be seen might hold an end that the knot waits for. A pipe counts its ends itself; of a
/// socket, and of a pipe that cannot be looked into, only those holders are known that were seen.
fn rests_on_unseen(context: &Context<'_>, knot: &Knot) -> bool {
    let all_seen = matches!(context.picture.sight.view(Signal::Descriptors), Some(View::Full));
    let mut waits = knot.threads.iter().filter_map(|tid| context.graph.wait(*tid));
    !all_seen
        && waits.any(|wait| match wait.kind {
            WaitKind::PipeFull(pipe) | WaitKind::PipeEmpty(pipe) => context.index.pipe_fill(pipe).is_none(),
            WaitKind::SocketRead(_) | WaitKind::SocketWrite(_) | WaitKind::Connect(_) | WaitKind::Poll => {
                true
            }
            _ => false,
        })
}

/// What each thread of a knot waits for, one piece of evidence each.
pub(super) fn evidence(context: &Context<'_>, knot: &Knot) -> Vec<Evidence> {
    const SHOWN: usize = 8;
    let mut evidence = Vec::new();
    for tid in knot.threads.iter().take(SHOWN) {
        let Some(wait) = context.graph.wait(*tid) else {
            continue;
        };
        if let WaitKind::Mutex { owner, .. } = wait.kind {
            evidence.push(Evidence::new("futex_owner", owner, "tid", context.source()));
        }
        let words = format!("thread {tid} waits for {}", chain::describe(context.index, wait));
        evidence.push(Evidence::new("wait", words, "", context.source()));
    }
    evidence
}

fn draft(context: &Context<'_>, knot: &Knot) -> Option<Draft> {
    let (mut confidence, mut severity) = judge(context, knot)?;
    let mut tasks: Vec<_> = knot
        .threads
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .collect();
    // Who waits for a lock made the ring; who waits for a thread of it to end only closes it.
    tasks.sort_by_key(|task| {
        let joins = |wait: &Wait| matches!(wait.kind, WaitKind::Join { .. });
        (context.graph.wait(task.tid).is_some_and(joins), task.tid)
    });
    let first = tasks.first()?;
    let waits: Vec<&WaitKind> = knot
        .threads
        .iter()
        .filter_map(|tid| context.graph.wait(*tid))
        .map(|wait| &wait.kind)
        .collect();
    let ownerless = waits
        .iter()
        .all(|kind| matches!(kind, WaitKind::Futex { lock_like: false, .. }));
    if ownerless && tasks.len() == 1 {
        // One thread on a word of no known kind: parked for good on purpose looks the same.
        (confidence, severity) = (confidence.min(Confidence::Likely), Severity::Notice);
    }
    let comm = context.comm(first.tgid);
    let gone = waits.iter().find_map(|kind| match kind {
        WaitKind::Mutex {
            owner,
            owner_lives: false,
            ..
        } => Some(owner),
        _ => None,
    });
    let all_mutexes = waits.iter().all(|kind| matches!(kind, WaitKind::Mutex { .. }));
    let summary = match (gone, tasks.as_slice()) {
        (Some(owner), _) => format!(
            "{} of {comm} {} for a mutex whose owner, thread {owner}, ended without unlocking it",
            count(tasks.len(), "thread"),
            if tasks.len() == 1 { "waits" } else { "wait" },
        ),
        (None, [one]) => format!(
            "thread {} of {comm} waits for something that only it could release",
            one.tid
        ),
        (None, [one, two]) if all_mutexes => {
            format!(
                "threads {} and {} of {comm} wait for each other's mutexes",
                one.tid, two.tid
            )
        }
        (None, [one, two]) => format!(
            "threads {} and {} of {comm} wait for each other",
            one.tid, two.tid
        ),
        (None, all) if all.len() == context.index.threads(first.tgid).len() => {
            format!("all {} of {comm} wait for each other", count(all.len(), "thread"))
        }
        (None, all) => format!("{} of {comm} wait for each other", count(all.len(), "thread")),
    };
    let mut evidence = evidence(context, knot);
    let behind = stuck_behind(context, first.tgid, knot);
    if behind > 0 {
        evidence.push(Evidence::new(
            "threads_stuck_behind",
            behind,
            "threads",
            context.source(),
        ));
    }
    if let Some(masks) = first.signals.filter(|_| knot.prospect == Prospect::Doubtful) {
        evidence.push(Evidence::new(
            "signals_caught",
            format!("{:#x}", masks.caught),
            "",
            context.source(),
        ));
    }
    let role = |kind: &WaitKind| {
        if matches!(
            kind,
            WaitKind::Mutex {
                owner_lives: true,
                ..
            }
        ) {
            Role::Owner
        } else {
            Role::Waiter
        }
    };
    let others = tasks.iter().skip(1).map(|task| {
        let role = context
            .graph
            .wait(task.tid)
            .map_or(Role::Waiter, |wait| role(&wait.kind));
        (role, Party::thread(task))
    });
    Some(Draft {
        mode: Mode::Deadlock,
        severity,
        confidence,
        subject: Party::thread(first),
        others: others.collect(),
        members: knot.threads.clone(),
        since_ns: since(context, knot),
        summary,
        evidence,
        chain_from: Some(first.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

/// Threads of the process that cannot go on either, without being part of the knot.
fn stuck_behind(context: &Context<'_>, pid: u32, knot: &Knot) -> usize {
    let stuck = |tid: u32| context.graph.prospect(crate::graph::Node::Thread(tid)) == knot.prospect;
    let threads = context.index.threads(pid).iter();
    threads
        .filter(|task| stuck(task.tid) && !knot.threads.contains(&task.tid))
        .count()
}

/// Lock words that say "contended" for a long time, in a process of which a part still moves: two or more of them may
/// hold each other up. The owners are not known, so this is never more than a hint.
fn partly_stuck(context: &Context<'_>) -> Vec<Draft> {
    let mut words: FxHashMap<u32, Vec<(u32, u64, u64)>> = FxHashMap::default();
    for (tid, wait) in context.graph.waits() {
        let (
            WaitKind::Futex {
                address,
                lock_like: true,
            },
            Some(since),
            false,
        ) = (&wait.kind, wait.since_ns, wait.timed)
        else {
            continue;
        };
        let alive = context.graph.prospect(crate::graph::Node::Thread(tid)) == Prospect::Alive;
        if alive
            && context.age(since) >= context.settings.suspect_after
            && let Some(task) = context.index.task(tid)
        {
            words.entry(task.tgid).or_default().push((tid, *address, since));
        }
    }
    let mut drafts = Vec::new();
    for (pid, waits) in words {
        let mut addresses: Vec<u64> = waits.iter().map(|(_, address, _)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() < 2 {
            continue;
        }
        let members: Vec<u32> = waits.iter().map(|(tid, ..)| *tid).collect();
        let parties: Vec<Party> = members.iter().map(|tid| Party { pid, tid: Some(*tid) }).collect();
        drafts.push(Draft {
            mode: Mode::Deadlock,
            severity: Severity::Notice,
            confidence: Confidence::Suspected,
            subject: parties[0],
            others: parties
                .iter()
                .skip(1)
                .map(|party| (Role::Waiter, *party))
                .collect(),
            since_ns: waits.iter().map(|(.., since)| *since).max(),
            summary: format!(
                "{} of {} have long waited at {} whose owners are not known",
                count(members.len(), "thread"),
                context.comm(pid),
                count(addresses.len(), "contended lock word"),
            ),
            evidence: vec![Evidence::new(
                "contended_lock_words",
                addresses.len(),
                "words",
                context.source(),
            )],
            chain_from: members.first().copied(),
            flow: None,
            depends_on: Vec::new(),
            members,
        });
    }
    drafts
}

/// HotSpot parks the threads that wait for a monitor on condition variables of their own: waiting for a lock and being
/// idle look the same from outside. Its threads have telling names (src/hotspot/share/runtime).
fn monitors(context: &Context<'_>) -> Option<BlindSpot> {
    let tasks = context
        .picture
        .tasks
        .iter()
        .filter(|task| task.comm.as_bytes().starts_with(b"VM Periodic Tas"));
    let pids: Vec<String> = tasks.map(|task| task.tgid.to_string()).collect();
    (!pids.is_empty()).then(|| BlindSpot {
        why: format!(
            "Java monitors do not show who owns them: JVM with pid {}",
            pids.join(", ")
        ),
        remedy: "`jstack PID` finds deadlocks of monitors".into(),
    })
}

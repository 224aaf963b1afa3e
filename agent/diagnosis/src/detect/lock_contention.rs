//! # What
//! Threads of a process spend their time queueing for one mutex.
//!
//! # Signal
//! In each picture, threads in FUTEX_WAIT on a word that says "locked, with waiters" (or in a PI lock). Over a window
//! their share of the process's busy thread time; in one picture, waits that have already lasted seconds. The owner is
//! the culprit, and what the owner itself waits for is the cause.
//!
//! # Healthy twin
//! Pools idle on a condition variable or a semaphore: other operations, no owner. Short critical sections.
//!
//! # Thresholds
//! `contention_share` (30%) with `contention_waiters` (2) on average; or two waits of `contention_wait` (5 s).
//!
//! # Source
//! futex(2); glibc nptl/lowlevellock.h.

use rustc_hash::FxHashMap;

use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{WaitKind, chain};
use crate::mode::Mode;
use crate::observation::Signal;
use crate::window::MutexSamples;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::LockContention,
    needs: &[Signal::Tasks, Signal::SystemCalls, Signal::FutexWords],
    helped_by: &[Signal::OffCpuAge],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

/// Waiters listed in a finding.
const LISTED: usize = 32;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut seen = FxHashMap::default();
    for draft in long_waits(context) {
        seen.insert(draft.0, ());
        drafts.push(draft.1);
    }
    if context.window.length_ns() >= context.settings.rate_window.as_nanos() as u64 {
        for (word, samples) in &context.window.mutexes {
            if !seen.contains_key(word)
                && let Some(draft) = sampled(context, *word, samples)
            {
                drafts.push(draft);
            }
        }
    }
    drafts
}

/// Two or more threads that have waited for the same owner for seconds.
fn long_waits(context: &Context<'_>) -> Vec<((u64, u64), Draft)> {
    let mut words: FxHashMap<(u64, u64), (u32, Vec<u32>)> = FxHashMap::default();
    for (tid, wait) in context.graph.waits() {
        let WaitKind::Mutex {
            address,
            owner,
            owner_lives: true,
        } = wait.kind
        else {
            continue;
        };
        let long = context
            .waiting(tid)
            .is_some_and(|age| age >= context.settings.contention_wait);
        if let Some(task) = context.index.task(tid).filter(|_| long) {
            words
                .entry((task.address_space, address))
                .or_insert((owner, Vec::new()))
                .1
                .push(tid);
        }
    }
    let mut drafts = Vec::new();
    for ((space, address), (owner, waiters)) in words {
        let mut all = waiters.clone();
        all.push(owner);
        if waiters.len() < context.settings.contention_waiters as usize || context.in_one_knot(&all) {
            continue;
        }
        let Some(owner) = context.index.task(owner) else {
            continue;
        };
        let comm = context.comm(owner.tgid);
        // When the second one had to queue.
        let mut since: Vec<u64> = waiters
            .iter()
            .filter_map(|tid| context.graph.wait(*tid)?.since_ns)
            .collect();
        since.sort_unstable();
        let mut evidence = vec![
            Evidence::new("waiters", waiters.len(), "threads", context.source()),
            Evidence::new("mutex", format!("{address:#x}"), "", context.source()),
        ];
        evidence.extend(owner_does(context, owner.tid));
        let parties = waiters
            .iter()
            .take(LISTED)
            .filter_map(|tid| context.index.task(*tid));
        drafts.push((
            (space, address),
            Draft {
                mode: Mode::LockContention,
                severity: Severity::Warning,
                confidence: Confidence::Proven,
                subject: Party::thread(owner),
                others: parties.map(|task| (Role::Waiter, Party::thread(task))).collect(),
                members: Vec::new(),
                since_ns: since.get(1).or(since.first()).copied(),
                summary: format!(
                    "{} of {comm} queue for a mutex that thread {} holds",
                    count(waiters.len(), "thread"),
                    owner.tid
                ),
                evidence,
                chain_from: waiters.first().copied(),
                flow: None,
                depends_on: Vec::new(),
            },
        ));
    }
    drafts
}

/// A mutex that took much of the window.
fn sampled(context: &Context<'_>, word: (u64, u64), samples: &MutexSamples) -> Option<Draft> {
    let pictures = context.window.pictures as f64;
    let running = context
        .window
        .activity
        .get(&samples.tgid)
        .map_or(0, |activity| activity.running);
    let mean_waiters = samples.waiting as f64 / pictures;
    // One thread holds the lock at any time; it is busy even if it sleeps while it does.
    let share = samples.waiting as f64 / (samples.waiting as f64 + (running as f64).max(pictures));
    if mean_waiters < context.settings.contention_waiters || share < context.settings.contention_share {
        return None;
    }
    let process = context.index.process(samples.tgid)?;
    let comm = process.comm;
    // Owners change all the time; the one that was met most often stands for them.
    let owner = samples
        .owners
        .iter()
        .max_by_key(|(owner, times)| (**times, **owner))
        .map(|(owner, _)| *owner);
    let owner = owner.and_then(|owner| context.index.thread_by_own_id(samples.tgid, owner));
    let subject = owner.map_or(Party::process(samples.tgid), Party::thread);
    let mut evidence = vec![
        Evidence::new("time_lost_ratio", share, "of busy thread time", context.source()),
        Evidence::new("mean_waiters", mean_waiters, "threads", context.source()),
        Evidence::new("mutex", format!("{:#x}", word.1), "", context.source()),
        Evidence::new("owners_seen", samples.owners.len(), "threads", context.source()),
        Evidence::new("samples", context.window.pictures, "pictures", context.source()),
    ];
    evidence.extend(owner.into_iter().flat_map(|owner| owner_does(context, owner.tid)));
    let waiters: Vec<_> = context
        .graph
        .waits()
        .filter(|(_, wait)| matches!(wait.kind, WaitKind::Mutex { address, .. } if address == word.1))
        .filter_map(|(tid, _)| context.index.task(tid))
        .filter(|task| task.address_space == word.0)
        .take(LISTED)
        .collect();
    Some(Draft {
        mode: Mode::LockContention,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject,
        others: waiters
            .iter()
            .map(|task| (Role::Waiter, Party::thread(task)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(context.window.began_ns),
        summary: format!(
            "{:.1} threads of {comm} queue for one mutex on average: {:.0}% of its busy thread time",
            mean_waiters,
            share * 100.0
        ),
        evidence,
        chain_from: waiters.first().map(|task| task.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

/// What the owner itself does meanwhile.
fn owner_does(context: &Context<'_>, owner: u32) -> Option<Evidence> {
    let words = match context.graph.wait(owner) {
        Some(wait) => format!("waits for {}", chain::describe(context.index, wait)),
        None => "runs".into(),
    };
    Some(Evidence::new("owner", words, "", context.source()))
}

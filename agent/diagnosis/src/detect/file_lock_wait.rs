//! # What
//! A process holds a file lock while others wait for it.
//!
//! # Signal
//! Threads blocked in flock(2) or fcntl(2), matched with the kernel's lock table, which names holder and waiters. Where
//! it names nobody alive, those who have the file open and do not wait.
//!
//! # Healthy twin
//! Short exclusive sections; polling with LOCK_NB.
//!
//! # Thresholds
//! `file_lock` (5 s).
//!
//! # Source
//! proc_locks(5); flock(2); fcntl_locking(2).

use std::collections::BTreeMap;

use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::WaitKind;
use crate::mode::Mode;
use crate::observation::{LockObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::FileLockWait,
    needs: &[Signal::Tasks, Signal::SystemCalls, Signal::FileLocks],
    helped_by: &[Signal::OffCpuAge, Signal::Descriptors],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut waiters: BTreeMap<u64, (&LockObservation, Vec<u32>)> = BTreeMap::new();
    for (tid, wait) in context.graph.waits() {
        if !matches!(wait.kind, WaitKind::FileLock { .. }) {
            continue;
        }
        let task = context.index.task(tid);
        if let Some(request) = task.and_then(|task| context.index.awaited_lock(task)) {
            waiters
                .entry(request.number)
                .or_insert((request, Vec::new()))
                .1
                .push(tid);
        }
    }
    waiters
        .into_values()
        .filter_map(|(request, tids)| draft(context, request, &tids))
        .collect()
}

fn draft(context: &Context<'_>, request: &LockObservation, waiters: &[u32]) -> Option<Draft> {
    let since = waiters
        .iter()
        .filter_map(|tid| context.graph.wait(*tid)?.since_ns)
        .min()?;
    if context.age(since) < context.settings.file_lock {
        return None;
    }
    let holders = context.index.lock_holders(request);
    let subject = *holders.first()?;
    let mut knot: Vec<u32> = waiters.to_vec();
    knot.extend(context.index.threads(subject).iter().map(|task| task.tid));
    if context.in_one_knot(&knot) {
        return None;
    }
    let first = context.index.task(*waiters.first()?)?;
    let named = context
        .picture
        .locks
        .iter()
        .any(|lock| !lock.waiting && lock.number == request.number && lock.pid == Some(subject));
    let who = match waiters {
        [_] => format!("{} ({}) waits", first.comm, first.tgid),
        more => format!("{} ({}) and {} more wait", first.comm, first.tgid, more.len() - 1),
    };
    let file = format!(
        "{}:{}:{}",
        request.file.device >> 20,
        request.file.device & 0xf_ffff,
        request.file.inode
    );
    let mut others: Vec<(Role, Party)> = waiters
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .map(|task| (Role::Waiter, Party::thread(task)))
        .collect();
    others.extend(
        holders
            .iter()
            .skip(1)
            .map(|pid| (Role::Holder, Party::process(*pid))),
    );
    Some(Draft {
        mode: Mode::FileLockWait,
        severity: Severity::Warning,
        confidence: if named {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns: Some(since),
        summary: format!(
            "{} ({subject}) holds a {} that {who} for",
            context.comm(subject),
            request.kind
        ),
        evidence: vec![
            Evidence::from_file("waiters", waiters.len(), "threads", "/proc/locks"),
            Evidence::from_file("file", file, "major:minor:inode", "/proc/locks"),
            Evidence::from_file(
                "lock",
                format!(
                    "{} {}",
                    request.kind,
                    if request.exclusive { "exclusive" } else { "shared" }
                ),
                "",
                "/proc/locks",
            ),
        ],
        chain_from: Some(first.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

//! # What
//! A process was stopped (SIGSTOP, SIGTSTP, a debugger), and somebody who was not waits for it.
//!
//! # Signal
//! State T or t, and waits that only whoever continues the process could end: the wait graph's own verdict.
//!
//! # Healthy twin
//! A job stopped in a shell, with its whole pipeline; a debugger at a terminal.
//!
//! # Thresholds
//! `stopped` (5 s), for the stop and for the wait.
//!
//! # Source
//! signal(7); ptrace(2); credentials(7) on job control.

use std::collections::BTreeMap;

use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{Node, Prospect, WaitKind, chain};
use crate::mode::Mode;
use crate::observation::{Signal, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::StoppedProcess,
    needs: &[Signal::Tasks],
    helped_by: &[Signal::SystemCalls, Signal::Descriptors, Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut waiters: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (tid, wait) in context.graph.waits() {
        let stopped = matches!(wait.kind, WaitKind::Stopped | WaitKind::Traced);
        let long = context
            .waiting(tid)
            .is_some_and(|age| age >= context.settings.stopped);
        if stopped || !long || context.graph.prospect(Node::Thread(tid)) != Prospect::HeldByStopped {
            continue;
        }
        let Some(task) = context.index.task(tid) else {
            continue;
        };
        let culprit = context
            .graph
            .reach(Node::Thread(tid))
            .into_iter()
            .find_map(|(node, _)| match node {
                Node::Thread(other) => {
                    let kind = context.graph.wait(other).map(|wait| &wait.kind);
                    let stopped = matches!(kind, Some(WaitKind::Stopped | WaitKind::Traced));
                    context
                        .index
                        .task(other)
                        .filter(|_| stopped)
                        .map(|task| task.tgid)
                }
                _ => None,
            });
        if let Some(culprit) = culprit.filter(|pid| *pid != task.tgid) {
            waiters.entry(culprit).or_default().push(tid);
        }
    }
    waiters
        .into_iter()
        .filter_map(|(pid, tids)| draft(context, pid, &tids))
        .collect()
}

fn draft(context: &Context<'_>, pid: u32, waiters: &[u32]) -> Option<Draft> {
    let stopped = context
        .index
        .threads(pid)
        .iter()
        .find(|task| matches!(task.state, TaskState::Stopped | TaskState::Traced))?;
    let stop = stopped.off_cpu_since_ns?;
    let first_wait = waiters
        .iter()
        .filter_map(|tid| context.graph.wait(*tid)?.since_ns)
        .min()?;
    // Harm begins when there is both a stop and somebody who waits.
    let since = stop.max(first_wait);
    if context.age(since) < context.settings.stopped {
        return None;
    }
    let traced = stopped.state == TaskState::Traced;
    if traced && stopped.tracer != 0 && context.awaits_person(stopped.tracer) {
        return None;
    }
    let comm = context.comm(pid);
    let first = context.index.task(*waiters.first()?)?;
    let wait = context.graph.wait(first.tid)?;
    let how = if traced {
        format!("is held by its tracer ({})", stopped.tracer)
    } else {
        "was stopped by a signal".into()
    };
    let mut others: Vec<(Role, Party)> = waiters
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .map(|task| (Role::Waiter, Party::thread(task)))
        .collect();
    if traced && stopped.tracer != 0 {
        others.push((Role::Holder, Party::process(stopped.tracer)));
    }
    Some(Draft {
        mode: Mode::StoppedProcess,
        severity: Severity::Warning,
        confidence: Confidence::Proven,
        subject: Party::process(pid),
        others,
        members: Vec::new(),
        since_ns: Some(since),
        summary: format!(
            "{comm} ({pid}) {how}, and {} ({}) waits for {}",
            first.comm,
            first.tgid,
            chain::describe(context.index, wait)
        ),
        evidence: vec![
            Evidence::new(
                "state",
                if traced { "t (tracing stop)" } else { "T (stopped)" },
                "",
                context.source(),
            ),
            Evidence::new(
                "stopped_for",
                context.age(stop).as_secs_f64(),
                "s",
                context.source(),
            ),
            Evidence::new("waiters", waiters.len(), "threads", context.source()),
        ],
        chain_from: Some(first.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

//! # What
//! Processes wait for each other in a circle: a parent for its child that is blocked on a pipe only the parent reads,
//! two processes that each read first, two that hold each other's file locks.
//!
//! # Signal
//! A knot of the wait graph that spans more than one process.
//!
//! # Healthy twin
//! Parents of long-running children; co-processes that take turns.
//!
//! # Thresholds
//! None for a proof; `suspect_after` (30 s) where a signal could help.
//!
//! # Source
//! pipe(7), wait(2); the warnings of Python's subprocess documentation on `wait()` with pipes.

use super::deadlock::{evidence, judge, processes, since};
use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Role, Severity};
use crate::graph::{Prospect, WaitKind};
use crate::mode::Mode;
use crate::observation::Signal;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ProcessDeadlock,
    needs: &[Signal::Tasks, Signal::SystemCalls, Signal::Descriptors],
    helped_by: &[
        Signal::PipeFill,
        Signal::UnixSockets,
        Signal::OffCpuAge,
        Signal::FileLocks,
    ],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for knot in context.knots {
        let pids = processes(context, knot);
        if pids.len() < 2 {
            continue;
        }
        let Some((confidence, severity)) = judge(context, knot) else {
            continue;
        };
        // The ancestor of the others, if there is one: it set the circle up.
        let above = |pid: &&u32| {
            pids.iter()
                .all(|other| *pid == other || context.is_ancestor(**pid, *other))
        };
        let first = pids.iter().find(above).copied().unwrap_or(pids[0]);
        let role = |pid: u32| match context.index.process(pid).map(|task| task.parent) {
            Some(parent) if parent == first => Role::Child,
            _ => Role::Peer,
        };
        let names: Vec<String> = pids
            .iter()
            .take(4)
            .map(|pid| format!("{} ({pid})", context.comm(*pid)))
            .collect();
        let kinds: Vec<&WaitKind> = knot
            .threads
            .iter()
            .filter_map(|tid| context.graph.wait(*tid))
            .map(|wait| &wait.kind)
            .collect();
        let undrained = kinds.iter().any(|kind| matches!(kind, WaitKind::Child))
            && kinds.iter().any(|kind| matches!(kind, WaitKind::PipeFull(_)));
        let summary = if undrained && pids.len() == 2 {
            let child = pids.iter().find(|pid| **pid != first).copied().unwrap_or(first);
            format!(
                "{} ({first}) waits for its child {} ({child}), which waits for it to read a full pipe",
                context.comm(first),
                context.comm(child),
            )
        } else {
            format!(
                "{} wait for each other: {}",
                count(pids.len(), "process").replace("processs", "processes"),
                names.join(", ")
            )
        };
        let others = pids
            .iter()
            .filter(|pid| **pid != first)
            .map(|pid| (role(*pid), Party::process(*pid)));
        drafts.push(Draft {
            mode: Mode::ProcessDeadlock,
            severity: if knot.prospect == Prospect::Doubtful {
                Severity::Notice
            } else {
                severity
            },
            confidence,
            subject: Party::process(first),
            others: others.collect(),
            members: knot.threads.clone(),
            since_ns: since(context, knot),
            summary,
            evidence: evidence(context, knot),
            flow: None,
            depends_on: Vec::new(),
            chain_from: knot
                .threads
                .iter()
                .find(|tid| context.index.task(**tid).is_some_and(|t| t.tgid == first))
                .copied(),
        });
    }
    drafts
}

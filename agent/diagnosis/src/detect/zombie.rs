//! # What
//! Children have exited, and their parent does not reap them. They fill the process table.
//!
//! # Signal
//! State Z with the whole thread group dead, by real parent: number, age, and what the parent does instead.
//!
//! # Healthy twin
//! The milliseconds before wait(2); a leader that exited while its threads live; SIGCHLD ignored.
//!
//! # Thresholds
//! One older than `zombie_age` (30 s), or `zombie_count` (5) of one parent older than `zombie_settled` (1 s). Critical
//! when zombies take half of all pids.
//!
//! # Source
//! wait(2), "NOTES"; proc_pid_stat(5).

use std::collections::BTreeMap;

use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{WaitKind, chain};
use crate::mode::Mode;
use crate::observation::{Signal, TaskObservation, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Zombie,
    needs: &[Signal::Tasks],
    helped_by: &[Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: None,
};

/// Zombies listed in a finding.
const LISTED: usize = 16;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut by_parent: BTreeMap<u32, Vec<&TaskObservation>> = BTreeMap::new();
    for task in context.index.processes() {
        if task.state == TaskState::Zombie && task.parent != 0 && !context.index.lives(task.tgid) {
            by_parent.entry(task.parent).or_default().push(task);
        }
    }
    by_parent
        .into_iter()
        .filter_map(|(parent, zombies)| draft(context, parent, zombies))
        .collect()
}

fn draft(context: &Context<'_>, parent: u32, mut zombies: Vec<&TaskObservation>) -> Option<Draft> {
    let settings = context.settings;
    zombies.sort_by_key(|task| task.off_cpu_since_ns.unwrap_or(u64::MAX));
    let older_than = |age| {
        zombies
            .iter()
            .filter(|task| {
                task.off_cpu_since_ns
                    .is_some_and(|since| context.age(since) >= age)
            })
            .count()
    };
    let (old, settled) = (
        older_than(settings.zombie_age),
        older_than(settings.zombie_settled),
    );
    if old == 0 && settled < settings.zombie_count {
        return None;
    }
    let row = context.index.process(parent)?;
    let oldest = zombies.first()?.off_cpu_since_ns;
    let crowded = context.host.pid_max > 0 && zombies.len() as u64 * 2 >= context.host.pid_max;
    let mut who = format!("{} ({parent})", context.comm(parent));
    if row.ns_tgid == 1 && row.pid_ns_level > 0 {
        who = format!("{who}, PID 1 of pid namespace {},", row.pid_ns);
    }
    let have = if zombies.len() == 1 { "has" } else { "have" };
    let mut evidence = vec![Evidence::new(
        "zombies",
        zombies.len(),
        "processes",
        context.source(),
    )];
    if let Some(oldest) = oldest {
        evidence.push(Evidence::new(
            "oldest_zombie",
            context.age(oldest).as_secs_f64(),
            "s",
            context.source(),
        ));
    }
    let does = match context.graph.wait(parent) {
        Some(wait) if matches!(wait.kind, WaitKind::Child) => "waits for a child, but not for these".into(),
        Some(wait) => format!("waits for {}", chain::describe(context.index, wait)),
        None => "runs".into(),
    };
    evidence.push(Evidence::new("parent", does, "", context.source()));
    if row.pid_ns_level > 0 {
        evidence.push(Evidence::new(
            "pid_namespace",
            u64::from(row.pid_ns),
            "inode",
            context.source(),
        ));
    }
    Some(Draft {
        mode: Mode::Zombie,
        severity: if crowded {
            Severity::Critical
        } else {
            Severity::Warning
        },
        confidence: Confidence::Proven,
        subject: Party::process(parent),
        others: zombies
            .iter()
            .take(LISTED)
            .map(|task| (Role::Child, Party::process(task.tgid)))
            .collect(),
        members: Vec::new(),
        since_ns: oldest,
        summary: format!(
            "{who} has not reaped {}, which {have} exited",
            count(zombies.len(), "child").replace("childs", "children")
        ),
        evidence,
        chain_from: context.graph.wait(parent).map(|_| parent),
        flow: None,
        depends_on: Vec::new(),
    })
}

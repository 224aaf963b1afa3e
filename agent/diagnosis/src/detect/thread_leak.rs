//! # What
//! A process makes ever more threads, and they do not end.
//!
//! # Signal
//! The number of threads of each process, once a second; the pids limit of its control groups, and the host's limit on
//! threads, for the time that is left.
//!
//! # Healthy twin
//! A pool that warms up and is then complete; threads that come and go; a server with a thread for each client, whose
//! clients have come.
//!
//! # Thresholds
//! `threads_least` (10) more over the window, in a steady rise (see [`crate::growth`]). Critical if a limit is reached
//! within `soon` (60 s). Only suspected of a process younger than `warm_up` (30 s).
//!
//! # Source
//! pthread_create(3), "ERRORS"; proc_sys_kernel(5), threads-max; cgroup-v2.rst, "PID".

use std::collections::BTreeMap;

use super::growing::{Growing, growing, in_words};
use super::{Context, Detector, Draft};
use crate::finding::{Confidence, Evidence, Severity};
use crate::index::TCP_ESTABLISHED;
use crate::mode::Mode;
use crate::observation::{Call, Signal, TaskObservation};
use crate::window::is_within;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ThreadLeak,
    needs: &[Signal::Tasks],
    helped_by: &[Signal::PidsLimits, Signal::UsageLimits],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let least = f64::from(context.settings.growth.threads_least);
    growing(context, |sample| f64::from(sample.threads), least)
        .iter()
        .filter(|one| (inbound_connections(context, one.pid) as f64) < one.trend.rise)
        .map(|one| draft(context, one))
        .collect()
}

/// Connections of clients that a process has open: what grows with them follows the load.
pub(super) fn inbound_connections(context: &Context<'_>, pid: u32) -> usize {
    let sockets = context.picture.inet_sockets.iter();
    let inbound = sockets
        .filter(|socket| socket.tcp && socket.state == TCP_ESTABLISHED && context.index.is_inbound(socket));
    inbound
        .filter(|socket| context.index.socket_processes(socket.id).contains(&pid))
        .count()
}

/// The limit that is reached first: its name, the limit, and what is used of it.
fn nearest_limit(context: &Context<'_>, one: &Growing<'_>) -> Option<(String, u64, u64)> {
    let group = one.limits().map_or("", |limits| limits.pids_group.as_str());
    let groups = context
        .picture
        .pids_limits
        .iter()
        .filter(|limit| is_within(group, &limit.path))
        .map(|limit| (format!("pids.max of {}", limit.path), limit.max, limit.current));
    let host = context.window.usage.host.map(|(_, host)| {
        let threads = context.picture.tasks.len() as u64;
        ("kernel.threads-max".to_owned(), host.threads_max, threads)
    });
    groups
        .chain(host.filter(|(_, most, _)| *most > 0))
        .min_by_key(|(_, most, used)| most.saturating_sub(*used))
}

fn draft(context: &Context<'_>, one: &Growing<'_>) -> Draft {
    let source = context.source();
    let (comm, pid) = (context.comm(one.pid), one.pid);
    let mut evidence = vec![
        Evidence::new("threads", one.last.threads, "threads", source),
        Evidence::new("growth_rate", one.trend.slope, "threads/s", source),
        Evidence::new("growth", one.trend.rise as u64, "threads", source),
    ];
    let mut summary = format!(
        "{comm} ({pid}) makes ever more threads: {} now, {:.1} more a second",
        one.last.threads, one.trend.slope
    );
    let mut severity = Severity::Warning;
    if let Some((name, most, used)) = nearest_limit(context, one)
        && let Some(time) = one.time_to(context, most.saturating_sub(used) as f64)
    {
        summary.push_str(&format!(
            "; {name} is reached in about {}",
            in_words(time.seconds)
        ));
        if time.seconds < context.settings.growth.soon.as_secs_f64() {
            severity = Severity::Critical;
        }
        evidence.extend([
            Evidence::new("limit", most, "threads", source),
            Evidence::new("limit_name", name, "", source),
            Evidence::new("time_to_exhaustion", time.seconds, "s", source),
            Evidence::new("earliest_exhaustion", time.earliest, "s", source),
            Evidence::new("latest_exhaustion", time.latest, "s", source),
        ]);
    }
    let newest = newest(context, pid);
    if let Some((call, times)) = common_call(&newest) {
        evidence.push(Evidence::new("newest_threads_in", call, "", source));
        evidence.push(Evidence::new("of_the_newest", times, "threads", source));
    }
    let mut draft = Draft::of_process(Mode::ThreadLeak, pid, summary);
    draft.severity = severity;
    if one.may_warm_up(context) {
        draft.confidence = Confidence::Suspected;
    }
    draft.evidence = evidence;
    draft.chain_from = newest.first().map(|task| task.tid);
    draft
}

/// The threads that began within the window, the last one first.
fn newest<'a>(context: &'a Context<'_>, pid: u32) -> Vec<&'a TaskObservation> {
    let began_ns = context.window.began_ns + context.picture.suspended_ns;
    let threads = context.index.threads(pid).iter().copied();
    let mut newest: Vec<&TaskObservation> = threads
        .filter(|task| task.tid != pid && task.start_ns >= began_ns)
        .collect();
    newest.sort_by_key(|task| std::cmp::Reverse((task.start_ns, task.tid)));
    newest
}

/// The kind of wait that most of these threads are in.
fn common_call(threads: &[&TaskObservation]) -> Option<(&'static str, usize)> {
    let mut calls: BTreeMap<&'static str, usize> = BTreeMap::new();
    for task in threads {
        let name = match task.call.as_ref().map(|blocked| &blocked.call)? {
            Call::Futex(_) => "a lock or condition variable (futex)",
            Call::Read { .. } => "read",
            Call::Write { .. } => "write",
            Call::Accept { .. } => "accept",
            Call::Connect { .. } => "connect",
            Call::Poll { .. } | Call::EpollWait { .. } => "poll",
            Call::WaitChild { .. } => "wait for a child",
            Call::FileLock { .. } => "a file lock",
            Call::Sleep => "sleep",
            Call::Signal => "wait for a signal",
            Call::Vfork => "vfork",
            Call::Other => "another call",
        };
        *calls.entry(name).or_default() += 1;
    }
    calls.into_iter().max_by_key(|(_, times)| *times)
}

//! # What
//! A process opens ever more descriptors and does not close them, or has nearly as many as it may have.
//!
//! # Signal
//! The number of descriptors of each process, once a second, and its soft limit (RLIMIT_NOFILE). The picture says which
//! kinds grow; plain files are what is left over.
//!
//! # Healthy twin
//! A pool that warms up and is then complete; a server whose descriptors are connections of clients that came; files that
//! are opened and closed at a high rate.
//!
//! # Thresholds
//! `descriptors_least` (10) more over the window, in a steady rise (see [`crate::growth`]); or `descriptors_share` (95%)
//! of the limit, if that is at least `descriptors_limit_least` (64). Critical if the limit is reached, or will be within
//! `soon` (60 s). Only suspected of a process younger than `warm_up` (30 s).
//!
//! # Source
//! getrlimit(2), RLIMIT_NOFILE; open(2), EMFILE; proc_pid_fd(5).

use super::growing::{Growing, growing, in_words};
use super::thread_leak::inbound_connections;
use super::{Context, Detector, Draft};
use crate::finding::{Confidence, Evidence, Severity};
use crate::mode::Mode;
use crate::observation::{Signal, Source, TaskObservation};
use crate::window::DescriptorKinds;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::FdLeak,
    needs: &[Signal::Tasks, Signal::DescriptorCounts],
    helped_by: &[Signal::Descriptors, Signal::UsageLimits],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

const SOURCE: &str = "procfs";

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let least = f64::from(context.settings.growth.descriptors_least);
    let growing = growing(context, |sample| f64::from(sample.descriptors), least);
    let mut drafts = Vec::new();
    if !growing.is_empty() {
        let kinds = DescriptorKinds::of(context.picture);
        drafts.extend(growing.iter().filter_map(|one| {
            let now = kinds.get(&one.pid).copied().unwrap_or_default();
            leak(context, one, now)
        }));
    }
    let leaking: Vec<u32> = drafts.iter().map(|draft| draft.subject.pid).collect();
    let full = full(context);
    drafts.extend(
        full.into_iter()
            .filter(|draft| !leaking.contains(&draft.subject.pid)),
    );
    drafts
}

/// Processes that stand close to their limit, growing or not.
fn full(context: &Context<'_>) -> Vec<Draft> {
    let settings = &context.settings.growth;
    let mut drafts = Vec::new();
    let mut kinds = None;
    for ((pid, start_ns), history) in context.window.usage.living() {
        let count = u64::from(history.latest.descriptors.unwrap_or(0));
        let limit = history.limits.as_ref().and_then(|limits| limits.descriptors);
        let Some(limit) = limit.filter(|limit| *limit >= settings.descriptors_limit_least) else {
            continue;
        };
        // More than the limit: it was lowered after they were opened, on purpose.
        if (count as f64) < settings.descriptors_share * limit as f64 || count > limit {
            continue;
        }
        let same = |task: &TaskObservation| task.start_ns == start_ns;
        if !context.index.process(pid).is_some_and(same) {
            continue;
        }
        let comm = context.comm(pid);
        let mut draft = Draft::of_process(
            Mode::FdLeak,
            pid,
            format!("{comm} ({pid}) has {count} descriptors open of the {limit} that it may have"),
        );
        draft.confidence = Confidence::Proven;
        if count >= limit {
            draft.severity = Severity::Critical;
        }
        draft.evidence = vec![
            Evidence::from_file("descriptors", count, "descriptors", SOURCE),
            Evidence::from_file("limit", limit, "descriptors", SOURCE),
        ];
        let kinds = kinds
            .get_or_insert_with(|| DescriptorKinds::of(context.picture))
            .get(&pid)
            .copied()
            .unwrap_or_default();
        draft.evidence.extend(
            by_kind(kinds, u32::try_from(count).unwrap_or(u32::MAX))
                .iter()
                .map(|(kind, number)| of_kind("held", kind, *number, context.source())),
        );
        drafts.push(draft);
    }
    drafts
}

/// How many there are of each kind, the most frequent first; what the picture does not list are files and the like.
fn by_kind(kinds: DescriptorKinds, count: u32) -> Vec<(&'static str, u32)> {
    let mut named = kinds.named().to_vec();
    let listed: u32 = named.iter().map(|(_, number)| number).sum();
    named.push(("files and others", count.saturating_sub(listed)));
    named.retain(|(_, number)| *number > 0);
    named.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    named
}

/// A number of one kind, such as `growth_event_polls`.
fn of_kind(what: &str, kind: &str, number: u32, source: Source) -> Evidence {
    let signal = format!("{what}_{}", kind.to_lowercase().replace(' ', "_"));
    Evidence::new(&signal, number, "descriptors", source)
}

fn leak(context: &Context<'_>, one: &Growing<'_>, now: DescriptorKinds) -> Option<Draft> {
    let first = context.window.usage.first_kinds.get(&one.pid).copied();
    let risen = now.risen_since(first.unwrap_or_default());
    let limit = one.limits().and_then(|limits| limits.descriptors);
    let share = limit.map_or(0.0, |limit| f64::from(one.last.descriptors) / limit as f64);
    // Clients come, and each takes a descriptor: that is load.
    let follows = inbound_connections(context, one.pid) as f64 >= one.trend.rise;
    if follows && share < context.settings.growth.descriptors_share {
        return None;
    }
    let kinds = by_kind(risen, one.trend.rise as u32);
    let comm = context.comm(one.pid);
    let mut summary = format!(
        "{comm} ({}) opens ever more descriptors: {} now, {:.1} more a second",
        one.pid, one.last.descriptors, one.trend.slope
    );
    if let Some((kind, _)) = kinds.first() {
        summary.push_str(&format!(", most of them {kind}"));
    }
    let mut draft = Draft::of_process(Mode::FdLeak, one.pid, String::new());
    draft.evidence = vec![
        Evidence::from_file("descriptors", one.last.descriptors, "descriptors", SOURCE),
        Evidence::from_file("growth_rate", one.trend.slope, "descriptors/s", SOURCE),
        Evidence::from_file("growth", one.trend.rise as u64, "descriptors", SOURCE),
    ];
    let source = context.source();
    draft.evidence.extend(
        kinds
            .iter()
            .map(|(kind, number)| of_kind("growth", kind, *number, source)),
    );
    if let Some(limit) = limit {
        draft
            .evidence
            .push(Evidence::from_file("limit", limit, "descriptors", SOURCE));
        let room = limit as f64 - f64::from(one.last.descriptors);
        if let Some(time) = one.time_to(context, room) {
            summary.push_str(&format!(
                "; its limit of {limit} is reached in about {}",
                in_words(time.seconds)
            ));
            draft.evidence.extend([
                Evidence::from_file("time_to_exhaustion", time.seconds, "s", SOURCE),
                Evidence::from_file("earliest_exhaustion", time.earliest, "s", SOURCE),
                Evidence::from_file("latest_exhaustion", time.latest, "s", SOURCE),
            ]);
            if time.seconds < context.settings.growth.soon.as_secs_f64() {
                draft.severity = Severity::Critical;
            }
        }
    }
    draft.summary = summary;
    if one.may_warm_up(context) {
        draft.confidence = Confidence::Suspected;
    }
    Some(draft)
}

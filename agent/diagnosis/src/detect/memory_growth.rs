//! # What
//! The anonymous memory of a process grows steadily towards a limit, and will reach it.
//!
//! # Signal
//! Resident anonymous memory of each process, once a second; limits on memory of its control groups (what the kernel can
//! drop of them is not counted as used), its rlimits, and what the host has left. Their distance, by the slope of the
//! growth, is the time that is left; the interval of the slope gives the earliest and the latest time.
//!
//! # Healthy twin
//! Page cache and mapped files, which are not anonymous; a heap that grows to its cap; a start-up that is over.
//!
//! # Thresholds
//! Growth by `memory_share` (5%) of the limit over the window, in a steady rise (see [`crate::growth`]), the last quarter
//! included. Critical if the limit is reached within `soon` (60 s). Only suspected of a process younger than `warm_up`
//! (30 s).
//!
//! # Source
//! proc_pid_statm(5); cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst; getrlimit(2), RLIMIT_AS, RLIMIT_DATA.

use super::growing::{Growing, growing, in_words, mebibytes};
use super::{Context, Detector, Draft};
use crate::finding::{Confidence, Evidence, Severity};
use crate::mode::Mode;
use crate::observation::Signal;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::MemoryGrowth,
    needs: &[Signal::Tasks, Signal::MemoryUse],
    helped_by: &[Signal::UsageLimits],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

/// Growth below this is not looked at: the kernel counts pages of each process in batches.
const LEAST_BYTES: f64 = 1048576.0;
const SOURCE: &str = "procfs";

/// A limit, and how far it is away.
struct Limit {
    name: String,
    bytes: u64,
    room_bytes: u64,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    growing(context, |sample| sample.anonymous_bytes as f64, LEAST_BYTES)
        .iter()
        .filter_map(|one| {
            let share = context.settings.growth.memory_share;
            let limits = limits(context, one).into_iter();
            let near = limits.filter(|limit| one.trend.rise >= share * limit.bytes as f64);
            let limit = near.min_by_key(|limit| limit.room_bytes)?;
            draft(context, one, &limit)
        })
        .collect()
}

/// Every limit that its memory can reach.
fn limits(context: &Context<'_>, one: &Growing<'_>) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut add = |name: &str, bytes: Option<u64>, used: u64| {
        if let Some(bytes) = bytes {
            limits.push(Limit {
                name: name.into(),
                bytes,
                room_bytes: bytes.saturating_sub(used),
            });
        }
    };
    if let Some(known) = one.limits() {
        let latest = &one.history.latest;
        add("RLIMIT_AS", known.virtual_bytes, latest.virtual_bytes);
        add("RLIMIT_DATA", known.data_bytes, latest.data_bytes);
        for (_, group) in context.window.usage.groups_of(&known.memory_group) {
            let group = &group.last;
            let bytes = group.limit_bytes.or(group.high_bytes);
            let used = group.used_bytes.saturating_sub(group.reclaimable_bytes);
            add(&format!("control group {}", group.path), bytes, used);
        }
    }
    if let Some((_, host)) = context.window.usage.host
        && host.memory_bytes > 0
    {
        let (bytes, room) = (host.memory_bytes, host.available_bytes + host.swap_free_bytes);
        add("the host", Some(bytes), bytes.saturating_sub(room));
    }
    limits
}

fn draft(context: &Context<'_>, one: &Growing<'_>, limit: &Limit) -> Option<Draft> {
    let time = one.time_to(context, limit.room_bytes as f64)?;
    let summary = format!(
        "the memory of {} ({}) grows by {} a second: the limit of {} ({}) is reached in about {}",
        context.comm(one.pid),
        one.pid,
        mebibytes(one.trend.slope),
        limit.name,
        mebibytes(limit.bytes as f64),
        in_words(time.seconds)
    );
    let mut draft = Draft::of_process(Mode::MemoryGrowth, one.pid, summary);
    if time.seconds < context.settings.growth.soon.as_secs_f64() {
        draft.severity = Severity::Critical;
    }
    if one.may_warm_up(context) {
        draft.confidence = Confidence::Suspected;
    }
    let fact = |signal, value: f64, unit| Evidence::from_file(signal, value, unit, SOURCE);
    draft.evidence = vec![
        Evidence::from_file("anonymous", one.last.anonymous_bytes, "bytes", SOURCE),
        Evidence::from_file("growth_rate", one.trend.slope as u64, "bytes/s", SOURCE),
        Evidence::from_file("growth", one.trend.rise as u64, "bytes", SOURCE),
        fact("watched", one.trend.seconds, "s"),
        fact("time_to_exhaustion", time.seconds, "s"),
        fact("earliest_exhaustion", time.earliest, "s"),
        fact("latest_exhaustion", time.latest, "s"),
        Evidence::from_file("limit_name", limit.name.as_str(), "", SOURCE),
        Evidence::from_file("limit", limit.bytes, "bytes", SOURCE),
        Evidence::from_file("room", limit.room_bytes, "bytes", SOURCE),
    ];
    if let Some(known) = one.limits().filter(|known| known.swapped_bytes > 0) {
        draft.evidence.push(Evidence::from_file(
            "swapped",
            known.swapped_bytes,
            "bytes",
            SOURCE,
        ));
    }
    let host = context.window.usage.host.map(|(_, host)| host);
    if let Some(percent) = host.and_then(|host| host.pressure_percent) {
        draft.evidence.push(fact("memory_pressure_of_host", percent, "%"));
    }
    Some(draft)
}

//! Retries above a budget: a service that repeats more of its calls than it may, be they few of many.
//!
//! How many calls are repeated follows from how many requests come in and how many calls each of them took before calls
//! began to fail. Where that time was not seen, nothing is said.

use super::super::Context;
use super::super::service::{requests_in, served};
use super::Client;
use crate::timeline::Timeline;

/// Share of the repeated calls for which a failed one is to be seen: what is repeated failed before.
const EXPLAINED: f64 = 0.8;

/// What a client does beyond its budget.
pub(super) struct Excess {
    /// The second in which calls began to fail.
    pub(super) since: usize,
    /// Since then.
    pub(super) seconds: f64,
    /// Calls a second.
    pub(super) rate: f64,
    /// Calls a second that the requests take without retries.
    pub(super) asked_rate: f64,
    /// Calls for each request, now
    pub(super) now: f64,
    /// and before.
    pub(super) before: f64,
    /// Share of the calls that fail.
    pub(super) failing_share: f64,
}

pub(super) fn excess(context: &Context<'_>, client: &Client<'_>, timeline: &Timeline) -> Option<Excess> {
    let settings = context.settings;
    let [pid] = client.pids[..] else { return None };
    let served = served(context, pid).filter(|_| context.index.lives(pid))?;
    let seconds = &timeline.seconds;
    // The failures go on: back from the end to the last second that was clearly healthy.
    let healthy = seconds
        .iter()
        .rposition(|second| second.calls() >= 1.0 && second.failing_share() < settings.retry_budget / 2.0)?;
    let failing = seconds.get(healthy + 1..)?;
    let since = healthy + 1 + failing.iter().position(|second| second.failing() > 0.0)?;
    let length = timeline.length_from(since);
    if length + 0.5 < settings.storm_length.as_secs_f64() {
        return None;
    }
    let (sum, asked) = (timeline.sum_from(since), requests_in(&served.sum_from(since)));
    // The second before the first failure may already hold some of what led to it.
    let earlier = since.saturating_sub(1);
    let asked_before = requests_in(&served.sum(0, earlier));
    if asked.min(asked_before) < settings.amplification_requests {
        return None;
    }
    let before = timeline.sum(0, earlier).calls() / asked_before;
    let expected = asked * before;
    let retries = sum.calls() - expected;
    // Calls may be counted up to a second later than the requests that they are for.
    let allowed = settings.retry_budget + 1.0 / length;
    let over = before > 0.0
        && retries > allowed * expected
        && sum.failing() >= EXPLAINED * retries
        && sum.calls() >= settings.storm_rate * length;
    over.then(|| Excess {
        since,
        seconds: length,
        rate: sum.calls() / length,
        asked_rate: expected / length,
        now: sum.calls() / asked,
        before,
        failing_share: sum.failing_share(),
    })
}

//! # What
//! The fault is over and the load is what it was, and the service stays down all the same: retries, or what has queued up,
//! keep it there.
//!
//! # Signal
//! The calls of all clients of one destination, second by second: a time in which they got through; a burst of failures
//! (the trigger), or a time in which the server answered next to nothing; then a time in which connections are accepted
//! again, the server, if it is on this host, answers as much as before, and yet the calls end without an answer in time and
//! the goodput stays below what it was, without getting better.
//!
//! # Healthy twin
//! A backlog that drains: goodput rises from second to second, or is back. A fault that goes on. A peak of load: more
//! requests come in than before.
//!
//! # Thresholds
//! The time after the trigger: `metastable_timeouts` (5) times the client's timeout, that is the longest time for which a
//! call was seen to wait, at least `client_timeout` (1 s). Goodput below `metastable_goodput` (50%) of that before.
//!
//! # Source
//! Events of connections; Bronson and others, "Metastable Failures in Distributed Systems" (HotOS 2021).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::service::{address_in_words, named, outbound, requests_in, served, servers};
use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{FlowKey, Signal};
use crate::timeline::{Second, Timeline};
use crate::window::FlowHistory;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Metastable,
    needs: &[Signal::ConnectEvents, Signal::RequestTurns],
    helped_by: &[Signal::InetSockets, Signal::TcpFigures],
    needs_window: Some(|settings| {
        // Before, trigger, after.
        settings
            .client_timeout
            .mul_f64(settings.metastable_timeouts + 4.0)
    }),
    detect,
    blind_spot: None,
};

/// Seconds of health before the trigger that tell what is normal,
const HEALTHY_SECONDS: usize = 2;
/// and calls in them, a second.
const LEAST_CALLS: f64 = 2.0;
/// Share of the calls that may fail in a healthy second,
const HEALTHY: f64 = 0.2;
/// and that has to fail hard in a second of the trigger.
const FAILING: f64 = 0.5;
/// The load is back to what it was within this factor, where the requests that come in are seen.
const SAME_LOAD: f64 = 1.3;
/// A server that gives less than this share of its usual answers stands still,
const STANDS_STILL: f64 = 0.2;
/// and one that gives more than this works as before, whoever still waits for them.
const WORKS: f64 = 0.7;
/// From one half to the other, goodput that rises by this factor recovers.
const RECOVERS: f64 = 1.2;

/// The phases of a timeline, by their first seconds.
struct Phases {
    /// The healthy time begins,
    healthy: usize,
    /// the trigger begins,
    trigger: usize,
    /// and is gone.
    after: usize,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut by_destination: BTreeMap<(u32, SocketAddr), Vec<(&FlowKey, &FlowHistory)>> = BTreeMap::new();
    for (key, history) in outbound(context) {
        let flows = by_destination.entry((key.net_ns, key.address)).or_default();
        flows.push((key, history));
    }
    by_destination
        .into_iter()
        .filter_map(|(destination, flows)| draft(context, destination, &flows))
        .collect()
}

/// Failures of a trigger: attempts refused or without an answer, and connections reset.
fn hard(second: &Second) -> f64 {
    let open = (second.attempts - second.established).max(second.failed);
    open + second.reset
}

/// Calls that were answered.
fn good(second: &Second) -> f64 {
    let through = second.responses.min(second.calls());
    (through - (second.unanswered - (second.calls() - second.responses).max(0.0)).max(0.0)).max(0.0)
}

/// Requests that a server got done. Who has gone by then answers the answer with a reset.
fn done(second: &Second) -> f64 {
    second.responses.max(second.reset)
}

/// The phases, by the failures that clients see, or else by the answers that the server gives: it stood still, and works
/// again.
fn phases(timeline: &Timeline, answers: Option<&Timeline>) -> Option<Phases> {
    let seconds = &timeline.seconds;
    let healthy = |second: &Second| second.calls() >= LEAST_CALLS && second.failing_share() < HEALTHY;
    let triggers = |second: &Second| second.calls() >= 1.0 && hard(second) >= FAILING * second.calls();
    let by_clients = seconds.iter().rposition(triggers);
    let by_server = || {
        let first_healthy = seconds.iter().position(healthy)?;
        let answers = answers?;
        let normal = done(answers.seconds.get(first_healthy)?);
        let still = |second: &Second| done(second) < STANDS_STILL * normal;
        // The second in which the window ends may be cut short, and hold none for that.
        let whole = answers.seconds.len().saturating_sub(1);
        answers.seconds[..whole].iter().rposition(still)
    };
    let last_trigger = by_clients.or_else(by_server)?;
    let after = last_trigger + 1;
    // Back to the last healthy second before it.
    let last_healthy = seconds.get(..last_trigger)?.iter().rposition(healthy)?;
    let trigger = last_healthy + 1;
    let mut first = last_healthy;
    while first > 0 && healthy(&seconds[first - 1]) {
        first -= 1;
    }
    (trigger - first >= HEALTHY_SECONDS).then_some(Phases {
        healthy: first,
        trigger,
        after,
    })
}

/// The longest time that a call to the destination has been out in this picture: nearly the client's timeout.
fn longest_call_seconds(context: &Context<'_>, destination: SocketAddr) -> f64 {
    let sockets = context.picture.inet_sockets.iter();
    let waiting = sockets
        .filter(|socket| socket.tcp && socket.remote == destination && socket.receive_queue == 0)
        .filter_map(|socket| socket.figures)
        .filter(|figures| figures.last_sent_ms < figures.last_received_ms || figures.bytes_received == 0);
    waiting
        .map(|figures| figures.last_sent_ms)
        .max()
        .map_or(0.0, |ms| f64::from(ms) / 1e3)
}

fn draft(
    context: &Context<'_>,
    (net_ns, address): (u32, SocketAddr),
    flows: &[(&FlowKey, &FlowHistory)],
) -> Option<Draft> {
    let settings = context.settings;
    let timeline = Timeline::of(context.window, flows.iter().map(|(_, history)| *history));
    let servers = servers(context, net_ns, address);
    let mut answers: Option<Timeline> = None;
    for served in servers.iter().filter_map(|pid| served(context, *pid)) {
        answers
            .get_or_insert_with(|| Timeline::empty(context.window))
            .add_all(&served);
    }
    let Phases {
        healthy,
        trigger,
        after,
    } = phases(&timeline, answers.as_ref())?;
    let timeout = settings
        .client_timeout
        .as_secs_f64()
        .max(longest_call_seconds(context, address));
    let outlasted = timeline.length_from(after);
    if outlasted < settings.metastable_timeouts * timeout {
        return None;
    }
    let end = timeline.seconds.len();
    let (before_seconds, middle) = ((trigger - healthy) as f64, after + (end - after) / 2);
    let before = timeline.sum(healthy, trigger);
    let last = timeline.sum_from(after);
    let rate_before = good(&before) / before_seconds;
    let rate_after = good(&last) / outlasted;
    let (first_half, second_half) = (
        good(&timeline.sum(after, middle)) / (middle - after).max(1) as f64,
        good(&timeline.sum_from(middle)) / timeline.length_from(middle).max(0.1),
    );
    let recovers = second_half > first_half * RECOVERS && second_half - first_half > 0.05 * rate_before;
    // Failing without an answer, or hardly anything but retries getting through.
    let fails = last.failing_share() >= FAILING;
    let calls = last.calls() / outlasted;
    if rate_after > settings.metastable_goodput * rate_before || recovers || !fails || calls < LEAST_CALLS {
        return None;
    }
    // A server of this host has to do as much as before: otherwise its fault goes on.
    if let Some(answers) = &answers {
        let usual = done(&answers.sum(healthy, trigger)) / before_seconds;
        let now = done(&answers.sum_from(after)) / outlasted;
        if now < WORKS * usual {
            return None;
        }
    }
    // Offered load: what the clients are asked for, where they serve others.
    let mut load = (0.0, 0.0);
    for served in flows.iter().filter_map(|(key, _)| served(context, key.pid)) {
        load.0 += requests_in(&served.sum(healthy, trigger)) / before_seconds;
        load.1 += requests_in(&served.sum_from(after)) / outlasted;
    }
    if load.0 > 0.0 && load.1 > SAME_LOAD * load.0 {
        return None;
    }
    // The one that calls most sustains it.
    let (sustainer, _) = flows
        .iter()
        .filter(|(key, _)| context.index.lives(key.pid))
        .max_by_key(|(_, history)| history.total.attempts.max(history.total.requests))?;
    let pid = sustainer.pid;
    let burst = timeline.sum(trigger, after);
    let calls_before = before.calls() / before_seconds;
    let to = address_in_words(context, address);
    let source = "events";
    let mut evidence = vec![
        Evidence::from_file("goodput_before", rate_before, "calls/s", source),
        Evidence::from_file("goodput_now", rate_after, "calls/s", source),
        Evidence::from_file("calls_before", calls_before, "calls/s", source),
        Evidence::from_file("calls_now", calls, "calls/s", source),
        Evidence::from_file("failing_now", last.failing_share() * 100.0, "%", source),
        Evidence::from_file(
            "trigger",
            format!(
                "{:.0} failures in {} s, over for {outlasted:.0} s",
                hard(&burst).max(burst.failing()),
                after - trigger
            ),
            "",
            source,
        ),
        Evidence::from_file("client_timeout", timeout, "s", source),
    ];
    if load.0 > 0.0 {
        evidence.push(Evidence::from_file("load_before", load.0, "requests/s", source));
        evidence.push(Evidence::from_file("load_now", load.1, "requests/s", source));
    }
    let mut others: Vec<(Role, Party)> = servers
        .iter()
        .filter(|server| **server != pid)
        .map(|server| (Role::Listener, Party::process(*server)))
        .collect();
    let clients = flows.iter().map(|(key, _)| key.pid);
    others.extend(
        clients
            .filter(|client| *client != pid && context.index.lives(*client))
            .map(|client| (Role::Peer, Party::process(client))),
    );
    Some(Draft {
        mode: Mode::Metastable,
        severity: Severity::Critical,
        confidence: Confidence::Likely,
        subject: Party::process(pid),
        others,
        members: Vec::new(),
        since_ns: Some(timeline.at_ns(after)),
        summary: format!(
            "{to} accepts connections again since {outlasted:.0} s, but the calls of {} keep it down: {calls:.0} a second ({calls_before:.0} before), of which {:.0}% fail",
            named(context, pid),
            last.failing_share() * 100.0
        ),
        evidence,
        chain_from: None,
        flow: Some((None, address)),
        depends_on: servers,
    })
}

#[cfg(test)]
mod tests;

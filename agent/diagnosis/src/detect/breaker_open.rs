//! # What
//! A caller has stopped calling a destination after many failures, while requests still come in to it: a circuit breaker
//! is open.
//!
//! # Signal
//! The calls of one process to one destination, second by second: a burst of failures, then next to none for some time,
//! while the process goes on being asked. Single calls in between are the probes that will close it; without any, it may be
//! stuck.
//!
//! # Healthy twin
//! A deployment: calls go on after the failures. Idleness: no requests come in, so none go out. A process that ends.
//!
//! # Thresholds
//! `breaker_failures` (5) in the seconds right before; then `breaker_silence` (6 s) with at most
//! `breaker_probes` (10%) of the calls before, and at least half of the requests served before.
//!
//! # Source
//! Events of connections and turns of requests. An inference: what the program intends cannot be seen.

use super::service::{address_in_words, named, outbound, requests_in, served, servers};
use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{FlowKey, Signal};
use crate::timeline::Timeline;
use crate::window::FlowHistory;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::BreakerOpen,
    needs: &[Signal::ConnectEvents, Signal::RequestTurns],
    helped_by: &[Signal::InetSockets],
    needs_window: Some(|settings| settings.breaker_silence * 2),
    detect,
    blind_spot: None,
};

/// The failures that open a breaker are in the seconds right before the silence.
const BURST_SECONDS: usize = 3;
/// Share of the requests served before that goes on, at least,
const STILL_ASKED: f64 = 0.5;
/// and requests a second.
const LEAST_REQUESTS: f64 = 1.0;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    outbound(context)
        .into_iter()
        .filter(|(key, _)| context.index.lives(key.pid))
        .filter_map(|(key, history)| draft(context, key, history))
        .collect()
}

/// The burst of failures, from its first second up to the first one of the silence.
fn burst(context: &Context<'_>, calls: &Timeline) -> Option<(usize, usize)> {
    let settings = context.settings;
    let seconds = &calls.seconds;
    // Back from the end: the last second with more calls than a probe.
    let peak = seconds.iter().map(|second| second.calls()).fold(0.0, f64::max);
    let probe = (settings.breaker_probes * peak).max(1.0);
    let last_busy = seconds.iter().rposition(|second| second.calls() > probe)?;
    let silence = last_busy + 1;
    // The failures that opened it are right before: a few may be enough, in a second that was healthy but for them. They
    // may be counted up to a second after their attempts.
    let first = silence.saturating_sub(BURST_SECONDS);
    (calls.sum(first, silence + 1).failing() >= settings.breaker_failures).then_some((first, silence))
}

fn draft(context: &Context<'_>, key: &FlowKey, history: &FlowHistory) -> Option<Draft> {
    let settings = context.settings;
    let served = served(context, key.pid)?;
    let calls = Timeline::of(context.window, [history]);
    let (first, silence) = burst(context, &calls)?;
    let silent = calls.length_from(silence);
    if silent < settings.breaker_silence.as_secs_f64() {
        return None;
    }
    let failed = calls.sum(first, silence + 1);
    let after = calls.sum_from(silence);
    let busy = calls.sum(0, silence).calls() / silence.max(1) as f64;
    let quiet = after.calls() / silent;
    let asked = requests_in(&served.sum(0, silence)) / silence.max(1) as f64;
    let still_asked = requests_in(&served.sum_from(silence)) / silent;
    if quiet > settings.breaker_probes * busy || still_asked < (STILL_ASKED * asked).max(LEAST_REQUESTS) {
        return None;
    }
    // Asked to the very end: otherwise the load has stopped, and the calls with it.
    let last_seconds = served.seconds.len().saturating_sub(3);
    if requests_in(&served.sum_from(last_seconds)) < 1.0 {
        return None;
    }
    let probes = after.calls().round();
    let who = named(context, key.pid);
    let to = address_in_words(context, key.address);
    let state = if probes >= 1.0 {
        format!("{probes:.0} single calls since probe whether it is well again")
    } else {
        "nothing probes whether it is well again".to_owned()
    };
    let source = "events";
    let evidence = vec![
        Evidence::from_file("failures", failed.failing(), "calls", source),
        Evidence::from_file("calls_before", busy, "calls/s", source),
        Evidence::from_file("calls_now", quiet, "calls/s", source),
        Evidence::from_file("probes", probes, "calls", source),
        Evidence::from_file(
            "probes_answered",
            (after.calls() - after.failing()).max(0.0).round(),
            "calls",
            source,
        ),
        Evidence::from_file("requests_served_before", asked, "requests/s", source),
        Evidence::from_file("requests_served_now", still_asked, "requests/s", source),
        Evidence::from_file("silence", silent, "s", source),
    ];
    let servers = servers(context, key.net_ns, key.address);
    Some(Draft {
        mode: Mode::BreakerOpen,
        severity: Severity::Notice,
        confidence: Confidence::Likely,
        subject: Party::process(key.pid),
        others: servers
            .iter()
            .filter(|server| **server != key.pid)
            .map(|server| (Role::Listener, Party::process(*server)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(calls.at_ns(silence)),
        summary: format!(
            "{who} has hardly called {to} for {silent:.0} s, after {:.0} failures, although requests come in: an open circuit breaker; {state}",
            failed.failing()
        ),
        evidence,
        chain_from: None,
        flow: Some((None, key.address)),
        depends_on: servers,
    })
}

#[cfg(test)]
mod tests;

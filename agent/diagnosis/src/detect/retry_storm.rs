//! # What
//! A process repeats failing attempts to one destination at a high rate.
//!
//! # Signal
//! Connection attempts by process and destination, second by second, with their fates: refused, unreachable, timed out,
//! given up, still without an answer, reset after they were accepted, closed while the request had no answer. The times of
//! the last attempts give the pattern of the client away. Of a service, the calls for each request that it serves, since
//! some fail and before. Short-lived processes of one name that each try once are one
//! client: the process that starts them.
//!
//! # Healthy twin
//! A load test or a pool that fills, at any rate, with successes; a cron burst that is over; a client that tries `::1`
//! first and gets through by `127.0.0.1`.
//!
//! # Thresholds
//! `storm_rate` (5 attempts a second), of which `storm_failing` (50%) fail, for `storm_length` (10 s); or as many calls, of
//! which a service repeats a greater share than a `retry_budget` (10%) allows. What the budget would have allowed is said.
//!
//! # Source
//! inet_sock_set_state and the other events of connections; Google SRE Book, "Handling Overload" on retry budgets.

mod over_budget;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::service::{address_in_words, outbound, requests_in, served, servers};
use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{Comm, FlowObservation, Signal};
use crate::retry_pattern;
use crate::timeline::{Second, Timeline};
use crate::window::FlowHistory;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::RetryStorm,
    needs: &[Signal::ConnectEvents],
    helped_by: &[Signal::RequestTurns, Signal::InetSockets],
    needs_window: Some(|settings| settings.storm_length),
    detect,
    blind_spot: None,
};

/// A process with no more attempts than this in the window may be one of many that try once each.
const FEW_ATTEMPTS: u64 = 3;
/// Share of the storm's seconds in which it has to blow.
const STEADY: f64 = 0.8;
/// Share of the failed attempts that may have been alternatives: the same port was reached by another address.
const ALTERNATIVES: f64 = 0.8;

/// One client: a process, or the short-lived processes of one name that go to one destination.
struct Client<'a> {
    pids: Vec<u32>,
    net_ns: u32,
    address: SocketAddr,
    flows: Vec<&'a FlowHistory>,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let clients = clients(context);
    clients
        .iter()
        .filter_map(|client| draft(context, &clients, client).or_else(|| beyond_budget(context, client)))
        .collect()
}

fn clients<'a>(context: &Context<'a>) -> Vec<Client<'a>> {
    let mut clients = Vec::new();
    let mut short_lived: BTreeMap<(Comm, u32, SocketAddr), Client<'a>> = BTreeMap::new();
    for (key, history) in outbound(context) {
        let of_many = !context.index.lives(key.pid) || history.total.attempts <= FEW_ATTEMPTS;
        let new = || Client {
            pids: Vec::new(),
            net_ns: key.net_ns,
            address: key.address,
            flows: Vec::new(),
        };
        let client = if of_many {
            short_lived
                .entry((history.total.comm, key.net_ns, key.address))
                .or_insert_with(new)
        } else {
            clients.push(new());
            match clients.last_mut() {
                Some(client) => client,
                None => continue,
            }
        };
        client.pids.push(key.pid);
        client.flows.push(history);
    }
    clients.extend(short_lived.into_values());
    clients
}

/// The process to blame: the client, or the one that starts the short-lived ones.
fn subject(context: &Context<'_>, client: &Client<'_>, attempts: u64) -> Option<u32> {
    if let [pid] = client.pids[..] {
        return context.index.lives(pid).then_some(pid);
    }
    let forks = context.window.events.forks.iter();
    let enough = forks.filter(|(parent, forks)| {
        *forks as f64 >= STEADY * attempts.min(client.pids.len() as u64) as f64
            && context.index.lives(*parent)
    });
    let by_forks = enough.min_by_key(|(_, forks)| *forks).map(|(parent, _)| *parent);
    let alive = client.pids.iter().copied().find(|pid| context.index.lives(*pid));
    by_forks.or_else(|| {
        let parent = context.index.process(alive?)?.parent;
        context.index.lives(parent).then_some(parent)
    })
}

fn draft(context: &Context<'_>, clients: &[Client<'_>], client: &Client<'_>) -> Option<Draft> {
    let settings = context.settings;
    let timeline = Timeline::of(context.window, client.flows.iter().copied());
    let first = begin(client, &timeline, settings.storm_failing)?;
    let length = timeline.to_ns.saturating_sub(first) as f64 / 1e9;
    // Times are those of the reading of the counters, which is some way behind the events.
    if length + 0.5 < settings.storm_length.as_secs_f64() {
        return None;
    }
    // Of a long window the last part: the storm is to blow now, whatever was before.
    let span = length.min(settings.storm_length.as_secs_f64());
    let from = timeline.seconds.len().saturating_sub(span.ceil() as usize);
    let sum = timeline.sum_from(from);
    let seconds = timeline.length_from(from).min(length);
    let rate = sum.attempts / seconds.max(1.0);
    let failing = failing(&timeline, &sum);
    let share = (failing / sum.attempts.max(1.0)).min(1.0);
    if rate < settings.storm_rate
        || share < settings.storm_failing
        || !is_steady(&timeline, from, settings.storm_rate)
    {
        return None;
    }
    if reached_otherwise(context, clients, client, from, failing) {
        return None;
    }
    let total = total(client)?;
    let pid = subject(context, client, total.attempts)?;
    let pattern = retry_pattern::classify(&total.recent_starts_ns);
    let in_step = synchronised(clients, client, &total);
    let successes = sum.established - sum.reset.max(sum.unanswered).min(sum.established);
    // What was asked of it: the requests that it serves, or, of a client by itself, the attempts that were answered and
    // the one that it repeats.
    let asked = served(context, pid)
        .map(|served| requests_in(&served.sum_from(from)))
        .filter(|requests| *requests > 0.0)
        .unwrap_or(successes + 1.0);
    let allowed = retry_pattern::within_budget(asked, settings.retry_budget) / seconds.max(1.0);
    let to = address_in_words(context, client.address);
    let comm = context.comm(pid);
    let sync = if in_step {
        ", in step with other clients"
    } else {
        ""
    };
    let through = match client.pids.len() {
        1 => String::new(),
        many => format!(
            " through {}",
            count(many, "short-lived process").replace("processs", "processes")
        ),
    };
    let percent = share * 100.0;
    let source = "events";
    let mut evidence = vec![
        Evidence::from_file("attempts", rate, "attempts/s", source),
        Evidence::from_file("failing", percent, "%", source),
        Evidence::from_file("pattern", format!("{pattern}{sync}"), "", source),
    ];
    evidence.extend(of_budget_and_fates(settings.retry_budget, allowed, &total));
    let servers = servers(context, client.net_ns, client.address);
    Some(Draft {
        mode: Mode::RetryStorm,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject: Party::process(pid),
        others: servers
            .iter()
            .filter(|server| **server != pid)
            .map(|server| (Role::Listener, Party::process(*server)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(first),
        summary: format!(
            "{comm} ({pid}) tries {to} {rate:.0} times a second{through} and {percent:.0}% fail: {pattern}{sync}; \
             a retry budget of {:.0}% would allow {allowed:.1}",
            settings.retry_budget * 100.0
        ),
        evidence,
        chain_from: None,
        flow: Some((None, client.address)),
        depends_on: servers,
    })
}

/// A service that repeats a greater share of its calls than a budget allows.
fn beyond_budget(context: &Context<'_>, client: &Client<'_>) -> Option<Draft> {
    let timeline = Timeline::of(context.window, client.flows.iter().copied());
    let excess = over_budget::excess(context, client, &timeline)?;
    let total = total(client)?;
    let pid = *client.pids.first()?;
    let share = context.settings.retry_budget;
    let allowed = retry_pattern::within_budget(excess.asked_rate, share);
    let to = address_in_words(context, client.address);
    let retries = (excess.now / excess.before - 1.0) * 100.0;
    let source = "events";
    let mut evidence = vec![
        Evidence::from_file("attempts", excess.rate, "attempts/s", source),
        Evidence::from_file("failing", excess.failing_share * 100.0, "%", source),
        Evidence::from_file("retries", retries, "% of the calls", source),
        Evidence::from_file("calls_for_each_request", excess.now, "calls", source),
        Evidence::from_file("before_the_failures", excess.before, "calls", source),
        Evidence::from_file("failing_for", excess.seconds, "s", source),
    ];
    evidence.extend(of_budget_and_fates(share, allowed, &total));
    let servers = servers(context, client.net_ns, client.address);
    let summary = format!(
        "{} ({pid}) repeats {retries:.0}% of its calls to {to}, {:.0}% of which fail: {:.1} calls a second; a retry budget \
         of {:.0}% would allow {allowed:.1}",
        context.comm(pid),
        excess.failing_share * 100.0,
        excess.rate,
        share * 100.0
    );
    let mut draft = Draft::of_process(Mode::RetryStorm, pid, summary);
    let listeners = servers.iter().filter(|server| **server != pid);
    draft.others = listeners
        .map(|server| (Role::Listener, Party::process(*server)))
        .collect();
    draft.since_ns = Some(timeline.at_ns(excess.since));
    draft.evidence = evidence;
    draft.flow = Some((None, client.address));
    draft.depends_on = servers;
    Some(draft)
}

/// When the client began to try, as far as that was seen.
fn begin(client: &Client<'_>, timeline: &Timeline, failing: f64) -> Option<u64> {
    let firsts = client.flows.iter().map(|flow| {
        let step = flow.steps.first().map_or(timeline.to_ns, |step| step.from_ns);
        step.max(flow.total.first_start_ns)
    });
    let begin = firsts.min()?;
    // A client that did well until then storms only since it last did.
    let good = timeline.seconds.iter().rposition(|second| {
        let through = second.established - second.reset.max(second.unanswered);
        second.attempts > 0.0 && through > (1.0 - failing) * second.attempts
    });
    let since = good.map_or(timeline.from_ns, |good| timeline.at_ns(good + 1));
    Some(begin.max(since).max(timeline.from_ns))
}

/// Attempts that failed, and those that have had no answer for more than a second: they are not under way.
fn failing(timeline: &Timeline, sum: &Second) -> f64 {
    let last = timeline.seconds.len().saturating_sub(2);
    let under_way = timeline.sum_from(last).attempts;
    let open = (sum.attempts - sum.established - sum.failed).max(0.0);
    sum.failing() + (open - under_way).max(0.0)
}

fn is_steady(timeline: &Timeline, from: usize, rate: f64) -> bool {
    let seconds = timeline.seconds.get(from..).unwrap_or_default();
    // The last second may be cut short.
    let whole = &seconds[..seconds.len().saturating_sub(1)];
    let blowing = whole.iter().filter(|second| second.attempts * 2.0 >= rate);
    blowing.count() as f64 >= STEADY * whole.len() as f64
}

/// Whether the client got through to the same port by another address each time: of a name with several addresses, all
/// but one may refuse.
fn reached_otherwise(
    context: &Context<'_>,
    clients: &[Client<'_>],
    client: &Client<'_>,
    from: usize,
    failing: f64,
) -> bool {
    let siblings = clients.iter().filter(|other| {
        other.net_ns == client.net_ns
            && other.address.port() == client.address.port()
            && other.address.ip() != client.address.ip()
            && other.pids.iter().any(|pid| client.pids.contains(pid))
    });
    let flows = siblings.flat_map(|other| other.flows.iter().copied());
    let reached = Timeline::of(context.window, flows).sum_from(from);
    reached.established - reached.failing() >= ALTERNATIVES * failing
}

fn total(client: &Client<'_>) -> Option<FlowObservation> {
    let mut flows = client.flows.iter();
    let mut total = flows.next()?.total.clone();
    flows.for_each(|flow| total.add(&flow.total));
    Some(total)
}

fn synchronised(clients: &[Client<'_>], client: &Client<'_>, total: &FlowObservation) -> bool {
    let others = clients.iter().filter(|other| {
        other.address == client.address && other.net_ns == client.net_ns && other.pids != client.pids
    });
    let others: Vec<Vec<u64>> = others
        .filter_map(self::total)
        .map(|total| total.recent_starts_ns)
        .collect();
    let others: Vec<&[u64]> = others.iter().map(Vec::as_slice).collect();
    retry_pattern::synchronised(&total.recent_starts_ns, &others)
}

/// What a budget of that share would have allowed, attempts a second, and how the attempts of the window ended.
fn of_budget_and_fates(share: f64, allowed: f64, total: &FlowObservation) -> Vec<Evidence> {
    let source = "events";
    let budget = retry_pattern::budget_signal(share);
    let fates = fates(total).into_iter();
    std::iter::once(Evidence::from_file(&budget, allowed, "attempts/s", source))
        .chain(fates.map(|(fate, times)| Evidence::from_file(fate, times, "times", source)))
        .collect()
}

/// How the attempts of the window ended, those that did not happen left out.
fn fates(total: &FlowObservation) -> Vec<(&'static str, u64)> {
    let fates = [
        ("refused", total.refused),
        ("timed_out", total.timed_out),
        ("given_up_by_the_program", total.aborted),
        ("unreachable", total.unreachable),
        ("no_local_port", total.no_port),
        ("failed_otherwise", total.failed_otherwise),
        ("reset", total.resets_received),
        ("closed_without_answer", total.unanswered),
        ("established", total.established),
    ];
    fates.into_iter().filter(|(_, times)| *times > 0).collect()
}

#[cfg(test)]
mod tests;

//! # What
//! The workers of a service all wait for one downstream, and its own work queues up. The fault climbs: those who call the
//! service wait as well.
//!
//! # Signal
//! Connections on which a request went out and nothing has come since, with their age, and threads blocked on them, by the
//! process or address at the other end. From a service to its downstream, and from there on as long as that one waits for
//! another, to the end: the one that waits for nobody. Behind the workers something has to queue: more requests read than
//! calls are out, requests that nobody reads, or connections that nobody accepts.
//!
//! # Healthy twin
//! A busy service that drains; a proxy for requests that take long by design (as many calls out as requests in, and
//! nothing queued); workers that wait for jobs from a broker (nobody waits for them); a client without clients.
//!
//! # Thresholds
//! `cascade_workers` (4) calls of at least `cascade_wait` (1 s), that are `cascade_share` (50%) of the service's threads or
//! of its connections to that downstream, and of all its calls that are out.
//!
//! # Source
//! tcp_info (tcpi_last_data_sent, tcpi_last_data_recv); sock_diag(7).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustc_hash::FxHashSet;

use super::service::{Demand, PendingCall, Services, address_in_words, blocked_on_calls, named};
use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::CascadingWait,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
    ],
    helped_by: &[Signal::SystemCalls, Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: None,
};

/// Services between the one that queues and the sink; no real chain is as long.
const TIERS_MAX: usize = 16;

/// The other end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Downstream {
    /// A process of this host.
    Process(u32),
    /// Somebody beyond this host.
    Remote(SocketAddr),
}

/// A service whose workers wait for one downstream.
struct Waiting<'a> {
    pid: u32,
    downstream: Downstream,
    calls: Vec<PendingCall<'a>>,
    threads: Vec<u32>,
    demand: Demand,
    /// All calls that are out, of whatever downstream.
    out: usize,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let services = Services::new(context);
    let waiting: BTreeMap<u32, Waiting<'_>> = services
        .callers()
        .filter_map(|pid| Some((pid, waiting(context, &services, pid)?)))
        .collect();
    // Services by the sink of their chains, those with queued work behind them only.
    let mut sinks: BTreeMap<(u32, Downstream), Vec<u32>> = BTreeMap::new();
    for (pid, service) in &waiting {
        if !is_stuck(context, &services, service) {
            continue;
        }
        let sink = follow(context, &services, &waiting, *pid);
        sinks.entry(sink).or_default().push(*pid);
    }
    sinks
        .into_iter()
        .filter_map(|(sink, stuck)| draft(context, &waiting, sink, &stuck))
        .collect()
}

fn least_ms(context: &Context<'_>) -> u32 {
    u32::try_from(context.settings.cascade_wait.as_millis()).unwrap_or(u32::MAX)
}

fn other_end(context: &Context<'_>, socket: &InetObservation) -> Downstream {
    let peer = context.index.inet_peer(socket);
    let holder = peer.and_then(|peer| context.index.socket_processes(peer).first().copied());
    holder.map_or(Downstream::Remote(socket.remote), Downstream::Process)
}

/// The downstream that most of the calls of a process wait for.
fn waiting<'a>(context: &Context<'_>, services: &Services<'a>, pid: u32) -> Option<Waiting<'a>> {
    let least = least_ms(context);
    let (blocked, threads) = blocked_on_calls(context, pid, least);
    let calls = services.pending(pid, least, &blocked);
    let demand = services.demand(context, pid, least);
    // Where the last answer and the last request are of one moment, the connection may as well be idle. It counts if it
    // was used since the oldest request in work came, and others show for certain that the downstream does not answer.
    let counts = |call: &PendingCall<'_>| call.certain || call.age_ms <= demand.oldest_ms;
    let mut by_end: BTreeMap<Downstream, Vec<PendingCall<'a>>> = BTreeMap::new();
    for call in calls.into_iter().filter(counts) {
        by_end
            .entry(other_end(context, call.socket))
            .or_default()
            .push(call);
    }
    let certain = |calls: &[PendingCall<'_>]| calls.iter().filter(|call| call.certain).count();
    by_end.retain(|_, calls| certain(calls) * 4 >= calls.len());
    let out = by_end.values().map(Vec::len).sum();
    let (downstream, calls) = by_end.into_iter().max_by_key(|(_, calls)| calls.len())?;
    Some(Waiting {
        pid,
        downstream,
        calls,
        threads,
        demand,
        out,
    })
}

/// Whether the workers of a service are taken up by its downstream, and work queues behind them.
fn is_stuck(context: &Context<'_>, services: &Services<'_>, service: &Waiting<'_>) -> bool {
    let settings = context.settings;
    let calls = service.calls.len();
    let threads = context.index.threads(service.pid).iter();
    let living = threads
        .filter(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead))
        .count();
    let pool = services
        .opened(service.pid)
        .iter()
        .filter(|socket| other_end(context, socket) == service.downstream)
        .count();
    let share = |part: usize, whole: usize| part as f64 >= settings.cascade_share * whole.max(1) as f64;
    let blocked = service.threads.len() >= settings.cascade_workers && share(service.threads.len(), living);
    calls >= settings.cascade_workers
        && share(calls, service.out)
        && (blocked || share(calls, pool))
        && service.demand.queued(service.out) >= (calls / 4).max(2)
}

/// The last local process of a chain, and what it ends in: itself, or somebody beyond this host.
fn follow(
    context: &Context<'_>,
    services: &Services<'_>,
    waiting: &BTreeMap<u32, Waiting<'_>>,
    from: u32,
) -> (u32, Downstream) {
    let mut seen = FxHashSet::default();
    let mut at = from;
    while seen.len() < TIERS_MAX && seen.insert(at) {
        let Some(service) = waiting.get(&at) else { break };
        // A downstream that also works on other requests is itself the slow one, unless most of its work waits as well.
        let taken_up = at == from
            || is_stuck(context, services, service)
            || service.calls.len() as f64
                >= context.settings.cascade_share * (service.demand.in_work + service.demand.unread) as f64
            || context.index.threads(at).len() == 1;
        match service.downstream {
            _ if !taken_up => break,
            Downstream::Remote(address) => return (at, Downstream::Remote(address)),
            Downstream::Process(next) => at = next,
        }
    }
    (at, Downstream::Process(at))
}

fn draft(
    context: &Context<'_>,
    waiting: &BTreeMap<u32, Waiting<'_>>,
    (pid, end): (u32, Downstream),
    stuck: &[u32],
) -> Option<Draft> {
    // The one with the most calls out stands for all.
    let first = stuck.iter().filter_map(|pid| waiting.get(pid));
    let first = first.max_by_key(|service| service.calls.len())?;
    let oldest_ms = first.calls.iter().map(|call| call.age_ms).max()?;
    let queued = first.demand.queued(first.out);
    let who = named(context, first.pid);
    let waits = format!(
        "{} of {who} wait for it and {} behind them",
        count(first.calls.len(), "call"),
        if queued == 1 {
            "1 request waits".to_owned()
        } else {
            format!("{queued} requests wait")
        },
    );
    let (summary, flow) = match end {
        Downstream::Process(_) => {
            let address = first
                .calls
                .iter()
                .find(|call| other_end(context, call.socket) == end)
                .map(|call| (None, call.socket.remote));
            (
                format!("{} does not answer: {waits}", named(context, pid)),
                address,
            )
        }
        Downstream::Remote(address) => {
            let by = if pid == first.pid {
                String::new()
            } else {
                format!(", which {} calls,", named(context, pid))
            };
            (
                format!(
                    "{}{by} does not answer, and the cause is beyond this host: {waits}",
                    address_in_words(context, address)
                ),
                Some((None, address)),
            )
        }
    };
    let source = context.source();
    let demand = first.demand;
    let mut evidence = vec![
        Evidence::new("calls_waiting", first.calls.len(), "calls", source),
        Evidence::new("oldest_call", f64::from(oldest_ms) / 1e3, "s", source),
        Evidence::new("threads_waiting", first.threads.len(), "threads", source),
        Evidence::new("requests_in_work", demand.in_work, "requests", source),
        Evidence::new("requests_unread", demand.unread, "requests", source),
        Evidence::new("not_accepted", demand.backlog, "connections", source),
    ];
    for service in stuck.iter().filter_map(|pid| waiting.get(pid)) {
        let text = format!(
            "{}: {}",
            named(context, service.pid),
            count(service.calls.len(), "call")
        );
        evidence.push(Evidence::new("waits_for_downstream", text, "", source));
    }
    let others = stuck.iter().filter(|service| **service != pid);
    let since = context
        .picture
        .began_ns
        .saturating_sub(u64::from(oldest_ms) * 1_000_000);
    Some(Draft {
        mode: Mode::CascadingWait,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject: Party::process(pid),
        others: others
            .map(|service| (Role::Waiter, Party::process(*service)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(since),
        summary,
        evidence,
        chain_from: first.threads.first().copied(),
        flow,
        depends_on: Vec::new(),
    })
}

#[cfg(test)]
mod tests;

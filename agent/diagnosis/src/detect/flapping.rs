//! # What
//! Connections to a peer come about and are cut off by it, again and again.
//!
//! # Signal
//! Connections of a process to one destination that ended by the peer's reset, or because the kernel gave them up,
//! counted as they happen: most of those that end, or, on a busy flow, many times as many as in the minute before.
//!
//! # Healthy twin
//! Health checks and clients that set SO_LINGER to 0: they close or reset by themselves, which counts on the other side
//! only. A peer that resets what is left of a connection after it has answered everything. A server that is restarted:
//! it resets all its connections at once.
//!
//! # Thresholds
//! `flapping_resets` (5) within `flapping_window` (60 s), and `flapping_share` (half) of the connections that ended; or as
//! many in the last `flapping_burst` (10 s), at more than `flapping_factor` (10) times their rate in the `flapping_window`
//! before that.
//!
//! # Source
//! RFC 9293, 3.5.2 (reset generation); socket(7), SO_LINGER. Who closed first is not counted: a peer that accepts and then
//! closes in an orderly way cannot be told from a client that has said all it had to say, and is left in peace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Context, Detector, Draft, peer};
use crate::finding::{Evidence, Role};
use crate::mode::Mode;
use crate::observation::{Comm, Direction, FlowKey, Signal};
use crate::window::{FlowHistory, FlowStep};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Flapping,
    needs: &[Signal::Tasks, Signal::ConnectEvents, Signal::ConnectionFates],
    helped_by: &[Signal::InetSockets, Signal::RequestTurns],
    needs_window: Some(|settings| settings.network.flapping_window),
    detect,
    blind_spot: None,
};

/// A flow and what was counted of it.
type Flow<'a> = (&'a FlowKey, &'a FlowHistory);

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    // Processes that connect once or twice each, as a shell's loop over a client does, count together.
    let mut together: BTreeMap<(u32, Comm, SocketAddr), Vec<Flow<'_>>> = BTreeMap::new();
    for (key, history) in &context.window.network.flows {
        if key.direction != Direction::Outbound {
            continue;
        }
        let cycles = most(context, &[history]).or_else(|| burst(context, history));
        match cycles {
            Some(cycles) => drafts.push(draft(context, key, &cycles)),
            None => {
                let name = (key.net_ns, history.total.comm, key.address);
                together.entry(name).or_default().push((key, history));
            }
        }
    }
    for flows in together.values().filter(|flows| flows.len() > 1) {
        let histories: Vec<&FlowHistory> = flows.iter().map(|(_, history)| *history).collect();
        let latest = flows
            .iter()
            .max_by_key(|(key, _)| (context.index.lives(key.pid), key.pid));
        if let Some((cycles, (key, _))) = most(context, &histories).zip(latest) {
            drafts.push(draft(context, key, &cycles));
        }
    }
    drafts
}

/// What is wrong with the connections of a flow.
struct Cycles {
    reset: u64,
    closed: u64,
    established: u64,
    begin_ns: u64,
    /// How many times the rate of resets is what it was, if that makes it a finding.
    factor: Option<f64>,
}

/// Resets come in so many different steps of a second: one event, as when a server is restarted, is over in one or two.
const BURST_STEPS: usize = 3;
/// What a span may lack, as steps begin and end within it.
const EDGES_SECONDS: f64 = 2.5;

/// Connections that are cut off, at least half of those that end.
fn most(context: &Context<'_>, flows: &[&FlowHistory]) -> Option<Cycles> {
    let settings = &context.settings.network;
    let lately = Span::of(context, flows, Duration::ZERO, settings.flapping_window);
    let flaps = lately.reset >= settings.flapping_resets
        && lately.reset as f64 >= settings.flapping_share * lately.closed as f64
        // They come again: without new ones it is one event, as when a server is restarted.
        && lately.established >= settings.flapping_resets
        && !lately.did_its_work();
    flaps.then(|| lately.cycles(None))
}

/// Resets far above their rate of the minute before, be they few of many connections.
fn burst(context: &Context<'_>, history: &FlowHistory) -> Option<Cycles> {
    let settings = &context.settings.network;
    let (burst, window) = (settings.flapping_burst, settings.flapping_window);
    let now = Span::of(context, &[history], Duration::ZERO, burst);
    let before = Span::of(context, &[history], burst, burst + window);
    // Without a minute there is no mean of one. At either end a step may reach beyond it.
    if before.seconds + EDGES_SECONDS < window.as_secs_f64() || now.seconds <= 0.0 {
        return None;
    }
    let mean = before.reset as f64 / before.seconds;
    let rate = now.reset as f64 / now.seconds;
    let flaps = now.reset >= settings.flapping_resets
        && now.established >= settings.flapping_resets
        && rate > settings.flapping_factor * mean
        && now.reset_steps >= BURST_STEPS
        && !now.did_its_work();
    // Of none before, at most one was missed.
    flaps.then(|| now.cycles(Some(rate / mean.max(1.0 / before.seconds))))
}

/// Sums over a span of a flow, or of several.
struct Span {
    begin_ns: u64,
    /// Length of the steps together.
    seconds: f64,
    reset: u64,
    /// Steps in which something was reset.
    reset_steps: usize,
    closed: u64,
    responses: u64,
    unanswered: u64,
    established: u64,
}

impl Span {
    /// The steps that ended less than `to` ago, those that ended less than `from` ago left out.
    fn of(context: &Context<'_>, flows: &[&FlowHistory], from: Duration, to: Duration) -> Self {
        let steps = || {
            flows.iter().flat_map(|flow| &flow.steps).filter(|step| {
                let age = context.age(step.to_ns);
                (from.is_zero() || age >= from) && age < to
            })
        };
        let sum = |count: fn(&FlowStep) -> u64| steps().map(count).sum();
        let ns: u64 = sum(|step| step.to_ns.saturating_sub(step.from_ns));
        Span {
            begin_ns: steps().map(|step| step.from_ns).min().unwrap_or(0),
            seconds: ns as f64 / 1e9,
            reset: sum(|step| step.reset),
            reset_steps: steps().filter(|step| step.reset > 0).count(),
            closed: sum(|step| step.closed).max(sum(|step| step.reset)),
            responses: sum(|step| step.responses),
            unanswered: sum(|step| step.unanswered),
            established: sum(|step| step.established),
        }
    }

    /// Whether every connection that ended had its answer.
    fn did_its_work(&self) -> bool {
        self.unanswered == 0 && self.responses >= self.closed
    }

    fn cycles(&self, factor: Option<f64>) -> Cycles {
        Cycles {
            reset: self.reset,
            closed: self.closed,
            established: self.established,
            begin_ns: self.begin_ns,
            factor,
        }
    }
}

fn draft(context: &Context<'_>, key: &FlowKey, cycles: &Cycles) -> Draft {
    let (pid, remote) = (key.pid, key.address);
    let comm = peer::comm(context, pid);
    let seconds = context.age(cycles.begin_ns).as_secs_f64();
    let mut times = format!("{} in {seconds:.0} s", cycles.reset);
    if let Some(factor) = cycles.factor {
        times.push_str(&format!(
            " of {} that ended, {factor:.0} times as often as before",
            cycles.closed
        ));
    }
    let listener = context.index.listener_for(key.net_ns, remote);
    let listeners = listener.map_or_else(Vec::new, |one| context.index.socket_processes(one.id));
    let (subject, summary) = match listeners.first() {
        Some(peer) => (
            *peer,
            format!(
                "{} ({peer}) accepts connections of {comm} ({pid}) at {remote} and cuts them off: {times}",
                context.comm(*peer)
            ),
        ),
        None => (
            pid,
            format!("{remote} accepts connections of {comm} ({pid}) and cuts them off: {times}"),
        ),
    };
    let mut draft = Draft::of_process(Mode::Flapping, subject, summary);
    draft.since_ns = Some(cycles.begin_ns);
    let source = "tcp tracepoints";
    draft.evidence = vec![
        Evidence::from_file("destination", remote.to_string(), "", source),
        Evidence::from_file("reset_by_peer", cycles.reset, "connections", source),
        Evidence::from_file("ended", cycles.closed, "connections", source),
        Evidence::from_file("established", cycles.established, "connections", source),
    ];
    if let Some(factor) = cycles.factor {
        draft.evidence.push(Evidence::from_file(
            "resets_to_mean_before",
            factor,
            "times",
            source,
        ));
    }
    peer::add(&mut draft, Role::Peer, &[pid]);
    peer::add(&mut draft, Role::Listener, &listeners);
    draft.flow = Some((None, remote));
    draft
}

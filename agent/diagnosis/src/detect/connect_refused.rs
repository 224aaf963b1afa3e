//! # What
//! A process keeps asking for connections where nobody listens: each attempt is answered by a reset.
//!
//! # Signal
//! Attempts by process and destination, and those of them that were refused (ECONNREFUSED), counted as they happen.
//!
//! # Healthy twin
//! One probe of a port; a client that tries one loopback address of a name, is refused, and gets through at the other;
//! a server that restarts within a few attempts of many that succeed.
//!
//! # Thresholds
//! `refused_attempts` (3) in the window, and `refused_share` (half) of the attempts.
//!
//! # Source
//! connect(2), "ECONNREFUSED"; RFC 9293, 3.5.2.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Context, Detector, Draft, peer};
use crate::finding::{Confidence, Evidence, Role};
use crate::mode::Mode;
use crate::observation::{Comm, Direction, FlowKey, FlowObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ConnectRefused,
    needs: &[Signal::Tasks, Signal::ConnectEvents, Signal::ConnectionFates],
    helped_by: &[Signal::InetSockets],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

/// A flow with what was counted of it in the window.
type Counted<'a> = (&'a FlowKey, &'a FlowObservation);

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let settings = &context.settings.network;
    let mut drafts = Vec::new();
    // Processes that make an attempt or two each, as a shell's loop over a client does, count together.
    let mut together: BTreeMap<(u32, Comm, SocketAddr), Vec<Counted<'_>>> = BTreeMap::new();
    let counts = |flows: &[Counted<'_>]| {
        let refused: u64 = flows.iter().map(|(_, flow)| flow.refused).sum();
        let attempts: u64 = flows.iter().map(|(_, flow)| attempts(flow)).sum();
        let many = refused >= settings.refused_attempts
            && refused as f64 >= settings.refused_share * attempts as f64;
        many.then_some((refused, attempts))
    };
    for (key, history) in &context.window.network.flows {
        let flow = &history.total;
        if key.direction != Direction::Outbound || has_other_address(context, key, flow) {
            continue;
        }
        match counts(&[(key, flow)]) {
            Some((refused, attempts)) => drafts.push(draft(context, key, flow, refused, attempts)),
            None => {
                let name = (key.net_ns, flow.comm, key.address);
                together.entry(name).or_default().push((key, flow));
            }
        }
    }
    for flows in together.values() {
        let latest = flows
            .iter()
            .filter(|(_, flow)| flow.refused > 0)
            .max_by_key(|(key, _)| (context.index.lives(key.pid), key.pid));
        if let (Some((refused, attempts)), Some((key, flow))) = (counts(flows), latest) {
            drafts.push(draft(context, key, flow, refused, attempts));
        }
    }
    drafts
}

fn attempts(flow: &FlowObservation) -> u64 {
    flow.attempts.max(flow.established + flow.failed())
}

/// Whether the process gets through to another address of the same name as often as it is refused at this one.
fn has_other_address(context: &Context<'_>, key: &FlowKey, flow: &FlowObservation) -> bool {
    let others = context.window.network.flows.iter().filter(|(other, _)| {
        other.direction == Direction::Outbound
            && other.pid == key.pid
            && other.address.port() == key.address.port()
            && same_name(context, key.address, other.address)
    });
    others.map(|(_, history)| history.total.established).sum::<u64>() >= flow.refused
}

fn same_name(context: &Context<'_>, one: SocketAddr, other: SocketAddr) -> bool {
    let (one, other) = (one.ip(), other.ip());
    let names = &context.host.names;
    let named = names.iter().filter(|name| name.address == one);
    one != other
        && (one.is_loopback() && other.is_loopback()
            || named.map(|name| &name.name).any(|name| {
                names
                    .iter()
                    .any(|also| also.address == other && also.name == *name)
            }))
}

fn draft(context: &Context<'_>, key: &FlowKey, flow: &FlowObservation, refused: u64, attempts: u64) -> Draft {
    let (pid, remote) = (key.pid, key.address);
    let comm = peer::comm(context, pid);
    let listener = context.index.listener_for(key.net_ns, remote);
    let listeners = listener.map_or_else(Vec::new, |one| context.index.socket_processes(one.id));
    let now = match listeners.first() {
        Some(listener) => format!(", where {} ({listener}) listens now", context.comm(*listener)),
        None => String::new(),
    };
    let summary = format!("{comm} ({pid}) is refused by {remote}{now}: {refused} of {attempts} attempts");
    let mut draft = Draft::of_process(Mode::ConnectRefused, pid, summary);
    draft.confidence = Confidence::Proven;
    draft.since_ns = Some(flow.first_start_ns).filter(|since| *since != 0 && flow.established == 0);
    let source = "tcp tracepoints";
    draft.evidence = vec![
        Evidence::from_file("destination", remote.to_string(), "", source),
        Evidence::from_file("connect_refused", refused, "attempts", source),
        Evidence::from_file("attempts", attempts, "attempts", source),
    ];
    let events = &context.window.events;
    let seconds = events.to_ns.saturating_sub(events.from_ns) as f64 / 1e9;
    if seconds >= 1.0 {
        let rate = refused as f64 / seconds;
        draft
            .evidence
            .push(Evidence::from_file("refused_rate", rate, "attempts/s", source));
    }
    peer::add(&mut draft, Role::Listener, &listeners);
    draft.flow = Some((None, remote));
    draft
}

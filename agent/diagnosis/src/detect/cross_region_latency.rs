//! # What
//! Requests spend their time on round trips over a long distance.
//!
//! # Signal
//! Connections opened from here whose lowest round trip is long, and the turns of requests and answers on them: each
//! turn costs at least one round trip, so turns times round trip is time spent on the way.
//!
//! # Healthy twin
//! Bulk transfer and replication: many bytes a turn, or few turns. A long round trip only under load: then the lowest
//! one is short. Heartbeats on far connections: they take a small share of the time.
//!
//! # Thresholds
//! `region_round_trip` (50 ms), `region_requests` (3) in the window that take `region_share` (30%) of a connection's
//! time, and less than `bulk_bytes` (256 KiB) a turn.
//!
//! # Source
//! tcp_info, tcpi_min_rtt (net/ipv4/tcp_input.c: a windowed minimum, tcp_min_rtt_wlen); the handbook's rung 6.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Context, Detector, Draft, peer};
use crate::finding::{Evidence, Role};
use crate::index::TCP_ESTABLISHED;
use crate::mode::Mode;
use crate::observation::{Direction, InetObservation, Signal, TcpFigures};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::CrossRegionLatency,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
        Signal::RequestTurns,
    ],
    helped_by: &[],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    if u128::from(context.window.length_ns()) < context.settings.rate_window.as_nanos() {
        return Vec::new();
    }
    let least_us = context.settings.network.region_round_trip.as_micros();
    let mut far: BTreeMap<(u32, SocketAddr), Vec<(&InetObservation, TcpFigures)>> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        let Some(figures) = socket.figures else { continue };
        let is_far = figures.min_rtt_us != u32::MAX && u128::from(figures.min_rtt_us) >= least_us;
        if !socket.tcp || socket.state != TCP_ESTABLISHED || !is_far || context.index.is_inbound(socket) {
            continue;
        }
        if let Some(pid) = context.index.socket_processes(socket.id).first() {
            far.entry((*pid, socket.remote))
                .or_default()
                .push((socket, figures));
        }
    }
    far.iter()
        .filter_map(|((pid, remote), sockets)| draft(context, *pid, *remote, sockets))
        .collect()
}

fn draft(
    context: &Context<'_>,
    pid: u32,
    remote: SocketAddr,
    sockets: &[(&InetObservation, TcpFigures)],
) -> Option<Draft> {
    let settings = &context.settings.network;
    let flows = || {
        context
            .window
            .network
            .flows
            .iter()
            .filter(|(key, _)| key.pid == pid)
    };
    let outbound = flows().find(|(key, _)| key.direction == Direction::Outbound && key.address == remote)?;
    let turns = outbound.1.total.responses.min(outbound.1.total.requests);
    if turns < settings.region_requests {
        return None;
    }
    let window = context.window.length_ns() as f64 / 1e9;
    let active =
        |figures: &TcpFigures| u64::from(figures.last_received_ms) * 1_000_000 < context.window.length_ns();
    let active: Vec<_> = sockets.iter().filter(|(_, figures)| active(figures)).collect();
    let round_trip_us = active.iter().map(|(_, figures)| figures.min_rtt_us).min()?;
    let on_the_way = turns as f64 * f64::from(round_trip_us) / 1e6;
    let share = on_the_way / (window * active.len() as f64);
    let bytes: u64 = active
        .iter()
        .map(|(socket, figures)| exchanged(context, socket, figures))
        .sum();
    if share < settings.region_share || bytes / turns >= settings.bulk_bytes {
        return None;
    }
    let requests: u64 = flows()
        .filter(|(key, _)| key.direction == Direction::Inbound)
        .map(|(_, history)| history.total.requests)
        .sum();
    let milliseconds = f64::from(round_trip_us) / 1000.0;
    let a_request = if requests > 0 {
        format!(
            ", {:.1} for each request it serves",
            turns as f64 / requests as f64
        )
    } else {
        String::new()
    };
    let summary = format!(
        "{} ({pid}) waits for a round trip of {milliseconds:.0} ms to {remote} again and again: {turns} in {window:.0} \
         s{a_request}",
        context.comm(pid)
    );
    let mut draft = Draft::of_process(Mode::CrossRegionLatency, pid, summary);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("min_rtt", milliseconds, "ms", source),
        Evidence::from_file("round_trips", turns, "turns", "tcp tracepoints"),
        Evidence::new("time_on_the_way", share.min(1.0) * 100.0, "%", source),
        Evidence::new("exchanged", bytes / turns, "bytes a turn", source),
    ];
    if requests > 0 {
        let fact = Evidence::from_file("requests_served", requests, "requests", "tcp tracepoints");
        draft.evidence.push(fact);
    }
    for (socket, _) in &active {
        peer::add(&mut draft, Role::Peer, &peer::holders(context, socket));
    }
    let ids = active.iter().map(|(socket, _)| socket.id).collect();
    draft.chain_from = peer::waiter(context, pid, &ids);
    draft.flow = Some((peer::only(active.iter().map(|(socket, _)| socket.local)), remote));
    Some(draft)
}

/// Bytes exchanged on a connection in the window.
fn exchanged(context: &Context<'_>, socket: &InetObservation, now: &TcpFigures) -> u64 {
    let history = context.window.network.sockets.get(&socket.id);
    let first = history.and_then(|history| history.first).unwrap_or_default();
    let sent = now.bytes_acked.saturating_sub(first.bytes_acked);
    sent + now.bytes_received.saturating_sub(first.bytes_received)
}

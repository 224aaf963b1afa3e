//! # What
//! A connection stands, this side sends, and nothing is acknowledged: packets vanish on the way.
//!
//! # Signal
//! Established sockets with segments in flight, the retransmission timer backed off several times, and no
//! acknowledgement of any kind since.
//!
//! # Healthy twin
//! A peer that does not read: its window is closed, and it acknowledges each probe. Loss with progress: an
//! acknowledgement ends the back-off.
//!
//! # Thresholds
//! `dead_backoff` (3) steps, and the last acknowledgement older than `dead_timeouts` (3) timeouts without back-off; the
//! send window open.
//!
//! # Source
//! RFC 6298 (each timeout doubles the timer); net/ipv4/tcp_timer.c, tcp_retransmit_timer(); tcp(7), tcp_retries2.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Context, Detector, Draft, count, peer};
use crate::finding::{Confidence, Evidence, Role};
use crate::index::{TCP_CLOSE_WAIT, TCP_ESTABLISHED};
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal, TcpFigures};
use crate::settings::NetworkSettings;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::BlackHole,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
    ],
    helped_by: &[],
    needs_window: None,
    detect,
    blind_spot: None,
};

/// Whether what a connection sent has vanished.
pub(super) fn is_dead(settings: &NetworkSettings, socket: &InetObservation) -> bool {
    let Some(figures) = socket.figures.filter(|_| socket.tcp) else {
        return false;
    };
    matches!(socket.state, TCP_ESTABLISHED | TCP_CLOSE_WAIT)
        && figures.packets_out > 0
        && figures.send_window > 0
        && figures.backoff >= settings.dead_backoff
        && u64::from(figures.last_ack_ms) * 1000 > u64::from(settings.dead_timeouts) * timeout_us(&figures)
}

/// The retransmission timeout before it was backed off: the kernel doubles it in place.
fn timeout_us(figures: &TcpFigures) -> u64 {
    u64::from(figures.rto_us) >> figures.backoff.min(31)
}

/// Connections that are dead, by the process that holds them and by peer.
pub(super) fn dead<'a>(context: &Context<'a>) -> BTreeMap<(u32, SocketAddr), Vec<&'a InetObservation>> {
    let mut all: BTreeMap<(u32, SocketAddr), Vec<&InetObservation>> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        if !is_dead(&context.settings.network, socket) {
            continue;
        }
        if let Some(pid) = context.index.socket_processes(socket.id).first() {
            all.entry((*pid, socket.remote)).or_default().push(socket);
        }
    }
    all
}

/// Since when nothing is acknowledged on these connections, `CLOCK_MONOTONIC` ns.
pub(super) fn since_ns(context: &Context<'_>, sockets: &[&InetObservation]) -> Option<u64> {
    let ages = sockets.iter().filter_map(|socket| socket.figures);
    let ages = ages.map(|figures| figures.unanswered_ms.unwrap_or(figures.last_ack_ms));
    let oldest_ms = u64::from(ages.max()?);
    Some(context.picture.began_ns.saturating_sub(oldest_ms * 1_000_000))
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    dead(context)
        .iter()
        .filter_map(|((pid, remote), sockets)| draft(context, *pid, *remote, sockets))
        .collect()
}

fn draft(context: &Context<'_>, pid: u32, remote: SocketAddr, sockets: &[&InetObservation]) -> Option<Draft> {
    let worst = sockets
        .iter()
        .copied()
        .max_by_key(|socket| socket.figures.map(|figures| figures.last_ack_ms))?;
    let figures = worst.figures?;
    let silence = f64::from(figures.last_ack_ms) / 1000.0;
    let connections = match sockets {
        [_] => "a connection".to_owned(),
        more => count(more.len(), "connection"),
    };
    let summary = format!(
        "what {} ({pid}) sends to {remote} vanishes: {connections} with data under way and no acknowledgement for \
         {silence:.1} s",
        context.comm(pid)
    );
    let mut draft = Draft::of_process(Mode::BlackHole, pid, summary);
    draft.confidence = Confidence::Proven;
    draft.since_ns = since_ns(context, sockets);
    let source = context.source();
    let in_flight: u64 = sockets
        .iter()
        .filter_map(|socket| socket.figures)
        .map(|figures| u64::from(figures.packets_out))
        .sum();
    draft.evidence = vec![
        Evidence::new("in_flight", in_flight, "segments", source),
        Evidence::new("backoff", u64::from(figures.backoff), "steps", source),
        Evidence::new("last_ack", silence, "s ago", source),
        Evidence::new("send_window", figures.send_window, "bytes", source),
        Evidence::new(
            "retransmission_timeout",
            timeout_us(&figures) / 1000,
            "ms",
            source,
        ),
    ];
    for socket in sockets {
        peer::add(&mut draft, Role::Peer, &peer::holders(context, socket));
    }
    let ids = sockets.iter().map(|socket| socket.id).collect();
    draft.chain_from = peer::waiter(context, pid, &ids);
    let local = peer::only(sockets.iter().map(|socket| socket.local));
    draft.flow = Some((local, remote));
    Some(draft)
}

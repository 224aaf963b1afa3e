//! # What
//! A hint that a connection stands here and is gone at the peer.
//!
//! # Signal
//! An established socket with nothing to send whose keepalive probes get no answer.
//!
//! # Healthy twin
//! An idle connection: its peer answers the probes. One without keepalive cannot be told from it, and nothing is said.
//!
//! # Thresholds
//! `unanswered_probes` (2) out.
//!
//! # Source
//! tcp(7), TCP_KEEPCNT; RFC 9293, 3.8.4; `icsk_probes_out` in include/net/inet_connection_sock.h.

use super::{Context, Detector, Draft, peer};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::index::TCP_ESTABLISHED;
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::HalfOpen,
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

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let sockets = context.picture.inet_sockets.iter();
    sockets.filter_map(|socket| draft(context, socket)).collect()
}

fn draft(context: &Context<'_>, socket: &InetObservation) -> Option<Draft> {
    let figures = socket.figures.filter(|_| socket.tcp)?;
    // A probe of a closed window counts in the same field, but then there is something to send.
    let idle = figures.packets_out == 0 && figures.not_sent == 0 && socket.send_queue == 0;
    if socket.state != TCP_ESTABLISHED || !idle || figures.probes < context.settings.network.unanswered_probes
    {
        return None;
    }
    let pid = *context.index.socket_processes(socket.id).first()?;
    let silent_ms = figures.last_received_ms.min(figures.last_ack_ms);
    let summary = format!(
        "{} ({pid}) may hold a connection that {} no longer knows: {} keepalive probes without an answer",
        context.comm(pid),
        socket.remote,
        figures.probes
    );
    let mut draft = Draft::of_process(Mode::HalfOpen, pid, summary);
    draft.severity = Severity::Notice;
    draft.confidence = Confidence::Suspected;
    let since_ns = u64::from(silent_ms) * 1_000_000;
    draft.since_ns = Some(context.picture.began_ns.saturating_sub(since_ns));
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("unanswered_probes", u64::from(figures.probes), "", source),
        Evidence::new("last_heard", f64::from(silent_ms) / 1000.0, "s ago", source),
    ];
    peer::add(&mut draft, Role::Peer, &peer::holders(context, socket));
    draft.chain_from = peer::waiter(context, pid, &[socket.id].into_iter().collect());
    draft.flow = Some((Some(socket.local), socket.remote));
    Some(draft)
}

//! # What
//! A process does not close connections that its peers have closed.
//!
//! # Signal
//! Sockets in CLOSE_WAIT by process, and for how long nothing has come in on them: the peer's FIN was the last to come,
//! so one picture gives a lower bound of their age.
//!
//! # Healthy twin
//! A half-closed stream in use: the peer has finished sending and still reads, so that its acknowledgements are fresh.
//! Connections that are closed some seconds later.
//!
//! # Thresholds
//! `close_wait_count` (10) connections for at least `close_wait_age` (60 s), and growing: more came in the window, which is
//! proof, or their ages in one picture are that far apart. Those that all came at once and no more since are a notice.
//!
//! # Source
//! RFC 9293, 3.6 (CLOSE-WAIT); tcp(7): no timer ends that state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Context, Detector, Draft, count, peer};
use crate::finding::{Confidence, Evidence, Severity};
use crate::index::TCP_CLOSE_WAIT;
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::CloseWaitLeak,
    needs: &[Signal::Tasks, Signal::Descriptors, Signal::InetSockets],
    helped_by: &[Signal::TcpFigures],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut leaks: BTreeMap<u32, Vec<(&InetObservation, u64)>> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        if !socket.tcp || socket.state != TCP_CLOSE_WAIT {
            continue;
        }
        if let Some(pid) = context.index.socket_processes(socket.id).first() {
            leaks
                .entry(*pid)
                .or_default()
                .push((socket, since_ns(context, socket)));
        }
    }
    leaks
        .into_iter()
        .filter_map(|(pid, sockets)| draft(context, pid, &sockets))
        .collect()
}

/// Since when a connection has been in CLOSE_WAIT at the latest, `CLOCK_MONOTONIC` ns.
fn since_ns(context: &Context<'_>, socket: &InetObservation) -> u64 {
    let now_ns = context.picture.began_ns;
    let heard_ms = socket
        .figures
        .map(|figures| figures.last_received_ms.min(figures.last_ack_ms));
    let heard_ns = heard_ms.map(|ms| now_ns.saturating_sub(u64::from(ms) * 1_000_000));
    let history = context.window.network.sockets.get(&socket.id);
    let seen_ns = history.map(|history| history.state_since_ns);
    heard_ns.into_iter().chain(seen_ns).min().unwrap_or(now_ns)
}

fn draft(context: &Context<'_>, pid: u32, sockets: &[(&InetObservation, u64)]) -> Option<Draft> {
    let settings = &context.settings.network;
    let is_old = |since_ns: u64| context.age(since_ns) >= settings.close_wait_age;
    let old: Vec<&InetObservation> = sockets
        .iter()
        .filter(|(_, since_ns)| is_old(*since_ns))
        .map(|(socket, _)| *socket)
        .collect();
    if old.len() < settings.close_wait_count {
        return None;
    }
    let began_ns = context.window.began_ns;
    let fresh = sockets
        .iter()
        .filter(|(_, since_ns)| *since_ns > began_ns)
        .count();
    let mut by_peer: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    let mut by_port: BTreeMap<u16, usize> = BTreeMap::new();
    for socket in &old {
        *by_peer.entry(socket.remote).or_default() += 1;
        *by_port.entry(socket.local.port()).or_default() += 1;
    }
    let (most, times) = by_peer.iter().max_by_key(|(_, times)| **times)?;
    let serves = old
        .iter()
        .filter(|socket| context.index.is_inbound(socket))
        .count()
        * 2
        > old.len();
    let where_from = if serves {
        let (port, _) = by_port.iter().max_by_key(|(_, times)| **times)?;
        format!("clients of its port {port}")
    } else if *times == old.len() {
        most.to_string()
    } else {
        format!("{most} and others")
    };
    let oldest_ns = sockets.iter().map(|(_, since_ns)| *since_ns).min()?;
    let summary = format!(
        "{} ({pid}) does not close what {where_from} closed long ago: {} in CLOSE_WAIT",
        context.comm(pid),
        count(sockets.len(), "connection")
    );
    let newest_ns = sockets.iter().map(|(_, since_ns)| *since_ns).max()?;
    let span = Duration::from_nanos(newest_ns.saturating_sub(oldest_ns));
    let mut draft = Draft::of_process(Mode::CloseWaitLeak, pid, summary);
    if fresh > 0 {
        draft.confidence = Confidence::Proven;
    } else if span < settings.close_wait_age {
        // One event left them behind; whether it will come again is not known.
        (draft.severity, draft.confidence) = (Severity::Notice, Confidence::Suspected);
    }
    draft.since_ns = Some(oldest_ns);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("close_wait", sockets.len(), "connections", source),
        Evidence::new("old_close_wait", old.len(), "connections", source),
        Evidence::new("oldest", context.age(oldest_ns).as_secs_f64(), "s", source),
        Evidence::new("newest", context.age(newest_ns).as_secs_f64(), "s", source),
    ];
    if fresh > 0 {
        draft
            .evidence
            .push(Evidence::new("new_in_window", fresh, "connections", source));
    }
    let local = peer::only(old.iter().map(|socket| socket.local));
    draft.flow = Some((local, *most));
    Some(draft)
}

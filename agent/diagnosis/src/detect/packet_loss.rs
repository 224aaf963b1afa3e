//! # What
//! A share of the segments to a peer gets lost and is sent again, while the connections still make progress.
//!
//! # Signal
//! Segments sent and sent again on the connections to one peer, over the window, and the bytes that it acknowledged.
//!
//! # Healthy twin
//! No progress at all (`black-hole`). One lossy client far away: its own affair. A few lost segments of few.
//!
//! # Thresholds
//! More than `loss_share` (2%) of at least `loss_segments` (100) segments; a client on its own with a round trip above
//! `far_client` (20 ms) is left out.
//!
//! # Source
//! tcp_info: data_segs_out and total_retrans (include/uapi/linux/tcp.h); Mathis et al., The Macroscopic Behavior of the
//! TCP Congestion Avoidance Algorithm (1997): throughput falls with the root of the loss.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Context, Detector, Draft, black_hole, count, peer};
use crate::finding::{Evidence, Role};
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal, SocketId};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::PacketLoss,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
    ],
    helped_by: &[],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: None,
};

/// What was sent to one peer in the window.
#[derive(Default)]
struct Traffic<'a> {
    segments: u64,
    retransmitted: u64,
    acknowledged: u64,
    min_rtt_us: Option<u32>,
    sockets: Vec<(&'a InetObservation, u64)>,
}

impl Traffic<'_> {
    fn share(&self) -> f64 {
        self.retransmitted as f64 / self.segments.max(1) as f64
    }
}

/// Namespace, peer, and whether the peer opened the connections.
type Key = (u32, IpAddr, bool);

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let settings = &context.settings.network;
    let mut peers: BTreeMap<Key, Traffic<'_>> = BTreeMap::new();
    for socket in context.picture.inet_sockets.iter().filter(|socket| socket.tcp) {
        add(context, &mut peers, socket);
    }
    let clients: BTreeMap<u32, usize> =
        peers
            .keys()
            .filter(|(.., inbound)| *inbound)
            .fold(BTreeMap::new(), |mut clients, (net_ns, ..)| {
                *clients.entry(*net_ns).or_default() += 1;
                clients
            });
    let lossy: Vec<(Key, Traffic<'_>)> = peers
        .into_iter()
        .filter(|(_, traffic)| {
            traffic.segments >= settings.loss_segments
                && traffic.share() > settings.loss_share
                && traffic.acknowledged > 0
        })
        .collect();
    let lossy_clients = |net_ns: u32| {
        let of_it = lossy
            .iter()
            .filter(|((ns, _, inbound), _)| *ns == net_ns && *inbound);
        of_it.count()
    };
    let far = |traffic: &Traffic<'_>| {
        let rtt_us = traffic.min_rtt_us.unwrap_or(0);
        u128::from(rtt_us) > settings.far_client.as_micros()
    };
    // Both ends can be on this host. What is lost between them is one finding, that of the end that lost more.
    let mut reported: BTreeSet<SocketId> = BTreeSet::new();
    let mut order: Vec<usize> = (0..lossy.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(lossy[*at].1.retransmitted));
    let mut drafts = Vec::new();
    for at in order {
        let ((net_ns, address, inbound), traffic) = &lossy[at];
        let alone = lossy_clients(*net_ns) * 2 <= clients.get(net_ns).copied().unwrap_or(0).max(1);
        let only_client = lossy_clients(*net_ns) == 1;
        if *inbound && far(traffic) && (alone || only_client) {
            continue;
        }
        if traffic
            .sockets
            .iter()
            .any(|(socket, _)| reported.contains(&socket.id))
        {
            continue;
        }
        let ends = traffic
            .sockets
            .iter()
            .filter_map(|(socket, _)| context.index.inet_peer(socket));
        reported.extend(ends);
        drafts.extend(draft(context, *address, traffic));
    }
    drafts
}

fn add<'a>(context: &Context<'_>, peers: &mut BTreeMap<Key, Traffic<'a>>, socket: &'a InetObservation) {
    let history = context.window.network.sockets.get(&socket.id);
    let (Some(now), Some(first)) = (socket.figures, history.and_then(|history| history.first)) else {
        return;
    };
    let segments = u64::from(now.segments_out.saturating_sub(first.segments_out));
    if segments == 0 || black_hole::is_dead(&context.settings.network, socket) {
        return;
    }
    let retransmitted = u64::from(now.retransmitted.saturating_sub(first.retransmitted));
    let key = (
        socket.net_ns,
        socket.remote.ip(),
        context.index.is_inbound(socket),
    );
    let traffic = peers.entry(key).or_default();
    traffic.segments += segments;
    traffic.retransmitted += retransmitted;
    traffic.acknowledged += now.bytes_acked.saturating_sub(first.bytes_acked);
    traffic.sockets.push((socket, retransmitted));
    if now.min_rtt_us != 0 && now.min_rtt_us != u32::MAX {
        let known = traffic.min_rtt_us.unwrap_or(u32::MAX);
        traffic.min_rtt_us = Some(known.min(now.min_rtt_us));
    }
}

fn draft(context: &Context<'_>, address: IpAddr, traffic: &Traffic<'_>) -> Option<Draft> {
    let mut losses: BTreeMap<u32, u64> = BTreeMap::new();
    for (socket, lost) in &traffic.sockets {
        if let Some(pid) = context.index.socket_processes(socket.id).first() {
            *losses.entry(*pid).or_default() += lost;
        }
    }
    let (pid, _) = losses
        .iter()
        .max_by_key(|(pid, lost)| (**lost, std::cmp::Reverse(**pid)))?;
    let share = traffic.share() * 100.0;
    let connections = count(traffic.sockets.len(), "connection");
    let summary = format!(
        "{share:.1}% of the segments that {} ({pid}) sends to {address} had to be sent again ({} of {}, {connections})",
        context.comm(*pid),
        traffic.retransmitted,
        traffic.segments
    );
    let mut draft = Draft::of_process(Mode::PacketLoss, *pid, summary);
    draft.since_ns = traffic
        .sockets
        .iter()
        .filter_map(|(socket, _)| context.window.network.sockets.get(&socket.id))
        .map(|history| history.first_ns)
        .min();
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("retransmitted", traffic.retransmitted, "segments", source),
        Evidence::new("sent", traffic.segments, "segments", source),
        Evidence::new("acknowledged", traffic.acknowledged, "bytes", source),
    ];
    if let Some(rtt_us) = traffic.min_rtt_us {
        draft
            .evidence
            .push(Evidence::new("min_rtt", rtt_us, "us", source));
    }
    for (socket, _) in &traffic.sockets {
        peer::add(&mut draft, Role::Peer, &peer::holders(context, socket));
    }
    let sockets = || traffic.sockets.iter().map(|(socket, _)| socket);
    let local = match traffic.sockets.as_slice() {
        [(one, _)] => Some(one.local),
        _ => None,
    };
    let remote = peer::only(sockets().map(|socket| socket.remote));
    let port = peer::only(sockets().map(|socket| SocketAddr::new(address, socket.remote.port())));
    draft.flow = remote
        .or(port)
        .or(Some(SocketAddr::new(address, 0)))
        .map(|remote| (local, remote));
    Some(draft)
}

//! # What
//! Of a set of peers that do the same work some cannot be reached, while others, over the same way, can.
//!
//! # Signal
//! Peers that a program (processes of one name in one network namespace) talks to on one port: those whose connections
//! are dead (`black-hole`) or whose attempts get no answer (`connect-timeout`), and those that acknowledged something
//! just now, from the same local address.
//!
//! # Healthy twin
//! A peer that is just down: its host refuses. All peers dead: that is the own link or a common cause, not a division.
//! A listener on this host whose accept queue is full. One peer on its own.
//!
//! # Thresholds
//! `healthy_peer` (10 s): acknowledged something within this time.
//!
//! # Source
//! Bailis, Kingsbury: The Network is Reliable (ACM Queue 12/7, 2014); tcp(7).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{Context, Detector, Draft, black_hole, connect_timeout, count, peer};
use crate::finding::{Evidence, Role};
use crate::index::TCP_ESTABLISHED;
use crate::mode::Mode;
use crate::observation::{Comm, InetObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Partition,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
    ],
    helped_by: &[Signal::ConnectEvents],
    needs_window: Some(|settings| settings.network.connect_patience * 2),
    detect,
    blind_spot: None,
};

/// Processes of one name, in one network namespace, and the port on which they talk to their peers.
type Key = (u32, Comm, u16);

/// Peers of one program.
#[derive(Default)]
struct Peers {
    /// Those that do not answer, with the processes that found out.
    dead: BTreeMap<IpAddr, BTreeSet<u32>>,
    /// How many connections or destinations say so, by process.
    voices: BTreeMap<u32, usize>,
    /// Local addresses from which they are tried.
    locals: BTreeSet<IpAddr>,
    since_ns: Option<u64>,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut programs: BTreeMap<Key, Peers> = BTreeMap::new();
    let mut add = |net_ns: u32, pid: u32, remote: SocketAddr, locals: &[SocketAddr], since: Option<u64>| {
        let Some(task) = context.index.process(pid) else {
            return;
        };
        let peers = programs.entry((net_ns, task.comm, remote.port())).or_default();
        peers.dead.entry(remote.ip()).or_default().insert(pid);
        *peers.voices.entry(pid).or_default() += locals.len().max(1);
        peers.locals.extend(locals.iter().map(SocketAddr::ip));
        peers.since_ns = [peers.since_ns, since].into_iter().flatten().min();
    };
    for ((pid, remote), sockets) in black_hole::dead(context) {
        let Some(first) = sockets.first().filter(|socket| !context.index.is_inbound(socket)) else {
            continue;
        };
        let locals: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local).collect();
        let since = black_hole::since_ns(context, &sockets);
        add(first.net_ns, pid, remote, &locals, since);
    }
    for ((pid, remote), entry) in connect_timeout::unanswered(context) {
        if connect_timeout::is_local_queue(context, &entry, remote) {
            continue;
        }
        let since = Some(entry.since_ns).filter(|since| *since != 0);
        add(entry.net_ns, pid, remote, &entry.locals, since);
    }
    programs
        .into_iter()
        .filter_map(|(key, peers)| draft(context, key, peers))
        .collect()
}

fn draft(context: &Context<'_>, key: Key, mut peers: Peers) -> Option<Draft> {
    let (_, comm, port) = key;
    let healthy = healthy(context, key, &peers);
    // An address that also answers is not cut off: one connection or one filter is at fault there.
    peers.dead.retain(|address, _| !healthy.contains_key(address));
    if peers.dead.is_empty() || healthy.is_empty() {
        return None;
    }
    let (pid, _) = peers
        .voices
        .iter()
        .max_by_key(|(pid, voices)| (**voices, std::cmp::Reverse(**pid)))?;
    let dead: Vec<IpAddr> = peers.dead.keys().copied().collect();
    let well: Vec<IpAddr> = healthy.keys().copied().collect();
    let dead_names: Vec<String> = dead
        .iter()
        .map(|ip| SocketAddr::new(*ip, port).to_string())
        .collect();
    let well_names: Vec<String> = well
        .iter()
        .map(|ip| SocketAddr::new(*ip, port).to_string())
        .collect();
    let summary = format!(
        "{comm} ({pid}) cannot reach {} of its {}: nothing comes back from {}, while {} answered just now",
        dead.len(),
        count(dead.len() + well.len(), "peer"),
        peer::list(&dead_names),
        peer::list(&well_names)
    );
    let mut draft = Draft::of_process(Mode::Partition, *pid, summary);
    draft.since_ns = peers.since_ns;
    let source = context.source();
    for name in &dead_names {
        draft
            .evidence
            .push(Evidence::new("unreachable_peer", name.as_str(), "", source));
    }
    for (ip, acknowledged_ms) in &healthy {
        let text = format!(
            "{}, acknowledged {:.1} s ago",
            SocketAddr::new(*ip, port),
            f64::from(*acknowledged_ms) / 1000.0
        );
        draft
            .evidence
            .push(Evidence::new("healthy_peer", text, "", source));
    }
    let others: BTreeSet<u32> = peers.dead.values().flatten().copied().collect();
    peer::add(&mut draft, Role::Waiter, &others.into_iter().collect::<Vec<_>>());
    draft.flow = Some((None, SocketAddr::new(*dead.first()?, port)));
    Some(draft)
}

/// The program's peers that acknowledged something lately, with how long ago, ms.
fn healthy(context: &Context<'_>, key: Key, peers: &Peers) -> BTreeMap<IpAddr, u32> {
    let (net_ns, comm, port) = key;
    let recent_ms = context.settings.network.healthy_peer.as_millis();
    let mut healthy: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let is_of_program = |socket: &InetObservation| {
        let holders = context.index.socket_processes(socket.id);
        holders
            .iter()
            .any(|pid| context.index.process(*pid).is_some_and(|task| task.comm == comm))
    };
    for socket in &context.picture.inet_sockets {
        let Some(figures) = socket.figures else { continue };
        let fits = socket.tcp
            && socket.state == TCP_ESTABLISHED
            && socket.net_ns == net_ns
            && socket.remote.port() == port
            && (peers.locals.is_empty() || peers.locals.contains(&socket.local.ip()))
            && u128::from(figures.last_ack_ms) <= recent_ms
            && figures.backoff == 0
            && !context.index.is_inbound(socket);
        if fits && is_of_program(socket) {
            let known = healthy.entry(socket.remote.ip()).or_insert(figures.last_ack_ms);
            *known = figures.last_ack_ms.min(*known);
        }
    }
    // Short connections are not in the picture, but what became of them is: those of the last steps.
    for (flow, history) in &context.window.network.flows {
        let of_program = context
            .index
            .process(flow.pid)
            .is_some_and(|task| task.comm == comm);
        let fits = flow.direction == crate::observation::Direction::Outbound
            && (flow.net_ns == net_ns || flow.net_ns == 0)
            && flow.address.port() == port
            && of_program;
        let last = history.steps.iter().rev().find(|step| step.established > 0);
        if let Some(last) = last.filter(|_| fits) {
            let ago_ms = context.age(last.to_ns).as_millis();
            if ago_ms <= recent_ms {
                let ago_ms = u32::try_from(ago_ms).unwrap_or(u32::MAX);
                let known = healthy.entry(flow.address.ip()).or_insert(ago_ms);
                *known = ago_ms.min(*known);
            }
        }
    }
    // Connections that stand there are dead now, whatever was established before the drop began.
    let stands = |ip: &IpAddr| {
        !context.picture.inet_sockets.iter().any(|socket| {
            socket.net_ns == net_ns
                && socket.remote.ip() == *ip
                && socket.remote.port() == port
                && black_hole::is_dead(&context.settings.network, socket)
        })
    };
    healthy.retain(|ip, acknowledged_ms| {
        stands(ip)
            && peers.since_ns.is_none_or(|since| {
                // What was acknowledged before the others fell silent says nothing.
                u128::from(*acknowledged_ms) < context.age(since).as_millis() || !peers.dead.contains_key(ip)
            })
    });
    healthy
}

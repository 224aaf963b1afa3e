//! # What
//! No local port is left, or hardly any, for connections to one destination.
//!
//! # Signal
//! Attempts that failed with EADDRNOTAVAIL, as they happen; local ports in use towards one destination, held by
//! processes or in TIME_WAIT without one, against the range of the network namespace.
//!
//! # Healthy twin
//! TIME_WAIT by itself: a minute of many short connections. On loopback its ports are taken again after a second
//! (tcp_tw_reuse = 2, the default), so there only connections that somebody holds count.
//!
//! # Thresholds
//! One attempt without a port, or `ports_share` (80%) of the range.
//!
//! # Source
//! ip(7), ip_local_port_range; connect(2), "EADDRNOTAVAIL"; Documentation/networking/ip-sysctl.rst, tcp_tw_reuse.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashSet;

use super::{BlindSpot, Context, Detector, Draft, count, peer};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::index::TCP_LISTEN;
use crate::mode::Mode;
use crate::observation::{Direction, InetObservation, Signal};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::PortExhaustion,
    needs: &[Signal::Tasks, Signal::InetSockets, Signal::NetworkCounters],
    helped_by: &[
        Signal::Descriptors,
        Signal::OwnerlessSockets,
        Signal::ConnectEvents,
    ],
    needs_window: None,
    detect,
    blind_spot: Some(blind_spot),
};

/// Local ports in use towards one destination.
#[derive(Default)]
struct Use {
    /// Held by processes, by local address: each address has the range for itself.
    held: BTreeMap<IpAddr, FxHashSet<u16>>,
    /// Of these, by process.
    processes: BTreeMap<u32, usize>,
    /// Without a process.
    ownerless: u64,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut told: FxHashSet<SocketAddr> = FxHashSet::default();
    for (key, history) in &context.window.network.flows {
        let flow = &history.total;
        if key.direction != Direction::Outbound || flow.no_port == 0 {
            continue;
        }
        told.insert(key.address);
        let comm = peer::comm(context, key.pid);
        let summary = format!(
            "{comm} ({}) found no local port for connections to {}: {} of {} attempts",
            key.pid,
            key.address,
            flow.no_port,
            flow.attempts.max(flow.no_port)
        );
        let mut draft = Draft::of_process(Mode::PortExhaustion, key.pid, summary);
        draft.severity = Severity::Critical;
        draft.confidence = Confidence::Proven;
        let fact = Evidence::from_file("no_local_port", flow.no_port, "attempts", "tcp tracepoints");
        draft.evidence.push(fact);
        draft.flow = Some((None, key.address));
        drafts.push(draft);
    }
    let uses = uses(context);
    drafts.extend(
        uses.iter()
            .filter(|((_, remote), _)| !told.contains(remote))
            .filter_map(|((net_ns, remote), used)| draft(context, *net_ns, *remote, used)),
    );
    drafts
}

fn uses(context: &Context<'_>) -> BTreeMap<(u32, SocketAddr), Use> {
    let mut uses: BTreeMap<(u32, SocketAddr), Use> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        let Some(range) = range(context, socket.net_ns) else {
            continue;
        };
        let port = socket.local.port();
        if !socket.tcp
            || socket.state == TCP_LISTEN
            || socket.remote.port() == 0
            || port < range.0
            || port > range.1
            || context.index.is_inbound(socket)
        {
            continue;
        }
        let used = uses.entry((socket.net_ns, socket.remote)).or_default();
        used.held.entry(socket.local.ip()).or_default().insert(port);
        if let Some(pid) = context.index.socket_processes(socket.id).first() {
            *used.processes.entry(*pid).or_default() += 1;
        }
    }
    for row in &context.picture.ownerless {
        if row.remote.port() != 0 && !row.remote.ip().is_loopback() {
            uses.entry((row.net_ns, row.remote)).or_default().ownerless += row.count;
        }
    }
    uses
}

/// The range of local ports of a namespace, if it is known. Counters are read once a second, so the last ones count.
fn range(context: &Context<'_>, net_ns: u32) -> Option<(u16, u16)> {
    let network = context.window.network.networks.get(&net_ns)?;
    Some(network.local_ports).filter(|(first, last)| *first != 0 && last >= first)
}

/// Namespaces whose range of ports is not known: there only attempts that failed for want of one are seen.
fn blind_spot(context: &Context<'_>) -> Option<BlindSpot> {
    let connected = context.picture.inet_sockets.iter().filter(|socket| {
        socket.tcp
            && socket.state != TCP_LISTEN
            && socket.remote.port() != 0
            && range(context, socket.net_ns).is_none()
    });
    let holder = |socket: &InetObservation| context.index.socket_processes(socket.id).first().copied();
    let unknown: BTreeMap<u32, Option<u32>> =
        connected.map(|socket| (socket.net_ns, holder(socket))).collect();
    let example = unknown.values().flatten().next()?;
    Some(BlindSpot {
        why: format!(
            "the range of local ports of {} is not readable from outside; only attempts that fail are seen there",
            count(unknown.len(), "network namespace")
        ),
        remedy: format!(
            "nsenter -t {example} -n sysctl net.ipv4.ip_local_port_range; compare with `ss -s` there"
        ),
    })
}

fn draft(context: &Context<'_>, net_ns: u32, remote: SocketAddr, used: &Use) -> Option<Draft> {
    let (first, last) = range(context, net_ns)?;
    let ports = u64::from(last - first) + 1;
    let held = used.held.values().map(FxHashSet::len).max().unwrap_or(0) as u64;
    let taken = held + used.ownerless;
    if (taken as f64) < context.settings.network.ports_share * ports as f64 {
        return None;
    }
    let flows = context.window.network.flows.iter();
    let caller = flows
        .filter(|(key, _)| key.direction == Direction::Outbound && key.address == remote)
        .max_by_key(|(key, history)| (history.total.attempts, key.pid))
        .map(|(key, _)| key.pid);
    let holder = used
        .processes
        .iter()
        .max_by_key(|(pid, times)| (**times, std::cmp::Reverse(**pid)))
        .map(|(pid, _)| *pid);
    let pid = holder.or(caller)?;
    let summary = format!(
        "{} ({pid}) uses {taken} of {ports} local ports for connections to {remote}: soon none is left",
        context.comm(pid)
    );
    let mut draft = Draft::of_process(Mode::PortExhaustion, pid, summary);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("ports_held", held, "ports", source),
        Evidence::from_file("ports_without_process", used.ownerless, "sockets", "sock_diag"),
        Evidence::from_file(
            "port_range",
            format!("{first}-{last}"),
            "",
            "/proc/sys/net/ipv4/ip_local_port_range",
        ),
    ];
    let others: Vec<u32> = used.processes.keys().copied().collect();
    peer::add(&mut draft, Role::Holder, &others);
    draft.flow = Some((None, remote));
    Some(draft)
}

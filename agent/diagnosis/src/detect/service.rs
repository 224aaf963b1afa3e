//! Processes as services: whom they serve, whom they call, and what waits where. Facts for the detectors of rung 5.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustc_hash::FxHashSet;

use super::Context;
use crate::graph::WaitKind;
use crate::index::{TCP_ESTABLISHED, TCP_LISTEN};
use crate::observation::{
    BlockedCall, Call, Direction, FdObject, FlowKey, InetObservation, SocketId, TaskObservation, TcpFigures,
    Turn,
};
use crate::timeline::Timeline;
use crate::window::FlowHistory;

/// The jiffy of the slowest kernels (CONFIG_HZ=100), ms: times of TCP that differ by less may be the same moment.
const JIFFY_MS: u32 = 10;
/// Connections on which all times are one moment that is longer ago are idle ones.
const LONGEST_TIE_MS: u32 = 30_000;

/// The processes of this host that serve an address, each once.
pub(super) fn servers(context: &Context<'_>, net_ns: u32, to: SocketAddr) -> Vec<u32> {
    let listener = context.index.listener_for(net_ns, to);
    listener.map_or_else(Vec::new, |listener| context.index.socket_processes(listener.id))
}

/// A call that a process has made and that has not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PendingCall<'a> {
    /// Its connection.
    pub(super) socket: &'a InetObservation,
    /// For how long nothing has come, ms.
    pub(super) age_ms: u32,
    /// False if the last answer and the last request are of the same jiffy, so that either may have been first.
    pub(super) certain: bool,
}

/// Work that waits in front of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Requests that were read and not answered.
    pub(super) in_work: usize,
    /// Requests on accepted connections that nobody has read.
    pub(super) unread: usize,
    /// Connections that wait to be accepted.
    pub(super) backlog: usize,
    /// Age of the oldest request in work, ms.
    pub(super) oldest_ms: u32,
}

impl Demand {
    /// What waits beyond the calls that are out: queued in front of the process, or within it.
    pub(super) fn queued(&self, calls: usize) -> usize {
        self.unread + self.backlog + self.in_work.saturating_sub(calls)
    }
}

/// The connections of each process.
pub(super) struct Services<'a> {
    /// Accepted connections by holder.
    accepted: BTreeMap<u32, Vec<&'a InetObservation>>,
    /// Connections that the holder opened.
    opened: BTreeMap<u32, Vec<&'a InetObservation>>,
    /// Listening sockets by holder.
    listening: BTreeMap<u32, Vec<&'a InetObservation>>,
}

impl<'a> Services<'a> {
    /// Those of a picture.
    pub(super) fn new(context: &Context<'a>) -> Self {
        let mut services = Services {
            accepted: BTreeMap::new(),
            opened: BTreeMap::new(),
            listening: BTreeMap::new(),
        };
        let mut seen: FxHashSet<(u32, SocketId)> = FxHashSet::default();
        for row in &context.picture.descriptors {
            let FdObject::Inet(id) = row.object else { continue };
            let Some((pid, socket)) = context.index.holder(row).zip(context.index.inet(id)) else {
                continue;
            };
            if !socket.tcp || !seen.insert((pid, id)) {
                continue;
            }
            let of = match socket.state {
                TCP_LISTEN => &mut services.listening,
                TCP_ESTABLISHED if context.index.is_inbound(socket) => &mut services.accepted,
                TCP_ESTABLISHED => &mut services.opened,
                _ => continue,
            };
            of.entry(pid).or_default().push(socket);
        }
        services
    }

    /// Processes that have opened connections, in order.
    pub(super) fn callers(&self) -> impl Iterator<Item = u32> {
        self.opened.keys().copied()
    }

    /// Established connections that a process has opened.
    pub(super) fn opened(&self, pid: u32) -> &[&'a InetObservation] {
        self.opened.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// The calls of a process that have been out for at least `least_ms`. `blocked` are connections that a thread of it
    /// has been waiting for data on for that long.
    pub(super) fn pending(
        &self,
        pid: u32,
        least_ms: u32,
        blocked: &FxHashSet<SocketId>,
    ) -> Vec<PendingCall<'a>> {
        let calls = self
            .opened(pid)
            .iter()
            .filter_map(|socket| pending_call(socket, blocked));
        calls.filter(|call| call.age_ms >= least_ms).collect()
    }

    /// What waits in front of a process for at least `least_ms`.
    pub(super) fn demand(&self, context: &Context<'_>, pid: u32, least_ms: u32) -> Demand {
        let mut demand = Demand::default();
        for socket in self.accepted.get(&pid).into_iter().flatten() {
            let Some(figures) = socket.figures else { continue };
            if figures.last_received_ms < least_ms || figures.bytes_received == 0 {
                continue;
            }
            if socket.receive_queue > 0 {
                demand.unread += 1;
            } else if is_in_work(socket, &figures) {
                demand.in_work += 1;
                demand.oldest_ms = demand.oldest_ms.max(figures.last_received_ms);
            }
        }
        for socket in self.listening.get(&pid).into_iter().flatten() {
            demand.backlog += standing_backlog(context, socket) as usize;
        }
        demand
    }
}

/// Connections that have been waiting to be accepted all the time of the last few pictures.
fn standing_backlog(context: &Context<'_>, listener: &InetObservation) -> u32 {
    let history = context.window.network.backlogs.get(&listener.id);
    let last = history.map_or(&[][..], |all| &all[all.len().saturating_sub(4)..]);
    let least = last.iter().map(|(_, queued)| *queued).min();
    least
        .unwrap_or(listener.receive_queue)
        .min(listener.receive_queue)
}

fn pending_call<'a>(socket: &'a InetObservation, blocked: &FxHashSet<SocketId>) -> Option<PendingCall<'a>> {
    let figures = socket.figures?;
    // The SYN counts as one byte acknowledged (tcp_ack()).
    let asked = figures.bytes_acked > 1 || socket.send_queue > 0;
    if !asked || socket.receive_queue > 0 {
        return None;
    }
    let (sent, received) = (figures.last_sent_ms, figures.last_received_ms);
    if let Some(turn) = socket.turn {
        return (turn == Turn::Sent).then_some(PendingCall {
            socket,
            age_ms: sent,
            certain: true,
        });
    }
    let same_moment = sent.abs_diff(received) <= JIFFY_MS;
    // An answer carries the acknowledgement of its request. One that came later by itself is of a request that is still
    // being worked on (the delayed acknowledgement, 40 ms).
    let acknowledged_later = same_moment && figures.last_ack_ms + JIFFY_MS < sent.min(received);
    let certain = sent < received.saturating_sub(JIFFY_MS)
        || figures.bytes_received == 0
        || blocked.contains(&socket.id)
        || acknowledged_later;
    (certain || same_moment).then_some(PendingCall {
        socket,
        age_ms: sent,
        certain,
    })
}

/// Whether the last request on an accepted connection, all of which was read, has not been answered.
fn is_in_work(socket: &InetObservation, figures: &TcpFigures) -> bool {
    if let Some(turn) = socket.turn {
        return turn == Turn::Received;
    }
    let (sent, received) = (figures.last_sent_ms, figures.last_received_ms);
    let never_answered = figures.bytes_acked <= 1 && socket.send_queue == 0;
    if never_answered || received + JIFFY_MS < sent {
        return true;
    }
    // Answer and next request of one moment: the request carried the acknowledgement. Had the answer come last, its
    // acknowledgement would have come later by itself.
    let same_moment = sent.abs_diff(received) <= JIFFY_MS;
    same_moment && received <= LONGEST_TIE_MS && figures.last_ack_ms + JIFFY_MS >= sent.min(received)
}

/// The TCP connections that a thread waits for data on: those it reads, or all those of a poll (not of an epoll, which
/// is a server's way to wait for work).
pub(super) fn awaited_sockets(context: &Context<'_>, task: &TaskObservation) -> Vec<SocketId> {
    let Some(wait) = context.graph.wait(task.tid) else {
        return Vec::new();
    };
    if let WaitKind::SocketRead(id) = wait.kind
        && context.index.inet(id).is_some_and(|socket| socket.tcp)
    {
        return vec![id];
    }
    let Some(BlockedCall {
        call: Call::Poll { watched, .. },
        ..
    }) = &task.call
    else {
        return Vec::new();
    };
    let watched = watched.iter().filter(|watch| watch.read);
    let sockets = watched.map(|watch| match context.index.descriptor(task, watch.fd)?.object {
        FdObject::Inet(id) => context
            .index
            .inet(id)
            .filter(|socket| socket.tcp)
            .map(|socket| socket.id),
        _ => None,
    });
    // A poll of anything else besides is not about these connections.
    sockets.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// The connections that threads of a process have been waiting on for `least_ms`, and how many threads those are.
pub(super) fn blocked_on_calls(
    context: &Context<'_>,
    pid: u32,
    least_ms: u32,
) -> (FxHashSet<SocketId>, Vec<u32>) {
    let (mut sockets, mut threads) = (FxHashSet::default(), Vec::new());
    for task in context.index.threads(pid) {
        let long = context
            .waiting(task.tid)
            .is_some_and(|age| age.as_millis() >= u128::from(least_ms));
        let awaited = if long {
            awaited_sockets(context, task)
        } else {
            Vec::new()
        };
        if !awaited.is_empty() {
            threads.push(task.tid);
            sockets.extend(awaited);
        }
    }
    (sockets, threads)
}

/// The flows that processes of this host open, in order.
pub(super) fn outbound<'a>(context: &Context<'a>) -> Vec<(&'a FlowKey, &'a FlowHistory)> {
    let flows = context.window.network.flows.iter();
    let mut flows: Vec<_> = flows
        .filter(|(key, _)| key.direction == Direction::Outbound && key.pid != 0)
        .collect();
    flows.sort_by_key(|(key, _)| **key);
    flows
}

/// What a process served over the window; `None` if it served nobody.
pub(super) fn served(context: &Context<'_>, pid: u32) -> Option<Timeline> {
    let flows = context.window.network.flows.iter();
    let mut flows = flows
        .filter(|(key, _)| key.direction == Direction::Inbound && key.pid == pid)
        .map(|(_, history)| history)
        .peekable();
    flows.peek()?;
    Some(Timeline::of(context.window, flows))
}

/// Requests that a second, or a sum of them, of an inbound timeline stands for: turns, or connections where turns are
/// not seen.
pub(super) fn requests_in(second: &crate::timeline::Second) -> f64 {
    if second.requests > 0.0 {
        second.requests
    } else {
        second.established.max(second.attempts)
    }
}

/// `name (pid)`.
pub(super) fn named(context: &Context<'_>, pid: u32) -> String {
    format!("{} ({pid})", context.comm(pid))
}

/// An address, with the name that this host has for it.
pub(super) fn address_in_words(context: &Context<'_>, address: SocketAddr) -> String {
    let named = context
        .host
        .names
        .iter()
        .find(|name| name.address == address.ip());
    match named {
        Some(name) => format!("{address} ({})", name.name),
        None => address.to_string(),
    }
}

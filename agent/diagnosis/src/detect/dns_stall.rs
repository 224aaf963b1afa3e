//! # What
//! A name look-up gets no answer, and its thread waits for it.
//!
//! # Signal
//! Threads that wait, in a call or a poll of nothing else, on a socket connected to port 53 on which nothing has come.
//!
//! # Healthy twin
//! A name that does not exist: that is an answer, and comes at once. A server that keeps connections to its upstreams:
//! it polls other things as well, or nothing was asked on them.
//!
//! # Thresholds
//! `dns_wait` (1 s).
//!
//! # Source
//! resolv.conf(5), timeout and attempts; glibc resolv/res_send.c: one connected socket for each server, polled until the
//! timeout. Resolvers that never connect their sockets (musl) do not show where they sent the question.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Context, Detector, Draft, Party, count, peer};
use crate::finding::{Evidence, Role};
use crate::mode::Mode;
use crate::observation::{FdObject, InetObservation, Signal, TaskObservation};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::DnsStall,
    needs: &[
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::OffCpuAge,
        Signal::Descriptors,
        Signal::InetSockets,
    ],
    helped_by: &[Signal::TcpFigures],
    needs_window: Some(|settings| settings.network.dns_wait),
    detect,
    blind_spot: None,
};

/// The port of name servers (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    // By whoever is to blame: the name server, if it is on this host, else the process that asks.
    let mut stalls: BTreeMap<(u32, SocketAddr), Vec<(u32, &InetObservation)>> = BTreeMap::new();
    for (tid, wait) in context.graph.waits() {
        let Some(task) = context.index.task(tid) else {
            continue;
        };
        let long = wait
            .since_ns
            .is_some_and(|since| context.age(since) >= context.settings.network.dns_wait);
        if !long {
            continue;
        }
        if let Some(socket) = question(context, task) {
            let subject = server(context, socket).unwrap_or(task.tgid);
            stalls
                .entry((subject, socket.remote))
                .or_default()
                .push((tid, socket));
        }
    }
    stalls
        .iter()
        .filter_map(|((subject, remote), waits)| draft(context, *subject, *remote, waits))
        .collect()
}

/// The socket on which a thread awaits a name server's answer, if it waits for nothing else.
fn question<'a>(context: &Context<'a>, task: &TaskObservation) -> Option<&'a InetObservation> {
    let mut socket = None;
    let awaited = peer::awaited(context, task);
    for fd in awaited {
        let FdObject::Inet(id) = context.index.descriptor(task, fd)?.object else {
            return None;
        };
        let one = context.index.inet(id)?;
        if one.remote.port() != DNS_PORT || one.receive_queue > 0 {
            return None;
        }
        // Over TCP a question has to be under way; an idle connection has none.
        if one.tcp && context.index.awaits_answer(one) != Some(true) {
            return None;
        }
        socket = socket.or(Some(one));
    }
    socket
}

/// The process on this host that serves the address, other than through another host.
fn server(context: &Context<'_>, socket: &InetObservation) -> Option<u32> {
    if socket.tcp {
        let listener = context.index.inet_listener(socket)?;
        return context.index.socket_processes(listener.id).first().copied();
    }
    let serves = |one: &&InetObservation| {
        let address = one.local.ip() == socket.remote.ip()
            || one.local.ip().is_unspecified() && socket.remote.ip().is_loopback();
        !one.tcp
            && one.net_ns == socket.net_ns
            && one.local.port() == DNS_PORT
            && one.remote.port() == 0
            && address
    };
    let mut servers = context.picture.inet_sockets.iter().filter(serves);
    let first = servers.next()?;
    context.index.socket_processes(first.id).first().copied()
}

fn draft(
    context: &Context<'_>,
    subject: u32,
    remote: SocketAddr,
    waits: &[(u32, &InetObservation)],
) -> Option<Draft> {
    let since = |tid: u32| context.graph.wait(tid).and_then(|wait| wait.since_ns);
    let (first, socket) = *waits.iter().min_by_key(|(tid, _)| (since(*tid), *tid))?;
    let waiter = context.index.task(first)?;
    let since_ns = since(first)?;
    let seconds = context.age(since_ns).as_secs_f64();
    let threads = count(waits.len(), "thread");
    let summary = if subject == waiter.tgid {
        format!(
            "{} ({subject}) gets no answer from the name server {remote}: {threads} waiting, for {seconds:.1} s",
            context.comm(subject)
        )
    } else {
        format!(
            "the name server {} ({subject}) at {remote} does not answer {} ({}): {threads} waiting, for {seconds:.1} s",
            context.comm(subject),
            waiter.comm,
            waiter.tgid
        )
    };
    let mut draft = Draft::of_process(Mode::DnsStall, subject, summary);
    draft.since_ns = Some(since_ns);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("name_server", remote.to_string(), "", source),
        Evidence::new("waiting", waits.len(), "threads", source),
        Evidence::new("waited", seconds, "s", source),
    ];
    let tasks = waits.iter().filter_map(|(tid, _)| context.index.task(*tid));
    draft.others = tasks.map(|task| (Role::Waiter, Party::thread(task))).collect();
    draft.chain_from = Some(first);
    draft.flow = Some(((waits.len() == 1).then_some(socket.local), remote));
    Some(draft)
}

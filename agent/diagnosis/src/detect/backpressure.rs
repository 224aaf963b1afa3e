//! # What
//! A bounded queue is full: somebody does not accept connections, or does not read what it is sent.
//!
//! # Signal
//! *Listener*: more connections wait to be accepted than its limit (Recv-Q above Send-Q), in every picture, or while none
//! of its threads has run; or connections were turned away (ListenOverflows) while its queue was seen full. *Connection*:
//! bytes wait to be sent and nothing is in flight, so that only the reader's window holds them back; its acknowledgements
//! keep coming. Or, where the sender is beyond this host, a receive queue stands full and nothing is taken out. Who reads
//! or accepts is the culprit, if that one is on this host; else the end of the connection that is.
//!
//! # Healthy twin
//! Windows that close for a moment; a slow reader that does read; a reader that waits for a person at a terminal; a
//! connection whose peer does not acknowledge (that is `black-hole`).
//!
//! # Thresholds
//! `backpressure` (3 s); `overflow_rate` (1/s) and `overflow_rate_critical` (5/s); `unread_bytes` (64 KiB) where the window
//! cannot be seen.
//!
//! # Source
//! listen(2); tcp(7); net/ipv4/tcp_output.c (tcp_snd_wnd_test, tcp_send_probe0); net/ipv4/tcp_ipv4.c (ListenOverflows).

use std::collections::BTreeMap;

use super::service::{address_in_words, named};
use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::WaitKind;
use crate::index::{TCP_ESTABLISHED, TCP_LISTEN};
use crate::mode::Mode;
use crate::observation::{InetObservation, Signal, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Backpressure,
    needs: &[Signal::Descriptors, Signal::InetSockets],
    helped_by: &[
        Signal::TcpFigures,
        Signal::NetworkCounters,
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::OffCpuAge,
    ],
    needs_window: Some(|settings| settings.backpressure),
    detect,
    blind_spot: None,
};

/// Kernel state number of a connection that was asked for and not answered yet.
const TCP_SYN_SENT: u8 = 2;
/// The peer's acknowledgements count as current if they are no older than this: probes of a closed window are answered at
/// most 120 s apart (TCP_RTO_MAX), and at first much sooner.
const PROBED_MS: u32 = 130_000;
/// Other parties listed.
const LISTED: usize = 32;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let listeners = context
        .picture
        .inet_sockets
        .iter()
        .filter(|socket| socket.tcp && socket.state == TCP_LISTEN)
        .filter_map(|listener| listening(context, listener));
    let mut drafts: Vec<Draft> = listeners.collect();
    // Of a reader with many connections one finding.
    let mut readers: BTreeMap<(u32, bool), Vec<Stuck<'_>>> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        if let Some(stuck) = held_back(context, socket).or_else(|| unread(context, socket)) {
            readers.entry((stuck.pid, stuck.reads)).or_default().push(stuck);
        }
    }
    drafts.extend(readers.into_values().filter_map(|stuck| reader(context, &stuck)));
    drafts
}

/// Since when nobody can have accepted: since the last thread of the holders left the CPU.
fn unmoved_since(context: &Context<'_>, holders: &[u32]) -> Option<u64> {
    let tasks = holders.iter().flat_map(|pid| context.index.threads(*pid));
    let living = tasks.filter(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead));
    let sinces = living.map(|task| context.graph.wait(task.tid).and_then(|wait| wait.since_ns));
    sinces.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

fn listening(context: &Context<'_>, listener: &InetObservation) -> Option<Draft> {
    let settings = context.settings;
    let (queued, limit) = (listener.receive_queue, listener.send_queue);
    let history = &context.window.network;
    let holders = context.index.socket_processes(listener.id);
    let subject = *holders.first()?;
    // Those who knock and get no answer.
    let knocking: Vec<&InetObservation> = context
        .picture
        .inet_sockets
        .iter()
        .filter(|socket| socket.tcp && socket.state == TCP_SYN_SENT)
        .filter(|socket| socket.remote.port() == listener.local.port())
        .filter(|socket| {
            let taken_by = context.index.inet_listener(socket);
            taken_by.is_some_and(|one| one.id == listener.id)
        })
        .collect();
    let unanswered_ms = knocking
        .iter()
        .filter_map(|socket| socket.figures?.unanswered_ms)
        .max();
    let first_knock =
        unanswered_ms.map(|ms| context.picture.began_ns.saturating_sub(u64::from(ms) * 1_000_000));
    let full = queued > limit;
    let seen_full = history
        .sockets
        .get(&listener.id)
        .and_then(|socket| socket.unread_since_ns);
    let unmoved = unmoved_since(context, &holders);
    let oldest = [seen_full, unmoved, first_knock].into_iter().flatten().min();
    let full_since = oldest.filter(|since| full && context.age(*since) >= settings.backpressure);
    let was_full = history
        .backlogs
        .get(&listener.id)
        .is_some_and(|seen| seen.iter().any(|(_, queued)| *queued > limit));
    let overflows =
        overflow_rate(context, listener.net_ns).filter(|rate| was_full && *rate >= settings.overflow_rate);
    if full_since.is_none() && overflows.is_none() {
        return None;
    }
    let comm = context.comm(subject);
    let to = listener.local;
    let what = if full_since.is_some() {
        format!("does not accept connections on {to}: {queued} wait and its limit is {limit}")
    } else {
        format!("accepts connections on {to} more slowly than they come: its queue of {limit} overflows")
    };
    let source = context.source();
    let mut evidence = vec![
        Evidence::new("queue", u64::from(queued), "connections", source),
        Evidence::new(
            "bound",
            u64::from(limit),
            "connections (backlog of listen(2))",
            source,
        ),
        Evidence::new(
            "protects",
            format!("{comm} from more connections than it can take"),
            "",
            source,
        ),
    ];
    if let Some(since) = full_since {
        let full = context.age(since).as_secs_f64();
        evidence.push(Evidence::new("full", full, "s", source));
    }
    if let Some(rate) = overflows {
        evidence.push(Evidence::from_file(
            "turned_away",
            rate,
            "connections/s",
            "ListenOverflows",
        ));
    }
    let clients: std::collections::BTreeSet<u32> = knocking
        .iter()
        .flat_map(|socket| context.index.socket_processes(socket.id))
        .collect();
    if !knocking.is_empty() {
        evidence.push(Evidence::new(
            "without_answer",
            knocking.len(),
            "attempts",
            source,
        ));
    }
    let critical = overflows.is_some_and(|rate| rate >= settings.overflow_rate_critical);
    let mut others: Vec<(Role, Party)> = clients
        .into_iter()
        .take(LISTED)
        .map(|pid| (Role::Waiter, Party::process(pid)))
        .collect();
    others.extend(
        holders
            .iter()
            .skip(1)
            .map(|pid| (Role::Listener, Party::process(*pid))),
    );
    let since_ns = if full_since.is_some() {
        since(context, seen_full, unmoved, first_knock)
    } else {
        None
    };
    Some(Draft {
        mode: Mode::Backpressure,
        severity: if critical {
            Severity::Critical
        } else {
            Severity::Warning
        },
        confidence: if full_since.is_some() {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns,
        summary: format!("{comm} ({subject}) {what}"),
        evidence,
        chain_from: chain_from(context, subject),
        flow: None,
        depends_on: Vec::new(),
    })
}

/// When a queue became full: seen to do so, or else when the first one knocked in vain; not known if it was full in the
/// first picture already and nobody knocks.
fn since(
    context: &Context<'_>,
    seen_full: Option<u64>,
    unmoved: Option<u64>,
    first_knock: Option<u64>,
) -> Option<u64> {
    let became_full = seen_full.filter(|since| *since > context.window.began_ns);
    match (became_full, first_knock) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other).or(unmoved),
    }
}

/// The thread whose wait says why nobody accepts or reads: the only one of the process.
fn chain_from(context: &Context<'_>, pid: u32) -> Option<u32> {
    match context.index.threads(pid) {
        [only] => Some(only.tid),
        _ => None,
    }
}

/// Connections a second that were turned away at full queues in a network namespace.
fn overflow_rate(context: &Context<'_>, net_ns: u32) -> Option<f64> {
    let network = &context.window.network;
    let (first, last) = (
        network.first_networks.get(&net_ns)?,
        network.networks.get(&net_ns)?,
    );
    let seconds = last.at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
    let long = seconds >= context.settings.backpressure.as_secs_f64() - 0.5;
    let more = last.listen_overflows.saturating_sub(first.listen_overflows);
    long.then(|| more as f64 / seconds)
}

/// A connection that does not move because somebody does not read.
struct Stuck<'a> {
    /// Who reads if it is on this host, otherwise who sends.
    pid: u32,
    /// Whether `pid` is the one that does not read.
    reads: bool,
    /// The end that was looked at.
    socket: &'a InetObservation,
    /// The other end, if it is on this host.
    peer: Option<&'a InetObservation>,
    /// Who waits, if on this host.
    sender: Option<u32>,
    since_ns: u64,
    bytes: u32,
    /// Whether the closed window was seen, and not concluded.
    proven: bool,
}

/// A sender's end that only the reader's window can hold back: nothing in flight, and bytes wait to be sent.
fn held_back<'a>(context: &Context<'a>, socket: &'a InetObservation) -> Option<Stuck<'a>> {
    let figures = socket.figures?;
    if !socket.tcp || socket.state != TCP_ESTABLISHED || socket.send_queue == 0 {
        return None;
    }
    let index = context.index;
    let peer = index.inet_peer(socket).and_then(|peer| index.inet(peer));
    let stands = peer.is_some_and(|peer| peer.receive_queue > 0);
    let closed = figures.send_window == 0;
    let probed = figures.last_ack_ms <= PROBED_MS;
    // Loopback has segments of 64 KiB, and a window smaller than one of them stops the sender just as well.
    let idle = figures.packets_out == 0 && figures.not_sent > 0;
    if figures.backoff > 0 && !closed || !(closed && probed && (idle || figures.probes > 0) || idle && stands)
    {
        return None;
    }
    let holders = index.socket_processes(socket.id);
    let sender = holders.first().copied();
    let sent = u64::from(figures.last_sent_ms) * 1_000_000;
    let mut since_ns = context.picture.began_ns.saturating_sub(sent);
    // A window that opens a little lets a little through; then the writer's wait, or what the window of pictures saw, may
    // be longer than the time since the last segment.
    let blocked = holders
        .iter()
        .flat_map(|pid| index.threads(*pid))
        .filter_map(|task| {
            let wait = context.graph.wait(task.tid)?;
            (wait.kind == WaitKind::SocketWrite(socket.id)).then_some(wait.since_ns?)
        });
    if let Some(blocked) = blocked.min() {
        since_ns = since_ns.min(blocked);
    }
    if context.age(since_ns) < context.settings.backpressure {
        return None;
    }
    let reader = peer.and_then(|peer| index.socket_processes(peer.id).first().copied());
    Some(Stuck {
        pid: reader.or(sender)?,
        reads: reader.is_some(),
        socket,
        peer,
        sender,
        since_ns,
        bytes: peer.map_or(figures.not_sent, |peer| peer.receive_queue),
        proven: closed || stands,
    })
}

/// A reader's end that stands full while nothing is taken out; the sender is elsewhere.
fn unread<'a>(context: &Context<'a>, socket: &'a InetObservation) -> Option<Stuck<'a>> {
    let index = context.index;
    if !socket.tcp
        || socket.state != TCP_ESTABLISHED
        || socket.receive_queue < context.settings.unread_bytes
        || index.inet_peer(socket).is_some()
    {
        return None;
    }
    let since_ns = context.window.network.sockets.get(&socket.id)?.unread_since_ns?;
    // Somebody who has stopped sending may just have had that much to say.
    let probing = socket
        .figures
        .is_some_and(|figures| figures.last_ack_ms < figures.last_received_ms);
    if context.age(since_ns) < context.settings.backpressure || !probing {
        return None;
    }
    Some(Stuck {
        pid: *index.socket_processes(socket.id).first()?,
        reads: true,
        socket,
        peer: None,
        sender: None,
        since_ns,
        bytes: socket.receive_queue,
        proven: false,
    })
}

fn reader(context: &Context<'_>, stuck: &[Stuck<'_>]) -> Option<Draft> {
    let first = stuck.iter().min_by_key(|one| one.since_ns)?;
    let pid = first.pid;
    if first.reads && context.awaits_person(pid) {
        return None;
    }
    let who = named(context, pid);
    let remote = address_in_words(context, first.socket.remote);
    let more = match stuck.len() {
        1 => String::new(),
        many => format!(", on {}", count(many, "connection")),
    };
    let kib = first.bytes / 1024;
    let (summary, bound, protects) = match (first.reads, first.sender.filter(|sender| *sender != pid)) {
        (true, Some(sender)) => (
            format!(
                "{who} does not read what {} sends it: {kib} KiB wait to be read{more}",
                named(context, sender)
            ),
            "receive buffer of the reader",
            who.clone(),
        ),
        (true, None) => (
            format!("{who} does not read what comes from {remote}: {kib} KiB wait to be read{more}"),
            "receive buffer of the reader",
            who.clone(),
        ),
        (false, _) => (
            format!(
                "{remote} does not read what {who} sends it{more}: its window is closed, and the cause is beyond this host"
            ),
            "receive buffer of the peer",
            remote.clone(),
        ),
    };
    let source = context.source();
    let mut evidence = vec![
        Evidence::new("unread", u64::from(first.bytes), "bytes", source),
        Evidence::new("bound", bound, "", source),
        Evidence::new("protects", format!("the memory of {protects}"), "", source),
        Evidence::new("unmoved", context.age(first.since_ns).as_secs_f64(), "s", source),
        Evidence::new("connections", stuck.len(), "connections", source),
    ];
    if first.sender.is_some()
        && let Some(figures) = first.socket.figures
    {
        evidence.push(Evidence::new(
            "window",
            u64::from(figures.send_window),
            "bytes",
            source,
        ));
        evidence.push(Evidence::new(
            "not_sent",
            u64::from(figures.not_sent),
            "bytes",
            source,
        ));
        evidence.push(Evidence::new(
            "probes",
            u64::from(figures.probes),
            "probes",
            source,
        ));
        let limited = [
            ("limited_by_window", figures.receive_window_limited_us),
            ("limited_by_send_buffer", figures.send_buffer_limited_us),
        ];
        for (signal, us) in limited.into_iter().filter(|(_, us)| *us > 0) {
            evidence.push(Evidence::new(signal, us as f64 / 1e6, "s", source));
        }
    }
    let senders: std::collections::BTreeSet<u32> = stuck.iter().filter_map(|one| one.sender).collect();
    let flow = match first.peer {
        Some(peer) => (Some(peer.local), peer.remote),
        None => (Some(first.socket.local), first.socket.remote),
    };
    Some(Draft {
        mode: Mode::Backpressure,
        severity: Severity::Warning,
        confidence: if first.proven {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(pid),
        others: senders
            .into_iter()
            .filter(|sender| *sender != pid)
            .take(LISTED)
            .map(|sender| (Role::Waiter, Party::process(sender)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(first.since_ns),
        summary,
        evidence,
        chain_from: chain_from(context, pid),
        flow: Some(flow),
        depends_on: Vec::new(),
    })
}

//! # What
//! Connection attempts get no answer: neither a connection nor a refusal.
//!
//! # Signal
//! Sockets in SYN_SENT whose SYN was sent again; attempts that waited for a while and were then given up by the
//! application, as pictures show them; attempts that the kernel gave up (ETIMEDOUT), or the application after the SYN
//! was sent again, or had been dropped at a full accept queue, which is seen if the listener is on this host.
//!
//! # Healthy twin
//! A refusal, which comes at once, or an error that the network reports: at once by a router, or after three seconds if
//! nobody on the wire has the address. An attempt that takes a while and is answered.
//! The slower of two attempts that race each other, which is given up within a few
//! hundred milliseconds (RFC 8305).
//!
//! # Thresholds
//! `syn_retransmits` (2) and `unreachable_after` (3.2 s), or `unanswered_attempts` (2) that waited for `connect_patience` (0.4 s), with
//! none answered; one of them suffices if the application gave up as many.
//!
//! # Source
//! tcp(7) on tcp_syn_retries; listen(2); net/ipv4/tcp_input.c: a SYN that finds the accept queue full is dropped, so
//! that from the client's side it looks like a lost one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::{Context, Detector, Draft, count, peer};
use crate::finding::{Confidence, Evidence, Role};
use crate::graph::WaitKind;
use crate::index::TCP_SYN_SENT;
use crate::mode::Mode;
use crate::observation::{Direction, InetObservation, Signal, SocketId};
use crate::window::{Attempt, Fate};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ConnectTimeout,
    needs: &[Signal::Tasks, Signal::Descriptors, Signal::InetSockets],
    helped_by: &[Signal::TcpFigures, Signal::ConnectEvents],
    needs_window: Some(|settings| settings.network.connect_patience * 2),
    detect,
    blind_spot: None,
};

/// A first sight of an attempt this long after the flow's last known start is not that start's.
const LONGEST_GAP_NS: u64 = 3_000_000_000;

/// What is known of one process's attempts to one destination.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered {
    /// The process.
    pub(super) pid: u32,
    /// The network namespace; 0 if only events tell of it.
    pub(super) net_ns: u32,
    /// Local ends of the attempts under way.
    pub(super) locals: Vec<SocketAddr>,
    /// When the first attempt began.
    pub(super) since_ns: u64,
    sockets: FxHashSet<SocketId>,
    /// Attempts under way whose SYN was sent again often enough.
    stuck: u64,
    /// How often the SYN of one of them was sent again.
    retransmits: u8,
    /// Attempts that waited for long enough and were not answered.
    late: u64,
    /// Those that may yet be told that the destination is unreachable.
    waiting: u64,
    answered: u64,
    /// Ended by an error that the network reported.
    unreachable: u64,
    /// Given up by the kernel.
    timed_out: u64,
    /// Given up by the application.
    aborted: u64,
    syn_retransmits: u64,
    /// The listener is on this host, and its queue is full.
    queue_full: bool,
}

impl Unanswered {
    fn began(&mut self, since_ns: u64) {
        if since_ns != 0 && (self.since_ns == 0 || since_ns < self.since_ns) {
            self.since_ns = since_ns;
        }
    }

    /// Whether these attempts are a finding by themselves.
    fn is_proof(&self, context: &Context<'_>) -> bool {
        let least = context.settings.network.unanswered_attempts;
        self.timed_out > 0
            || self.unreachable == 0 && self.stuck > 0
            || self.unreachable == 0
                && self.answered == 0
                && (self.late >= least
                    || self.aborted >= least
                        && (self.late + self.waiting > 0 || self.syn_retransmits > 0 || self.queue_full))
    }

    fn add(&mut self, other: &Unanswered) {
        self.began(other.since_ns);
        self.locals.extend(&other.locals);
        self.sockets.extend(&other.sockets);
        self.stuck += other.stuck;
        self.retransmits = self.retransmits.max(other.retransmits);
        self.late += other.late;
        self.waiting += other.waiting;
        self.answered += other.answered;
        self.unreachable += other.unreachable;
        self.timed_out += other.timed_out;
        self.aborted += other.aborted;
        self.syn_retransmits += other.syn_retransmits;
        self.queue_full |= other.queue_full;
    }
}

/// The destinations that do not answer, by process.
pub(super) fn unanswered(context: &Context<'_>) -> BTreeMap<(u32, SocketAddr), Unanswered> {
    let settings = &context.settings.network;
    let mut all: BTreeMap<(u32, SocketAddr), Unanswered> = BTreeMap::new();
    for attempt in &context.window.network.attempts {
        let entry = all.entry((attempt.pid, attempt.remote)).or_default();
        entry.net_ns = attempt.net_ns;
        let since_ns = began_ns(context, attempt);
        let waited_ns = attempt.seen_ns.saturating_sub(since_ns);
        let waited = Duration::from_nanos(waited_ns);
        if attempt.fate == Fate::Answered {
            entry.answered += 1;
        } else if waited >= settings.connect_patience {
            // One under way may yet end with an error that the network reports.
            if attempt.fate == Fate::Gone || waited >= settings.unreachable_after {
                entry.late += 1;
            } else {
                entry.waiting += 1;
            }
            entry.began(since_ns);
        }
    }
    for socket in &context.picture.inet_sockets {
        if !socket.tcp || socket.state != TCP_SYN_SENT {
            continue;
        }
        for pid in context.index.socket_processes(socket.id).into_iter().take(1) {
            let entry = all.entry((pid, socket.remote)).or_default();
            entry.net_ns = socket.net_ns;
            entry.locals.push(socket.local);
            entry.sockets.insert(socket.id);
            let Some(figures) = socket.figures else { continue };
            entry.retransmits = entry.retransmits.max(figures.retransmits);
            let early = figures
                .unanswered_ms
                .is_some_and(|ms| Duration::from_millis(ms.into()) < settings.unreachable_after);
            if figures.retransmits >= settings.syn_retransmits && !early {
                entry.stuck += 1;
                let waited_ms = u64::from(figures.unanswered_ms.unwrap_or(0));
                let waited_ms = waited_ms.max(backed_off_ms(figures.retransmits));
                let waiting = peer::waiter(context, pid, &entry.sockets);
                let blocked = waiting
                    .and_then(|tid| context.graph.wait(tid))
                    .filter(|wait| matches!(wait.kind, WaitKind::Connect(_) | WaitKind::ConnectOutside(_)));
                entry.began(context.picture.began_ns.saturating_sub(waited_ms * 1_000_000));
                entry.began(blocked.and_then(|wait| wait.since_ns).unwrap_or(0));
            }
        }
    }
    for (key, flow) in &context.window.network.flows {
        let flow = &flow.total;
        if key.direction != Direction::Outbound || flow.attempts + flow.failed() == 0 {
            continue;
        }
        let entry = all.entry((key.pid, key.address)).or_default();
        if entry.net_ns == 0 {
            entry.net_ns = key.net_ns;
        }
        entry.answered += flow.established + flow.refused;
        entry.unreachable += flow.unreachable;
        entry.timed_out += flow.timed_out;
        entry.aborted += flow.aborted;
        entry.syn_retransmits += flow.syn_retransmits;
        if flow.established == 0 {
            entry.began(flow.first_start_ns);
        }
    }
    for (key, entry) in &mut all {
        entry.pid = key.0;
        // Why there is no answer is known then, however early the application gives up.
        let listener = context.index.listener_for(entry.net_ns, key.1);
        entry.queue_full = listener.is_some_and(|listener| listener.receive_queue > listener.send_queue);
    }
    let one_each = one_attempt_each(context, &all);
    all.retain(|_, entry| entry.is_proof(context));
    all.extend(one_each);
    all
}

/// When an attempt began: as its socket tells, or, since of short ones it does not, as the flow's last start before it
/// was seen.
fn began_ns(context: &Context<'_>, attempt: &Attempt) -> u64 {
    let flows = context.window.network.flows.iter().filter(|(key, _)| {
        key.direction == Direction::Outbound && key.pid == attempt.pid && key.address == attempt.remote
    });
    let starts = flows.flat_map(|(_, history)| &history.total.recent_starts_ns);
    let last = starts.filter(|start| **start <= attempt.since_ns).max();
    let known = |start: &&u64| {
        // A start that fell out of the ring would be taken for the one before; those lie in the past for long.
        attempt.since_ns - **start <= LONGEST_GAP_NS
    };
    last.filter(known).copied().unwrap_or(attempt.since_ns)
}

/// How long it takes at least until a SYN has been sent again so often: a second each (TCP_TIMEOUT_INIT in
/// include/net/tcp.h), and longer from the fifth on, or from the second where net.ipv4.tcp_syn_linear_timeouts is 0.
fn backed_off_ms(retransmits: u8) -> u64 {
    u64::from(retransmits) * 1000
}

/// Processes that make one attempt each, as a shell's loop over a client does: together they count as one, the latest.
fn one_attempt_each(
    context: &Context<'_>,
    all: &BTreeMap<(u32, SocketAddr), Unanswered>,
) -> Vec<((u32, SocketAddr), Unanswered)> {
    let mut together: BTreeMap<(u32, SocketAddr), Unanswered> = BTreeMap::new();
    for ((pid, remote), entry) in all {
        let sum = together.entry((entry.net_ns, *remote)).or_default();
        sum.add(entry);
        sum.net_ns = entry.net_ns;
        if context.index.lives(*pid) {
            sum.pid = sum.pid.max(*pid);
        }
        // Somebody alone is a finding already.
        if entry.is_proof(context) {
            sum.answered += 1;
        }
    }
    together
        .into_iter()
        .filter(|(_, sum)| sum.pid != 0 && sum.stuck == 0 && sum.timed_out == 0 && sum.is_proof(context))
        .map(|((_, remote), sum)| ((sum.pid, remote), sum))
        .collect()
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    unanswered(context)
        .iter()
        .map(|((pid, remote), entry)| draft(context, *pid, *remote, entry))
        .collect()
}

fn draft(context: &Context<'_>, pid: u32, remote: SocketAddr, entry: &Unanswered) -> Draft {
    let attempts: Vec<&Attempt> = context
        .window
        .network
        .attempts
        .iter()
        .filter(|attempt| attempt.pid == pid && attempt.remote == remote)
        .collect();
    let from = attempts.last().map(|attempt| attempt.local);
    let listener = context.index.listener_for(entry.net_ns, remote);
    let holders = listener.map_or_else(Vec::new, |one| context.index.socket_processes(one.id));
    let (reason, full) = reason(context, listener, &holders);
    let times = entry.stuck.max(entry.late).max(entry.timed_out + entry.aborted);
    let summary = format!(
        "{} ({pid}) gets no answer from {remote} ({}); {reason}",
        peer::comm(context, pid),
        count(times as usize, "attempt")
    );
    let mut draft = Draft::of_process(Mode::ConnectTimeout, pid, summary);
    if entry.timed_out > 0 || entry.stuck > 0 {
        draft.confidence = Confidence::Proven;
    }
    draft.since_ns = Some(entry.since_ns).filter(|since| *since != 0);
    let source = context.source();
    draft
        .evidence
        .push(Evidence::new("destination", remote.to_string(), "", source));
    let facts = [
        ("syn_retransmits", u64::from(entry.retransmits), "of one attempt"),
        ("waited_without_answer", entry.late + entry.waiting, "attempts"),
        ("connect_timed_out", entry.timed_out, "attempts"),
        ("given_up_by_application", entry.aborted, "attempts"),
    ];
    for (signal, value, unit) in facts {
        if value > 0 {
            draft.evidence.push(Evidence::new(signal, value, unit, source));
        }
    }
    if let Some(listener) = listener {
        let queue = format!(
            "{} waiting, limit {}",
            listener.receive_queue, listener.send_queue
        );
        draft
            .evidence
            .push(Evidence::new("accept_queue", queue, "", source));
    }
    peer::add(&mut draft, Role::Listener, &holders);
    if full {
        draft.depends_on = holders;
    }
    draft.chain_from = peer::waiter(context, pid, &entry.sockets);
    let local = match entry.locals.as_slice() {
        [one] => Some(*one),
        [] => from.filter(|_| attempts.len() == 1),
        _ => None,
    };
    draft.flow = Some((local, remote));
    draft
}

/// Whether a listener on this host does not take the attempts because its accept queue is full.
pub(super) fn is_local_queue(context: &Context<'_>, entry: &Unanswered, remote: SocketAddr) -> bool {
    let listener = context.index.listener_for(entry.net_ns, remote);
    reason(context, listener, &[]).1
}

/// Why there is no answer, as far as that can be told, and whether it is the listener's queue.
fn reason(context: &Context<'_>, listener: Option<&InetObservation>, holders: &[u32]) -> (String, bool) {
    let Some(listener) = listener else {
        return (
            "from here a dropped SYN and a full accept queue look the same".into(),
            false,
        );
    };
    let who = match holders.first() {
        Some(pid) => format!("its listener on this host, {} ({pid}),", context.comm(*pid)),
        None => "its listener on this host".into(),
    };
    let limit = listener.send_queue;
    let history = context.window.network.backlogs.get(&listener.id);
    let fullest = history.and_then(|history| history.iter().map(|(_, queue)| *queue).max());
    let fullest = fullest.unwrap_or(0).max(listener.receive_queue);
    if fullest > limit {
        let text = format!("{who} has a full accept queue ({fullest} connections, limit {limit})");
        (text, true)
    } else {
        let text = format!("{who} has room in its accept queue, so that packets are dropped on the way");
        (text, false)
    }
}

//! # What
//! Somebody is blocked sending to, or connecting to, a Unix socket whose owner does not read or accept.
//!
//! # Signal
//! Threads blocked in connect(2) to a listener, or in a send on a connected or datagram socket, with the age of their
//! wait; the listener's or receiver's queue and its bound.
//!
//! # Healthy twin
//! Bursts at start-up; a server that accepts slowly but steadily; an idle pair.
//!
//! # Thresholds
//! `unix_stall` (3 s).
//!
//! # Source
//! unix(7); listen(2) on the backlog; net/unix/af_unix.c (unix_wait_for_peer).

use std::collections::BTreeMap;

use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{WaitKind, chain};
use crate::mode::Mode;
use crate::observation::{Signal, SocketId};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::UnixSocketStall,
    needs: &[
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::Descriptors,
        Signal::UnixSockets,
    ],
    helped_by: &[Signal::OffCpuAge, Signal::FutexWords],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    // Those who wait, by the socket at the other end and by whether they connect or send.
    let mut waiters: BTreeMap<(SocketId, bool), Vec<u32>> = BTreeMap::new();
    for (tid, wait) in context.graph.waits() {
        let target = match wait.kind {
            WaitKind::Connect(listener) if context.index.unix(listener).is_some() => Some((listener, true)),
            WaitKind::SocketWrite(socket) => {
                let socket = context.index.unix(socket);
                socket
                    .and_then(|socket| context.index.unix_receiver(socket))
                    .map(|peer| (peer, false))
            }
            _ => None,
        };
        if let Some(target) = target {
            waiters.entry(target).or_default().push(tid);
        }
    }
    waiters
        .into_iter()
        .filter_map(|((socket, connects), tids)| draft(context, socket, connects, &tids))
        .collect()
}

fn draft(context: &Context<'_>, socket: SocketId, connects: bool, waiters: &[u32]) -> Option<Draft> {
    let sinces: Option<Vec<u64>> = waiters
        .iter()
        .map(|tid| context.graph.wait(*tid).and_then(|wait| wait.since_ns))
        .collect();
    let mut sinces = sinces?;
    sinces.sort_unstable();
    // Every accept or read wakes somebody: as long as the youngest wait has lasted, there was none. Newcomers may join
    // a queue of connectors without one, so there the oldest wait counts.
    let (oldest, youngest) = (*sinces.first()?, *sinces.last()?);
    let since = if connects { oldest } else { youngest };
    if context.age(since) < context.settings.unix_stall {
        return None;
    }
    let holders = context.index.socket_processes(socket);
    let subject = *holders.first()?;
    let mut knot: Vec<u32> = waiters.to_vec();
    knot.extend(context.index.threads(subject).iter().map(|task| task.tid));
    if holders.iter().any(|pid| context.awaits_person(*pid)) || context.in_one_knot(&knot) {
        return None;
    }
    let observed = context.index.unix(socket)?;
    let name = chain::socket_in_words(context.index, socket);
    let comm = context.comm(subject);
    let first = context.index.task(*waiters.first()?)?;
    let who = match waiters {
        [_] => format!("{} ({})", first.comm, first.tgid),
        more => format!("{} and {} more", first.comm, more.len() - 1),
    };
    let summary = if connects {
        format!("{comm} ({subject}) does not accept connections on {name}: {who} blocked in connect")
    } else {
        format!("{comm} ({subject}) does not read from {name}: {who} blocked in send")
    };
    let mut evidence = vec![
        Evidence::new("waiters", waiters.len(), "threads", context.source()),
        Evidence::new("socket", name, "", context.source()),
    ];
    if let Some(queued) = observed.queued {
        let unit = if connects { "connections" } else { "messages" };
        let text = match observed.queue_limit {
            Some(limit) => format!("{queued} {unit}, limit {limit}"),
            None => count(queued as usize, unit.trim_end_matches('s')),
        };
        evidence.push(Evidence::new("queue", text, "", context.source()));
    }
    let mut others: Vec<(Role, Party)> = waiters
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .map(|task| (Role::Waiter, Party::thread(task)))
        .collect();
    let role = if connects { Role::Listener } else { Role::Peer };
    others.extend(holders.iter().skip(1).map(|pid| (role, Party::process(*pid))));
    Some(Draft {
        mode: Mode::UnixSocketStall,
        severity: Severity::Warning,
        confidence: if observed.queued.is_some() {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns: Some(since),
        summary,
        evidence,
        chain_from: Some(first.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

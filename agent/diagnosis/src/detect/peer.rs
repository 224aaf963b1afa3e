//! The other end of connections and destinations: who on this host it is, and which threads wait on it.

use std::net::SocketAddr;

use rustc_hash::FxHashSet;

use super::{Context, Draft, Party};
use crate::finding::Role;
use crate::observation::{Call, FdObject, InetObservation, SocketId, TaskObservation};

/// So many parties or addresses are named one by one.
const NAMED: usize = 3;

/// The processes of this host that hold the other end of a connection; empty if it is elsewhere.
pub(super) fn holders(context: &Context<'_>, socket: &InetObservation) -> Vec<u32> {
    let peer = context.index.inet_peer(socket);
    peer.map_or_else(Vec::new, |peer| context.index.socket_processes(peer))
}

/// The command name of a process, be it gone by now: then as its flows tell it.
pub(super) fn comm(context: &Context<'_>, pid: u32) -> String {
    if context.index.process(pid).is_some() {
        return context.comm(pid);
    }
    let comm = context.window.network.comm(pid);
    comm.map_or_else(|| context.comm(pid), |comm| comm.to_string())
}

/// Names processes of this host in a draft, the subject apart.
pub(super) fn add(draft: &mut Draft, role: Role, processes: &[u32]) {
    for pid in processes.iter().filter(|pid| **pid != draft.subject.pid) {
        let other = (role, Party::process(*pid));
        if !draft.others.contains(&other) {
            draft.others.push(other);
        }
    }
}

/// A thread of a process that waits on one of these sockets, be it in a call or in a poll.
pub(super) fn waiter(context: &Context<'_>, pid: u32, sockets: &FxHashSet<SocketId>) -> Option<u32> {
    let on = |task: &TaskObservation, fd: i32| {
        let row = context.index.descriptor(task, fd);
        row.is_some_and(|row| matches!(row.object, FdObject::Inet(id) if sockets.contains(&id)))
    };
    let waits = |task: &&&TaskObservation| {
        context.graph.wait(task.tid).is_some() && awaited(context, task).into_iter().any(|fd| on(task, fd))
    };
    context.index.threads(pid).iter().find(waits).map(|task| task.tid)
}

/// The descriptors that a thread waits on.
pub(super) fn awaited(context: &Context<'_>, task: &TaskObservation) -> Vec<i32> {
    match task.call.as_ref().map(|call| &call.call) {
        Some(Call::Read { fd } | Call::Write { fd } | Call::Connect { fd, .. }) => vec![*fd],
        // Through the index: the watched descriptors of an event poll are in the descriptor's row.
        Some(Call::Poll { .. } | Call::EpollWait { .. }) => {
            let task = context.index.task(task.tid);
            let polled = task.map_or(&[][..], |task| context.index.polled(task));
            polled.iter().map(|watch| watch.fd).collect()
        }
        _ => Vec::new(),
    }
}

/// "a", "a and b", "a, b, c and 4 more".
pub(super) fn list<T: ToString>(items: &[T]) -> String {
    let named: Vec<String> = items.iter().take(NAMED).map(ToString::to_string).collect();
    match (named.as_slice(), items.len().saturating_sub(NAMED)) {
        ([], _) => String::new(),
        ([one], _) => one.clone(),
        ([most @ .., last], 0) => format!("{} and {last}", most.join(", ")),
        (all, more) => format!("{} and {more} more", all.join(", ")),
    }
}

/// The only address, if there is just one.
pub(super) fn only(mut addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let first = addresses.next()?;
    addresses.all(|other| other == first).then_some(first)
}

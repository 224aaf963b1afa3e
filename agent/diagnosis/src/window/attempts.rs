//! Connection attempts as pictures show them: how long sockets stood in SYN_SENT, and what became of them. Without any
//! hook on connect(2), so that short attempts are missed, and with their age even where nobody was there to see them
//! begin.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::index::{TCP_ESTABLISHED, TCP_SYN_SENT};
use crate::observation::{FdObject, InetObservation, Picture, SocketAddress, SocketId};

/// Attempts that are remembered; the oldest are forgotten first.
const ATTEMPTS: usize = 4096;

/// Whether an attempt got an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is under way.
    UnderWay,
    /// It became a connection.
    Answered,
    /// Its socket is gone, or is used for something else.
    Gone,
}

/// One connection attempt that was seen waiting.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The process.
    pub pid: u32,
    /// Inode number of the network namespace.
    pub net_ns: u32,
    /// The local end.
    pub local: SocketAddress,
    /// The destination.
    pub remote: SocketAddress,
    /// When it began at the latest, `CLOCK_MONOTONIC` ns.
    pub since_ns: u64,
    /// The picture in which it was last seen waiting.
    pub seen_ns: u64,
    /// What became of it.
    pub fate: Fate,
    socket: (SocketId, u64),
}

impl Attempt {
    /// For how long it was seen waiting, ns.
    pub fn waited_ns(&self) -> u64 {
        self.seen_ns.saturating_sub(self.since_ns)
    }
}

/// Follows the attempts of a window through one more picture.
pub(super) fn follow(attempts: &mut Vec<Attempt>, picture: &Picture) {
    let under_way = attempts.iter().any(|attempt| attempt.fate == Fate::UnderWay);
    let waiting = |socket: &&InetObservation| socket.tcp && socket.state == TCP_SYN_SENT;
    let waiting: FxHashMap<(SocketId, u64), &InetObservation> = picture
        .inet_sockets
        .iter()
        .filter(waiting)
        .map(|socket| ((socket.id, socket.inode), socket))
        .collect();
    if !under_way && waiting.is_empty() {
        return;
    }
    let now_ns = picture.began_ns;
    let answered: FxHashSet<(SocketId, u64)> = if under_way {
        let established = |socket: &&InetObservation| socket.tcp && socket.state == TCP_ESTABLISHED;
        let sockets = picture.inet_sockets.iter().filter(established);
        sockets.map(|socket| (socket.id, socket.inode)).collect()
    } else {
        FxHashSet::default()
    };
    let mut known = FxHashSet::default();
    for attempt in attempts.iter_mut().filter(|one| one.fate == Fate::UnderWay) {
        let same =
            |socket: &&InetObservation| socket.local == attempt.local && socket.remote == attempt.remote;
        match waiting.get(&attempt.socket).copied().filter(same) {
            Some(_) => {
                attempt.seen_ns = now_ns;
                known.insert(attempt.socket);
            }
            None if answered.contains(&attempt.socket) => attempt.fate = Fate::Answered,
            None => attempt.fate = Fate::Gone,
        }
    }
    if known.len() == waiting.len() {
        return;
    }
    let wanted: FxHashSet<SocketId> = waiting.keys().map(|(id, _)| *id).collect();
    let holders = holders(picture, &wanted);
    let mut fresh: Vec<Attempt> = waiting
        .iter()
        .filter(|(key, _)| !known.contains(*key))
        .map(|(key, socket)| {
            let unanswered_ms = socket.figures.and_then(|figures| figures.unanswered_ms);
            Attempt {
                pid: holders.get(&socket.id).copied().unwrap_or(0),
                net_ns: socket.net_ns,
                local: socket.local,
                remote: socket.remote,
                since_ns: now_ns.saturating_sub(unanswered_ms.map_or(0, |ms| u64::from(ms) * 1_000_000)),
                seen_ns: now_ns,
                fate: Fate::UnderWay,
                socket: *key,
            }
        })
        .collect();
    fresh.sort_unstable_by_key(|attempt| attempt.socket);
    attempts.append(&mut fresh);
    let excess = attempts.len().saturating_sub(ATTEMPTS);
    attempts.drain(..excess);
}

/// The process that holds each of these sockets; of several the first.
fn holders(picture: &Picture, wanted: &FxHashSet<SocketId>) -> FxHashMap<SocketId, u32> {
    let mut rows: FxHashMap<SocketId, u32> = FxHashMap::default();
    for row in &picture.descriptors {
        if let FdObject::Inet(id) = row.object
            && wanted.contains(&id)
        {
            rows.entry(id).or_insert(row.tid);
        }
    }
    let tids: FxHashSet<u32> = rows.values().copied().collect();
    let processes: FxHashMap<u32, u32> = picture
        .tasks
        .iter()
        .filter(|task| tids.contains(&task.tid))
        .map(|task| (task.tid, task.tgid))
        .collect();
    rows.into_iter()
        .filter_map(|(id, tid)| Some((id, *processes.get(&tid)?)))
        .collect()
}

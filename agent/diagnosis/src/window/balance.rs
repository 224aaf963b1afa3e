//! Bytes sent to and received from each peer over time: what tells whether the balance of traffic has changed.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::observation::{FdObject, Picture, SocketId};

/// The bytes are sampled this often,
const STEP_NS: u64 = 10_000_000_000;
/// so many times at most,
const STEPS: usize = 1440;
/// for at most so many pairs of process and peer.
const PEERS: usize = 4096;

/// Bytes exchanged with one peer in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalanceStep {
    /// End of the step, `CLOCK_MONOTONIC` ns.
    pub to_ns: u64,
    /// Bytes that the peer acknowledged.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Balance {
    /// By process (pid and start time) and peer. A step in which nothing was exchanged is left out.
    pub peers: FxHashMap<(u32, u64, IpAddr), Vec<BalanceStep>>,
    /// When the bytes were sampled, oldest first, `CLOCK_MONOTONIC` ns: where the first step begins, and each one ends.
    pub sampled_ns: Vec<u64>,
    last: FxHashMap<(SocketId, u64), (u64, u64)>,
}

impl Balance {
    pub(super) fn add_picture(&mut self, picture: &Picture) {
        let now_ns = picture.began_ns;
        let sampled = self.sampled_ns.last().copied();
        if sampled.is_some_and(|sampled| now_ns.saturating_sub(sampled) < STEP_NS) {
            return;
        }
        let first = sampled.is_none();
        if self.sampled_ns.len() > STEPS {
            self.sampled_ns.remove(0);
        }
        self.sampled_ns.push(now_ns);
        let mut holders: FxHashMap<SocketId, u32> = FxHashMap::default();
        for row in &picture.descriptors {
            if let FdObject::Inet(id) = row.object {
                holders.entry(id).or_insert(row.tid);
            }
        }
        let processes: FxHashMap<u32, (u32, u64)> = picture
            .tasks
            .iter()
            .filter(|task| task.tid == task.tgid)
            .map(|task| (task.tid, (task.tgid, task.start_ns)))
            .collect();
        let mut last = FxHashMap::default();
        for socket in &picture.inet_sockets {
            let Some(figures) = socket.figures.filter(|_| socket.remote.port() != 0) else {
                continue;
            };
            let key = (socket.id, socket.inode);
            let bytes = (figures.bytes_acked, figures.bytes_received);
            last.insert(key, bytes);
            // A connection that is new since the last step was empty before; at the first step its past is unknown.
            let before = self.last.get(&key).copied();
            let Some(before) = before.or((!first).then_some((0, 0))) else {
                continue;
            };
            let (sent, received) = (bytes.0.saturating_sub(before.0), bytes.1.saturating_sub(before.1));
            if sent + received == 0 {
                continue;
            }
            let Some((pid, start_ns)) = holders.get(&socket.id).and_then(|tid| processes.get(tid)) else {
                continue;
            };
            self.add((*pid, *start_ns, socket.remote.ip()), now_ns, sent, received);
        }
        self.last = last;
    }

    fn add(&mut self, key: (u32, u64, IpAddr), now_ns: u64, sent_bytes: u64, received_bytes: u64) {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&key) {
            return;
        }
        let steps = self.peers.entry(key).or_default();
        match steps.last_mut() {
            Some(step) if step.to_ns == now_ns => {
                step.sent_bytes += sent_bytes;
                step.received_bytes += received_bytes;
            }
            _ => {
                if steps.len() >= STEPS {
                    steps.remove(0);
                }
                steps.push(BalanceStep {
                    to_ns: now_ns,
                    sent_bytes,
                    received_bytes,
                });
            }
        }
    }
}

//! Flows told from successive pictures, where nobody tells of connections as they happen.
//!
//! Scope: a pure state machine over the TCP sockets of pictures. A socket that shows up in SYN_SENT is an attempt, one
//! that shows up connected an attempt that succeeded; turns of requests are told from the byte counters.
//!
//! Degradation policy: all numbers are lower bounds. What begins and ends between two pictures is missed; where that is
//! too much nothing is told ([`Tracking`]). An attempt counts once its SYN was repeated or answered: one that vanishes
//! before may have succeeded. Refusals, resets and unreachable destinations leave no trace; nor is it known whether a
//! connection that has vanished had been given its last answer. Connections whose process is not known are in no flow.

mod tracking;
mod turns;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rung_diagnosis::observation::{
    Comm, Direction, EventsObservation, FdObject, FlowKey, FlowObservation, InetObservation, Picture,
    RECENT_STARTS, SocketId, TcpFigures,
};
use rustc_hash::{FxHashMap, FxHashSet};

use self::tracking::Tracker;
pub(super) use self::tracking::{Opens, Tracking};
use self::turns::Turns;

/// Kernel state numbers (include/net/tcp_states.h).
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LAST_ACK: u8 = 9;
    pub(super) const LISTEN: u8 = 10;
    pub(super) const CLOSING: u8 = 11;
}

/// First timeout of a SYN, and the largest one (TCP_TIMEOUT_INIT and TCP_RTO_MAX, include/net/tcp.h).
const SYN_TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Flows whose first attempt is remembered, beyond those that have connections.
const FLOWS_MAX: usize = 16_384;

/// How long the kernel tries to connect, given net.ipv4.tcp_syn_retries and net.ipv4.tcp_syn_linear_timeouts
/// (tcp_write_timeout, net/ipv4/tcp_timer.c).
pub(super) fn syn_patience(retries: u8, linear_timeouts: u8) -> Duration {
    let mut timeout = SYN_TIMEOUT;
    let mut patience = timeout * (u32::from(linear_timeouts) + 1);
    for _ in 0..retries {
        timeout = (timeout * 2).min(TIMEOUT_MAX);
        patience += timeout;
    }
    patience
}

/// A socket that was there in the last picture.
#[derive(Clone, Copy, Debug)]
struct Followed {
    /// `None` while its process is not known.
    key: Option<FlowKey>,
    comm: Comm,
    local: SocketAddr,
    remote: SocketAddr,
    connecting: bool,
    /// The attempt is in the flow.
    counted: bool,
    /// Something had been exchanged at the last look since the one before.
    busy: bool,
    figures: Option<TcpFigures>,
    seen_ns: u64,
    turns: Turns,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FlowTracker {
    syn_patience: Duration,
    sockets: FxHashMap<SocketId, Followed>,
    first_starts: FxHashMap<FlowKey, u64>,
    last_ns: Option<u64>,
    tracker: Tracker,
}

/// What one picture is asked for.
struct Look<'a> {
    now_ns: u64,
    first: bool,
    listening: FxHashSet<(u32, u16)>,
    holders: FxHashMap<SocketId, u32>,
    picture: &'a Picture,
    flows: FxHashMap<FlowKey, FlowObservation>,
}

impl FlowTracker {
    pub(super) fn new(syn_patience: Duration) -> Self {
        FlowTracker {
            syn_patience,
            sockets: FxHashMap::default(),
            first_starts: FxHashMap::default(),
            last_ns: None,
            tracker: Tracker::default(),
        }
    }

    /// How well it went so far.
    pub(super) fn tracking(&self) -> Tracking {
        self.tracker.tracking()
    }

    /// What happened since the picture before. Of the first one: the attempts that are under way. `opens` is how many
    /// connections the own network namespace has seen so far, if that is known.
    pub(super) fn advance(&mut self, picture: &Picture, opens: Option<Opens>) -> EventsObservation {
        let now_ns = picture.began_ns;
        let mut look = Look {
            now_ns,
            first: self.last_ns.is_none(),
            listening: picture
                .inet_sockets
                .iter()
                .filter(|socket| socket.tcp && socket.state == state::LISTEN)
                .map(|socket| (socket.net_ns, socket.local.port()))
                .collect(),
            holders: holders(picture),
            picture,
            flows: FxHashMap::default(),
        };
        let mut before = std::mem::take(&mut self.sockets);
        let mut closing = FxHashSet::default();
        for socket in picture.inet_sockets.iter().filter(|socket| socket.tcp) {
            if socket.inode == 0 {
                closing.insert((socket.local, socket.remote));
                continue;
            }
            let connecting = socket.state == state::SYN_SENT;
            if !connecting && !is_connected(socket.state) {
                continue;
            }
            let same = |one: &Followed| (one.local, one.remote) == (socket.local, socket.remote);
            let known = before.get(&socket.id).copied().filter(same);
            if known.is_some() {
                before.remove(&socket.id);
            }
            let followed = match known {
                Some(known) => self.go_on(known, socket, &mut look),
                None => self.begin(socket, &mut look),
            };
            self.sockets.insert(socket.id, followed);
        }
        for gone in before.into_values() {
            self.end(&gone, &closing, &mut look);
        }
        if self.first_starts.len() > FLOWS_MAX {
            let alive: FxHashSet<FlowKey> = self.sockets.values().filter_map(|one| one.key).collect();
            self.first_starts
                .retain(|key, _| alive.contains(key) || look.flows.contains_key(key));
        }
        let lost = self.tracker.compare(opens);
        let from_ns = self.last_ns.replace(now_ns).unwrap_or(now_ns);
        let mut flows: Vec<FlowObservation> = look.flows.into_values().collect();
        flows.sort_unstable_by_key(|flow| flow.key);
        let tracking = self.tracking();
        if tracking.too_short {
            flows.clear();
        }
        for flow in &mut flows {
            if tracking.too_short_inbound || tracking.too_busy {
                (flow.requests, flow.responses) = (0, 0);
            }
            flow.first_start_ns = self.first_starts.get(&flow.key).copied().unwrap_or(0);
            flow.recent_starts_ns.sort_unstable();
            let surplus = flow.recent_starts_ns.len().saturating_sub(RECENT_STARTS);
            flow.recent_starts_ns.drain(..surplus);
        }
        EventsObservation {
            from_ns,
            to_ns: now_ns,
            flows,
            flows_lost: lost,
            ..EventsObservation::default()
        }
    }

    /// A socket that was not there before.
    fn begin(&mut self, socket: &InetObservation, look: &mut Look<'_>) -> Followed {
        let connecting = socket.state == state::SYN_SENT;
        let inbound = !connecting && look.listening.contains(&(socket.net_ns, socket.local.port()));
        let key = look.key(socket, inbound);
        let mut followed = Followed {
            key,
            comm: key.map(|key| look.comm(key.pid)).unwrap_or_default(),
            local: socket.local,
            remote: socket.remote,
            connecting,
            counted: false,
            busy: false,
            figures: socket.figures,
            seen_ns: look.now_ns,
            turns: if look.first || key.is_none() {
                Turns::of_old(socket, inbound)
            } else {
                Turns::new()
            },
        };
        if !look.first {
            self.tracker.saw(inbound);
        }
        let Some(key) = key else { return followed };
        if connecting {
            followed.counted = self.attempt(key, followed.comm, socket, look);
        } else if !look.first {
            self.first_starts.entry(key).or_insert(look.now_ns);
            let flow = look.flow(key, followed.comm);
            flow.attempts += 1;
            flow.established += 1;
            flow.retransmits += u64::from(socket.figures.map_or(0, |figures| figures.retransmitted));
            followed.busy = followed.turns.count(socket, flow);
            if followed.busy {
                self.tracker.was_busy(false);
            }
        }
        followed
    }

    /// A socket that was there before.
    fn go_on(&mut self, before: Followed, socket: &InetObservation, look: &mut Look<'_>) -> Followed {
        let connecting = socket.state == state::SYN_SENT;
        let mut now = Followed {
            connecting,
            figures: socket.figures,
            seen_ns: look.now_ns,
            ..before
        };
        if now.key.is_none() {
            let inbound =
                !before.connecting && look.listening.contains(&(socket.net_ns, socket.local.port()));
            now.key = look.key(socket, inbound);
            now.comm = now.key.map(|key| look.comm(key.pid)).unwrap_or_default();
        }
        let Some(key) = now.key else { return now };
        if before.connecting && !before.counted {
            now.counted = self.attempt(key, now.comm, socket, look);
        } else {
            let again = |figures: Option<TcpFigures>| figures.map_or(0, |figures| figures.retransmitted);
            let again = u64::from(again(now.figures).saturating_sub(again(before.figures)));
            let flow = look.flow(key, now.comm);
            flow.retransmits += again;
            flow.syn_retransmits += if before.connecting { again } else { 0 };
        }
        if connecting {
            return now;
        }
        let flow = look.flow(key, now.comm);
        flow.established += u64::from(before.connecting);
        now.busy = now.turns.count(socket, flow);
        if now.busy {
            self.tracker.was_busy(before.busy);
        }
        now
    }

    /// A socket that is no longer there.
    fn end(&self, gone: &Followed, closing: &FxHashSet<(SocketAddr, SocketAddr)>, look: &mut Look<'_>) {
        let Some(key) = gone.key.filter(|_| gone.counted || !gone.connecting) else {
            return;
        };
        let now_ns = look.now_ns;
        let flow = look.flow(key, gone.comm);
        if !gone.connecting {
            flow.closed += 1;
            return;
        }
        if closing.contains(&(gone.local, gone.remote)) {
            flow.established += 1;
            flow.closed += 1;
            return;
        }
        let unanswered_ms = gone.figures.and_then(|figures| figures.unanswered_ms);
        let unseen = Duration::from_nanos(now_ns.saturating_sub(gone.seen_ns));
        let age = Duration::from_millis(unanswered_ms.unwrap_or(0).into()) + unseen;
        // The kernel's timers are late by a few percent at most (timer wheel, kernel/time/timer.c).
        if age >= self.syn_patience.mul_f64(0.98) {
            flow.timed_out += 1;
        } else {
            flow.aborted += 1;
        }
    }

    /// Counts an attempt, if it was answered or has been repeated; returns whether it did.
    fn attempt(&mut self, key: FlowKey, comm: Comm, socket: &InetObservation, look: &mut Look<'_>) -> bool {
        let again = socket.figures.map_or(0, |figures| figures.retransmitted);
        let connecting = socket.state == state::SYN_SENT;
        if again == 0 && connecting {
            return false;
        }
        let age_ms = socket.figures.and_then(|figures| figures.unanswered_ms);
        let age_ns = age_ms
            .filter(|_| connecting)
            .map(|age| u64::from(age) * 1_000_000);
        let start_ns = look.now_ns.saturating_sub(age_ns.unwrap_or(0));
        self.first_starts.entry(key).or_insert(start_ns);
        let flow = look.flow(key, comm);
        flow.attempts += 1;
        flow.retransmits += u64::from(again);
        flow.syn_retransmits += if connecting { again.into() } else { 0 };
        if age_ns.is_some() {
            flow.recent_starts_ns.push(start_ns);
        }
        true
    }
}

impl Look<'_> {
    fn key(&self, socket: &InetObservation, inbound: bool) -> Option<FlowKey> {
        let pid = *self.holders.get(&socket.id)?;
        let port = socket.local.port();
        Some(FlowKey {
            pid,
            direction: if inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            net_ns: socket.net_ns,
            address: if inbound {
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
            } else {
                socket.remote
            },
        })
    }

    fn comm(&self, pid: u32) -> Comm {
        let tasks = &self.picture.tasks;
        let leader = tasks.binary_search_by_key(&pid, |task| task.tid);
        leader.map_or(Comm::default(), |leader| tasks[leader].comm)
    }

    fn flow(&mut self, key: FlowKey, comm: Comm) -> &mut FlowObservation {
        self.flows.entry(key).or_insert_with(|| FlowObservation {
            comm,
            ..FlowObservation::new(key)
        })
    }
}

/// The process that holds each socket; of several the one with the lowest id.
fn holders(picture: &Picture) -> FxHashMap<SocketId, u32> {
    let mut holders = FxHashMap::default();
    for row in &picture.descriptors {
        let FdObject::Inet(id) = row.object else { continue };
        if let Ok(at) = picture.tasks.binary_search_by_key(&row.tid, |task| task.tid) {
            let pid = picture.tasks[at].tgid;
            let holder = holders.entry(id).or_insert(pid);
            *holder = pid.min(*holder);
        }
    }
    holders
}

fn is_connected(number: u8) -> bool {
    use state::{CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK};
    matches!(
        number,
        ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK | CLOSING
    )
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;

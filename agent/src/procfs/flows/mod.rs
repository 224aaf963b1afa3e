//! Flows told from successive pictures, where nobody tells of connections as they happen.
//!
//! Scope: a pure state machine over the TCP sockets of pictures. A socket that shows up in SYN_SENT is an attempt, one
//! that shows up connected an attempt that succeeded; turns of requests are told from the byte counters.
//!
//! Degradation policy: all numbers are lower bounds. What begins and ends between two pictures is missed; how many
//! connects were, the namespace's count of them tells ([`FlowTracker::missed`]). An attempt that vanishes without having been
//! repeated counts as neither failed nor established, for it may have been either. Refusals, resets and unreachable
//! destinations leave no trace; nor is it known whether a connection that has vanished had been given its last answer.
//! Connections whose process is not known are in no flow.

mod turns;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rung_diagnosis::observation::{
    Comm, Direction, EventsObservation, FdObject, FlowKey, FlowObservation, InetObservation, Picture,
    RECENT_STARTS, SocketId, TcpFigures,
};
use rustc_hash::{FxHashMap, FxHashSet};

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
    /// Connects of the own namespace before the first picture, and since then those that were seen, and those missed.
    opens_before: Option<u64>,
    seen: u64,
    missed: u64,
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
            opens_before: None,
            seen: 0,
            missed: 0,
        }
    }

    /// Connects that were missed, and how many there were in all.
    pub(super) fn missed(&self) -> (u64, u64) {
        (self.missed, self.missed + self.seen)
    }

    /// What happened since the picture before. Of the first one: the attempts that are under way. `opens` is how many
    /// connects the own network namespace has seen so far (ActiveOpens), if that is known.
    pub(super) fn advance(&mut self, picture: &Picture, opens: Option<u64>) -> EventsObservation {
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
        let lost = self.count_missed(opens, look.first);
        let from_ns = self.last_ns.replace(now_ns).unwrap_or(now_ns);
        let mut flows: Vec<FlowObservation> = look.flows.into_values().collect();
        flows.sort_unstable_by_key(|flow| flow.key);
        for flow in &mut flows {
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
            figures: socket.figures,
            seen_ns: look.now_ns,
            turns: if look.first || key.is_none() {
                Turns::of_old(socket, inbound)
            } else {
                Turns::new()
            },
        };
        let Some(key) = key else { return followed };
        if connecting {
            self.attempt(key, followed.comm, socket, look);
        } else if !look.first {
            self.seen += u64::from(!inbound);
            self.first_starts.entry(key).or_insert(look.now_ns);
            let flow = look.flow(key, followed.comm);
            flow.attempts += 1;
            flow.established += 1;
            flow.retransmits += u64::from(socket.figures.map_or(0, |figures| figures.retransmitted));
            followed.turns.count(socket, flow);
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
            if let Some(key) = now.key.filter(|_| before.connecting) {
                self.attempt(key, now.comm, socket, look);
            }
        }
        let Some(key) = now.key else { return now };
        let again = |figures: Option<TcpFigures>| figures.map_or(0, |figures| figures.retransmitted);
        let again = u64::from(again(now.figures).saturating_sub(again(before.figures)));
        let established = before.connecting && !connecting;
        let flow = look.flow(key, now.comm);
        flow.established += u64::from(established);
        flow.retransmits += again;
        if before.connecting {
            flow.syn_retransmits += again;
        }
        if !connecting {
            now.turns.count(socket, flow);
        }
        now
    }

    /// A socket that is no longer there.
    fn end(&self, gone: &Followed, closing: &FxHashSet<(SocketAddr, SocketAddr)>, look: &mut Look<'_>) {
        let Some(key) = gone.key else { return };
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
        let Some(figures) = gone.figures.filter(|figures| figures.retransmitted > 0) else {
            return;
        };
        let unseen = Duration::from_nanos(now_ns.saturating_sub(gone.seen_ns));
        let age = Duration::from_millis(figures.unanswered_ms.unwrap_or(0).into()) + unseen;
        // The kernel's timers are late by a few percent at most (timer wheel, kernel/time/timer.c).
        if age >= self.syn_patience.mul_f64(0.98) {
            flow.timed_out += 1;
        } else {
            flow.aborted += 1;
        }
    }

    fn attempt(&mut self, key: FlowKey, comm: Comm, socket: &InetObservation, look: &mut Look<'_>) {
        let figures = socket.figures.unwrap_or_default();
        let age_ns = figures.unanswered_ms.map(|age| u64::from(age) * 1_000_000);
        let start_ns = look.now_ns.saturating_sub(age_ns.unwrap_or(0));
        self.first_starts.entry(key).or_insert(start_ns);
        self.seen += u64::from(!look.first);
        let flow = look.flow(key, comm);
        flow.attempts += 1;
        flow.retransmits += u64::from(figures.retransmitted);
        flow.syn_retransmits += u64::from(figures.retransmitted);
        if age_ns.is_some() {
            flow.recent_starts_ns.push(start_ns);
        }
    }

    /// Compares with the namespace's own count; returns how many more were missed.
    fn count_missed(&mut self, opens: Option<u64>, first: bool) -> u64 {
        if first {
            self.opens_before = opens;
        }
        let (Some(before), Some(opens)) = (self.opens_before, opens) else {
            return 0;
        };
        let missed = opens.saturating_sub(before).saturating_sub(self.seen);
        let more = missed.saturating_sub(self.missed);
        self.missed += more;
        more
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
mod tests;

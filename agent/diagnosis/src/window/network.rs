//! What a window remembers of the network: flows over time, and since when sockets have been as they are.

use rustc_hash::FxHashMap;

use super::attempts::{self, Attempt};
use super::balance::Balance;
use crate::observation::{
    Comm, EventsObservation, FlowKey, FlowObservation, InetObservation, NetworkObservation, Picture,
    SocketId, TcpFigures,
};

/// Flows over time are kept in steps of this length,
const STEP_NS: u64 = 1_000_000_000;
/// and at most so many of them.
const STEPS: usize = 3600;

/// What happened on a flow in one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStep {
    /// Begin of the step, `CLOCK_MONOTONIC` ns.
    pub from_ns: u64,
    /// End of the step.
    pub to_ns: u64,
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts that became connections.
    pub established: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Connections that ended after they were established, resets received and breaks included.
    pub closed: u64,
    /// Connections that were reset by the peer, or broke.
    pub reset: u64,
    /// Connections that ended while a request had no answer.
    pub unanswered: u64,
    /// Requests begun.
    pub requests: u64,
    /// Answers begun.
    pub responses: u64,
}

/// A flow over the window.
#[derive(Clone, Debug)]
pub struct FlowHistory {
    /// The sums.
    pub total: FlowObservation,
    /// The steps, oldest first. One without any event is there all the same, once the flow was seen.
    pub steps: Vec<FlowStep>,
}

/// A TCP or UDP socket over the window.
#[derive(Clone, Copy, Debug)]
pub struct SocketHistory {
    /// The picture in which it was first seen, `CLOCK_MONOTONIC` ns.
    pub first_ns: u64,
    /// What TCP knew then.
    pub first: Option<TcpFigures>,
    /// Its kernel state.
    pub state: u8,
    /// Since which picture it has been in that state.
    pub state_since_ns: u64,
    /// Since which picture its receive queue has held something of which nothing was taken (of a listener: its queue has
    /// been full).
    pub unread_since_ns: Option<u64>,
    /// Since which picture its send queue has held something of which nothing was acknowledged.
    pub unsent_since_ns: Option<u64>,
    taken: u64,
    acknowledged: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct NetworkHistory {
    /// Flows of which something was heard.
    pub flows: FxHashMap<FlowKey, FlowHistory>,
    /// The sockets of the last picture.
    pub sockets: FxHashMap<SocketId, SocketHistory>,
    /// Each namespace when it was first read,
    pub first_networks: FxHashMap<u32, NetworkObservation>,
    /// and when it was last read.
    pub networks: FxHashMap<u32, NetworkObservation>,
    /// Queue of each listener at each picture, with its time: connections that wait to be accepted.
    pub backlogs: FxHashMap<SocketId, Vec<(u64, u32)>>,
    /// Connection attempts that were seen waiting for an answer, oldest first.
    pub attempts: Vec<Attempt>,
    /// Bytes exchanged with each peer over time.
    pub balance: Balance,
}

impl NetworkHistory {
    /// The command name of a process that had connections in the window, and may be gone.
    pub fn comm(&self, pid: u32) -> Option<Comm> {
        let mut flows = self.flows.iter().filter(|(key, _)| key.pid == pid && pid != 0);
        flows.next().map(|(_, history)| history.total.comm)
    }

    pub(super) fn add_picture(&mut self, picture: &Picture) {
        attempts::follow(&mut self.attempts, picture);
        self.balance.add_picture(picture);
        let mut sockets = FxHashMap::default();
        for socket in &picture.inet_sockets {
            let before = self.sockets.get(&socket.id);
            sockets.insert(socket.id, follow(before, socket, picture.began_ns));
            if is_listener(socket) {
                let backlog = self.backlogs.entry(socket.id).or_default();
                if backlog.len() < STEPS {
                    backlog.push((picture.began_ns, socket.receive_queue));
                }
            }
        }
        self.sockets = sockets;
        for network in &picture.networks {
            self.first_networks
                .entry(network.net_ns)
                .or_insert_with(|| network.clone());
            self.networks.insert(network.net_ns, network.clone());
        }
    }

    pub(super) fn add_events(&mut self, events: &EventsObservation) {
        for flow in &events.flows {
            match self.flows.get_mut(&flow.key) {
                Some(history) => history.total.add(flow),
                None => {
                    let (total, steps) = (flow.clone(), Vec::new());
                    self.flows.insert(flow.key, FlowHistory { total, steps });
                }
            }
        }
        let by_key: FxHashMap<FlowKey, &FlowObservation> =
            events.flows.iter().map(|flow| (flow.key, flow)).collect();
        for (key, history) in &mut self.flows {
            history.step(events, by_key.get(key).copied());
        }
    }
}

impl FlowHistory {
    fn step(&mut self, events: &EventsObservation, flow: Option<&FlowObservation>) {
        let begins = self
            .steps
            .last()
            .is_none_or(|last| last.to_ns.saturating_sub(last.from_ns) >= STEP_NS);
        if begins {
            if self.steps.len() >= STEPS {
                self.steps.remove(0);
            }
            self.steps.push(FlowStep {
                from_ns: events.from_ns,
                ..FlowStep::default()
            });
        }
        let Some(step) = self.steps.last_mut() else { return };
        step.to_ns = events.to_ns;
        if let Some(flow) = flow {
            step.attempts += flow.attempts;
            step.established += flow.established;
            step.failed += flow.failed();
            step.closed += flow.closed;
            step.reset += flow.resets_received + flow.broken;
            step.unanswered += flow.unanswered;
            step.requests += flow.requests;
            step.responses += flow.responses;
        }
    }
}

fn is_listener(socket: &InetObservation) -> bool {
    socket.tcp && socket.state == crate::index::TCP_LISTEN
}

/// A socket's history with one more picture.
fn follow(before: Option<&SocketHistory>, socket: &InetObservation, now_ns: u64) -> SocketHistory {
    let received = socket.figures.map_or(0, |figures| figures.bytes_received);
    let taken = received.saturating_sub(socket.receive_queue.into());
    let acknowledged = socket.figures.map_or(0, |figures| figures.bytes_acked);
    let stuck = |stands: bool, unmoved: bool, since: Option<u64>| match (stands, unmoved, since) {
        (false, ..) => None,
        (true, true, Some(since)) => Some(since),
        (true, ..) => Some(now_ns),
    };
    let unread = if is_listener(socket) {
        socket.receive_queue > socket.send_queue
    } else {
        socket.receive_queue > 0
    };
    let unsent = !is_listener(socket) && socket.send_queue > 0;
    SocketHistory {
        first_ns: before.map_or(now_ns, |before| before.first_ns),
        first: before.map_or(socket.figures, |before| before.first),
        state: socket.state,
        state_since_ns: before
            .filter(|before| before.state == socket.state)
            .map_or(now_ns, |before| before.state_since_ns),
        unread_since_ns: stuck(
            unread,
            before.is_some_and(|before| before.taken == taken),
            before.and_then(|before| before.unread_since_ns),
        ),
        unsent_since_ns: stuck(
            unsent,
            before.is_some_and(|before| before.acknowledged == acknowledged),
            before.and_then(|before| before.unsent_since_ns),
        ),
        taken,
        acknowledged,
    }
}

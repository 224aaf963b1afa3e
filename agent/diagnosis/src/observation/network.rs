//! What probes tell of the network beyond the sockets of a picture: attempts and their fates, turns of requests, and the
//! counters of network namespaces.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Comm;

/// Starts of attempts that a [`FlowObservation`] remembers.
pub const RECENT_STARTS: usize = 16;
/// Classes of connect latency: class n holds those of less than 2^n microseconds, the last one all the others.
pub const LATENCY_CLASSES: usize = 28;

/// Who opens the connections of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// This host's process connects.
    Outbound,
    /// This host's process accepts.
    Inbound,
}

/// A process's connections to one destination, or those it accepts on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The process; of an inbound flow 0 if it has not been seen yet.
    pub pid: u32,
    /// Who connects.
    pub direction: Direction,
    /// Inode number of the network namespace; 0 if unknown.
    pub net_ns: u32,
    /// Outbound: the destination. Inbound: the local address of the last connection, its port that of the listener; one
    /// flow a port, so the address is unspecified.
    pub address: SocketAddr,
}

/// TCP connections of one process to one destination (or of one listener) in a span: how often they were tried, how that
/// went, and what was exchanged. All numbers are of the span alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowObservation {
    /// Whose, and to where.
    pub key: FlowKey,
    /// Command name of the process; empty if unknown.
    pub comm: Comm,
    /// Connection attempts begun (outbound), or connections accepted by the kernel (inbound).
    pub attempts: u64,
    /// Attempts that became connections.
    pub established: u64,
    /// Attempts answered by a reset: ECONNREFUSED.
    pub refused: u64,
    /// Attempts that the kernel gave up: ETIMEDOUT.
    pub timed_out: u64,
    /// Attempts closed by the application before there was an answer.
    pub aborted: u64,
    /// Attempts that an ICMP error ended as unreachable: EHOSTUNREACH, ENETUNREACH. A destination without a route fails in
    /// connect(2) before there is an attempt, and is not counted.
    pub unreachable: u64,
    /// Attempts for which no local port was left: EADDRNOTAVAIL.
    pub no_port: u64,
    /// Attempts that failed otherwise.
    pub failed_otherwise: u64,
    /// Connections that the peer reset.
    pub resets_received: u64,
    /// Resets sent on the flow's connections.
    pub resets_sent: u64,
    /// Connections that the kernel gave up, unacknowledged: ETIMEDOUT after they were established.
    pub broken: u64,
    /// Connections that ended, in whatever way, after they were established.
    pub closed: u64,
    /// Of these, connections that ended while a request had no answer yet.
    pub unanswered: u64,
    /// Segments sent again, those of SYNs included.
    pub retransmits: u64,
    /// SYNs sent again.
    pub syn_retransmits: u64,
    /// Requests begun: outbound, the process turned from receiving (or nothing) to sending; inbound, the reverse.
    pub requests: u64,
    /// Answers begun: the opposite turn.
    pub responses: u64,
    /// Connect latency in classes, see [`LATENCY_CLASSES`].
    pub connect_latency: Vec<u64>,
    /// When the last attempts began, `CLOCK_MONOTONIC` ns, oldest first; at most [`RECENT_STARTS`].
    pub recent_starts_ns: Vec<u64>,
    /// When the first attempt of the flow began, `CLOCK_MONOTONIC` ns, be it in an earlier span; 0 if none was seen.
    pub first_start_ns: u64,
}

impl FlowObservation {
    /// A flow of which nothing is known yet.
    pub fn new(key: FlowKey) -> Self {
        FlowObservation {
            key,
            comm: Comm::default(),
            attempts: 0,
            established: 0,
            refused: 0,
            timed_out: 0,
            aborted: 0,
            unreachable: 0,
            no_port: 0,
            failed_otherwise: 0,
            resets_received: 0,
            resets_sent: 0,
            broken: 0,
            closed: 0,
            unanswered: 0,
            retransmits: 0,
            syn_retransmits: 0,
            requests: 0,
            responses: 0,
            connect_latency: vec![0; LATENCY_CLASSES],
            recent_starts_ns: Vec::new(),
            first_start_ns: 0,
        }
    }

    /// Attempts that did not become connections, for whatever reason.
    pub fn failed(&self) -> u64 {
        self.refused + self.timed_out + self.aborted + self.unreachable + self.no_port + self.failed_otherwise
    }

    /// Adds what was counted in a later span.
    pub fn add(&mut self, later: &FlowObservation) {
        let sums = [
            (&mut self.attempts, later.attempts),
            (&mut self.established, later.established),
            (&mut self.refused, later.refused),
            (&mut self.timed_out, later.timed_out),
            (&mut self.aborted, later.aborted),
            (&mut self.unreachable, later.unreachable),
            (&mut self.no_port, later.no_port),
            (&mut self.failed_otherwise, later.failed_otherwise),
            (&mut self.resets_received, later.resets_received),
            (&mut self.resets_sent, later.resets_sent),
            (&mut self.broken, later.broken),
            (&mut self.closed, later.closed),
            (&mut self.unanswered, later.unanswered),
            (&mut self.retransmits, later.retransmits),
            (&mut self.syn_retransmits, later.syn_retransmits),
            (&mut self.requests, later.requests),
            (&mut self.responses, later.responses),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        for (sum, more) in self.connect_latency.iter_mut().zip(&later.connect_latency) {
            *sum += more;
        }
        if later.comm != Comm::default() {
            self.comm = later.comm;
        }
        self.recent_starts_ns.extend(&later.recent_starts_ns);
        self.recent_starts_ns.sort_unstable();
        self.recent_starts_ns.dedup();
        // Only the last ones follow each other without a gap: of an earlier span some fell out of the ring.
        let surplus = self.recent_starts_ns.len().saturating_sub(RECENT_STARTS);
        self.recent_starts_ns.drain(..surplus);
        if self.first_start_ns == 0 {
            self.first_start_ns = later.first_start_ns;
        }
    }
}

/// Counters and limits of one network namespace. Counters run since the namespace was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkObservation {
    /// Inode number of the namespace.
    pub net_ns: u32,
    /// A process in it, by which it was read.
    pub pid: u32,
    /// When it was read, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Its addresses, where they were read; loopback may be left out.
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
    /// Sockets in TIME_WAIT.
    pub time_wait: u64,
    /// TCP sockets that their process has closed and that have not ended yet: FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK.
    pub orphaned: u64,
    /// net.ipv4.ip_local_port_range: first and last port for connections; (0, 0) if unknown.
    pub local_ports: (u16, u16),
    /// TcpExt ListenOverflows.
    pub listen_overflows: u64,
    /// TcpExt ListenDrops.
    pub listen_drops: u64,
    /// TcpExt TCPTimeouts.
    pub timeouts: u64,
    /// TcpExt TCPSynRetrans.
    pub syn_retransmits: u64,
    /// TcpExt TCPAbortOnTimeout.
    pub aborts_on_timeout: u64,
    /// Tcp ActiveOpens.
    pub active_opens: u64,
    /// Tcp PassiveOpens.
    pub passive_opens: u64,
    /// Tcp AttemptFails.
    pub attempt_fails: u64,
    /// Tcp EstabResets.
    pub established_resets: u64,
    /// Tcp InSegs.
    pub segments_in: u64,
    /// Tcp OutSegs.
    pub segments_out: u64,
    /// Tcp RetransSegs.
    pub segments_retransmitted: u64,
    /// Tcp OutRsts.
    pub resets_sent: u64,
    /// Udp NoPorts.
    pub udp_no_ports: u64,
    /// Udp RcvbufErrors.
    pub udp_receive_errors: u64,
}

/// Sockets without a descriptor, counted by namespace, state and remote end: in TIME_WAIT, orphaned in FIN_WAIT, CLOSING
/// or LAST_ACK, or not accepted yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerlessObservation {
    /// Inode number of the namespace.
    pub net_ns: u32,
    /// Kernel state number (include/net/tcp_states.h).
    pub state: u8,
    /// The remote end; with port 0 all of a client's connections to listeners of the namespace.
    pub remote: SocketAddr,
    /// How many.
    pub count: u64,
}

/// A name that this host already has for an address: from hosts(5); no look-up is made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameObservation {
    /// The address.
    pub address: std::net::IpAddr,
    /// Its first name.
    pub name: String,
}

//! Connections as the TCP programs count them: maps' keys and values.

use crate::COMM_LEN;

/// Starts of attempts that a [`FlowRecord`] keeps; a power of two.
pub const FLOW_STARTS: usize = 16;
/// Classes of connect latency in a [`FlowRecord`]: class n holds those of less than 2^n microseconds.
pub const FLOW_LATENCIES: usize = 28;
/// Buckets of the table of sockets; a power of two.
pub const SOCKET_BUCKETS: u32 = 16_384;
/// Sockets in a bucket: their addresses and the bucket's claims fill a cache line.
pub const SOCKET_WAYS: usize = 7;
/// What the table of sockets can hold: what is open at once, and was opened or used since the programs were attached. A
/// socket may lie in either of two buckets; beyond about half of this number some find both full.
pub const MAX_SOCKETS: u32 = SOCKET_BUCKETS * SOCKET_WAYS as u32;
/// Sockets that were open when the programs were attached, as far as they are told of them.
pub const MAX_TOLD_SOCKETS: u32 = 65_536;
/// Hints where the rows of flows are; a power of two.
pub const ROW_HINTS: u32 = 1024;
/// Rows of the table of flows.
pub const MAX_FLOWS: u32 = 16_384;
/// Entries of the map of listeners.
pub const MAX_LISTENERS: u32 = 16_384;

macro_rules! flow_counts {
    ($( #[doc = $text:literal] $name:ident ; )*) => {
        /// What is counted of a flow: indices of [`FlowRecord::counts`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum FlowCount { $( #[doc = $text] $name, )* }

        impl FlowCount {
            /// Every count, in the order of [`FlowRecord::counts`].
            pub const ALL: &'static [FlowCount] = &[ $( FlowCount::$name, )* ];
        }
    };
}

// What every connection counts comes first: CPUs that share a flow pass its cache lines to and fro.
flow_counts! {
    /// Attempts begun; inbound, connections that the kernel accepted.
    Attempts;
    /// Attempts that became connections.
    Established;
    /// Connections that ended after they were established.
    Closed;
    /// Requests begun.
    Requests;
    /// Answers begun.
    Responses;
    /// Ended by ECONNREFUSED.
    Refused;
    /// Ended by ETIMEDOUT.
    TimedOut;
    /// Closed by the application before there was an answer.
    Aborted;
    /// Ended by EHOSTUNREACH, ENETUNREACH and their like.
    Unreachable;
    /// No local port was left.
    NoPort;
    /// Ended by any other error.
    FailedOtherwise;
    /// Connections that the peer reset.
    ResetsReceived;
    /// Resets sent.
    ResetsSent;
    /// Connections that the kernel gave up.
    Broken;
    /// Connections that ended with a request that had no answer.
    Unanswered;
    /// Segments sent again.
    Retransmits;
    /// SYNs among them.
    SynRetransmits;
}

/// [`FlowKeyRecord::direction`]: this host's process connects.
pub const OUTBOUND: u32 = 1;
/// This host's process accepts.
pub const INBOUND: u32 = 2;

/// A process's connections to one destination, or those it accepts on one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)
)]
#[repr(C)]
pub struct FlowKeyRecord {
    /// The destination, IPv4 mapped into IPv6; of an inbound flow zeros.
    pub address: [u8; 16],
    /// The process, or 0.
    pub tgid: u32,
    /// Network namespace inode.
    pub net_ns: u32,
    /// The destination's port, or the local one of an inbound flow; host order.
    pub port: u32,
    /// [`OUTBOUND`] or [`INBOUND`].
    pub direction: u32,
}

const _: () = assert!(size_of::<FlowKeyRecord>() == 32);

/// The counts of a flow since its entry was made.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct FlowRecord {
    /// Sockets in the table that count here.
    pub sockets: u32,
    /// The process, or 0.
    pub tgid: u32,
    /// By [`FlowCount`].
    pub counts: [u64; FlowCount::ALL.len()],
    /// When the first attempt began, `bpf_ktime_get_ns` (CLOCK_MONOTONIC); 0 if none was seen.
    pub first_start_ns: u64,
    /// When the last attempts began: attempt n is at n modulo [`FLOW_STARTS`].
    pub starts_ns: [u64; FLOW_STARTS],
    /// Connect latency by class.
    pub latency: [u32; FLOW_LATENCIES],
    /// Command name of the process; zeros if the row was begun by none of its own calls.
    pub comm: [u8; COMM_LEN],
    /// The flow that counts here; zeros before there was one.
    pub key: FlowKeyRecord,
    /// Zero.
    pub reserved: u64,
}

const _: () = assert!(size_of::<FlowRecord>() == 7 * 64);

/// What is remembered of an open socket: a cache line.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SocketRecord {
    /// When the attempt began; 0 if that was not seen.
    pub started_ns: u64,
    /// When a process that connected last turned from receiving to sending.
    pub sent_ns: u64,
    /// When the present period of counting its turns began, by the kernel's ticks (`jiffies_64`).
    pub period: u64,
    /// The row of its flow, or [`NO_ROW`].
    pub row: u32,
    /// Network namespace inode,
    pub net_ns: u32,
    /// and local port of a connection that was accepted.
    pub port: u32,
    /// Turns in this period.
    pub period_turns: u32,
    /// Requests that are not in the counts of its flow yet,
    pub requests: u32,
    /// and answers.
    pub responses: u32,
    /// What it last did: 0 nothing yet, or one of [`turn`].
    pub turn: u32,
    /// See [`socket_bits`].
    pub bits: u32,
    /// Zero.
    pub reserved: u64,
}

const _: () = assert!(size_of::<SocketRecord>() == 64);

impl SocketRecord {
    /// Of a socket on which nothing was seen to be exchanged.
    pub const fn new(row: u32, started_ns: u64, bits: u32) -> Self {
        SocketRecord {
            started_ns,
            sent_ns: 0,
            period: 0,
            row,
            net_ns: 0,
            port: 0,
            period_turns: 0,
            requests: 0,
            responses: 0,
            turn: 0,
            bits,
            reserved: 0,
        }
    }
}

/// [`SocketRecord::row`] of a socket of which it is not known yet whose it is.
pub const NO_ROW: u32 = u32::MAX;

/// What the reader tells of a socket that was open before the programs were attached.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct ToldSocket {
    /// Its flow.
    pub flow: FlowKeyRecord,
    /// See [`socket_bits`].
    pub bits: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ToldSocket>() == 40);

/// Values of [`SocketRecord::turn`].
pub mod turn {
    /// The process sent.
    pub const SENT: u32 = 1;
    /// The process received.
    pub const RECEIVED: u32 = 2;
}

/// Bits of [`SocketRecord::bits`].
pub mod socket_bits {
    /// It is a connection: closing it ends one.
    pub const ESTABLISHED: u32 = 1;
    /// Its end has been counted.
    pub const ENDED: u32 = 2;
    /// Some request on it was answered.
    pub const ANSWERED: u32 = 4;
    /// Accepted, and not yet counted, because it is not known by whom.
    pub const UNCOUNTED: u32 = 8;
    /// This host's process accepted it.
    pub const INBOUND: u32 = 16;
}

/// Key of the map of listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct ListenerKeyRecord {
    /// Network namespace inode.
    pub net_ns: u32,
    /// Port, host order.
    pub port: u32,
}

/// What [`ListenerKeyRecord`]s are to the programs.
pub mod listed {
    /// The listeners have not been listed yet.
    pub const NOT_YET: u32 = 0;
    /// They have been, and turns are not seen.
    pub const WITHOUT_TURNS: u32 = 1;
    /// They have been, and turns are seen.
    pub const WITH_TURNS: u32 = 2;
}

/// Indices of the map by which the reader tells the programs how far it is.
pub mod reader_state {
    /// 1 once connections are watched: until then the iterators need not look for them.
    pub const WATCHING: u32 = 0;
    /// See [`crate::listed`].
    pub const LISTED: u32 = 1;
    /// How often rows were taken from their flows.
    pub const EPOCH: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

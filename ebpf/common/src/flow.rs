//! Connections as the TCP programs count them: maps' keys and values.

use crate::COMM_LEN;

/// Starts of attempts that a [`FlowRecord`] keeps; a power of two.
pub const FLOW_STARTS: usize = 16;
/// Classes of connect latency in a [`FlowRecord`]: class n holds those of less than 2^n microseconds.
pub const FLOW_LATENCIES: usize = 28;
/// Entries of the map of sockets: what is open at once, and was opened or used since the programs were attached.
pub const MAX_SOCKETS: u32 = 131_072;
/// Entries of the map of flows.
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

flow_counts! {
    /// Attempts begun; inbound, connections that the kernel accepted.
    Attempts;
    /// Attempts that became connections.
    Established;
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
    /// Connections that ended after they were established.
    Closed;
    /// Of these, with a request that had no answer.
    Unanswered;
    /// Segments sent again.
    Retransmits;
    /// SYNs among them.
    SynRetransmits;
    /// Requests begun.
    Requests;
    /// Answers begun.
    Responses;
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
    /// By [`FlowCount`].
    pub counts: [u64; FlowCount::ALL.len()],
    /// When the first attempt began, `bpf_ktime_get_ns` (CLOCK_MONOTONIC); 0 if none was seen.
    pub first_start_ns: u64,
    /// When the last attempts began: attempt n is at n modulo [`FLOW_STARTS`].
    pub starts_ns: [u64; FLOW_STARTS],
    /// Connect latency by class.
    pub latency: [u32; FLOW_LATENCIES],
    /// Command name of the process; zeros if the entry was made by none of its own calls.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(
    size_of::<FlowRecord>() == 8 * (FlowCount::ALL.len() + 1 + FLOW_STARTS) + 4 * FLOW_LATENCIES + COMM_LEN
);

/// What is remembered of an open socket, by the address of its `struct sock`.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct SocketRecord {
    /// Its flow.
    pub flow: FlowKeyRecord,
    /// When the attempt began; 0 if that was not seen.
    pub started_ns: u64,
    /// When it last turned between sending and receiving.
    pub turned_ns: u64,
    /// When the present period of counting its turns began.
    pub period_ns: u64,
    /// Turns in this period.
    pub period_turns: u32,
    /// Requests that are not in the counts of its flow yet,
    pub requests: u32,
    /// and answers.
    pub responses: u32,
    /// Zero.
    pub reserved: u32,
    /// What it last did: 0 nothing yet, or one of [`turn`].
    pub turn: u32,
    /// See [`socket_bits`].
    pub bits: u32,
}

const _: () = assert!(size_of::<SocketRecord>() == 32 + 24 + 24);

impl SocketRecord {
    /// Of a socket on which nothing was seen to be exchanged.
    pub const fn new(flow: FlowKeyRecord, started_ns: u64, bits: u32) -> Self {
        SocketRecord {
            flow,
            started_ns,
            turned_ns: 0,
            period_ns: 0,
            period_turns: 0,
            requests: 0,
            responses: 0,
            reserved: 0,
            turn: 0,
            bits,
        }
    }
}

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

impl ListenerKeyRecord {
    /// An entry that says that the listeners have been listed. Its value is 1 if turns are seen, else 0.
    pub const LISTED: ListenerKeyRecord = ListenerKeyRecord { net_ns: 0, port: 0 };
}

//! File descriptors that somebody can wait on, and the objects behind them.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Identity of an inode: device and inode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// Device number as in `st_dev` of stat(2), major << 20 | minor.
    pub device: u32,
    /// Inode number.
    pub inode: u64,
}

/// Opaque identity of a socket: the kernel's address of it, or its inode where that is not to be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SocketId(pub u64);

/// One open descriptor of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DescriptorObservation {
    /// The task whose descriptor table this is: the thread group leader, or a thread with a table of its own; 0 for one
    /// that is not in the picture.
    pub tid: u32,
    /// Descriptor number.
    pub fd: i32,
    /// Opaque identity of the open file description, so that copies by dup(2), fork(2) and SCM_RIGHTS count once;
    /// 0 if the source cannot tell.
    pub file: u64,
    /// Open for reading.
    pub readable: bool,
    /// Open for writing.
    pub writable: bool,
    /// O_NONBLOCK.
    pub nonblocking: bool,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
    /// What it refers to.
    pub object: FdObject,
}

/// What a descriptor refers to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FdObject {
    /// A pipe or FIFO.
    Pipe(FileId),
    /// A Unix socket.
    Unix(SocketId),
    /// A TCP or UDP socket.
    Inet(SocketId),
    /// A socket of another family.
    OtherSocket,
    /// An epoll instance with the first descriptors it watches.
    Epoll {
        /// The watched descriptors.
        watched: Vec<Watch>,
        /// There are more, or they could not be read.
        incomplete: bool,
    },
    /// A terminal.
    Terminal,
    /// A regular file on which some lock was taken at some time.
    LockedFile(FileId),
    /// eventfd, timerfd, signalfd, inotify, pidfd, other devices, other files: ended from outside.
    Other,
}

/// A descriptor watched by poll, select or epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The descriptor.
    pub fd: i32,
    /// Waits for data to read (or a connection to accept).
    pub read: bool,
    /// Waits for room to write.
    pub write: bool,
}

/// One pipe or FIFO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipeObservation {
    /// Its inode.
    pub id: FileId,
    /// Fill and ends, where the source can see into the pipe.
    pub fill: Option<PipeFill>,
}

/// The state of a pipe's ring of buffers (`struct pipe_inode_info`, include/linux/pipe_fs_i.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeFill {
    /// Buffers in use.
    pub used: u32,
    /// Buffers there are room for.
    pub capacity: u32,
    /// Open file descriptions of the read end.
    pub readers: u32,
    /// Open file descriptions of the write end.
    pub writers: u32,
    /// Buffers taken out since the pipe was made, modulo 2^32.
    pub drained: u32,
}

impl PipeFill {
    /// No room is left: a blocking writer sleeps.
    pub fn is_full(&self) -> bool {
        self.used >= self.capacity
    }
}

/// Type of a Unix socket (unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixKind {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_SEQPACKET.
    SeqPacket,
}

/// State of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixState {
    /// Listening.
    Listening,
    /// Connected.
    Connected,
    /// Neither.
    Unconnected,
}

/// One Unix socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnixObservation {
    /// Its identity.
    pub id: SocketId,
    /// The socket at the other end, if connected.
    pub peer: Option<SocketId>,
    /// Inode number, as in `socket:[N]`; 0 for a connection not yet accepted.
    pub inode: u64,
    /// Type.
    pub kind: UnixKind,
    /// State.
    pub state: UnixState,
    /// Messages in the receive queue, where known. For a listener: connections not yet accepted.
    pub queued: Option<u32>,
    /// Room for that: `max_ack_backlog` (listener, datagram receiver); `None` where the bound is in bytes.
    pub queue_limit: Option<u32>,
    /// Bytes sent and not yet read by the peer, and the limit on them (SO_SNDBUF), where known.
    pub unread_sent: Option<(u32, u32)>,
    /// SO_RCVTIMEO is set.
    pub read_timeout: bool,
    /// SO_SNDTIMEO is set.
    pub write_timeout: bool,
    /// Bound name: a path, or with a leading NUL an abstract name. Empty if unnamed.
    pub name: Vec<u8>,
    /// Inode number of its network namespace; 0 if unknown.
    pub net_ns: u32,
}

impl UnixObservation {
    /// Whether the next to connect, or to send a datagram, has to wait (unix_recvq_full() in net/unix/af_unix.c); `None`
    /// where the queue or its bound is not known.
    pub fn queue_is_full(&self) -> Option<bool> {
        Some(self.queued? > self.queue_limit?)
    }
}

/// How often a process wrote anything, to whatever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCallsObservation {
    /// Process id.
    pub pid: u32,
    /// Calls of the write(2) family since it was forked, its ended threads included.
    pub calls: u64,
}

/// A local or remote address of a TCP or UDP socket.
pub type SocketAddress = SocketAddr;

/// One TCP or UDP socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InetObservation {
    /// Its identity.
    pub id: SocketId,
    /// Inode number, as in `socket:[N]`.
    pub inode: u64,
    /// Inode number of its network namespace; 0 if unknown.
    pub net_ns: u32,
    /// TCP if true, UDP otherwise.
    pub tcp: bool,
    /// Kernel state number (include/net/tcp_states.h): 1 established, 2 SYN sent, 10 listening, ...
    pub state: u8,
    /// Local address.
    pub local: SocketAddress,
    /// Remote address; unspecified if not connected.
    pub remote: SocketAddress,
    /// SO_RCVTIMEO is set.
    pub read_timeout: bool,
    /// SO_SNDTIMEO is set.
    pub write_timeout: bool,
    /// Bytes received and not yet read; for a listener connections not yet accepted.
    pub receive_queue: u32,
    /// Bytes sent and not yet acknowledged or sent; for a listener the limit of its queue.
    pub send_queue: u32,
    /// What TCP knows of the path and the peer.
    pub figures: Option<TcpFigures>,
    /// What the process last did on the connection; `None` where that was not watched.
    pub turn: Option<Turn>,
}

/// Which way the data of a connection last went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Turn {
    /// The process sent.
    Sent,
    /// The process received.
    Received,
}

/// Fields of `struct tcp_sock` and `struct inet_connection_sock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpFigures {
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: u32,
    /// Lowest round-trip time seen, microseconds; `u32::MAX` if none.
    pub min_rtt_us: u32,
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Exponential back-off steps in force.
    pub backoff: u8,
    /// Consecutive retransmissions of the first unacknowledged segment.
    pub retransmits: u8,
    /// Segments sent.
    pub segments_out: u32,
    /// Segments retransmitted so far.
    pub retransmitted: u32,
    /// Segments in flight.
    pub packets_out: u32,
    /// The peer's receive window, bytes; `u32::MAX` if unknown.
    pub send_window: u32,
    /// When data was last sent, ms ago.
    pub last_sent_ms: u32,
    /// When data was last received, ms ago.
    pub last_received_ms: u32,
    /// When an acknowledgement was last received, ms ago.
    pub last_ack_ms: u32,
    /// Bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes received from the peer.
    pub bytes_received: u64,
    /// Time limited by the peer's window, microseconds.
    pub receive_window_limited_us: u64,
    /// Time limited by the own send buffer, microseconds.
    pub send_buffer_limited_us: u64,
    /// Probes of a closed window, or of keepalive, that are out without an answer (`icsk_probes_out`).
    pub probes: u8,
    /// Bytes written that have not been sent yet.
    pub not_sent: u32,
    /// For how long the oldest unanswered segment has been sent again, ms; of a SYN since the first one; `None` if
    /// nothing is, or where that is not known (`retrans_stamp`).
    pub unanswered_ms: Option<u32>,
}

/// The kind of a file lock, as /proc/locks names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// fcntl(2) record locks, owned by a process.
    Posix,
    /// flock(2), owned by an open file description.
    Flock,
    /// fcntl(2) with F_OFD_*, owned by an open file description.
    Ofd,
    /// Leases and delegations.
    Lease,
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LockKind::Posix => "POSIX lock",
            LockKind::Flock => "flock",
            LockKind::Ofd => "OFD lock",
            LockKind::Lease => "lease",
        })
    }
}

/// A row of /proc/locks (proc_locks(5)): a lock that is held, or a request waiting for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockObservation {
    /// The number that opens the row; a waiter's row carries the number of the lock it waits for.
    pub number: u64,
    /// A request that waits (`->`).
    pub waiting: bool,
    /// Kind of lock.
    pub kind: LockKind,
    /// Exclusive (WRITE) rather than shared (READ).
    pub exclusive: bool,
    /// The process that took or wants it; `None` for OFD locks and for pids of other namespaces.
    pub pid: Option<u32>,
    /// The locked file.
    pub file: FileId,
}

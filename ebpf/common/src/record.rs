//! What the iterators write and the ring carries.

/// Bytes of a command name, the terminating NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;
/// Bytes of a piece of user memory that may follow a [`TaskRecord`].
pub const PIECE_BYTES: usize = 64;
/// Descriptor tables of at most so many slots are written with their task (NR_OPEN_DEFAULT, include/linux/fdtable.h: they
/// are embedded in `files_struct`); larger ones have an iterator of their own.
pub const SMALL_TABLE: u32 = 64;
/// Bytes of a Unix socket's name: `sun_path` of unix(7).
pub const UNIX_NAME_LEN: usize = 108;
/// Steps of the walk through the tree of an epoll instance: a node takes up to three.
pub const EPOLL_STEPS: usize = 48;

/// Bits of [`TaskRecord::bits`].
pub mod task_bits {
    /// The call number and arguments are valid.
    pub const IN_CALL: u32 = 1;
    /// The call is one of the 32-bit interface: its number means something else.
    pub const COMPAT: u32 = 2;
    /// The thread changed while its row was read.
    pub const MOVED: u32 = 4;
    /// The process has a controlling terminal.
    pub const TERMINAL: u32 = 8;
    /// `caught` and `ignored` were read.
    pub const SIGNALS: u32 = 16;
    /// Its descriptors are not among the records that follow: their table is a large one.
    pub const LARGE_TABLE: u32 = 32;
    /// Forked by another than its parent: that one executed fewer programs than the one that forked it.
    pub const ADOPTED: u32 = 64;
}

/// [`TaskRecord::kind`]; other numbers are those of [`FdKind`].
pub const TASK_KIND: u32 = 100;

/// One thread, as the task iterator writes it. Its pieces of user memory follow, [`PIECE_BYTES`] each, and then the
/// records of its descriptors.
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
#[repr(C)]
pub struct TaskRecord {
    /// [`TASK_KIND`].
    pub kind: u32,
    /// Thread id in the reader's PID namespace.
    pub tid: u32,
    /// `start_boottime`, ns.
    pub start_ns: u64,
    /// `se.sum_exec_runtime`, ns.
    pub run_ns: u64,
    /// `sched_info.run_delay`, ns.
    pub run_delay_ns: u64,
    /// `sched_info.last_arrival`, ns of the scheduler's clock: when it last got a CPU.
    pub last_arrival_ns: u64,
    /// `se.exec_start`, ns of the scheduler's clock less time stolen by interrupts: when it was last accounted on a CPU.
    pub exec_start_ns: u64,
    /// `nvcsw`.
    pub voluntary: u64,
    /// `nivcsw`.
    pub involuntary: u64,
    /// Id of its control group in the v2 hierarchy.
    pub cgroup_id: u64,
    /// Address of its `mm_struct`, as an opaque identity.
    pub mm: u64,
    /// System call number.
    pub call: i64,
    /// System call arguments, if there is a call.
    pub args: [u64; 6],
    /// Where the two pieces of memory were read, as far as `user_len` is not 0.
    pub user_address: [u64; 2],
    /// Signals with a handler.
    pub caught: u64,
    /// Ignored signals.
    pub ignored: u64,
    /// Process id, likewise.
    pub tgid: u32,
    /// Real parent's process id.
    pub parent: u32,
    /// Tracer's process id, or 0.
    pub tracer: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Thread id in the innermost namespace.
    pub ns_tid: u32,
    /// Process id in the innermost namespace.
    pub ns_tgid: u32,
    /// Inode of the innermost PID namespace.
    pub pid_ns: u32,
    /// Its depth.
    pub pid_ns_level: u32,
    /// `__state`.
    pub state: u32,
    /// `exit_state`.
    pub exit_state: u32,
    /// `exit_code`.
    pub exit_code: i32,
    /// `flags` (PF_*).
    pub flags: u32,
    /// `signal->nr_threads`.
    pub threads: u32,
    /// See [`task_bits`].
    pub bits: u32,
    /// Valid bytes of the two pieces of memory that follow; a piece of 0 bytes does not follow.
    pub user_len: [u32; 2],
    /// Which of the standard streams lead to /dev/null or /dev/zero: bits 0 to 2.
    pub null_streams: u32,
    /// `comm`, as it lies in memory.
    pub comm: [u64; COMM_LEN / 8],
}

const _: () = assert!(size_of::<TaskRecord>() == 20 * 8 + 20 * 4 + COMM_LEN);

/// What follows an [`FdHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FdKind {
    /// A [`PipeBody`].
    Pipe = 1,
    /// A [`UnixBody`].
    Unix = 2,
    /// An [`InetBody`].
    Inet = 3,
    /// An [`EpollBody`].
    Epoll = 4,
    /// Nothing: a terminal.
    Terminal = 5,
    /// Nothing: a file that has been locked.
    LockedFile = 6,
    /// Nothing: a socket of another family.
    OtherSocket = 7,
}

impl FdKind {
    /// The kind with that number.
    pub const fn from_number(number: u32) -> Option<FdKind> {
        Some(match number {
            1 => FdKind::Pipe,
            2 => FdKind::Unix,
            3 => FdKind::Inet,
            4 => FdKind::Epoll,
            5 => FdKind::Terminal,
            6 => FdKind::LockedFile,
            7 => FdKind::OtherSocket,
            _ => return None,
        })
    }

    /// Bytes of the body that follows.
    pub const fn body_len(self) -> usize {
        match self {
            FdKind::Pipe => size_of::<PipeBody>(),
            FdKind::Unix => size_of::<UnixBody>(),
            FdKind::Inet => size_of::<InetBody>(),
            FdKind::Epoll => size_of::<EpollBody>(),
            FdKind::Terminal | FdKind::LockedFile | FdKind::OtherSocket => 0,
        }
    }
}

/// Bits of [`FdHeader::bits`].
pub mod fd_bits {
    /// FMODE_READ.
    pub const READABLE: u32 = 1;
    /// FMODE_WRITE.
    pub const WRITABLE: u32 = 2;
    /// FD_CLOEXEC.
    pub const CLOSE_ON_EXEC: u32 = 4;
    /// O_NONBLOCK.
    pub const NONBLOCK: u32 = 8;
}

/// One open descriptor, as both iterators write it; a body of [`FdHeader::kind`] follows.
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
#[repr(C)]
pub struct FdHeader {
    /// See [`FdKind`].
    pub kind: u32,
    /// The task whose descriptor table this is.
    pub tid: u32,
    /// The descriptor.
    pub fd: u32,
    /// See [`fd_bits`].
    pub bits: u32,
    /// Address of the `struct file`, as an opaque identity.
    pub file: u64,
    /// Start time of the task, to be compared with its [`TaskRecord`].
    pub start_ns: u64,
    /// Inode number.
    pub inode: u64,
    /// Device, as the kernel keeps it (major << 20 | minor).
    pub device: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FdHeader>() == 48);

/// A pipe's state.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct PipeBody {
    /// Index of the next buffer to fill.
    pub head: u32,
    /// Index of the next buffer to drain.
    pub tail: u32,
    /// Buffers in the ring.
    pub ring_size: u32,
    /// Buffers that may be used.
    pub max_usage: u32,
    /// Open file descriptions of the read end.
    pub readers: u32,
    /// Of the write end.
    pub writers: u32,
}

const _: () = assert!(size_of::<PipeBody>() == 24);

/// A Unix socket's state.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct UnixBody {
    /// Address of the `struct sock`, as an opaque identity.
    pub sock: u64,
    /// The peer's, or 0.
    pub peer: u64,
    /// `skc_state`.
    pub state: u32,
    /// SOCK_*.
    pub kind: u32,
    /// Buffers in the receive queue.
    pub queued: u32,
    /// `sk_ack_backlog`.
    pub backlog: u32,
    /// `sk_max_ack_backlog`.
    pub backlog_max: u32,
    /// Bytes sent and not read by the peer.
    pub write_used: u32,
    /// `sk_sndbuf`.
    pub write_limit: u32,
    /// Network namespace inode.
    pub net_ns: u32,
    /// 1: SO_RCVTIMEO is set; 2: SO_SNDTIMEO is set.
    pub timeouts: u32,
    /// Bytes of `name` in use.
    pub name_len: u32,
    /// The bound name; bytes after `name_len` hold anything.
    pub name: [u8; UNIX_NAME_LEN],
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<UnixBody>() == 16 + 40 + UNIX_NAME_LEN + 4);

/// A TCP or UDP socket's state.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct InetBody {
    /// Address of the `struct sock`, as an opaque identity.
    pub sock: u64,
    /// `bytes_acked`.
    pub bytes_acked: u64,
    /// `bytes_received`.
    pub bytes_received: u64,
    /// `jiffies_64` when the row was written: the clock of the times below.
    pub jiffies: u64,
    /// When an acknowledgement last came, low half of jiffies.
    pub last_ack: u32,
    /// When data was last sent.
    pub last_sent: u32,
    /// When data was last received.
    pub last_received: u32,
    /// 1 if the fields of TCP are valid: round trips, retransmissions, windows, times. Otherwise they hold anything.
    pub figures: u32,
    /// Time limited by the peer's window, jiffies.
    pub window_limited: u32,
    /// Time limited by the send buffer, jiffies.
    pub buffer_limited: u32,
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// IPPROTO_*.
    pub protocol: u32,
    /// `skc_state`.
    pub state: u32,
    /// Network namespace inode.
    pub net_ns: u32,
    /// Local address in network order, as it lies in memory; the first word for IPv4.
    pub local: [u32; 4],
    /// Remote address.
    pub remote: [u32; 4],
    /// Local port, host order.
    pub local_port: u32,
    /// Remote port, host order.
    pub remote_port: u32,
    /// Bytes to read; a listener's waiting connections.
    pub receive_queue: u32,
    /// Bytes not yet acknowledged; a listener's limit.
    pub send_queue: u32,
    /// 1: SO_RCVTIMEO is set; 2: SO_SNDTIMEO is set.
    pub timeouts: u32,
    /// Smoothed round trip, microseconds times 8.
    pub srtt_us8: u32,
    /// Lowest round trip, microseconds.
    pub min_rtt_us: u32,
    /// Retransmission timeout, jiffies.
    pub rto: u32,
    /// `icsk_backoff`.
    pub backoff: u32,
    /// `icsk_retransmits`.
    pub retransmits: u32,
    /// `segs_out`.
    pub segments_out: u32,
    /// `total_retrans`.
    pub retransmitted: u32,
    /// `packets_out`.
    pub packets_out: u32,
    /// `snd_wnd`.
    pub send_window: u32,
    /// Bytes written and not sent yet.
    pub not_sent: u32,
    /// `icsk_probes_out`.
    pub probes: u32,
    /// `retrans_stamp`, by the clock of TCP's timestamps; 0 if nothing has been sent again.
    pub retransmit_stamp: u32,
    /// What the process last did on it, see [`crate::turn`]; 0 where that was not watched.
    pub turn: u32,
}

const _: () = assert!(size_of::<InetBody>() == 32 + 10 * 4 + 32 + 18 * 4);

/// The first descriptors that an epoll instance watches.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct EpollBody {
    /// 1 if there are more.
    pub more: u64,
    /// One word for each step of the walk, see [`EpollBody::pack`]; 0 for a step that met no new descriptor.
    pub steps: [u64; EPOLL_STEPS],
}

impl EpollBody {
    /// A watched descriptor and its event mask (epoll_ctl(2)) in one word that is not 0; EPOLLET is dropped.
    pub const fn pack(fd: u32, events: u32) -> u64 {
        1 << 63 | (events as u64) << 32 | fd as u64
    }

    /// The descriptor and the event mask of a word; `None` for 0.
    pub const fn unpack(word: u64) -> Option<(i32, u32)> {
        if word == 0 {
            None
        } else {
            Some((word as u32 as i32, (word >> 32) as u32 & 0x7fff_ffff))
        }
    }
}

const _: () = assert!(size_of::<EpollBody>() == 8 + 8 * EPOLL_STEPS);

/// A process that exited and left children behind, as the ring carries it.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes))]
#[repr(C)]
pub struct ExitRecord {
    /// When, `bpf_ktime_get_ns` (CLOCK_MONOTONIC).
    pub at_ns: u64,
    /// Process id.
    pub pid: u32,
    /// Wait status.
    pub exit_code: i32,
    /// Session.
    pub sid: u32,
    /// Process group.
    pub pgid: u32,
    /// Its first children, and zeros.
    pub children: [u32; 8],
    /// Command name.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<ExitRecord>() == 8 + 16 + 32 + COMM_LEN);

/// Indices of the per-CPU counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Processes forked.
    Forks = 0,
    /// Programs executed.
    Execs = 1,
    /// Processes exited.
    Exits = 2,
    /// Exit records that found the ring full.
    ExitsLost = 3,
    /// Events of connections that found a map full.
    FlowsLost = 4,
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: u32 = 5;
}

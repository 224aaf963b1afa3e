//! Where the fields of kernel structures are: resolved from the running kernel's BTF at load time, and handed to
//! the programs as one constant global. Rust emits no CO-RE relocations; offsets fixed at compile time would break
//! silently on other kernels.

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Where a field is looked for: a structure, and a dotted path of members in it. Members of anonymous structures
/// and unions count as members of the structure around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Name of the structure.
    pub structure: &'static str,
    /// Dotted member path.
    pub member: &'static str,
    /// The name older kernels used instead, or empty.
    pub formerly: &'static str,
    /// The programs are of no use without it.
    pub required: bool,
}

macro_rules! fields {
    ($( $name:ident $structure:literal $member:literal $(or $formerly:literal)? $(, $required:ident)? ; )*) => {
        /// A field of a kernel structure whose offset the programs use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field { $( #[doc = concat!("`", $structure, ".", $member, "`")] $name, )* }

        impl Field {
            /// Every field, in the order of [`KernelOffsets`].
            pub const ALL: &'static [Field] = &[ $( Field::$name, )* ];

            /// Where to look the field up.
            pub const fn path(self) -> Path {
                match self {
                    $( Field::$name => Path {
                        structure: $structure,
                        member: $member,
                        formerly: concat!($($formerly)?),
                        required: fields!(@required $($required)?),
                    }, )*
                }
            }
        }
    };
    (@required required) => { true };
    (@required) => { false };
}

fields! {
    TaskPid "task_struct" "pid", required;
    TaskTgid "task_struct" "tgid", required;
    TaskRealParent "task_struct" "real_parent", required;
    TaskParent "task_struct" "parent", required;
    TaskGroupLeader "task_struct" "group_leader", required;
    TaskState "task_struct" "__state" or "state", required;
    TaskExitState "task_struct" "exit_state", required;
    TaskExitCode "task_struct" "exit_code", required;
    TaskFlags "task_struct" "flags", required;
    TaskPtrace "task_struct" "ptrace", required;
    TaskComm "task_struct" "comm", required;
    TaskStartBoottime "task_struct" "start_boottime" or "real_start_time", required;
    TaskSumExec "task_struct" "se.sum_exec_runtime", required;
    TaskExecStart "task_struct" "se.exec_start", required;
    TaskRunDelay "task_struct" "sched_info.run_delay";
    TaskLastArrival "task_struct" "sched_info.last_arrival";
    TaskVoluntary "task_struct" "nvcsw", required;
    TaskInvoluntary "task_struct" "nivcsw", required;
    TaskSignal "task_struct" "signal", required;
    TaskSighand "task_struct" "sighand", required;
    TaskMm "task_struct" "mm", required;
    TaskThreadPid "task_struct" "thread_pid", required;
    TaskCgroups "task_struct" "cgroups";
    TaskFiles "task_struct" "files", required;
    TaskSelfExecId "task_struct" "self_exec_id";
    TaskParentExecId "task_struct" "parent_exec_id";
    TaskChildren "task_struct" "children", required;
    TaskSibling "task_struct" "sibling", required;
    SignalThreads "signal_struct" "nr_threads", required;
    SignalLive "signal_struct" "live", required;
    SignalTty "signal_struct" "tty", required;
    SignalPids "signal_struct" "pids", required;
    SighandAction "sighand_struct" "action", required;
    PidLevel "pid" "level", required;
    PidNumbers "pid" "numbers", required;
    UpidNr "upid" "nr", required;
    UpidNs "upid" "ns", required;
    PidNamespaceInum "pid_namespace" "ns.inum", required;
    CssSetDefault "css_set" "dfl_cgrp";
    CgroupNode "cgroup" "kn";
    KernfsId "kernfs_node" "id";
    FilesFdtable "files_struct" "fdt", required;
    FilesArray "files_struct" "fd_array", required;
    FilesOpen "files_struct" "open_fds_init", required;
    FilesCloexec "files_struct" "close_on_exec_init", required;
    FdtableCloexec "fdtable" "close_on_exec", required;
    FdtableSlots "fdtable" "max_fds", required;
    FdtableArray "fdtable" "fd", required;
    FileMode "file" "f_mode", required;
    FileFlags "file" "f_flags", required;
    FileInode "file" "f_inode", required;
    FilePrivate "file" "private_data", required;
    FileDentry "file" "f_path.dentry", required;
    DentryName "dentry" "d_name.name", required;
    InodeMode "inode" "i_mode", required;
    InodeNumber "inode" "i_ino", required;
    InodeSuperblock "inode" "i_sb", required;
    InodeRdev "inode" "i_rdev", required;
    InodeLockContext "inode" "i_flctx";
    InodePipe "inode" "i_pipe", required;
    SuperblockDev "super_block" "s_dev", required;
    SuperblockMagic "super_block" "s_magic", required;
    PipeHead "pipe_inode_info" "head", required;
    PipeTail "pipe_inode_info" "tail", required;
    PipeRingSize "pipe_inode_info" "ring_size", required;
    PipeMaxUsage "pipe_inode_info" "max_usage", required;
    PipeReaders "pipe_inode_info" "readers", required;
    PipeWriters "pipe_inode_info" "writers", required;
    SocketSock "socket" "sk", required;
    SockFamily "sock" "__sk_common.skc_family", required;
    SockState "sock" "__sk_common.skc_state", required;
    SockNet "sock" "__sk_common.skc_net.net", required;
    SockRemote4 "sock" "__sk_common.skc_daddr", required;
    SockLocal4 "sock" "__sk_common.skc_rcv_saddr", required;
    SockRemotePort "sock" "__sk_common.skc_dport", required;
    SockLocalPort "sock" "__sk_common.skc_num", required;
    SockRemote6 "sock" "__sk_common.skc_v6_daddr";
    SockLocal6 "sock" "__sk_common.skc_v6_rcv_saddr";
    SockType "sock" "sk_type", required;
    SockProtocol "sock" "sk_protocol", required;
    SockReceiveQueueLen "sock" "sk_receive_queue.qlen", required;
    SockBacklog "sock" "sk_ack_backlog", required;
    SockBacklogMax "sock" "sk_max_ack_backlog", required;
    SockWriteAlloc "sock" "sk_wmem_alloc.refs.counter", required;
    SockReadAlloc "sock" "sk_backlog.rmem_alloc.counter";
    SockSendBuffer "sock" "sk_sndbuf", required;
    SockReadTimeout "sock" "sk_rcvtimeo", required;
    SockWriteTimeout "sock" "sk_sndtimeo", required;
    NetInum "net" "ns.inum", required;
    UnixPeer "unix_sock" "peer", required;
    UnixAddress "unix_sock" "addr", required;
    UnixAddressLen "unix_address" "len", required;
    UnixAddressName "unix_address" "name", required;
    IcskRetransmits "inet_connection_sock" "icsk_retransmits";
    IcskBackoff "inet_connection_sock" "icsk_backoff";
    IcskRto "inet_connection_sock" "icsk_rto";
    TcpReceiveNext "tcp_sock" "rcv_nxt";
    TcpCopied "tcp_sock" "copied_seq";
    TcpWriteSeq "tcp_sock" "write_seq";
    TcpSendUnacked "tcp_sock" "snd_una";
    TcpSrtt "tcp_sock" "srtt_us";
    TcpMinRtt "tcp_sock" "rtt_min";
    TcpSegmentsOut "tcp_sock" "segs_out";
    TcpTotalRetransmitted "tcp_sock" "total_retrans";
    TcpPacketsOut "tcp_sock" "packets_out";
    TcpSendWindow "tcp_sock" "snd_wnd";
    TcpLastSent "tcp_sock" "lsndtime";
    TcpLastAck "tcp_sock" "rcv_tstamp";
    TcpBytesAcked "tcp_sock" "bytes_acked";
    TcpBytesReceived "tcp_sock" "bytes_received";
    TcpChronoStat "tcp_sock" "chrono_stat";
    TcpSendNext "tcp_sock" "snd_nxt";
    TcpRetransmitStamp "tcp_sock" "retrans_stamp";
    IcskProbesOut "inet_connection_sock" "icsk_probes_out";
    SockError "sock" "sk_err";
    SockShutdown "sock" "sk_shutdown";
    InetSourcePort "inet_sock" "inet_sport";
    IcskLastReceived "inet_connection_sock" "icsk_ack.lrcvtime";
    EventpollRoot "eventpoll" "rbr.rb_root.rb_node";
    EpitemNode "epitem" "rbn";
    EpitemFd "epitem" "ffd.fd";
    EpitemEvents "epitem" "event.events";
    RbParentColor "rb_node" "__rb_parent_color", required;
    RbLeft "rb_node" "rb_left", required;
    RbRight "rb_node" "rb_right", required;
}

/// Offsets in bytes, indexed by [`Field`]; [`ABSENT`] where this kernel has no such field.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct KernelOffsets(pub [u32; Field::ALL.len()]);

impl KernelOffsets {
    /// Nothing resolved yet.
    pub const UNRESOLVED: KernelOffsets = KernelOffsets([ABSENT; Field::ALL.len()]);
}

/// Facts of the machine and of the reader that the programs need: registers, system call numbers, namespace.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(C)]
pub struct Machine {
    /// Offset in `struct pt_regs` of the system call number.
    pub call_number: u32,
    /// Size of that field, 4 or 8.
    pub call_number_size: u32,
    /// Offsets in `struct pt_regs` of the six arguments.
    pub arguments: [u32; 6],
    /// Offset in `struct task_struct` of the word that tells a 32-bit system call, or [`ABSENT`].
    pub compat_word: u32,
    /// The bit in that word.
    pub compat_mask: u32,
    /// System call numbers, -1 where the architecture lacks the call.
    pub futex: i32,
    /// poll(2).
    pub poll: i32,
    /// ppoll(2).
    pub ppoll: i32,
    /// select(2).
    pub select: i32,
    /// pselect6(2).
    pub pselect6: i32,
    /// connect(2).
    pub connect: i32,
    /// clone3(2).
    pub clone3: i32,
    /// epoll_wait(2).
    pub epoll_wait: i32,
    /// epoll_pwait(2).
    pub epoll_pwait: i32,
    /// epoll_pwait2(2).
    pub epoll_pwait2: i32,
    /// Whether the reader lives in a PID namespace below the initial one.
    pub reader_nested: u32,
    /// Bytes of `struct upid`.
    pub upid_size: u32,
    /// Whether the memory of blocked threads is read.
    pub read_memory: u32,
    /// Whether fields are loaded by instructions that the verifier checks by type, instead of by a helper.
    pub direct: u32,
}

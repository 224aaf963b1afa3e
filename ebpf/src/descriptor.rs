//! One record for every descriptor that somebody can wait on.
//!
//! Small tables are visited with their task; the task_file iterator, which costs more for each descriptor, visits the
//! large ones. Each table is visited once: by its thread group leader, or by the thread that has a table of its own.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_seq_write,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{
    ABSENT, EpollBody, FdHeader, FdKind, Field, InetBody, PipeBody, SMALL_TABLE, UNIX_NAME_LEN, UnixBody,
    fd_bits,
};

use crate::flow::{SOCKETS, is_watching};
use crate::kernel::{IterMeta, offset, probe, read, read_at, read_plus, reader_level, upid_at};

/// `struct bpf_iter__task_file`; the context's members are 8-byte aligned.
#[repr(C)]
struct TaskFileContext {
    meta: *const IterMeta,
    task: *mut c_void,
    fd: u32,
    padding: u32,
    file: *mut c_void,
}

/// What follows a header; all bodies are whole words.
#[repr(C)]
union Body {
    pipe: PipeBody,
    unix: UnixBody,
    inet: InetBody,
    epoll: EpollBody,
    /// As much as a length of one byte can name.
    words: [u64; 256],
}

/// The record that is being made.
#[repr(C)]
struct Row {
    header: FdHeader,
    body: Body,
    found: Found,
}

/// What the rest of a record is made from: addresses that typed pointers led to, as plain numbers.
#[repr(C)]
struct Found {
    inode: u64,
    private: u64,
    /// `i_mode & S_IFMT`.
    format: u64,
}

#[map]
static ROW_SCRATCH: PerCpuArray<Row> = PerCpuArray::with_max_entries(1, 0);

const S_IFMT: u16 = 0o170000;
const S_IFIFO: u16 = 0o010000;
const S_IFCHR: u16 = 0o020000;
const S_IFSOCK: u16 = 0o140000;
const O_NONBLOCK: u32 = 0o4000;
/// include/uapi/linux/magic.h.
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u32 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// MAX_SCHEDULE_TIMEOUT: no SO_RCVTIMEO or SO_SNDTIMEO.
const NO_TIMEOUT: i64 = i64::MAX;

/// Whose descriptors are visited, and where their records go.
pub struct Holder {
    pub meta: *const IterMeta,
    /// Its `files_struct`, or 0 if the iterator keeps the file from being closed meanwhile.
    pub files: u64,
    pub tid: u32,
    pub start_ns: u64,
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
fn iter_task_file(context: *mut c_void) -> i32 {
    let context: *const TaskFileContext = context.cast();
    let (meta, task, file, fd) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).file as u64, (*context).fd) };
    if task == 0 || file == 0 {
        return 0;
    }
    let files: u64 = read(task, Field::TaskFiles);
    let table: u64 = read(files, Field::FilesFdtable);
    if read::<u32>(table, Field::FdtableSlots) <= SMALL_TABLE {
        return 0;
    }
    let bitmap: u64 = read(table, Field::FdtableCloexec);
    let closes_on_exec: u64 = read_at(bitmap, (fd / 64) * 8);
    let start_ns = read(task, Field::TaskStartBoottime);
    let holder = Holder { meta, files: 0, tid: thread_id(task), start_ns };
    visit(&holder, file, fd, (closes_on_exec >> (fd % 64)) as u32 & 1);
    0
}

/// Writes a record of a descriptor, if somebody can wait on it. For a small table the verifier walks through here once a
/// slot: so little is done here, and the rest in a function that it checks by itself.
#[inline(always)]
pub fn visit(holder: &Holder, file: u64, fd: u32, closes_on_exec: u32) {
    let inode: u64 = read(file, Field::FileInode);
    let superblock: u64 = read(inode, Field::InodeSuperblock);
    let format = read::<u16>(inode, Field::InodeMode) & S_IFMT;
    if format != S_IFIFO && format != S_IFSOCK && format != S_IFCHR {
        // Most files are regular ones, on which nobody waits but for a lock.
        let locks: u64 = read(inode, Field::InodeLockContext);
        if locks == 0 && read::<u64>(superblock, Field::SuperblockMagic) != ANON_INODE_FS_MAGIC {
            return;
        }
    }
    const _: () = assert!(O_NONBLOCK >> 8 == fd_bits::NONBLOCK && 1 << 2 == fd_bits::CLOSE_ON_EXEC);
    let access = read::<u32>(file, Field::FileMode) & (fd_bits::READABLE | fd_bits::WRITABLE);
    let nonblocking = (read::<u32>(file, Field::FileFlags) & O_NONBLOCK) >> 8;
    let Some(row) = ROW_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    row.header.tid = holder.tid;
    row.header.fd = fd;
    row.header.bits = access | nonblocking | closes_on_exec << 2;
    row.header.file = file;
    row.header.start_ns = holder.start_ns;
    row.header.inode = read(inode, Field::InodeNumber);
    row.header.device = read(superblock, Field::SuperblockDev);
    row.header.reserved = 0;
    row.found.inode = inode;
    row.found.private = read(file, Field::FilePrivate);
    row.found.format = format as u64;
    // Nothing the compiler knows of the length reaches the verifier: bound it where both can see it.
    let words = core::hint::black_box(describe() as u32) & 0xff;
    // Closed meanwhile, and its memory perhaps another file's: what was read may be of neither.
    let closed = holder.files != 0 && read_plus::<u64>(holder.files, Field::FilesArray, fd * 8) != file;
    if words != 0 && !closed {
        unsafe { bpf_seq_write((*holder.meta).seq.cast(), (&raw mut *row).cast(), words * 8) };
    }
}

/// Completes the record in the scratch: how many words of it are to be written, 0 if nobody waits on the file.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn describe() -> u64 {
    let Some(row) = ROW_SCRATCH.get_ptr_mut(0) else { return 0 };
    let row = unsafe { &mut *row };
    let found = &row.found;
    let kind = match found.format as u16 {
        S_IFIFO => {
            row.body.pipe = pipe(probe(found.inode, Field::InodePipe));
            Some(FdKind::Pipe)
        }
        S_IFSOCK => socket(&mut row.body, found.private),
        S_IFCHR => character_device(probe(found.inode, Field::InodeRdev)),
        _ if probe::<u64>(found.inode, Field::InodeLockContext) != 0 => Some(FdKind::LockedFile),
        _ if is_epoll(probe(row.header.file, Field::FileDentry)) => {
            watches(unsafe { &mut row.body.epoll }, found.private);
            Some(FdKind::Epoll)
        }
        _ => None,
    };
    let Some(kind) = kind else { return 0 };
    row.header.kind = kind as u32;
    ((size_of::<FdHeader>() + kind.body_len()) / 8) as u64
}

#[inline(always)]
fn thread_id(task: u64) -> u32 {
    let level = reader_level();
    if level == 0 {
        return read(task, Field::TaskPid);
    }
    probe(upid_at(read(task, Field::TaskThreadPid), level), Field::UpidNr)
}

#[inline(always)]
fn pipe(pipe: u64) -> PipeBody {
    // The fields lie close together: one call brings them all.
    let near: [u8; NEAR_BYTES] = probe(pipe, Field::PipeHead);
    PipeBody {
        head: of_near(&near, pipe, Field::PipeHead),
        tail: of_near(&near, pipe, Field::PipeTail),
        ring_size: of_near(&near, pipe, Field::PipeRingSize),
        max_usage: of_near(&near, pipe, Field::PipeMaxUsage),
        readers: of_near(&near, pipe, Field::PipeReaders),
        writers: of_near(&near, pipe, Field::PipeWriters),
    }
}

/// Bytes of a pipe that are read together, from its head on.
const NEAR_BYTES: usize = 64;

#[inline(always)]
fn of_near(near: &[u8; NEAR_BYTES], pipe: u64, field: Field) -> u32 {
    let at = offset(field).wrapping_sub(offset(Field::PipeHead)) as usize;
    if at <= NEAR_BYTES - size_of::<u32>() {
        unsafe { near.as_ptr().add(at).cast::<u32>().read_unaligned() }
    } else {
        probe(pipe, field)
    }
}

/// Terminals: majors 4 (tty), 5 (console, /dev/tty, ptmx), 136 to 143 (pseudo-terminals)
/// (Documentation/admin-guide/devices.txt). A `dev_t` in the kernel is major << 20 | minor.
#[inline(always)]
fn character_device(device: u32) -> Option<FdKind> {
    matches!(device >> 20, 4 | 5 | 136..=143).then_some(FdKind::Terminal)
}

/// /dev/null and /dev/zero.
#[inline(always)]
pub fn is_null(mode: u16, device: u32) -> bool {
    mode & S_IFMT == S_IFCHR && (device == 1 << 20 | 3 || device == 1 << 20 | 5)
}

#[inline(always)]
fn timeouts(sock: u64) -> u32 {
    let receive: i64 = probe(sock, Field::SockReadTimeout);
    let send: i64 = probe(sock, Field::SockWriteTimeout);
    (receive != NO_TIMEOUT) as u32 | ((send != NO_TIMEOUT) as u32) << 1
}

#[inline(always)]
fn net_namespace(sock: u64) -> u32 {
    probe(probe(sock, Field::SockNet), Field::NetInum)
}

#[inline(always)]
fn socket(body: &mut Body, socket: u64) -> Option<FdKind> {
    let sock: u64 = probe(socket, Field::SocketSock);
    if sock == 0 {
        return None;
    }
    Some(match probe::<u16>(sock, Field::SockFamily) {
        AF_UNIX => {
            unix(unsafe { &mut body.unix }, sock);
            FdKind::Unix
        }
        family @ (AF_INET | AF_INET6) => {
            inet(unsafe { &mut body.inet }, sock, family);
            FdKind::Inet
        }
        _ => FdKind::OtherSocket,
    })
}

#[inline(always)]
fn unix(body: &mut UnixBody, sock: u64) {
    body.sock = sock;
    body.peer = probe(sock, Field::UnixPeer);
    body.state = probe::<u8>(sock, Field::SockState) as u32;
    body.kind = probe::<u16>(sock, Field::SockType) as u32;
    body.queued = probe(sock, Field::SockReceiveQueueLen);
    body.backlog = probe(sock, Field::SockBacklog);
    body.backlog_max = probe(sock, Field::SockBacklogMax);
    // The count begins at 1: the socket's own reference (sk_alloc, net/core/sock.c).
    body.write_used = probe::<u32>(sock, Field::SockWriteAlloc).saturating_sub(1);
    body.write_limit = probe(sock, Field::SockSendBuffer);
    body.net_ns = net_namespace(sock);
    body.timeouts = timeouts(sock);
    body.reserved = 0;
    body.name_len = 0;
    let address: u64 = probe(sock, Field::UnixAddress);
    if address != 0 {
        // sockaddr_un: two bytes of family, then the path.
        let length = probe::<i32>(address, Field::UnixAddressLen).wrapping_sub(2) as u32;
        let length = if length > UNIX_NAME_LEN as u32 { UNIX_NAME_LEN as u32 } else { length };
        let from = address + offset(Field::UnixAddressName) as u64 + 2;
        let failed =
            unsafe { bpf_probe_read_kernel(body.name.as_mut_ptr().cast(), length, from as *const c_void) };
        if failed == 0 {
            body.name_len = length;
        }
    }
}

/// Parts of a socket that are read together, each by one call: its addresses, and most of what TCP knows.
#[repr(C)]
struct NearParts {
    head: [u64; HEAD_BYTES / 8],
    tcp: [u64; TCP_BYTES / 8],
}

#[map]
static NEAR_SCRATCH: PerCpuArray<NearParts> = PerCpuArray::with_max_entries(1, 0);

/// Bytes of a `struct sock_common` up to the end of its addresses,
const HEAD_BYTES: usize = 96;
/// and from `icsk_rto` on to the last of the busy fields of a `struct tcp_sock`. What lies elsewhere on some kernel is read
/// by itself.
const TCP_BYTES: usize = 704;

/// A socket with what was read of it.
#[derive(Clone, Copy)]
struct Near {
    sock: u64,
    parts: *mut NearParts,
}

impl Near {
    #[inline(always)]
    fn of(sock: u64) -> Option<Near> {
        let parts = NEAR_SCRATCH.get_ptr_mut(0)?;
        unsafe {
            let head = &raw mut (*parts).head;
            bpf_probe_read_kernel(head.cast(), HEAD_BYTES as u32, sock as *const c_void);
        }
        Some(Near { sock, parts })
    }

    #[inline(always)]
    fn read_tcp(self) {
        let from = offset(Field::IcskRto);
        if from != ABSENT {
            let from = self.sock.wrapping_add(from as u64) as *const c_void;
            unsafe { bpf_probe_read_kernel((&raw mut (*self.parts).tcp).cast(), TCP_BYTES as u32, from) };
        }
    }

    /// A field of `struct sock_common`.
    #[inline(always)]
    fn head<T: Copy>(self, field: Field) -> T {
        let at = offset(field) as usize;
        if at <= HEAD_BYTES - size_of::<T>() {
            unsafe { (&raw const (*self.parts).head).cast::<u8>().add(at).cast::<T>().read_unaligned() }
        } else {
            probe(self.sock, field)
        }
    }

    /// A field of `struct inet_connection_sock` or `struct tcp_sock`, after [`Near::read_tcp`].
    #[inline(always)]
    fn tcp<T: Copy>(self, field: Field) -> T {
        let (from, at) = (offset(Field::IcskRto), offset(field));
        let at_part = at.wrapping_sub(from) as usize;
        if from != ABSENT && at != ABSENT && at_part <= TCP_BYTES - size_of::<T>() {
            unsafe { (&raw const (*self.parts).tcp).cast::<u8>().add(at_part).cast::<T>().read_unaligned() }
        } else {
            probe(self.sock, field)
        }
    }
}

#[inline(always)]
fn inet(body: &mut InetBody, sock: u64, family: u16) {
    // What is not set here is not looked at: see InetBody.
    body.figures = 0;
    let Some(near) = Near::of(sock) else { return };
    let state: u8 = near.head(Field::SockState);
    let protocol = probe::<u16>(sock, Field::SockProtocol) as u32;
    body.sock = sock;
    body.family = family as u32;
    body.protocol = protocol;
    body.state = state as u32;
    body.net_ns = probe(near.head(Field::SockNet), Field::NetInum);
    body.local_port = near.head::<u16>(Field::SockLocalPort) as u32;
    body.remote_port = u16::from_be(near.head(Field::SockRemotePort)) as u32;
    body.timeouts = timeouts(sock);
    if family == AF_INET {
        let (local, remote): ([u8; 4], [u8; 4]) =
            (near.head(Field::SockLocal4), near.head(Field::SockRemote4));
        body.local[..4].copy_from_slice(&local);
        body.remote[..4].copy_from_slice(&remote);
    } else {
        body.local = near.head(Field::SockLocal6);
        body.remote = near.head(Field::SockRemote6);
    }
    if protocol != IPPROTO_TCP {
        body.receive_queue = probe(sock, Field::SockReadAlloc);
        body.send_queue = probe::<u32>(sock, Field::SockWriteAlloc).saturating_sub(1);
    } else if state == TCP_LISTEN {
        body.receive_queue = probe(sock, Field::SockBacklog);
        body.send_queue = probe(sock, Field::SockBacklogMax);
    } else if state != TCP_CLOSE && state >= TCP_ESTABLISHED {
        tcp(body, near);
    }
}

/// A `struct sock` of TCP is the head of a `struct tcp_sock` (net/ipv4/tcp.c).
#[inline(always)]
fn tcp(body: &mut InetBody, near: Near) {
    near.read_tcp();
    body.figures = 1;
    body.jiffies = unsafe { bpf_jiffies64() };
    body.receive_queue = near.tcp::<u32>(Field::TcpReceiveNext).wrapping_sub(near.tcp(Field::TcpCopied));
    let write_seq: u32 = near.tcp(Field::TcpWriteSeq);
    body.send_queue = write_seq.wrapping_sub(near.tcp(Field::TcpSendUnacked));
    body.not_sent = match offset(Field::TcpSendNext) {
        ABSENT => 0,
        _ => write_seq.wrapping_sub(near.tcp(Field::TcpSendNext)),
    };
    body.probes = near.tcp::<u8>(Field::IcskProbesOut) as u32;
    body.retransmit_stamp = near.tcp(Field::TcpRetransmitStamp);
    body.turn =
        if is_watching() { unsafe { SOCKETS.get(&near.sock) }.map_or(0, |record| record.turn) } else { 0 };
    body.srtt_us8 = near.tcp(Field::TcpSrtt);
    // struct minmax_sample { u32 t; u32 v; }: the value of the first of three.
    body.min_rtt_us = match offset(Field::TcpMinRtt) {
        ABSENT => u32::MAX,
        _ => near.tcp::<[u32; 2]>(Field::TcpMinRtt)[1],
    };
    body.rto = near.tcp(Field::IcskRto);
    body.backoff = near.tcp::<u8>(Field::IcskBackoff) as u32;
    body.retransmits = near.tcp::<u8>(Field::IcskRetransmits) as u32;
    body.segments_out = near.tcp(Field::TcpSegmentsOut);
    body.retransmitted = near.tcp(Field::TcpTotalRetransmitted);
    body.packets_out = near.tcp(Field::TcpPacketsOut);
    body.send_window = near.tcp(Field::TcpSendWindow);
    body.last_sent = near.tcp(Field::TcpLastSent);
    body.last_ack = near.tcp(Field::TcpLastAck);
    body.last_received = near.tcp(Field::IcskLastReceived);
    body.bytes_acked = near.tcp(Field::TcpBytesAcked);
    body.bytes_received = near.tcp(Field::TcpBytesReceived);
    // u32 chrono_stat[3]: busy, window limited, buffer limited, jiffies (include/linux/tcp.h).
    let [_, window_limited, buffer_limited] = near.tcp::<[u32; 3]>(Field::TcpChronoStat);
    body.window_limited = window_limited;
    body.buffer_limited = buffer_limited;
}

/// Epoll instances have no inode of their own, and are told by the name of their dentry.
#[inline(always)]
fn is_epoll(dentry: u64) -> bool {
    let name: u64 = probe(dentry, Field::DentryName);
    let mut start = [0u8; 16];
    let length = unsafe { bpf_probe_read_kernel_str(start.as_mut_ptr().cast(), 16, name as *const c_void) };
    length >= 11 && start[..11] == *b"[eventpoll]"
}

/// Walks the red-black tree of an epoll instance (fs/eventpoll.c) without a stack: down to the left, then right,
/// then up by the parent pointers. Nobody holds the tree still; the walk is bounded, and bad pointers read as zero.
/// Each step has a slot of its own, used or not: so the verifier need not tell apart the ways to reach a step.
#[inline(always)]
fn watches(body: &mut EpollBody, eventpoll: u64) {
    let known = offset(Field::EventpollRoot) != ABSENT
        && offset(Field::EpitemNode) != ABSENT
        && offset(Field::EpitemFd) != ABSENT;
    let mut node: u64 = if known { probe(eventpoll, Field::EventpollRoot) } else { 0 };
    let mut from = 0u64;
    for slot in &mut body.steps {
        *slot = watch_of(node, from);
        let next = next_node(node, from);
        from = node;
        node = next;
    }
    body.more = (node != 0 || !known) as u64;
}

/// The watch that a node stands for, if it is met for the first time: coming down from its parent. A function of its
/// own, so that the verifier checks it once instead of once a step; likewise the next.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn watch_of(node: u64, from: u64) -> u64 {
    if node == 0 || from != probe::<u64>(node, Field::RbParentColor) & !3 {
        return 0;
    }
    let item = node.wrapping_sub(offset(Field::EpitemNode) as u64);
    EpollBody::pack(probe(item, Field::EpitemFd), probe(item, Field::EpitemEvents))
}

/// The node that comes after `node`, reached from `from`; 0 after the last.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn next_node(node: u64, from: u64) -> u64 {
    let parent = probe::<u64>(node, Field::RbParentColor) & !3;
    let left: u64 = probe(node, Field::RbLeft);
    let right: u64 = probe(node, Field::RbRight);
    if from == parent && left != 0 {
        left
    } else if (from == parent || from == left) && right != 0 {
        right
    } else {
        parent
    }
}

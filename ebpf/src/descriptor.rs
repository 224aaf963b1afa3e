//! The task_file iterator: one record for every descriptor that somebody can wait on.
//!
//! It visits each descriptor table once: by its thread group leader, or by the thread that has a table of its own.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel, bpf_probe_read_kernel_str};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{
    ABSENT, EpollBody, FdHeader, FdKind, Field, InetBody, PipeBody, UNIX_NAME_LEN, UnixBody,
    fd_bits,
};

use crate::kernel::{IterMeta, offset, read, read_at, read_via, reader_level, upid_at, write};

/// `struct bpf_iter__task_file`; the context's members are 8-byte aligned.
#[repr(C)]
struct TaskFileContext {
    meta: *const IterMeta,
    task: *mut c_void,
    fd: u32,
    padding: u32,
    file: *mut c_void,
}

#[repr(C)]
struct UnixRow {
    header: FdHeader,
    body: UnixBody,
}

#[repr(C)]
struct InetRow {
    header: FdHeader,
    body: InetBody,
}

#[repr(C)]
struct EpollRow {
    header: FdHeader,
    body: EpollBody,
}

#[repr(C)]
struct PipeRow {
    header: FdHeader,
    body: PipeBody,
}

#[map]
static UNIX_SCRATCH: PerCpuArray<UnixRow> = PerCpuArray::with_max_entries(1, 0);
#[map]
static INET_SCRATCH: PerCpuArray<InetRow> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EPOLL_SCRATCH: PerCpuArray<EpollRow> = PerCpuArray::with_max_entries(1, 0);

const S_IFMT: u16 = 0o170000;
const S_IFIFO: u16 = 0o010000;
const S_IFCHR: u16 = 0o020000;
const S_IFREG: u16 = 0o100000;
const S_IFSOCK: u16 = 0o140000;
const O_NONBLOCK: u32 = 0o4000;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u32 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;
/// MAX_SCHEDULE_TIMEOUT: no SO_RCVTIMEO or SO_SNDTIMEO.
const NO_TIMEOUT: i64 = i64::MAX;

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
fn iter_task_file(context: *mut c_void) -> i32 {
    let context: *const TaskFileContext = context.cast();
    let (meta, task, file, fd) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).file as u64, (*context).fd) };
    if task == 0 || file == 0 {
        return 0;
    }
    let inode: u64 = read(file, Field::FileInode);
    let mode: u16 = read(inode, Field::InodeMode);
    match mode & S_IFMT {
        S_IFIFO => pipe(meta, task, file, fd, inode),
        S_IFSOCK => socket(meta, task, file, fd, inode),
        S_IFCHR => {
            if let Some(kind) = character_device(read(inode, Field::InodeRdev)) {
                write(meta, &header(kind, task, file, fd, inode));
            }
        }
        S_IFREG if has_lock_context(inode) => {
            write(meta, &header(FdKind::LockedFile, task, file, fd, inode));
        }
        _ => anonymous(meta, task, file, fd, inode),
    }
    0
}

#[inline(always)]
fn has_lock_context(inode: u64) -> bool {
    offset(Field::InodeLockContext) != ABSENT && read::<u64>(inode, Field::InodeLockContext) != 0
}

#[inline(always)]
fn header(kind: FdKind, task: u64, file: u64, fd: u32, inode: u64) -> FdHeader {
    let mode: u32 = read(file, Field::FileMode);
    let flags: u32 = read(file, Field::FileFlags);
    let mut bits = mode & (fd_bits::READABLE | fd_bits::WRITABLE);
    if flags & O_NONBLOCK != 0 {
        bits |= fd_bits::NONBLOCK;
    }
    let superblock: u64 = read(inode, Field::InodeSuperblock);
    FdHeader {
        kind: kind as u32,
        tid: thread_id(task),
        fd,
        bits,
        file,
        start_ns: read(task, Field::TaskStartBoottime),
        inode: read(inode, Field::InodeNumber),
        device: read(superblock, Field::SuperblockDev),
        reserved: 0,
    }
}

#[inline(always)]
fn thread_id(task: u64) -> u32 {
    let level = reader_level();
    if level == 0 {
        return read(task, Field::TaskPid);
    }
    read(upid_at(read(task, Field::TaskThreadPid), level), Field::UpidNr)
}

#[inline(always)]
fn closes_on_exec(task: u64, fd: u32) -> u32 {
    let files: u64 = read(task, Field::TaskFiles);
    let table: u64 = read(files, Field::FilesFdtable);
    let bitmap: u64 = read(table, Field::FdtableCloexec);
    let word: u64 = read_at(bitmap, (fd / 64) * 8);
    if word >> (fd % 64) & 1 != 0 { fd_bits::CLOSE_ON_EXEC } else { 0 }
}

#[inline(always)]
fn pipe(meta: *const IterMeta, task: u64, file: u64, fd: u32, inode: u64) {
    let pipe: u64 = read(inode, Field::InodePipe);
    let mut row = PipeRow {
        header: header(FdKind::Pipe, task, file, fd, inode),
        body: PipeBody {
            head: read(pipe, Field::PipeHead),
            tail: read(pipe, Field::PipeTail),
            ring_size: read(pipe, Field::PipeRingSize),
            max_usage: read(pipe, Field::PipeMaxUsage),
            readers: read(pipe, Field::PipeReaders),
            writers: read(pipe, Field::PipeWriters),
        },
    };
    row.header.bits |= closes_on_exec(task, fd);
    write(meta, &row);
}

/// Terminals: majors 4 (tty), 5 (console, /dev/tty, ptmx), 136 to 143 (pseudo-terminals); null and zero: major 1
/// (Documentation/admin-guide/devices.txt). A `dev_t` in the kernel is major << 20 | minor.
#[inline(always)]
fn character_device(device: u32) -> Option<FdKind> {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    match major {
        4 | 5 | 136..=143 => Some(FdKind::Terminal),
        1 if minor == 3 || minor == 5 => Some(FdKind::Null),
        _ => None,
    }
}

#[inline(always)]
fn timeouts(sock: u64) -> u32 {
    let receive: i64 = read(sock, Field::SockReadTimeout);
    let send: i64 = read(sock, Field::SockWriteTimeout);
    (receive != NO_TIMEOUT) as u32 | ((send != NO_TIMEOUT) as u32) << 1
}

#[inline(always)]
fn net_namespace(sock: u64) -> u32 {
    read_via(sock, Field::SockNet, Field::NetInum)
}

#[inline(always)]
fn socket(meta: *const IterMeta, task: u64, file: u64, fd: u32, inode: u64) {
    let socket: u64 = read(file, Field::FilePrivate);
    let sock: u64 = read(socket, Field::SocketSock);
    if sock == 0 {
        return;
    }
    match read::<u16>(sock, Field::SockFamily) {
        AF_UNIX => unix(meta, task, file, fd, inode, sock),
        family @ (AF_INET | AF_INET6) => inet(meta, task, file, fd, inode, sock, family),
        _ => write(meta, &header(FdKind::OtherSocket, task, file, fd, inode)),
    }
}

#[inline(always)]
fn unix(meta: *const IterMeta, task: u64, file: u64, fd: u32, inode: u64, sock: u64) {
    let Some(row) = UNIX_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    row.header = header(FdKind::Unix, task, file, fd, inode);
    let body = &mut row.body;
    body.sock = sock;
    body.peer = read(sock, Field::UnixPeer);
    body.state = read::<u8>(sock, Field::SockState) as u32;
    body.kind = read::<u16>(sock, Field::SockType) as u32;
    body.queued = read(sock, Field::SockReceiveQueueLen);
    body.backlog = read(sock, Field::SockBacklog);
    body.backlog_max = read(sock, Field::SockBacklogMax);
    // The count begins at 1: the socket's own reference (sk_alloc, net/core/sock.c).
    body.write_used = read::<u32>(sock, Field::SockWriteAlloc).saturating_sub(1);
    body.write_limit = read(sock, Field::SockSendBuffer);
    body.net_ns = net_namespace(sock);
    body.timeouts = timeouts(sock);
    body.reserved = 0;
    body.name_len = 0;
    let address: u64 = read(sock, Field::UnixAddress);
    if address != 0 {
        // sockaddr_un: two bytes of family, then the path.
        let length = read::<i32>(address, Field::UnixAddressLen).wrapping_sub(2) as u32;
        let length = if length > UNIX_NAME_LEN as u32 { UNIX_NAME_LEN as u32 } else { length };
        let from = address + offset(Field::UnixAddressName) as u64 + 2;
        let failed = unsafe {
            bpf_probe_read_kernel(body.name.as_mut_ptr().cast(), length, from as *const c_void)
        };
        if failed == 0 {
            body.name_len = length;
        }
    }
    write(meta, row);
}

#[inline(always)]
fn inet(meta: *const IterMeta, task: u64, file: u64, fd: u32, inode: u64, sock: u64, family: u16) {
    let Some(row) = INET_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    row.header = header(FdKind::Inet, task, file, fd, inode);
    // What is not set here is not looked at: see InetBody.
    let body = &mut row.body;
    body.figures = 0;
    let state: u8 = read(sock, Field::SockState);
    let protocol = read::<u16>(sock, Field::SockProtocol) as u32;
    body.sock = sock;
    body.family = family as u32;
    body.protocol = protocol;
    body.state = state as u32;
    body.net_ns = net_namespace(sock);
    body.local_port = read::<u16>(sock, Field::SockLocalPort) as u32;
    body.remote_port = u16::from_be(read(sock, Field::SockRemotePort)) as u32;
    body.timeouts = timeouts(sock);
    if family == AF_INET {
        let (local, remote): ([u8; 4], [u8; 4]) =
            (read(sock, Field::SockLocal4), read(sock, Field::SockRemote4));
        body.local[..4].copy_from_slice(&local);
        body.remote[..4].copy_from_slice(&remote);
    } else {
        body.local = read(sock, Field::SockLocal6);
        body.remote = read(sock, Field::SockRemote6);
    }
    if protocol != IPPROTO_TCP {
        body.receive_queue = read(sock, Field::SockReadAlloc);
        body.send_queue = read::<u32>(sock, Field::SockWriteAlloc).saturating_sub(1);
    } else if state == TCP_LISTEN {
        body.receive_queue = read(sock, Field::SockBacklog);
        body.send_queue = read(sock, Field::SockBacklogMax);
    } else if state != TCP_CLOSE && state >= TCP_ESTABLISHED {
        tcp(body, sock);
    }
    write(meta, row);
}

/// A `struct sock` of TCP is the head of a `struct tcp_sock` (net/ipv4/tcp.c).
#[inline(always)]
fn tcp(body: &mut InetBody, sock: u64) {
    body.figures = 1;
    body.jiffies = unsafe { bpf_jiffies64() };
    body.receive_queue =
        read::<u32>(sock, Field::TcpReceiveNext).wrapping_sub(read(sock, Field::TcpCopied));
    body.send_queue = read::<u32>(sock, Field::TcpWriteSeq).wrapping_sub(read(sock, Field::TcpSendUnacked));
    body.srtt_us8 = read(sock, Field::TcpSrtt);
    // struct minmax_sample { u32 t; u32 v; }: the value of the first of three.
    body.min_rtt_us = match offset(Field::TcpMinRtt) {
        ABSENT => u32::MAX,
        at => read_at(sock, at + 4),
    };
    body.rto = read(sock, Field::IcskRto);
    body.backoff = read::<u8>(sock, Field::IcskBackoff) as u32;
    body.retransmits = read::<u8>(sock, Field::IcskRetransmits) as u32;
    body.segments_out = read(sock, Field::TcpSegmentsOut);
    body.retransmitted = read(sock, Field::TcpTotalRetransmitted);
    body.packets_out = read(sock, Field::TcpPacketsOut);
    body.send_window = read(sock, Field::TcpSendWindow);
    body.last_sent = read(sock, Field::TcpLastSent);
    body.last_ack = read(sock, Field::TcpLastAck);
    body.last_received = read(sock, Field::IcskLastReceived);
    body.bytes_acked = read(sock, Field::TcpBytesAcked);
    body.bytes_received = read(sock, Field::TcpBytesReceived);
    // u32 chrono_stat[3]: busy, window limited, buffer limited, jiffies (include/linux/tcp.h).
    let at = offset(Field::TcpChronoStat);
    if at != ABSENT {
        body.window_limited = read_at(sock, at + 4);
        body.buffer_limited = read_at(sock, at + 8);
    }
}

/// Files without an inode of their own; of these an epoll instance is told by the name of its dentry.
#[inline(always)]
fn anonymous(meta: *const IterMeta, task: u64, file: u64, fd: u32, inode: u64) {
    let dentry: u64 = read(file, Field::FileDentry);
    let name: u64 = read(dentry, Field::DentryName);
    let mut start = [0u8; 16];
    let length =
        unsafe { bpf_probe_read_kernel_str(start.as_mut_ptr().cast(), 16, name as *const c_void) };
    if length < 11 || start[..11] != *b"[eventpoll]" {
        return;
    }
    let Some(row) = EPOLL_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    row.header = header(FdKind::Epoll, task, file, fd, inode);
    watches(&mut row.body, read(file, Field::FilePrivate));
    write(meta, row);
}

/// Walks the red-black tree of an epoll instance (fs/eventpoll.c) without a stack: down to the left, then right,
/// then up by the parent pointers. Nobody holds the tree still; the walk is bounded, and bad pointers read as zero.
/// Each step has a slot of its own, used or not: so the verifier need not tell apart the ways to reach a step.
#[inline(always)]
fn watches(body: &mut EpollBody, eventpoll: u64) {
    let known = offset(Field::EventpollRoot) != ABSENT
        && offset(Field::EpitemNode) != ABSENT
        && offset(Field::EpitemFd) != ABSENT;
    let mut node: u64 = if known { read(eventpoll, Field::EventpollRoot) } else { 0 };
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
    if node == 0 || from != read::<u64>(node, Field::RbParentColor) & !3 {
        return 0;
    }
    let item = node.wrapping_sub(offset(Field::EpitemNode) as u64);
    EpollBody::pack(read(item, Field::EpitemFd), read(item, Field::EpitemEvents))
}

/// The node that comes after `node`, reached from `from`; 0 after the last.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn next_node(node: u64, from: u64) -> u64 {
    let parent = read::<u64>(node, Field::RbParentColor) & !3;
    let left: u64 = read(node, Field::RbLeft);
    let right: u64 = read(node, Field::RbRight);
    if from == parent && left != 0 {
        left
    } else if (from == parent || from == left) && right != 0 {
        right
    } else {
        parent
    }
}

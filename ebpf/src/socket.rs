//! What is written of a socket.
//!
//! The iterator over large tables holds the file, so the verifier can follow it to the socket by type, and each field is
//! loaded by an instruction ([`Typed`]); elsewhere the helper copies the parts that are read of it ([`Copied`]).

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{ABSENT, FdKind, Field, InetBody, UNIX_NAME_LEN, UnixBody};

use crate::descriptor::Body;
use crate::flow::{AF_INET, AF_INET6, IPPROTO_TCP, is_watching};
use crate::kernel::{Word, offset, probe, read, read_plus};
use crate::sockets;
use crate::tcp::TCP_CLOSE;

const AF_UNIX: u16 = 1;
const TCP_LISTEN: u32 = 10;
/// MAX_SCHEDULE_TIMEOUT: no SO_RCVTIMEO or SO_SNDTIMEO.
const NO_TIMEOUT: i64 = i64::MAX;

/// How the fields of a socket are read.
trait Fields: Copy {
    /// A word at so many bytes after the beginning of a field of `struct sock_common`.
    fn common<T: Word>(self, field: Field, bytes: u32) -> T;
    /// The same of `struct sock`.
    fn sock<T: Word>(self, field: Field) -> T;
    /// The same of a field of `struct net`.
    fn net<T: Word>(self, field: Field) -> T;
    /// The same of `struct inet_connection_sock` or `struct tcp_sock`; zero if this kernel lacks the field.
    fn tcp<T: Word>(self, field: Field, bytes: u32) -> T;
    /// Whether it is a socket of TCP; to be asked before its fields are read.
    fn enter_tcp(&mut self) -> bool;
    /// Its address, as an opaque identity.
    fn identity(self) -> u64;
}

/// A socket whose type the verifier knows.
#[derive(Clone, Copy)]
struct Typed {
    /// A `struct sock`,
    sock: u64,
    /// the same as a `struct tcp_sock`, or 0.
    tcp: u64,
}

impl Fields for Typed {
    #[inline(always)]
    fn common<T: Word>(self, field: Field, bytes: u32) -> T {
        read_plus(self.sock, field, bytes)
    }

    #[inline(always)]
    fn sock<T: Word>(self, field: Field) -> T {
        read(self.sock, field)
    }

    #[inline(always)]
    fn net<T: Word>(self, field: Field) -> T {
        read(read::<u64>(self.sock, Field::SockNet), field)
    }

    #[inline(always)]
    fn tcp<T: Word>(self, field: Field, bytes: u32) -> T {
        read_plus(self.tcp, field, bytes)
    }

    #[inline(always)]
    fn enter_tcp(&mut self) -> bool {
        self.tcp = unsafe { bpf_skc_to_tcp_sock(self.sock as *mut c_void) } as u64;
        self.tcp != 0
    }

    #[inline(always)]
    fn identity(self) -> u64 {
        self.sock
    }
}

/// Parts of a socket that are read together, each by one call: its addresses, and most of what TCP knows.
#[repr(C)]
struct Parts {
    common: [u64; COMMON_BYTES / 8],
    tcp: [u64; TCP_BYTES / 8],
}

#[map]
static PARTS_SCRATCH: PerCpuArray<Parts> = PerCpuArray::with_max_entries(1, 0);

/// Bytes of a `struct sock_common` up to the end of its addresses,
const COMMON_BYTES: usize = 96;
/// and from `icsk_rto` on to the last of the busy fields of a `struct tcp_sock`. What lies elsewhere on some kernel is read
/// by itself.
const TCP_BYTES: usize = 704;

/// A socket with what was read of it.
#[derive(Clone, Copy)]
struct Copied {
    sock: u64,
    parts: *mut Parts,
}

impl Copied {
    #[inline(always)]
    fn of(sock: u64) -> Option<Copied> {
        let parts = PARTS_SCRATCH.get_ptr_mut(0)?;
        unsafe {
            let common = &raw mut (*parts).common;
            bpf_probe_read_kernel(common.cast(), COMMON_BYTES as u32, sock as *const c_void);
        }
        Some(Copied { sock, parts })
    }
}

impl Fields for Copied {
    #[inline(always)]
    fn common<T: Word>(self, field: Field, bytes: u32) -> T {
        let at = (offset(field) + bytes) as usize;
        if at <= COMMON_BYTES - size_of::<T>() {
            unsafe { (&raw const (*self.parts).common).cast::<u8>().add(at).cast::<T>().read_unaligned() }
        } else {
            probe_plus(self.sock, field, bytes)
        }
    }

    #[inline(always)]
    fn sock<T: Word>(self, field: Field) -> T {
        probe(self.sock, field)
    }

    #[inline(always)]
    fn net<T: Word>(self, field: Field) -> T {
        probe(self.common(Field::SockNet, 0), field)
    }

    #[inline(always)]
    fn tcp<T: Word>(self, field: Field, bytes: u32) -> T {
        let (from, at) = (offset(Field::IcskRto), offset(field));
        let at_part = at.wrapping_sub(from).wrapping_add(bytes) as usize;
        if from != ABSENT && at != ABSENT && at_part <= TCP_BYTES - size_of::<T>() {
            unsafe { (&raw const (*self.parts).tcp).cast::<u8>().add(at_part).cast::<T>().read_unaligned() }
        } else {
            probe_plus(self.sock, field, bytes)
        }
    }

    #[inline(always)]
    fn enter_tcp(&mut self) -> bool {
        if self.sock::<u16>(Field::SockProtocol) != IPPROTO_TCP {
            return false;
        }
        let from = offset(Field::IcskRto);
        if from != ABSENT {
            let from = self.sock.wrapping_add(from as u64) as *const c_void;
            unsafe { bpf_probe_read_kernel((&raw mut (*self.parts).tcp).cast(), TCP_BYTES as u32, from) };
        }
        true
    }

    #[inline(always)]
    fn identity(self) -> u64 {
        self.sock
    }
}

/// Reads a word so many bytes after the beginning of a field of anything, by the helper.
#[inline(always)]
fn probe_plus<T: Word>(base: u64, field: Field, bytes: u32) -> T {
    if offset(field) == ABSENT {
        return unsafe { MaybeUninit::<T>::zeroed().assume_init() };
    }
    probe(base + bytes as u64, field)
}

/// Writes the body of a socket of which only the address is known.
#[inline(always)]
pub fn copied(body: &mut Body, socket: u64) -> Option<FdKind> {
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
            inet(unsafe { &mut body.inet }, Copied::of(sock)?, family);
            FdKind::Inet
        }
        _ => FdKind::OtherSocket,
    })
}

/// The same of a `struct sock` whose type the verifier knows.
#[inline(always)]
pub fn typed(body: &mut Body, sock: u64) -> FdKind {
    match read::<u16>(sock, Field::SockFamily) {
        AF_UNIX => {
            unix(unsafe { &mut body.unix }, sock);
            FdKind::Unix
        }
        family @ (AF_INET | AF_INET6) => {
            inet(unsafe { &mut body.inet }, Typed { sock, tcp: 0 }, family);
            FdKind::Inet
        }
        _ => FdKind::OtherSocket,
    }
}

fn timeouts_of(receive: i64, send: i64) -> u32 {
    (receive != NO_TIMEOUT) as u32 | ((send != NO_TIMEOUT) as u32) << 1
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
    body.net_ns = probe(probe(sock, Field::SockNet), Field::NetInum);
    body.timeouts = timeouts_of(probe(sock, Field::SockReadTimeout), probe(sock, Field::SockWriteTimeout));
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

#[inline(always)]
fn inet<F: Fields>(body: &mut InetBody, mut socket: F, family: u16) {
    unsafe { (&raw mut body.sock).write_volatile(socket.identity()) };
    let is_tcp = socket.enter_tcp();
    if is_tcp {
        tcp(body, socket);
    }
    let state = socket.common::<u8>(Field::SockState, 0) as u32;
    // What is not set here is not looked at: see InetBody.
    body.figures = is_tcp as u32;
    if !is_tcp {
        body.receive_queue = socket.sock(Field::SockReadAlloc);
        body.send_queue = socket.sock::<u32>(Field::SockWriteAlloc).saturating_sub(1);
    } else if state == TCP_LISTEN || state == TCP_CLOSE {
        body.figures = 0;
        body.receive_queue = socket.sock(Field::SockBacklog);
        body.send_queue = socket.sock(Field::SockBacklogMax);
    }
    body.family = family as u32;
    body.protocol = socket.sock::<u16>(Field::SockProtocol) as u32;
    body.state = state;
    body.net_ns = socket.net(Field::NetInum);
    body.local_port = socket.common::<u16>(Field::SockLocalPort, 0) as u32;
    body.remote_port = u16::from_be(socket.common(Field::SockRemotePort, 0)) as u32;
    body.timeouts = timeouts_of(socket.sock(Field::SockReadTimeout), socket.sock(Field::SockWriteTimeout));
    if family == AF_INET {
        body.local[0] = socket.common(Field::SockLocal4, 0);
        body.remote[0] = socket.common(Field::SockRemote4, 0);
    } else {
        for word in 0..4 {
            body.local[word] = socket.common(Field::SockLocal6, word as u32 * 4);
            body.remote[word] = socket.common(Field::SockRemote6, word as u32 * 4);
        }
    }
}

/// A `struct sock` of TCP is the head of a `struct tcp_sock` (net/ipv4/tcp.c).
///
/// Its fields lie on many cache lines, and the time goes by waiting for them: one of each comes first, so that the waits
/// overlap.
#[inline(always)]
fn tcp<F: Fields>(body: &mut InetBody, socket: F) {
    body.rto = socket.tcp(Field::IcskRto, 0);
    body.last_received = socket.tcp(Field::IcskLastReceived, 0);
    body.send_window = socket.tcp(Field::TcpSendWindow, 0);
    body.last_sent = socket.tcp(Field::TcpLastSent, 0);
    body.last_ack = socket.tcp(Field::TcpLastAck, 0);
    body.bytes_received = socket.tcp(Field::TcpBytesReceived, 0);
    body.bytes_acked = socket.tcp(Field::TcpBytesAcked, 0);
    body.retransmitted = socket.tcp(Field::TcpTotalRetransmitted, 0);
    // struct minmax_sample { u32 t; u32 v; }: the value of the first of three.
    body.min_rtt_us = match offset(Field::TcpMinRtt) {
        ABSENT => u32::MAX,
        _ => socket.tcp(Field::TcpMinRtt, 4),
    };
    body.backoff = socket.tcp::<u8>(Field::IcskBackoff, 0) as u32;
    body.retransmits = socket.tcp::<u8>(Field::IcskRetransmits, 0) as u32;
    body.srtt_us8 = socket.tcp(Field::TcpSrtt, 0);
    body.receive_queue =
        socket.tcp::<u32>(Field::TcpReceiveNext, 0).wrapping_sub(socket.tcp(Field::TcpCopied, 0));
    let write_seq: u32 = socket.tcp(Field::TcpWriteSeq, 0);
    body.send_queue = write_seq.wrapping_sub(socket.tcp(Field::TcpSendUnacked, 0));
    body.not_sent = match offset(Field::TcpSendNext) {
        ABSENT => 0,
        _ => write_seq.wrapping_sub(socket.tcp(Field::TcpSendNext, 0)),
    };
    body.probes = socket.tcp::<u8>(Field::IcskProbesOut, 0) as u32;
    body.retransmit_stamp = socket.tcp(Field::TcpRetransmitStamp, 0);
    body.segments_out = socket.tcp(Field::TcpSegmentsOut, 0);
    body.packets_out = socket.tcp(Field::TcpPacketsOut, 0);
    // u32 chrono_stat[3]: busy, window limited, buffer limited, jiffies (include/linux/tcp.h).
    body.window_limited = socket.tcp(Field::TcpChronoStat, 4);
    body.buffer_limited = socket.tcp(Field::TcpChronoStat, 8);
    body.jiffies = unsafe { bpf_jiffies64() };
    // As a number, out of the record: the verifier lets nobody calculate with pointers.
    let sock = unsafe { (&raw const body.sock).read_volatile() };
    body.turn =
        if is_watching() { sockets::find(sock).map_or(0, |record| unsafe { (*record).turn }) } else { 0 };
}

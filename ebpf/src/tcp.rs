//! The life of TCP connections, counted by flow: begun, made, failed and why, reset, sent again, ended.
//!
//! Where it matters when the kernel sets what is read here: an attempt's or connection's error (`sk_err`) is set before
//! its state becomes TCP_CLOSE (tcp_done_with_error() and tcp_write_err(), net/ipv4), the destination before it becomes
//! TCP_SYN_SENT (tcp_v4_connect(), tcp_v6_connect()), and the local port's number (`inet_num`) is already cleared when
//! TCP_CLOSE is announced (tcp_set_state()), while `inet_sport` remains.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};
use rung_ebpf_common::{
    Field, FlowCount, FlowKeyRecord, INBOUND, ListenerKeyRecord, MAX_TOLD_SOCKETS, NO_ROW, OUTBOUND,
    SocketRecord, ToldSocket, listed, socket_bits, turn,
};

use crate::flow::{self, AF_INET, Caller, Flow, IPPROTO_TCP, LISTENERS, current_process, flow, mapped, row};
use crate::kernel::{Word, argument, probe, read, read_plus};
use crate::sockets;

/// include/net/tcp_states.h.
pub const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_SYN_RECV: u32 = 3;
pub const TCP_FIN_WAIT1: u32 = 4;
pub const TCP_FIN_WAIT2: u32 = 5;
pub const TCP_CLOSE: u32 = 7;
pub const TCP_CLOSE_WAIT: u32 = 8;
const TCP_LAST_ACK: u32 = 9;

/// Both directions of a socket are shut down: SHUTDOWN_MASK (include/net/sock.h).
const SHUT_BOTH: u8 = 3;
/// A process that closes a connection so soon after it sent has said goodbye, and waits for no answer: a Terminate of
/// PostgreSQL, a close_notify of TLS.
const GOODBYE_NS: u64 = 5_000_000;

/// include/uapi/asm-generic/errno*.h; an ICMP error becomes one of them by icmp_err_convert[] (net/ipv4/icmp.c) or
/// tab_unreach[] (net/ipv6/icmp.c).
const EACCES: i32 = 13;
const ENONET: i32 = 64;
const ENETUNREACH: i32 = 101;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTDOWN: i32 = 112;
const EHOSTUNREACH: i32 = 113;

/// The connection that this CPU closed last: close(2) and disconnecting send their reset after TCP_CLOSE
/// (__tcp_close(), tcp_disconnect(), net/ipv4/tcp.c).
#[repr(C)]
struct Closed {
    sock: u64,
    row: u64,
}

#[map]
static LAST_CLOSED: PerCpuArray<Closed> = PerCpuArray::with_max_entries(1, 0);

/// Sockets that were open before the programs were attached. Filled by the reader; an entry ends with the socket's first
/// event.
#[map]
static TOLD_SOCKETS: HashMap<u64, ToldSocket> =
    HashMap::with_max_entries(MAX_TOLD_SOCKETS, BPF_F_NO_PREALLOC);

/// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate), include/trace/events/sock.h
///
/// Most events of a connection come here, so this one hook is of the kind whose arguments the verifier knows by type.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(context: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (context.arg(1), context.arg(2));
    let (old, new) = (old as u32, new as u32);
    if !matches!(new, TCP_ESTABLISHED | TCP_SYN_SENT | TCP_FIN_WAIT1 | TCP_CLOSE) {
        return 0;
    }
    let pointer: *const c_void = context.arg(0);
    let Some(number) = NUMBER_SCRATCH.get_ptr_mut(0) else { return 0 };
    let sock = Sock {
        typed: pointer as u64,
        address: unsafe {
            number.write_volatile(pointer as u64);
            number.read_volatile()
        },
    };
    match new {
        TCP_ESTABLISHED if old == TCP_SYN_SENT => establish(sock),
        TCP_ESTABLISHED if old == TCP_SYN_RECV => accept(sock),
        TCP_SYN_SENT => begin(sock),
        TCP_FIN_WAIT1 => leave(sock),
        TCP_CLOSE => end(sock, old),
        _ => {}
    }
    0
}

/// A `struct sock` by its type, and its address as a number: the verifier lets nobody calculate with pointers.
#[derive(Clone, Copy)]
struct Sock {
    typed: u64,
    address: u64,
}

impl Sock {
    #[inline(always)]
    fn get<T: Word>(self, field: Field) -> T {
        read(self.typed, field)
    }

    /// The inode number of its network namespace.
    #[inline(always)]
    fn net_namespace(self) -> u32 {
        read(self.get::<u64>(Field::SockNet), Field::NetInum)
    }

    /// The remote address; IPv4 is mapped into IPv6.
    #[inline(always)]
    fn remote_address(self) -> [u8; 16] {
        let words: [u64; 2] = if self.get::<u16>(Field::SockFamily) == AF_INET {
            mapped(self.get(Field::SockRemote4))
        } else {
            [read_plus(self.typed, Field::SockRemote6, 0), read_plus(self.typed, Field::SockRemote6, 8)]
        };
        unsafe { core::mem::transmute(words) }
    }
}

/// Where a pointer becomes a number.
#[map]
static NUMBER_SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// connect(2) is about to send a SYN.
#[inline(always)]
fn begin(sock: Sock) {
    if sock.get::<u16>(Field::SockProtocol) != IPPROTO_TCP {
        return;
    }
    let now = unsafe { bpf_ktime_get_ns() };
    let key = FlowKeyRecord {
        address: sock.remote_address(),
        tgid: current_process(),
        net_ns: sock.net_namespace(),
        port: u16::from_be(sock.get(Field::SockRemotePort)) as u32,
        direction: OUTBOUND,
    };
    let record = SocketRecord::new(row(&key, Caller::Owner), now, 0);
    if let Some(flow) = flow(record.row) {
        flow.begin(now);
        remember(sock.address, &record);
    }
}

/// Remembers a new socket. One of that address that is still remembered is gone: its memory is used anew.
#[inline(always)]
pub fn remember(sock: u64, record: &SocketRecord) {
    if sockets::find(sock).is_some() {
        forget(sock);
    }
    if sockets::insert(sock, record).is_some()
        && let Some(flow) = flow(record.row)
    {
        flow.hold(1);
    }
}

/// Forgets a socket.
#[inline(always)]
fn forget(sock: u64) {
    if let Some(row) = sockets::remove(sock)
        && let Some(flow) = flow(row)
    {
        flow.hold(-1);
    }
}

/// What is remembered of a socket, or was told of it.
#[inline(always)]
pub fn known(sock: u64) -> Option<*mut SocketRecord> {
    match sockets::find(sock) {
        None if take_told(sock) != 0 => sockets::find(sock),
        found => found,
    }
}

/// Remembers what was told of a socket; 0 if nothing was. A function of its own, so that the verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn take_told(sock: u64) -> u64 {
    let Some(told) = (unsafe { TOLD_SOCKETS.get(&sock) }) else { return 0 };
    let direction = if told.flow.direction == INBOUND { socket_bits::INBOUND } else { 0 };
    let mut record = SocketRecord::new(row(&told.flow, Caller::Anybody), 0, told.bits | direction);
    record.net_ns = told.flow.net_ns;
    record.port = told.flow.port;
    let _ = TOLD_SOCKETS.remove(&sock);
    remember(sock, &record);
    1
}

/// The peer accepted.
#[inline(always)]
fn establish(sock: Sock) {
    let Some(record) = known(sock.address) else { return };
    let record = unsafe { &mut *record };
    record.bits |= socket_bits::ESTABLISHED;
    if let Some(flow) = flow(record.row) {
        flow.add(FlowCount::Established);
        if record.started_ns != 0 {
            flow.took(unsafe { bpf_ktime_get_ns() } - record.started_ns);
        }
    }
}

/// The last segment of a handshake has come. The process that will use the connection is known if one alone listens on the
/// port, or else when it first receives or sends.
#[inline(always)]
fn accept(sock: Sock) {
    if sock.get::<u16>(Field::SockProtocol) != IPPROTO_TCP {
        return;
    }
    let port = sock.get::<u16>(Field::SockLocalPort) as u32;
    let listener = ListenerKeyRecord { net_ns: sock.net_namespace(), port };
    let tgid = unsafe { LISTENERS.get(&listener) }.copied().unwrap_or(0);
    let counts = tgid != 0 || flow::listed() == listed::WITHOUT_TURNS;
    let bits =
        socket_bits::INBOUND | socket_bits::ESTABLISHED | if counts { 0 } else { socket_bits::UNCOUNTED };
    let mut record = SocketRecord::new(NO_ROW, unsafe { bpf_ktime_get_ns() }, bits);
    record.net_ns = listener.net_ns;
    record.port = listener.port;
    if counts {
        record.row = row(&inbound_key(&record, tgid), Caller::Anybody);
        if let Some(flow) = flow(record.row) {
            count_accepted(&record, flow);
        }
    }
    remember(sock.address, &record);
}

/// The flow of a connection that a process accepted.
#[inline(always)]
fn inbound_key(record: &SocketRecord, tgid: u32) -> FlowKeyRecord {
    FlowKeyRecord { address: [0; 16], tgid, net_ns: record.net_ns, port: record.port, direction: INBOUND }
}

/// Gives a connection that was accepted to the process whose it is.
#[inline(always)]
pub fn give(record: &mut SocketRecord, tgid: u32, caller: Caller) {
    let new = row(&inbound_key(record, tgid), caller);
    if let Some(flow) = flow(record.row) {
        flow.hold(-1);
    }
    record.row = new;
    if let Some(flow) = flow(new) {
        flow.hold(1);
    }
}

/// Counts a connection that was accepted.
#[inline(always)]
pub fn count_accepted(record: &SocketRecord, flow: Flow) {
    flow.begin(record.started_ns);
    flow.add(FlowCount::Established);
}

/// The process closes, or shuts down, before its peer. A connection that is closed ends here for the process; what the
/// kernel still does for it may take minutes.
#[inline(always)]
fn leave(sock: Sock) {
    if sock.get::<u8>(Field::SockShutdown) != SHUT_BOTH {
        return;
    }
    let Some(record) = known(sock.address) else { return };
    let record = unsafe { &mut *record };
    if record.bits & (socket_bits::ESTABLISHED | socket_bits::ENDED | socket_bits::UNCOUNTED)
        == socket_bits::ESTABLISHED
        && let Some(flow) = flow(record.row)
    {
        record.bits |= socket_bits::ENDED;
        close(record, flow, waits_long(record));
    }
}

#[inline(always)]
fn end(sock: Sock, old: u32) {
    let Some(record) = known(sock.address) else { return };
    let record = unsafe { &mut *record };
    if record.bits & socket_bits::UNCOUNTED != 0 {
        give(record, 0, Caller::Anybody);
    }
    if let Some(flow) = flow(record.row) {
        count_end(sock, old, record, flow);
    }
    forget(sock.address);
}

#[inline(always)]
fn count_end(sock: Sock, old: u32, record: &mut SocketRecord, flow: Flow) {
    let error: i32 = sock.get(Field::SockError);
    if record.bits & socket_bits::ESTABLISHED == 0 {
        flow.add(fate(sock, error));
        return;
    }
    if record.bits & socket_bits::UNCOUNTED != 0 {
        count_accepted(record, flow);
    }
    if matches!(error, ETIMEDOUT | EHOSTUNREACH | ENETUNREACH) {
        flow.add(FlowCount::Broken);
    }
    if record.bits & socket_bits::ENDED == 0 {
        let by_peer = old == TCP_LAST_ACK || old == TCP_CLOSE_WAIT;
        let unasked = by_peer && record.bits & socket_bits::ANSWERED == 0;
        close(record, flow, error != 0 || unasked || waits_long(record));
    }
    // Not what fails meanwhile because the reset reaches it on this host.
    if error == 0
        && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT)
        && let Some(closed) = LAST_CLOSED.get_ptr_mut(0)
    {
        unsafe {
            (*closed).sock = sock.address;
            (*closed).row = record.row as u64;
        }
    }
}

/// Why an attempt ended.
#[inline(always)]
fn fate(sock: Sock, error: i32) -> FlowCount {
    match error {
        // Without a port no SYN was sent; with one, the application closed the socket.
        0 if probe::<u16>(sock.address, Field::InetSourcePort) == 0 => FlowCount::NoPort,
        0 => FlowCount::Aborted,
        ECONNREFUSED => FlowCount::Refused,
        ETIMEDOUT => FlowCount::TimedOut,
        EHOSTUNREACH | ENETUNREACH | EHOSTDOWN | ENONET | EACCES => FlowCount::Unreachable,
        _ => FlowCount::FailedOtherwise,
    }
}

/// Counts the end of a connection; `forlorn` if a request without an answer would have got one.
#[inline(always)]
fn close(record: &mut SocketRecord, flow: Flow, forlorn: bool) {
    flow.add(FlowCount::Closed);
    if record.requests | record.responses != 0 {
        flow.add_turns(record);
    }
    if forlorn && record.bits & socket_bits::INBOUND == 0 && record.turn == turn::SENT {
        flow.add(FlowCount::Unanswered);
    }
}

#[inline(always)]
fn waits_long(record: &SocketRecord) -> bool {
    record.turn == turn::SENT && unsafe { bpf_ktime_get_ns() }.wrapping_sub(record.sent_ns) >= GOODBYE_NS
}

/// TP_PROTO(const struct sock *sk, const struct sk_buff *skb, ...), include/trace/events/tcp.h
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(context: RawTracePointContext) -> i32 {
    let Some(record) = known(argument(&context, 0)) else { return 0 };
    let record = unsafe { &*record };
    if let Some(flow) = flow(record.row) {
        flow.add(FlowCount::Retransmits);
        if record.bits & socket_bits::ESTABLISHED == 0 {
            flow.add(FlowCount::SynRetransmits);
        }
    }
    0
}

/// TP_PROTO(struct sock *sk): before the error is set. Of an attempt it is a refusal, and counted when that ends.
#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub fn tcp_receive_reset(context: RawTracePointContext) -> i32 {
    let Some(record) = known(argument(&context, 0)) else { return 0 };
    let record = unsafe { &*record };
    if record.bits & (socket_bits::ESTABLISHED | socket_bits::ENDED) == socket_bits::ESTABLISHED
        && let Some(flow) = flow(record.row)
    {
        flow.add(FlowCount::ResetsReceived);
    }
    0
}

/// TP_PROTO(const struct sock *sk, const struct sk_buff *skb, ...): without a socket, if none was there for a segment.
#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub fn tcp_send_reset(context: RawTracePointContext) -> i32 {
    let sock = argument(&context, 0);
    if sock == 0 {
        return 0;
    }
    let row = match known(sock) {
        Some(record) => unsafe { (*record).row },
        None => match LAST_CLOSED.get_ptr_mut(0) {
            Some(closed) if unsafe { (*closed).sock } == sock => unsafe { (*closed).row as u32 },
            _ => return 0,
        },
    };
    if let Some(flow) = flow(row) {
        flow.add(FlowCount::ResetsSent);
    }
    0
}

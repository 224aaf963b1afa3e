//! The life of TCP connections, counted by flow: begun, made, failed and why, reset, sent again, ended.
//!
//! Where it matters when the kernel sets what is read here: an attempt's or connection's error (`sk_err`) is set before
//! its state becomes TCP_CLOSE (tcp_done_with_error() and tcp_write_err(), net/ipv4), the destination before it becomes
//! TCP_SYN_SENT (tcp_v4_connect(), tcp_v6_connect()), and the local port's number (`inet_num`) is already cleared when
//! TCP_CLOSE is announced (tcp_set_state()), while `inet_sport` remains.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::RawTracePointContext;
use rung_ebpf_common::{
    Counter, Field, FlowCount, FlowKeyRecord, INBOUND, ListenerKeyRecord, OUTBOUND, SocketRecord,
    socket_bits, turn,
};

use crate::event::count;
use crate::flow::{Caller, Head, IPPROTO_TCP, LISTENERS, SOCKETS, current_process, flow};
use crate::kernel::{argument, probe};

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
    flow: FlowKeyRecord,
}

#[map]
static LAST_CLOSED: PerCpuArray<Closed> = PerCpuArray::with_max_entries(1, 0);

/// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate), include/trace/events/sock.h
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(context: RawTracePointContext) -> i32 {
    let (old, new) = (argument(&context, 1) as u32, argument(&context, 2) as u32);
    let sock = argument(&context, 0);
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

/// connect(2) is about to send a SYN.
#[inline(always)]
fn begin(sock: u64) {
    if probe::<u16>(sock, Field::SockProtocol) != IPPROTO_TCP {
        return;
    }
    let now = unsafe { bpf_ktime_get_ns() };
    let head = Head::of(sock);
    let key = FlowKeyRecord {
        address: head.remote_address(),
        tgid: current_process(),
        net_ns: head.net_namespace(),
        port: head.remote_port(),
        direction: OUTBOUND,
    };
    let record = SocketRecord::new(key, now, 0);
    if let Some(flow) = flow(&record.flow, Caller::Owner) {
        flow.begin(now);
    }
    remember(sock, &record);
}

/// A socket of that address that is still remembered is gone: its memory is used anew.
#[inline(always)]
fn remember(sock: u64, record: &SocketRecord) {
    if SOCKETS.insert(&sock, record, BPF_ANY as u64).is_err() {
        count(Counter::FlowsLost);
    }
}

/// The peer accepted.
#[inline(always)]
fn establish(sock: u64) {
    let Some(record) = SOCKETS.get_ptr_mut(&sock) else { return };
    let record = unsafe { &mut *record };
    record.bits |= socket_bits::ESTABLISHED;
    if let Some(flow) = flow(&record.flow, Caller::Anybody) {
        flow.add(FlowCount::Established);
        if record.started_ns != 0 {
            flow.took(unsafe { bpf_ktime_get_ns() } - record.started_ns);
        }
    }
}

/// The last segment of a handshake has come. The process that will use the connection is known if one alone listens on the
/// port, or else when it first receives or sends.
#[inline(always)]
fn accept(sock: u64) {
    if probe::<u16>(sock, Field::SockProtocol) != IPPROTO_TCP {
        return;
    }
    let head = Head::of(sock);
    let listener = ListenerKeyRecord { net_ns: head.net_namespace(), port: head.local_port() };
    let tgid = unsafe { LISTENERS.get(&listener) }.copied().unwrap_or(0);
    let counts = tgid != 0
        || unsafe { LISTENERS.get(&ListenerKeyRecord::LISTED) }.is_some_and(|turns_seen| *turns_seen == 0);
    let key = FlowKeyRecord {
        address: [0; 16],
        tgid,
        net_ns: listener.net_ns,
        port: listener.port,
        direction: INBOUND,
    };
    let bits = socket_bits::ESTABLISHED | if counts { 0 } else { socket_bits::UNCOUNTED };
    let record = SocketRecord::new(key, unsafe { bpf_ktime_get_ns() }, bits);
    if counts {
        count_accepted(&record, Caller::Anybody);
    }
    remember(sock, &record);
}

/// Counts a connection that was accepted.
#[inline(always)]
pub fn count_accepted(record: &SocketRecord, caller: Caller) {
    if let Some(flow) = flow(&record.flow, caller) {
        flow.begin(record.started_ns);
        flow.add(FlowCount::Established);
    }
}

/// The process closes, or shuts down, before its peer. A connection that is closed ends here for the process; what the
/// kernel still does for it may take minutes.
#[inline(always)]
fn leave(sock: u64) {
    if probe::<u8>(sock, Field::SockShutdown) != SHUT_BOTH {
        return;
    }
    let Some(record) = SOCKETS.get_ptr_mut(&sock) else { return };
    let record = unsafe { &mut *record };
    if record.bits & (socket_bits::ESTABLISHED | socket_bits::ENDED | socket_bits::UNCOUNTED)
        == socket_bits::ESTABLISHED
    {
        record.bits |= socket_bits::ENDED;
        close(record, waits_long(record));
    }
}

#[inline(always)]
fn end(sock: u64, old: u32) {
    let Some(record) = SOCKETS.get_ptr_mut(&sock) else { return };
    let record = unsafe { &mut *record };
    let error: i32 = probe(sock, Field::SockError);
    if record.bits & socket_bits::ESTABLISHED == 0 {
        if let Some(flow) = flow(&record.flow, Caller::Anybody) {
            flow.add(fate(sock, error));
        }
    } else {
        if record.bits & socket_bits::UNCOUNTED != 0 {
            count_accepted(record, Caller::Anybody);
        }
        if matches!(error, ETIMEDOUT | EHOSTUNREACH | ENETUNREACH)
            && let Some(flow) = flow(&record.flow, Caller::Anybody)
        {
            flow.add(FlowCount::Broken);
        }
        if record.bits & socket_bits::ENDED == 0 {
            let by_peer = old == TCP_LAST_ACK || old == TCP_CLOSE_WAIT;
            let unasked = by_peer && record.bits & socket_bits::ANSWERED == 0;
            close(record, error != 0 || unasked || waits_long(record));
        }
        // Not what fails meanwhile because the reset reaches it on this host.
        if error == 0
            && (old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT)
            && let Some(closed) = LAST_CLOSED.get_ptr_mut(0)
        {
            unsafe {
                (*closed).sock = sock;
                (*closed).flow = record.flow;
            }
        }
    }
    let _ = SOCKETS.remove(&sock);
}

/// Why an attempt ended.
#[inline(always)]
fn fate(sock: u64, error: i32) -> FlowCount {
    match error {
        // Without a port no SYN was sent; with one, the application closed the socket.
        0 if probe::<u16>(sock, Field::InetSourcePort) == 0 => FlowCount::NoPort,
        0 => FlowCount::Aborted,
        ECONNREFUSED => FlowCount::Refused,
        ETIMEDOUT => FlowCount::TimedOut,
        EHOSTUNREACH | ENETUNREACH | EHOSTDOWN | ENONET | EACCES => FlowCount::Unreachable,
        _ => FlowCount::FailedOtherwise,
    }
}

/// Counts the end of a connection; `forlorn` if a request without an answer would have got one.
#[inline(always)]
fn close(record: &mut SocketRecord, forlorn: bool) {
    if let Some(flow) = flow(&record.flow, Caller::Anybody) {
        flow.add(FlowCount::Closed);
        if record.requests | record.responses != 0 {
            flow.add_turns(record);
        }
        if forlorn && record.flow.direction == OUTBOUND && record.turn == turn::SENT {
            flow.add(FlowCount::Unanswered);
        }
    }
}

#[inline(always)]
fn waits_long(record: &SocketRecord) -> bool {
    record.turn == turn::SENT && unsafe { bpf_ktime_get_ns() }.wrapping_sub(record.turned_ns) >= GOODBYE_NS
}

/// TP_PROTO(const struct sock *sk, const struct sk_buff *skb, ...), include/trace/events/tcp.h
#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(context: RawTracePointContext) -> i32 {
    let Some(record) = SOCKETS.get_ptr_mut(&argument(&context, 0)) else { return 0 };
    let record = unsafe { &*record };
    if let Some(flow) = flow(&record.flow, Caller::Anybody) {
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
    let Some(record) = SOCKETS.get_ptr_mut(&argument(&context, 0)) else { return 0 };
    let record = unsafe { &*record };
    if record.bits & (socket_bits::ESTABLISHED | socket_bits::ENDED) == socket_bits::ESTABLISHED
        && let Some(flow) = flow(&record.flow, Caller::Anybody)
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
    let key = match SOCKETS.get_ptr_mut(&sock) {
        Some(record) => unsafe { &(*record).flow },
        None => match LAST_CLOSED.get_ptr_mut(0) {
            Some(closed) if unsafe { (*closed).sock } == sock => unsafe { &(*closed).flow },
            _ => return 0,
        },
    };
    if let Some(flow) = flow(key, Caller::Anybody) {
        flow.add(FlowCount::ResetsSent);
    }
    0
}

//! Request turns: a connection's process turns from receiving to sending, or back.
//!
//! These hooks run for every message on every socket of the host. What does not turn ends after one look into a map.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use rung_ebpf_common::{
    Field, FlowKeyRecord, INBOUND, ListenerKeyRecord, OUTBOUND, SocketRecord, listed, socket_bits, turn,
};

use crate::flow::{
    self, AF_INET, AF_INET6, Caller, Head, IPPROTO_TCP, LISTENERS, current_process, flow, row,
};
use crate::kernel::{argument, probe};
use crate::sockets;
use crate::tcp::{
    TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, count_accepted, give, remember, take_told,
};

/// include/linux/socket.h: such a call takes nothing from the stream.
const MSG_PEEK: u32 = 2;
const MSG_ERRQUEUE: u32 = 0x2000;

/// The first turns of a connection in each such period (ticks of the kernel's, 32 ms to 320 ms) are counted one by one, so
/// that what goes slowly is seen at once,
const PERIOD_TICKS: u64 = 32;
const SINGLE_TURNS: u32 = 8;
/// and more of them so many at a time, or when the next period begins or the connection ends: counts of a flow are shared,
/// and CPUs have to ask each other for them.
const GATHERED_TURNS: u32 = 32;

/// TP_PROTO(struct sock *sk, int ret, int flags), include/trace/events/sock.h
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn sock_send_length(context: RawTracePointContext) -> i32 {
    if argument(&context, 1) as i32 > 0 {
        exchange(argument(&context, 0), turn::SENT);
    }
    0
}

/// TP_PROTO(struct sock *sk, int ret, int flags)
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn sock_recv_length(context: RawTracePointContext) -> i32 {
    let flags = argument(&context, 2) as u32;
    if argument(&context, 1) as i32 > 0 && flags & (MSG_PEEK | MSG_ERRQUEUE) == 0 {
        exchange(argument(&context, 0), turn::RECEIVED);
    }
    0
}

#[inline(always)]
fn exchange(sock: u64, turn: u32) {
    let record = match sockets::find(sock) {
        None if meet(sock) != 0 => sockets::find(sock),
        found => found,
    };
    let Some(record) = record else { return };
    let record = unsafe { &mut *record };
    if record.turn != turn {
        change(record, turn);
    }
}

/// Remembers a connection that was there before the programs were; 0 if it is none. A function of its own, so that the
/// verifier checks it once.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn meet(sock: u64) -> u64 {
    let family: u16 = probe(sock, Field::SockFamily);
    if family != AF_INET && family != AF_INET6 || probe::<u16>(sock, Field::SockProtocol) != IPPROTO_TCP {
        return 0;
    }
    // What is closed already is announced closed no more, and would stay in the table.
    if !matches!(
        probe::<u8>(sock, Field::SockState) as u32,
        TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSE_WAIT
    ) {
        return 0;
    }
    // Until the listeners are listed nobody can tell who connected.
    if flow::listed() == listed::NOT_YET {
        return 0;
    }
    if take_told(sock) != 0 {
        return 1;
    }
    let head = Head::of(sock);
    let (net_ns, port) = (head.net_namespace(), head.local_port());
    let inbound = unsafe { LISTENERS.get(&ListenerKeyRecord { net_ns, port }) }.is_some();
    let key = if inbound {
        FlowKeyRecord { address: [0; 16], tgid: current_process(), net_ns, port, direction: INBOUND }
    } else {
        FlowKeyRecord {
            address: head.remote_address(),
            tgid: current_process(),
            net_ns,
            port: head.remote_port(),
            direction: OUTBOUND,
        }
    };
    let direction = if inbound { socket_bits::INBOUND } else { 0 };
    let mut record = SocketRecord::new(row(&key, Caller::Owner), 0, socket_bits::ESTABLISHED | direction);
    record.net_ns = net_ns;
    record.port = port;
    remember(sock, &record);
    1
}

#[inline(always)]
fn change(record: &mut SocketRecord, turn: u32) {
    let first = record.turn == 0;
    let inbound = record.bits & socket_bits::INBOUND != 0;
    record.turn = turn;
    // Reading the clock takes a third of all that is done here, so only of who waits for an answer it is known to the
    // microsecond since when.
    if turn == turn::SENT && !inbound {
        record.sent_ns = unsafe { bpf_ktime_get_ns() };
    }
    if first && inbound {
        // Whoever uses it first owns it: the listener may have forked, or handed it over.
        let process = current_process();
        if flow(record.row).is_none_or(|flow| flow.process() != process) {
            give(record, process, Caller::Owner);
        }
        if record.bits & socket_bits::UNCOUNTED != 0 {
            record.bits &= !socket_bits::UNCOUNTED;
            if let Some(flow) = flow(record.row) {
                count_accepted(record, flow);
            }
        }
    }
    let asks = if inbound { turn::RECEIVED } else { turn::SENT };
    if turn == asks {
        record.requests += 1;
    } else if first {
        // A greeting, or the answer to a request of which nothing was seen.
        return;
    } else {
        record.bits |= socket_bits::ANSWERED;
        record.responses += 1;
    }
    let now = unsafe { bpf_jiffies64() };
    if now.wrapping_sub(record.period) >= PERIOD_TICKS {
        record.period = now;
        record.period_turns = 0;
    }
    record.period_turns += 1;
    if (record.period_turns <= SINGLE_TURNS || record.requests + record.responses >= GATHERED_TURNS)
        && let Some(flow) = flow(record.row)
    {
        flow.add_turns(record);
    }
}

//! Request turns: a connection's process turns from receiving to sending, or back.
//!
//! These hooks run for every message on every socket of the host. What does not turn ends after one look into a map.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use rung_ebpf_common::{
    Counter, Field, FlowCount, FlowKeyRecord, INBOUND, ListenerKeyRecord, OUTBOUND, SocketRecord, socket_bits,
    turn,
};

use crate::event::count;
use crate::flow::{
    AF_INET, AF_INET6, Caller, IPPROTO_TCP, LISTENERS, SOCKETS, current_process, flow, net_namespace,
    remote_address,
};
use crate::kernel::{argument, probe};
use crate::tcp::{TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, count_accepted};

/// include/linux/socket.h: such a call takes nothing from the stream.
const MSG_PEEK: u32 = 2;
const MSG_ERRQUEUE: u32 = 0x2000;

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
    let record = match SOCKETS.get_ptr_mut(&sock) {
        Some(record) => record,
        None => match meet(sock) {
            Some(record) => record,
            None => return,
        },
    };
    let record = unsafe { &mut *record };
    if record.turn != turn {
        change(record, turn);
    }
}

/// A connection that was there before the programs were, and that the reader has not seen in a picture.
#[inline(always)]
fn meet(sock: u64) -> Option<*mut SocketRecord> {
    let family: u16 = probe(sock, Field::SockFamily);
    if family != AF_INET && family != AF_INET6 || probe::<u16>(sock, Field::SockProtocol) != IPPROTO_TCP {
        return None;
    }
    // What is closed already is announced closed no more, and would stay in the map.
    if !matches!(
        probe::<u8>(sock, Field::SockState) as u32,
        TCP_ESTABLISHED | TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSE_WAIT
    ) {
        return None;
    }
    // Until the listeners are listed nobody can tell who connected.
    unsafe { LISTENERS.get(&ListenerKeyRecord::LISTED) }?;
    let net_ns = net_namespace(sock);
    let port = probe::<u16>(sock, Field::SockLocalPort) as u32;
    let inbound = unsafe { LISTENERS.get(&ListenerKeyRecord { net_ns, port }) }.is_some();
    let flow = if inbound {
        FlowKeyRecord { address: [0; 16], tgid: current_process(), net_ns, port, direction: INBOUND }
    } else {
        FlowKeyRecord {
            address: remote_address(sock, family),
            tgid: current_process(),
            net_ns,
            port: u16::from_be(probe(sock, Field::SockRemotePort)) as u32,
            direction: OUTBOUND,
        }
    };
    let record = SocketRecord { flow, started_ns: 0, turned_ns: 0, turn: 0, bits: socket_bits::ESTABLISHED };
    let _ = SOCKETS.insert(&sock, &record, BPF_NOEXIST as u64);
    let record = SOCKETS.get_ptr_mut(&sock);
    if record.is_none() {
        count(Counter::FlowsLost);
    }
    record
}

#[inline(always)]
fn change(record: &mut SocketRecord, turn: u32) {
    let first = record.turn == 0;
    let inbound = record.flow.direction == INBOUND;
    record.turn = turn;
    record.turned_ns = unsafe { bpf_ktime_get_ns() };
    if first && inbound {
        // Whoever uses it first owns it: the listener may have forked, or handed it over.
        record.flow.tgid = current_process();
        if record.bits & socket_bits::UNCOUNTED != 0 {
            record.bits &= !socket_bits::UNCOUNTED;
            count_accepted(record, Caller::Owner);
        }
    }
    let asks = if inbound { turn::RECEIVED } else { turn::SENT };
    let what = if turn == asks {
        FlowCount::Requests
    } else if first {
        // A greeting, or the answer to a request of which nothing was seen.
        return;
    } else {
        record.bits |= socket_bits::ANSWERED;
        FlowCount::Responses
    };
    if let Some(flow) = flow(&record.flow, Caller::Owner) {
        flow.add(what);
    }
}

//! The kernel's tables of Unix, TCP and UDP sockets, by netlink (sock_diag(7)).
//!
//! Scope: all sockets of the reader's own network namespace; needs no privilege. Identities are inode numbers. A
//! connection that nobody has accepted yet has no inode: its identity is made of its cookie (TCP) or of its client's
//! inode (Unix), with the top bit set.
//!
//! Degradation policy: a socket whose description does not parse is skipped and counted. What sock_diag does not tell
//! is left out, not zero: messages queued on connected Unix sockets, socket timeouts (false), figures of listeners.
//! A table of sockets that nobody holds is cut off at a deadline, and says so.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_ESTABLISHED, TCP_LISTEN,
};
use netlink_packet_sock_diag::inet::nlas::Nla as InetNla;
use netlink_packet_sock_diag::inet::{self, ExtensionFlags, InetRequest, InetResponse, Timer};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{self, ShowFlags, UnixRequest, UnixResponse};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddress};
use rung_diagnosis::observation::{InetObservation, SocketId, UnixKind, UnixObservation, UnixState};
use rustc_hash::FxHashSet;

use crate::tcp_info;

/// Bytes that one answer may have; the kernel sends at most 32 KiB at a time (netlink_dump).
const ANSWER_BYTES: usize = 64 << 10;
/// Sets identities made of something else apart from inode numbers, which are 32 bits wide here.
const WITHOUT_INODE: u64 = 1 << 63;

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The socket to the kernel failed.
    #[error("cannot ask the kernel for its {table} sockets by sock_diag: {source}")]
    Netlink {
        /// Which table.
        table: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// A table of sockets.
#[derive(Clone, Debug, PartialEq)]
pub struct Dump<T> {
    /// The sockets that were understood.
    pub sockets: Vec<T>,
    /// How many were not.
    pub skipped: usize,
}

/// All Unix sockets of the own network namespace, whose inode is given.
pub fn unix_sockets(net_ns: u32) -> Result<Dump<UnixObservation>, SockDiagError> {
    let request = SockDiagMessage::UnixRequest(UnixRequest {
        // All states: unconnected datagram sockets are in one that the crate has no name for.
        state_flags: unix::StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: ShowFlags::NAME
            | ShowFlags::PEER
            | ShowFlags::ICONS
            | ShowFlags::RQLEN
            | ShowFlags::MEMINFO,
        cookie: [0xff; 8],
    });
    let mut rows = Vec::new();
    let dumped = dump("Unix", request, None, &mut |message| {
        if let SockDiagMessage::UnixResponse(row) = message {
            rows.push(*row);
        }
    })?;
    Ok(Dump {
        sockets: unix_observations(&rows, net_ns),
        skipped: dumped.skipped,
    })
}

/// All TCP and UDP sockets of the own network namespace, whose inode is given. Left out are those that no process can
/// have: in TIME_WAIT, and half-open ones of a listener. IPv4 addresses of IPv6 sockets are given as IPv4.
pub fn inet_sockets(net_ns: u32) -> Result<Dump<InetObservation>, SockDiagError> {
    let mut found = Dump {
        sockets: Vec::new(),
        skipped: 0,
    };
    let ownerless = inet::StateFlags::TIME_WAIT | inet::StateFlags::SYN_RECV;
    let states = inet::StateFlags::all().difference(ownerless);
    for family in [AF_INET, AF_INET6] {
        for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
            let tcp = protocol == IPPROTO_TCP;
            let table = if tcp { "TCP" } else { "UDP" };
            let request = inet_request(family, protocol, states.clone(), tcp);
            let dumped = dump(table, request, None, &mut |message| {
                if let SockDiagMessage::InetResponse(row) = message {
                    found.sockets.push(inet_observation(&row, tcp, net_ns));
                }
            })?;
            found.skipped += dumped.skipped;
        }
    }
    Ok(found)
}

/// A TCP socket by its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpEnds {
    /// Kernel state number.
    pub state: u8,
    /// Inode number; 0 if no process holds it.
    pub inode: u32,
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
}

/// Hands over every TCP socket of the own network namespace, those included that no process can have, until a deadline.
/// Returns whether the tables were cut short by it, and how many sockets were not understood.
pub fn tcp_ends(deadline: Instant, row: &mut dyn FnMut(TcpEnds)) -> Result<(bool, usize), SockDiagError> {
    let mut skipped = 0;
    for family in [AF_INET, AF_INET6] {
        let request = inet_request(family, IPPROTO_TCP, inet::StateFlags::all(), false);
        let dumped = dump("TCP", request, Some(deadline), &mut |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                let (local, remote) = ends(&response);
                row(TcpEnds {
                    state: response.header.state,
                    inode: response.header.inode,
                    local,
                    remote,
                });
            }
        })?;
        skipped += dumped.skipped;
        if dumped.cut {
            return Ok((true, skipped));
        }
    }
    Ok((false, skipped))
}

fn inet_request(family: u8, protocol: u8, states: inet::StateFlags, info: bool) -> SockDiagMessage {
    let socket_id = if family == AF_INET {
        inet::SocketId::new_v4()
    } else {
        inet::SocketId::new_v6()
    };
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: if info {
            ExtensionFlags::INFO
        } else {
            ExtensionFlags::empty()
        },
        states,
        socket_id,
    })
}

/// What came of a dump.
struct Dumped {
    /// Rows that did not parse.
    skipped: usize,
    /// The deadline came first.
    cut: bool,
}

/// Asks for one table and hands over its rows, until a deadline if there is one.
fn dump(
    table: &'static str,
    request: SockDiagMessage,
    deadline: Option<Instant>,
    row: &mut dyn FnMut(SockDiagMessage),
) -> Result<Dumped, SockDiagError> {
    let failed = |source| SockDiagError::Netlink { table, source };
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    socket.connect(&NetlinkAddress::new(0, 0)).map_err(failed)?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(failed)?;

    let mut dumped = Dumped {
        skipped: 0,
        cut: false,
    };
    let mut answer: Vec<u8> = Vec::with_capacity(ANSWER_BYTES);
    loop {
        answer.clear();
        if socket.recv(&mut answer, 0).map_err(failed)? == 0 {
            return Ok(dumped);
        }
        if messages(&answer, &mut dumped.skipped, row).map_err(failed)? {
            return Ok(dumped);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            dumped.cut = true;
            return Ok(dumped);
        }
    }
}

/// Goes through the messages of one answer; true once the table is complete.
fn messages(
    mut bytes: &[u8],
    skipped: &mut usize,
    row: &mut dyn FnMut(SockDiagMessage),
) -> std::io::Result<bool> {
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        // Not even a header, or more than there is: the rest of the answer cannot be made out.
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= 16) else {
            *skipped += 1;
            return Ok(false);
        };
        match NetlinkMessage::<SockDiagMessage>::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => row(message),
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(_) => {}
            Err(_) => *skipped += 1,
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn by_cookie(cookie: [u8; 8]) -> SocketId {
    SocketId(u64::from_ne_bytes(cookie) | WITHOUT_INODE)
}

/// The server's end of a Unix connection that nobody accepted: sock_diag does not list it, but the listener names the
/// client's inode.
fn not_accepted(client: u32) -> SocketId {
    SocketId(u64::from(client) | WITHOUT_INODE)
}

fn unix_observations(rows: &[UnixResponse], net_ns: u32) -> Vec<UnixObservation> {
    let mut pending = FxHashSet::default();
    let mut sockets = Vec::with_capacity(rows.len());
    for row in rows {
        let clients = row.pending_connections().unwrap_or_default();
        for client in clients.iter().filter(|client| **client != 0) {
            pending.insert(*client);
            sockets.extend(unix_observation(row, net_ns).map(|listener| UnixObservation {
                id: not_accepted(*client),
                peer: Some(SocketId((*client).into())),
                inode: 0,
                state: UnixState::Connected,
                queued: None,
                queue_limit: None,
                ..listener
            }));
        }
    }
    for row in rows {
        sockets.extend(unix_observation(row, net_ns).map(|socket| {
            UnixObservation {
                peer: match row.peer() {
                    Some(0) => Some(row.header.inode)
                        .filter(|inode| pending.contains(inode))
                        .map(not_accepted),
                    peer => peer.map(|inode| SocketId(inode.into())),
                },
                ..socket
            }
        }));
    }
    sockets
}

/// One socket, its peer left out.
fn unix_observation(row: &UnixResponse, net_ns: u32) -> Option<UnixObservation> {
    let kind = match i32::from(row.header.kind) {
        libc::SOCK_STREAM => UnixKind::Stream,
        libc::SOCK_DGRAM => UnixKind::Datagram,
        libc::SOCK_SEQPACKET => UnixKind::SeqPacket,
        _ => return None,
    };
    let listening = row.header.state == TCP_LISTEN;
    let state = match row.header.state {
        TCP_LISTEN => UnixState::Listening,
        TCP_ESTABLISHED => UnixState::Connected,
        _ => UnixState::Unconnected,
    };
    let mut queues = None;
    let mut send_buffer = None;
    for nla in &row.nlas {
        match nla {
            Nla::ReceiveQueueLength(receive, send) => queues = Some((*receive, *send)),
            // Named so by the crate; it is SK_MEMINFO_SNDBUF.
            Nla::MemInfo(memory) => send_buffer = Some(memory.max_datagram_size),
            _ => {}
        }
    }
    // Of a listener: connections and their limit. Of the others: bytes to read, and memory of what the peer has not
    // read; of messages nothing is known unless there are none.
    let (backlog, queues) = if listening { (queues, None) } else { (None, queues) };
    Some(UnixObservation {
        id: SocketId(row.header.inode.into()),
        peer: None,
        inode: row.header.inode.into(),
        kind,
        state,
        queued: backlog
            .or(queues)
            .map(|(receive, _)| receive)
            .filter(|queued| listening || *queued == 0),
        queue_limit: backlog.map(|(_, limit)| limit),
        unread_sent: queues.map(|(_, send)| send).zip(send_buffer),
        read_timeout: false,
        write_timeout: false,
        name: row.name().map(name).unwrap_or_default(),
        net_ns,
    })
}

fn name(name: &UnixDiagName) -> Vec<u8> {
    match name {
        UnixDiagName::Pathname(path) => path.as_encoded_bytes().to_vec(),
        UnixDiagName::Abstract(name) => [b"\0", name.as_slice()].concat(),
    }
}

fn ends(row: &InetResponse) -> (SocketAddr, SocketAddr) {
    let id = &row.header.socket_id;
    (
        SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
    )
}

fn inet_observation(row: &InetResponse, tcp: bool, net_ns: u32) -> InetObservation {
    let header = &row.header;
    let (local, remote) = ends(row);
    InetObservation {
        id: match header.inode {
            0 => by_cookie(header.socket_id.cookie),
            inode => SocketId(inode.into()),
        },
        inode: header.inode.into(),
        net_ns,
        tcp,
        state: header.state,
        local,
        remote,
        read_timeout: false,
        write_timeout: false,
        receive_queue: header.recv_queue,
        send_queue: header.send_queue,
        figures: row.nlas.iter().find_map(|nla| match nla {
            InetNla::TcpInfo(info) => tcp_info::figures(info, next_retransmit(header.timer.as_ref())),
            _ => None,
        }),
        turn: None,
    }
}

/// Time until a segment is sent again, if it is waited for.
fn next_retransmit(timer: Option<&Timer>) -> Option<Duration> {
    match timer {
        Some(Timer::Retransmit(left, _)) => Some(*left),
        Some(Timer::KeepAlive(_) | Timer::TimeWait | Timer::Probe(_)) | None => None,
    }
}

#[cfg(test)]
#[path = "sock_diag_tests.rs"]
mod tests;

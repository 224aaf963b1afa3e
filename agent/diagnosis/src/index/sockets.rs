//! Sockets, indexed: who holds them, who listens, and where the other end of a connection is.
//!
//! A connection's other end can be in another network namespace of this host, as between containers. It is known by its
//! addresses: the same pair, reversed. Addresses are unique within a namespace only, so beyond its own namespace a
//! socket's peer counts as found only if there is exactly one candidate, and loopback never leaves its namespace.

use std::net::{IpAddr, SocketAddr};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Index, TCP_ESTABLISHED, TCP_LISTEN};
use crate::observation::{
    DescriptorObservation, InetObservation, Picture, SocketId, Turn, UnixKind, UnixObservation, UnixState,
};

/// Look-ups for sockets.
pub(super) struct SocketTables<'a> {
    holders: FxHashMap<SocketId, Vec<&'a DescriptorObservation>>,
    unix: FxHashMap<SocketId, &'a UnixObservation>,
    unix_listeners: FxHashMap<&'a [u8], Vec<&'a UnixObservation>>,
    inet: FxHashMap<SocketId, &'a InetObservation>,
    /// TCP connections by local and remote address, in all namespaces.
    pairs: FxHashMap<(SocketAddr, SocketAddr), Vec<&'a InetObservation>>,
    /// Addresses of network namespaces: those that a namespace was found to have, and those that its sockets are bound
    /// to.
    local_addresses: FxHashSet<(u32, IpAddr)>,
    /// The namespaces that have an address.
    namespaces: FxHashMap<IpAddr, Vec<u32>>,
    listeners: FxHashMap<u16, Vec<&'a InetObservation>>,
}

impl<'a> SocketTables<'a> {
    pub(super) fn new(picture: &'a Picture) -> Self {
        let mut tables = SocketTables {
            holders: FxHashMap::default(),
            unix: picture
                .unix_sockets
                .iter()
                .map(|socket| (socket.id, socket))
                .collect(),
            unix_listeners: FxHashMap::default(),
            inet: picture
                .inet_sockets
                .iter()
                .map(|socket| (socket.id, socket))
                .collect(),
            pairs: FxHashMap::default(),
            local_addresses: FxHashSet::default(),
            namespaces: FxHashMap::default(),
            listeners: FxHashMap::default(),
        };
        for socket in &picture.unix_sockets {
            if socket.state == UnixState::Listening {
                tables
                    .unix_listeners
                    .entry(&socket.name)
                    .or_default()
                    .push(socket);
            }
        }
        for socket in &picture.inet_sockets {
            tables.add_address(socket.net_ns, socket.local.ip());
            if !socket.tcp {
                continue;
            }
            if socket.state == TCP_LISTEN {
                let listeners = tables.listeners.entry(socket.local.port()).or_default();
                listeners.push(socket);
            } else if socket.remote.port() != 0 {
                let pair = (plain(socket.local), plain(socket.remote));
                tables.pairs.entry(pair).or_default().push(socket);
            }
        }
        for network in &picture.networks {
            for address in &network.addresses {
                tables.add_address(network.net_ns, *address);
            }
        }
        tables
    }

    fn add_address(&mut self, net_ns: u32, address: IpAddr) {
        if !address.is_unspecified() && self.local_addresses.insert((net_ns, address)) {
            self.namespaces.entry(address).or_default().push(net_ns);
        }
    }

    pub(super) fn held_by(&mut self, socket: SocketId, row: &'a DescriptorObservation) {
        self.holders.entry(socket).or_default().push(row);
    }
}

/// An address without IPv6's flow label and scope, which the two ends of a connection do not share.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// The only item, if there is just one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// Whether a listener's address takes what comes for an address of its namespace. One bound to every address of IPv6
/// takes IPv4 as well, unless it was told not to (IPV6_V6ONLY, which is not seen).
fn takes(listener: &InetObservation, to: IpAddr) -> bool {
    let bound = listener.local.ip();
    bound == to || (bound.is_unspecified() && (bound.is_ipv6() || to.is_ipv4()))
}

impl<'a> Index<'a> {
    /// The processes that hold a socket, each once, in order.
    pub fn socket_processes(&self, socket: SocketId) -> Vec<u32> {
        let rows = self.sockets.holders.get(&socket).map_or(&[][..], Vec::as_slice);
        let mut processes: Vec<u32> = rows.iter().filter_map(|row| self.holder(row)).collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// A Unix socket.
    pub fn unix(&self, id: SocketId) -> Option<&'a UnixObservation> {
        self.sockets.unix.get(&id).copied()
    }

    /// The socket that has to be read before a Unix socket can send: its peer, or, for a datagram socket that was never
    /// connected, the one receiver of its network namespace whose queue is full.
    pub fn unix_receiver(&self, sender: &UnixObservation) -> Option<SocketId> {
        if sender.peer.is_some() || sender.kind != UnixKind::Datagram {
            return sender.peer;
        }
        let full = |one: &&UnixObservation| {
            one.kind == UnixKind::Datagram
                && one.net_ns == sender.net_ns
                && one.id != sender.id
                && one.queue_is_full() == Some(true)
        };
        only(self.picture.unix_sockets.iter().filter(full)).map(|one| one.id)
    }

    /// The Unix socket that listens under a name and makes those who connect wait. Abstract names are those of a network
    /// namespace (0 if unknown). Relative paths and other mount
    /// namespaces may give several listeners one name: then it is the one whose backlog is full, if there is just one.
    pub fn unix_listener(&self, name: &[u8], net_ns: u32) -> Option<&'a UnixObservation> {
        let is_abstract = name.first() == Some(&0);
        let named = self.sockets.unix_listeners.get(name)?;
        let reachable = || {
            named
                .iter()
                .copied()
                .filter(move |one| !is_abstract || net_ns == 0 || one.net_ns == net_ns)
        };
        only(reachable()).or_else(|| only(reachable().filter(|one| one.queue_is_full() == Some(true))))
    }

    /// A TCP or UDP socket.
    pub fn inet(&self, id: SocketId) -> Option<&'a InetObservation> {
        self.sockets.inet.get(&id).copied()
    }

    /// The other end of a TCP connection, if it is on this host: in the same network namespace, or else, loopback apart,
    /// in exactly one other.
    pub fn inet_peer(&self, socket: &InetObservation) -> Option<SocketId> {
        let pair = (plain(socket.remote), plain(socket.local));
        let ends = self.sockets.pairs.get(&pair)?;
        if let Some(own) = ends.iter().find(|end| end.net_ns == socket.net_ns) {
            return Some(own.id);
        }
        if socket.local.ip().is_loopback() || self.is_own_address(socket.net_ns, socket.remote.ip()) {
            return None;
        }
        only(ends.iter()).map(|end| end.id)
    }

    /// The TCP listener that takes the connection a socket asks for, or took it, if exactly one on this host does: one of
    /// its network namespace, or one of the only other namespace that has the destination for an address.
    pub fn inet_listener(&self, socket: &InetObservation) -> Option<&'a InetObservation> {
        self.listener_at(socket.net_ns, socket.local.ip(), socket.remote)
    }

    /// The listener for connections from a namespace to a destination; see [`Index::inet_listener`].
    pub fn listener_for(&self, net_ns: u32, to: SocketAddr) -> Option<&'a InetObservation> {
        self.listener_at(net_ns, IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), to)
    }

    fn listener_at(&self, net_ns: u32, from: IpAddr, to: SocketAddr) -> Option<&'a InetObservation> {
        let all = self.sockets.listeners.get(&to.port())?;
        let address = to.ip();
        let own = address.is_loopback() || address == from || self.is_own_address(net_ns, address);
        let net_ns = if own {
            net_ns
        } else {
            let namespaces = self.sockets.namespaces.get(&address)?;
            *only(namespaces.iter())?
        };
        let fitting = || {
            all.iter()
                .copied()
                .filter(move |one| one.net_ns == net_ns && takes(one, address))
        };
        // The kernel prefers the one that is bound to the address itself, and then one of the address's family
        // (compute_score() in net/ipv4/inet_hashtables.c).
        only(fitting().filter(|one| one.local.ip() == address))
            .or_else(|| only(fitting().filter(|one| one.local.is_ipv4() == address.is_ipv4())))
            .or_else(|| only(fitting()))
    }

    fn is_own_address(&self, net_ns: u32, address: IpAddr) -> bool {
        address.is_loopback() || self.sockets.local_addresses.contains(&(net_ns, address))
    }

    /// Whether a connection was opened by its other end: a listener of its namespace has its local address and port.
    pub fn is_inbound(&self, socket: &InetObservation) -> bool {
        let listeners = self.sockets.listeners.get(&socket.local.port());
        listeners.is_some_and(|all| {
            all.iter()
                .any(|one| one.net_ns == socket.net_ns && takes(one, socket.local.ip()))
        })
    }

    /// Whether a process awaits an answer on a connection that it opened: established, and something was sent on it
    /// after anything was last received. `None` where TCP's times are not known. Where turns are not watched, a request and
    /// an answer within one tick of the kernel's clock count as answered.
    pub fn awaits_answer(&self, socket: &InetObservation) -> Option<bool> {
        let figures = socket.figures?;
        let opened = socket.tcp && socket.state == TCP_ESTABLISHED && !self.is_inbound(socket);
        let asked = match socket.turn {
            Some(turn) => turn == Turn::Sent,
            None => {
                (figures.bytes_acked > 1 || socket.send_queue > 0)
                    && figures.last_sent_ms < figures.last_received_ms
            }
        };
        Some(opened && socket.receive_queue == 0 && asked)
    }
}

//! TCP connections: the programs that count them, what they have to be told, and the reading of their maps.
//!
//! The programs know whose a socket is from its connect(2) or its first use on. What was there before them they are told
//! from the first picture; who listens on which port, from one picture a second.

use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, MapError, Queue};
use aya::{Btf, Ebpf};
use rung_diagnosis::observation::{
    Comm, FdObject, FlowObservation, InetObservation, Picture, SocketId, View,
};
use rung_ebpf_common::{
    FlowKeyRecord, INBOUND, ListenerKeyRecord, MAX_FLOWS, MAX_LISTENERS, MAX_TOLD_SOCKETS, OUTBOUND,
    ToldSocket, listed, reader_state, socket_bits,
};
use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::IntoBytes;

use super::flows::{FlowTable, KEY_LEN, ROW_LEN};
use super::hook;
use crate::bpf::Unavailable;

/// What happens to connections; all are there since 4.17, and typed arguments since 5.5.
const CONNECTION_HOOKS: [&str; 4] = [
    "inet_sock_set_state",
    "tcp_retransmit_skb",
    "tcp_receive_reset",
    "tcp_send_reset",
];
/// What is sent and received; since 6.3.
const TURN_HOOKS: [&str; 2] = ["sock_send_length", "sock_recv_length"];

/// Listeners come and go slowly, and finding their holders takes a look at every descriptor.
const LISTENERS_INTERVAL: Duration = Duration::from_secs(1);
/// Rows that the programs may begin until the table is read again.
const SPARE_ROWS: u32 = 4096;

const LISTENER_LEN: usize = size_of::<ListenerKeyRecord>();
const TOLD_LEN: usize = size_of::<ToldSocket>();

/// Kernel state numbers (include/net/tcp_states.h).
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const SYN_SENT: u8 = 2;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LISTEN: u8 = 10;
}

/// The attached programs, and what was told to and read from their maps so far.
pub(super) struct Connections {
    refused: Option<Unavailable>,
    turns_refused: Option<Unavailable>,
    table: FlowTable,
    /// Rows that no key leads to any more, with the key that did: cleared once nothing counts there.
    retired: Vec<(u32, [u8; KEY_LEN])>,
    /// Rows from this number on have never been given to the programs.
    untouched_row: u32,
    /// How often rows were taken from their flows.
    epoch: u32,
    listeners: FxHashMap<ListenerKeyRecord, u32>,
    /// Names of the processes that listen.
    names: FxHashMap<u32, Comm>,
    listed_ns: Option<u64>,
}

impl Connections {
    /// Attaches what this kernel has.
    pub(super) fn attach(ebpf: &mut Ebpf, btf: &Btf) -> Self {
        let refused = hook::attach_all(ebpf, btf, &CONNECTION_HOOKS).err();
        let turns_refused = match &refused {
            Some(refused) => Some(refused.clone()),
            None => hook::attach_all(ebpf, btf, &TURN_HOOKS)
                .err()
                .map(|error| Unavailable {
                    why: error.why,
                    remedy: "use a kernel of 6.3 or later".into(),
                }),
        };
        if turns_refused.is_none()
            && let Err(error) = tell_state(ebpf, reader_state::WATCHING, 1)
        {
            tracing::debug!(%error, "pictures do not tell which way connections last turned");
        }
        let mut connections = Connections {
            refused,
            turns_refused,
            table: FlowTable::default(),
            retired: Vec::new(),
            untouched_row: 0,
            epoch: 0,
            listeners: FxHashMap::default(),
            names: FxHashMap::default(),
            listed_ns: None,
        };
        connections.spare_rows(ebpf);
        connections
    }

    /// Gives the programs as many rows as they may need until the next time.
    fn spare_rows(&mut self, ebpf: &mut Ebpf) {
        let wanted = (self.table.len() as u32)
            .saturating_add(SPARE_ROWS)
            .min(MAX_FLOWS);
        let Some(Ok(mut free)) = ebpf.map_mut("FREE_ROWS").map(Queue::<_, u32>::try_from) else {
            return;
        };
        while self.untouched_row < wanted && free.push(self.untouched_row, 0).is_ok() {
            self.untouched_row += 1;
        }
    }

    /// Whether attempts and their fates are seen.
    pub(super) fn view(&self) -> View {
        view(self.refused.as_ref())
    }

    /// Whether turns are seen.
    pub(super) fn turns_view(&self) -> View {
        view(self.turns_refused.as_ref())
    }

    /// Tells the programs who listens, and the first time also which connections there are.
    pub(super) fn tell(&mut self, ebpf: &mut Ebpf, picture: &Picture) {
        let due = self.listed_ns.is_none_or(|listed_ns| {
            u128::from(picture.began_ns.saturating_sub(listed_ns)) >= LISTENERS_INTERVAL.as_nanos()
        });
        if self.refused.is_some() || !due {
            return;
        }
        let is_first = self.listed_ns.is_none();
        self.listed_ns = Some(picture.began_ns);
        let holders = holders(picture, |socket| is_first || socket.state == state::LISTEN);
        let listeners = listeners(picture, &holders);
        self.names = names(picture, &listeners);
        self.tell_listeners(ebpf, listeners);
        if is_first {
            self.tell_sockets(ebpf, picture, &holders);
        }
    }

    fn tell_listeners(&mut self, ebpf: &mut Ebpf, now: FxHashMap<ListenerKeyRecord, u32>) {
        let Some(mut map) = map::<LISTENER_LEN, 4>(ebpf, "LISTENERS") else {
            return;
        };
        for key in self.listeners.keys().filter(|key| !now.contains_key(key)) {
            // Already gone is as good as removed.
            let _ = map.remove(&bytes(key));
        }
        for (key, pid) in now
            .iter()
            .filter(|(key, pid)| self.listeners.get(key) != Some(pid))
        {
            if let Err(error) = map.insert(bytes(key), pid.to_ne_bytes(), 0) {
                tracing::debug!(%error, "a listener is not told to the programs");
            }
        }
        self.listeners = now;
        let how = match self.turns_refused {
            None => listed::WITH_TURNS,
            Some(_) => listed::WITHOUT_TURNS,
        };
        if let Err(error) = tell_state(ebpf, reader_state::LISTED, how) {
            tracing::debug!(%error, "the programs do not know that the listeners are listed");
        }
    }

    fn tell_sockets(&self, ebpf: &mut Ebpf, picture: &Picture, holders: &FxHashMap<SocketId, Holder>) {
        let Some(mut map) = map::<8, TOLD_LEN>(ebpf, "TOLD_SOCKETS") else {
            return;
        };
        let connections = picture.inet_sockets.iter().filter_map(|socket| {
            let told = self.told(socket, holders.get(&socket.id)?)?;
            Some((socket.id.0.to_ne_bytes(), bytes(&told)))
        });
        // The others are met when they are used.
        for (sock, told) in connections.take(MAX_TOLD_SOCKETS as usize) {
            // A program does not ask for what it noted itself.
            let _ = map.insert(sock, told, 0);
        }
    }

    /// What a program would have noted of a connection, or of an attempt under way.
    fn told(&self, socket: &InetObservation, holder: &Holder) -> Option<ToldSocket> {
        let bits = match socket.state {
            state::SYN_SENT => 0,
            state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT => {
                socket_bits::ESTABLISHED
            }
            _ => return None,
        };
        let local = ListenerKeyRecord {
            net_ns: socket.net_ns,
            port: socket.local.port().into(),
        };
        let inbound = bits != 0 && self.listeners.contains_key(&local);
        let (address, port, direction) = if inbound {
            ([0; 16], local.port, INBOUND)
        } else {
            let address = match socket.remote.ip() {
                std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
                std::net::IpAddr::V6(address) => address,
            };
            (address.octets(), socket.remote.port().into(), OUTBOUND)
        };
        let flow = FlowKeyRecord {
            address,
            tgid: holder.pid,
            net_ns: socket.net_ns,
            port,
            direction,
        };
        socket.tcp.then_some(ToldSocket {
            flow,
            bits,
            reserved: 0,
        })
    }

    /// What was counted since the last call, and how many entries could not be read.
    pub(super) fn take(&mut self, ebpf: &mut Ebpf, now_ns: u64) -> (Vec<FlowObservation>, u64) {
        if self.refused.is_some() {
            return (Vec::new(), 0);
        }
        let keys: Vec<([u8; KEY_LEN], [u8; 4])> = match map::<KEY_LEN, 4>(ebpf, "FLOWS") {
            // A walk that restarts, because the entry it stands at was removed, must end.
            Some(map) => map.iter().flatten().take(2 * MAX_FLOWS as usize).collect(),
            None => return (Vec::new(), 0),
        };
        let Some(Ok(mut rows)) = ebpf.map_mut("FLOW_ROWS").map(Array::<_, [u8; ROW_LEN]>::try_from) else {
            return (Vec::new(), 0);
        };
        let in_use = keys.iter().map(|(key, row)| (u32::from_ne_bytes(*row), *key));
        let in_use = in_use.chain(self.retired.iter().copied());
        let mut read = self.table.update(
            in_use.filter_map(|(row, key)| Some((row, key, rows.get(&row, 0).ok()?))),
            now_ns,
        );
        // No key has led to them since the last read, and no program runs that long.
        let mut cleared = Vec::new();
        self.retired.retain(|(row, _)| {
            let rests = rows.get(row, 0).is_ok_and(|bytes| self.table.rests(*row, &bytes));
            let is_clear = rests && rows.set(*row, [0; ROW_LEN], 0).is_ok();
            if is_clear {
                self.table.forget(*row);
                cleared.push(*row);
            }
            !is_clear
        });
        if let Some(Ok(mut free)) = ebpf.map_mut("FREE_ROWS").map(Queue::<_, u32>::try_from) {
            for row in cleared {
                let _ = free.push(row, 0);
            }
        }
        if let Some(mut map) = map::<KEY_LEN, 4>(ebpf, "FLOWS") {
            let retired: Vec<u32> = self.retired.iter().map(|(row, _)| *row).collect();
            for (row, key) in read.idle.iter().filter(|(row, _)| !retired.contains(row)) {
                if map.remove(key).is_ok() {
                    self.retired.push((*row, *key));
                }
            }
        }
        if !read.idle.is_empty() {
            self.epoch = self.epoch.wrapping_add(1);
            if let Err(error) = tell_state(ebpf, reader_state::EPOCH, self.epoch) {
                tracing::debug!(%error, "hints to rows that were taken away stay");
            }
        }
        self.spare_rows(ebpf);
        for flow in read.flows.iter_mut().filter(|flow| flow.comm == Comm::default()) {
            if let Some(name) = self.names.get(&flow.key.pid) {
                flow.comm = *name;
            }
        }
        (read.flows, read.damaged)
    }
}

fn view(refused: Option<&Unavailable>) -> View {
    match refused {
        None => View::Full,
        Some(Unavailable { why, remedy }) => View::Blind {
            why: why.clone(),
            remedy: remedy.clone(),
        },
    }
}

/// Sets one of [`reader_state`].
fn tell_state(ebpf: &mut Ebpf, index: u32, value: u32) -> Result<(), MapError> {
    match ebpf.map_mut("READER_STATE") {
        Some(map) => Array::<_, u32>::try_from(map)?.set(index, value, 0),
        None => Err(MapError::InvalidName {
            name: "READER_STATE".into(),
        }),
    }
}

fn map<'a, const KEY: usize, const VALUE: usize>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Option<HashMap<&'a mut MapData, [u8; KEY], [u8; VALUE]>> {
    HashMap::try_from(ebpf.map_mut(name)?).ok()
}

/// A record as the map takes it; `N` is its size.
fn bytes<T: IntoBytes + zerocopy::Immutable, const N: usize>(record: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(record.as_bytes());
    bytes
}

/// Who holds a socket.
#[derive(Clone, Copy)]
struct Holder {
    /// The first process found.
    pid: u32,
    /// There are others.
    shared: bool,
}

fn holders(picture: &Picture, wanted: impl Fn(&InetObservation) -> bool) -> FxHashMap<SocketId, Holder> {
    let sockets = picture.inet_sockets.iter();
    let wanted: FxHashSet<SocketId> = sockets
        .filter(|socket| socket.tcp && wanted(socket))
        .map(|socket| socket.id)
        .collect();
    let mut holders: FxHashMap<SocketId, Holder> = FxHashMap::default();
    let mut process = (0, 0);
    for descriptor in &picture.descriptors {
        let FdObject::Inet(id) = descriptor.object else {
            continue;
        };
        if descriptor.tid == 0 || !wanted.contains(&id) {
            continue;
        }
        if process.0 != descriptor.tid {
            let Ok(at) = picture
                .tasks
                .binary_search_by_key(&descriptor.tid, |task| task.tid)
            else {
                continue;
            };
            process = (descriptor.tid, picture.tasks[at].tgid);
        }
        holders
            .entry(id)
            .and_modify(|holder| holder.shared |= holder.pid != process.1)
            .or_insert(Holder {
                pid: process.1,
                shared: false,
            });
    }
    holders
}

/// The process that listens on each port, or 0 if there are several.
fn listeners(picture: &Picture, holders: &FxHashMap<SocketId, Holder>) -> FxHashMap<ListenerKeyRecord, u32> {
    let mut listeners: FxHashMap<ListenerKeyRecord, u32> = FxHashMap::default();
    for socket in picture
        .inet_sockets
        .iter()
        .filter(|socket| socket.state == state::LISTEN)
    {
        let pid = match holders.get(&socket.id) {
            Some(holder) if !holder.shared => holder.pid,
            _ => 0,
        };
        if !socket.tcp || listeners.len() >= MAX_LISTENERS as usize - 1 {
            continue;
        }
        let key = ListenerKeyRecord {
            net_ns: socket.net_ns,
            port: socket.local.port().into(),
        };
        // Several sockets on one port: of several addresses, or with SO_REUSEPORT.
        listeners
            .entry(key)
            .and_modify(|known| {
                if *known != pid {
                    *known = 0;
                }
            })
            .or_insert(pid);
    }
    listeners
}

fn names(picture: &Picture, listeners: &FxHashMap<ListenerKeyRecord, u32>) -> FxHashMap<u32, Comm> {
    let name = |pid: &u32| {
        let at = picture.tasks.binary_search_by_key(pid, |task| task.tid).ok()?;
        Some((*pid, picture.tasks[at].comm))
    };
    listeners.values().filter_map(name).collect()
}

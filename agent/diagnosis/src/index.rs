//! A picture, indexed: who is who, who holds what.

use std::net::{IpAddr, SocketAddr};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::observation::{
    Call, DescriptorObservation, FdObject, FileId, InetObservation, LockObservation, Picture, PipeFill,
    SocketId, TaskObservation, TaskState, UnixKind, UnixObservation, UnixState,
};

/// One end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The end that is read from.
    Read,
    /// The end that is written to.
    Write,
}

impl End {
    /// The other end.
    pub fn opposite(self) -> End {
        match self {
            End::Read => End::Write,
            End::Write => End::Read,
        }
    }
}

/// TCP's listening state (include/net/tcp_states.h).
pub const TCP_LISTEN: u8 = 10;
/// TCP's established state.
pub const TCP_ESTABLISHED: u8 = 1;

/// Look-ups into one picture. Processes are named by their ids; threads by theirs.
pub struct Index<'a> {
    /// The picture.
    pub picture: &'a Picture,
    tasks: FxHashMap<u32, &'a TaskObservation>,
    threads: FxHashMap<u32, Vec<&'a TaskObservation>>,
    namespaced: FxHashMap<(u32, u32), u32>,
    children: FxHashMap<u32, Vec<u32>>,
    descriptors: FxHashMap<(u32, i32), &'a DescriptorObservation>,
    pipe_ends: FxHashMap<(FileId, End), Vec<&'a DescriptorObservation>>,
    pipe_fills: FxHashMap<FileId, PipeFill>,
    sockets: FxHashMap<SocketId, Vec<&'a DescriptorObservation>>,
    locked_files: FxHashMap<FileId, Vec<&'a DescriptorObservation>>,
    unix: FxHashMap<SocketId, &'a UnixObservation>,
    unix_listeners: FxHashMap<&'a [u8], Vec<&'a UnixObservation>>,
    inet: FxHashMap<SocketId, &'a InetObservation>,
    inet_pairs: FxHashMap<InetPair, SocketId>,
    /// Addresses that sockets of a network namespace are bound to, and so are its own.
    local_addresses: FxHashSet<(u32, IpAddr)>,
    inet_listeners: FxHashMap<u16, Vec<&'a InetObservation>>,
}

/// Local and remote address, with the network namespace for loopback, which each has for itself. Other addresses may
/// connect two namespaces of this host.
type InetPair = (u32, SocketAddr, SocketAddr);

fn pair(net_ns: u32, local: SocketAddr, remote: SocketAddr) -> InetPair {
    let net_ns = if local.ip().is_loopback() { net_ns } else { 0 };
    (net_ns, local, remote)
}

impl<'a> Index<'a> {
    /// Indexes a picture.
    pub fn new(picture: &'a Picture) -> Self {
        let mut index = Index {
            picture,
            tasks: FxHashMap::with_capacity_and_hasher(picture.tasks.len(), Default::default()),
            threads: FxHashMap::default(),
            namespaced: FxHashMap::default(),
            children: FxHashMap::default(),
            descriptors: FxHashMap::with_capacity_and_hasher(picture.descriptors.len(), Default::default()),
            pipe_ends: FxHashMap::default(),
            pipe_fills: FxHashMap::default(),
            sockets: FxHashMap::default(),
            locked_files: FxHashMap::default(),
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
            inet_pairs: FxHashMap::default(),
            inet_listeners: FxHashMap::default(),
            local_addresses: FxHashSet::default(),
        };
        for task in &picture.tasks {
            index.tasks.insert(task.tid, task);
            index.threads.entry(task.tgid).or_default().push(task);
            if task.ns_tid != task.tid {
                index.namespaced.insert((task.tgid, task.ns_tid), task.tid);
            }
            if task.tid == task.tgid && task.parent != 0 {
                index.children.entry(task.parent).or_default().push(task.tgid);
            }
        }
        index.add_descriptors();
        index.add_sockets();
        index
    }

    fn add_descriptors(&mut self) {
        for pipe in &self.picture.pipes {
            if let Some(fill) = pipe.fill {
                self.pipe_fills.insert(pipe.id, fill);
            }
        }
        for row in &self.picture.descriptors {
            self.descriptors.insert((row.tid, row.fd), row);
            match &row.object {
                FdObject::Pipe(pipe) => {
                    for (end, open) in [(End::Read, row.readable), (End::Write, row.writable)] {
                        if open {
                            self.pipe_ends.entry((*pipe, end)).or_default().push(row);
                        }
                    }
                }
                FdObject::Unix(socket) | FdObject::Inet(socket) => {
                    self.sockets.entry(*socket).or_default().push(row);
                }
                FdObject::LockedFile(file) => self.locked_files.entry(*file).or_default().push(row),
                FdObject::OtherSocket | FdObject::Epoll { .. } | FdObject::Terminal | FdObject::Other => {}
            }
        }
    }

    fn add_sockets(&mut self) {
        for socket in &self.picture.unix_sockets {
            if socket.state == UnixState::Listening {
                self.unix_listeners.entry(&socket.name).or_default().push(socket);
            }
        }
        for socket in self.picture.inet_sockets.iter().filter(|socket| socket.tcp) {
            if socket.state == TCP_LISTEN {
                self.inet_listeners
                    .entry(socket.local.port())
                    .or_default()
                    .push(socket);
            } else {
                self.inet_pairs
                    .insert(pair(socket.net_ns, socket.local, socket.remote), socket.id);
                self.local_addresses.insert((socket.net_ns, socket.local.ip()));
            }
        }
    }

    /// A thread.
    pub fn task(&self, tid: u32) -> Option<&'a TaskObservation> {
        self.tasks.get(&tid).copied()
    }

    /// The threads of a process, zombies included, by tid.
    pub fn threads(&self, tgid: u32) -> &[&'a TaskObservation] {
        self.threads.get(&tgid).map_or(&[], Vec::as_slice)
    }

    /// Whether a process has a thread that is not dead.
    pub fn lives(&self, tgid: u32) -> bool {
        self.threads(tgid)
            .iter()
            .any(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead))
    }

    /// The row that stands for a process: its leader, or any thread of it.
    pub fn process(&self, tgid: u32) -> Option<&'a TaskObservation> {
        self.task(tgid).or_else(|| self.threads(tgid).first().copied())
    }

    /// Every process, by its row.
    pub fn processes(&self) -> impl Iterator<Item = &'a TaskObservation> {
        self.picture.tasks.iter().filter(|task| task.tid == task.tgid)
    }

    /// The thread of a process that goes by `ns_tid` in its own PID namespace.
    pub fn thread_by_own_id(&self, tgid: u32, ns_tid: u32) -> Option<&'a TaskObservation> {
        let tid = self.namespaced.get(&(tgid, ns_tid)).copied().unwrap_or(ns_tid);
        self.task(tid)
            .filter(|task| task.tgid == tgid && (task.ns_tid == ns_tid || task.ns_tid == 0))
    }

    /// The children of a process.
    pub fn children(&self, tgid: u32) -> &[u32] {
        self.children.get(&tgid).map_or(&[], Vec::as_slice)
    }

    /// What a thread's descriptor refers to.
    pub fn descriptor(&self, task: &TaskObservation, fd: i32) -> Option<&'a DescriptorObservation> {
        self.descriptors
            .get(&(task.tid, fd))
            .or_else(|| self.descriptors.get(&(task.tgid, fd)))
            .copied()
    }

    /// The holders of one end of a pipe.
    pub fn pipe_holders(&self, pipe: FileId, end: End) -> &[&'a DescriptorObservation] {
        self.pipe_ends.get(&(pipe, end)).map_or(&[], Vec::as_slice)
    }

    /// The process that holds a descriptor; `None` if it was born after the walk over threads.
    pub fn holder(&self, row: &DescriptorObservation) -> Option<u32> {
        self.task(row.tid).map(|task| task.tgid)
    }

    /// The processes that hold one end of a pipe, each once, in order.
    pub fn pipe_processes(&self, pipe: FileId, end: End) -> Vec<u32> {
        let holders = self
            .pipe_holders(pipe, end)
            .iter()
            .filter_map(|row| self.holder(row));
        let mut processes: Vec<u32> = holders.collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// Whether one end of a pipe is held by somebody whom the picture does not show: descriptors in flight in a Unix
    /// socket, processes of others, processes born during the walk.
    pub fn has_unseen_holder(&self, pipe: FileId, end: End) -> bool {
        let holders = self.pipe_holders(pipe, end);
        if holders.iter().any(|row| self.holder(row).is_none()) {
            return true;
        }
        let Some(fill) = self.pipe_fill(pipe) else {
            return false;
        };
        let mut files: Vec<u64> = holders
            .iter()
            .map(|row| row.file)
            .filter(|file| *file != 0)
            .collect();
        files.sort_unstable();
        files.dedup();
        let known = match end {
            End::Read => fill.readers,
            End::Write => fill.writers,
        };
        (files.len() as u32) < known
    }

    /// How full a pipe is, where that was seen.
    pub fn pipe_fill(&self, pipe: FileId) -> Option<PipeFill> {
        self.pipe_fills.get(&pipe).copied()
    }

    /// The processes that hold a socket, each once, in order.
    pub fn socket_processes(&self, socket: SocketId) -> Vec<u32> {
        let rows = self.sockets.get(&socket).map_or(&[][..], Vec::as_slice);
        let mut processes: Vec<u32> = rows.iter().filter_map(|row| self.holder(row)).collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// A Unix socket.
    pub fn unix(&self, id: SocketId) -> Option<&'a UnixObservation> {
        self.unix.get(&id).copied()
    }

    /// The socket that has to be read before a Unix socket can send: its peer, or, for a datagram socket that was never
    /// connected, the one receiver of its network namespace whose queue is full.
    pub fn unix_receiver(&self, sender: &UnixObservation) -> Option<SocketId> {
        if sender.peer.is_some() || sender.kind != UnixKind::Datagram {
            return sender.peer;
        }
        let full = |one: &&&UnixObservation| {
            one.kind == UnixKind::Datagram
                && one.net_ns == sender.net_ns
                && one.id != sender.id
                && one.queue_is_full() == Some(true)
        };
        let mut full = self.picture.unix_sockets.iter().filter(|one| full(&one));
        match (full.next(), full.next()) {
            (Some(only), None) => Some(only.id),
            _ => None,
        }
    }

    /// The Unix socket that listens under a name and makes those who connect wait. Abstract names are those of a network
    /// namespace (0 if unknown). Relative paths and other mount
    /// namespaces may give several listeners one name: then it is the one whose backlog is full, if there is just one.
    pub fn unix_listener(&self, name: &[u8], net_ns: u32) -> Option<&'a UnixObservation> {
        let is_abstract = name.first() == Some(&0);
        let named = self.unix_listeners.get(name)?;
        let reachable = || {
            named
                .iter()
                .filter(move |one| !is_abstract || net_ns == 0 || one.net_ns == net_ns)
        };
        if let (Some(only), None) = (reachable().next(), reachable().nth(1)) {
            return Some(only);
        }
        let mut full = reachable().filter(|one| one.queue_is_full() == Some(true));
        match (full.next(), full.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// A TCP or UDP socket.
    pub fn inet(&self, id: SocketId) -> Option<&'a InetObservation> {
        self.inet.get(&id).copied()
    }

    /// The other end of a TCP connection, if it is on this host.
    pub fn inet_peer(&self, socket: &InetObservation) -> Option<SocketId> {
        let reverse = pair(socket.net_ns, socket.remote, socket.local);
        self.inet_pairs.get(&reverse).copied()
    }

    /// The TCP listener that takes the connection a socket asks for, if exactly one of its network namespace does. One
    /// bound to every address takes what goes to an address of the host only.
    pub fn inet_listener(&self, socket: &InetObservation) -> Option<&'a InetObservation> {
        let (net_ns, to) = (socket.net_ns, socket.remote);
        let own = to.ip().is_loopback()
            || to.ip() == socket.local.ip()
            || self.local_addresses.contains(&(net_ns, to.ip()));
        let all = self.inet_listeners.get(&to.port())?;
        let mut fitting = all.iter().filter(|one| {
            one.net_ns == net_ns && (one.local.ip() == to.ip() || own && one.local.ip().is_unspecified())
        });
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// The request in the kernel's lock table that keeps a thread waiting. That of an open-file-description lock names no
    /// process, so there the file decides.
    pub fn awaited_lock(&self, task: &TaskObservation) -> Option<&'a LockObservation> {
        let file = self.file_to_lock(task)?;
        let requests = || self.picture.locks.iter().filter(|lock| lock.waiting);
        let own = || requests().filter(|lock| lock.pid == Some(task.tgid));
        let same_file = |lock: &&LockObservation| file.is_none_or(|file| lock.file == file);
        own()
            .find(same_file)
            .or_else(|| {
                requests().find(|lock| lock.pid.is_none() && file.is_some_and(|file| lock.file == file))
            })
            .or_else(|| own().next())
    }

    /// The file that a thread is blocked in locking, if it is known; `None` if the thread does not lock a file.
    fn file_to_lock(&self, task: &TaskObservation) -> Option<Option<FileId>> {
        let Some(Call::FileLock { fd }) = task.call.as_ref().map(|call| &call.call) else {
            return None;
        };
        Some(match self.descriptor(task, *fd).map(|row| &row.object) {
            Some(FdObject::LockedFile(file)) => Some(*file),
            _ => None,
        })
    }

    /// The processes that hold the lock which a request waits for. Where the kernel's table names nobody alive (a lock
    /// of flock(2) or OFD kind lives on in copies of the descriptor), everybody who has the file open and does not wait.
    pub fn lock_holders(&self, request: &LockObservation) -> Vec<u32> {
        let locks = &self.picture.locks;
        let held = locks
            .iter()
            .filter(|lock| !lock.waiting && lock.number == request.number);
        let mut holders: Vec<u32> = held
            .filter_map(|lock| lock.pid)
            .filter(|pid| self.lives(*pid))
            .collect();
        if holders.is_empty() {
            let rows = self
                .locked_files
                .get(&request.file)
                .map_or(&[][..], Vec::as_slice);
            holders = rows.iter().filter_map(|row| self.holder(row)).collect();
            let waits = |pid: u32| {
                let mut threads = self.threads(pid).iter();
                threads.any(|task| self.file_to_lock(task).flatten() == Some(request.file))
            };
            holders.retain(|pid| !waits(*pid));
        }
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

//! From an indexed picture to the graph: one rule for each way to wait (the table in ARCHITECTURE.md).

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Node, Prospect, Wait, WaitGraph, WaitKind, futex};
use crate::index::{End, Index};
use crate::observation::{
    BlockedCall, Call, FdObject, FileId, FutexCall, InetObservation, SocketId, TaskObservation, TaskState,
    UnixKind, UnixObservation, UnixState, WaitFor, Watch,
};

/// A thread counts as settled if it left the CPU at least this long before the walk began. A younger wait is taken for
/// running: the rows of a picture are read one after the other, and only what did not move meanwhile fits together.
const SETTLED_NS: u64 = 1_000_000;
/// Event polls that watch event polls are followed this deep (the kernel allows 5, EP_MAX_NESTS).
const POLL_DEPTH: u32 = 2;

pub(super) fn build(index: &Index<'_>) -> WaitGraph {
    let mut builder = Builder {
        index,
        nodes: Vec::new(),
        numbers: FxHashMap::default(),
        enders: Default::default(),
        seeds: Vec::new(),
        waits: FxHashMap::default(),
        expanded: FxHashSet::default(),
    };
    for task in &index.picture.tasks {
        builder.task(task);
    }
    builder.finish()
}

struct Builder<'a> {
    index: &'a Index<'a>,
    nodes: Vec<Node>,
    numbers: FxHashMap<Node, u32>,
    enders: super::liveness::Enders,
    seeds: Vec<(u32, Prospect)>,
    waits: FxHashMap<u32, Wait>,
    expanded: FxHashSet<Node>,
}

impl Builder<'_> {
    fn finish(mut self) -> WaitGraph {
        self.enders.seal();
        let prospects = self.enders.prospects(&self.seeds);
        WaitGraph {
            nodes: self.nodes,
            numbers: self.numbers,
            enders: self.enders,
            prospects,
            waits: self.waits,
        }
    }

    fn number(&mut self, node: Node) -> u32 {
        if let Some(number) = self.numbers.get(&node) {
            return *number;
        }
        let number = self.enders.add_node();
        self.numbers.insert(node, number);
        self.nodes.push(node);
        match node {
            Node::Timer | Node::Terminal | Node::Device | Node::Remote(_) | Node::Unseen | Node::Outside => {
                self.seeds.push((number, Prospect::Alive));
            }
            Node::Signaller => self.seeds.push((number, Prospect::Doubtful)),
            Node::Thread(_)
            | Node::Process(_)
            | Node::AddressSpace(_)
            | Node::Futex(..)
            | Node::PipeEnd(..)
            | Node::Socket(_)
            | Node::FileLock(_)
            | Node::Children(_)
            | Node::PollSet(_) => {}
        }
        number
    }

    fn edge(&mut self, waiter: Node, ender: Node) {
        let (waiter, ender) = (self.number(waiter), self.number(ender));
        self.enders.add(waiter, ender);
    }

    fn alive(&mut self, node: Node) {
        let number = self.number(node);
        self.seeds.push((number, Prospect::Alive));
    }

    /// A process moves if any of its threads does; one that is dead already keeps nobody waiting.
    fn process(&mut self, waiter: Node, tgid: u32) {
        let process = Node::Process(tgid);
        self.edge(waiter, process);
        if !self.expanded.insert(process) {
            return;
        }
        let threads = self.index.threads(tgid);
        if !self.index.lives(tgid) {
            return self.alive(process);
        }
        for thread in threads {
            if !matches!(thread.state, TaskState::Zombie | TaskState::Dead) {
                self.edge(process, Node::Thread(thread.tid));
            }
        }
    }

    fn task(&mut self, task: &TaskObservation) {
        let node = Node::Thread(task.tid);
        if matches!(task.state, TaskState::Zombie | TaskState::Dead) {
            return;
        }
        if task.address_space != 0 {
            self.edge(Node::AddressSpace(task.address_space), node);
        }
        let settled = task
            .off_cpu_since_ns
            .is_some_and(|since| since.saturating_add(SETTLED_NS) <= self.index.picture.began_ns);
        let call = task.call.as_ref();
        let kind = match task.state {
            TaskState::Running | TaskState::Idle => return self.alive(node),
            _ if task.kernel_thread || task.moved => return self.alive(node),
            TaskState::Stopped => self.stopped(node, WaitKind::Stopped),
            TaskState::Traced => {
                if task.tracer != 0 {
                    self.process(node, task.tracer);
                }
                self.stopped(node, WaitKind::Traced)
            }
            TaskState::Uninterruptible if call.is_some_and(|call| call.call == Call::Vfork) => {
                self.vfork(node, task)
            }
            TaskState::Uninterruptible => {
                self.edge(node, Node::Device);
                WaitKind::Device
            }
            TaskState::Sleeping | TaskState::Zombie | TaskState::Dead => match call {
                Some(call) => self.call(node, task, call),
                None => self.outside(node, WaitKind::Other(None)),
            },
        };
        if !settled {
            self.alive(node);
        }
        let timed = call.is_some_and(|call| call.timed) && task.state == TaskState::Sleeping;
        if timed {
            self.edge(node, Node::Timer);
        }
        self.waits.insert(
            task.tid,
            Wait {
                kind,
                timed,
                since_ns: task.off_cpu_since_ns,
            },
        );
    }

    fn stopped(&mut self, node: Node, kind: WaitKind) -> WaitKind {
        let number = self.number(node);
        self.seeds.push((number, Prospect::HeldByStopped));
        kind
    }

    fn outside(&mut self, node: Node, kind: WaitKind) -> WaitKind {
        self.edge(node, Node::Outside);
        kind
    }

    fn call(&mut self, node: Node, task: &TaskObservation, blocked: &BlockedCall) -> WaitKind {
        match &blocked.call {
            Call::Futex(call) => self.futex(node, task, call),
            Call::Read { fd } => self.descriptor(node, task, *fd, End::Write, 0),
            Call::Write { fd } => self.descriptor(node, task, *fd, End::Read, 0),
            Call::Accept { .. } => self.outside(node, WaitKind::Accept),
            Call::Connect { fd, to } => self.connect(node, task, *fd, to.as_deref()),
            Call::Poll { watched, incomplete } => {
                self.poll(node, task, watched, *incomplete, 0);
                WaitKind::Poll
            }
            Call::EpollWait { fd } => {
                match self.index.descriptor(task, *fd).map(|row| &row.object) {
                    Some(FdObject::Epoll { watched, incomplete }) => {
                        self.poll(node, task, watched, *incomplete, 0);
                    }
                    _ => self.edge(node, Node::Outside),
                }
                WaitKind::Poll
            }
            Call::WaitChild { which, .. } => self.child(node, task, *which),
            Call::FileLock { .. } => self.file_lock(node, task),
            Call::Sleep => {
                self.edge(node, Node::Timer);
                WaitKind::Sleep
            }
            Call::Signal => self.outside(node, WaitKind::Signal),
            Call::Vfork => self.vfork(node, task),
            Call::Other => self.outside(node, WaitKind::Other(Some(blocked.number))),
        }
    }

    fn futex(&mut self, node: Node, task: &TaskObservation, call: &FutexCall) -> WaitKind {
        let kind = futex::classify(self.index, task, call);
        let word = Node::Futex(task.address_space, call.address);
        match kind {
            WaitKind::Mutex {
                owner, owner_lives, ..
            } => {
                self.edge(node, word);
                if owner_lives {
                    self.edge(word, Node::Thread(owner));
                }
            }
            WaitKind::Join { thread } => {
                self.edge(node, Node::Thread(thread));
                if self
                    .index
                    .task(thread)
                    .is_some_and(|target| target.state == TaskState::Zombie)
                {
                    self.alive(node);
                }
            }
            WaitKind::Futex { .. } if task.address_space != 0 => {
                self.edge(node, word);
                self.edge(word, Node::AddressSpace(task.address_space));
                // A signal handler may post it. Where the dispositions were not read, it may as well.
                if task
                    .signals
                    .is_none_or(|signals| signals.may_be_woken_from_outside())
                {
                    self.edge(word, Node::Signaller);
                }
            }
            _ => self.edge(node, Node::Outside),
        }
        kind
    }

    /// A call on a descriptor, that the holders of the `by` end can finish.
    fn descriptor(&mut self, node: Node, task: &TaskObservation, fd: i32, by: End, depth: u32) -> WaitKind {
        let Some(row) = self.index.descriptor(task, fd) else {
            return self.outside(node, WaitKind::Other(task.call.as_ref().map(|call| call.number)));
        };
        match &row.object {
            FdObject::Pipe(pipe) => {
                self.pipe(node, *pipe, by);
                match by {
                    End::Read => WaitKind::PipeFull(*pipe),
                    End::Write => WaitKind::PipeEmpty(*pipe),
                }
            }
            FdObject::Unix(id) => {
                match self.index.unix(*id) {
                    Some(socket) => self.unix(node, socket, by),
                    None => self.edge(node, Node::Outside),
                }
                socket_wait(*id, by)
            }
            FdObject::Inet(id) => {
                match self.index.inet(*id) {
                    Some(socket) => self.inet(node, socket, by),
                    None => self.edge(node, Node::Outside),
                }
                socket_wait(*id, by)
            }
            FdObject::Epoll { watched, incomplete } if depth < POLL_DEPTH => {
                self.poll(node, task, watched, *incomplete, depth + 1);
                WaitKind::Poll
            }
            FdObject::Terminal => {
                self.edge(node, Node::Terminal);
                WaitKind::Terminal
            }
            FdObject::Epoll { .. }
            | FdObject::OtherSocket
            | FdObject::Null
            | FdObject::LockedFile(_)
            | FdObject::Other => {
                self.outside(node, WaitKind::Other(task.call.as_ref().map(|call| call.number)))
            }
        }
    }

    /// Waits for the holders of one end of a pipe: to write if it is empty, to read if it is full.
    fn pipe(&mut self, node: Node, pipe: FileId, by: End) {
        // Not full, or not empty: the wait is ending right now.
        let ending = self.index.pipe_fill(pipe).is_some_and(|fill| match by {
            End::Read => !fill.is_full() || fill.readers == 0,
            End::Write => fill.used > 0 || fill.writers == 0,
        });
        if ending {
            return self.alive(node);
        }
        let end = Node::PipeEnd(pipe, by);
        self.edge(node, end);
        if !self.expanded.insert(end) {
            return;
        }
        for tgid in self.index.pipe_processes(pipe, by) {
            self.process(end, tgid);
        }
        if self.index.has_unseen_holder(pipe, by) {
            self.edge(end, Node::Unseen);
        } else if self.index.pipe_fill(pipe).is_none() && self.index.pipe_holders(pipe, by).is_empty() {
            // Without a view into the pipe, an end that nobody holds may be held by somebody who cannot be seen.
            self.edge(end, Node::Outside);
        }
    }

    fn holders(&mut self, node: Node, socket: SocketId) {
        let holders = Node::Socket(socket);
        self.edge(node, holders);
        if !self.expanded.insert(holders) {
            return;
        }
        let processes = self.index.socket_processes(socket);
        if processes.is_empty() {
            // In flight, not yet accepted, or of a process that cannot be seen.
            self.edge(holders, Node::Outside);
        }
        for tgid in processes {
            self.process(holders, tgid);
        }
    }

    fn unix(&mut self, node: Node, socket: &UnixObservation, by: End) {
        let timed = if by == End::Write {
            socket.read_timeout
        } else {
            socket.write_timeout
        };
        if timed {
            self.edge(node, Node::Timer);
        }
        let arrived =
            by == End::Write && socket.state != UnixState::Listening && socket.queued.is_some_and(|n| n > 0);
        // Anybody may send to a datagram socket.
        let anybody = by == End::Write && socket.kind == UnixKind::Datagram;
        let receiver = if by == End::Read {
            self.index.unix_receiver(socket)
        } else {
            socket.peer
        };
        match receiver {
            Some(peer) if !anybody && !arrived => self.holders(node, peer),
            _ => self.edge(node, Node::Outside),
        }
    }

    fn inet(&mut self, node: Node, socket: &InetObservation, by: End) {
        let timed = if by == End::Write {
            socket.read_timeout
        } else {
            socket.write_timeout
        };
        if timed {
            self.edge(node, Node::Timer);
        }
        let arrived = by == End::Write && socket.receive_queue > 0;
        if !socket.tcp || arrived || socket.remote.port() == 0 {
            return self.edge(node, Node::Outside);
        }
        match self.index.inet_peer(socket) {
            Some(peer) => self.holders(node, peer),
            None => self.edge(node, Node::Remote(socket.remote)),
        }
    }

    fn connect(&mut self, node: Node, task: &TaskObservation, fd: i32, to: Option<&[u8]>) -> WaitKind {
        const AF_UNIX: u16 = 1;
        let family = to
            .and_then(|to| to.first_chunk())
            .map(|bytes| u16::from_ne_bytes(*bytes));
        let listener = match (family, to) {
            (Some(AF_UNIX), Some(to)) => {
                let path = &to[2..];
                // A path ends at its NUL; an abstract name begins with one and has the length given.
                let name = match path.first() {
                    Some(0) | None => path,
                    Some(_) => path.split(|byte| *byte == 0).next().unwrap_or_default(),
                };
                let net_ns = match self.index.descriptor(task, fd).map(|row| &row.object) {
                    Some(FdObject::Unix(id)) => self.index.unix(*id).map_or(0, |socket| socket.net_ns),
                    _ => 0,
                };
                self.index.unix_listener(name, net_ns).map(|listener| listener.id)
            }
            _ => match self.index.descriptor(task, fd).map(|row| &row.object) {
                Some(FdObject::Inet(id)) => self
                    .index
                    .inet(*id)
                    .and_then(|socket| self.index.inet_listener(socket))
                    .map(|listener| listener.id),
                _ => None,
            },
        };
        match listener {
            Some(listener) => {
                self.holders(node, listener);
                WaitKind::Connect(listener)
            }
            None => self.outside(node, WaitKind::ConnectOutside),
        }
    }

    fn poll(&mut self, node: Node, task: &TaskObservation, watched: &[Watch], incomplete: bool, depth: u32) {
        let set = Node::PollSet(task.tid);
        self.edge(node, set);
        if incomplete || watched.is_empty() {
            self.edge(set, Node::Outside);
        }
        for watch in watched {
            if watch.read {
                self.watched(set, task, watch.fd, End::Write, depth);
            }
            if watch.write {
                self.watched(set, task, watch.fd, End::Read, depth);
            }
            if !watch.read && !watch.write {
                self.edge(set, Node::Outside);
            }
        }
        // Signals interrupt a poll: that of a child's end, and any other that has a handler.
        if !self.index.children(task.tgid).is_empty() {
            self.children(set, task.tgid);
        }
        if task
            .signals
            .is_none_or(|signals| signals.may_be_woken_from_outside())
        {
            self.edge(set, Node::Signaller);
        }
    }

    fn watched(&mut self, set: Node, task: &TaskObservation, fd: i32, by: End, depth: u32) {
        let listening = self
            .index
            .descriptor(task, fd)
            .is_some_and(|row| match row.object {
                FdObject::Unix(id) => self
                    .index
                    .unix(id)
                    .is_some_and(|one| one.state == UnixState::Listening),
                FdObject::Inet(id) => self
                    .index
                    .inet(id)
                    .is_some_and(|one| one.state == crate::index::TCP_LISTEN),
                _ => false,
            });
        if listening {
            self.edge(set, Node::Outside);
        } else {
            self.descriptor(set, task, fd, by, depth);
        }
    }

    fn children(&mut self, node: Node, tgid: u32) {
        let children = Node::Children(tgid);
        self.edge(node, children);
        if self.expanded.insert(children) {
            for child in self.index.children(tgid) {
                self.process(children, *child);
            }
        }
    }

    fn child(&mut self, node: Node, task: &TaskObservation, which: WaitFor) -> WaitKind {
        let children = self.index.children(task.tgid);
        let fitting: Vec<u32> = match which {
            WaitFor::Any | WaitFor::Unknown => Vec::new(),
            WaitFor::Process(pid) => {
                let is_it = |row: &TaskObservation| row.tgid == pid || row.ns_tgid == pid;
                children
                    .iter()
                    .copied()
                    .filter(|one| self.index.process(*one).is_some_and(is_it))
                    .collect()
            }
            WaitFor::Group(pgid) => {
                let pgid = if pgid == 0 { task.pgid } else { pgid };
                let is_in = |row: &TaskObservation| row.pgid == pgid;
                children
                    .iter()
                    .copied()
                    .filter(|one| self.index.process(*one).is_some_and(is_in))
                    .collect()
            }
        };
        if children.is_empty()
            || task.tracer != 0
            || self.index.processes().any(|one| one.tracer == task.tgid)
        {
            // A tracer waits for those it traces, whosever children they are; their stops are news as well.
            self.edge(node, Node::Outside);
        } else if fitting.is_empty() {
            self.children(node, task.tgid);
        }
        for child in fitting {
            self.process(node, child);
        }
        WaitKind::Child
    }

    fn vfork(&mut self, node: Node, task: &TaskObservation) -> WaitKind {
        let shares = |child: &&u32| {
            self.index
                .process(**child)
                .is_some_and(|row| row.address_space == task.address_space)
        };
        let sharing: Vec<u32> = self
            .index
            .children(task.tgid)
            .iter()
            .filter(shares)
            .copied()
            .collect();
        if sharing.is_empty() {
            self.edge(node, Node::Outside);
        }
        for child in sharing {
            self.process(node, child);
        }
        WaitKind::Vfork
    }

    fn file_lock(&mut self, node: Node, task: &TaskObservation) -> WaitKind {
        let Some(request) = self.index.awaited_lock(task) else {
            return self.outside(node, WaitKind::Other(task.call.as_ref().map(|call| call.number)));
        };
        let lock = Node::FileLock(request.number);
        self.edge(node, lock);
        if self.expanded.insert(lock) {
            let holders = self.index.lock_holders(request);
            if holders.is_empty() {
                self.edge(lock, Node::Outside);
            }
            for tgid in holders {
                self.process(lock, tgid);
            }
        }
        WaitKind::FileLock {
            file: request.file,
            kind: request.kind,
        }
    }
}

fn socket_wait(id: SocketId, by: End) -> WaitKind {
    match by {
        End::Read => WaitKind::SocketWrite(id),
        End::Write => WaitKind::SocketRead(id),
    }
}

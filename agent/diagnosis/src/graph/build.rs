//! From an indexed picture to the graph: one rule for each way to wait (the table in ARCHITECTURE.md).

mod descriptors;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Node, Prospect, Wait, WaitGraph, WaitKind, futex};
use crate::index::{End, Index};
use crate::observation::{BlockedCall, Call, FdObject, FutexCall, TaskObservation, TaskState, WaitFor};

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

//! The wait graph: the one mechanism by which rung tells a dead wait from a live one, and a cause from a symptom.
//!
//! Every blocked thread gets a [`Wait`], and edges to those that could end it. See [`liveness`] for the rule.

mod build;
pub mod chain;
mod futex;
pub mod liveness;

use rustc_hash::FxHashMap;

use crate::index::{End, Index};
use crate::observation::{FileId, LockKind, SocketAddress, SocketId};
pub use crate::why::Prospect;
use liveness::Enders;

/// What can stand in the graph. A closed list: whatever is not in it is [`Node::Outside`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A thread, by tid.
    Thread(u32),
    /// Any thread of a process.
    Process(u32),
    /// Any thread of an address space.
    AddressSpace(u64),
    /// A futex word of an address space.
    Futex(u64, u64),
    /// The holders of one end of a pipe.
    PipeEnd(FileId, End),
    /// The holders of a socket.
    Socket(SocketId),
    /// The holders of the lock that a request waits for, by the request's number in the kernel's table.
    FileLock(u64),
    /// The children of a process.
    Children(u32),
    /// Whatever can end one of the waits of a thread's poll set.
    PollSet(u32),
    /// The clock.
    Timer,
    /// A person at a terminal.
    Terminal,
    /// A disk or another device.
    Device,
    /// Another host.
    Remote(SocketAddress),
    /// Somebody who can send a signal.
    Signaller,
    /// Somebody who holds something but was not seen doing so.
    Unseen,
    /// Anything else beyond the threads of this host.
    Outside,
}

/// How a thread waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// For a mutex whose owner is known: the owner's tid, or the id of one that no longer exists.
    Mutex {
        /// Address of the futex word.
        address: u64,
        /// The owner's id as user space wrote it.
        owner: u32,
        /// Whether that thread still exists.
        owner_lives: bool,
    },
    /// For a thread to end (pthread_join(3)).
    Join {
        /// The thread.
        thread: u32,
    },
    /// In a futex whose owner is not known: a condition variable, a semaphore, a lock of another library.
    Futex {
        /// Address of the futex word.
        address: u64,
        /// The word holds what a contended lock without owner holds.
        lock_like: bool,
    },
    /// In a futex shared between processes, whose owner is not known.
    SharedFutex {
        /// Address of the futex word.
        address: u64,
    },
    /// For room in a pipe.
    PipeFull(FileId),
    /// For data in a pipe.
    PipeEmpty(FileId),
    /// For data from a socket.
    SocketRead(SocketId),
    /// For room to send.
    SocketWrite(SocketId),
    /// For a connection to be accepted by a listener on this host.
    Connect(SocketId),
    /// For a connection to another host or an unknown listener, by the connecting socket if it is known.
    ConnectOutside(Option<SocketId>),
    /// For somebody to connect.
    Accept,
    /// For one of several descriptors.
    Poll,
    /// For a child.
    Child,
    /// For a file lock.
    FileLock {
        /// The locked file.
        file: FileId,
        /// Kind of lock.
        kind: LockKind,
    },
    /// For a child to exec or exit (vfork(2)).
    Vfork,
    /// For time to pass.
    Sleep,
    /// For a signal.
    Signal,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by its tracer.
    Traced,
    /// In uninterruptible sleep.
    Device,
    /// For a person at a terminal.
    Terminal,
    /// In some other system call, or in none (a page fault).
    Other(Option<i32>),
}

/// One thread's wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How.
    pub kind: WaitKind,
    /// Whether it ends by itself after a while.
    pub timed: bool,
    /// Off the CPU since then, `CLOCK_MONOTONIC` ns, if known.
    pub since_ns: Option<u64>,
}

/// A set of threads that wait for each other in a circle, or for nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knot {
    /// Its threads, by tid.
    pub threads: Vec<u32>,
    /// [`Prospect::Dead`], or [`Prospect::Doubtful`] where a signal might help.
    pub prospect: Prospect,
}

/// The graph of one picture.
pub struct WaitGraph {
    nodes: Vec<Node>,
    numbers: FxHashMap<Node, u32>,
    enders: Enders,
    prospects: Vec<Prospect>,
    waits: FxHashMap<u32, Wait>,
}

impl WaitGraph {
    /// Builds the graph of a picture.
    pub fn new(index: &Index<'_>) -> Self {
        build::build(index)
    }

    /// How a thread waits; `None` if it runs, or did a moment ago.
    pub fn wait(&self, tid: u32) -> Option<&Wait> {
        self.waits.get(&tid)
    }

    /// Every waiting thread with its wait, by tid.
    pub fn waits(&self) -> impl Iterator<Item = (u32, &Wait)> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Thread(tid) => self.waits.get(tid).map(|wait| (*tid, wait)),
            _ => None,
        })
    }

    /// Whether the wait of a node can end. Nodes that nobody waits for or in are alive.
    pub fn prospect(&self, node: Node) -> Prospect {
        self.numbers
            .get(&node)
            .map_or(Prospect::Alive, |number| self.prospects[*number as usize])
    }

    /// Those that could end the wait of a node.
    pub fn enders(&self, node: Node) -> impl Iterator<Item = Node> {
        let enders = self
            .numbers
            .get(&node)
            .map_or(&[][..], |number| self.enders.of(*number));
        enders.iter().map(|ender| self.nodes[*ender as usize])
    }

    /// The knots: where chains of waits end without anybody alive.
    pub fn knots(&self) -> Vec<Knot> {
        let mut knots = Vec::new();
        for prospect in [Prospect::Dead, Prospect::Doubtful] {
            let inside = |number: u32| {
                self.prospects[number as usize] == prospect && self.nodes[number as usize] != Node::Signaller
            };
            for sink in self.enders.sinks(inside) {
                let mut threads: Vec<u32> = sink
                    .iter()
                    .filter_map(|number| match self.nodes[*number as usize] {
                        Node::Thread(tid) => Some(tid),
                        _ => None,
                    })
                    .collect();
                if threads.is_empty() {
                    // A lock whose owner is gone, say: those who wait for it are the knot.
                    threads = self.waiters_of(&sink);
                }
                threads.sort_unstable();
                if !threads.is_empty() {
                    knots.push(Knot { threads, prospect });
                }
            }
        }
        knots
    }

    fn waiters_of(&self, sink: &[u32]) -> Vec<u32> {
        let waits = self.waits.keys().copied();
        waits
            .filter(|tid| {
                let enders = self
                    .numbers
                    .get(&Node::Thread(*tid))
                    .map_or(&[][..], |number| self.enders.of(*number));
                !enders.is_empty() && enders.iter().all(|ender| sink.contains(ender))
            })
            .collect()
    }

    /// Every node that can be reached from one, itself included, with its distance in edges; nearest first.
    pub fn reach(&self, from: Node) -> Vec<(Node, u32)> {
        let Some(start) = self.numbers.get(&from) else {
            return vec![(from, 0)];
        };
        let mut seen = vec![false; self.nodes.len()];
        seen[*start as usize] = true;
        let mut order = vec![(*start, 0)];
        let mut at = 0;
        while let Some((number, distance)) = order.get(at).copied() {
            at += 1;
            for ender in self.enders.of(number) {
                if !std::mem::replace(&mut seen[*ender as usize], true) {
                    order.push((*ender, distance + 1));
                }
            }
        }
        order
            .into_iter()
            .map(|(number, distance)| (self.nodes[number as usize], distance))
            .collect()
    }

    /// How many nodes and edges there are.
    pub fn size(&self) -> (usize, usize) {
        (
            self.nodes.len(),
            (0..self.enders.len() as u32)
                .map(|node| self.enders.of(node).len())
                .sum(),
        )
    }
}

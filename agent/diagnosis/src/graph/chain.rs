//! Following a wait to its end, and saying it in words.

use rustc_hash::FxHashSet;

use super::{Node, Prospect, Wait, WaitGraph, WaitKind};
use crate::finding::ChainLink;
use crate::index::Index;
use crate::observation::{FdObject, InetObservation, SocketId, TaskState};

/// A chain longer than this is cut; what matters is at its ends.
const LINKS_MAX: usize = 64;

/// Where one step of a chain leads.
enum Next {
    Thread(u32),
    End(String),
}

impl WaitGraph {
    /// The chain from a thread to whoever could get it going, or round to where it closes.
    pub fn chain(&self, index: &Index<'_>, tid: u32) -> Vec<ChainLink> {
        let mut links = Vec::new();
        let mut seen = FxHashSet::default();
        let mut thread = tid;
        while links.len() < LINKS_MAX && seen.insert(thread) {
            let comm = index
                .task(thread)
                .map_or_else(String::new, |task| task.comm.to_string());
            let Some(wait) = self.wait(thread) else {
                links.push(ChainLink {
                    thread,
                    comm,
                    waits: "does not wait".into(),
                    on: None,
                    ends: Some(self.at_work(index, thread)),
                });
                break;
            };
            let mut link = ChainLink {
                thread,
                comm,
                waits: describe(index, wait),
                on: None,
                ends: None,
            };
            let next = match awaited_answer(index, thread, wait) {
                Some(socket) => {
                    link.waits = format!(
                        "an answer on {}, among what it polls",
                        socket_in_words(index, socket.id)
                    );
                    self.peer(index, socket)
                }
                None => self.next(index, thread, wait),
            };
            match next {
                Next::Thread(next) => {
                    link.on = Some(next);
                    if seen.contains(&next) {
                        link.ends = Some("a circle".into());
                    }
                    links.push(link);
                    thread = next;
                }
                Next::End(end) => {
                    link.ends = Some(end);
                    links.push(link);
                    break;
                }
            }
        }
        links
    }

    fn at_work(&self, index: &Index<'_>, tid: u32) -> String {
        match index.task(tid).map(|task| task.state) {
            Some(TaskState::Running) => "a running thread".into(),
            Some(TaskState::Zombie | TaskState::Dead) | None => "a thread that is gone".into(),
            Some(_) => "a thread that ran a moment ago".into(),
        }
    }

    /// Who has to answer on a connection: of the peer's threads the deadest, then one that awaits an answer itself.
    fn peer(&self, index: &Index<'_>, socket: &InetObservation) -> Next {
        let peer = index
            .inet_peer(socket)
            .or_else(|| index.inet_listener(socket).map(|listener| listener.id));
        let processes = peer.map_or_else(Vec::new, |peer| index.socket_processes(peer));
        let threads = processes.iter().flat_map(|pid| index.threads(*pid));
        let best = threads
            .filter(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead))
            .max_by_key(|task| {
                let awaits = self
                    .wait(task.tid)
                    .is_some_and(|wait| awaited_answer(index, task.tid, wait).is_some());
                let prospect = self.prospect(Node::Thread(task.tid));
                (
                    prospect,
                    awaits,
                    task.tid == task.tgid,
                    std::cmp::Reverse(task.tid),
                )
            });
        match best {
            Some(task) => Next::Thread(task.tid),
            None => Next::End(end_in_words(Node::Remote(socket.remote))),
        }
    }

    /// The ender to follow: the deadest one first; among the living, the one that the wait is about.
    fn next(&self, index: &Index<'_>, tid: u32, wait: &Wait) -> Next {
        // A lock of unknown owner that can still be released: anybody of the process may do it.
        if matches!(wait.kind, WaitKind::Futex { .. }) && self.prospect(Node::Thread(tid)) == Prospect::Alive
        {
            return Next::End(
                if wait.timed {
                    "the clock"
                } else {
                    "another thread of the process"
                }
                .into(),
            );
        }
        let own = index.task(tid).map(|task| task.tgid);
        let mut threads: Vec<u32> = Vec::new();
        let mut ends: Vec<Node> = Vec::new();
        let mut seen = FxHashSet::default();
        let mut queue: Vec<Node> = self.enders(Node::Thread(tid)).collect();
        while let Some(node) = queue.pop() {
            if !seen.insert(node) {
                continue;
            }
            match node {
                Node::Thread(thread) => threads.push(thread),
                Node::Timer
                | Node::Terminal
                | Node::Device
                | Node::Remote(_)
                | Node::Signaller
                | Node::Unseen
                | Node::Outside => ends.push(node),
                Node::Process(_)
                | Node::AddressSpace(_)
                | Node::Futex(..)
                | Node::PipeEnd(..)
                | Node::Socket(_)
                | Node::FileLock(_)
                | Node::Children(_)
                | Node::PollSet(_) => queue.extend(self.enders(node)),
            }
        }
        let best = threads.into_iter().max_by_key(|thread| {
            let task = index.task(*thread);
            let is_leader = task.is_some_and(|task| task.tid == task.tgid);
            let is_other = task.map(|task| task.tgid) != own;
            let prospect = self.prospect(Node::Thread(*thread));
            (
                prospect,
                is_other,
                *thread != tid,
                is_leader,
                std::cmp::Reverse(*thread),
            )
        });
        let polls = matches!(wait.kind, WaitKind::Poll);
        match best {
            // A poll that somebody outside can end as well is not about this one thread.
            Some(thread)
                if !(polls && self.prospect(Node::Thread(tid)) == Prospect::Alive && !ends.is_empty()) =>
            {
                Next::Thread(thread)
            }
            _ => Next::End(
                ends.into_iter()
                    .min()
                    .map_or_else(|| "nobody".into(), end_in_words),
            ),
        }
    }
}

/// The connection on which a thread that polls many has awaited an answer for longest: of all that could end such a wait,
/// somebody waits for that one.
fn awaited_answer<'a>(index: &Index<'a>, tid: u32, wait: &Wait) -> Option<&'a InetObservation> {
    if !matches!(wait.kind, WaitKind::Poll) {
        return None;
    }
    let task = index.task(tid)?;
    let sockets =
        index
            .polled(task)
            .iter()
            .filter_map(|watch| match index.descriptor(task, watch.fd)?.object {
                FdObject::Inet(id) => index.inet(id),
                _ => None,
            });
    sockets
        .filter(|socket| index.awaits_answer(socket) == Some(true))
        .max_by_key(|socket| (socket.figures.map(|figures| figures.last_sent_ms), socket.id))
}

fn end_in_words(node: Node) -> String {
    match node {
        Node::Timer => "the clock".into(),
        Node::Terminal => "a person at a terminal".into(),
        Node::Device => "a device".into(),
        Node::Remote(address) => format!("{address}, beyond this host"),
        Node::Signaller => "a signal".into(),
        Node::Unseen => "a holder that was not seen".into(),
        _ => "something outside the threads of this host".into(),
    }
}

/// A wait in words, to follow "waits for ".
pub fn describe(index: &Index<'_>, wait: &Wait) -> String {
    let text = match &wait.kind {
        WaitKind::Mutex {
            address,
            owner,
            owner_lives: true,
        } => format!("mutex {address:#x} owned by thread {owner}"),
        WaitKind::Mutex {
            address,
            owner,
            owner_lives: false,
        } => {
            format!("mutex {address:#x} owned by thread {owner}, which no longer exists")
        }
        WaitKind::Join { thread } => format!("thread {thread} to end"),
        WaitKind::Futex { address, .. } => format!("futex {address:#x} (owner unknown)"),
        WaitKind::SharedFutex { address } => format!("shared futex {address:#x} (owner unknown)"),
        WaitKind::PipeFull(pipe) => format!("room in pipe:[{}]", pipe.inode),
        WaitKind::PipeEmpty(pipe) => format!("data from pipe:[{}]", pipe.inode),
        WaitKind::SocketRead(socket) => format!("data from {}", socket_in_words(index, *socket)),
        WaitKind::SocketWrite(socket) => format!("room to send on {}", socket_in_words(index, *socket)),
        WaitKind::Connect(listener) => format!("{} to accept", socket_in_words(index, *listener)),
        WaitKind::ConnectOutside(socket) => match socket.and_then(|socket| index.inet(socket)) {
            Some(socket) => format!("a connection to {}", socket.remote),
            None => "a connection".into(),
        },
        WaitKind::Accept => "somebody to connect".into(),
        WaitKind::Poll => "one of the descriptors it polls".into(),
        WaitKind::Child => "a child to end".into(),
        WaitKind::FileLock { file, kind } => format!(
            "a {kind} on file {}:{}:{}",
            file.device >> 20,
            file.device & 0xf_ffff,
            file.inode
        ),
        WaitKind::Vfork => "its vfork child to exec or end".into(),
        WaitKind::Sleep => "time to pass".into(),
        WaitKind::Signal => "a signal".into(),
        WaitKind::Stopped => "somebody to continue it (stopped by a signal)".into(),
        WaitKind::Traced => "its tracer to continue it".into(),
        WaitKind::Device => "a device (uninterruptible sleep)".into(),
        WaitKind::Terminal => "input at a terminal".into(),
        WaitKind::Other(Some(number)) => format!("system call {number} to finish"),
        WaitKind::Other(None) => "something in the kernel".into(),
    };
    if wait.timed && !matches!(wait.kind, WaitKind::Sleep) {
        format!("{text}, with a timeout")
    } else {
        text
    }
}

/// A socket by its name or addresses.
pub fn socket_in_words(index: &Index<'_>, id: SocketId) -> String {
    if let Some(socket) = index.unix(id) {
        let named = if socket.name.is_empty() {
            socket
                .peer
                .and_then(|peer| index.unix(peer))
                .filter(|peer| !peer.name.is_empty())
        } else {
            Some(socket)
        };
        return match named {
            Some(named) => format!("Unix socket {}", unix_name(&named.name)),
            None => format!("Unix socket:[{}]", socket.inode),
        };
    }
    match index.inet(id) {
        Some(socket) if socket.remote.port() == 0 => format!("socket {}", socket.local),
        Some(socket) => format!("socket {} -> {}", socket.local, socket.remote),
        None => "a socket".into(),
    }
}

/// The name of a Unix socket, printable; abstract names with a leading `@`, as ss(8) shows them.
pub fn unix_name(name: &[u8]) -> String {
    match name {
        [0, rest @ ..] => format!("@{}", rest.escape_ascii()),
        path => path
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .escape_ascii()
            .to_string(),
    }
}

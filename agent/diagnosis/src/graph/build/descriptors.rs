//! Waits on descriptors: pipes, sockets, connections, polls.

use super::{Builder, POLL_DEPTH};
use crate::graph::{Node, WaitKind};
use crate::index::{End, TCP_SYN_SENT};
use crate::observation::{
    FdObject, FileId, InetObservation, SocketId, TaskObservation, UnixKind, UnixObservation, UnixState, Watch,
};

impl Builder<'_> {
    /// A call on a descriptor, that the holders of the `by` end can finish.
    pub(super) fn descriptor(
        &mut self,
        node: Node,
        task: &TaskObservation,
        fd: i32,
        by: End,
        depth: u32,
    ) -> WaitKind {
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
            FdObject::Epoll { .. } | FdObject::OtherSocket | FdObject::LockedFile(_) | FdObject::Other => {
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

    /// SO_RCVTIMEO bounds a wait for the other side to write, SO_SNDTIMEO one for it to read (socket(7)).
    fn socket_timeout(&mut self, node: Node, by: End, read_timeout: bool, write_timeout: bool) {
        let timed = match by {
            End::Write => read_timeout,
            End::Read => write_timeout,
        };
        if timed {
            self.edge(node, Node::Timer);
        }
    }

    fn unix(&mut self, node: Node, socket: &UnixObservation, by: End) {
        self.socket_timeout(node, by, socket.read_timeout, socket.write_timeout);
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
        self.socket_timeout(node, by, socket.read_timeout, socket.write_timeout);
        let arrived = by == End::Write && socket.receive_queue > 0;
        if !socket.tcp || arrived || socket.remote.port() == 0 {
            return self.edge(node, Node::Outside);
        }
        if socket.state == TCP_SYN_SENT {
            // A poll for the end of a connect that does not block.
            return match self.index.inet_listener(socket) {
                Some(listener) => self.holders(node, listener.id),
                None => self.edge(node, Node::Remote(socket.remote)),
            };
        }
        if let Some(peer) = self.index.inet_peer(socket) {
            return self.holders(node, peer);
        }
        match self.index.inet_listener(socket) {
            // Nobody holds the other end: the listener has not accepted it yet, or somebody holds it who is not seen.
            Some(listener) if !self.index.is_inbound(socket) => {
                self.holders(node, listener.id);
                self.edge(node, Node::Unseen);
            }
            _ => self.edge(node, Node::Remote(socket.remote)),
        }
    }

    pub(super) fn connect(
        &mut self,
        node: Node,
        task: &TaskObservation,
        fd: i32,
        to: Option<&[u8]>,
    ) -> WaitKind {
        const AF_UNIX: u16 = 1;
        let family = to
            .and_then(|to| to.first_chunk())
            .map(|bytes| u16::from_ne_bytes(*bytes));
        let object = self.index.descriptor(task, fd).map(|row| &row.object);
        let unix = match object {
            Some(FdObject::Unix(id)) => self.index.unix(*id),
            _ => None,
        };
        let inet = match object {
            Some(FdObject::Inet(id)) => self.index.inet(*id),
            _ => None,
        };
        let listener = match (family, to) {
            (Some(AF_UNIX), Some(to)) => {
                let path = &to[2..];
                // A path ends at its NUL; an abstract name begins with one and has the length given.
                let name = match path.first() {
                    Some(0) | None => path,
                    Some(_) => path.split(|byte| *byte == 0).next().unwrap_or_default(),
                };
                let net_ns = unix.map_or(0, |socket| socket.net_ns);
                self.index.unix_listener(name, net_ns).map(|listener| listener.id)
            }
            _ => inet
                .and_then(|socket| self.index.inet_listener(socket))
                .map(|listener| listener.id),
        };
        match (listener, inet.filter(|socket| socket.remote.port() != 0)) {
            (Some(listener), _) => {
                self.holders(node, listener);
                WaitKind::Connect(listener)
            }
            (None, Some(socket)) => {
                self.edge(node, Node::Remote(socket.remote));
                WaitKind::ConnectOutside(Some(socket.id))
            }
            (None, None) => self.outside(node, WaitKind::ConnectOutside(None)),
        }
    }

    pub(super) fn poll(
        &mut self,
        node: Node,
        task: &TaskObservation,
        watched: &[Watch],
        incomplete: bool,
        depth: u32,
    ) {
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
}

fn socket_wait(id: SocketId, by: End) -> WaitKind {
    match by {
        End::Read => WaitKind::SocketWrite(id),
        End::Write => WaitKind::SocketRead(id),
    }
}

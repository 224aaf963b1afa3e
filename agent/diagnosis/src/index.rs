//! A picture, indexed: who is who, who holds what.

mod sockets;

use rustc_hash::FxHashMap;

use self::sockets::SocketTables;
use crate::observation::{
    Call, DescriptorObservation, FdObject, FileId, LockObservation, Picture, PipeFill, TaskObservation,
    TaskState, Watch,
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
/// TCP's state while an attempt has no answer.
pub const TCP_SYN_SENT: u8 = 2;
/// TCP's state once the peer has closed and this side has not.
pub const TCP_CLOSE_WAIT: u8 = 8;

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
    sockets: SocketTables<'a>,
    locked_files: FxHashMap<FileId, Vec<&'a DescriptorObservation>>,
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
            sockets: SocketTables::new(picture),
            locked_files: FxHashMap::default(),
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
                    self.sockets.held_by(*socket, row);
                }
                FdObject::LockedFile(file) => self.locked_files.entry(*file).or_default().push(row),
                FdObject::OtherSocket | FdObject::Epoll { .. } | FdObject::Terminal | FdObject::Other => {}
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

    /// The descriptors that a thread polls, where it does; those of an event poll are the first of them.
    pub fn polled(&self, task: &'a TaskObservation) -> &'a [Watch] {
        match task.call.as_ref().map(|call| &call.call) {
            Some(Call::Poll { watched, .. }) => watched,
            Some(Call::EpollWait { fd }) => match self.descriptor(task, *fd).map(|row| &row.object) {
                Some(FdObject::Epoll { watched, .. }) => watched,
                _ => &[],
            },
            _ => &[],
        }
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

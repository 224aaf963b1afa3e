//! Threads, and the system call each one is blocked in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A command name as the kernel keeps it: up to 15 bytes, any bytes, not necessarily UTF-8 (`prctl(2)`, `PR_SET_NAME`).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// Takes the bytes up to the first NUL, at most 15 of them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut comm = [0; 16];
        for (to, from) in comm[..15]
            .iter_mut()
            .zip(bytes.iter().take_while(|byte| **byte != 0))
        {
            *to = *from;
        }
        Comm(comm)
    }

    /// The bytes before the first NUL.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

/// Printable: control characters and bytes that are not UTF-8 come out as `\xNN`.
impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "\\x{:02x}", u32::from(character))?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Scheduler state of a thread, as in the state field of proc_pid_stat(5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// R: on a CPU or waiting for one.
    #[default]
    Running,
    /// S: interruptible sleep.
    Sleeping,
    /// D: uninterruptible sleep.
    Uninterruptible,
    /// T: stopped by a signal.
    Stopped,
    /// t: stopped by a tracer.
    Traced,
    /// Z: exited, not reaped.
    Zombie,
    /// X: being removed.
    Dead,
    /// I or P: an idle or parked kernel thread.
    Idle,
}

/// One thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskObservation {
    /// Thread id in the host's (the reader's) PID namespace.
    pub tid: u32,
    /// Thread group (process) id, likewise.
    pub tgid: u32,
    /// The process that will be told of this one's death (its real parent), 0 if none.
    pub parent: u32,
    /// The tracer's process id, 0 if not traced.
    pub tracer: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Thread id in the innermost PID namespace: what user space put into its futex words. 0 if unknown.
    pub ns_tid: u32,
    /// Process id in the innermost PID namespace. 0 if unknown.
    pub ns_tgid: u32,
    /// Inode number of the innermost PID namespace; 0 if unknown.
    pub pid_ns: u32,
    /// Depth of that namespace: 0 is the host's.
    pub pid_ns_level: u32,
    /// Command name.
    pub comm: Comm,
    /// Scheduler state.
    pub state: TaskState,
    /// A kernel thread.
    pub kernel_thread: bool,
    /// Has a controlling terminal.
    pub has_terminal: bool,
    /// Its parent is not the one that forked it: known where the source sees how many programs each has executed, and
    /// only if the one that forked it had executed more of them.
    pub adopted: bool,
    /// Which of the standard streams of its own descriptor table lead to /dev/null or /dev/zero: bits 0 to 2.
    pub null_streams: u8,
    /// Wait status, as wait(2) would give it; meaningful for zombies.
    pub exit_code: i32,
    /// Threads of the process that are not yet gone.
    pub threads: u32,
    /// Start time of this thread, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// CPU time used so far, ns.
    pub run_ns: u64,
    /// Time spent runnable but waiting for a CPU so far, ns.
    pub run_delay_ns: u64,
    /// Voluntary context switches.
    pub voluntary_switches: u64,
    /// Involuntary context switches.
    pub involuntary_switches: u64,
    /// Off the CPU since then at the latest; `None` if the source cannot tell.
    pub off_cpu_since_ns: Option<u64>,
    /// Control group (v2) id, 0 if unknown.
    pub cgroup_id: u64,
    /// Opaque identity of the address space; 0 for kernel threads and the dead. Processes that share it share
    /// private futexes.
    pub address_space: u64,
    /// Signal dispositions, where they were read.
    pub signals: Option<SignalMasks>,
    /// The system call it is in, if any.
    pub call: Option<BlockedCall>,
    /// It changed while its row was being read: it runs, and the row's wait is not to be trusted.
    pub moved: bool,
}

/// Signal dispositions of a process; bit `n - 1` stands for signal `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalMasks {
    /// Signals with a handler.
    pub caught: u64,
    /// Signals that are ignored.
    pub ignored: u64,
}

impl SignalMasks {
    /// Signals whose handlers say nothing about the outside: synchronous faults (SIGILL, SIGTRAP, SIGBUS, SIGFPE,
    /// SIGSEGV), which the thread raises itself, and glibc's own SIGCANCEL and SIGSETXID (nptl(7)).
    const NOT_FROM_OUTSIDE: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 31 | 1 << 32;

    /// Whether a signal from outside could run code of this process.
    pub fn may_be_woken_from_outside(self) -> bool {
        self.caught & !Self::NOT_FROM_OUTSIDE != 0
    }

    /// Whether SIGHUP is ignored, as under nohup(1).
    pub fn ignores_hangup(self) -> bool {
        self.ignored & 1 != 0
    }
}

/// The system call that a thread is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockedCall {
    /// System call number of the thread's architecture.
    pub number: i32,
    /// Whether the call ends by itself after some time.
    pub timed: bool,
    /// What it asks for.
    pub call: Call,
}

/// System calls that wait, by what they wait for. Everything else is `Other`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// futex(2), a waiting operation.
    Futex(FutexCall),
    /// read(2), recv(2), splice(2) and their kin: waits for data.
    Read {
        /// The descriptor read from.
        fd: i32,
    },
    /// write(2), send(2) and their kin: waits for room.
    Write {
        /// The descriptor written to.
        fd: i32,
    },
    /// accept(2).
    Accept {
        /// The listening descriptor.
        fd: i32,
    },
    /// connect(2).
    Connect {
        /// The connecting descriptor.
        fd: i32,
        /// Where to: the raw `sockaddr`, at most 128 bytes, if it could be read.
        to: Option<Vec<u8>>,
    },
    /// poll(2), select(2) and their kin.
    Poll {
        /// The first watched descriptors.
        watched: Vec<super::Watch>,
        /// There are more than could be read, or they could not be read.
        incomplete: bool,
    },
    /// epoll_wait(2) and its kin.
    EpollWait {
        /// The epoll descriptor.
        fd: i32,
    },
    /// wait4(2), waitid(2).
    WaitChild {
        /// Which children.
        which: WaitFor,
        /// Also returns when a child stops (WUNTRACED, WSTOPPED).
        or_stopped: bool,
    },
    /// flock(2), fcntl(2) with F_SETLKW or F_OFD_SETLKW.
    FileLock {
        /// The descriptor to lock.
        fd: i32,
    },
    /// nanosleep(2) and restarted timed calls.
    Sleep,
    /// pause(2), sigsuspend(2), sigwait(3).
    Signal,
    /// vfork(2) or clone(2) with CLONE_VFORK: waits for the child to exec or exit.
    Vfork,
    /// Anything else.
    Other,
}

/// The children that a wait call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    /// Any child.
    Any,
    /// One child, by the pid the caller uses (in its own PID namespace).
    Process(u32),
    /// The children of one process group, likewise.
    Group(u32),
    /// A child that the source cannot identify (a pidfd).
    Unknown,
}

/// A waiting futex(2) operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FutexCall {
    /// Address of the futex word in the waiter's address space.
    pub address: u64,
    /// The operation.
    pub op: FutexOp,
    /// FUTEX_PRIVATE_FLAG: only threads of the same address space can wake it.
    pub private: bool,
    /// The expected value given to the call.
    pub expected: u32,
    /// The memory at the word, if it could be read.
    pub words: Option<FutexWords>,
}

/// The futex operations that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FutexOp {
    /// FUTEX_WAIT.
    Wait,
    /// FUTEX_WAIT_BITSET.
    WaitBitset,
    /// FUTEX_LOCK_PI, FUTEX_LOCK_PI2.
    LockPi,
    /// FUTEX_WAIT_REQUEUE_PI, and futex_waitv(2) with its first futex.
    Other,
}

/// Five 32-bit words at the futex address. For a glibc `pthread_mutex_t` on a 64-bit host they are
/// `__lock, __count, __owner, __nusers, __kind` (glibc `sysdeps/nptl/bits/struct_mutex.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutexWords(pub [u32; 5]);

//! Which system call a blocked thread is in, and what it waits for there.
//!
//! Scope: pure decoding of a call number, its six arguments and a little of the caller's memory into
//! [`BlockedCall`]. Nothing here touches a kernel, so recordings of one architecture decode on another.
//!
//! Degradation policy: the arguments belong to the observed program and are not trusted. Memory that cannot be
//! read leaves the field empty (`words: None`, `to: None`) or the set `incomplete`; a call that is not in the table
//! is [`Call::Other`], which ends from outside. Memory is read only for futex, poll, select, connect and clone3.

mod numbers;
mod sets;
#[cfg(test)]
mod tests;

use rung_diagnosis::observation::{BlockedCall, Call, FutexCall, FutexOp, FutexWords, WaitFor, Watch};

use numbers::Name;
pub(crate) use sets::watch;

/// The architecture whose calling convention and numbers apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86; not its 32-bit and x32 calls.
    X86_64,
    /// 64-bit ARM; not its 32-bit calls.
    Aarch64,
}

impl Arch {
    /// The architecture that this program was built for, if its numbers are known.
    pub const fn of_build() -> Option<Arch> {
        if cfg!(target_arch = "x86_64") {
            Some(Arch::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Arch::Aarch64)
        } else {
            None
        }
    }
}

/// The memory of a blocked thread.
pub trait UserMemory {
    /// Fills the buffer from an address in the thread's address space; false if not all of it could be read.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> bool;
}

/// Memory of which nothing can be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

impl UserMemory for NoMemory {
    fn read(&mut self, _address: u64, _buffer: &mut [u8]) -> bool {
        false
    }
}

// include/uapi/linux/futex.h
const FUTEX_WAIT: u32 = 0;
const FUTEX_LOCK_PI: u32 = 6;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_WAIT_REQUEUE_PI: u32 = 11;
const FUTEX_LOCK_PI2: u32 = 13;
const FUTEX_PRIVATE_FLAG: u32 = 128;
const FUTEX_CLOCK_REALTIME: u32 = 256;
/// FUTEX_WAITV_MAX
const FUTEX_WAITV_MAX: u64 = 128;
/// sizeof(struct futex_waitv)
const FUTEX_WAITV_BYTES: usize = 24;

// include/uapi/linux/wait.h
const WNOHANG: u32 = 1;
const WSTOPPED: u32 = 2;
const P_ALL: u32 = 0;
const P_PID: u32 = 1;
const P_PGID: u32 = 2;

// include/uapi/asm-generic/fcntl.h
const F_SETLKW: u32 = 7;
const F_OFD_SETLKW: u32 = 38;

/// include/uapi/linux/sched.h
const CLONE_VFORK: u64 = 0x4000;
/// include/uapi/linux/io_uring.h
const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
/// sizeof(struct sockaddr_storage): the kernel takes no longer address.
const SOCKADDR_BYTES_MAX: usize = 128;

/// Decodes the call that a thread is in; `None` if it is in none (number -1).
///
/// Choices where the arguments alone do not say what the call waits for:
/// - sendfile(2) waits for room in its output; its input is a file, which ends by itself.
/// - splice(2) and tee(2) wait for data in the one or for room in the other: a [`Call::Poll`] over both, so that
///   whoever can end either counts.
/// - poll(2) and select(2) without any descriptor are a sleep if timed, and a wait for a signal if not.
/// - recvmmsg(2) looks at its timeout only after a datagram has come, so it counts as untimed.
pub fn decode(arch: Arch, number: i64, args: [u64; 6], memory: &mut dyn UserMemory) -> Option<BlockedCall> {
    if number < 0 {
        return None;
    }
    let Ok(number) = i32::try_from(number) else {
        return Some(other(i32::MAX));
    };
    let Some(name) = numbers::name(arch, number) else {
        return Some(other(number));
    };
    let (timed, call) = waits(name, args, memory);
    Some(BlockedCall { number, timed, call })
}

/// A call about which nothing but its number is known.
pub(crate) fn other(number: i32) -> BlockedCall {
    BlockedCall {
        number,
        timed: false,
        call: Call::Other,
    }
}

/// Whether the call ends by itself, and what it waits for.
fn waits(name: Name, args: [u64; 6], memory: &mut dyn UserMemory) -> (bool, Call) {
    let fd = int(args[0]);
    match name {
        Name::Read
        | Name::Readv
        | Name::Pread64
        | Name::Preadv
        | Name::Preadv2
        | Name::Recvfrom
        | Name::Recvmsg
        | Name::Recvmmsg => (false, Call::Read { fd }),
        Name::Write
        | Name::Writev
        | Name::Pwrite64
        | Name::Pwritev
        | Name::Pwritev2
        | Name::Sendto
        | Name::Sendmsg
        | Name::Sendmmsg
        | Name::Sendfile
        | Name::Vmsplice => (false, Call::Write { fd }),
        Name::Splice => (false, both_ends(fd, int(args[2]))),
        Name::Tee => (false, both_ends(fd, int(args[1]))),
        Name::Accept | Name::Accept4 => (false, Call::Accept { fd }),
        Name::Connect => (
            false,
            Call::Connect {
                fd,
                to: address(args[1], args[2], memory),
            },
        ),
        Name::Poll => {
            let timed = int(args[2]) >= 0;
            (timed, sets::poll(args[0], args[1], timed, memory))
        }
        Name::Ppoll => {
            let timed = args[2] != 0;
            (timed, sets::poll(args[0], args[1], timed, memory))
        }
        Name::Select | Name::Pselect6 => {
            let timed = args[4] != 0;
            let sets = [args[1], args[2], args[3]];
            (timed, sets::select(int(args[0]), sets, timed, memory))
        }
        Name::EpollWait | Name::EpollPwait => (int(args[3]) >= 0, Call::EpollWait { fd }),
        Name::EpollPwait2 => (args[3] != 0, Call::EpollWait { fd }),
        Name::Futex => futex(args, memory),
        Name::FutexWaitv => futex_waitv(args, memory),
        Name::FutexWait => {
            let private = low(args[3]) & FUTEX_PRIVATE_FLAG != 0;
            let call = futex_call(args[0], FutexOp::WaitBitset, private, low(args[1]), memory);
            (args[4] != 0, Call::Futex(call))
        }
        Name::Wait4 => wait4(int(args[0]), low(args[2])),
        Name::Waitid => waitid(low(args[0]), low(args[1]), low(args[3])),
        Name::Flock => (false, Call::FileLock { fd }),
        Name::Fcntl => match low(args[1]) {
            F_SETLKW | F_OFD_SETLKW => (false, Call::FileLock { fd }),
            _ => (false, Call::Other),
        },
        Name::Nanosleep | Name::ClockNanosleep | Name::RestartSyscall => (true, Call::Sleep),
        Name::Pause | Name::RtSigsuspend => (false, Call::Signal),
        Name::RtSigtimedwait => (args[2] != 0, Call::Signal),
        Name::Vfork => (false, Call::Vfork),
        Name::Clone => (false, clone(args[0])),
        Name::Clone3 => {
            let mut flags = [0; 8];
            let read = memory.read(args[0], &mut flags);
            (
                false,
                if read {
                    clone(u64::from_le_bytes(flags))
                } else {
                    Call::Other
                },
            )
        }
        Name::Semop | Name::Msgrcv | Name::Msgsnd => (false, Call::Other),
        Name::Semtimedop => (args[3] != 0, Call::Other),
        Name::MqTimedsend | Name::MqTimedreceive | Name::IoGetevents | Name::IoPgetevents => {
            (args[4] != 0, Call::Other)
        }
        // The structure behind argp also carries a signal mask, but liburing passes it for the timeout.
        Name::IoUringEnter => (args[3] & IORING_ENTER_EXT_ARG != 0 && args[4] != 0, Call::Other),
    }
}

/// The low half of an argument register: where C has `unsigned int`, the upper half is undefined.
fn low(arg: u64) -> u32 {
    (arg & u64::from(u32::MAX)) as u32
}

/// An argument that is an `int` in C.
fn int(arg: u64) -> i32 {
    low(arg).cast_signed()
}

fn both_ends(input: i32, output: i32) -> Call {
    Call::Poll {
        watched: vec![
            Watch {
                fd: input,
                read: true,
                write: false,
            },
            Watch {
                fd: output,
                read: false,
                write: true,
            },
        ],
        incomplete: false,
    }
}

fn address(at: u64, length: u64, memory: &mut dyn UserMemory) -> Option<Vec<u8>> {
    let length = usize::try_from(int(length)).ok().filter(|length| *length > 0)?;
    let mut bytes = vec![0; length.min(SOCKADDR_BYTES_MAX)];
    memory.read(at, &mut bytes).then_some(bytes)
}

fn clone(flags: u64) -> Call {
    if flags & CLONE_VFORK != 0 {
        Call::Vfork
    } else {
        Call::Other
    }
}

fn wait4(pid: i32, options: u32) -> (bool, Call) {
    let which = match pid {
        -1 => WaitFor::Any,
        1.. => WaitFor::Process(pid.unsigned_abs()),
        _ => WaitFor::Group(pid.unsigned_abs()),
    };
    wait_child(which, options)
}

fn waitid(id_type: u32, id: u32, options: u32) -> (bool, Call) {
    let which = match id_type {
        P_ALL => WaitFor::Any,
        P_PID => WaitFor::Process(id),
        P_PGID => WaitFor::Group(id),
        _ => WaitFor::Unknown,
    };
    wait_child(which, options)
}

fn wait_child(which: WaitFor, options: u32) -> (bool, Call) {
    let or_stopped = options & WSTOPPED != 0;
    (options & WNOHANG != 0, Call::WaitChild { which, or_stopped })
}

fn futex(args: [u64; 6], memory: &mut dyn UserMemory) -> (bool, Call) {
    let op = low(args[1]);
    let private = op & FUTEX_PRIVATE_FLAG != 0;
    let op = match op & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) {
        FUTEX_WAIT => FutexOp::Wait,
        FUTEX_WAIT_BITSET => FutexOp::WaitBitset,
        FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => FutexOp::LockPi,
        FUTEX_WAIT_REQUEUE_PI => FutexOp::Other,
        _ => return (false, Call::Other),
    };
    let call = futex_call(args[0], op, private, low(args[2]), memory);
    (args[3] != 0, Call::Futex(call))
}

fn futex_call(
    address: u64,
    op: FutexOp,
    private: bool,
    expected: u32,
    memory: &mut dyn UserMemory,
) -> FutexCall {
    FutexCall {
        address,
        op,
        private,
        expected,
        words: words(address, op, memory),
    }
}

/// Five words at the futex; for a PI futex, whose owner is in the first word, one is enough (the others then read 0).
fn words(address: u64, op: FutexOp, memory: &mut dyn UserMemory) -> Option<FutexWords> {
    let mut bytes = [0; 20];
    if !memory.read(address, &mut bytes) {
        bytes = [0; 20];
        if op != FutexOp::LockPi || !memory.read(address, &mut bytes[..4]) {
            return None;
        }
    }
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    Some(FutexWords(words))
}

/// futex_waitv(2): `struct futex_waitv { u64 val; u64 uaddr; u32 flags; u32 reserved; }`. The first one stands for
/// all; the call counts as private only if every one of them is.
fn futex_waitv(args: [u64; 6], memory: &mut dyn UserMemory) -> (bool, Call) {
    let timed = args[3] != 0;
    let count = args[1].min(FUTEX_WAITV_MAX) as usize;
    let mut bytes = vec![0; count * FUTEX_WAITV_BYTES];
    if count == 0 || !memory.read(args[0], &mut bytes) {
        let unknown = FutexCall {
            address: 0,
            op: FutexOp::Other,
            private: false,
            expected: 0,
            words: None,
        };
        return (timed, Call::Futex(unknown));
    }
    let waiters = bytes.as_chunks::<FUTEX_WAITV_BYTES>().0;
    let private = waiters
        .iter()
        .all(|waiter| u32_at(waiter, 16) & FUTEX_PRIVATE_FLAG != 0);
    let (address, expected) = waiters.first().map_or((0, 0), |first| {
        (
            u64::from(u32_at(first, 8)) | u64::from(u32_at(first, 12)) << 32,
            u32_at(first, 0),
        )
    });
    (
        timed,
        Call::Futex(futex_call(address, FutexOp::Other, private, expected, memory)),
    )
}

fn u32_at(bytes: &[u8; FUTEX_WAITV_BYTES], offset: usize) -> u32 {
    bytes
        .get(offset..offset + 4)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

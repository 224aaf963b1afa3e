//! System call numbers of x86_64 and aarch64, by name.
//!
//! Scope: the calls that can block and that [`super::decode`] tells apart. `libc::SYS_*` describes only the
//! architecture of the build, and a recording may come from another, so both columns are written out here
//! (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h); a test compares the column of
//! the build's architecture with libc.

use super::Arch;

/// A system call that this crate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Accept,
    Accept4,
    ClockNanosleep,
    Clone,
    Clone3,
    Connect,
    EpollPwait,
    EpollPwait2,
    EpollWait,
    Fcntl,
    Flock,
    Futex,
    FutexWait,
    FutexWaitv,
    IoGetevents,
    IoPgetevents,
    IoUringEnter,
    MqTimedreceive,
    MqTimedsend,
    Msgrcv,
    Msgsnd,
    Nanosleep,
    Pause,
    Poll,
    Ppoll,
    Pread64,
    Preadv,
    Preadv2,
    Pselect6,
    Pwrite64,
    Pwritev,
    Pwritev2,
    Read,
    Readv,
    Recvfrom,
    Recvmmsg,
    Recvmsg,
    RestartSyscall,
    RtSigsuspend,
    RtSigtimedwait,
    Select,
    Semop,
    Semtimedop,
    Sendfile,
    Sendmmsg,
    Sendmsg,
    Sendto,
    Splice,
    Tee,
    Vfork,
    Vmsplice,
    Wait4,
    Waitid,
    Write,
    Writev,
}

/// Marks a call that an architecture does not have.
const NONE: i32 = -1;

/// One row for each call: name, number on x86_64, number on aarch64.
pub(super) const TABLE: &[(Name, i32, i32)] = &[
    (Name::Accept, 43, 202),
    (Name::Accept4, 288, 242),
    (Name::ClockNanosleep, 230, 115),
    (Name::Clone, 56, 220),
    (Name::Clone3, 435, 435),
    (Name::Connect, 42, 203),
    (Name::EpollPwait, 281, 22),
    (Name::EpollPwait2, 441, 441),
    (Name::EpollWait, 232, NONE),
    (Name::Fcntl, 72, 25),
    (Name::Flock, 73, 32),
    (Name::Futex, 202, 98),
    (Name::FutexWait, 455, 455),
    (Name::FutexWaitv, 449, 449),
    (Name::IoGetevents, 208, 4),
    (Name::IoPgetevents, 333, 292),
    (Name::IoUringEnter, 426, 426),
    (Name::MqTimedreceive, 243, 183),
    (Name::MqTimedsend, 242, 182),
    (Name::Msgrcv, 70, 188),
    (Name::Msgsnd, 69, 189),
    (Name::Nanosleep, 35, 101),
    (Name::Pause, 34, NONE),
    (Name::Poll, 7, NONE),
    (Name::Ppoll, 271, 73),
    (Name::Pread64, 17, 67),
    (Name::Preadv, 295, 69),
    (Name::Preadv2, 327, 286),
    (Name::Pselect6, 270, 72),
    (Name::Pwrite64, 18, 68),
    (Name::Pwritev, 296, 70),
    (Name::Pwritev2, 328, 287),
    (Name::Read, 0, 63),
    (Name::Readv, 19, 65),
    (Name::Recvfrom, 45, 207),
    (Name::Recvmmsg, 299, 243),
    (Name::Recvmsg, 47, 212),
    (Name::RestartSyscall, 219, 128),
    (Name::RtSigsuspend, 130, 133),
    (Name::RtSigtimedwait, 128, 137),
    (Name::Select, 23, NONE),
    (Name::Semop, 65, 193),
    (Name::Semtimedop, 220, 192),
    (Name::Sendfile, 40, 71),
    (Name::Sendmmsg, 307, 269),
    (Name::Sendmsg, 46, 211),
    (Name::Sendto, 44, 206),
    (Name::Splice, 275, 76),
    (Name::Tee, 276, 77),
    (Name::Vfork, 58, NONE),
    (Name::Vmsplice, 278, 75),
    (Name::Wait4, 61, 260),
    (Name::Waitid, 247, 95),
    (Name::Write, 1, 64),
    (Name::Writev, 20, 66),
];

/// The call with this number, if it is one of the table.
pub(super) fn name(arch: Arch, number: i32) -> Option<Name> {
    TABLE
        .iter()
        .find(|(_, x86_64, aarch64)| {
            number
                == match arch {
                    Arch::X86_64 => *x86_64,
                    Arch::Aarch64 => *aarch64,
                }
        })
        .map(|(name, ..)| *name)
        .filter(|_| number != NONE)
}

/// The number of a call on an architecture; `None` if it has none.
#[cfg(test)]
pub(super) fn number(arch: Arch, wanted: Name) -> Option<i32> {
    TABLE
        .iter()
        .find(|(name, ..)| *name == wanted)
        .map(|(_, x86_64, aarch64)| match arch {
            Arch::X86_64 => *x86_64,
            Arch::Aarch64 => *aarch64,
        })
        .filter(|number| *number != NONE)
}

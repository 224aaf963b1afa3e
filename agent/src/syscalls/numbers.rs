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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_no_duplicates_and_round_trips() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for (wanted, ..) in TABLE {
                if let Some(number) = number(arch, *wanted) {
                    assert_eq!(name(arch, number), Some(*wanted), "{wanted:?} on {arch:?}");
                }
            }
            assert_eq!(name(arch, -1), None);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn x86_64_column_agrees_with_libc() {
        for (name, libc) in [
            (Name::Poll, libc::SYS_poll),
            (Name::Select, libc::SYS_select),
            (Name::EpollWait, libc::SYS_epoll_wait),
            (Name::Pause, libc::SYS_pause),
            (Name::Vfork, libc::SYS_vfork),
        ] {
            assert_eq!(number(Arch::X86_64, name).map(i64::from), Some(libc), "{name:?}");
        }
    }

    #[test]
    fn column_of_the_build_agrees_with_libc() {
        let Some(arch) = Arch::of_build() else { return };
        for (name, libc) in [
            (Name::Accept, libc::SYS_accept),
            (Name::Accept4, libc::SYS_accept4),
            (Name::ClockNanosleep, libc::SYS_clock_nanosleep),
            (Name::Clone, libc::SYS_clone),
            (Name::Clone3, libc::SYS_clone3),
            (Name::Connect, libc::SYS_connect),
            (Name::EpollPwait, libc::SYS_epoll_pwait),
            (Name::EpollPwait2, libc::SYS_epoll_pwait2),
            (Name::Fcntl, libc::SYS_fcntl),
            (Name::Flock, libc::SYS_flock),
            (Name::Futex, libc::SYS_futex),
            (Name::FutexWaitv, libc::SYS_futex_waitv),
            (Name::IoGetevents, libc::SYS_io_getevents),
            (Name::IoUringEnter, libc::SYS_io_uring_enter),
            (Name::MqTimedreceive, libc::SYS_mq_timedreceive),
            (Name::MqTimedsend, libc::SYS_mq_timedsend),
            (Name::Msgrcv, libc::SYS_msgrcv),
            (Name::Msgsnd, libc::SYS_msgsnd),
            (Name::Nanosleep, libc::SYS_nanosleep),
            (Name::Ppoll, libc::SYS_ppoll),
            (Name::Pread64, libc::SYS_pread64),
            (Name::Preadv, libc::SYS_preadv),
            (Name::Preadv2, libc::SYS_preadv2),
            (Name::Pselect6, libc::SYS_pselect6),
            (Name::Pwrite64, libc::SYS_pwrite64),
            (Name::Pwritev, libc::SYS_pwritev),
            (Name::Pwritev2, libc::SYS_pwritev2),
            (Name::Read, libc::SYS_read),
            (Name::Readv, libc::SYS_readv),
            (Name::Recvfrom, libc::SYS_recvfrom),
            (Name::Recvmmsg, libc::SYS_recvmmsg),
            (Name::Recvmsg, libc::SYS_recvmsg),
            (Name::RestartSyscall, libc::SYS_restart_syscall),
            (Name::RtSigsuspend, libc::SYS_rt_sigsuspend),
            (Name::RtSigtimedwait, libc::SYS_rt_sigtimedwait),
            (Name::Semop, libc::SYS_semop),
            (Name::Semtimedop, libc::SYS_semtimedop),
            (Name::Sendfile, libc::SYS_sendfile),
            (Name::Sendmmsg, libc::SYS_sendmmsg),
            (Name::Sendmsg, libc::SYS_sendmsg),
            (Name::Sendto, libc::SYS_sendto),
            (Name::Splice, libc::SYS_splice),
            (Name::Tee, libc::SYS_tee),
            (Name::Vmsplice, libc::SYS_vmsplice),
            (Name::Wait4, libc::SYS_wait4),
            (Name::Waitid, libc::SYS_waitid),
            (Name::Write, libc::SYS_write),
            (Name::Writev, libc::SYS_writev),
        ] {
            assert_eq!(number(arch, name).map(i64::from), Some(libc), "{name:?}");
        }
    }
}

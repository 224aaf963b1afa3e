//! Decoding over a fake memory, on both architectures.

use proptest::prelude::*;
use rung_diagnosis::observation::{BlockedCall, Call, FutexOp, FutexWords, WaitFor, Watch};

use super::numbers::{Name, number};
use super::*;

const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// One mapped range; everything else is unreadable.
struct FakeMemory {
    at: u64,
    bytes: Vec<u8>,
    reads: u32,
}

impl FakeMemory {
    fn new(at: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        FakeMemory { at, bytes, reads: 0 }
    }

    fn words(at: u64, words: &[u32]) -> Self {
        Self::new(
            at,
            words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect::<Vec<_>>(),
        )
    }
}

impl UserMemory for FakeMemory {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> bool {
        self.reads += 1;
        let Some(offset) = address.checked_sub(self.at) else {
            return false;
        };
        let Some(source) = usize::try_from(offset)
            .ok()
            .and_then(|from| self.bytes.get(from..from.checked_add(buffer.len())?))
        else {
            return false;
        };
        buffer.copy_from_slice(source);
        true
    }
}

fn call_on(arch: Arch, name: Name, args: [u64; 6], memory: &mut FakeMemory) -> BlockedCall {
    let number = number(arch, name).expect("a call of this architecture");
    decode(arch, i64::from(number), args, memory).expect("in a call")
}

/// Decodes on every architecture that has the call, and checks that they agree.
fn call(name: Name, args: [u64; 6], memory: &mut FakeMemory) -> (bool, Call) {
    let mut answers: Vec<_> = BOTH
        .into_iter()
        .filter(|arch| number(*arch, name).is_some())
        .map(|arch| {
            let decoded = call_on(arch, name, args, memory);
            (decoded.timed, decoded.call)
        })
        .collect();
    let answer = answers.pop().expect("no architecture has it");
    assert!(answers.iter().all(|other| *other == answer));
    answer
}

fn bare(name: Name, args: [u64; 6]) -> (bool, Call) {
    call(name, args, &mut FakeMemory::new(0, []))
}

#[test]
fn not_in_a_call() {
    for arch in BOTH {
        assert_eq!(decode(arch, -1, [0; 6], &mut NoMemory), None);
        assert_eq!(decode(arch, i64::MIN, [0; 6], &mut NoMemory), None);
    }
}

#[test]
fn unknown_numbers_are_other() {
    for arch in BOTH {
        for number in [9999, i64::from(i32::MAX), i64::MAX] {
            let decoded = decode(arch, number, [u64::MAX; 6], &mut NoMemory).expect("in a call");
            assert_eq!((decoded.timed, decoded.call), (false, Call::Other));
        }
    }
}

#[test]
fn futex_operations_and_flags() {
    for (op, wanted) in [
        (0, FutexOp::Wait),
        (9, FutexOp::WaitBitset),
        (6, FutexOp::LockPi),
        (13, FutexOp::LockPi),
        (11, FutexOp::Other),
    ] {
        for (flags, private) in [(0, false), (128, true), (128 | 256, true), (256, false)] {
            let mut memory = FakeMemory::words(0x1000, &[2, 0, 4227, 1, 0]);
            let (timed, call) = call(Name::Futex, [0x1000, op | flags, 2, 0, 0, 0], &mut memory);
            let Call::Futex(futex) = call else {
                panic!("{call:?}")
            };
            assert!(!timed);
            assert_eq!((futex.op, futex.private, futex.expected), (wanted, private, 2));
            assert_eq!(futex.words, Some(FutexWords([2, 0, 4227, 1, 0])));
        }
    }
    // FUTEX_WAKE does not wait; a timeout pointer makes a wait timed; unreadable words are None, not zero.
    assert_eq!(bare(Name::Futex, [0x1000, 1, 1, 0, 0, 0]), (false, Call::Other));
    let (timed, call) = bare(Name::Futex, [0x1000, 0, 2, 0x7fff, 0, 0]);
    assert!(timed);
    assert!(matches!(call, Call::Futex(futex) if futex.words.is_none()));
}

#[test]
fn pi_futex_at_the_end_of_a_mapping_still_names_its_owner() {
    let mut memory = FakeMemory::words(0x1ffc, &[4227]);
    let (_, pi) = call(Name::Futex, [0x1ffc, 6 | 128, 0, 0, 0, 0], &mut memory);
    assert!(matches!(pi, Call::Futex(futex) if futex.words == Some(FutexWords([4227, 0, 0, 0, 0]))));
    let (_, plain) = call(Name::Futex, [0x1ffc, 128, 0, 0, 0, 0], &mut memory);
    assert!(matches!(plain, Call::Futex(futex) if futex.words.is_none()));
}

#[test]
fn newer_futex_calls() {
    // Two waiters, the second one shared: the call as a whole is not private.
    let mut memory = FakeMemory::words(
        0x1000,
        &[5, 0, 0x1030, 0, 2 | 128, 0, 6, 0, 0x9999, 0, 2, 0, 5, 0, 77, 1, 0],
    );
    let (timed, call_v) = call(Name::FutexWaitv, [0x1000, 2, 0, 0x1, 0, 0], &mut memory);
    let Call::Futex(futex) = call_v else {
        panic!("{call_v:?}")
    };
    assert!(timed && !futex.private);
    assert_eq!(
        (futex.address, futex.expected, futex.op),
        (0x1030, 5, FutexOp::Other)
    );
    assert_eq!(futex.words, Some(FutexWords([5, 0, 77, 1, 0])));
    let (_, alone) = call(Name::FutexWaitv, [0x1000, 1, 0, 0, 0, 0], &mut memory);
    assert!(matches!(alone, Call::Futex(futex) if futex.private));
    let (_, hostile) = call(Name::FutexWaitv, [0, u64::MAX, 0, 0, 0, 0], &mut memory);
    assert!(matches!(hostile, Call::Futex(futex) if futex.address == 0 && !futex.private));
    let (timed, wait) = call(Name::FutexWait, [0x1030, 5, 0, 2 | 128, 0, 0], &mut memory);
    assert!(!timed && matches!(wait, Call::Futex(futex) if futex.private && futex.words.is_some()));
}

fn pollfds(entries: &[(i32, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (fd, events) in entries {
        bytes.extend(fd.to_le_bytes());
        bytes.extend(events.to_le_bytes());
        bytes.extend([0xff; 2]);
    }
    bytes
}

#[test]
fn poll_sets() {
    let watch = |fd, read, write| Watch { fd, read, write };
    let mut memory = FakeMemory::new(
        64,
        pollfds(&[(3, 1), (-1, 1), (4, 4), (5, 0x2002), (6, 5), (7, 0)]),
    );
    let untimed = (-1_i64).cast_unsigned();
    let (timed, poll) = call(Name::Poll, [64, 6, untimed, 0, 0, 0], &mut memory);
    let wanted = vec![
        watch(3, true, false),
        watch(4, false, true),
        watch(5, true, false),
        watch(6, true, true),
        watch(7, true, true),
    ];
    assert_eq!(
        (timed, poll),
        (
            false,
            Call::Poll {
                watched: wanted,
                incomplete: false
            }
        )
    );
    // The timeout is an int: only its low half counts. Zero is timed.
    assert!(!bare(Name::Poll, [64, 6, 0xffff_ffff, 0, 0, 0]).0);
    assert!(bare(Name::Poll, [64, 6, 0, 0, 0, 0]).0);
    assert!(bare(Name::Ppoll, [64, 6, 1, 0, 0, 0]).0);
    assert!(!bare(Name::Ppoll, [64, 6, 0, 0, 0, 0]).0);
}

#[test]
fn poll_sets_that_are_long_unreadable_or_empty() {
    let mut memory = FakeMemory::new(64, pollfds(&[(3, 1); 17]));
    let (_, long) = call(Name::Ppoll, [64, 17, 0, 0, 0, 0], &mut memory);
    assert!(matches!(long, Call::Poll { watched, incomplete: true } if watched.len() == 16));
    let (_, unreadable) = bare(Name::Ppoll, [64, u64::MAX, 0, 0, 0, 0]);
    assert_eq!(
        unreadable,
        Call::Poll {
            watched: vec![],
            incomplete: true
        }
    );
    assert_eq!(bare(Name::Ppoll, [0, 0, 0, 0, 0, 0]), (false, Call::Signal));
    assert_eq!(bare(Name::Ppoll, [0, 0, 1, 0, 0, 0]), (true, Call::Sleep));
}

#[test]
fn select_sets() {
    // fd 1 read, fd 65 write, fd 70 exceptional; fd 71 is beyond the count.
    let mut words = [0_u64; 6];
    words[0] = 1 << 1;
    words[3] = 1 << 1;
    words[5] = 1 << 6 | 1 << 7;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut memory = FakeMemory::new(0x100, bytes);
    let (timed, select) = call(Name::Pselect6, [71, 0x100, 0x110, 0x120, 0, 0], &mut memory);
    assert!(!timed);
    let watch = |fd, read, write| Watch { fd, read, write };
    let wanted = vec![
        watch(1, true, false),
        watch(65, false, true),
        watch(70, true, false),
    ];
    assert_eq!(
        select,
        Call::Poll {
            watched: wanted,
            incomplete: false
        }
    );
    assert_eq!(bare(Name::Pselect6, [64, 0, 0, 0, 1, 0]), (true, Call::Sleep));
    assert_eq!(bare(Name::Select, [0, 0, 0, 0, 0, 0]), (false, Call::Signal));
    for count in [u64::MAX, 1 << 31, i32::MAX as u64] {
        let (_, hostile) = bare(Name::Pselect6, [count, 1, 2, 3, 0, 0]);
        assert_eq!(
            hostile,
            Call::Poll {
                watched: vec![],
                incomplete: true
            }
        );
    }
}

#[test]
fn children() {
    let pid = |pid: i32| u64::from(pid.cast_unsigned());
    for (arg, which) in [
        (-1, WaitFor::Any),
        (7, WaitFor::Process(7)),
        (0, WaitFor::Group(0)),
        (-7, WaitFor::Group(7)),
        (i32::MIN, WaitFor::Group(1 << 31)),
    ] {
        let wanted = Call::WaitChild {
            which,
            or_stopped: false,
        };
        assert_eq!(bare(Name::Wait4, [pid(arg), 0, 0, 0, 0, 0]), (false, wanted));
    }
    for (id_type, which) in [
        (0, WaitFor::Any),
        (1, WaitFor::Process(9)),
        (2, WaitFor::Group(9)),
        (3, WaitFor::Unknown),
        (77, WaitFor::Unknown),
    ] {
        let wanted = Call::WaitChild {
            which,
            or_stopped: true,
        };
        assert_eq!(bare(Name::Waitid, [id_type, 9, 0, 2 | 4, 0, 0]), (false, wanted));
    }
    assert!(bare(Name::Wait4, [pid(-1), 0, 1, 0, 0, 0]).0);
}

#[test]
fn connect_takes_at_most_128_bytes() {
    let mut memory = FakeMemory::new(0x10, [9; 200]);
    let (_, sane) = call(Name::Connect, [5, 0x10, 16, 0, 0, 0], &mut memory);
    assert_eq!(
        sane,
        Call::Connect {
            fd: 5,
            to: Some(vec![9; 16])
        }
    );
    let (_, long) = call(Name::Connect, [5, 0x10, 0x7fff_ffff, 0, 0, 0], &mut memory);
    assert_eq!(
        long,
        Call::Connect {
            fd: 5,
            to: Some(vec![9; 128])
        }
    );
    for length in [0, u64::MAX, 0x8000_0000] {
        let (_, none) = call(Name::Connect, [5, 0x10, length, 0, 0, 0], &mut memory);
        assert_eq!(none, Call::Connect { fd: 5, to: None });
    }
}

#[test]
fn the_rest_of_the_table() {
    let untimed = |call: Call| (false, call);
    assert_eq!(
        bare(Name::Recvmmsg, [3, 0, 0, 0, 1, 0]),
        untimed(Call::Read { fd: 3 })
    );
    assert_eq!(
        bare(Name::Sendfile, [4, 3, 0, 0, 0, 0]),
        untimed(Call::Write { fd: 4 })
    );
    assert_eq!(
        bare(Name::Accept4, [3, 0, 0, 0, 0, 0]),
        untimed(Call::Accept { fd: 3 })
    );
    assert_eq!(
        bare(Name::Fcntl, [3, 7, 0, 0, 0, 0]),
        untimed(Call::FileLock { fd: 3 })
    );
    assert_eq!(
        bare(Name::Fcntl, [3, 38, 0, 0, 0, 0]),
        untimed(Call::FileLock { fd: 3 })
    );
    assert_eq!(bare(Name::Fcntl, [3, 6, 0, 0, 0, 0]), untimed(Call::Other));
    assert_eq!(
        bare(Name::Flock, [3, 2, 0, 0, 0, 0]),
        untimed(Call::FileLock { fd: 3 })
    );
    assert_eq!(bare(Name::RestartSyscall, [0; 6]), (true, Call::Sleep));
    assert_eq!(bare(Name::Pause, [0; 6]), untimed(Call::Signal));
    assert_eq!(
        bare(Name::RtSigtimedwait, [1, 1, 1, 8, 0, 0]),
        (true, Call::Signal)
    );
    assert_eq!(
        bare(Name::RtSigtimedwait, [1, 1, 0, 8, 0, 0]),
        untimed(Call::Signal)
    );
    assert_eq!(
        bare(Name::Clone, [0x4000 | 17, 0, 0, 0, 0, 0]),
        untimed(Call::Vfork)
    );
    assert_eq!(bare(Name::Clone, [17, 0, 0, 0, 0, 0]), untimed(Call::Other));
    assert_eq!(
        bare(Name::EpollWait, [4, 0, 1, u64::MAX, 0, 0]),
        untimed(Call::EpollWait { fd: 4 })
    );
    assert_eq!(
        bare(Name::EpollPwait, [4, 0, 1, 0, 0, 0]),
        (true, Call::EpollWait { fd: 4 })
    );
    assert_eq!(
        bare(Name::EpollPwait2, [4, 0, 1, 0, 0, 0]),
        untimed(Call::EpollWait { fd: 4 })
    );
    assert_eq!(bare(Name::Semtimedop, [0, 0, 0, 1, 0, 0]), (true, Call::Other));
    assert_eq!(bare(Name::IoUringEnter, [3, 0, 1, 1, 0, 0]), untimed(Call::Other));
    let mut memory = FakeMemory::new(0x20, 0x4000_u64.to_le_bytes());
    assert_eq!(
        call(Name::Clone3, [0x20, 88, 0, 0, 0, 0], &mut memory).1,
        Call::Vfork
    );
    assert_eq!(bare(Name::Clone3, [0x20, 88, 0, 0, 0, 0]).1, Call::Other);
    let (_, splice) = bare(Name::Splice, [3, 0, 4, 0, 0, 0]);
    let Call::Poll { watched, .. } = splice else {
        panic!("{splice:?}")
    };
    assert_eq!(
        (watched[0].fd, watched[0].read, watched[1].fd, watched[1].write),
        (3, true, 4, true)
    );
}

#[test]
fn memory_is_not_read_where_arguments_suffice() {
    for name in [
        Name::Read,
        Name::Write,
        Name::EpollPwait,
        Name::Wait4,
        Name::Nanosleep,
        Name::Accept,
    ] {
        let mut memory = FakeMemory::new(0, []);
        call(name, [1; 6], &mut memory);
        assert_eq!(memory.reads, 0, "{name:?}");
    }
}

proptest! {
    #[test]
    fn hostile_arguments_never_panic(
        number in -2_i64..600,
        args in proptest::array::uniform6(prop_oneof![any::<u64>(), 0_u64..600, Just(u64::MAX)]),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        for arch in BOTH {
            let decoded = decode(arch, number, args, &mut FakeMemory::new(0, bytes.clone()));
            prop_assert_eq!(decoded.is_none(), number < 0);
        }
    }
}

//! Rows as kernels print them, and as hostile programs would like to have them read.

use proptest::prelude::*;

use super::*;

pub(crate) const STAT: &[u8] =
    b"4226 (a) R 1 () S 4000 4224 4223 34816 4224 4194368 103 0 0 0 7 5 0 0 20 0 3 0 \
123456 2703360 180 18446744073709551615 1 1 0 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 256\n";

#[test]
fn stat_of_a_thread_that_named_itself_a_bracket() {
    let row = StatRow::parse(STAT).unwrap();
    assert_eq!(row.comm.as_bytes(), b"a) R 1 (");
    assert_eq!(
        (row.tid, row.state, row.parent),
        (4226, TaskState::Sleeping, 4000)
    );
    assert_eq!((row.pgid, row.sid, row.has_terminal), (4224, 4223, true));
    assert_eq!((row.cpu_ticks, row.threads, row.processor), (12, 3, 1));
    assert_eq!((row.start_ns(), row.exit_code), (1_234_560_000_000, 256));
    assert!(!row.kernel_thread);
}

#[test]
fn stat_with_a_name_that_is_not_utf8() {
    let mut bytes = b"7 (\xff\n\x00".to_vec();
    bytes.extend(&STAT[14..]);
    assert_eq!(StatRow::parse(&bytes).unwrap().comm.as_bytes(), b"\xff\n");
}

#[test]
fn stat_of_a_kernel_thread() {
    let row = StatRow::parse(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0").unwrap();
    assert!(row.kernel_thread);
    assert!(!row.has_terminal);
}

#[test]
fn broken_stat() {
    for bytes in [
        &b""[..],
        b"1",
        b"1 (x",
        b"1 )x(",
        b"1 (x)",
        b"x (y) S 1",
        b"-3 (y) S 1 1",
    ] {
        assert_eq!(StatRow::parse(bytes), None, "{}", bytes.escape_ascii());
    }
}

#[test]
fn status_in_a_container() {
    let text = b"Name:\ta\\nTgid:\t1\nTgid:\t4224\nNgid:\t0\nPid:\t4226\nPPid:\t1\nTracerPid:\t99\nNStgid:\t4224\t50\t5\n\
        NSpid:\t4226\t52\t7\nSigIgn:\t0000000000001001\nSigCgt:\t0000000180000002\nVmPeak: 1\n";
    let row = StatusRow::parse(text).unwrap();
    assert_eq!((row.tgid, row.tracer), (4224, 99));
    assert_eq!((row.ns_tid, row.ns_tgid, row.ns_level), (7, 5, 2));
    let signals = row.signals.unwrap();
    assert!(signals.ignores_hangup() && signals.may_be_woken_from_outside());
    assert_eq!(StatusRow::parse(b"Tgid:\t5\nNSpid:\t\n"), None);
    assert_eq!(StatusRow::parse(b""), None);
    assert_eq!(StatusRow::parse(b"Tgid:\t5\n").unwrap().signals, None);
}

#[test]
fn scheduler_files() {
    let row = SchedstatRow::parse(b"226881089 17327063 414\n").unwrap();
    assert_eq!(
        (row.run_ns, row.run_delay_ns, row.timeslices),
        (226_881_089, 17_327_063, 414)
    );
    assert_eq!(SchedstatRow::parse(b"1 2"), None);
    let text =
        b"\nse.exec_start: 1 (1, #threads: 14)\n-----\nse.exec_start           :       1435596.266582\n\
        se.vruntime  :  351632.021835\nnr_voluntary_switches : 338\nnr_involuntary_switches : 76\n";
    let row = SchedRow::parse(text).unwrap();
    assert_eq!(row.exec_start_ns, 1_435_596_266_582);
    assert_eq!((row.voluntary_switches, row.involuntary_switches), (338, 76));
    assert_eq!(SchedRow::parse(b"nothing\n"), None);
    assert_eq!(milliseconds(b"-1.000000"), None);
    assert_eq!(milliseconds(b"18446744073709551615.000000"), None);
}

#[test]
fn syscall_rows() {
    assert_eq!(SyscallRow::parse(b"running\n"), Some(SyscallRow::Running));
    assert_eq!(
        SyscallRow::parse(b"-1 0x7ffe0 0x7f00\n"),
        Some(SyscallRow::NoCall)
    );
    let row = SyscallRow::parse(b"202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe12345678 0x7f00\n").unwrap();
    let call = SyscallRow::Call {
        number: 202,
        args: [1, 2, 3, 4, 5, 6],
        stack_pointer: 0x7ffe_1234_5678,
    };
    assert_eq!(row, call);
    assert!(!row.is_compat());
    let compat = SyscallRow::parse(b"240 0x1 0x2 0x3 0x4 0x5 0x6 0xffd01234 0xf7f00000\n").unwrap();
    assert!(compat.is_compat());
    for bytes in [&b""[..], b"202", b"202 0x1 0x2", b"202 1 2 3 4 5 6 7 8", b"\xff"] {
        assert_eq!(SyscallRow::parse(bytes), None);
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = StatRow::parse(&bytes);
        let _ = StatusRow::parse(&bytes);
        let _ = SchedstatRow::parse(&bytes);
        let _ = SchedRow::parse(&bytes);
        let _ = SyscallRow::parse(&bytes);
    }

    #[test]
    fn any_name_leaves_the_other_fields_alone(name in proptest::collection::vec(any::<u8>(), 0..15)) {
        let mut bytes = b"4226 (".to_vec();
        bytes.extend(&name);
        bytes.extend(&STAT[14..]);
        let row = StatRow::parse(&bytes).unwrap();
        let wanted = StatRow { comm: Comm::from_bytes(&name), ..StatRow::parse(STAT).unwrap() };
        prop_assert_eq!(row, wanted);
    }
}

//! From the iterators' bytes to observations. Pure: nothing here touches the kernel.

mod descriptors;

use rung_diagnosis::observation::{Comm, Picture, SignalMasks, TaskObservation, TaskState};
use rung_ebpf_common::{FdHeader, FdKind, PIECE_BYTES, TASK_KIND, TaskRecord, task_bits};
use rustc_hash::FxHashMap;
use zerocopy::{FromBytes, IntoBytes};

use self::descriptors::Descriptors;
use crate::syscalls::{self, Arch, UserMemory};

const PF_KTHREAD: u32 = 0x0020_0000;

/// Decodes the iterators' output into `picture`, and drops what contradicts itself: first what the task iterator wrote,
/// then the records of large descriptor tables.
pub(super) fn decode(tasks: &[u8], large_tables: &[u8], picture: &mut Picture) {
    let expected = tasks.len() / size_of::<TaskRecord>();
    let mut starts: FxHashMap<u32, u64> = FxHashMap::default();
    starts.reserve(expected);
    let mut rows: Vec<(u32, Row<'_>)> = Vec::with_capacity(expected);
    let mut descriptors: Vec<DescriptorRow<'_>> = Vec::with_capacity(expected);
    // The iterator goes by thread id; when it resumes after a full buffer it may meet a thread twice, with all its
    // descriptors.
    let mut again = false;
    for record in records(tasks) {
        match record {
            Record::Task(row) => {
                again = starts.insert(row.record.tid, row.record.start_ns).is_some();
                if again {
                    picture.torn_rows += 1;
                } else {
                    rows.push((row.record.tid, row));
                }
            }
            Record::Descriptor(row) if !again => descriptors.push(row),
            Record::Descriptor(_) => {}
        }
    }
    descriptors.extend(records(large_tables).filter_map(|record| match record {
        Record::Descriptor(row) => Some(row),
        Record::Task(_) => None,
    }));
    rows.sort_unstable_by_key(|(tid, _)| *tid);
    let clock = SchedulerClock::from_reader(&rows, picture.began_ns);
    picture.tasks = rows.iter().map(|(_, row)| task(row, &clock)).collect();
    share_signals(&mut picture.tasks);
    let mut decoder = Descriptors::new(picture, starts);
    for row in &descriptors {
        decoder.add(row);
    }
}

/// Processes that have a table of descriptors too large to have come with a thread, in the reader's PID namespace.
pub(super) fn large_tables(tasks: &[u8]) -> Vec<u32> {
    let tasks = records(tasks).filter_map(|record| match record {
        Record::Task(row) => Some(row.record),
        Record::Descriptor(_) => None,
    });
    let large = tasks.filter(|record| record.bits & task_bits::LARGE_TABLE != 0);
    let mut processes: Vec<u32> = large.map(|record| record.tgid).collect();
    processes.sort_unstable();
    processes.dedup();
    processes
}

/// A thread, and the pieces of its memory.
#[derive(Clone, Copy)]
struct Row<'a> {
    record: &'a TaskRecord,
    pieces: [&'a [u8]; 2],
}

/// A descriptor, and what follows its header.
struct DescriptorRow<'a> {
    kind: FdKind,
    header: &'a FdHeader,
    body: &'a [u8],
}

enum Record<'a> {
    Task(Row<'a>),
    Descriptor(DescriptorRow<'a>),
}

/// The records of a stream, up to its end or to the first that is none. They lie on words of 8 bytes, as the stream does.
fn records(mut rest: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (kind, _) = u32::read_from_prefix(rest).ok()?;
        if kind == TASK_KIND {
            let (record, mut tail) = TaskRecord::ref_from_prefix(rest).ok()?;
            let mut pieces: [&[u8]; 2] = [&[]; 2];
            for (piece, len) in pieces.iter_mut().zip(record.user_len) {
                if len != 0 {
                    let (bytes, after) = tail.split_at_checked(PIECE_BYTES)?;
                    *piece = &bytes[..(len as usize).min(PIECE_BYTES)];
                    tail = after;
                }
            }
            rest = tail;
            Some(Record::Task(Row { record, pieces }))
        } else {
            let kind = FdKind::from_number(kind)?;
            let (header, tail) = FdHeader::ref_from_prefix(rest).ok()?;
            let (body, tail) = tail.split_at_checked(kind.body_len())?;
            rest = tail;
            Some(Record::Descriptor(DescriptorRow { kind, header, body }))
        }
    })
}

/// The scheduler's clock against `CLOCK_MONOTONIC`. Both count from boot, but not from the same instant.
struct SchedulerClock {
    /// What to add to the scheduler's clock.
    offset_ns: i64,
}

impl SchedulerClock {
    /// The reader had just been given a CPU when the picture began: its own row tells the offset.
    fn from_reader(rows: &[(u32, Row<'_>)], began_ns: u64) -> Self {
        let reader = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let own = rows
            .binary_search_by_key(&reader, |(tid, _)| *tid)
            .ok()
            .map(|index| rows[index].1.record);
        let offset_ns = own
            .filter(|record| record.last_arrival_ns != 0)
            .map_or(0, |record| began_ns as i64 - record.last_arrival_ns as i64);
        SchedulerClock { offset_ns }
    }

    fn monotonic(&self, scheduler_ns: u64) -> u64 {
        scheduler_ns.saturating_add_signed(self.offset_ns)
    }
}

fn state(record: &TaskRecord) -> TaskState {
    // include/linux/sched.h
    const EXIT_DEAD: u32 = 0x10;
    const EXIT_ZOMBIE: u32 = 0x20;
    const TASK_PARKED: u32 = 0x40;
    const TASK_NOLOAD: u32 = 0x400;
    if record.exit_state & EXIT_ZOMBIE != 0 {
        return TaskState::Zombie;
    }
    if record.exit_state & EXIT_DEAD != 0 {
        return TaskState::Dead;
    }
    match record.state {
        0 => TaskState::Running,
        state if state & TASK_PARKED != 0 || state & (TASK_NOLOAD | 2) == TASK_NOLOAD | 2 => TaskState::Idle,
        state if state & 1 != 0 => TaskState::Sleeping,
        state if state & 4 != 0 => TaskState::Stopped,
        state if state & 8 != 0 => TaskState::Traced,
        state if state & 0x80 != 0 => TaskState::Dead,
        // Uninterruptible, frozen, waiting for a lock of a real-time kernel: nothing that we follow.
        state if state & (2 | 0x8000 | 0x1000) != 0 => TaskState::Uninterruptible,
        _ => TaskState::Running,
    }
}

/// The pieces of user memory that came with a row.
struct Pieces<'a>(&'a Row<'a>);

impl UserMemory for Pieces<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> bool {
        // Pieces may adjoin; go byte range by byte range.
        let mut at = address;
        let mut left = buffer;
        'next: while !left.is_empty() {
            for (start, bytes) in self.0.record.user_address.iter().zip(self.0.pieces) {
                if at >= *start && at - start < bytes.len() as u64 {
                    let have = &bytes[(at - start) as usize..];
                    let take = have.len().min(left.len());
                    let (now, later) = left.split_at_mut(take);
                    now.copy_from_slice(&have[..take]);
                    left = later;
                    at = at.wrapping_add(take as u64);
                    continue 'next;
                }
            }
            return false;
        }
        true
    }
}

fn task(row: &Row<'_>, clock: &SchedulerClock) -> TaskObservation {
    let record = row.record;
    let bit = |bit: u32| record.bits & bit != 0;
    let in_call = bit(task_bits::IN_CALL) && record.call >= 0;
    let call = if !in_call {
        None
    } else if bit(task_bits::COMPAT) {
        Some(syscalls::other(record.call as i32))
    } else if let Some(arch) = Arch::of_build() {
        syscalls::decode(arch, record.call, record.args, &mut Pieces(row))
    } else {
        Some(syscalls::other(record.call as i32))
    };
    // last_arrival is when it got the CPU; exec_start when it was last accounted on it, on a clock that lags by the
    // time stolen by interrupts. Both come before it left, so the later one is the better bound.
    let off_cpu = record.last_arrival_ns.max(record.exec_start_ns);
    TaskObservation {
        tid: record.tid,
        tgid: record.tgid,
        parent: record.parent,
        tracer: record.tracer,
        pgid: record.pgid,
        sid: record.sid,
        ns_tid: record.ns_tid,
        ns_tgid: record.ns_tgid,
        pid_ns: record.pid_ns,
        pid_ns_level: record.pid_ns_level,
        comm: Comm::from_bytes(record.comm.as_bytes()),
        state: state(record),
        kernel_thread: record.flags & PF_KTHREAD != 0,
        has_terminal: bit(task_bits::TERMINAL),
        adopted: bit(task_bits::ADOPTED),
        null_streams: record.null_streams as u8,
        exit_code: record.exit_code,
        threads: record.threads,
        start_ns: record.start_ns,
        run_ns: record.run_ns,
        run_delay_ns: record.run_delay_ns,
        voluntary_switches: record.voluntary,
        involuntary_switches: record.involuntary,
        off_cpu_since_ns: (off_cpu != 0).then(|| clock.monotonic(off_cpu)),
        cgroup_id: record.cgroup_id,
        address_space: record.mm,
        signals: bit(task_bits::SIGNALS).then_some(SignalMasks {
            caught: record.caught,
            ignored: record.ignored,
        }),
        call,
        moved: bit(task_bits::MOVED),
    }
}

/// Signal dispositions come with the leader, and hold for all threads of the process.
fn share_signals(tasks: &mut [TaskObservation]) {
    let mut last: (u32, Option<SignalMasks>) = (0, None);
    for index in 0..tasks.len() {
        let (tid, tgid) = (tasks[index].tid, tasks[index].tgid);
        if tid == tgid {
            continue;
        }
        if last.0 != tgid {
            let leader = tasks.binary_search_by_key(&tgid, |task| task.tid);
            last = (tgid, leader.ok().and_then(|leader| tasks[leader].signals));
        }
        tasks[index].signals = last.1;
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn damaged_bytes_decode_to_less() {
        let mut picture = Picture::default();
        decode([[7_u64; 100], [9; 100]].as_bytes(), &[9; 100], &mut picture);
        let task = u64::from(TASK_KIND);
        for words in 0..40 {
            decode(vec![task; words].as_bytes(), &[], &mut picture);
        }
        decode(&[], &[], &mut picture);
    }
}

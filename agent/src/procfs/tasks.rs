//! The walk over /proc/PID/task/TID: every thread, and the call it is blocked in.
//!
//! Order of reads within a thread: schedstat, stat, syscall, memory, sched, schedstat again. A thread that got the
//! CPU in between is marked `moved`.
//!
//! Degradation policy: a process or thread that vanishes before its row was begun is not there; one that vanishes
//! half read is dropped and counted as torn. Refusals are counted by process and never end the walk.

use std::os::fd::{AsFd, BorrowedFd};

use rung_diagnosis::observation::{BlockedCall, Call, SignalMasks, TaskObservation, TaskState};
use rustix::io::Errno;

use super::clock::OffCpuClock;
use super::files::{Reader, ThreadPath, is_gone, is_refused, open_base};
use super::rows::{SchedRow, SchedstatRow, StatRow, StatusRow, SyscallRow};
use super::tally::Tally;
use super::vantage::{Vantage, namespace};
use crate::syscalls::{Arch, NoMemory, decode, other};
use crate::user_memory::ThreadMemory;

/// A process whose descriptors are worth reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) tgid: u32,
    /// A thread that still has the descriptor table: the leader unless it has exited.
    pub(super) table_of: u32,
    pub(super) start_ns: u64,
}

/// What one walk needs and fills.
#[derive(Debug)]
pub(super) struct TaskWalk<'a> {
    pub(super) proc: BorrowedFd<'a>,
    pub(super) vantage: &'a Vantage,
    pub(super) clock: Option<OffCpuClock>,
    pub(super) arch: Option<Arch>,
    pub(super) tally: Tally,
    pub(super) tasks: Vec<TaskObservation>,
    pub(super) processes: Vec<Process>,
}

/// Reused from walk to walk.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) reader: Reader,
    path: ThreadPath,
    tids: Vec<u32>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Buffers {
            reader: Reader::new(),
            path: ThreadPath::default(),
            tids: Vec::new(),
        }
    }
}

/// What the threads of a process share, and what was refused about it.
#[derive(Debug, Default)]
struct Shared {
    tgid: u32,
    status: Option<StatusRow>,
    pid_ns: u32,
    signals: Option<SignalMasks>,
    calls_refused: bool,
    memory_refused: bool,
}

impl TaskWalk<'_> {
    /// Reads all threads of one process.
    pub(super) fn process(&mut self, tgid: u32, buffers: &mut Buffers) {
        let dir = match open_base(self.proc, &tgid.to_string()) {
            Ok(dir) => dir,
            Err(error) => return self.missed(tgid, error),
        };
        let dir = dir.as_fd();
        buffers.path.point_at(None);
        let leader = match buffers.reader.record(dir, buffers.path.file("stat")) {
            Ok(bytes) => StatRow::parse(bytes),
            Err(error) => return self.missed(tgid, error),
        };
        let Some(leader) = leader else {
            self.tally.torn += 1;
            return;
        };
        let mut shared = Shared {
            tgid,
            ..Shared::default()
        };
        if leader.kernel_thread {
            self.tally.kernel_threads += 1;
        } else {
            self.tally.processes += 1;
            let status = buffers.reader.record(dir, buffers.path.file("status"));
            let Some(status) = status.ok().and_then(StatusRow::parse) else {
                self.tally.torn += 1;
                return;
            };
            shared.status = Some(status);
            shared.pid_ns = if status.ns_level == 0 {
                self.vantage.pid_ns
            } else {
                namespace(dir, "ns/pid").unwrap_or(0)
            };
            shared.signals = status.signals.filter(|_| leader.state != TaskState::Zombie);
        }
        let first = self.tasks.len();
        if leader.threads <= 1 || leader.kernel_thread {
            self.thread(dir, None, Some(leader), &mut shared, buffers);
        } else {
            let mut tids = std::mem::take(&mut buffers.tids);
            match buffers.reader.numbers(dir, "task", &mut tids) {
                Ok(()) => {
                    for tid in &tids {
                        self.thread(dir, Some(*tid), None, &mut shared, buffers);
                    }
                }
                Err(_) => self.tally.torn += 1,
            }
            buffers.tids = tids;
        }
        self.tally.calls_refused += u32::from(shared.calls_refused);
        self.tally.memory_refused += u32::from(shared.memory_refused);
        let alive = |task: &&TaskObservation| !matches!(task.state, TaskState::Zombie | TaskState::Dead);
        let threads = self.tasks.get(first..).unwrap_or_default();
        let leader_first = threads.iter().find(|task| task.tid == tgid).filter(alive);
        let holder = leader_first.or_else(|| threads.iter().find(alive));
        if let Some(holder) = holder.filter(|holder| !holder.kernel_thread) {
            self.processes.push(Process {
                tgid,
                table_of: holder.tid,
                start_ns: leader.start_ns(),
            });
        }
    }

    fn missed(&mut self, tgid: u32, error: Errno) {
        if is_refused(error) {
            self.tally.hidden += 1;
        } else if !is_gone(error) {
            tracing::warn!(pid = tgid, %error, "process not read");
            self.tally.torn += 1;
        }
    }

    /// Reads one thread; `stat` is the row if it has been read already.
    fn thread(
        &mut self,
        dir: BorrowedFd<'_>,
        tid: Option<u32>,
        stat: Option<StatRow>,
        shared: &mut Shared,
        buffers: &mut Buffers,
    ) {
        buffers.path.point_at(tid);
        match self.row(dir, stat, shared, buffers) {
            Ok(Some(task)) => self.tasks.push(task),
            // Gone before anything of it was read.
            Ok(None) => {}
            Err(error) => {
                if !is_gone(error) {
                    tracing::debug!(pid = shared.tgid, ?tid, %error, "thread not read");
                }
                self.tally.torn += 1;
            }
        }
    }

    fn row(
        &mut self,
        dir: BorrowedFd<'_>,
        stat: Option<StatRow>,
        shared: &mut Shared,
        Buffers { reader, path, .. }: &mut Buffers,
    ) -> rustix::io::Result<Option<TaskObservation>> {
        let before = schedstat(dir, reader, path)?;
        let stat = match stat {
            Some(stat) => stat,
            None => match reader.record(dir, path.file("stat")) {
                Ok(bytes) => StatRow::parse(bytes).ok_or(Errno::SRCH)?,
                Err(error) if is_gone(error) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let mut task = observation(&stat, shared);
        task.run_ns = before.map_or(
            stat.cpu_ticks
                .saturating_mul(rung_diagnosis::observation::TICK_NS),
            |row| row.run_ns,
        );
        task.run_delay_ns = before.map_or(0, |row| row.run_delay_ns);
        let blocked = matches!(
            task.state,
            TaskState::Sleeping | TaskState::Uninterruptible | TaskState::Stopped | TaskState::Traced
        );
        if !task.kernel_thread {
            self.ids(dir, &mut task, shared, reader, path)?;
            if blocked && !shared.calls_refused && self.vantage.shows_calls {
                self.call(dir, &mut task, shared, reader, path)?;
            }
        }
        if self.vantage.shows_sched && (!task.kernel_thread || task.state == TaskState::Uninterruptible) {
            self.scheduled(dir, &mut task, stat.processor, reader, path)?;
        }
        if task.call.is_some() {
            let after = schedstat(dir, reader, path)?;
            task.moved |= after != before;
        }
        Ok(Some(task))
    }

    /// The ids in the innermost namespace, and the tracer.
    fn ids(
        &mut self,
        dir: BorrowedFd<'_>,
        task: &mut TaskObservation,
        shared: &Shared,
        reader: &mut Reader,
        path: &mut ThreadPath,
    ) -> rustix::io::Result<()> {
        let Some(process) = shared.status else {
            return Ok(());
        };
        task.pid_ns = shared.pid_ns;
        task.pid_ns_level = process.ns_level;
        task.ns_tgid = if process.ns_tgid != 0 {
            process.ns_tgid
        } else {
            process.tgid
        };
        let leader = task.tid == shared.tgid;
        let own = process.ns_level > 0 || process.tracer != 0 || task.state == TaskState::Traced;
        let status = if !leader && own {
            StatusRow::parse(reader.record(dir, path.file("status"))?).ok_or(Errno::SRCH)?
        } else {
            StatusRow {
                ns_tid: if process.ns_level > 0 {
                    process.ns_tid
                } else {
                    task.tid
                },
                ..process
            }
        };
        task.ns_tid = status.ns_tid;
        task.tracer = status.tracer;
        Ok(())
    }

    /// The call it is blocked in. Needs the permission of ptrace(2), PTRACE_MODE_ATTACH_FSCREDS.
    fn call(
        &mut self,
        dir: BorrowedFd<'_>,
        task: &mut TaskObservation,
        shared: &mut Shared,
        reader: &mut Reader,
        path: &mut ThreadPath,
    ) -> rustix::io::Result<()> {
        let row = match reader.record(dir, path.file("syscall")) {
            Ok(bytes) => SyscallRow::parse(bytes).ok_or(Errno::SRCH)?,
            Err(error) if is_refused(error) => {
                shared.calls_refused = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match row {
            SyscallRow::Running => task.moved = true,
            SyscallRow::NoCall => {}
            SyscallRow::Call { number, args, .. } => {
                self.tally.calls += 1;
                task.call = match self.arch.filter(|_| !row.is_compat()) {
                    Some(arch) => self.decoded(arch, number, args, task.tid, shared),
                    None => Some(other(i32::try_from(number).unwrap_or(i32::MAX))),
                };
            }
        }
        Ok(())
    }

    fn decoded(
        &mut self,
        arch: Arch,
        number: i64,
        args: [u64; 6],
        tid: u32,
        shared: &mut Shared,
    ) -> Option<BlockedCall> {
        let call = if self.vantage.native && !shared.memory_refused {
            let mut memory = ThreadMemory::new(tid);
            let call = decode(arch, number, args, &mut memory);
            shared.memory_refused |= memory.refused > 0;
            call
        } else {
            decode(arch, number, args, &mut NoMemory)
        };
        if let Some(Call::Futex(futex)) = call.as_ref().map(|call| &call.call) {
            self.tally.futexes += 1;
            self.tally.futexes_unread += u32::from(futex.words.is_none());
        }
        call
    }

    /// Context switches, and since when it has been off the CPU.
    fn scheduled(
        &mut self,
        dir: BorrowedFd<'_>,
        task: &mut TaskObservation,
        processor: u32,
        reader: &mut Reader,
        path: &mut ThreadPath,
    ) -> rustix::io::Result<()> {
        let Some(row) = SchedRow::parse(reader.record(dir, path.file("sched"))?) else {
            return Ok(());
        };
        task.voluntary_switches = row.voluntary_switches;
        task.involuntary_switches = row.involuntary_switches;
        if task.state != TaskState::Running {
            task.off_cpu_since_ns = self
                .clock
                .as_ref()
                .and_then(|clock| clock.monotonic_ns(row.exec_start_ns, processor));
            self.tally.ages += u32::from(task.off_cpu_since_ns.is_some());
            self.tally.ages_unknown += u32::from(task.off_cpu_since_ns.is_none());
        }
        Ok(())
    }
}

/// `None` without CONFIG_SCHED_INFO, when the file is empty or not there.
fn schedstat(
    dir: BorrowedFd<'_>,
    reader: &mut Reader,
    path: &mut ThreadPath,
) -> rustix::io::Result<Option<SchedstatRow>> {
    match reader.record(dir, path.file("schedstat")) {
        Ok(bytes) => Ok(SchedstatRow::parse(bytes)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn observation(stat: &StatRow, shared: &Shared) -> TaskObservation {
    let gone = matches!(stat.state, TaskState::Zombie | TaskState::Dead);
    TaskObservation {
        tid: stat.tid,
        tgid: shared.tgid,
        parent: stat.parent,
        pgid: stat.pgid,
        sid: stat.sid,
        comm: stat.comm,
        state: stat.state,
        kernel_thread: stat.kernel_thread,
        has_terminal: stat.has_terminal,
        adopted: false,
        null_streams: 0,
        exit_code: stat.exit_code,
        threads: stat.threads,
        start_ns: stat.start_ns(),
        // A stand-in: two processes that share memory (vfork, CLONE_VM) are told apart nevertheless.
        address_space: if gone || stat.kernel_thread {
            0
        } else {
            u64::from(shared.tgid)
        },
        signals: shared.signals,
        ..TaskObservation::default()
    }
}

//! From the scheduler's clock to `CLOCK_MONOTONIC`.
//!
//! `se.exec_start` of /proc/PID/sched is in the task clock of the run queue the thread was last on (`rq_clock_task`,
//! kernel/sched/core.c). That clock leaves out the time that the hypervisor took (steal) and, with
//! CONFIG_IRQ_TIME_ACCOUNTING, the time in interrupts; so it falls behind differently on each CPU. A thread of the
//! reader visits each CPU and compares the clocks there.
//!
//! Degradation policy: the visits have 30 ms; a CPU that gives the visitor no time until then, or that the reader may
//! not use, is estimated from what /proc/stat says it lost. There is no clock if the own row cannot be read; then
//! nobody's age is known. What a CPU loses after a thread left it makes that thread's age come out too short.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::TICK_NS;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity, sched_yield};
use rustix::time::{ClockId, clock_gettime};

use super::files::Reader;
use super::rows::SchedRow;

/// Tries to read the own row without changing the CPU.
const TRIES: usize = 3;
/// Time for the visits to all CPUs.
const VISITS: Duration = Duration::from_millis(30);

/// Nanoseconds of a clock.
pub(super) fn now_ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

/// What one CPU lost, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    stolen_ns: i64,
    interrupts_ns: i64,
}

/// Distance between the clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OffCpuClock {
    /// On the CPUs that were visited.
    measured_ns: Vec<Option<i64>>,
    /// On one of them, from which the others are estimated.
    offset_ns: i64,
    cpu: usize,
    lost: Vec<Lost>,
    counts_interrupts: bool,
}

impl OffCpuClock {
    /// Measures the distance by threads of the reader.
    pub(super) fn calibrate(reader: &mut Reader, proc: BorrowedFd<'_>) -> Option<OffCpuClock> {
        let lost = reader.whole(proc, "stat").map(lost_by_cpu).unwrap_or_default();
        let (offset_ns, cpu) = own_offset(reader, proc)?;
        let mut clock = OffCpuClock::new(offset_ns, cpu, lost);
        let deadline = Instant::now() + VISITS;
        if clock.lost.len() > 1
            && let Some(visits) = proc
                .try_clone_to_owned()
                .ok()
                .and_then(|proc| visit(proc, clock.lost.len()))
        {
            clock.measured_ns.resize(clock.lost.len(), None);
            while let Ok((cpu, offset)) =
                visits.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                if let Some(slot) = clock.measured_ns.get_mut(cpu) {
                    *slot = Some(offset);
                }
            }
        }
        Some(clock)
    }

    fn new(offset_ns: i64, cpu: usize, lost: Vec<Lost>) -> Self {
        // Apart from what was lost, both clocks count from boot. So the distance tells whether time in interrupts is
        // left out: which of the two explanations leaves less over.
        let own = lost.get(cpu).copied().unwrap_or_default();
        let without = offset_ns - own.stolen_ns;
        let counts_interrupts = without.abs() > (without - own.interrupts_ns).abs();
        OffCpuClock {
            measured_ns: Vec::new(),
            offset_ns,
            cpu,
            lost,
            counts_interrupts,
        }
    }

    /// When, in `CLOCK_MONOTONIC`, the task clock of a CPU showed that time; at the latest.
    pub(super) fn monotonic_ns(&self, exec_start_ns: u64, cpu: u32) -> Option<u64> {
        let cpu = cpu as usize;
        let estimate = || {
            let distance = self.lost_by(cpu) - self.lost_by(self.cpu);
            self.offset_ns.checked_add(distance)
        };
        let offset = self.measured_ns.get(cpu).copied().flatten().or_else(estimate)?;
        i64::try_from(exec_start_ns)
            .ok()
            .filter(|exec_start| *exec_start > 0)?
            .checked_add(offset)
            .map(|ns| ns.max(0).cast_unsigned())
    }

    fn lost_by(&self, cpu: usize) -> i64 {
        let lost = self.lost.get(cpu).copied().unwrap_or_default();
        lost.stolen_ns
            + if self.counts_interrupts {
                lost.interrupts_ns
            } else {
                0
            }
    }
}

/// Compares the clocks on the CPU that the calling thread is on.
fn own_offset(reader: &mut Reader, proc: BorrowedFd<'_>) -> Option<(i64, usize)> {
    let mut best: Option<(i64, usize)> = None;
    for _ in 0..TRIES {
        let cpu = sched_getcpu();
        // Makes the scheduler account for this thread now; else its row is up to a tick old.
        sched_yield();
        let now = now_ns(ClockId::Monotonic);
        let row = SchedRow::parse(reader.record(proc, "thread-self/sched").ok()?)?;
        if row.exec_start_ns == 0 || sched_getcpu() != cpu {
            continue;
        }
        let offset = now.checked_sub_unsigned(row.exec_start_ns)?;
        if best.is_none_or(|(best, best_cpu)| best_cpu != cpu || offset < best) {
            best = Some((offset, cpu));
        }
    }
    best
}

/// Sends a thread from CPU to CPU. It ends with the last one, or when nobody listens any more.
fn visit(proc: OwnedFd, cpus: usize) -> Option<Receiver<(usize, i64)>> {
    let (send, receive) = channel();
    let visitor = move || {
        let mut reader = Reader::new();
        for cpu in 0..cpus.min(CpuSet::MAX_CPU) {
            let mut only = CpuSet::new();
            only.set(cpu);
            if sched_setaffinity(None, &only).is_err() {
                continue;
            }
            let found = own_offset(&mut reader, proc.as_fd()).filter(|(_, on)| *on == cpu);
            if let Some((offset, _)) = found
                && send.send((cpu, offset)).is_err()
            {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("rung-clock".to_owned());
    thread.spawn(visitor).ok().map(|_| receive)
}

/// The rows `cpuN user nice system idle iowait irq softirq steal ...` (proc_stat(5)), by CPU number.
fn lost_by_cpu(stat: &[u8]) -> Vec<Lost> {
    let mut lost = Vec::new();
    for line in stat.split(|byte| *byte == b'\n') {
        let Some(row) = line.strip_prefix(b"cpu").and_then(|row| str::from_utf8(row).ok()) else {
            continue;
        };
        let mut fields = row.split(' ');
        let Some(cpu) = fields.next().and_then(|cpu| cpu.parse::<u16>().ok()) else {
            continue;
        };
        let ns: Vec<i64> = fields
            .map(|ticks| {
                ticks
                    .parse::<i64>()
                    .unwrap_or(0)
                    .saturating_mul(TICK_NS.cast_signed())
            })
            .collect();
        let field = |index: usize| ns.get(index).copied().unwrap_or(0);
        let cpu = usize::from(cpu);
        if lost.len() <= cpu {
            lost.resize(cpu + 1, Lost::default());
        }
        lost[cpu] = Lost {
            stolen_ns: field(7),
            interrupts_ns: field(5).saturating_add(field(6)),
        };
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &[u8] = b"cpu  27114 0 9357 265451 1439 0 503 4595 0 0\n\
        cpu0 12717 0 3919 135159 195 0 28 2242 0 0\ncpu1 14396 0 5437 130292 1244 0 475 2353 0 0\nintr 1\n";

    /// Figures measured on a virtual machine: the distances of its CPUs differed by just what was stolen from them.
    #[test]
    fn stolen_time_explains_the_distance_between_cpus() {
        let clock = OffCpuClock::new(21_596_000_000, 0, lost_by_cpu(STAT));
        assert!(!clock.counts_interrupts);
        let second = 1_000_000_000;
        assert_eq!(clock.monotonic_ns(100 * second, 0), Some(121_596_000_000));
        assert_eq!(clock.monotonic_ns(100 * second, 1), Some(122_706_000_000));
        assert_eq!(clock.monotonic_ns(0, 1), None);
        assert_eq!(clock.monotonic_ns(u64::MAX, 1), None);
        assert_eq!(clock.monotonic_ns(100 * second, 999), Some(99_176_000_000));
    }

    #[test]
    fn time_in_interrupts_counts_where_it_explains_more() {
        let stat = b"cpu0 0 0 0 0 0 100 200 0\ncpu1 0 0 0 0 0 0 0 0\n";
        let clock = OffCpuClock::new(2_900_000_000, 0, lost_by_cpu(stat));
        assert!(clock.counts_interrupts);
        assert_eq!(clock.monotonic_ns(10_000_000_000, 1), Some(9_900_000_000));
    }

    #[test]
    fn garbage() {
        assert_eq!(lost_by_cpu(b"cpux 1\ncpu\ncpu99999999 1\n"), []);
        assert_eq!(lost_by_cpu(b"cpu1 x y\n").len(), 2);
    }
}

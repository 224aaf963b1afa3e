//! Parsing the files of one thread: stat, status, schedstat, sched and syscall.
//!
//! Scope: bytes to numbers, pure (proc_pid_stat(5), proc_pid_status(5), proc_pid_syscall(5), `proc_sched_show_task`
//! in kernel/sched/debug.c). A program chooses the bytes of its own name, so names are neither assumed to be UTF-8
//! nor free of brackets, blanks and newlines.
//!
//! Degradation policy: `None` for a row that is not whole.

use rung_diagnosis::observation::{Comm, SignalMasks, TICK_NS, TaskState};

/// PF_KTHREAD, include/linux/sched.h
const PF_KTHREAD: u64 = 0x0020_0000;

/// /proc/PID/stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StatRow {
    pub(super) tid: u32,
    pub(super) comm: Comm,
    pub(super) state: TaskState,
    pub(super) parent: u32,
    pub(super) pgid: u32,
    pub(super) sid: u32,
    pub(super) has_terminal: bool,
    pub(super) kernel_thread: bool,
    pub(super) cpu_ticks: u64,
    pub(super) threads: u32,
    pub(super) start_ticks: u64,
    pub(super) processor: u32,
    pub(super) exit_code: i32,
}

impl StatRow {
    pub(super) fn parse(bytes: &[u8]) -> Option<StatRow> {
        // The name may hold any bytes, brackets too; what follows holds none.
        let open = bytes.iter().position(|byte| *byte == b'(')?;
        let close = bytes.iter().rposition(|byte| *byte == b')')?;
        let tid = number(bytes.get(..open)?.trim_ascii())?;
        let comm = Comm::from_bytes(bytes.get(open + 1..close)?);
        let mut fields = bytes.get(close + 1..)?.trim_ascii().split(|byte| *byte == b' ');
        let state = state(*fields.next()?.first()?);
        // Numbered as in the manual page: the name is 2, the state 3.
        let mut field = [0_i64; 53];
        for slot in &mut field[4..] {
            // Unsigned fields that are too large for i64 (limits, masks) are not used.
            *slot = fields.next().map_or(Some(0), |text| {
                str::from_utf8(text)
                    .ok()
                    .map(|text| text.parse().unwrap_or(i64::MAX))
            })?;
        }
        let small = |index: usize| u32::try_from(field[index]).unwrap_or(0);
        let large = |index: usize| field[index].max(0).cast_unsigned();
        // Older kernels have fewer fields at the end, but all have the start time.
        (large(22) > 0 || large(9) & PF_KTHREAD != 0 || small(4) > 0 || tid == 1).then(|| StatRow {
            tid,
            comm,
            state,
            parent: small(4),
            pgid: small(5),
            sid: small(6),
            has_terminal: field[7] != 0,
            kernel_thread: large(9) & PF_KTHREAD != 0,
            cpu_ticks: large(14).saturating_add(large(15)),
            threads: small(20),
            start_ticks: large(22),
            processor: small(39),
            exit_code: i32::try_from(field[52]).unwrap_or(0),
        })
    }

    pub(super) fn start_ns(&self) -> u64 {
        self.start_ticks.saturating_mul(TICK_NS)
    }
}

fn state(letter: u8) -> TaskState {
    match letter {
        b'S' => TaskState::Sleeping,
        b'D' => TaskState::Uninterruptible,
        b'T' => TaskState::Stopped,
        b't' => TaskState::Traced,
        b'Z' => TaskState::Zombie,
        b'X' | b'x' => TaskState::Dead,
        b'I' | b'P' => TaskState::Idle,
        _ => TaskState::Running,
    }
}

/// /proc/PID/status, the parts that nothing else has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StatusRow {
    pub(super) tgid: u32,
    pub(super) tracer: u32,
    /// Ids in the innermost PID namespace.
    pub(super) ns_tid: u32,
    pub(super) ns_tgid: u32,
    /// Depth of that namespace below the reader's.
    pub(super) ns_level: u32,
    pub(super) signals: Option<SignalMasks>,
}

impl StatusRow {
    pub(super) fn parse(bytes: &[u8]) -> Option<StatusRow> {
        let mut row = StatusRow::default();
        let mut signals = SignalMasks::default();
        let mut masks = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            // The name is on a line of its own, its newlines escaped.
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (key, value) = line.split_at(colon);
            let value = value.get(1..)?.trim_ascii();
            match key {
                b"Tgid" => row.tgid = number(value)?,
                b"TracerPid" => row.tracer = number(value)?,
                b"NStgid" => row.ns_tgid = innermost(value)?.0,
                b"NSpid" => (row.ns_tid, row.ns_level) = innermost(value)?,
                b"SigIgn" => (signals.ignored, masks) = (mask(value)?, masks + 1),
                b"SigCgt" => {
                    (signals.caught, masks) = (mask(value)?, masks + 1);
                    break;
                }
                _ => {}
            }
        }
        row.signals = (masks == 2).then_some(signals);
        (row.tgid != 0).then_some(row)
    }
}

/// Ids from the outermost to the innermost namespace; how many steps lie between.
fn innermost(value: &[u8]) -> Option<(u32, u32)> {
    let mut ids = value.split(|byte| byte.is_ascii_whitespace());
    let first = number(ids.next()?)?;
    ids.try_fold((first, 0), |(_, level), id| Some((number(id)?, level + 1)))
}

fn mask(value: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(value).ok()?, 16).ok()
}

fn number(value: &[u8]) -> Option<u32> {
    super::files::decimal(value)
}

/// /proc/PID/schedstat: time on the CPU, time waiting for it, times it was given (sched-stats.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SchedstatRow {
    pub(super) run_ns: u64,
    pub(super) run_delay_ns: u64,
    pub(super) timeslices: u64,
}

impl SchedstatRow {
    pub(super) fn parse(bytes: &[u8]) -> Option<SchedstatRow> {
        let text = str::from_utf8(bytes).ok()?;
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(SchedstatRow {
            run_ns: next()?,
            run_delay_ns: next()?,
            timeslices: next()?,
        })
    }
}

/// /proc/PID/sched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SchedRow {
    /// When the scheduler last accounted for the thread: when it left the CPU, unless it is on it. In the task clock
    /// of its run queue; 0 if not known.
    pub(super) exec_start_ns: u64,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
}

impl SchedRow {
    pub(super) fn parse(bytes: &[u8]) -> Option<SchedRow> {
        let mut row = SchedRow::default();
        let mut found = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (key, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            // A name with a newline in it could look like one of these keys, but what follows it is not a number.
            let slot = match key.trim_ascii() {
                b"se.exec_start" => milliseconds(value).map(|ns| row.exec_start_ns = ns),
                b"nr_voluntary_switches" => count(value).map(|count| row.voluntary_switches = count),
                b"nr_involuntary_switches" => count(value).map(|count| row.involuntary_switches = count),
                _ => None,
            };
            found += usize::from(slot.is_some());
            if found == 3 {
                break;
            }
        }
        (found > 0).then_some(row)
    }
}

fn count(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// `1435596.266582`, ms with six digits after the point, to ns.
fn milliseconds(value: &[u8]) -> Option<u64> {
    let (whole, fraction) = str::from_utf8(value).ok()?.split_once('.')?;
    let six = fraction.len() == 6 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: u64 = fraction.parse().ok().filter(|_| six)?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(fraction)
}

/// /proc/PID/syscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyscallRow {
    /// On a CPU, or about to be.
    Running,
    /// Blocked, but not in a call (a page fault, for instance).
    NoCall,
    /// In a call.
    Call {
        number: i64,
        args: [u64; 6],
        stack_pointer: u64,
    },
}

impl SyscallRow {
    pub(super) fn parse(bytes: &[u8]) -> Option<SyscallRow> {
        let text = str::from_utf8(bytes).ok()?;
        let mut fields = text.split_ascii_whitespace();
        let first = fields.next()?;
        if first == "running" {
            return Some(SyscallRow::Running);
        }
        let number: i64 = first.parse().ok()?;
        if number == -1 {
            return Some(SyscallRow::NoCall);
        }
        let mut next = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = next()?;
        }
        let stack_pointer = next()?;
        Some(SyscallRow::Call {
            number,
            args,
            stack_pointer,
        })
    }

    /// A 32-bit program: its stack lies below 4 GiB, its call numbers are those of another table.
    pub(super) fn is_compat(self) -> bool {
        matches!(self, SyscallRow::Call { stack_pointer, .. } if stack_pointer <= u64::from(u32::MAX))
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;

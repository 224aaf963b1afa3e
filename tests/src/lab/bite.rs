//! Proofs that a fault bit, from /proc alone: states, system calls, context switches that stand still.
//!
//! Every wait is bounded, and a fault that did not bite says what its processes were doing instead.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::proc;

/// How long a fault may take to bite.
pub const BITE_SECONDS: u64 = 10;
/// How long a thread's context switches must stand still for it to count as stuck.
const STILL: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A thread that is expected to hang in one of these system calls.
#[derive(Debug, Clone, Copy)]
pub struct Hang<'a> {
    /// Its process.
    pub pid: i32,
    /// The thread; the pid for the main thread.
    pub tid: i32,
    /// Numbers of `libc::SYS_*`.
    pub calls: &'a [i64],
}

impl<'a> Hang<'a> {
    /// The main thread of `pid`.
    pub fn main(pid: i32, calls: &'a [i64]) -> Self {
        Hang { pid, tid: pid, calls }
    }

    /// What identifies an unbroken wait: the system call and the switches so far. `None` while elsewhere.
    fn look(&self) -> Option<(proc::Call, u64)> {
        let state = proc::thread_stat(self.pid, self.tid)?.state;
        let call = proc::syscall(self.pid, self.tid)?;
        (state == 'S' && self.calls.contains(&call.number))
            .then_some((call, proc::switches(self.pid, self.tid)?))
    }
}

/// Waits until all of them hang at once, asleep, without a context switch between looks.
///
/// Returns when the last of them was first seen in the wait it is still in.
pub fn hang(hangs: &[Hang<'_>]) -> Result<Instant> {
    let end = Instant::now() + Duration::from_secs(BITE_SECONDS);
    let mut seen: Vec<Option<(proc::Call, u64)>> = vec![None; hangs.len()];
    let mut since = Instant::now();
    while Instant::now() < end {
        let now: Vec<_> = hangs.iter().map(Hang::look).collect();
        if now != seen || now.iter().any(Option::is_none) {
            seen = now;
            since = Instant::now();
        } else if since.elapsed() >= STILL {
            return Ok(since);
        }
        sleep(LOOK);
    }
    let stuck: Vec<String> = hangs.iter().map(|hang| proc::describe(hang.pid)).collect();
    bail!(
        "it did not bite within {BITE_SECONDS} s: not all of these hang as they should: {}",
        stuck.join("\n")
    )
}

/// Waits until a condition holds; `what` completes "it did not happen that".
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<Instant> {
    let end = Instant::now() + Duration::from_secs(BITE_SECONDS);
    while !holds() {
        ensure!(
            Instant::now() < end,
            "it did not bite: within {BITE_SECONDS} s it did not happen that {what}"
        );
        sleep(LOOK);
    }
    Ok(Instant::now())
}

/// Waits until a process is in a state of proc_pid_stat(5).
pub fn state(pid: i32, state: char) -> Result<Instant> {
    until(
        &format!("process {pid} is in state {state} ({})", proc::describe(pid)),
        || proc::stat(pid).is_some_and(|stat| stat.state == state),
    )
}

/// Waits until a process is gone, or only a zombie is left of it.
pub fn dead(pid: i32) -> Result<Instant> {
    until(&format!("process {pid} died"), || !proc::alive(pid))
}

/// Waits until a process has been handed over from `parent` to somebody else.
pub fn reparented(pid: i32, parent: i32) -> Result<Instant> {
    let runner = i32::try_from(std::process::id())?;
    let at = until(&format!("process {pid} left its parent {parent}"), || {
        proc::stat(pid).is_some_and(|stat| stat.ppid != parent)
    })?;
    let now = proc::stat(pid).map_or(0, |stat| stat.ppid);
    ensure!(
        now != runner,
        "process {pid} was handed to the runner itself, which is no orphanage"
    );
    ensure!(proc::alive(pid), "process {pid} died with its parent");
    Ok(at)
}

/// Waits until /proc/locks shows somebody waiting (`->`) for a lock on the file with this inode.
pub fn lock_waited_for(inode: u64) -> Result<Instant> {
    let suffix = format!(":{inode}");
    until(&format!("somebody waits for a lock on inode {inode}"), || {
        fs::read_to_string("/proc/locks").is_ok_and(|locks| {
            locks.lines().any(|line| {
                line.contains("->") && line.split_ascii_whitespace().any(|word| word.ends_with(&suffix))
            })
        })
    })
}

/// Shares of looks over a second in which at least `threads` threads of `pid` waited on one futex word.
pub fn contended(pid: i32, threads: usize) -> Result<Instant> {
    let start = Instant::now();
    let mut looks = 0_u32;
    let mut crowded = 0_u32;
    while start.elapsed() < Duration::from_secs(1) {
        let mut words: Vec<u64> = proc::tids(pid)
            .into_iter()
            .filter_map(|tid| proc::syscall(pid, tid))
            .filter(|call| call.number == libc::SYS_futex && call.args[1] & 0x7f == 0)
            .map(|call| call.args[0])
            .collect();
        words.sort_unstable();
        let most = words.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or(0);
        looks += 1;
        crowded += u32::from(most >= threads);
        sleep(LOOK);
    }
    ensure!(
        crowded * 2 > looks,
        "it did not bite: {threads} threads of {pid} waited on one lock in only {crowded} of {looks} looks"
    );
    Ok(start)
}

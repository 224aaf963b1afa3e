//! Finding and ending exactly the processes of one stage.
//!
//! Every process that a stage starts inherits its mark in the environment, so orphans and grandchildren
//! are found without anybody keeping a list. Processes end through a pidfd whose identity was checked
//! after it was opened, so a reused pid is never hit.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{cgroup, network, proc};

/// The environment variable that carries the mark.
pub const MARK: &str = "RUNG_LAB_STAGE";
/// How long ending everything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process by pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The host pid.
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_ticks: u64,
}

impl Identity {
    /// Of a process that is there.
    pub fn of(pid: i32) -> Option<Self> {
        proc::stat(pid).map(|stat| Identity {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Whether this very process still runs: its pid was not reused, and it is no zombie, or one whose
    /// threads live on.
    pub fn runs(self) -> bool {
        proc::stat(self.pid).is_some_and(|stat| {
            stat.start_ticks == self.start_ticks
                && (!matches!(stat.state, 'Z' | 'X') || proc::tids(self.pid).len() > 1)
        })
    }

    /// Whether anything of this very process is left, be it a zombie.
    pub fn left(self) -> bool {
        Identity::of(self.pid) == Some(self)
    }

    /// Sends a signal to this very process, or to nobody.
    pub fn signal(self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("no pid")?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("pidfd_open({})", self.pid))?;
        anyhow::ensure!(self.left(), "process {} is gone and its pid was reused", self.pid);
        pidfd_send_signal(fd, signal).with_context(|| format!("cannot signal {}", self.pid))
    }
}

/// Every living process that carries the mark.
pub fn marked(mark: &str) -> Vec<Identity> {
    let entry = format!("{MARK}={mark}");
    let carries = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|&byte| byte == 0)
                .any(|word| word == entry.as_bytes())
        })
    };
    proc::pids()
        .into_iter()
        .filter(carries)
        .filter_map(Identity::of)
        .collect()
}

/// Kills everything that carries the mark, and the processes in `known`, until none runs.
///
/// Does not reap. Returns all that it ended; says who is left if the patience runs out.
pub fn kill_all(mark: &str, known: &[Identity]) -> Result<HashSet<Identity>> {
    let end = Instant::now() + PATIENCE;
    let mut quiet = 0;
    let mut ended = HashSet::new();
    while quiet < 2 {
        let mut running = marked(mark);
        running.extend(known.iter().copied().filter(|identity| identity.runs()));
        quiet = if running.is_empty() { quiet + 1 } else { 0 };
        anyhow::ensure!(
            Instant::now() < end,
            "these processes of the lab will not die: {running:?}"
        );
        for identity in running {
            ended.insert(identity);
            // One that died in between is what we wanted.
            let _ = identity.signal(Signal::KILL);
        }
        sleep(Duration::from_millis(5));
    }
    Ok(ended)
}

/// The guard: waits for the runner to die or the time to end, and then clears the stage.
///
/// It serves the kill -9 of a runner, and stopped processes, whom no alarm ends.
pub fn guard(runner: i32, mark: &str, dir: &Path, seconds: u64) -> Result<()> {
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(seconds)?,
        tv_nsec: 0,
    };
    let pid = Pid::from_raw(runner).context("no runner")?;
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) {
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout))?;
    }
    kill_all(mark, &[])?;
    // A group is empty once its last process was reaped, by whoever inherited it.
    let end = Instant::now() + PATIENCE;
    while !(cgroup::remove_marked(mark) && network::remove_marked(mark)) && Instant::now() < end {
        sleep(Duration::from_millis(50));
    }
    if !proc::alive(runner) {
        // Several guards of one runner may be at it at once; the last one finishes.
        let _ = fs::remove_dir_all(dir);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_reused_pid_is_never_hit() {
        // Were it hit, this test would not live to tell.
        let other = Identity {
            start_ticks: me().start_ticks + 1,
            ..me()
        };
        assert!(other.signal(Signal::KILL).is_err());
        assert!(!other.runs() && !other.left());
        assert!(me().runs() && me().left());
    }

    #[test]
    fn only_the_marked_are_found() {
        let mut marked_child = std::process::Command::new("sleep")
            .arg("60")
            .env(MARK, "t-1")
            .spawn()
            .unwrap();
        let mut other_child = std::process::Command::new("sleep")
            .arg("60")
            .env(MARK, "t-11")
            .spawn()
            .unwrap();
        let found = marked("t-1");
        let ended = kill_all("t-1", &[]).unwrap();
        marked_child.wait().unwrap();
        assert_eq!(
            found
                .iter()
                .map(|one| one.pid.cast_unsigned())
                .collect::<Vec<_>>(),
            [marked_child.id()]
        );
        assert_eq!(ended.len(), 1);
        assert!(other_child.try_wait().unwrap().is_none());
        other_child.kill().unwrap();
        other_child.wait().unwrap();
    }
}

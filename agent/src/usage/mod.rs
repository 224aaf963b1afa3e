//! What processes and control groups use of memory and descriptors, what limits them, and kills for want of memory.
//!
//! Scope: for every process memory (/proc/PID/statm) and the number of its descriptors (the size of /proc/PID/fd, since
//! Linux 6.2); limits and control groups of the few that grow or are large; the host's memory, pressure and kills; the
//! kernel's log. For both sources alike, since no picture holds them. The root is injected, so that tests run on a small
//! fake tree.
//!
//! A process that has not run since it was last read uses what it used: it is not read again. So on a host of thousands
//! of idle processes a reading costs little. Where many run, a reading ends after its [`BUDGET`] and the next one goes on
//! from there.
//!
//! Degradation policy: what is refused, gone or not reached is left out and counted; the views of the four signals say
//! what is missing.

mod groups;
mod host;
mod kernel_log;
mod limits;
mod processes;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::{Picture, Signal, UsageObservation, View};
use rustix::fs::CWD;

use self::groups::MemoryGroups;
use self::kernel_log::KernelLog;
use self::processes::Processes;
use crate::clock;
use crate::procfs::files::{Reader, open_base};
use crate::procfs::tally::{blind, partial};

/// Readings are this far apart on average, and never closer than `APART`.
const INTERVAL: Duration = Duration::from_secs(1);
const APART: Duration = Duration::from_millis(800);
/// What one reading may take for the figures of processes.
const BUDGET: Duration = Duration::from_millis(15);

/// Reads at its own pace, and remembers who used what.
#[derive(Debug)]
pub(crate) struct Usage {
    root: PathBuf,
    proc: Option<OwnedFd>,
    processes: Processes,
    groups: MemoryGroups,
    log: KernelLog,
    reader: Reader,
    due: Option<Instant>,
    read: Option<Instant>,
    views: Vec<(Signal, View)>,
}

impl Usage {
    /// Reads below `root`, normally /proc; control groups are looked up below `top`, normally /; `log` is normally
    /// /dev/kmsg.
    pub(crate) fn new(root: &Path, top: &Path, log: &Path) -> Self {
        Usage {
            root: root.to_owned(),
            proc: None,
            processes: Processes::default(),
            groups: MemoryGroups::new(top),
            log: KernelLog::new(log),
            reader: Reader::new(),
            due: None,
            read: None,
            views: Vec::new(),
        }
    }

    /// Adds a reading to a picture if one is due, and the views in any case; returns what it cost.
    pub(crate) fn add_to(&mut self, picture: &mut Picture) -> Duration {
        let now = Instant::now();
        if self.is_due(now) {
            picture.usage = self.read(picture, true).map(Box::new);
        }
        for (signal, view) in &self.views {
            picture.sight.set(*signal, view.clone());
        }
        now.elapsed()
    }

    /// A reading between two pictures, if one is due; `last` is the picture before it.
    pub(crate) fn between(&mut self, last: &Picture) -> Option<UsageObservation> {
        self.is_due(Instant::now()).then(|| self.read(last, false))?
    }

    /// When the next reading is due; `None` before the first one.
    pub(crate) fn due(&self) -> Option<Instant> {
        Some(self.due?.max(self.read? + APART))
    }

    /// Whether a reading is due; if so, sets the date of the next one.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.due().is_some_and(|due| now < due) {
            return false;
        }
        let next = self.due.unwrap_or(now) + INTERVAL;
        self.due = Some(if next > now { next } else { now + INTERVAL });
        self.read = Some(now);
        true
    }

    fn read(&mut self, picture: &Picture, fresh: bool) -> Option<UsageObservation> {
        if self.proc.is_none() {
            self.proc = open_base(CWD, &self.root.to_string_lossy()).ok();
        }
        let Some(proc) = &self.proc else {
            let why = format!("cannot open {}", self.root.display());
            let view = blind(&why, "mount procfs on /proc");
            let signals = [
                Signal::MemoryUse,
                Signal::DescriptorCounts,
                Signal::UsageLimits,
                Signal::OomLog,
            ];
            self.views = signals.map(|signal| (signal, view.clone())).to_vec();
            return None;
        };
        let proc = proc.as_fd();
        let at_ns = clock::monotonic_ns();
        let deadline = Instant::now() + BUDGET;
        let processes = self
            .processes
            .read(proc, (picture, fresh), &mut self.reader, deadline);
        let limits = self.processes.limits(proc, &mut self.reader);
        let groups = self.groups.read(proc, &mut self.reader, &limits);
        let host = host::read(proc, &mut self.reader);
        let kills = self.log.read(proc);
        self.views = vec![
            (Signal::MemoryUse, self.processes.memory_view()),
            (Signal::DescriptorCounts, self.processes.descriptors_view()),
            (Signal::UsageLimits, self.groups.view()),
            (Signal::OomLog, self.log.view()),
        ];
        Some(UsageObservation {
            at_ns,
            processes,
            limits,
            groups,
            host,
            kills,
        })
    }
}

//! The picture by /proc: the same observations where BPF is not to be had, for a plain user too.
//!
//! Scope: one walk over all threads, one over all descriptors, and the kernel's tables of sockets, file locks and
//! process limits. Nothing is opened, stopped, traced or written to; the root is injected, so tests run on a small
//! fake tree.
//!
//! Degradation policy: only an unreadable root is an error. Everything else that is refused, gone or bounded is
//! counted, and the picture's [`Sight`](rung_diagnosis::observation::Sight) says of each signal what is missing, why,
//! and what would help. What /proc never shows: how full pipes are, which descriptors are copies of one open file,
//! descriptor tables and address spaces that processes share, socket timeouts, control group ids.

mod clock;
mod descriptors;
mod fdinfo;
pub(crate) mod files;
mod flows;
mod rows;
pub(crate) mod tally;
mod tasks;
#[cfg(test)]
mod tests;
mod vantage;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rung_diagnosis::observation::{
    BlockedCall, Call, EventsObservation, LockObservation, Picture, TaskObservation,
};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::time::ClockId;

use self::clock::{OffCpuClock, now_ns};
use self::descriptors::{DescriptorWalk, KnownSocket};
use self::flows::{FlowTracker, Opens};
use self::tally::Tally;
use self::tasks::{Buffers, TaskWalk};
use self::vantage::Vantage;
use crate::syscalls::Arch;
use crate::tcp_info::TCP_LISTEN;
use crate::{locks, networks, pids_limits, sock_diag};

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum ProcfsError {
    /// The root cannot be opened or listed.
    #[error("cannot read {path}: {source}; is procfs mounted there?")]
    Root {
        /// The root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the root is missing what is looked for.
    #[error("{path} has no line `{item}`; is procfs mounted there?")]
    Item {
        /// The file.
        path: PathBuf,
        /// The line.
        item: &'static str,
    },
}

/// The source that reads /proc. Keeps its buffers from picture to picture.
#[derive(Debug)]
pub struct ProcfsSource {
    root: PathBuf,
    arch: Option<Arch>,
    buffers: Buffers,
    entries: Vec<u8>,
    pids: Vec<u32>,
    /// Tells connections from successive pictures, if that is wanted,
    flows: Option<FlowTracker>,
    /// and what it told of the last one.
    events: Option<EventsObservation>,
}

impl ProcfsSource {
    /// A source that reads below `root`, normally /proc.
    pub fn new(root: PathBuf) -> Self {
        ProcfsSource {
            root,
            arch: Arch::of_build(),
            buffers: Buffers::new(),
            entries: descriptors::entries_buffer(),
            pids: Vec::new(),
            flows: None,
            events: None,
        }
    }

    /// From the next picture on, tells connections from successive pictures.
    pub fn watch_flows(&mut self) {
        let setting = |name: &str| {
            let path = self.root.join("sys/net/ipv4").join(name);
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        // The defaults of kernels that do not say (Documentation/networking/ip-sysctl.rst); linear timeouts came with 6.5.
        let retries = setting("tcp_syn_retries").unwrap_or(6);
        let linear_timeouts = setting("tcp_syn_linear_timeouts").unwrap_or(0);
        self.flows = Some(FlowTracker::new(flows::syn_patience(retries, linear_timeouts)));
    }

    /// What was told since the picture before the last one; of forks, execs and exits it says nothing. `None` if nothing
    /// was to be told.
    pub fn take_flows(&mut self) -> Option<EventsObservation> {
        self.events.take()
    }

    /// Takes one picture.
    pub fn picture(&mut self) -> Result<Picture, ProcfsError> {
        let root = std::fs::File::open(&self.root).map_err(|source| self.unreadable(source))?;
        let proc = root.as_fd();
        let reader = &mut self.buffers.reader;
        let vantage = Vantage::look(proc, &self.root.to_string_lossy(), reader);
        let clock = OffCpuClock::calibrate(reader, proc);
        let began_ns = now_ns(ClockId::Monotonic);
        let mut picture = Picture {
            began_ns: began_ns.max(0).cast_unsigned(),
            unix_ns: now_ns(ClockId::Realtime),
            suspended_ns: (now_ns(ClockId::Boottime) - began_ns).max(0).cast_unsigned(),
            ..Picture::default()
        };

        let mut pids = std::mem::take(&mut self.pids);
        let listed = reader.numbers(proc, ".", &mut pids);
        let mut walk = TaskWalk {
            proc,
            vantage: &vantage,
            clock,
            arch: self.arch,
            tally: Tally::default(),
            tasks: Vec::with_capacity(pids.len()),
            processes: Vec::with_capacity(pids.len()),
        };
        for pid in &pids {
            walk.process(*pid, &mut self.buffers);
        }
        self.pids = pids;
        listed.map_err(|source| self.unreadable(source.into()))?;
        let TaskWalk {
            mut tally,
            tasks,
            processes,
            ..
        } = walk;
        picture.tasks = tasks;
        picture.tasks.sort_unstable_by_key(|task| task.tid);

        if vantage.native {
            self.sockets(&mut picture, &vantage, &mut tally);
        } else {
            let why = "this /proc is not that of the own PID namespace".to_owned();
            tally.unix_failure = Some(why.clone());
            tally.inet_failure = Some(why);
        }
        if picture.tasks.iter().any(waits_for_lock) {
            picture.locks = self.locks(proc, &mut tally);
        }

        let sockets = known_sockets(&picture);
        let locked: FxHashSet<_> = picture.locks.iter().map(|lock| lock.file).collect();
        let mut walk = DescriptorWalk {
            proc,
            vantage: &vantage,
            sockets: &sockets,
            locked: &locked,
            deadline: Instant::now() + descriptors::BUDGET,
            tally: &mut tally,
            descriptors: Vec::new(),
            pipes: FxHashSet::default(),
            null_streams: FxHashMap::default(),
        };
        for process in &processes {
            walk.process(*process, &mut self.entries, &mut self.buffers.reader);
        }
        picture.pipes = walk.pipes();
        picture.descriptors = walk.descriptors;
        for task in &mut picture.tasks {
            task.null_streams = walk.null_streams.get(&task.tid).copied().unwrap_or_default();
        }

        self.pids_limits(&mut picture, &vantage, &mut tally);
        if vantage.native && tally.inet_failure.is_none() {
            let opens = self.buffers.reader.whole(proc, "self/net/snmp").ok();
            let opens = opens.and_then(networks::opens);
            let opens = opens.map(|(active, passive)| Opens { active, passive });
            if let Some(flows) = &mut self.flows {
                self.events = Some(flows.advance(&picture, opens));
                tally.tracking = Some(flows.tracking());
            }
        }
        picture.torn_rows = tally.torn;
        picture.sight = tally.sight(&vantage);
        picture.ended_ns = now_ns(ClockId::Monotonic).max(0).cast_unsigned();
        tracing::debug!(
            tasks = picture.tasks.len(),
            descriptors = tally.descriptors,
            kernel_threads = tally.kernel_threads,
            torn = tally.torn,
            walk_us = picture.walk_ns() / 1000,
            "picture by /proc"
        );
        Ok(picture)
    }

    /// The ids of all processes.
    pub fn pids(&mut self) -> Result<Vec<u32>, ProcfsError> {
        let root = std::fs::File::open(&self.root).map_err(|source| self.unreadable(source))?;
        let mut pids = Vec::new();
        let listed = self.buffers.reader.numbers(root.as_fd(), ".", &mut pids);
        listed.map_err(|source| self.unreadable(source.into()))?;
        Ok(pids)
    }

    /// The threads of some processes, by tid.
    pub fn tasks_of(&mut self, pids: &[u32]) -> Result<Vec<TaskObservation>, ProcfsError> {
        let root = std::fs::File::open(&self.root).map_err(|source| self.unreadable(source))?;
        let proc = root.as_fd();
        let reader = &mut self.buffers.reader;
        let vantage = Vantage::look(proc, &self.root.to_string_lossy(), reader);
        let clock = OffCpuClock::calibrate(reader, proc);
        let mut walk = TaskWalk {
            proc,
            vantage: &vantage,
            clock,
            arch: self.arch,
            tally: Tally::default(),
            tasks: Vec::new(),
            processes: Vec::new(),
        };
        for pid in pids {
            walk.process(*pid, &mut self.buffers);
        }
        walk.tasks.sort_unstable_by_key(|task| task.tid);
        Ok(walk.tasks)
    }

    /// Forks on the whole host since boot, threads included: the line `processes` of /proc/stat.
    pub fn fork_total(&mut self) -> Result<u64, ProcfsError> {
        const ITEM: &str = "processes";
        let path = self.root.join("stat");
        let text = std::fs::read(&path).map_err(|source| ProcfsError::Root {
            path: path.clone(),
            source,
        })?;
        text.split(|byte| *byte == b'\n')
            .find_map(|line| {
                str::from_utf8(line)
                    .ok()?
                    .strip_prefix("processes ")?
                    .trim()
                    .parse()
                    .ok()
            })
            .ok_or(ProcfsError::Item { path, item: ITEM })
    }

    fn unreadable(&self, source: std::io::Error) -> ProcfsError {
        ProcfsError::Root {
            path: self.root.clone(),
            source,
        }
    }

    fn sockets(&self, picture: &mut Picture, vantage: &Vantage, tally: &mut Tally) {
        match sock_diag::unix_sockets(vantage.net_ns) {
            Ok(dump) => {
                picture.unix_sockets = dump.sockets;
                tally.sockets_skipped += dump.skipped;
            }
            Err(error) => tally.unix_failure = Some(error.to_string()),
        }
        match sock_diag::inet_sockets(vantage.net_ns) {
            Ok(dump) => {
                picture.inet_sockets = dump.sockets;
                tally.sockets_skipped += dump.skipped;
                tally.figures_missing = picture
                    .inet_sockets
                    .iter()
                    .filter(|socket| socket.tcp && socket.state != TCP_LISTEN && socket.figures.is_none())
                    .count();
            }
            Err(error) => tally.inet_failure = Some(error.to_string()),
        }
    }

    fn locks(&mut self, proc: std::os::fd::BorrowedFd<'_>, tally: &mut Tally) -> Vec<LockObservation> {
        match self.buffers.reader.whole(proc, "locks") {
            Ok(bytes) => {
                let table = locks::parse(bytes);
                tally.locks_skipped = table.skipped;
                table.rows
            }
            Err(error) => {
                tally.locks_failure = Some(format!(
                    "cannot read {}: {error}",
                    self.root.join("locks").display()
                ));
                Vec::new()
            }
        }
    }

    fn pids_limits(&self, picture: &mut Picture, vantage: &Vantage, tally: &mut Tally) {
        let top = if vantage.native {
            Path::new("/")
        } else {
            &self.root
        };
        match pids_limits::read(&self.root.join("self/mountinfo"), top) {
            Ok(limits) => {
                picture.pids_limits = limits.groups;
                tally.pids_limits_incomplete = limits.incomplete;
            }
            Err(error) => tally.pids_limits_failure = Some(error.to_string()),
        }
    }
}

fn waits_for_lock(task: &TaskObservation) -> bool {
    matches!(
        task.call,
        Some(BlockedCall {
            call: Call::FileLock { .. },
            ..
        })
    )
}

fn known_sockets(picture: &Picture) -> FxHashMap<u64, KnownSocket> {
    let unix = picture
        .unix_sockets
        .iter()
        .map(|socket| (socket.inode, KnownSocket::Unix(socket.id)));
    let inet = picture
        .inet_sockets
        .iter()
        .map(|socket| (socket.inode, KnownSocket::Inet(socket.id)));
    unix.chain(inet).filter(|(inode, _)| *inode != 0).collect()
}

//! What a span of time showed: the last picture whole, of the others what rates and samples need.

mod attempts;
mod balance;
mod network;
mod usage;

use rustc_hash::FxHashMap;

pub use self::attempts::{Attempt, Fate};
pub use self::balance::{Balance, BalanceStep};
pub use self::network::{FlowHistory, FlowStep, NetworkHistory, SocketHistory};
pub use self::usage::{DescriptorKinds, GroupHistory, ProcessHistory, UsageHistory, UsageSample, is_within};

use crate::observation::{
    BlockedCall, Call, EventsObservation, FutexCall, FutexOp, Picture, TaskObservation, TaskState,
    UsageObservation,
};

/// A process, safe against reuse of its pid: id and start time.
pub type ProcessKey = (u32, u64);

/// Samples of one mutex: a futex word of an address space.
#[derive(Clone, Debug, Default)]
pub struct MutexSamples {
    /// The process that was seen waiting.
    pub tgid: u32,
    /// Sum over pictures of the threads that waited.
    pub waiting: u64,
    /// Owners seen, as user space wrote them, with the number of times; 0 for an owner that is not known.
    pub owners: FxHashMap<u32, u64>,
}

/// Samples of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActivitySamples {
    /// Sum over pictures of the threads that ran or could have run.
    pub running: u64,
}

/// A window over pictures of one host, fed in order of time.
#[derive(Debug, Default)]
pub struct Window {
    /// The last picture.
    pub last: Picture,
    /// How many pictures there were.
    pub pictures: u64,
    /// When the first one began, `CLOCK_MONOTONIC` ns.
    pub began_ns: u64,
    /// The wall clock then, ns since the epoch.
    pub began_unix_ns: i64,
    /// Mutexes that somebody was seen queueing for, by address space and address.
    pub mutexes: FxHashMap<(u64, u64), MutexSamples>,
    /// Activity of processes that have several threads.
    pub activity: FxHashMap<u32, ActivitySamples>,
    /// CPU time of each process's threads at the first picture in which it was seen, ns, and when.
    pub first_run: FxHashMap<ProcessKey, (u64, u64)>,
    /// Number of processes at each picture, with its time.
    pub process_counts: Vec<(u64, usize)>,
    /// Parents at the first picture: child to parent.
    pub first_parents: FxHashMap<u32, u32>,
    /// How often each control group had refused a fork at the first picture.
    pub first_refused: FxHashMap<String, u64>,
    /// Events of all spans, added up, but for the flows, which are in `network`.
    pub events: EventsObservation,
    /// Connections and sockets over time.
    pub network: NetworkHistory,
    /// Memory, descriptors and threads over time.
    pub usage: UsageHistory,
    unmoved: FxHashMap<u32, Unmoved>,
}

/// Since when a thread has not been switched, for sources that cannot tell its age.
#[derive(Clone, Copy, Debug)]
struct Unmoved {
    start_ns: u64,
    switches: u64,
    since_ns: u64,
}

impl Window {
    /// Adds the next picture, and the events since the one before.
    pub fn push(&mut self, mut picture: Picture, events: Option<EventsObservation>) {
        if self.pictures == 0 {
            self.began_ns = picture.began_ns;
            self.began_unix_ns = picture.unix_ns;
            self.first_parents = picture
                .tasks
                .iter()
                .filter(|task| task.tid == task.tgid)
                .map(|task| (task.tid, task.parent))
                .collect();
            self.first_refused = picture
                .pids_limits
                .iter()
                .map(|limit| (limit.path.clone(), limit.refused))
                .collect();
        }
        self.pictures += 1;
        self.date_unmoved(&mut picture);
        self.sample(&picture);
        self.network.add_picture(&picture);
        if let Some(usage) = &picture.usage {
            self.usage.add(usage, &picture);
        }
        if let Some(events) = events {
            self.add_events(events);
        }
        self.last = picture;
    }

    /// Adds a reading of what processes use that was taken after the last picture.
    pub fn push_usage(&mut self, usage: &UsageObservation) {
        self.usage.add(usage, &self.last);
    }

    /// Time between the first and the last picture, ns.
    pub fn length_ns(&self) -> u64 {
        self.last.began_ns.saturating_sub(self.began_ns)
    }

    /// Gives threads of unknown age one: as long as their context switches have not been seen to change.
    fn date_unmoved(&mut self, picture: &mut Picture) {
        if picture.tasks.iter().all(|task| task.off_cpu_since_ns.is_some()) {
            return;
        }
        let mut unmoved = FxHashMap::default();
        for task in &mut picture.tasks {
            if task.off_cpu_since_ns.is_some() || task.state == TaskState::Running {
                continue;
            }
            let switches = task.voluntary_switches + task.involuntary_switches;
            let before = self.unmoved.get(&task.tid);
            let known = before.filter(|one| one.start_ns == task.start_ns && one.switches == switches);
            let since_ns = known.map_or(picture.began_ns, |one| one.since_ns);
            unmoved.insert(
                task.tid,
                Unmoved {
                    start_ns: task.start_ns,
                    switches,
                    since_ns,
                },
            );
            if known.is_some() {
                task.off_cpu_since_ns = Some(since_ns);
            }
        }
        self.unmoved = unmoved;
    }

    fn sample(&mut self, picture: &Picture) {
        let mut processes = 0;
        let mut run: FxHashMap<ProcessKey, u64> = FxHashMap::default();
        let mut starts: FxHashMap<u32, u64> = FxHashMap::default();
        for task in &picture.tasks {
            if task.tid == task.tgid {
                processes += 1;
                starts.insert(task.tgid, task.start_ns);
            }
        }
        for task in &picture.tasks {
            if let Some(start) = starts.get(&task.tgid) {
                *run.entry((task.tgid, *start)).or_default() += task.run_ns;
            }
            if task.threads > 1 && task.state == TaskState::Running && !task.kernel_thread {
                self.activity.entry(task.tgid).or_default().running += 1;
            }
            if let Some((call, owner)) = contended_mutex(task) {
                let samples = self
                    .mutexes
                    .entry((task.address_space, call.address))
                    .or_default();
                samples.tgid = task.tgid;
                samples.waiting += 1;
                *samples.owners.entry(owner).or_default() += 1;
            }
        }
        for (process, ns) in run {
            self.first_run.entry(process).or_insert((ns, picture.began_ns));
        }
        self.process_counts.push((picture.began_ns, processes));
    }

    fn add_events(&mut self, events: EventsObservation) {
        let sum = &mut self.events;
        if sum.to_ns == 0 {
            sum.from_ns = events.from_ns;
        }
        sum.to_ns = events.to_ns;
        sum.forks_total += events.forks_total;
        sum.execs_total += events.execs_total;
        sum.exits_total += events.exits_total;
        sum.exits_lost += events.exits_lost;
        sum.flows_lost += events.flows_lost;
        self.network.add_events(&events);
        sum.exits.extend(events.exits);
        let mut forks: FxHashMap<u32, u64> = sum.forks.drain(..).collect();
        for (parent, count) in events.forks {
            *forks.entry(parent).or_default() += count;
        }
        sum.forks = forks.into_iter().collect();
        sum.forks.sort_unstable();
    }
}

/// The futex call of a thread that queues for a mutex of glibc's kind, and the owner's id as user space wrote it (0 if
/// it is not known): FUTEX_WAIT while the word says "locked, with waiters", or a PI lock.
fn contended_mutex(task: &TaskObservation) -> Option<(&FutexCall, u32)> {
    if task.state != TaskState::Sleeping {
        return None;
    }
    let Some(BlockedCall {
        call: Call::Futex(call),
        ..
    }) = &task.call
    else {
        return None;
    };
    let words = call.words?.0;
    match call.op {
        FutexOp::Wait if call.expected == 2 && words[0] == 2 => Some((call, words[2])),
        FutexOp::LockPi => Some((call, words[0] & 0x3fff_ffff)),
        _ => None,
    }
}

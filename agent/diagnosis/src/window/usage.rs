//! What each process used over time: memory, descriptors, threads. A bounded series for each process.

use rustc_hash::FxHashMap;

use super::ProcessKey;
use crate::observation::{
    Comm, FdObject, HostUsageObservation, MemoryGroupObservation, OomKillObservation, Picture,
    ProcessLimitsObservation, ProcessUsageObservation, UsageObservation,
};

/// Samples kept of one process: when there are more, every second one is dropped, and from then on they are taken half
/// as often. So the series covers the whole window, evenly.
const SAMPLES: usize = 64;
/// Processes that are followed. Those that are gone make room first.
const PROCESSES: usize = 16_384;

/// What a process used at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSample {
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Resident anonymous memory, bytes.
    pub anonymous_bytes: u64,
    /// Open descriptors; 0 if unknown.
    pub descriptors: u32,
    /// Threads that are not yet gone.
    pub threads: u32,
}

impl UsageSample {
    fn is_like(&self, other: &UsageSample) -> bool {
        UsageSample {
            at_ns: other.at_ns,
            ..*self
        } == *other
    }
}

/// A process over the window.
#[derive(Clone, Debug, Default)]
pub struct ProcessHistory {
    /// Its command name when it was last seen.
    pub comm: Comm,
    /// Its samples, oldest first. Of several alike in a row there are the first and the last.
    pub samples: Vec<UsageSample>,
    /// What it used when it was last read.
    pub latest: ProcessUsageObservation,
    /// Its limits, if they were read.
    pub limits: Option<ProcessLimitsObservation>,
    /// The last reading in which it was there, `CLOCK_MONOTONIC` ns.
    pub seen_ns: u64,
    step_ns: u64,
}

impl ProcessHistory {
    /// One figure of the samples over time, for a trend.
    pub fn series(&self, figure: impl Fn(&UsageSample) -> f64) -> Vec<(u64, f64)> {
        self.samples
            .iter()
            .map(|sample| (sample.at_ns, figure(sample)))
            .collect()
    }

    /// How much more anonymous memory it has than when it was first seen, bytes.
    pub fn memory_rise(&self) -> u64 {
        match (self.samples.first(), self.samples.last()) {
            (Some(first), Some(last)) => last.anonymous_bytes.saturating_sub(first.anonymous_bytes),
            _ => 0,
        }
    }

    fn add(&mut self, sample: UsageSample) {
        if let [.., before, last] = self.samples.as_mut_slice()
            && (last.is_like(before) && sample.is_like(last)
                || sample.at_ns.saturating_sub(before.at_ns) < self.step_ns)
        {
            *last = sample;
            return;
        }
        self.samples.push(sample);
        if self.samples.len() > SAMPLES {
            let span = sample
                .at_ns
                .saturating_sub(self.samples.first().map_or(0, |one| one.at_ns));
            self.step_ns = span / (SAMPLES as u64 / 2);
            let mut at = 0;
            self.samples.retain(|_| {
                at += 1;
                at % 2 == 1
            });
        }
    }
}

/// Descriptors of a process that the picture lists, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorKinds {
    /// Ends of pipes and FIFOs.
    pub pipes: u32,
    /// Unix sockets.
    pub unix_sockets: u32,
    /// TCP and UDP sockets.
    pub inet_sockets: u32,
    /// Sockets of other families.
    pub other_sockets: u32,
    /// Epoll instances.
    pub event_polls: u32,
}

impl DescriptorKinds {
    /// Those of every process, by the thread whose table it is.
    pub fn of(picture: &Picture) -> FxHashMap<u32, DescriptorKinds> {
        let mut kinds: FxHashMap<u32, DescriptorKinds> = FxHashMap::default();
        for row in &picture.descriptors {
            let kinds = kinds.entry(row.tid).or_default();
            match row.object {
                FdObject::Pipe(_) => kinds.pipes += 1,
                FdObject::Unix(_) => kinds.unix_sockets += 1,
                FdObject::Inet(_) => kinds.inet_sockets += 1,
                FdObject::OtherSocket => kinds.other_sockets += 1,
                FdObject::Epoll { .. } => kinds.event_polls += 1,
                FdObject::Terminal | FdObject::LockedFile(_) | FdObject::Other => {}
            }
        }
        kinds
    }

    /// How many more there are than before.
    pub fn risen_since(self, before: DescriptorKinds) -> DescriptorKinds {
        DescriptorKinds {
            pipes: self.pipes.saturating_sub(before.pipes),
            unix_sockets: self.unix_sockets.saturating_sub(before.unix_sockets),
            inet_sockets: self.inet_sockets.saturating_sub(before.inet_sockets),
            other_sockets: self.other_sockets.saturating_sub(before.other_sockets),
            event_polls: self.event_polls.saturating_sub(before.event_polls),
        }
    }

    /// Each kind by name, with its number.
    pub fn named(self) -> [(&'static str, u32); 5] {
        [
            ("pipes", self.pipes),
            ("Unix sockets", self.unix_sockets),
            ("TCP and UDP sockets", self.inet_sockets),
            ("other sockets", self.other_sockets),
            ("event polls", self.event_polls),
        ]
    }
}

/// A control group over the window.
#[derive(Clone, Debug)]
pub struct GroupHistory {
    /// As it was first read.
    pub first: MemoryGroupObservation,
    /// As it was last read.
    pub last: MemoryGroupObservation,
}

/// See the module.
#[derive(Debug, Default)]
pub struct UsageHistory {
    /// By process. One that is gone is there until room is needed.
    pub processes: FxHashMap<ProcessKey, ProcessHistory>,
    /// Control groups with a limit on memory that were read, by path.
    pub groups: FxHashMap<String, GroupHistory>,
    /// The host at the first reading, and at the last one.
    pub host: Option<(HostUsageObservation, HostUsageObservation)>,
    /// Kills that the kernel's log told of, those before the window included.
    pub kills: Vec<OomKillObservation>,
    /// The kinds of descriptors at the first reading.
    pub first_kinds: FxHashMap<u32, DescriptorKinds>,
    /// When the last reading was, `CLOCK_MONOTONIC` ns; 0 if there was none.
    pub last_ns: u64,
}

impl UsageHistory {
    /// The history of a process by its id: of the one that was last seen under it.
    pub fn process(&self, pid: u32) -> Option<(ProcessKey, &ProcessHistory)> {
        let named = self.processes.iter().filter(|(key, _)| key.0 == pid);
        named
            .max_by_key(|(key, _)| key.1)
            .map(|(key, history)| (*key, history))
    }

    /// The processes that are still there, by the last reading, each with its history.
    pub fn living(&self) -> impl Iterator<Item = (ProcessKey, &ProcessHistory)> {
        let is_there = |history: &ProcessHistory| history.seen_ns == self.last_ns;
        self.processes
            .iter()
            .filter(move |(_, history)| is_there(history))
            .map(|(key, history)| (*key, history))
    }

    /// A control group and those above it, of those that have a limit on memory, by the path of the lowest.
    pub fn groups_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a String, &'a GroupHistory)> {
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .filter(|(above, _)| is_within(path, above))
            .collect();
        groups.sort_unstable_by_key(|(path, _)| path.as_str());
        groups.into_iter()
    }

    /// Adds a reading that was taken with this picture, or after it and before the next one.
    pub(super) fn add(&mut self, usage: &UsageObservation, picture: &Picture) {
        if self.last_ns == 0 {
            self.first_kinds = DescriptorKinds::of(picture);
        }
        self.last_ns = usage.at_ns;
        let leaders = picture.tasks.iter().filter(|task| task.tid == task.tgid);
        let leaders: FxHashMap<ProcessKey, Comm> = leaders
            .map(|task| ((task.tgid, task.start_ns), task.comm))
            .collect();
        for process in &usage.processes {
            let key = (process.pid, process.start_ns);
            let Some(comm) = leaders.get(&key) else {
                continue;
            };
            let Some(history) = self.history(key) else {
                continue;
            };
            history.comm = *comm;
            history.latest = *process;
            history.seen_ns = usage.at_ns;
            history.add(UsageSample {
                at_ns: usage.at_ns,
                anonymous_bytes: process.anonymous_bytes,
                descriptors: process.descriptors.unwrap_or(0),
                threads: process.threads,
            });
        }
        for key in leaders.keys() {
            // There, and not read this time.
            if let Some(history) = self.processes.get_mut(key) {
                history.seen_ns = usage.at_ns;
            }
        }
        for limits in &usage.limits {
            if let Some(history) = self.processes.get_mut(&(limits.pid, limits.start_ns)) {
                history.limits = Some(limits.clone());
            }
        }
        for group in &usage.groups {
            let history = self
                .groups
                .entry(group.path.clone())
                .or_insert_with(|| GroupHistory {
                    first: group.clone(),
                    last: group.clone(),
                });
            history.last = group.clone();
        }
        let first = self.host.map_or(usage.host, |(first, _)| first);
        self.host = Some((first, usage.host));
        self.kills.extend(usage.kills.iter().cloned());
    }

    fn history(&mut self, key: ProcessKey) -> Option<&mut ProcessHistory> {
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&key) {
            let now_ns = self.last_ns;
            self.processes.retain(|_, history| history.seen_ns >= now_ns);
            if self.processes.len() >= PROCESSES {
                return None;
            }
        }
        Some(self.processes.entry(key).or_default())
    }
}

/// Whether a control group is another one, or below it.
pub fn is_within(path: &str, above: &str) -> bool {
    let below = path.strip_prefix(above.trim_end_matches('/'));
    !path.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(values: impl IntoIterator<Item = u64>) -> ProcessHistory {
        let mut history = ProcessHistory::default();
        for (second, anonymous_bytes) in (1..).zip(values) {
            history.add(UsageSample {
                at_ns: second * 1_000_000_000,
                anonymous_bytes,
                ..UsageSample::default()
            });
        }
        history
    }

    #[test]
    fn groups_lie_within_those_above_them() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b") && !is_within("", "/"));
    }

    #[test]
    fn what_does_not_change_takes_two_samples() {
        let history = history([7; 1000]);
        let times: Vec<u64> = history.samples.iter().map(|sample| sample.at_ns).collect();
        assert_eq!(times, [1_000_000_000, 1000 * 1_000_000_000]);
    }

    #[test]
    fn a_long_series_is_thinned_evenly_and_keeps_both_ends() {
        let history = history((0..3600).map(|second| second * 10));
        assert!(history.samples.len() <= SAMPLES && history.samples.len() >= SAMPLES / 2);
        assert_eq!(history.samples[0].anonymous_bytes, 0);
        assert_eq!(history.samples.last().unwrap().anonymous_bytes, 35_990);
        assert_eq!(history.memory_rise(), 35_990);
        let gaps: Vec<u64> = history
            .samples
            .windows(2)
            .map(|pair| (pair[1].at_ns - pair[0].at_ns) / 1_000_000_000)
            .collect();
        let (least, most) = (
            gaps[..gaps.len() - 1].iter().min().unwrap(),
            gaps.iter().max().unwrap(),
        );
        assert!(*most <= 2 * least, "{gaps:?}");
    }
}

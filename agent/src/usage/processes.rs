//! Memory and descriptors of every process, of those alone that have run since they were last read.

use std::fmt::Write;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rung_diagnosis::observation::{
    Picture, ProcessLimitsObservation, ProcessUsageObservation, TaskState, View,
};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::{AtFlags, statat};

use super::{blind, limits, partial};
use crate::procfs::files::{Reader, is_refused};

/// A process is asked for its limits if its memory has risen by this much since it was first read,
const RISEN_BYTES: u64 = 1 << 20;
/// or its descriptors or threads by so many,
const RISEN_COUNT: u32 = 4;
/// or if it is one of so many at the top of one of these lists, or of those with the most memory.
const LISTED: usize = 16;
/// Who has so many descriptors is asked once at least, since the limit may be near.
const ASKED_DESCRIPTORS: u32 = 64;
/// Processes asked for that reason in one reading.
const ASKED_AT_ONCE: usize = 128;
/// Who was on a CPU within this time before the picture counts as active.
const RECENT_NS: u64 = 1_500_000_000;
/// Processes looked at between two looks at the clock.
const CLOCK_EVERY: usize = 16;

/// Figures that may grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    anonymous_bytes: u64,
    descriptors: u32,
    threads: u32,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    usage: ProcessUsageObservation,
    /// Changes whenever one of its threads was on a CPU.
    activity: u64,
    /// The reading in which it was last read.
    read: u64,
    /// It ran between the last two pictures, or that is not known yet.
    active: bool,
    first: Level,
    asked: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: FxHashMap<(u32, u64), Known>,
    /// What everybody had done at the last picture.
    sums: FxHashMap<(u32, u64), u64>,
    page_bytes: u64,
    readings: u64,
    /// Whether the kernel tells the number of descriptors; `None` before the first reading.
    counts_descriptors: Option<bool>,
    /// Of the last reading: processes there are, those that ran and were not reached, those that did not run and were
    /// never read, those refused.
    there: usize,
    unreached: usize,
    unread: usize,
    refused: usize,
    path: String,
}

/// What the threads of a process did.
#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    sum: u64,
    runs: bool,
    threads: u32,
    /// For how long none of its threads has been on a CPU, ns; `u64::MAX` if that is not known.
    idle_ns: u64,
}

/// In which order processes are read: those that ran before those that did not and were never read; of the former who was
/// not read for longest, of the latter who ran last. A process costs more when the kernel has to set up its directory
/// first, so thousands of idle ones take many readings.
type Rank = (bool, u64, u64, std::cmp::Reverse<u64>);

impl Processes {
    /// Reads who is due until the deadline, and gives all figures that are of this moment. The picture is of this moment
    /// too, or if it is not `fresh`, the last one: then those are due who ran before it.
    pub(super) fn read(
        &mut self,
        proc: BorrowedFd<'_>,
        (picture, fresh): (&Picture, bool),
        reader: &mut Reader,
        deadline: Instant,
    ) -> Vec<ProcessUsageObservation> {
        self.readings += 1;
        if self.page_bytes == 0 {
            self.page_bytes = rustix::param::page_size() as u64;
        }
        if self.counts_descriptors.is_none() {
            // One descriptor at least is open here: this reader's own of /proc.
            let own = statat(proc, "self/fd", AtFlags::empty());
            self.counts_descriptors = Some(own.is_ok_and(|stat| stat.st_size > 0));
        }
        let active = activity(picture);
        self.known.retain(|key, _| active.contains_key(key));
        self.there = active.len();
        self.refused = 0;
        if fresh {
            for (key, known) in &mut self.known {
                let now = active.get(key);
                known.active = now.is_none_or(|now| now.runs || known.activity != now.sum);
            }
        }
        let mut due: Vec<(Rank, (u32, u64), Activity)> = active
            .iter()
            .filter_map(|(key, now)| Some((self.rank(*key, *now)?, *key, *now)))
            .collect();
        if fresh {
            self.sums = active.iter().map(|(key, now)| (*key, now.sum)).collect();
        }
        due.sort_unstable_by_key(|(rank, ..)| *rank);
        let mut done = 0;
        for (_, key, now) in &due {
            if done % CLOCK_EVERY == 0 && done > 0 && Instant::now() >= deadline {
                break;
            }
            done += 1;
            self.read_one(proc, *key, (*now, fresh), reader);
        }
        let late = due.get(done..).unwrap_or_default();
        self.unread = late.iter().filter(|(rank, ..)| rank.0).count();
        self.unreached = late.len() - self.unread;
        let late: FxHashSet<(u32, u64)> = late.iter().map(|(_, key, _)| *key).collect();
        self.known
            .iter()
            .filter(|(key, _)| !late.contains(*key))
            .map(|(_, known)| known.usage)
            .collect()
    }

    /// `None` if nothing can have changed since it was last read.
    fn rank(&self, key: (u32, u64), now: Activity) -> Option<Rank> {
        let young = std::cmp::Reverse(key.1);
        if let Some(known) = self.known.get(&key) {
            return known.active.then_some((false, known.read, now.idle_ns, young));
        }
        let is_new = self.readings > 1 && !self.sums.contains_key(&key);
        let ran = self.sums.get(&key).is_some_and(|sum| *sum != now.sum);
        let active = now.runs || is_new || ran || now.idle_ns < RECENT_NS;
        Some((!active, 0, now.idle_ns, young))
    }

    fn read_one(
        &mut self,
        proc: BorrowedFd<'_>,
        key: (u32, u64),
        (now, fresh): (Activity, bool),
        reader: &mut Reader,
    ) {
        let statm = reader
            .record(proc, path(&mut self.path, key.0, "statm"))
            .map(pages);
        let [virtual_, resident, shared, data] = match statm {
            Ok(Some(pages)) => pages,
            Ok(None) => return,
            Err(error) => {
                self.refused += usize::from(is_refused(error));
                return;
            }
        };
        let mut descriptors = None;
        if self.counts_descriptors == Some(true)
            && let Ok(stat) = statat(proc, path(&mut self.path, key.0, "fd"), AtFlags::empty())
        {
            descriptors = u32::try_from(stat.st_size).ok();
        }
        let mut threads = now.threads;
        if !fresh && threads > 1 {
            // A directory has two links and one for each directory in it; here these are threads (proc_task_getattr).
            let tasks = statat(proc, path(&mut self.path, key.0, "task"), AtFlags::empty());
            let links = tasks.map_or(0, |stat| u32::try_from(stat.st_nlink).unwrap_or(0));
            threads = links.saturating_sub(2);
        }
        let usage = ProcessUsageObservation {
            pid: key.0,
            start_ns: key.1,
            anonymous_bytes: resident.saturating_sub(shared) * self.page_bytes,
            shared_bytes: shared * self.page_bytes,
            virtual_bytes: virtual_ * self.page_bytes,
            data_bytes: data * self.page_bytes,
            descriptors,
            threads,
        };
        let level = Level {
            anonymous_bytes: usage.anonymous_bytes,
            descriptors: descriptors.unwrap_or(0),
            threads: usage.threads,
        };
        let known = self.known.entry(key).or_insert(Known {
            usage,
            activity: now.sum,
            read: self.readings,
            active: true,
            first: level,
            asked: false,
        });
        known.usage = usage;
        known.activity = now.sum;
        known.read = self.readings;
    }

    /// The limits of those that grow or are large.
    pub(super) fn limits(
        &mut self,
        proc: BorrowedFd<'_>,
        reader: &mut Reader,
    ) -> Vec<ProcessLimitsObservation> {
        let mut chosen: Vec<(u32, u64)> = Vec::new();
        let mut list = |figure: &dyn Fn(&Known) -> Option<u64>| {
            let figures = self.known.iter();
            let mut listed: Vec<(u64, (u32, u64))> = figures
                .filter_map(|(key, known)| Some((figure(known)?, *key)))
                .collect();
            listed.sort_unstable_by(|a, b| b.cmp(a));
            chosen.extend(listed.iter().take(LISTED).map(|(_, key)| *key));
        };
        let at_least = |figure: u64, least: u64| (figure >= least).then_some(figure);
        list(&|known| {
            at_least(
                known
                    .usage
                    .anonymous_bytes
                    .saturating_sub(known.first.anonymous_bytes),
                RISEN_BYTES,
            )
        });
        list(&|known| at_least(known.usage.anonymous_bytes, RISEN_BYTES));
        list(&|known| {
            let risen = known.usage.descriptors?.saturating_sub(known.first.descriptors);
            at_least(risen.into(), RISEN_COUNT.into())
        });
        list(&|known| {
            let risen = known.usage.threads.saturating_sub(known.first.threads);
            at_least(risen.into(), RISEN_COUNT.into())
        });
        let unasked = self.known.iter().filter(|(_, known)| {
            !known.asked
                && known
                    .usage
                    .descriptors
                    .is_some_and(|count| count >= ASKED_DESCRIPTORS)
        });
        chosen.extend(unasked.map(|(key, _)| *key).take(ASKED_AT_ONCE));
        chosen.sort_unstable();
        chosen.dedup();
        let mut read = Vec::with_capacity(chosen.len());
        for key in chosen {
            if let Some(known) = self.known.get_mut(&key) {
                known.asked = true;
            }
            read.extend(limits::read(proc, key, reader, &mut self.path));
        }
        read
    }

    /// Processes there were at the last reading.
    #[cfg(test)]
    pub(super) fn there(&self) -> usize {
        self.there
    }

    pub(super) fn memory_view(&self) -> View {
        let (there, remedy) = (self.there, "run as root");
        if self.refused > 0 {
            return partial(
                &format!(
                    "the memory of {} of {there} processes is not readable",
                    self.refused
                ),
                remedy,
            );
        }
        if self.unreached > 0 {
            return partial(
                &format!(
                    "so many processes run that {} of {there} were not read in the last second",
                    self.unreached
                ),
                "look for longer (`--for 1m`)",
            );
        }
        View::Full
    }

    pub(super) fn descriptors_view(&self) -> View {
        if self.counts_descriptors == Some(false) {
            return blind(
                "this kernel does not tell how many descriptors a process has open (Linux 6.2 does)",
                "count by hand: `ls /proc/PID/fd | wc -l`",
            );
        }
        if self.unreached == 0 && self.unread > 0 {
            return partial(
                &format!(
                    "{} of {} processes, none of which ran lately, were not read yet",
                    self.unread, self.there
                ),
                "look for longer (`--for 1m`)",
            );
        }
        self.memory_view()
    }
}

pub(super) fn path<'a>(buffer: &'a mut String, pid: u32, file: &str) -> &'a str {
    buffer.clear();
    // Writing to a String cannot fail.
    let _ = write!(buffer, "{pid}/{file}");
    buffer
}

/// What each process's threads did, kernel threads and the dead left out.
fn activity(picture: &Picture) -> FxHashMap<(u32, u64), Activity> {
    let mut starts: FxHashMap<u32, (u64, u32)> = FxHashMap::default();
    for task in picture.tasks.iter().filter(|task| task.tid == task.tgid) {
        if !task.kernel_thread {
            starts.insert(task.tgid, (task.start_ns, task.threads));
        }
    }
    let mut active: FxHashMap<(u32, u64), Activity> = FxHashMap::default();
    for task in &picture.tasks {
        let Some((start, threads)) = starts.get(&task.tgid) else {
            continue;
        };
        if matches!(task.state, TaskState::Zombie | TaskState::Dead) {
            continue;
        }
        let of = active.entry((task.tgid, *start)).or_insert(Activity {
            threads: *threads,
            idle_ns: u64::MAX,
            ..Activity::default()
        });
        if let Some(since_ns) = task.off_cpu_since_ns {
            of.idle_ns = of.idle_ns.min(picture.began_ns.saturating_sub(since_ns));
        }
        let switches = task.voluntary_switches.wrapping_add(task.involuntary_switches);
        // The thread's id goes in as well, so that one that ends and one that begins do not cancel each other out.
        let ran = task
            .run_ns
            .wrapping_add(switches)
            .wrapping_add(u64::from(task.tid));
        of.sum = of.sum.wrapping_mul(31).wrapping_add(ran);
        of.runs |= task.state == TaskState::Running;
    }
    active
}

/// Total, resident, shared, and data pages of /proc/PID/statm (proc_pid_statm(5)).
fn pages(bytes: &[u8]) -> Option<[u64; 4]> {
    let mut numbers = str::from_utf8(bytes)
        .ok()?
        .split_ascii_whitespace()
        .map(|word| word.parse().ok());
    let (total, resident, shared) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let data = numbers.nth(2)??;
    Some([total, resident, shared, data])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_of_the_manual() {
        assert_eq!(pages(b"765 438 410 5 0 123 0\n"), Some([765, 438, 410, 123]));
        assert_eq!(pages(b"765 438 410 5 0\n"), None);
        assert_eq!(pages(b"a b c d e f g"), None);
        assert_eq!(pages(b"\xff"), None);
    }
}

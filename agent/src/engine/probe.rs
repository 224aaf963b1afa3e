//! The chosen source with what it needs around it: file locks, limits of control groups, network namespaces, what
//! processes use, processes it does not show.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::{Call, EventsObservation, Picture, Signal, Source, UsageObservation, View};

use super::{EngineError, SourceChoice};
use crate::bpf::{BpfSource, Unavailable};
use crate::networks::{Networks, Reading};
use crate::procfs::ProcfsSource;
use crate::usage::Usage;
use crate::{clock, locks, pids_limits, write_calls};

pub(super) const PROC: &str = "/proc";
pub(super) const HOSTS: &str = "/etc/hosts";
const KERNEL_LOG: &str = "/dev/kmsg";
/// Limits of control groups change slowly, and reading them costs more than a picture.
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);
/// Counters of namespaces are for rates, and the list of sockets that nobody holds can be long: it is read at most so
/// often, and takes at most one part in this many of the time.
const NETWORKS_INTERVAL: Duration = Duration::from_secs(1);
const NETWORKS_DUTY: u32 = 50;

enum Kind {
    Bpf(Box<BpfSource>),
    Procfs,
}

/// Where pictures come from.
pub(super) struct Probe {
    kind: Kind,
    procfs: ProcfsSource,
    /// Why BPF is not used, if it was to be.
    bpf_refused: Option<Unavailable>,
    events_refused: Option<Unavailable>,
    /// Processes that the iterators do not show; `None` before the first look.
    hidden: Option<Vec<u32>>,
    limits_read: Option<Instant>,
    limits: Result<pids_limits::PidsLimits, String>,
    networks: Networks,
    networks_read: Option<NetworksRead>,
    usage: Usage,
    /// What the last picture spent on namespaces and on what processes use.
    apart: Duration,
}

/// The last reading of namespaces.
struct NetworksRead {
    at: Instant,
    cost: Duration,
    reading: Reading,
}

impl Probe {
    pub(super) fn open(choice: SourceChoice) -> Result<Self, EngineError> {
        let (kind, bpf_refused) = match choice {
            SourceChoice::Procfs => (Kind::Procfs, None),
            SourceChoice::Auto | SourceChoice::Bpf => match BpfSource::open() {
                Ok(source) => (Kind::Bpf(Box::new(source)), None),
                Err(Unavailable { why, remedy }) if choice == SourceChoice::Bpf => {
                    return Err(EngineError::SourceUnavailable { why, remedy });
                }
                Err(refused) => {
                    tracing::info!(why = refused.why, "BPF is not to be had; reading /proc");
                    (Kind::Procfs, Some(refused))
                }
            },
        };
        Ok(Probe {
            kind,
            procfs: ProcfsSource::new(PathBuf::from(PROC)),
            bpf_refused,
            events_refused: None,
            hidden: None,
            limits_read: None,
            limits: Err("not read yet".into()),
            networks: Networks::new(PathBuf::from(PROC), true),
            networks_read: None,
            usage: Usage::new(Path::new(PROC), Path::new("/"), Path::new(KERNEL_LOG)),
            apart: Duration::ZERO,
        })
    }

    /// The tier of the iterators that loaded, or why none did.
    pub(super) fn bpf(&self) -> Result<Source, Unavailable> {
        match (&self.kind, &self.bpf_refused) {
            (Kind::Bpf(source), _) => Ok(source.source()),
            (Kind::Procfs, Some(refused)) => Err(refused.clone()),
            (Kind::Procfs, None) => Err(Unavailable {
                why: "not tried".into(),
                remedy: "use --source auto".into(),
            }),
        }
    }

    /// Starts counting events, as far as the source can.
    pub(super) fn watch_events(&mut self) {
        match &mut self.kind {
            Kind::Bpf(source) => self.events_refused = source.watch_events().err(),
            Kind::Procfs => self.procfs.watch_flows(),
        }
    }

    pub(super) fn picture(&mut self) -> Result<(Picture, Option<EventsObservation>), EngineError> {
        let failed = |error: &dyn std::error::Error| EngineError::Probe(error.to_string());
        let source = match &mut self.kind {
            Kind::Bpf(source) => source,
            Kind::Procfs => {
                let mut picture = self.procfs.picture().map_err(|error| failed(&error))?;
                if let Some(refused) = &self.bpf_refused {
                    blind(&mut picture, &[Signal::PipeFill, Signal::ExitEvents], refused);
                }
                self.add_networks(&mut picture);
                self.apart += self.usage.add_to(&mut picture);
                return Ok((picture, self.procfs.take_flows()));
            }
        };
        let mut picture = source.picture().map_err(|error| failed(&error))?;
        let events = source.take_events();
        if let Some(refused) = &self.events_refused {
            blind(
                &mut picture,
                &[
                    Signal::ExitEvents,
                    Signal::ForkCounts,
                    Signal::ConnectEvents,
                    Signal::ConnectionFates,
                    Signal::RequestTurns,
                ],
                refused,
            );
        }
        self.add_hidden(&mut picture);
        add_locks(&mut picture);
        write_calls::add(&mut picture, Path::new(PROC));
        self.add_limits(&mut picture);
        self.add_networks(&mut picture);
        self.apart += self.usage.add_to(&mut picture);
        Ok((picture, events))
    }

    /// Some kernels keep a process from BPF iterators. Its threads are read from /proc instead, for they may be
    /// somebody's parent; its descriptors stay unseen.
    fn add_hidden(&mut self, picture: &mut Picture) {
        let hidden = match self.hidden.take() {
            Some(hidden) => hidden,
            None => self.find_hidden(picture),
        };
        if !hidden.is_empty()
            && let Ok(tasks) = self.procfs.tasks_of(&hidden)
        {
            let there = hidden
                .iter()
                .filter(|pid| tasks.iter().any(|task| task.tgid == **pid));
            let list = there.map(u32::to_string).collect::<Vec<_>>().join(", ");
            picture.tasks.extend(tasks);
            picture.tasks.sort_by_key(|task| task.tid);
            picture.tasks.dedup_by_key(|task| task.tid);
            picture.sight.set(
                Signal::Descriptors,
                View::Partial {
                    why: format!("this kernel keeps BPF from seeing the descriptors of pid {list}"),
                    remedy: "look at them by hand: `ls -l /proc/PID/fd`".into(),
                },
            );
        }
        self.hidden = Some(hidden);
    }

    /// Processes that /proc lists, that were there before the picture, and that the picture lacks.
    fn find_hidden(&mut self, picture: &Picture) -> Vec<u32> {
        let seen = |pid: &u32| picture.tasks.binary_search_by_key(pid, |task| task.tid).is_ok();
        let Ok(mut missing) = self.procfs.pids() else {
            return Vec::new();
        };
        missing.retain(|pid| !seen(pid));
        if missing.is_empty() {
            return missing;
        }
        let began = picture.began_ns + picture.suspended_ns;
        let tasks = self.procfs.tasks_of(&missing).unwrap_or_default();
        missing.retain(|pid| tasks.iter().any(|task| task.tid == *pid && task.start_ns < began));
        missing
    }

    /// A reading of what processes use, if one is due before the next picture; `last` is the one before.
    pub(super) fn usage_between(&mut self, last: &Picture) -> Option<UsageObservation> {
        self.usage.between(last)
    }

    /// When that is due.
    pub(super) fn usage_due(&self) -> Option<Instant> {
        self.usage.due()
    }

    /// What the last picture spent on what has a pace of its own, and so does not count against that of pictures.
    pub(super) fn spent_apart(&self) -> Duration {
        self.apart
    }

    fn add_networks(&mut self, picture: &mut Picture) {
        let due = |last: &NetworksRead| last.at.elapsed() >= NETWORKS_INTERVAL.max(last.cost * NETWORKS_DUTY);
        self.apart = Duration::ZERO;
        if self.networks_read.as_ref().is_none_or(due) {
            let at = Instant::now();
            let reading = self.networks.read(picture);
            let cost = at.elapsed();
            self.apart += cost;
            self.networks_read = Some(NetworksRead { at, cost, reading });
        }
        if let Some(last) = &self.networks_read {
            last.reading.add_to(picture);
        }
    }

    fn add_limits(&mut self, picture: &mut Picture) {
        if self
            .limits_read
            .is_none_or(|read| read.elapsed() >= LIMITS_INTERVAL)
        {
            let read = pids_limits::read(Path::new("/proc/self/mountinfo"), Path::new("/"));
            self.limits = read.map_err(|error| error.to_string());
            self.limits_read = Some(Instant::now());
        }
        let view = match &self.limits {
            Ok(limits) => {
                picture.pids_limits.clone_from(&limits.groups);
                if limits.incomplete {
                    View::Partial {
                        why: "there are too many control groups to read them all".into(),
                        remedy: "look at pids.events of the group in question".into(),
                    }
                } else {
                    View::Full
                }
            }
            Err(why) => View::Blind {
                why: why.clone(),
                remedy: "mount the pids controller".into(),
            },
        };
        picture.sight.set(Signal::PidsLimits, view);
    }
}

fn blind(picture: &mut Picture, signals: &[Signal], Unavailable { why, remedy }: &Unavailable) {
    for signal in signals {
        if !picture.sight.sees(*signal) {
            picture.sight.set(
                *signal,
                View::Blind {
                    why: why.clone(),
                    remedy: remedy.clone(),
                },
            );
        }
    }
}

/// Reads the kernel's table of file locks if some thread waits for one.
fn add_locks(picture: &mut Picture) {
    let mut view = View::Full;
    let mut calls = picture.tasks.iter().filter_map(|task| task.call.as_ref());
    if calls.any(|blocked| matches!(blocked.call, Call::FileLock { .. })) {
        match fs::read("/proc/locks") {
            Ok(bytes) => {
                picture.locks = locks::parse(&bytes).rows;
                picture.ended_ns = clock::monotonic_ns();
            }
            Err(error) => {
                view = View::Blind {
                    why: format!("cannot read /proc/locks: {error}"),
                    remedy: "run as root".into(),
                };
            }
        }
    }
    picture.sight.set(Signal::FileLocks, view);
}

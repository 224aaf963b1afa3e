//! From probes to reports: chooses the source, takes pictures over a window, and has them diagnosed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rung_diagnosis::diagnose::{self, Question};
use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::{
    Call, EventsObservation, HostObservation, Picture, ProcessDetail, Signal, Source, TaskState, View,
};
use rung_diagnosis::report::{Coverage, HostFacts, Report};
use rung_diagnosis::settings::Settings;
use rung_diagnosis::why::ThreadWait;
use rung_diagnosis::window::Window;
use serde::Serialize;
use thiserror::Error;

use crate::bpf::{BpfSource, Unavailable};
use crate::procfs::ProcfsSource;
use crate::{clock, host, locks, pids_limits};

const PROC: &str = "/proc";
/// Pictures of a window are at least this far apart,
const INTERVAL: Duration = Duration::from_millis(100);
/// and take at most this share of the time.
const DUTY: u32 = 20;
/// Limits of control groups change slowly, and reading them costs more than a picture.
const LIMITS_INTERVAL: Duration = Duration::from_secs(1);

/// Which source to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceChoice {
    /// The best one that is to be had.
    #[default]
    Auto,
    /// BPF iterators, or an error.
    Bpf,
    /// /proc.
    Procfs,
}

/// What to diagnose.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// How long to look; zero takes a single picture.
    pub window: Duration,
    /// Only findings that involve this process.
    pub pid: Option<u32>,
    /// Only these modes; all if empty.
    pub modes: Vec<Mode>,
}

/// What happens while a window runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The first picture has been diagnosed: what is stuck is known.
    First(&'a Report),
    /// So much of the window has passed.
    Elapsed {
        /// Since its start.
        elapsed: Duration,
        /// Its length.
        window: Duration,
    },
}

/// A source, with the means to be had or the reason why not.
#[derive(Clone, Debug, Serialize)]
pub struct Tier {
    /// The source.
    pub source: Source,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Whether it can be used here.
    pub usable: bool,
    /// Whether it is the one that would be used.
    pub chosen: bool,
    /// Why not.
    pub why: Option<String>,
    /// What would help.
    pub remedy: Option<String>,
}

/// A signal and how well it is seen.
#[derive(Clone, Debug, Serialize)]
pub struct SignalView {
    /// The signal, in a few words.
    pub signal: &'static str,
    /// How well it is seen.
    pub view: View,
}

/// The answer of `rung doctor`.
#[derive(Clone, Debug, Serialize)]
pub struct Checkup {
    /// The host.
    pub host: HostFacts,
    /// Sources, best first.
    pub tiers: Vec<Tier>,
    /// Signals of the chosen source.
    pub signals: Vec<SignalView>,
    /// Failure modes: `clear` stands for "can be observed".
    pub modes: Vec<Coverage>,
}

/// Why the work could not be done: exit status 2.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The demanded source is not to be had.
    #[error("{why}; {remedy}")]
    SourceUnavailable {
        /// Why.
        why: String,
        /// What would help.
        remedy: String,
    },
    /// A probe failed while running.
    #[error("{0}")]
    Probe(String),
    /// `rung why` was given a name or pid that no process has.
    #[error("no process has the {kind} {given:?}; `ps -e` lists what there is")]
    NoSuchProcess {
        /// "pid" or "name".
        kind: &'static str,
        /// As given.
        given: String,
    },
}

/// Where pictures come from.
enum Probe {
    Bpf(Box<BpfSource>),
    Procfs(ProcfsSource),
}

/// A chosen source and what was learnt of the host.
pub struct Engine {
    probe: Probe,
    host: HostObservation,
    settings: Settings,
    /// Why BPF is not used, if it was to be.
    bpf_refused: Option<Unavailable>,
    limits_read: Option<Instant>,
    limits: Result<pids_limits::PidsLimits, String>,
}

impl Engine {
    /// Chooses a source and prepares it.
    pub fn open(choice: SourceChoice) -> Result<Self, EngineError> {
        let procfs = || Probe::Procfs(ProcfsSource::new(PathBuf::from(PROC)));
        let (probe, bpf_refused) = match choice {
            SourceChoice::Procfs => (procfs(), None),
            SourceChoice::Auto | SourceChoice::Bpf => match BpfSource::open() {
                Ok(source) => (Probe::Bpf(Box::new(source)), None),
                Err(Unavailable { why, remedy }) if choice == SourceChoice::Bpf => {
                    return Err(EngineError::SourceUnavailable { why, remedy });
                }
                Err(refused) => {
                    tracing::info!(why = refused.why, "BPF is not to be had; reading /proc");
                    (procfs(), Some(refused))
                }
            },
        };
        Ok(Engine {
            probe,
            host: host::observe(Path::new(PROC)),
            settings: Settings::default(),
            bpf_refused,
            limits_read: None,
            limits: Err("not read yet".into()),
        })
    }

    /// Looks at the host for the length of the window and diagnoses it. Ends early, with what was seen until then, on
    /// SIGINT.
    pub async fn diagnose(
        &mut self,
        request: &Request,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Report, EngineError> {
        let question = Question {
            pid: request.pid,
            modes: request.modes.clone(),
        };
        let mut events_refused = None;
        if !request.window.is_zero()
            && let Probe::Bpf(source) = &mut self.probe
        {
            events_refused = source.watch_events().err();
        }
        let began = Instant::now();
        let mut window = Window::default();
        let mut cost = self.add_picture(&mut window, events_refused.as_ref())?;
        if window
            .last
            .tasks
            .iter()
            .any(|task| task.off_cpu_since_ns.is_none() && task.state == TaskState::Sleeping)
        {
            // This source cannot tell how long a thread has been waiting: a second look tells at least who moved.
            tokio::time::sleep(INTERVAL).await;
            cost = self.add_picture(&mut window, events_refused.as_ref())?;
        }
        if let Some(pid) = request.pid
            && !window.last.tasks.iter().any(|task| task.tgid == pid)
        {
            return Err(EngineError::NoSuchProcess {
                kind: "pid",
                given: pid.to_string(),
            });
        }
        if request.window.is_zero() {
            return Ok(self.report(&window, &question));
        }
        progress(Progress::First(&self.report(&window, &question)));
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let left = request.window.saturating_sub(began.elapsed());
            let pause = INTERVAL.max(cost * DUTY).min(left);
            let stop = tokio::select! {
                () = tokio::time::sleep(pause) => began.elapsed() >= request.window,
                _ = &mut interrupted => true,
            };
            cost = self.add_picture(&mut window, events_refused.as_ref())?;
            if stop {
                return Ok(self.report(&window, &question));
            }
            progress(Progress::Elapsed {
                elapsed: began.elapsed(),
                window: request.window,
            });
        }
    }

    /// Takes one picture and follows the wait of every thread of a process; by name, of every process of that name.
    pub fn why(&mut self, target: &str) -> Result<Vec<ThreadWait>, EngineError> {
        let (mut picture, _) = self.picture(None)?;
        if picture
            .tasks
            .iter()
            .any(|task| task.off_cpu_since_ns.is_none() && task.state == TaskState::Sleeping)
        {
            let mut window = Window::default();
            window.push(picture, None);
            std::thread::sleep(INTERVAL);
            window.push(self.picture(None)?.0, None);
            picture = window.last;
        }
        let by_id: Option<u32> = target.parse().ok();
        let asked = |tgid: u32, tid: u32, comm: &str| match by_id {
            Some(id) => tgid == id || tid == id,
            None => comm == target,
        };
        let mut processes: Vec<u32> = picture
            .tasks
            .iter()
            .filter(|task| asked(task.tgid, task.tid, &task.comm.to_string()))
            .map(|task| task.tgid)
            .collect();
        processes.dedup();
        if processes.is_empty() {
            let kind = if by_id.is_some() { "pid" } else { "name" };
            return Err(EngineError::NoSuchProcess {
                kind,
                given: target.to_owned(),
            });
        }
        let threads = picture.tasks.iter().filter(|task| processes.contains(&task.tgid));
        let mut tids: Vec<(u32, u32)> = threads.map(|task| (task.tgid, task.tid)).collect();
        tids.sort_unstable();
        let tids: Vec<u32> = tids.into_iter().map(|(_, tid)| tid).collect();
        Ok(diagnose::why(&picture, &tids))
    }

    /// Tries every source and says what can be seen with it.
    pub fn checkup() -> Checkup {
        let bpf = BpfSource::open().and_then(|mut source| source.watch_events().map(|()| source));
        let full = bpf
            .as_ref()
            .is_ok_and(|source| source.source() == Source::BpfIter);
        let mut tiers = Vec::new();
        let refused = bpf.as_ref().err().cloned();
        let tier = |source, title, usable, reason: Option<(String, String)>| {
            let (why, remedy) = reason.unzip();
            Tier {
                source,
                title,
                usable,
                chosen: false,
                why,
                remedy,
            }
        };
        let why_not = refused.clone().map(|refused| (refused.why, refused.remedy));
        let memory = "the kernel does not let an iterator read the memory of threads";
        let why_plain = why_not
            .clone()
            .or(Some((memory.into(), "use a kernel of 5.18 or later".into())));
        tiers.push(tier(
            Source::BpfIter,
            "BPF iterators, with the memory of blocked threads",
            full,
            if full { None } else { why_plain },
        ));
        tiers.push(tier(
            Source::BpfIterPlain,
            "BPF iterators without it",
            bpf.is_ok(),
            why_not,
        ));
        let mut engine = Engine {
            probe: match bpf {
                Ok(source) => Probe::Bpf(Box::new(source)),
                Err(_) => Probe::Procfs(ProcfsSource::new(PathBuf::from(PROC))),
            },
            host: host::observe(Path::new(PROC)),
            settings: Settings::default(),
            bpf_refused: refused,
            limits_read: None,
            limits: Err("not read yet".into()),
        };
        let by_proc = ProcfsSource::new(PathBuf::from(PROC)).picture();
        let all = by_proc
            .as_ref()
            .is_ok_and(|picture| picture.sight.source == Source::Procfs);
        let own_only = (
            "processes of other users cannot be read".to_owned(),
            "run as root".to_owned(),
        );
        tiers.push(tier(
            Source::Procfs,
            "/proc, all processes",
            all,
            if all { None } else { Some(own_only) },
        ));
        let unreadable = by_proc
            .as_ref()
            .err()
            .map(|error| (error.to_string(), "mount procfs on /proc".to_owned()));
        tiers.push(tier(
            Source::ProcfsOwn,
            "/proc, own processes",
            by_proc.is_ok(),
            unreadable,
        ));
        if let Some(best) = tiers.iter_mut().find(|tier| tier.usable) {
            best.chosen = true;
        }
        let sight = engine
            .picture(None)
            .map(|(picture, _)| picture.sight)
            .unwrap_or_default();
        let signals = Signal::ALL.iter().filter_map(|signal| {
            sight.view(*signal).map(|view| SignalView {
                signal: signal.title(),
                view: view.clone(),
            })
        });
        Checkup {
            host: diagnose::host_facts(&engine.host),
            tiers,
            signals: signals.collect(),
            modes: Mode::ALL
                .iter()
                .map(|mode| diagnose::cover(*mode, &sight))
                .collect(),
        }
    }

    fn report(&self, window: &Window, question: &Question) -> Report {
        let mut report = diagnose::diagnose(window, &self.host, &self.settings, question);
        let mut pids: Vec<u32> = report
            .findings
            .iter()
            .flat_map(|finding| {
                let others = finding.others.iter().map(|other| other.party.pid);
                std::iter::once(finding.subject.pid).chain(others)
            })
            .collect();
        pids.sort_unstable();
        pids.dedup();
        let tasks = window.last.tasks.iter().filter(|task| task.tid == task.tgid);
        let details: Vec<ProcessDetail> = tasks
            .filter(|task| pids.binary_search(&task.tgid).is_ok())
            .map(|task| detail(task.tgid, task.start_ns))
            .collect();
        diagnose::add_details(&mut report, &details);
        report
    }

    /// Adds a picture to the window; returns what it cost.
    fn add_picture(
        &mut self,
        window: &mut Window,
        events_refused: Option<&Unavailable>,
    ) -> Result<Duration, EngineError> {
        let began = Instant::now();
        let (picture, events) = self.picture(events_refused)?;
        window.push(picture, events);
        Ok(began.elapsed())
    }

    fn picture(
        &mut self,
        events_refused: Option<&Unavailable>,
    ) -> Result<(Picture, Option<EventsObservation>), EngineError> {
        let failed = |error: &dyn std::error::Error| EngineError::Probe(error.to_string());
        let (mut picture, events) = match &mut self.probe {
            Probe::Bpf(source) => {
                let mut picture = source.picture().map_err(|error| failed(&error))?;
                let events = source.take_events();
                add_locks(&mut picture);
                self.add_limits(&mut picture);
                (picture, events)
            }
            Probe::Procfs(source) => (source.picture().map_err(|error| failed(&error))?, None),
        };
        if let Some(Unavailable { why, remedy }) = events_refused {
            for signal in [Signal::ExitEvents, Signal::ForkCounts] {
                picture.sight.set(
                    signal,
                    View::Blind {
                        why: why.clone(),
                        remedy: remedy.clone(),
                    },
                );
            }
        }
        if let (Some(Unavailable { why, remedy }), Some(View::Blind { .. })) =
            (&self.bpf_refused, picture.sight.view(Signal::PipeFill).cloned())
        {
            picture.sight.set(
                Signal::PipeFill,
                View::Blind {
                    why: why.clone(),
                    remedy: remedy.clone(),
                },
            );
        }
        Ok((picture, events))
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

/// Reads the kernel's table of file locks if some thread waits for one.
fn add_locks(picture: &mut Picture) {
    let waits = |call: &Call| matches!(call, Call::FileLock { .. });
    let view = if picture
        .tasks
        .iter()
        .any(|task| task.call.as_ref().is_some_and(|blocked| waits(&blocked.call)))
    {
        match fs::read("/proc/locks") {
            Ok(bytes) => {
                picture.locks = locks::parse(&bytes).rows;
                picture.ended_ns = clock::monotonic_ns();
                View::Full
            }
            Err(error) => View::Blind {
                why: format!("cannot read /proc/locks: {error}"),
                remedy: "run as root".into(),
            },
        }
    } else {
        View::Full
    };
    picture.sight.set(Signal::FileLocks, view);
}

fn detail(pid: u32, start_ns: u64) -> ProcessDetail {
    ProcessDetail {
        pid,
        start_ns,
        ..ProcessDetail::default()
    }
}

//! From probes to reports: chooses the source, takes pictures over a window, and has them diagnosed.

mod checkup;
mod probe;
mod request;

use std::path::Path;
use std::time::{Duration, Instant};

use rung_diagnosis::diagnose::{self, Question};
use rung_diagnosis::observation::{HostObservation, Picture, ProcessDetail, TaskState};
use rung_diagnosis::report::Report;
use rung_diagnosis::settings::Settings;
use rung_diagnosis::why::ThreadWait;
use rung_diagnosis::window::Window;

use self::probe::{HOSTS, PROC, Probe};
pub use self::request::{Checkup, EngineError, Progress, Request, SignalView, SourceChoice, Tier};
use crate::detail::detail;
use crate::host;

/// Pictures of a window are at least this far apart,
const INTERVAL: Duration = Duration::from_millis(100);
/// and take at most one part in this many of the time.
const DUTY: u32 = 20;

/// A chosen source and what was learnt of the host.
pub struct Engine {
    probe: Probe,
    host: HostObservation,
    settings: Settings,
}

impl Engine {
    /// Chooses a source and prepares it.
    pub fn open(choice: SourceChoice) -> Result<Self, EngineError> {
        Ok(Engine {
            probe: Probe::open(choice)?,
            host: host::observe(Path::new(PROC), Path::new(HOSTS)),
            settings: Settings::default(),
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
        if !request.window.is_zero() {
            self.probe.watch_events();
        }
        let began = Instant::now();
        let mut window = Window::default();
        let mut cost = self.add_picture(&mut window)?;
        if has_undated(&window.last) {
            // This source cannot tell how long a thread has been waiting: a second look tells at least who moved.
            tokio::time::sleep(INTERVAL).await;
            cost = self.add_picture(&mut window)?;
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
            let next_picture = Instant::now() + pause;
            let stop = loop {
                // Pictures of a large host are far apart. What processes use keeps to its own pace between them.
                let usage_due = self.probe.usage_due().unwrap_or(next_picture);
                let next = usage_due.min(next_picture);
                tokio::select! {
                    () = tokio::time::sleep_until(next.into()) => {}
                    _ = &mut interrupted => break true,
                }
                // Just before a picture, the reading comes with it.
                if Instant::now() + INTERVAL / 2 >= next_picture {
                    tokio::select! {
                        () = tokio::time::sleep_until(next_picture.into()) => break began.elapsed() >= request.window,
                        _ = &mut interrupted => break true,
                    }
                }
                if let Some(usage) = self.probe.usage_between(&window.last) {
                    window.push_usage(&usage);
                }
            };
            cost = self.add_picture(&mut window)?;
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
        let (mut picture, _) = self.probe.picture()?;
        if has_undated(&picture) {
            let mut window = Window::default();
            window.push(picture, None);
            std::thread::sleep(INTERVAL);
            window.push(self.probe.picture()?.0, None);
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
            .map(|task| detail(Path::new(PROC), task.tgid, task.start_ns))
            .collect();
        diagnose::add_details(&mut report, &details);
        report
    }

    /// Tries every source and says what can be seen with it.
    pub fn checkup() -> Checkup {
        checkup::checkup()
    }

    /// Adds a picture to the window; returns what it cost, without what keeps to a pace of its own.
    fn add_picture(&mut self, window: &mut Window) -> Result<Duration, EngineError> {
        let began = Instant::now();
        let (picture, events) = self.probe.picture()?;
        window.push(picture, events);
        Ok(began.elapsed().saturating_sub(self.probe.spent_apart()))
    }
}

/// Whether the source cannot tell of some threads how long they have been waiting.
fn has_undated(picture: &Picture) -> bool {
    picture
        .tasks
        .iter()
        .any(|task| task.off_cpu_since_ns.is_none() && task.state == TaskState::Sleeping)
}

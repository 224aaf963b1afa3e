//! # What
//! A process outlived the one that started it, and still holds something that others wait for, or burns CPU.
//!
//! # Signal
//! Seen as it happens: an exit that leaves children behind. Seen afterwards: by lineage, a process that its parent did
//! not fork, or in a session that is neither its own nor its parent's (see [`Context::outlived_parent`]); "its parent is
//! PID 1" would be wrong under subreapers and in containers. Suspicious only if it also keeps a pipe open on which somebody waits, listens, or uses
//! a CPU.
//!
//! # Healthy twin
//! Daemons: a session of their own, or one whose leader has left, with descriptors 0 to 2 on /dev/null; background jobs
//! in a process group of their own without a terminal; nohup(1); terminal multiplexers; the innermost PID 1 of a
//! container.
//!
//! # Thresholds
//! `orphan_age` (5 s); `orphan_cpu_share` (half a CPU).
//!
//! # Source
//! exit(3) and PR_SET_CHILD_SUBREAPER of prctl(2) on reparenting; daemon(7).

use rustc_hash::FxHashMap;

use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::WaitKind;
use crate::index::{End, TCP_LISTEN};
use crate::mode::Mode;
use crate::observation::{
    DescriptorObservation, ExitObservation, FdObject, FileId, Signal, TaskObservation, UnixState,
};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Orphan,
    needs: &[Signal::Tasks, Signal::Descriptors],
    helped_by: &[Signal::ExitEvents, Signal::SystemCalls],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut died: FxHashMap<u32, &ExitObservation> = FxHashMap::default();
    for exit in &context.window.events.exits {
        for child in exit.children.iter().filter(|child| **child != 0) {
            died.insert(*child, exit);
        }
    }
    let mut descriptors: FxHashMap<u32, Vec<&DescriptorObservation>> = FxHashMap::default();
    let candidates: Vec<&TaskObservation> = context
        .index
        .processes()
        .filter(|task| !task.kernel_thread && context.index.lives(task.tgid))
        .filter(|task| {
            // The event may have been seen before the adoption; afterwards the parent is another.
            let exit = died.get(&task.tgid).filter(|exit| exit.pid != task.parent);
            exit.is_some() && task.sid != task.tgid || context.outlived_parent(task)
        })
        .collect();
    if candidates.is_empty() {
        return Vec::new();
    }
    for row in &context.picture.descriptors {
        if candidates.iter().any(|task| task.tid == row.tid) {
            descriptors.entry(row.tid).or_default().push(row);
        }
    }
    let none = Vec::new();
    candidates
        .into_iter()
        .filter_map(|task| {
            let rows = descriptors.get(&task.tid).unwrap_or(&none);
            draft(context, task, rows, died.get(&task.tgid).copied())
        })
        .collect()
}

/// Made to live on: it ignores hang-ups, or its standard descriptors lead nowhere and it left the session or the process
/// group of the one that started it.
fn is_daemon(context: &Context<'_>, task: &TaskObservation, rows: &[&DescriptorObservation]) -> bool {
    let null = |fd: i32| task.null_streams >> fd & 1 != 0;
    // Not listed: closed, or a regular file.
    let leads_nowhere = |fd: i32| null(fd) || !rows.iter().any(|row| row.fd == fd);
    let detached = null(0) && leads_nowhere(1) && leads_nowhere(2);
    let left = task.pgid == task.tgid || !context.index.lives(task.sid);
    task.signals.is_some_and(|signals| signals.ignores_hangup()) || (detached && left && !task.has_terminal)
}

/// What an orphan still does that concerns others.
enum Hold {
    /// Others wait on a pipe that it keeps open.
    Pipe {
        pipe: FileId,
        end: End,
        waiters: Vec<u32>,
    },
    Listens(String),
    BurnsCpu(f64),
}

fn draft(
    context: &Context<'_>,
    task: &TaskObservation,
    rows: &[&DescriptorObservation],
    exit: Option<&ExitObservation>,
) -> Option<Draft> {
    let uptime_ns = context.picture.began_ns + context.picture.suspended_ns;
    let old = uptime_ns.saturating_sub(task.start_ns) >= context.settings.orphan_age.as_nanos() as u64;
    let killed = exit.and_then(ExitObservation::signal);
    if is_daemon(context, task, rows) || (!old && killed.is_none()) {
        return None;
    }
    let holds = holds(context, task, rows);
    if holds.is_empty() && killed.is_none() {
        return None;
    }
    let comm = context.comm(task.tgid);
    let mut others = Vec::new();
    let mut evidence = Vec::new();
    if let Some(parent) = context.index.process(task.parent) {
        others.push((Role::Parent, Party::process(parent.tgid)));
    }
    let mut does = Vec::new();
    for hold in &holds {
        match hold {
            Hold::Pipe { pipe, end, waiters } => {
                let what = if *end == End::Write { "write" } else { "read" };
                does.push(format!("keeps the {what} end of pipe:[{}] open", pipe.inode));
                evidence.push(Evidence::new("held_pipe", pipe.inode, "inode", context.source()));
                let waiting = waiters.iter().filter_map(|tid| context.index.task(*tid));
                let role = if *end == End::Write {
                    Role::Reader
                } else {
                    Role::Writer
                };
                others.extend(waiting.map(|task| (role, Party::thread(task))));
            }
            Hold::Listens(address) => {
                does.push(format!("still listens on {address}"));
                evidence.push(Evidence::new(
                    "listens_on",
                    address.as_str(),
                    "",
                    context.source(),
                ));
            }
            Hold::BurnsCpu(share) => {
                does.push(format!("uses {:.0}% of a CPU", share * 100.0));
                evidence.push(Evidence::new("cpu_share", *share, "CPUs", context.source()));
            }
        }
    }
    let mut death = "the process that started it is gone".to_owned();
    if let Some(exit) = exit {
        let how = match exit.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("exited with status {}", exit.exit_code >> 8),
        };
        death = format!("its parent {} ({}) {how}", exit.comm, exit.pid);
        evidence.push(Evidence::from_file(
            "parent_death",
            format!("{} ({}) {how}", exit.comm, exit.pid),
            "",
            "tracepoint",
        ));
    }
    evidence.push(Evidence::new(
        "session",
        u64::from(task.sid),
        "pid",
        context.source(),
    ));
    evidence.push(Evidence::new(
        "adopted_by",
        u64::from(task.parent),
        "pid",
        context.source(),
    ));
    let severity = if holds.is_empty() {
        Severity::Notice
    } else {
        Severity::Warning
    };
    let doing = if does.is_empty() {
        "lives on".into()
    } else {
        does.join(" and ")
    };
    Some(Draft {
        mode: Mode::Orphan,
        severity,
        confidence: if exit.is_some() {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(task.tgid),
        others,
        members: Vec::new(),
        since_ns: exit.map(|exit| exit.at_ns),
        summary: format!("{comm} ({}) {doing}, although {death}", task.tgid),
        evidence,
        chain_from: context.graph.wait(task.tid).map(|_| task.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

fn holds(context: &Context<'_>, task: &TaskObservation, rows: &[&DescriptorObservation]) -> Vec<Hold> {
    let mut holds = Vec::new();
    let mut pipes: Vec<(FileId, End)> = Vec::new();
    for row in rows {
        match &row.object {
            FdObject::Pipe(pipe) => {
                for (end, open) in [(End::Read, row.readable), (End::Write, row.writable)] {
                    if open && !pipes.contains(&(*pipe, end)) {
                        pipes.push((*pipe, end));
                    }
                }
            }
            FdObject::Inet(id) => {
                if let Some(socket) = context
                    .index
                    .inet(*id)
                    .filter(|one| one.tcp && one.state == TCP_LISTEN)
                {
                    holds.push(Hold::Listens(socket.local.to_string()));
                }
            }
            FdObject::Unix(id) => {
                if let Some(socket) = context
                    .index
                    .unix(*id)
                    .filter(|one| one.state == UnixState::Listening)
                {
                    holds.push(Hold::Listens(format!(
                        "Unix socket {}",
                        crate::graph::chain::unix_name(&socket.name)
                    )));
                }
            }
            _ => {}
        }
    }
    for (pipe, end) in pipes {
        let waiters = waiters_on(context, pipe, end.opposite(), task.tgid);
        if !waiters.is_empty() {
            holds.push(Hold::Pipe { pipe, end, waiters });
        }
    }
    let uptime_ns = context.picture.began_ns + context.picture.suspended_ns;
    let run: u64 = context
        .index
        .threads(task.tgid)
        .iter()
        .map(|thread| thread.run_ns)
        .sum();
    let first = context.window.first_run.get(&(task.tgid, task.start_ns));
    let (used, over) = match first {
        Some((run_then, then)) if context.picture.began_ns > then + 500_000_000 => {
            (run.saturating_sub(*run_then), context.picture.began_ns - then)
        }
        _ => (run, uptime_ns.saturating_sub(task.start_ns)),
    };
    let share = used as f64 / over.max(1) as f64;
    if share >= context.settings.orphan_cpu_share {
        holds.push(Hold::BurnsCpu(share));
    }
    holds
}

/// Threads of others that wait on one end of a pipe: by reading an empty one, writing a full one, or polling it. Those
/// that outlived their parent as well belong to the same lot, such as a pipeline under nohup(1).
pub(super) fn waiters_on(context: &Context<'_>, pipe: FileId, end: End, except: u32) -> Vec<u32> {
    let mut waiters = Vec::new();
    for pid in context.index.pipe_processes(pipe, end) {
        let Some(process) = context.index.process(pid) else {
            continue;
        };
        if pid == except || context.outlived_parent(process) {
            continue;
        }
        for task in context.index.threads(pid) {
            let Some(wait) = context.graph.wait(task.tid) else {
                continue;
            };
            let waits = match (&wait.kind, end) {
                (WaitKind::PipeEmpty(other), End::Read) | (WaitKind::PipeFull(other), End::Write) => {
                    *other == pipe
                }
                (WaitKind::Poll, _) => !wait.timed && polls_only_pipes(context, task).contains(&(pipe, end)),
                _ => false,
            };
            if waits {
                waiters.push(task.tid);
            }
        }
    }
    waiters
}

/// The pipe ends that a thread polls, if it polls nothing else: a program that drains its child's output, say.
pub(super) fn polls_only_pipes(context: &Context<'_>, task: &TaskObservation) -> Vec<(FileId, End)> {
    use crate::observation::Call;
    let watched = match task.call.as_ref().map(|call| &call.call) {
        Some(Call::Poll {
            watched,
            incomplete: false,
        }) => watched,
        Some(Call::EpollWait { fd }) => match context.index.descriptor(task, *fd).map(|row| &row.object) {
            Some(FdObject::Epoll {
                watched,
                incomplete: false,
            }) => watched,
            _ => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    let mut ends = Vec::new();
    for watch in watched {
        match context.index.descriptor(task, watch.fd).map(|row| &row.object) {
            Some(FdObject::Pipe(pipe)) => ends.push((*pipe, if watch.read { End::Read } else { End::Write })),
            _ => return Vec::new(),
        }
    }
    ends
}

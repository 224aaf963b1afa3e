//! # What
//! A pipe stands still while somebody waits on it: full and nobody drains it, or empty and nobody who will fill it.
//!
//! # Signal
//! A writer blocked on a full pipe (`head - tail = ring_size`): it is woken at every drain, so the time it has been off
//! the CPU is the time that nothing was drained. Who holds the read end is the culprit: a reader that does something
//! else, a stopped reader, or, after the reader died, a process that inherited the end and keeps the writer from its
//! SIGPIPE. The other way round, a reader of an empty pipe whose write end is only held by a leak never gets its end of
//! file.
//!
//! # Healthy twin
//! Pagers that wait for a person; slow consumers that do drain; `sleep 300 | cat`; tokens of a make job server.
//!
//! # Thresholds
//! `pipe_stall` (5 s).
//!
//! # Source
//! pipe(7); fs/pipe.c; close-on-exec in fcntl(2).

use std::collections::BTreeMap;

use super::orphan::waiters_on;
use super::{Context, Detector, Draft, Party, count};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::{Node, Prospect, WaitKind};
use crate::index::End;
use crate::mode::Mode;
use crate::observation::{DescriptorObservation, FileId, Signal, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::PipeStall,
    needs: &[Signal::Tasks, Signal::SystemCalls, Signal::Descriptors],
    helped_by: &[Signal::PipeFill, Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut writers: BTreeMap<FileId, Vec<u32>> = BTreeMap::new();
    for (tid, wait) in context.graph.waits() {
        if let WaitKind::PipeFull(pipe) = wait.kind {
            writers.entry(pipe).or_default().push(tid);
        }
    }
    let full = writers
        .into_iter()
        .filter_map(|(pipe, writers)| full(context, pipe, &writers));
    let empty = context
        .picture
        .pipes
        .iter()
        .filter_map(|pipe| empty(context, pipe.id));
    full.chain(empty).collect()
}

/// The moment from which all these threads have been waiting: the last drain woke the last of them.
fn since(context: &Context<'_>, tids: &[u32]) -> Option<u64> {
    tids.iter()
        .map(|tid| context.graph.wait(*tid).and_then(|wait| wait.since_ns))
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .max()
}

/// Holds an end as something other than its standard input or output, and did not ask for it to be closed on exec: the
/// mark of a descriptor that was inherited by accident.
fn looks_leaked(rows: &[&DescriptorObservation]) -> bool {
    rows.iter().all(|row| row.fd > 2 && !row.close_on_exec)
}

fn rows_of<'a>(context: &Context<'a>, pipe: FileId, end: End, pid: u32) -> Vec<&'a DescriptorObservation> {
    let rows = context.index.pipe_holders(pipe, end).iter();
    rows.filter(|row| context.index.holder(row) == Some(pid))
        .copied()
        .collect()
}

fn full(context: &Context<'_>, pipe: FileId, writers: &[u32]) -> Option<Draft> {
    let since = since(context, writers)?;
    if context.age(since) < context.settings.pipe_stall {
        return None;
    }
    let mut readers = context.index.pipe_processes(pipe, End::Read);
    if readers.iter().any(|pid| context.awaits_person(*pid)) {
        return None;
    }
    // One who reads from its standard input is the reader; leaked copies come last.
    readers.sort_by_key(|pid| {
        let rows = rows_of(context, pipe, End::Read, *pid);
        (!rows.iter().any(|row| row.fd == 0), looks_leaked(&rows), *pid)
    });
    let subject = *readers.first()?;
    let mut knot: Vec<u32> = writers.to_vec();
    knot.extend(context.index.threads(subject).iter().map(|task| task.tid));
    if context.in_one_knot(&knot) {
        return None;
    }
    let rows = rows_of(context, pipe, End::Read, subject);
    let stopped = context.is_stopped(subject);
    let leaked = looks_leaked(&rows) && !stopped;
    let comm = context.comm(subject);
    let writer = context.index.task(*writers.first()?)?;
    let waiting = format!("{} ({})", writer.comm, writer.tgid);
    let summary = if stopped {
        format!("{comm} ({subject}) is stopped and does not read a full pipe that {waiting} writes to")
    } else if leaked {
        format!(
            "{comm} ({subject}) keeps a pipe open that it does not read (descriptor {}): {waiting} waits to write to it, and gets no SIGPIPE",
            rows.first().map_or(-1, |row| row.fd),
        )
    } else {
        format!("{comm} ({subject}) does not read a full pipe that {waiting} writes to")
    };
    let case = if stopped {
        "reader stopped"
    } else if leaked {
        "read end leaked"
    } else {
        "reader does not read"
    };
    let mut evidence = facts(context, pipe, case);
    evidence.push(Evidence::new(
        "undrained",
        context.age(since).as_secs_f64(),
        "s",
        context.source(),
    ));
    if let Some(row) = rows.first() {
        evidence.push(Evidence::new(
            "held_as",
            row.fd as u64,
            "descriptor",
            context.source(),
        ));
    }
    let mut others: Vec<(Role, Party)> = writers
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .map(|task| (Role::Waiter, Party::thread(task)))
        .collect();
    others.extend(
        readers
            .iter()
            .skip(1)
            .map(|pid| (Role::Holder, Party::process(*pid))),
    );
    let dead = context.graph.prospect(Node::Thread(writer.tid)) == Prospect::Dead;
    let measured = context.index.pipe_fill(pipe).is_some()
        && !leaked
        && !context.index.has_unseen_holder(pipe, End::Read);
    Some(Draft {
        mode: Mode::PipeStall,
        severity: if dead {
            Severity::Critical
        } else {
            Severity::Warning
        },
        confidence: if measured {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns: Some(since),
        summary,
        evidence,
        chain_from: Some(writer.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

/// Readers of an empty pipe whose write end is only held by processes that will not write to it.
fn empty(context: &Context<'_>, pipe: FileId) -> Option<Draft> {
    let holders = context.index.pipe_processes(pipe, End::Write);
    let readers = context.index.pipe_processes(pipe, End::Read);
    if holders.is_empty() || holders.iter().any(|pid| readers.contains(pid)) {
        return None;
    }
    let waiters = waiters_on(context, pipe, End::Read, 0);
    let since = since(context, &waiters)?;
    let reader = context.index.task(*waiters.first()?)?;
    if context.age(since) < context.settings.pipe_stall || context.index.has_unseen_holder(pipe, End::Write) {
        return None;
    }
    let orphaned = |pid: &u32| {
        context
            .index
            .process(*pid)
            .is_some_and(|task| context.outlived_parent(task))
    };
    let leaked = |pid: &u32| {
        looks_leaked(&rows_of(context, pipe, End::Write, *pid)) && !context.is_ancestor(*pid, reader.tgid)
    };
    if !holders.iter().all(|pid| orphaned(pid) || leaked(pid))
        || holders.iter().any(|pid| context.awaits_person(*pid))
    {
        return None;
    }
    // The one that did write has died: its parent, the reader, will reap it once it has seen the end of file.
    let writer_died = context.index.children(reader.tgid).iter().any(|child| {
        context
            .index
            .process(*child)
            .is_some_and(|task| task.state == TaskState::Zombie)
            && !context.index.lives(*child)
    });
    let subject = *holders.first()?;
    let by_lineage = holders.iter().all(orphaned);
    // Data came through, and none of it from those who could still write.
    let never_wrote = |pid: &u32| {
        let mut counts = context.picture.write_calls.iter();
        counts.any(|count| count.pid == *pid && count.calls == 0)
    };
    let others_wrote =
        context.index.pipe_fill(pipe).is_some_and(|fill| fill.drained > 0) && holders.iter().all(never_wrote);
    let evident = by_lineage || writer_died || others_wrote;
    let comm = context.comm(subject);
    let mut evidence = facts(context, pipe, "write end leaked");
    evidence.push(Evidence::new(
        "reader_waiting",
        context.age(since).as_secs_f64(),
        "s",
        context.source(),
    ));
    if let Some(row) = rows_of(context, pipe, End::Write, subject).first() {
        evidence.push(Evidence::new(
            "held_as",
            row.fd as u64,
            "descriptor",
            context.source(),
        ));
    }
    if others_wrote {
        evidence.push(Evidence::from_file(
            "write_calls_of_holders",
            0_u64,
            "calls",
            "/proc/PID/io",
        ));
    }
    let why = if by_lineage {
        "although the process that started it is gone"
    } else {
        "that it inherited"
    };
    let mut others: Vec<(Role, Party)> = waiters
        .iter()
        .filter_map(|tid| context.index.task(*tid))
        .map(|task| (Role::Waiter, Party::thread(task)))
        .collect();
    others.extend(
        holders
            .iter()
            .skip(1)
            .map(|pid| (Role::Holder, Party::process(*pid))),
    );
    Some(Draft {
        mode: Mode::PipeStall,
        severity: if evident {
            Severity::Warning
        } else {
            Severity::Notice
        },
        confidence: if evident {
            Confidence::Likely
        } else {
            Confidence::Suspected
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns: Some(since),
        summary: format!(
            "{comm} ({subject}) keeps the write end of a pipe open {why}: {} ({}) waits for its end",
            reader.comm, reader.tgid
        ),
        evidence,
        chain_from: Some(reader.tid),
        flow: None,
        depends_on: Vec::new(),
    })
}

fn facts(context: &Context<'_>, pipe: FileId, case: &str) -> Vec<Evidence> {
    let mut evidence = vec![
        Evidence::new("case", case, "", context.source()),
        Evidence::new("pipe", pipe.inode, "inode", context.source()),
    ];
    if let Some(fill) = context.index.pipe_fill(pipe) {
        evidence.push(Evidence::new(
            "fill",
            format!("{} of {}", fill.used, count(fill.capacity as usize, "buffer")),
            "",
            context.source(),
        ));
        evidence.push(Evidence::new(
            "ends",
            format!(
                "{}, {}",
                count(fill.readers as usize, "reader"),
                count(fill.writers as usize, "writer")
            ),
            "",
            context.source(),
        ));
    }
    evidence
}

//! `stopped-process`: stopped with somebody waiting, and stopped with nobody waiting.

use anyhow::{Context, Result};
use libc::{SYS_wait4, SYS_write};
use rung_diagnosis::mode::Mode::{PipeStall, StoppedProcess};
use rustix::process::Signal;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::{Role, Truth};

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "stopped-pipe-reader",
        StoppedProcess,
        "a pipe's reader was stopped, the writer waits",
        reader,
    ),
    Case::fault(
        "stopped-child",
        StoppedProcess,
        "a child was stopped, its parent waits for it",
        child,
    ),
    Case::twin(
        "stopped-twin-job",
        StoppedProcess,
        "a stopped job that nobody waits for",
        job,
    )
    .needs(&[Need::Program("python3")]),
    Case::twin(
        "stopped-twin-debugger",
        StoppedProcess,
        "a program stopped in gdb at a terminal",
        debugger,
    )
    .needs(&[Need::Program("python3"), Need::Program("gdb")]),
];

/// A full pipe whose reader is stopped: the truth, the reader and the writer.
pub(crate) fn pipe_reader(stage: &mut Stage) -> Result<(Truth, i32, i32)> {
    let (read, write) = stage.pipe()?;
    let play = stage.program("cat")?.stdin(read);
    let reader = stage.start(play)?.pid;
    stage.signal(reader, Signal::STOP)?;
    bite::state(reader, 'T')?;
    let play = stage.program("cat")?.args(["/dev/zero"]).stdout(write);
    let writer = stage.start(play)?.pid;
    let since = bite::hang(&[Hang::main(writer, &[SYS_write])])?;
    let truth = Truth::fault(StoppedProcess, reader, since).party(Role::Waiter, writer);
    Ok((
        truth.threshold_seconds(5).case("the reader is stopped"),
        reader,
        writer,
    ))
}

fn reader(stage: &mut Stage) -> Result<Truth> {
    let (truth, reader, _) = pipe_reader(stage)?;
    Ok(truth.symptom(PipeStall, reader))
}

fn child(stage: &mut Stage) -> Result<Truth> {
    let play = stage.sh("sleep $RUNG_LAB_SECONDS; :")?;
    let parent = stage.start(play)?.pid;
    bite::until("the child runs", || proc::child_named(parent, "sleep").is_some())?;
    let child = proc::child_named(parent, "sleep").context("just seen")?;
    stage.own(child);
    stage.signal(child, Signal::STOP)?;
    bite::state(child, 'T')?;
    let since = bite::hang(&[Hang::main(parent, &[SYS_wait4])])?;
    let truth = Truth::fault(StoppedProcess, child, since).party(Role::Waiter, parent);
    Ok(truth.threshold_seconds(5).case("its parent waits for its end"))
}

fn job(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("processes.py")?.args(["stopped-child"]);
    let parent = stage.start(play)?;
    let child = parent.get("child")?;
    stage.own(child);
    bite::state(child, 'T')?;
    Ok(Truth::twin(StoppedProcess, [parent.pid, child]))
}

fn debugger(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("processes.py")?.args(["debugger"]);
    let terminal = stage.start(play)?;
    let gdb = terminal.get("gdb")?;
    stage.own(gdb);
    let mut traced = None;
    bite::until("gdb holds a traced process", || {
        let held = |pid: &i32| proc::stat(*pid).is_some_and(|stat| stat.state == 't');
        traced = proc::children(gdb).into_iter().find(held);
        traced.is_some()
    })?;
    let traced = traced.context("just seen")?;
    stage.own(traced);
    Ok(Truth::twin(StoppedProcess, [terminal.pid, gdb, traced]))
}

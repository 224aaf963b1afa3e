//! Processes that break careless tools: odd names, crowds of threads, of descriptors, of short lives.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use anyhow::Result;
use rung_diagnosis::mode::Mode::{Deadlock, FdLeak, PipeStall, ProcessChurn, ThreadPileUp, Zombie};

use super::bite;
use super::case::{Case, Need};
use super::deadlock::proved_abba;
use super::proc;
use super::stage::Stage;
use super::truth::Truth;

const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "weird-name-parenthesis",
        Deadlock,
        "a deadlock in a process named `a) R 1 (`",
        parenthesis,
    )
    .needs(C),
    Case::fault(
        "weird-name-not-utf8",
        Deadlock,
        "a deadlock in a process whose name is not UTF-8",
        not_utf8,
    )
    .needs(C),
    Case::twin(
        "weird-10000-threads",
        ThreadPileUp,
        "ten thousand idle threads in one process",
        threads,
    )
    .needs(C)
    .alone()
    .bound_seconds(60),
    Case::twin(
        "weird-100000-fds",
        FdLeak,
        "a hundred thousand file descriptors, none growing",
        fds,
    )
    .needs(C)
    .alone(),
    Case::twin(
        "weird-short-lives",
        Zombie,
        "some hundred processes a second that live for milliseconds",
        storm,
    )
    .needs(C)
    .window(),
    Case::twin(
        "weird-pid-reuse",
        PipeStall,
        "one pid taken by one waiting process after another",
        reuse,
    )
    .needs(&[Need::Program("cc"), Need::Root])
    .window(),
];

fn named(stage: &mut Stage, name: &[u8]) -> Result<Truth> {
    let play = stage
        .c("mutex.c")?
        .args([OsStr::new("abba"), OsStr::from_bytes(name)]);
    let actor = stage.start(play)?;
    let truth = proved_abba(&actor)?;
    let comm = proc::stat(actor.pid).map(|stat| stat.comm);
    anyhow::ensure!(comm.as_deref() == Some(name), "the name did not take: {comm:?}");
    Ok(truth)
}

fn parenthesis(stage: &mut Stage) -> Result<Truth> {
    named(stage, b"a) R 1 (")
}

fn not_utf8(stage: &mut Stage) -> Result<Truth> {
    named(stage, b"\xff\xfe\x80lab")
}

fn threads(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("many.c")?.args(["threads", "10000"]);
    let actor = stage.start(play)?;
    let made = usize::try_from(actor.get("made")?)?;
    anyhow::ensure!(made >= 1000, "only {made} threads are allowed here");
    bite::until("all threads are there", || proc::tids(actor.pid).len() > made)?;
    Ok(Truth::twin(ThreadPileUp, [actor.pid]).case(&format!("{made} threads")))
}

fn fds(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("many.c")?.args(["fds", "100000"]);
    let actor = stage.start(play)?;
    let made = actor.get("made")?;
    // Counted by names; nothing is opened.
    let there = std::fs::read_dir(format!("/proc/{}/fd", actor.pid))?.count();
    anyhow::ensure!(
        made >= 1000 && there >= usize::try_from(made)?,
        "only {made} descriptors are allowed here"
    );
    Ok(Truth::twin(FdLeak, [actor.pid]).case(&format!("{made} descriptors")))
}

fn storm(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["reaper", "300"]);
    let pid = stage.start(play)?.pid;
    let mut seen = std::collections::BTreeSet::new();
    bite::until("children come and go", || {
        seen.extend(proc::children(pid));
        seen.len() >= 20
    })?;
    Ok(Truth::twin(Zombie, [pid]).tolerate(ProcessChurn))
}

fn reuse(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["reuse", "20"]);
    let parent = stage.start(play)?;
    let child = parent.get("child")?;
    let mut starts = std::collections::BTreeSet::new();
    bite::until("the pid is taken again and again", || {
        starts.extend(proc::stat(child).map(|stat| stat.start_ticks));
        starts.len() >= 5
    })?;
    Ok(Truth::twin(PipeStall, [parent.pid]).tolerate(ProcessChurn))
}

//! Chains: the symptom shows in one place, the cause stands in another.

use anyhow::Result;
use libc::{SYS_flock, SYS_futex, SYS_wait4, SYS_write};
use rung_diagnosis::mode::Mode::{
    FileLockWait, LockContention, PipeStall, StoppedProcess, ThreadPileUp, Zombie,
};
use rustix::process::Signal;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::file_lock_wait::{locks, waited_for};
use super::proc;
use super::stage::Stage;
use super::truth::{Role, Truth};
use super::{pipe_stall, zombie};

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "chain-pile-up-behind-pipe",
        PipeStall,
        "six threads wait for a mutex whose owner writes a full pipe",
        pile_up,
    )
    .needs(&[Need::Program("cc")])
    .window(),
    Case::fault(
        "chain-wait-lock-stopped",
        StoppedProcess,
        "a parent waits for a child that waits for a stopped lock holder",
        stopped_holder,
    )
    .needs(&[Need::Program("python3")]),
    Case::fault(
        "two-incidents",
        Zombie,
        "a parent that does not reap, and an unlinked full pipe",
        two_incidents,
    )
    .needs(&[Need::Program("cc")]),
];

fn pile_up(stage: &mut Stage) -> Result<Truth> {
    let (read, write) = stage.pipe()?;
    let play = stage.sleeper()?.stdin(read);
    let reader = stage.start(play)?.pid;
    let play = stage.c("pool.c")?.args(["pile-up", "6"]).stdout(write);
    let pool = stage.start(play)?;
    let (pid, owner) = (pool.pid, pool.get("tid_owner")?);
    stage.cue("pile")?;
    pool.get("ready")?;
    let since = bite::hang(&[Hang {
        pid,
        tid: owner,
        calls: &[SYS_write],
    }])?;
    let futex = &[SYS_futex];
    let pile: Vec<Hang<'_>> = proc::tids(pid)
        .into_iter()
        .filter(|&tid| tid != owner)
        .map(|tid| Hang {
            pid,
            tid,
            calls: futex,
        })
        .collect();
    anyhow::ensure!(
        pile.len() == 7,
        "six threads and main should wait, not {}",
        pile.len()
    );
    bite::hang(&pile)?;
    let truth = Truth::fault(PipeStall, reader, since).party(Role::Waiter, pid);
    let truth = truth.symptom(LockContention, pid).symptom(ThreadPileUp, pid);
    Ok(truth
        .threshold_seconds(5)
        .case("the owner of the mutex waits for the pipe's reader"))
}

fn stopped_holder(stage: &mut Stage) -> Result<Truth> {
    let holder = locks(stage, &["hold", "flock", "lab.lock"])?;
    holder.get("locked")?;
    stage.signal(holder.pid, Signal::STOP)?;
    bite::state(holder.pid, 'T')?;
    let play = stage.python("processes.py")?.args(["wait-for-lock"]);
    let parent = stage.start(play)?;
    let child = parent.get("child")?;
    stage.own(child);
    let since = bite::hang(&[
        Hang::main(parent.pid, &[SYS_wait4]),
        Hang::main(child, &[SYS_flock]),
    ])?;
    waited_for(stage)?;
    let truth = Truth::fault(StoppedProcess, holder.pid, since).party(Role::Waiter, child);
    Ok(truth
        .symptom(FileLockWait, holder.pid)
        .threshold_seconds(5)
        .case("it holds a file lock"))
}

fn two_incidents(stage: &mut Stage) -> Result<Truth> {
    let pipe = pipe_stall::sleeper(stage)?;
    Ok(zombie::fifty(stage)?.and(pipe))
}

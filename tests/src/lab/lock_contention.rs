//! `lock-contention`: threads that queue for one lock, and pools that only look like it.

use anyhow::Result;
use libc::SYS_futex;
use rung_diagnosis::mode::Mode::LockContention;

use super::bite;
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::truth::Truth;

const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "contention-8-threads",
        LockContention,
        "eight threads share a mutex held for 5 ms",
        eight,
    )
    .needs(C)
    .window(),
    Case::fault(
        "contention-4-threads",
        LockContention,
        "four threads hand one mutex around, like a big lock",
        four,
    )
    .needs(C)
    .window(),
    Case::twin(
        "contention-twin-idle-pool",
        LockContention,
        "32 threads wait for work on a condvar",
        idle,
    )
    .needs(C)
    .window(),
    Case::twin(
        "contention-twin-short-holds",
        LockContention,
        "a mutex held for 20 us every 5 ms",
        short,
    )
    .needs(C)
    .window(),
];

fn contend(stage: &mut Stage, threads: u32, hold_us: u32, think_us: u32) -> Result<Actor> {
    let play = stage
        .c("pool.c")?
        .args(["contend"])
        .args([threads, hold_us, think_us].map(|n| n.to_string()));
    let actor = stage.start(play)?;
    actor.get("ready")?;
    Ok(actor)
}

fn eight(stage: &mut Stage) -> Result<Truth> {
    let pid = contend(stage, 8, 5000, 0)?.pid;
    let since = bite::contended(pid, 6)?;
    Ok(Truth::fault(LockContention, pid, since).age_unknown())
}

fn four(stage: &mut Stage) -> Result<Truth> {
    let pid = contend(stage, 4, 1000, 0)?.pid;
    let since = bite::contended(pid, 2)?;
    Ok(Truth::fault(LockContention, pid, since).age_unknown())
}

fn idle(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("pool.c")?.args(["idle", "32"]);
    let actor = stage.start(play)?;
    actor.get("ready")?;
    bite::until("32 threads wait on a futex", || {
        let calls = proc::tids(actor.pid)
            .into_iter()
            .filter_map(|tid| proc::syscall(actor.pid, tid));
        calls.filter(|call| call.number == SYS_futex).count() == 32
    })?;
    Ok(Truth::twin(LockContention, [actor.pid]))
}

fn short(stage: &mut Stage) -> Result<Truth> {
    let actor = contend(stage, 4, 20, 5000)?;
    anyhow::ensure!(
        bite::contended(actor.pid, 2).is_err(),
        "the twin contends after all"
    );
    Ok(Truth::twin(LockContention, [actor.pid]))
}

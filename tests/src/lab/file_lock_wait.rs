//! `file-lock-wait`: locks held by sleepers, and locks in ordinary use.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use libc::{SYS_fcntl, SYS_flock};
use rung_diagnosis::mode::Mode::FileLockWait;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::truth::{Role, Truth};

const PYTHON: &[Need] = &[Need::Program("python3")];
const LOCK: &str = "lab.lock";

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "file-lock-flock",
        FileLockWait,
        "flock(2) held by a sleeper",
        flock,
    )
    .needs(PYTHON),
    Case::fault(
        "file-lock-fcntl",
        FileLockWait,
        "a POSIX record lock held by a sleeper",
        fcntl,
    )
    .needs(PYTHON),
    Case::fault(
        "file-lock-ofd",
        FileLockWait,
        "an open-file-description lock, which names no pid",
        ofd,
    )
    .needs(PYTHON),
    Case::twin(
        "file-lock-twin-short",
        FileLockWait,
        "three processes with short exclusive sections",
        short,
    )
    .needs(PYTHON),
    Case::twin(
        "file-lock-twin-retry",
        FileLockWait,
        "a held lock that another tries without waiting",
        retry,
    )
    .needs(PYTHON),
];

pub(crate) fn locks(stage: &mut Stage, args: &[&str]) -> Result<Actor> {
    let play = stage.python("locks.py")?.args(args);
    stage.start(play)
}

/// Proves by /proc/locks that somebody waits for the lock on the case's file.
pub(crate) fn waited_for(stage: &Stage) -> Result<()> {
    let inode = std::fs::metadata(stage.dir().join(LOCK))
        .context("the lock file is not there")?
        .ino();
    bite::lock_waited_for(inode)?;
    Ok(())
}

fn held(stage: &mut Stage, kind: &str, call: i64) -> Result<Truth> {
    let holder = locks(stage, &["hold", kind, LOCK])?;
    holder.get("locked")?;
    let waiter = locks(stage, &["want", kind, LOCK])?.pid;
    let since = bite::hang(&[Hang::main(waiter, &[call])])?;
    waited_for(stage)?;
    let truth = Truth::fault(FileLockWait, holder.pid, since).party(Role::Waiter, waiter);
    Ok(truth.threshold_seconds(5).case(kind))
}

fn flock(stage: &mut Stage) -> Result<Truth> {
    held(stage, "flock", SYS_flock)
}

fn fcntl(stage: &mut Stage) -> Result<Truth> {
    held(stage, "fcntl", SYS_fcntl)
}

fn ofd(stage: &mut Stage) -> Result<Truth> {
    held(stage, "ofd", SYS_fcntl)
}

fn short(stage: &mut Stage) -> Result<Truth> {
    let mut cast = Vec::new();
    for _ in 0..3 {
        let actor = locks(stage, &["short", LOCK])?;
        actor.get("ready")?;
        cast.push(actor.pid);
    }
    waited_for(stage)?;
    for &pid in &cast {
        let before = proc::switches(pid, pid).unwrap_or(0);
        bite::until("each gets its turns", || {
            proc::switches(pid, pid).is_some_and(|now| now > before + 10)
        })?;
    }
    Ok(Truth::twin(FileLockWait, cast))
}

fn retry(stage: &mut Stage) -> Result<Truth> {
    let holder = locks(stage, &["hold", "flock", LOCK])?;
    holder.get("locked")?;
    let other = locks(stage, &["retry", LOCK])?;
    other.get("ready")?;
    Ok(Truth::twin(FileLockWait, [holder.pid, other.pid]))
}

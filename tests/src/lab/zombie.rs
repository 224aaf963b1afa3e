//! `zombie`: parents that do not reap, and what only looks dead.

use anyhow::Result;
use rung_diagnosis::mode::Mode::Zombie;

use super::bite;
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::{Role, Truth};

const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "zombie-50",
        Zombie,
        "a parent of fifty dead children never waits",
        fifty,
    )
    .needs(C),
    Case::fault(
        "zombie-old",
        Zombie,
        "a single zombie: a finding once it is older than 30 s",
        single,
    )
    .needs(C),
    Case::fault(
        "zombie-pid-1",
        Zombie,
        "PID 1 of a namespace does not reap the orphans it is given",
        pid_one,
    )
    .needs(&[Need::Program("cc"), Need::Program("unshare"), Need::Root]),
    Case::twin(
        "zombie-twin-leader-exit",
        Zombie,
        "the leader thread exited, its threads live",
        leader_exit,
    )
    .needs(C),
    Case::twin(
        "zombie-twin-ignored",
        Zombie,
        "many children of a parent that ignores SIGCHLD",
        ignored,
    )
    .needs(C),
    Case::twin(
        "zombie-twin-reaper",
        Zombie,
        "a parent that reaps its children within 50 ms",
        reaper,
    )
    .needs(C),
];

pub(crate) fn fifty(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["zombies", "50"]);
    let pid = stage.start(play)?.pid;
    let since = bite::until("fifty children are zombies", || proc::zombies_of(pid) == 50)?;
    Ok(Truth::fault(Zombie, pid, since).threshold_seconds(1))
}

fn single(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["zombies", "1"]);
    let pid = stage.start(play)?.pid;
    let since = bite::until("the child is a zombie", || proc::zombies_of(pid) == 1)?;
    let child = proc::children(pid).first().copied().unwrap_or_default();
    Ok(Truth::fault(Zombie, pid, since)
        .party(Role::Child, child)
        .threshold_seconds(30))
}

fn pid_one(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?;
    let binary = play.command.get_program().to_owned();
    let play = stage
        .program("unshare")?
        .args(["--pid", "--fork", "--kill-child"])
        .args([binary])
        .args(["adopt", "12"]);
    let outside = stage.start(play)?;
    anyhow::ensure!(
        outside.get("ready")? == 1,
        "the program is not PID 1 of its namespace"
    );
    let pid = proc::child_named(outside.pid, "fork").unwrap_or_default();
    stage.own(pid);
    let since = bite::until("PID 1 of the namespace has twelve zombies", || {
        proc::zombies_of(pid) == 12
    })?;
    Ok(Truth::fault(Zombie, pid, since)
        .threshold_seconds(1)
        .case("PID 1 of a namespace"))
}

fn leader_exit(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("pool.c")?.args(["leader-exit"]);
    let pid = stage.start(play)?.pid;
    bite::state(pid, 'Z')?;
    anyhow::ensure!(proc::tids(pid).len() == 3, "its threads died with the leader");
    Ok(Truth::twin(Zombie, [pid]))
}

fn ignored(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["ignored", "20"]);
    let pid = stage.start(play)?.pid;
    bite::until("no zombie is left", || proc::zombies_of(pid) == 0)?;
    Ok(Truth::twin(Zombie, [pid]))
}

fn reaper(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["reaper", "40"]);
    let pid = stage.start(play)?.pid;
    bite::until("a zombie shows", || proc::zombies_of(pid) > 0)?;
    bite::until("it is reaped", || proc::zombies_of(pid) == 0)?;
    Ok(Truth::twin(Zombie, [pid]))
}

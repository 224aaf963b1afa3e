//! `deadlock` of POSIX threads, where every owner is known: faults and twins.

use anyhow::Result;
use libc::{SYS_clock_nanosleep, SYS_futex};
use rung_diagnosis::mode::Mode::Deadlock;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::truth::{Certainty, Truth};

const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "deadlock-abba-c",
        Deadlock,
        "two C threads take two mutexes in opposite order",
        abba,
    )
    .needs(C),
    Case::fault(
        "deadlock-self",
        Deadlock,
        "one thread locks the same normal mutex twice",
        self_lock,
    )
    .needs(C),
    Case::fault(
        "deadlock-join",
        Deadlock,
        "main joins a thread that needs main's mutex",
        join,
    )
    .needs(C),
    Case::fault(
        "deadlock-owner-exit",
        Deadlock,
        "a thread exited and took its mutex along",
        owner_exit,
    )
    .needs(C),
    Case::fault(
        "deadlock-pi",
        Deadlock,
        "two priority-inheritance mutexes in opposite order",
        pi,
    )
    .needs(C),
    Case::fault(
        "deadlock-abba-alive",
        Deadlock,
        "two of four threads deadlock, one lives on",
        abba_alive,
    )
    .needs(C)
    .beyond_procfs(),
    Case::fault(
        "deadlock-abba-pid-namespace",
        Deadlock,
        "ABBA whose futex words hold namespace tids",
        namespace,
    )
    .needs(&[Need::Program("cc"), Need::Program("unshare"), Need::Root]),
    Case::twin(
        "deadlock-twin-condvar-pool",
        Deadlock,
        "32 C threads wait for work, one watches the clock",
        pool,
    )
    .needs(C),
    Case::twin(
        "deadlock-twin-timed",
        Deadlock,
        "opposite order by timed locks that give up and retry",
        timed,
    )
    .needs(C),
    Case::twin(
        "deadlock-twin-trylock",
        Deadlock,
        "opposite order by try-lock with back-off",
        trylock,
    )
    .needs(C),
];

const FUTEX: &[i64] = &[SYS_futex];
const SLEEP: &[i64] = &[SYS_clock_nanosleep];

fn mutex(stage: &mut Stage, kind: &str) -> Result<Actor> {
    let play = stage.c("mutex.c")?.args([kind]);
    stage.start(play)
}

/// Proves an ABBA of the reported threads `tid_a` and `tid_b`, with main joining them.
pub(crate) fn proved_abba(actor: &Actor) -> Result<Truth> {
    let pid = actor.pid;
    let (a, b) = (actor.get("tid_a")?, actor.get("tid_b")?);
    let hang = |tid| Hang {
        pid,
        tid,
        calls: FUTEX,
    };
    let since = bite::hang(&[hang(a), hang(b), hang(pid)])?;
    Ok(Truth::knot_of_threads(pid, &[a, b], since).certainty(Certainty::Proven))
}

fn abba(stage: &mut Stage) -> Result<Truth> {
    proved_abba(&mutex(stage, "abba")?)
}

fn self_lock(stage: &mut Stage) -> Result<Truth> {
    let pid = mutex(stage, "self")?.pid;
    let since = bite::hang(&[Hang::main(pid, FUTEX)])?;
    Ok(Truth::knot_of_threads(pid, &[pid], since).certainty(Certainty::Proven))
}

fn join(stage: &mut Stage) -> Result<Truth> {
    let actor = mutex(stage, "join")?;
    let (pid, b) = (actor.pid, actor.get("tid_b")?);
    let since = bite::hang(&[
        Hang::main(pid, FUTEX),
        Hang {
            pid,
            tid: b,
            calls: FUTEX,
        },
    ])?;
    Ok(Truth::knot_of_threads(pid, &[pid, b], since)
        .certainty(Certainty::Proven)
        .case("mutex and join"))
}

fn owner_exit(stage: &mut Stage) -> Result<Truth> {
    let actor = mutex(stage, "owner-exit")?;
    let (pid, dead) = (actor.pid, actor.get("tid_dead")?);
    bite::until("the owner exited", || proc::thread_stat(pid, dead).is_none())?;
    let since = bite::hang(&[Hang::main(pid, FUTEX)])?;
    Ok(Truth::knot_of_threads(pid, &[pid], since)
        .certainty(Certainty::Proven)
        .case("the owner no longer exists"))
}

/// The kernel refuses the second lock with EDEADLK, and glibc then parks that thread on a futex of nobody
/// (nptl/pthread_mutex_lock.c): so one owner is known, the other is not.
fn pi(stage: &mut Stage) -> Result<Truth> {
    Ok(proved_abba(&mutex(stage, "pi")?)?.case("one thread waits in FUTEX_LOCK_PI, glibc parked the other"))
}

fn abba_alive(stage: &mut Stage) -> Result<Truth> {
    let actor = mutex(stage, "abba-alive")?;
    let alive = actor.get("tid_alive")?;
    let truth = proved_abba(&actor)?;
    let before = proc::switches(actor.pid, alive);
    bite::until("the third thread lives on", || {
        proc::switches(actor.pid, alive) > before
    })?;
    Ok(truth.case("part of the process is alive"))
}

fn namespace(stage: &mut Stage) -> Result<Truth> {
    // The shell is PID 1 of the namespace: that one would be deaf to its alarm.
    let play = stage.c("mutex.c")?;
    let binary = play.command.get_program().to_owned();
    let play = stage
        .program("unshare")?
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            "\"$0\" abba; exit $?",
        ])
        .args([binary]);
    let outside = stage.start(play)?;
    let (inner_a, inner_b) = (outside.get("tid_a")?, outside.get("tid_b")?);
    let mut found = None;
    bite::until("the program runs in the namespace", || {
        found = proc::child_named(outside.pid, "sh").and_then(|shell| proc::child_named(shell, "mutex"));
        found.is_some()
    })?;
    let pid = found.unwrap_or_default();
    stage.own(pid);
    let (a, b) = (proc::host_tid(pid, inner_a)?, proc::host_tid(pid, inner_b)?);
    anyhow::ensure!(
        a != inner_a && b != inner_b,
        "the namespace gives the host's tids"
    );
    let hang = |tid| Hang {
        pid,
        tid,
        calls: FUTEX,
    };
    let since = bite::hang(&[hang(a), hang(b), hang(pid)])?;
    let truth = Truth::knot_of_threads(pid, &[a, b], since).certainty(Certainty::Proven);
    Ok(truth.case("futex words hold tids of the namespace"))
}

fn pool(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("pool.c")?.args(["idle", "32"]);
    let actor = stage.start(play)?;
    actor.get("ready")?;
    let pid = actor.pid;
    bite::until("32 threads wait and one sleeps", || {
        let calls = || {
            proc::tids(pid)
                .into_iter()
                .filter_map(|tid| proc::syscall(pid, tid))
        };
        calls().filter(|call| FUTEX.contains(&call.number)).count() == 32
            && calls().any(|call| SLEEP.contains(&call.number))
    })?;
    Ok(Truth::twin(Deadlock, [pid]))
}

/// Both threads keep meeting at each other's lock and keep getting away.
fn getting_away(stage: &mut Stage, kind: &str) -> Result<Truth> {
    let actor = mutex(stage, kind)?;
    for key in ["tid_a", "tid_b"] {
        let tid = actor.get(key)?;
        let before = proc::switches(actor.pid, tid).unwrap_or(0);
        bite::until("both threads make progress", || {
            proc::switches(actor.pid, tid).is_some_and(|now| now > before + 20)
        })?;
    }
    Ok(Truth::twin(Deadlock, [actor.pid]))
}

fn timed(stage: &mut Stage) -> Result<Truth> {
    getting_away(stage, "timed")
}

fn trylock(stage: &mut Stage) -> Result<Truth> {
    getting_away(stage, "trylock")
}

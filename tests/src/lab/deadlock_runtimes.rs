//! `deadlock` in language runtimes whose locks do not tell the kernel their owner: faults and twins.

use anyhow::Result;
use libc::SYS_futex;
use rung_diagnosis::mode::Mode::Deadlock;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::truth::{Certainty, Truth};

const PYTHON: &[Need] = &[Need::Program("python3")];
const JAVA: &[Need] = &[Need::Program("java"), Need::Program("javac")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "deadlock-abba-rust-std",
        Deadlock,
        "std::sync::Mutex in opposite order, all threads stuck",
        std_abba,
    ),
    Case::fault(
        "deadlock-abba-parking-lot",
        Deadlock,
        "parking_lot::Mutex in opposite order",
        parking_lot_abba,
    ),
    Case::fault(
        "deadlock-abba-python",
        Deadlock,
        "threading.Lock in opposite order, main joins",
        python_abba,
    )
    .needs(PYTHON),
    Case::fault(
        "deadlock-abba-java",
        Deadlock,
        "two Java monitors in opposite order; their owners do not show",
        java,
    )
    .needs(JAVA),
    Case::twin(
        "deadlock-twin-rust-channel-pool",
        Deadlock,
        "eight workers in recv, main sleeps",
        channel_pool,
    ),
    Case::twin(
        "deadlock-twin-python-queue",
        Deadlock,
        "eight workers in Queue.get, main in select",
        python_queue,
    )
    .needs(PYTHON),
    Case::twin(
        "deadlock-twin-java-idle",
        Deadlock,
        "an idle executor, main sleeps",
        java_idle,
    )
    .needs(JAVA),
];

const FUTEX: &[i64] = &[SYS_futex];

/// All threads wait on futexes without a time limit, so the whole process is the knot.
fn whole_process(actor: &Actor) -> Result<Truth> {
    let pid = actor.pid;
    let (a, b) = (actor.get("tid_a")?, actor.get("tid_b")?);
    let hang = |tid| Hang {
        pid,
        tid,
        calls: FUTEX,
    };
    let since = bite::hang(&[hang(a), hang(b), hang(pid)])?;
    let mut truth = Truth::knot_of_threads(pid, &[a, b], since);
    // Who joins the two is as stuck as they are, and without owners nothing tells them apart.
    truth.tids.push(pid);
    Ok(truth.case("every thread of the process waits, owners unknown"))
}

fn std_abba(stage: &mut Stage) -> Result<Truth> {
    let play = stage.rust("abba-std")?;
    whole_process(&stage.start(play)?)
}

fn parking_lot_abba(stage: &mut Stage) -> Result<Truth> {
    let play = stage.rust("abba-parking-lot")?;
    whole_process(&stage.start(play)?)
}

/// Python handles SIGINT, and a handler might release a lock: so this is suspected, after 30 s.
fn python_abba(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("threads.py")?.args(["abba"]);
    Ok(whole_process(&stage.start(play)?)?.threshold_seconds(30))
}

/// The JVM's own threads live on, and the owner of a monitor is in the JVM's memory only.
fn java(stage: &mut Stage) -> Result<Truth> {
    let play = stage.java("Abba.java")?;
    let actor = stage.start(play)?;
    actor.get("deadlocked")?;
    let pid = actor.pid;
    let mut tids = [0, 0];
    bite::until("the two threads show under their names", || {
        tids = ["lab-a", "lab-b"].map(|name| proc::thread_named(pid, name).unwrap_or(0));
        tids.iter().all(|&tid| tid != 0)
    })?;
    let hang = |tid| Hang {
        pid,
        tid,
        calls: FUTEX,
    };
    let since = bite::hang(&tids.map(hang))?;
    let mut truth = Truth::knot_of_threads(pid, &tids, since);
    truth.knot.clear();
    truth.tids.clear();
    Ok(truth
        .threshold_seconds(30)
        .certainty(Certainty::FoundOrDeclared)
        .case("owners of Java monitors do not show: suspected, or declared as not observable"))
}

fn in_futex(pid: i32) -> usize {
    let calls = proc::tids(pid)
        .into_iter()
        .filter_map(|tid| proc::syscall(pid, tid));
    calls.filter(|call| FUTEX.contains(&call.number)).count()
}

fn idle_workers(actor: &Actor, workers: usize) -> Result<Truth> {
    actor.get("ready")?;
    bite::until("the workers wait", || in_futex(actor.pid) >= workers)?;
    Ok(Truth::twin(Deadlock, [actor.pid]))
}

fn channel_pool(stage: &mut Stage) -> Result<Truth> {
    let play = stage.rust("channel-pool")?;
    // They queue for the receiver's lock: one waits for jobs, seven for that one.
    idle_workers(&stage.start(play)?, 8)
}

fn python_queue(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("threads.py")?.args(["queue"]);
    idle_workers(&stage.start(play)?, 8)
}

fn java_idle(stage: &mut Stage) -> Result<Truth> {
    let play = stage.java("Idle.java")?;
    idle_workers(&stage.start(play)?, 8)
}

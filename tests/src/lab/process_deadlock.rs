//! `process-deadlock`: processes that wait for each other, and parents and partners that just wait.

use anyhow::Result;
use libc::{SYS_flock, SYS_read, SYS_recvfrom, SYS_wait4, SYS_write};
use rung_diagnosis::mode::Mode::{FileLockWait, PipeStall, ProcessDeadlock};

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::{Certainty, Truth};
use super::unix_socket_stall::socket;

const PYTHON: &[Need] = &[Need::Program("python3")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "process-deadlock-undrained",
        ProcessDeadlock,
        "wait() on a child whose full stdout nobody reads",
        undrained,
    )
    .needs(PYTHON),
    Case::fault(
        "process-deadlock-both-read",
        ProcessDeadlock,
        "two processes over two pipes, each reads first",
        both_read,
    ),
    Case::fault(
        "process-deadlock-sockets",
        ProcessDeadlock,
        "client and server of a Unix socket each wait for the other to speak",
        both_receive,
    )
    .needs(PYTHON)
    .beyond_procfs(),
    Case::fault(
        "process-deadlock-flock",
        ProcessDeadlock,
        "two processes take two file locks in opposite order",
        flock_abba,
    )
    .needs(PYTHON),
    Case::twin(
        "process-deadlock-twin-long-child",
        ProcessDeadlock,
        "a shell waits for a child that sleeps",
        long_child,
    ),
    Case::twin(
        "process-deadlock-twin-computing",
        ProcessDeadlock,
        "a parent waits for a child that computes",
        computing,
    )
    .needs(PYTHON),
    Case::twin(
        "process-deadlock-twin-ping-pong",
        ProcessDeadlock,
        "two processes play ping-pong over two pipes",
        ping_pong,
    )
    .needs(PYTHON),
];

/// Two processes as a knot: either may be the subject, both must be named.
fn knot(a: i32, b: i32, since: std::time::Instant) -> Truth {
    let mut truth = Truth::fault(ProcessDeadlock, a, since)
        .or_subject(b)
        .certainty(Certainty::Proven);
    truth.knot = vec![a, b];
    truth
}

fn undrained(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("pipes.py")?.args(["undrained"]);
    let parent = stage.start(play)?;
    let child = parent.get("child")?;
    stage.own(child);
    let since = bite::hang(&[
        Hang::main(parent.pid, &[SYS_wait4]),
        Hang::main(child, &[SYS_write]),
    ])?;
    let mut truth = knot(parent.pid, child, since).symptom(PipeStall, parent.pid);
    // Python handles SIGINT, and a handler might end the wait.
    truth.certainty = Certainty::Found;
    Ok(truth.case("the parent waits for the end of a child that waits for the parent to read"))
}

fn both_read(stage: &mut Stage) -> Result<Truth> {
    let (read_there, write_here) = stage.pipe()?;
    let (read_here, write_there) = stage.pipe()?;
    let play = stage.program("cat")?.stdin(read_here).stdout(write_here);
    let here = stage.start(play)?.pid;
    let play = stage.program("cat")?.stdin(read_there).stdout(write_there);
    let there = stage.start(play)?.pid;
    let since = bite::hang(&[Hang::main(here, &[SYS_read]), Hang::main(there, &[SYS_read])])?;
    Ok(knot(here, there, since).case("each reads before it writes"))
}

fn both_receive(stage: &mut Stage) -> Result<Truth> {
    let server = socket(stage, &["request-server"])?;
    server.get("ready")?;
    let client = socket(stage, &["request-client"])?.pid;
    let since = bite::hang(&[
        Hang::main(server.pid, &[SYS_recvfrom]),
        Hang::main(client, &[SYS_recvfrom]),
    ])?;
    let mut truth = knot(server.pid, client, since);
    // Python handles SIGINT, and a handler might end the wait.
    truth.certainty = Certainty::Found;
    Ok(truth.case("each waits for the other's first message"))
}

fn flock_abba(stage: &mut Stage) -> Result<Truth> {
    let mut pids = [0, 0];
    for (pid, [mine, theirs]) in pids.iter_mut().zip([["a.lock", "b.lock"], ["b.lock", "a.lock"]]) {
        let play = stage.python("locks.py")?.args(["abba", mine, theirs]);
        let actor = stage.start(play)?;
        actor.get("locked")?;
        *pid = actor.pid;
    }
    stage.cue("both")?;
    let [a, b] = pids;
    let since = bite::hang(&[Hang::main(a, &[SYS_flock]), Hang::main(b, &[SYS_flock])])?;
    let mut truth = knot(a, b, since)
        .symptom(FileLockWait, a)
        .symptom(FileLockWait, b);
    truth.certainty = Certainty::Found;
    Ok(truth.case("file locks in opposite order"))
}

fn long_child(stage: &mut Stage) -> Result<Truth> {
    let play = stage.sh("sleep $RUNG_LAB_SECONDS; :")?;
    let shell = stage.start(play)?.pid;
    bite::hang(&[Hang::main(shell, &[SYS_wait4])])?;
    let children = proc::children(shell);
    children.iter().for_each(|&child| stage.own(child));
    Ok(Truth::twin(ProcessDeadlock, children.into_iter().chain([shell])))
}

fn computing(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("processes.py")?.args(["compute"]);
    let parent = stage.start(play)?;
    let child = parent.get("child")?;
    stage.own(child);
    bite::hang(&[Hang::main(parent.pid, &[SYS_wait4])])?;
    // A Python loop without end is a spin all the same, and may be called one.
    let truth = Truth::twin(ProcessDeadlock, [parent.pid, child]);
    Ok(truth.tolerate(rung_diagnosis::mode::Mode::CpuSpin))
}

fn ping_pong(stage: &mut Stage) -> Result<Truth> {
    let (read_there, write_here) = stage.pipe()?;
    let (read_here, write_there) = stage.pipe()?;
    let play = stage
        .python("pipes.py")?
        .args(["ping"])
        .stdin(read_here)
        .stdout(write_here);
    let ping = stage.start(play)?.pid;
    let play = stage
        .python("pipes.py")?
        .args(["pong"])
        .stdin(read_there)
        .stdout(write_there);
    let pong = stage.start(play)?.pid;
    for pid in [ping, pong] {
        let before = proc::switches(pid, pid).unwrap_or(0);
        bite::until("both play", || {
            proc::switches(pid, pid).is_some_and(|now| now > before + 20)
        })?;
    }
    Ok(Truth::twin(ProcessDeadlock, [ping, pong]))
}

//! `pipe-stall`: pipes that stand still with somebody waiting, and pipes that only rest.

use anyhow::{Context, Result};
use libc::{SYS_clock_nanosleep, SYS_pselect6, SYS_read, SYS_wait4, SYS_write};
use rung_diagnosis::mode::Mode::{Orphan, PipeStall, StoppedProcess, Zombie};
use rustix::process::Signal;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::{Role, Truth};

const PYTHON: &[Need] = &[Need::Program("python3")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "pipe-full-sleeper",
        PipeStall,
        "cat /dev/zero | sleep: the reader never reads",
        sleeper,
    ),
    Case::fault(
        "pipe-full-stopped-reader",
        PipeStall,
        "the reader of a full pipe was stopped",
        stopped_reader,
    ),
    Case::fault(
        "pipe-full-leaked-end",
        PipeStall,
        "the reader died; a leaked read end keeps the pipe",
        leaked_end,
    ),
    Case::fault(
        "pipe-eof-background",
        PipeStall,
        "communicate() waits for an end that a background job holds",
        background,
    )
    .needs(PYTHON),
    Case::fault(
        "pipe-eof-sibling",
        PipeStall,
        "reading to an end that a sibling inherited as fd 57",
        sibling,
    )
    .needs(PYTHON)
    // That data came through shows only in the pipe itself.
    .beyond_procfs(),
    Case::twin(
        "pipe-twin-pager",
        PipeStall,
        "yes | less on a terminal, waiting for a key",
        pager,
    )
    .needs(&[Need::Program("python3"), Need::Program("less")]),
    Case::twin(
        "pipe-twin-quiet",
        PipeStall,
        "sleep | cat: nothing to read yet",
        quiet,
    ),
    Case::twin(
        "pipe-twin-slow-consumer",
        PipeStall,
        "a full pipe drained by 4 KiB every 100 ms",
        slow,
    )
    .needs(PYTHON),
    Case::twin(
        "pipe-twin-stopped-job",
        PipeStall,
        "a pipeline stopped as a whole",
        stopped_job,
    ),
    Case::twin(
        "pipe-twin-jobserver",
        PipeStall,
        "makes that wait for a token of their job server's pipe",
        jobserver,
    )
    .needs(&[Need::Program("make")]),
];

const WRITE: &[i64] = &[SYS_write];
const READ: &[i64] = &[SYS_read];

/// The member of a shell's pipeline with this name.
fn member(stage: &mut Stage, shell: i32, comm: &str) -> Result<i32> {
    let mut found = None;
    bite::until(&format!("{comm} runs in the pipeline"), || {
        found = proc::child_named(shell, comm);
        found.is_some()
    })?;
    let pid = found.context("just seen")?;
    stage.own(pid);
    Ok(pid)
}

pub(crate) fn sleeper(stage: &mut Stage) -> Result<Truth> {
    let play = stage.sh("cat /dev/zero | sleep $RUNG_LAB_SECONDS; :")?;
    let shell = stage.start(play)?.pid;
    let (writer, reader) = (member(stage, shell, "cat")?, member(stage, shell, "sleep")?);
    let since = bite::hang(&[
        Hang::main(writer, WRITE),
        Hang::main(reader, &[SYS_clock_nanosleep]),
    ])?;
    let truth = Truth::fault(PipeStall, reader, since).party(Role::Waiter, writer);
    Ok(truth
        .threshold_seconds(5)
        .case("the reader lives and does not read"))
}

fn stopped_reader(stage: &mut Stage) -> Result<Truth> {
    let (truth, ..) = super::stopped_process::pipe_reader(stage)?;
    let mut truth = truth;
    truth.modes = vec![PipeStall, StoppedProcess];
    Ok(truth)
}

fn leaked_end(stage: &mut Stage) -> Result<Truth> {
    let (read, write) = stage.pipe()?;
    let leak = read.try_clone()?;
    let play = stage.program("cat")?.args(["/dev/zero"]).stdout(write);
    let writer = stage.start(play)?.pid;
    let play = stage.program("cat")?.stdin(read);
    let reader = stage.start(play)?;
    let play = stage
        .sh("exec 9<&0 </dev/null; exec sleep $RUNG_LAB_SECONDS")?
        .stdin(leak);
    let holder = stage.start(play)?.pid;
    bite::until("the holder sleeps", || {
        proc::stat(holder).is_some_and(|stat| stat.comm == b"sleep")
    })?;
    stage.kill(&reader)?;
    let since = bite::hang(&[Hang::main(writer, WRITE)])?;
    let truth = Truth::fault(PipeStall, holder, since).party(Role::Waiter, writer);
    Ok(truth
        .threshold_seconds(5)
        .case("the reader died and a leaked read end keeps the pipe open"))
}

fn background(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("pipes.py")?.args(["communicate"]);
    let parent = stage.start(play)?;
    let holder = parent.get("holder")?;
    stage.own(holder);
    let since = bite::hang(&[
        Hang::main(parent.pid, READ),
        Hang::main(holder, &[SYS_clock_nanosleep]),
    ])?;
    let truth = Truth::fault(PipeStall, holder, since)
        .or_mode(Orphan)
        .party(Role::Waiter, parent.pid);
    // The shell is dead and stays unreaped for as long as its parent waits for the end of its output.
    let truth = truth.symptom(Zombie, parent.pid);
    Ok(truth
        .threshold_seconds(5)
        .case("a background process holds the only write end"))
}

fn sibling(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("pipes.py")?.args(["sibling-leak"]);
    let parent = stage.start(play)?;
    let holder = parent.get("holder")?;
    stage.own(holder);
    let since = bite::hang(&[
        Hang::main(parent.pid, READ),
        Hang::main(holder, &[SYS_clock_nanosleep]),
    ])?;
    let fd = std::fs::read_link(format!("/proc/{holder}/fd/57"))?;
    anyhow::ensure!(
        fd.to_string_lossy().starts_with("pipe:"),
        "the sibling did not inherit the pipe"
    );
    let truth = Truth::fault(PipeStall, holder, since).party(Role::Waiter, parent.pid);
    Ok(truth
        .threshold_seconds(5)
        .case("a sibling inherited the only write end"))
}

fn pager(stage: &mut Stage) -> Result<Truth> {
    let play = stage.python("pipes.py")?.args(["pager"]);
    let terminal = stage.start(play)?;
    let shell = terminal.get("shell")?;
    stage.own(shell);
    let (writer, reader) = (member(stage, shell, "yes")?, member(stage, shell, "less")?);
    bite::hang(&[Hang::main(writer, WRITE)])?;
    anyhow::ensure!(proc::alive(reader), "less has left");
    Ok(Truth::twin(PipeStall, [terminal.pid, shell, writer, reader]))
}

fn quiet(stage: &mut Stage) -> Result<Truth> {
    let play = stage.sh("sleep $RUNG_LAB_SECONDS | cat; :")?;
    let shell = stage.start(play)?.pid;
    let (writer, reader) = (member(stage, shell, "sleep")?, member(stage, shell, "cat")?);
    bite::hang(&[Hang::main(reader, READ), Hang::main(shell, &[SYS_wait4])])?;
    Ok(Truth::twin(PipeStall, [shell, writer, reader]))
}

fn slow(stage: &mut Stage) -> Result<Truth> {
    let (read, write) = stage.pipe()?;
    let play = stage.program("cat")?.args(["/dev/zero"]).stdout(write);
    let writer = stage.start(play)?.pid;
    let play = stage.python("pipes.py")?.args(["slow-consumer"]).stdin(read);
    let reader = stage.start(play)?;
    reader.get("ready")?;
    let before = proc::switches(writer, writer).unwrap_or(0);
    bite::until("the writer waits and gets on", || {
        proc::syscall(writer, writer).is_some_and(|call| call.number == SYS_write)
            && proc::switches(writer, writer).is_some_and(|now| now > before + 10)
    })?;
    Ok(Truth::twin(PipeStall, [writer, reader.pid]))
}

fn stopped_job(stage: &mut Stage) -> Result<Truth> {
    let play = stage.sh("cat /dev/zero | cat >/dev/null; :")?;
    let shell = stage.start(play)?.pid;
    bite::until("both ends run", || proc::children(shell).len() == 2)?;
    let job: Vec<i32> = std::iter::once(shell).chain(proc::children(shell)).collect();
    for &pid in &job {
        stage.own(pid);
        stage.signal(pid, Signal::STOP)?;
    }
    for &pid in &job {
        bite::state(pid, 'T')?;
    }
    Ok(Truth::twin(PipeStall, job))
}

/// Two recursive makes share two tokens and have four jobs: both wait for a token that the other job's end
/// will bring. They hold both ends of the token pipe themselves.
fn jobserver(stage: &mut Stage) -> Result<Truth> {
    let makefile = stage.script("jobs.mk");
    let mut play = stage.program("make")?.args(["-s", "-j2", "-f"]).args([makefile]);
    // No tokens of a make that runs the lab.
    play.command.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    let top = stage.start(play)?.pid;
    let mut makes = Vec::new();
    bite::until("two makes run one job each", || {
        makes = proc::children(top);
        makes.len() == 2 && makes.iter().all(|&make| proc::children(make).len() == 1)
    })?;
    let cast: Vec<i32> = stage.cast().iter().map(|identity| identity.pid).collect();
    let hangs: Vec<Hang<'_>> = makes
        .iter()
        .map(|&make| Hang::main(make, &[SYS_pselect6, SYS_read]))
        .collect();
    bite::hang(&hangs)?;
    Ok(Truth::twin(PipeStall, cast))
}

//! `orphan`: workers that outlive their manager and still hold something, and daemons that mean to.
//!
//! The runner is the parent of the one that dies and reaps it at once, so that nothing of it is left.

use anyhow::{Context, Result};
use rung_diagnosis::mode::Mode::{CpuSpin, Orphan, PipeStall};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::sweep::Identity;
use super::truth::{Role, Truth};

const PYTHON: &[Need] = &[Need::Program("python3")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "orphan-holds-pipe",
        Orphan,
        "its manager was killed; it keeps a pipe's write end",
        holds_pipe,
    )
    .needs(PYTHON),
    Case::fault(
        "orphan-holds-pipe-late",
        Orphan,
        "the same, and the manager dies while you watch",
        holds_pipe_late,
    )
    .needs(PYTHON)
    .window(),
    Case::fault(
        "orphan-burns-cpu",
        Orphan,
        "its manager was killed; it computes on",
        burns_cpu,
    )
    .needs(PYTHON),
    Case::fault(
        "orphan-burns-cpu-late",
        Orphan,
        "the same, and the manager dies while you watch",
        burns_cpu_late,
    )
    .needs(PYTHON)
    .window(),
    Case::fault(
        "orphan-holds-port",
        Orphan,
        "forked twice without setsid, listens on a TCP port",
        holds_port,
    )
    .needs(PYTHON),
    Case::fault(
        "orphan-adopted-in-session",
        Orphan,
        "a container's init adopts it within their session",
        adopted_in_session,
    )
    .needs(PYTHON)
    // /proc does not show who forked a process.
    .beyond_procfs(),
    Case::twin(
        "orphan-twin-own-child",
        Orphan,
        "a container's init and its own child in one session",
        own_child,
    )
    .needs(PYTHON),
    Case::twin(
        "orphan-twin-daemon",
        Orphan,
        "forked twice with setsid, fds 0-2 on /dev/null",
        daemon,
    )
    .needs(PYTHON),
    Case::twin(
        "orphan-twin-nohup",
        Orphan,
        "a job under nohup whose shell has left",
        nohup,
    ),
    Case::twin(
        "orphan-twin-setsid",
        Orphan,
        "a service in a session of its own",
        setsid,
    )
    .needs(&[Need::Program("setsid")]),
    Case::twin("orphan-twin-tmux", Orphan, "a tmux server and its shell", tmux)
        .needs(&[Need::Program("tmux")]),
];

/// The manager, its worker, and who reads the pipe that the worker inherited.
struct Company {
    manager: Actor,
    worker: i32,
    reader: i32,
}

fn with_pipe(stage: &mut Stage) -> Result<Company> {
    let (read, write) = stage.pipe()?;
    let play = stage
        .python("processes.py")?
        .args(["manager", "holds-pipe"])
        .stdout(write);
    let manager = stage.start(play)?;
    let worker = manager.get("worker")?;
    stage.own(worker);
    let play = stage.program("cat")?.stdin(read);
    let reader = stage.start(play)?.pid;
    bite::hang(&[Hang::main(reader, &[libc::SYS_read])])?;
    Ok(Company {
        manager,
        worker,
        reader,
    })
}

fn orphan_with_pipe(company: &Company, since: std::time::Instant) -> Truth {
    Truth::fault(Orphan, company.worker, since)
        .symptom(PipeStall, company.worker)
        .party(Role::Reader, company.reader)
        .age_unknown()
        .threshold_seconds(5)
        .case("it holds the pipe that somebody reads to its end")
}

fn holds_pipe(stage: &mut Stage) -> Result<Truth> {
    let company = with_pipe(stage)?;
    stage.kill(&company.manager)?;
    let since = bite::reparented(company.worker, company.manager.pid)?;
    Ok(orphan_with_pipe(&company, since))
}

/// Kills the manager, reaps it and sees to it that the worker became an orphan.
fn trigger(manager: i32, worker: i32) -> Result<super::truth::Trigger> {
    let identity = Identity::of(manager).context("the manager is gone")?;
    Ok(Box::new(move || {
        identity.signal(Signal::KILL)?;
        waitpid(Pid::from_raw(manager), WaitOptions::empty())?;
        bite::reparented(worker, manager)?;
        Ok(())
    }))
}

fn holds_pipe_late(stage: &mut Stage) -> Result<Truth> {
    let company = with_pipe(stage)?;
    let mut truth = orphan_with_pipe(&company, std::time::Instant::now());
    truth.age_known = true;
    truth.trigger = Some(trigger(company.manager.pid, company.worker)?);
    Ok(truth)
}

fn with_cpu(stage: &mut Stage) -> Result<Company> {
    let play = stage.python("processes.py")?.args(["manager", "burns-cpu"]);
    let manager = stage.start(play)?;
    let worker = manager.get("worker")?;
    stage.own(worker);
    Ok(Company {
        manager,
        worker,
        reader: 0,
    })
}

fn burning(worker: i32) -> Result<std::time::Instant> {
    let ticks = || proc::stat(worker).map_or(0, |stat| stat.cpu_ticks);
    let before = ticks();
    bite::until("the worker burns CPU", || ticks() > before + 10)
}

fn burns_cpu(stage: &mut Stage) -> Result<Truth> {
    let company = with_cpu(stage)?;
    stage.kill(&company.manager)?;
    let since = bite::reparented(company.worker, company.manager.pid)?;
    burning(company.worker)?;
    Ok(Truth::fault(Orphan, company.worker, since)
        .age_unknown()
        .case("it burns a CPU")
        .tolerate(CpuSpin)
        .threshold_seconds(5))
}

fn burns_cpu_late(stage: &mut Stage) -> Result<Truth> {
    let company = with_cpu(stage)?;
    let since = burning(company.worker)?;
    let mut truth = Truth::fault(Orphan, company.worker, since)
        .case("it burns a CPU")
        .tolerate(CpuSpin)
        .threshold_seconds(5);
    truth.trigger = Some(trigger(company.manager.pid, company.worker)?);
    Ok(truth)
}

fn double_fork(stage: &mut Stage, kind: &str) -> Result<i32> {
    let play = stage.python("processes.py")?.args(["double-fork", kind]);
    let caller = stage.start(play)?;
    stage.reap(&caller)?;
    let orphan = caller.get("orphan")?;
    stage.own(orphan);
    bite::reparented(orphan, caller.pid)?;
    let port = caller.get("port")?;
    let listens = format!("0100007F:{port:04X} 00000000:0000 0A");
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    anyhow::ensure!(tcp.contains(&listens), "nobody listens on port {port}");
    Ok(orphan)
}

fn holds_port(stage: &mut Stage) -> Result<Truth> {
    let orphan = double_fork(stage, "careless")?;
    let stat = proc::stat(orphan).context("the orphan is gone")?;
    anyhow::ensure!(
        stat.pgrp != orphan && stat.session != orphan,
        "it has a session of its own after all"
    );
    anyhow::ensure!(!proc::alive(stat.pgrp), "the leader of its group lives");
    let truth = Truth::fault(Orphan, orphan, std::time::Instant::now());
    Ok(truth
        .age_unknown()
        .threshold_seconds(5)
        .case("it holds a listening port"))
}

/// Starts what adopts orphans in its own session, as a container's init does, and with it a server that it starts
/// itself or by a manager.
fn init(stage: &mut Stage, kind: &str) -> Result<(Actor, i32)> {
    let play = stage.python("processes.py")?.args(["init", kind]);
    let init = stage.start(play)?;
    let server = init.get("worker")?;
    stage.own(server);
    Ok((init, server))
}

fn adopted_in_session(stage: &mut Stage) -> Result<Truth> {
    let (init, worker) = init(stage, "manager")?;
    let manager = init.get("manager")?;
    stage.own(manager);
    stage.signal(manager, Signal::KILL)?;
    let since = bite::until("init adopts the worker", || {
        proc::stat(worker).is_some_and(|stat| stat.ppid == init.pid)
    })?;
    let session = |pid: i32| proc::stat(pid).map(|stat| stat.session);
    anyhow::ensure!(
        session(worker) == session(init.pid),
        "the worker is of another session"
    );
    Ok(Truth::fault(Orphan, worker, since)
        .party(Role::Parent, init.pid)
        .age_unknown()
        .threshold_seconds(5)
        .case("it holds a listening port"))
}

fn own_child(stage: &mut Stage) -> Result<Truth> {
    let (init, server) = init(stage, "server")?;
    Ok(Truth::twin(Orphan, [init.pid, server]))
}

fn daemon(stage: &mut Stage) -> Result<Truth> {
    let daemon = double_fork(stage, "daemon")?;
    bite::until("the daemon has a session of its own", || {
        proc::stat(daemon).is_some_and(|stat| stat.session != stat.ppid && stat.session == stat.pgrp)
    })?;
    Ok(Truth::twin(Orphan, [daemon]))
}

/// Runs a script that leaves a `sleep` behind and reports its pid as `left`.
fn leaves_behind(stage: &mut Stage, script: &str) -> Result<Truth> {
    let play = stage.sh(&format!(
        "{script} >/dev/null 2>&1 </dev/null &\necho left $! >>\"$RUNG_LAB_REPORT\""
    ))?;
    let shell = stage.start(play)?;
    stage.reap(&shell)?;
    let left = shell.get("left")?;
    stage.own(left);
    bite::reparented(left, shell.pid)?;
    Ok(Truth::twin(Orphan, [left]))
}

fn nohup(stage: &mut Stage) -> Result<Truth> {
    leaves_behind(stage, "nohup sleep $RUNG_LAB_SECONDS")
}

fn setsid(stage: &mut Stage) -> Result<Truth> {
    let truth = leaves_behind(stage, "setsid sleep $RUNG_LAB_SECONDS")?;
    for &pid in &truth.innocent {
        bite::until("it has a session of its own", || {
            proc::stat(pid).is_some_and(|stat| stat.session == pid)
        })?;
    }
    Ok(truth)
}

fn tmux(stage: &mut Stage) -> Result<Truth> {
    let play = stage.program("tmux")?.args([
        "-S",
        "tmux.socket",
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "exec sleep $RUNG_LAB_SECONDS",
    ]);
    let client = stage.start(play)?;
    stage.reap(&client)?;
    let mut cast = Vec::new();
    bite::until("a tmux server and its job run", || {
        cast = stage
            .cast()
            .into_iter()
            .filter(|identity| identity.runs())
            .collect();
        cast.len() == 2
    })?;
    for identity in &cast {
        stage.own(identity.pid);
    }
    Ok(Truth::twin(Orphan, cast.iter().map(|identity| identity.pid)))
}

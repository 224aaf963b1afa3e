//! `unix-socket-stall`: servers and peers that do not accept or read, and slow or idle ones.

use anyhow::{Context, Result};
use libc::{SYS_connect, SYS_recvfrom, SYS_sendto};
use rung_diagnosis::mode::Mode::UnixSocketStall;

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::proc;
use super::stage::{Actor, Stage};
use super::truth::{Role, Truth};

const PYTHON: &[Need] = &[Need::Program("python3")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "unix-never-accepts",
        UnixSocketStall,
        "a listener with backlog 1 never accepts",
        never_accepts,
    )
    .needs(PYTHON)
    .beyond_procfs(),
    Case::fault(
        "unix-never-reads",
        UnixSocketStall,
        "the peer of a stream never reads",
        never_reads,
    )
    .needs(PYTHON)
    .beyond_procfs(),
    Case::fault(
        "unix-dgram-never-reads",
        UnixSocketStall,
        "a datagram receiver never reads",
        dgram,
    )
    .needs(PYTHON)
    .beyond_procfs(),
    Case::twin(
        "unix-twin-slow-accept",
        UnixSocketStall,
        "a full backlog that is accepted from steadily",
        slow_accept,
    )
    .needs(PYTHON),
    Case::twin(
        "unix-twin-idle-pair",
        UnixSocketStall,
        "a server waits for a request that its client has no reason to send yet",
        idle_pair,
    )
    .needs(PYTHON),
];

pub(super) fn socket(stage: &mut Stage, args: &[&str]) -> Result<Actor> {
    let play = stage.python("sockets.py")?.args(args);
    stage.start(play)
}

fn server(stage: &mut Stage, args: &[&str]) -> Result<Actor> {
    let server = socket(stage, args)?;
    server.get("ready")?;
    Ok(server)
}

fn never_accepts(stage: &mut Stage) -> Result<Truth> {
    let listener = server(stage, &["listen", "1", "0"])?.pid;
    // A backlog of 1 takes two: unix_recvq_full() asks for more than the backlog.
    for _ in 0..2 {
        socket(stage, &["connect"])?.get("connected")?;
    }
    let waiters = [socket(stage, &["connect"])?.pid, socket(stage, &["connect"])?.pid];
    let since = bite::hang(&waiters.map(|pid| Hang::main(pid, &[SYS_connect])))?;
    let truth = Truth::fault(UnixSocketStall, listener, since);
    let truth = truth
        .party(Role::Waiter, waiters[0])
        .party(Role::Waiter, waiters[1]);
    Ok(truth.threshold_seconds(3).case("the backlog is full"))
}

fn blocked_sender(stage: &mut Stage, server_kind: &str, client_kind: &str) -> Result<Truth> {
    let deaf = server(stage, &[server_kind])?.pid;
    let sender = socket(stage, &[client_kind])?.pid;
    let since = bite::hang(&[Hang::main(sender, &[SYS_sendto])])?;
    let truth = Truth::fault(UnixSocketStall, deaf, since).party(Role::Waiter, sender);
    Ok(truth.threshold_seconds(3).case("the receive queue is full"))
}

fn never_reads(stage: &mut Stage) -> Result<Truth> {
    blocked_sender(stage, "deaf", "send")
}

fn dgram(stage: &mut Stage) -> Result<Truth> {
    blocked_sender(stage, "deaf-dgram", "send-dgram")
}

fn slow_accept(stage: &mut Stage) -> Result<Truth> {
    let listener = server(stage, &["listen", "1", "0.2"])?.pid;
    let mut cast = vec![listener];
    for _ in 0..5 {
        let client = socket(stage, &["connect-often"])?;
        client.get("ready")?;
        cast.push(client.pid);
    }
    let clients = cast.get(1..).context("five clients")?.to_vec();
    bite::until("some client is blocked in connect", || {
        clients
            .iter()
            .any(|&pid| proc::syscall(pid, pid).is_some_and(|call| call.number == SYS_connect))
    })?;
    let switches = || {
        clients
            .iter()
            .filter_map(|&pid| proc::switches(pid, pid))
            .sum::<u64>()
    };
    let before = switches();
    bite::until("the clients get on", || switches() > before + 10)?;
    Ok(Truth::twin(UnixSocketStall, cast))
}

fn idle_pair(stage: &mut Stage) -> Result<Truth> {
    let here = server(stage, &["request-server"])?.pid;
    let client = socket(stage, &["idle-client"])?;
    client.get("connected")?;
    bite::hang(&[Hang::main(here, &[SYS_recvfrom])])?;
    Ok(Truth::twin(UnixSocketStall, [here, client.pid]))
}

//! `backpressure`: servers that do not accept or read, and slow ones that do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libc::{SYS_connect, SYS_poll, SYS_sendto};
use rung_diagnosis::mode::Mode::{Backpressure, ConnectTimeout};

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::sockets::{self, Queue};
use super::stage::{Actor, Stage};
use super::truth::Truth;

const NEEDS: &[Need] = &[Need::Program("python3"), Need::Program("ss")];
/// What the listener of [`never_accepts`] lets wait; the kernel takes one more.
const BACKLOG: usize = 4;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "backpressure-never-accepts",
        Backpressure,
        "a listener with a backlog of 4 never accepts, and clients hang in connect",
        |stage| never_accepts(stage, "127.0.0.1"),
    )
    .needs(NEEDS),
    Case::fault(
        "backpressure-never-accepts-v6",
        Backpressure,
        "a listener with a backlog of 4 never accepts, by IPv6",
        |stage| never_accepts(stage, "::1"),
    )
    .needs(NEEDS)
    .look_seconds(5),
    Case::fault(
        "backpressure-never-reads",
        Backpressure,
        "a sink never reads, and its sender stands before a window of zero",
        |stage| never_reads(stage, "127.0.0.1", "0"),
    )
    .needs(NEEDS),
    Case::fault(
        "backpressure-never-reads-v6",
        Backpressure,
        "a sink never reads what comes from a small send buffer, by IPv6",
        |stage| never_reads(stage, "::1", "16384"),
    )
    .needs(NEEDS)
    .look_seconds(5),
    Case::twin(
        "backpressure-twin-slow-reader",
        Backpressure,
        "a sink that reads 64 KiB every half second, and never keeps up",
        |stage| reads(stage, "127.0.0.1", ["65536", "0.5"]),
    )
    .needs(NEEDS)
    .look_seconds(5),
    Case::twin(
        "backpressure-twin-brief-zero-window",
        Backpressure,
        "a sink that reads 8 MiB at once and then rests for a second",
        |stage| reads(stage, "::1", ["8388608", "1"]),
    )
    .needs(NEEDS)
    .look_seconds(5),
];

fn stream(stage: &mut Stage, args: &[&str]) -> Result<Actor> {
    let play = stage.python("streams.py")?.args(args);
    stage.start(play)
}

fn server(stage: &mut Stage, host: &str, args: &[&str]) -> Result<(Actor, SocketAddr)> {
    let server = stream(stage, args)?;
    server.get("ready")?;
    let port = server.get("port")?.try_into()?;
    Ok((server, SocketAddr::new(host.parse()?, port)))
}

fn never_accepts(stage: &mut Stage, host: &str) -> Result<Truth> {
    let (listener, address) = server(stage, host, &["listen", host, &BACKLOG.to_string()])?;
    let port = address.port().to_string();
    for _ in 0..=BACKLOG {
        stream(stage, &["connect", host, &port])?.get("connected")?;
    }
    let before = sockets::host_counter("ListenOverflows")?;
    let mut waiters = Vec::new();
    for _ in 0..2 {
        waiters.push(stream(stage, &["connect", host, &port])?.pid);
    }
    let hangs: Vec<_> = waiters
        .iter()
        .map(|&pid| Hang::main(pid, &[SYS_connect]))
        .collect();
    let since = bite::hang(&hangs)?;
    let Queue { receive, send } = sockets::listener(address)?.context("nobody listens")?;
    ensure!(receive > send, "{receive} wait, of {send}");
    let overflows = sockets::host_counter("ListenOverflows")? - before;
    ensure!(overflows >= 2, "only {overflows} overflows");
    let mut truth = Truth::fault(Backpressure, listener.pid, since).age_unknown();
    for waiter in waiters {
        truth = truth.symptom(ConnectTimeout, waiter);
    }
    Ok(truth.threshold_seconds(4).case("the accept queue is full"))
}

fn never_reads(stage: &mut Stage, host: &str, send_buffer: &str) -> Result<Truth> {
    let (sink, address) = server(stage, host, &["sink", host, "0", "0"])?;
    let source = stream(stage, &["source", host, &address.port().to_string(), send_buffer])?;
    source.get("connected")?;
    let since = bite::hang(&[Hang::main(source.pid, &[SYS_sendto, SYS_poll])])?;
    let from = sockets::towards(address)?.context("no connection to the sink")?;
    let to = sockets::from(address)?.context("no connection of the sink")?;
    ensure!(from.send > 0 && to.receive > 0, "nothing waits: {from:?}, {to:?}");
    Ok(Truth::fault(Backpressure, sink.pid, since)
        .age_unknown()
        .threshold_seconds(4)
        .case("the receive queue is full"))
}

fn reads(stage: &mut Stage, host: &str, [count, seconds]: [&str; 2]) -> Result<Truth> {
    let (sink, address) = server(stage, host, &["sink", host, count, seconds])?;
    let source = stream(stage, &["source", host, &address.port().to_string(), "0"])?;
    source.get("connected")?;
    bite::until("the sender stands", || {
        super::proc::syscall(source.pid, source.pid).is_some_and(|call| call.number == SYS_sendto)
    })?;
    let received = || sockets::bytes_received(address);
    let (before, start) = (received()?, Instant::now());
    std::thread::sleep(Duration::from_millis(2500));
    let rate = (received()? - before) as f64 / start.elapsed().as_secs_f64();
    ensure!(rate > 50e3, "the sink took {rate:.0} bytes a second");
    Ok(Truth::twin(Backpressure, [sink.pid, source.pid]))
}

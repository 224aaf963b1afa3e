//! The chain of five links: the symptom shows in retries, the cause is a pipe that nobody reads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libc::SYS_write;
use rung_diagnosis::mode::Mode::{Backpressure, CascadingWait, ConnectTimeout, PipeStall, RetryStorm};

use super::bite::{self, Hang};
use super::case::{Case, Need};
use super::services::{self, Count, HERE, HERE_V6, Place, load};
use super::sockets;
use super::stage::Stage;
use super::truth::{Role, Truth};

const NEEDS: &[Need] = &[Need::Program("python3"), Need::Program("ss")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "chain-pipe-to-retries",
        PipeStall,
        "nobody reads a worker's log, so it does not accept, its queue overflows, connects time out and are retried",
        |stage| five_links(stage, HERE),
    )
    .needs(NEEDS)
    .look_seconds(12)
    .beyond_procfs(),
    Case::fault(
        "chain-pipe-to-retries-v6",
        PipeStall,
        "the same chain, by IPv6",
        |stage| five_links(stage, HERE_V6),
    )
    .needs(NEEDS)
    .look_seconds(12)
    .beyond_procfs(),
];

fn five_links(stage: &mut Stage, place: Place<'_>) -> Result<Truth> {
    // 1: who holds the pipe's read end and does not read.
    let (read, write) = stage.pipe()?;
    let play = stage.sleeper()?.stdin(read);
    let holder = stage.start(play)?.pid;
    // 2: a worker that logs 4 KiB for each request; 16 of them fill the pipe.
    let worker = services::leaf_into(stage, place, &["threads=1", "backlog=2", "log=4096"], write)?;
    // 4 and 5: clients that give up after a second and try again at once.
    let options = ["clients=10", "timeout=1", "tries=1000000000"];
    let before = sockets::host_counter("ListenOverflows")?;
    let client = load(stage, place, worker.address, &options)?;
    let tid = *worker.workers().first().context("the worker has a thread")?;
    let since = bite::hang(&[Hang {
        pid: worker.pid(),
        tid,
        calls: &[SYS_write],
    }])?;
    // 3: the queue.
    bite::until("the listener's queue is full", || {
        sockets::listener(worker.address)
            .is_ok_and(|queue| queue.is_some_and(|queue| queue.receive > queue.send))
    })?;
    bite::until("SYNs are dropped", || {
        sockets::host_counter("ListenOverflows").is_ok_and(|now| now > before + 5)
    })?;
    let answered = client.count(Count::Answered)?;
    let rate = client.rate(Count::Failed, Duration::from_secs(2))?;
    ensure!(
        rate > 6.0 && client.count(Count::Answered)? == answered,
        "no storm: {rate:.1} failures a second"
    );
    bite::until("a client waits in SYN-SENT", || {
        sockets::count("syn-sent", worker.address).is_ok_and(|count| count > 0)
    })?;
    Ok(Truth::fault(PipeStall, holder, since)
        .party(Role::Waiter, worker.pid())
        .expect_symptom(Backpressure, worker.pid())
        .expect_symptom(ConnectTimeout, client.pid())
        .expect_symptom(RetryStorm, client.pid())
        .symptom(CascadingWait, worker.pid())
        .threshold_seconds(5)
        .case("five links"))
}

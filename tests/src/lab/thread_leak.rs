//! `thread-leak`: threads that are made and never end, and pools that only warm up.

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::ThreadLeak;

use super::bite;
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::Truth;

const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "thread-leak",
        ThreadLeak,
        "a process makes 20 threads a second that sleep for ever, at most 1200",
        |stage| leak(stage, 20, 6),
    )
    .needs(C)
    .look_seconds(6),
    Case::fault(
        "thread-leak-slow",
        ThreadLeak,
        "a process makes 3 threads a second that sleep for ever",
        |stage| leak(stage, 3, 6),
    )
    .needs(C)
    .look_seconds(7),
    Case::twin(
        "thread-leak-twin-one-a-second",
        ThreadLeak,
        "one thread more a second: too few to be told in a short look",
        slow,
    )
    .needs(C)
    .look_seconds(6),
    Case::twin(
        "thread-leak-twin-pool",
        ThreadLeak,
        "a pool that starts 40 threads within two seconds and is then complete",
        pool,
    )
    .needs(C)
    .look_seconds(6),
    Case::twin(
        "thread-leak-twin-complete-pool",
        ThreadLeak,
        "a pool of 100 threads that wait for work",
        complete,
    )
    .needs(C)
    .look_seconds(5),
];

fn start(stage: &mut Stage, arguments: &[&str]) -> Result<i32> {
    let play = stage.c("grow.c")?.args(arguments);
    let actor = stage.start(play)?;
    actor.get("ready")?;
    Ok(actor.pid)
}

fn leak(stage: &mut Stage, a_second: usize, least: usize) -> Result<Truth> {
    let pid = start(stage, &["threads", &a_second.to_string(), "1200"])?;
    let since = bite::until("its threads become more", || proc::tids(pid).len() >= least)?;
    let before = proc::tids(pid).len();
    bite::until("none of them ends", || proc::tids(pid).len() >= before + 3)?;
    Ok(Truth::fault(ThreadLeak, pid, since)
        .age_unknown()
        .figure("growth_rate", a_second as f64, 0.25))
}

fn slow(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, &["threads", "1", "300"])?;
    bite::until("it makes threads", || proc::tids(pid).len() >= 3)?;
    Ok(Truth::twin(ThreadLeak, [pid]))
}

fn pool(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, &["pool", "40", "20"])?;
    bite::until("it makes threads", || proc::tids(pid).len() >= 3)?;
    ensure!(proc::tids(pid).len() < 40, "the pool is complete already");
    Ok(Truth::twin(ThreadLeak, [pid]))
}

fn complete(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, &["pool", "100", "1000"])?;
    bite::until("the pool is complete", || proc::tids(pid).len() == 101)?;
    Ok(Truth::twin(ThreadLeak, [pid]))
}

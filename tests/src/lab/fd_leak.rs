//! `fd-leak`: descriptors that are opened and never closed, nearly all of them in use, and what only looks alike.

use std::fs;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::FdLeak;

use super::bite;
use super::case::{Case, Need};
use super::stage::Stage;
use super::truth::Truth;

/// Before Linux 6.2 the number of descriptors is declared unseen.
const UNSEEN: &str = "does not tell how many descriptors";
const C: &[Need] = &[Need::Program("cc")];

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "fd-leak-files",
        FdLeak,
        "a process opens 20 files a second of the 1024 that it may have open, and closes none",
        |stage| leak(stage, "file", 20, "files and others"),
    )
    .needs(C)
    .look_seconds(6),
    Case::fault(
        "fd-leak-sockets",
        FdLeak,
        "a process makes 4 sockets a second and closes none",
        |stage| leak(stage, "socket", 4, "sockets"),
    )
    .needs(C)
    .look_seconds(6),
    Case::fault(
        "fd-leak-pipes",
        FdLeak,
        "a process keeps one end of each of 50 pipes a second",
        |stage| leak(stage, "pipe", 50, "pipes"),
    )
    .needs(C)
    .look_seconds(6),
    Case::fault(
        "fd-leak-at-limit",
        FdLeak,
        "a process that has 250 of 256 descriptors open, and opens no more",
        |stage| stands(stage, 250),
    )
    .needs(C),
    Case::fault(
        "fd-leak-exhausted",
        FdLeak,
        "a process that has every descriptor open that it may have",
        |stage| stands(stage, 256),
    )
    .needs(C),
    Case::twin(
        "fd-leak-twin-below-limit",
        FdLeak,
        "a process that has 230 of 256 descriptors open",
        below,
    )
    .needs(C),
    Case::twin(
        "fd-leak-twin-pool",
        FdLeak,
        "a pool of 40 sockets that is complete after two seconds",
        pool,
    )
    .needs(C)
    .look_seconds(6),
    Case::twin(
        "fd-leak-twin-churn",
        FdLeak,
        "200 files a second are opened, and each is closed again",
        churn,
    )
    .needs(C)
    .look_seconds(6),
];

fn count(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn start(stage: &mut Stage, arguments: &[&str]) -> Result<i32> {
    let play = stage.c("grow.c")?.args(arguments);
    let actor = stage.start(play)?;
    actor.get("ready")?;
    Ok(actor.pid)
}

fn leak(stage: &mut Stage, kind: &str, a_second: usize, says: &str) -> Result<Truth> {
    let pid = start(stage, &["fds", kind, &a_second.to_string(), "1000", "1024"])?;
    let since = bite::until("its descriptors become more", || count(pid) >= 8)?;
    let before = count(pid);
    bite::until("none of them is closed", || count(pid) >= before + 3)?;
    Ok(Truth::fault(FdLeak, pid, since)
        .age_unknown()
        .figure("growth_rate", a_second as f64, 0.25)
        .says(says)
        .or_declared_as(UNSEEN))
}

fn fill(stage: &mut Stage, most: usize) -> Result<i32> {
    let opened = (most - 3).to_string();
    let pid = start(stage, &["fds", "file", "100000", &opened, "256"])?;
    bite::until("they are open", || count(pid) == most)?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let row = limits.lines().find(|row| row.starts_with("Max open files"));
    ensure!(
        row.is_some_and(|row| row.contains(" 256 ")),
        "the limit is {row:?}"
    );
    Ok(pid)
}

fn stands(stage: &mut Stage, most: usize) -> Result<Truth> {
    let pid = fill(stage, most)?;
    let since = std::time::Instant::now();
    Ok(Truth::fault(FdLeak, pid, since)
        .age_unknown()
        .figure("descriptors", most as f64, 0.0)
        .figure("limit", 256.0, 0.0)
        .or_declared_as(UNSEEN))
}

fn below(stage: &mut Stage) -> Result<Truth> {
    let pid = fill(stage, 230)?;
    Ok(Truth::twin(FdLeak, [pid]))
}

fn pool(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, &["pool-fds", "40", "20"])?;
    bite::until("it makes sockets", || count(pid) >= 6)?;
    ensure!(count(pid) < 40, "the pool is complete already");
    Ok(Truth::twin(FdLeak, [pid]))
}

fn churn(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, &["churn-fds", "200"])?;
    bite::until("it opens files", || count(pid) >= 60)?;
    Ok(Truth::twin(FdLeak, [pid]))
}

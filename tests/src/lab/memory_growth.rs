//! `memory-growth`: leaks towards the limit of a control group or of a process, and memory that only looks alike. Every
//! program that takes memory is in a control group whose limit was checked, and has a cap of its own.

use std::time::Instant;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::MemoryGrowth;

use super::bite;
use super::case::{Case, Need};
use super::stage::Stage;
use super::truth::Truth;

pub(super) const NEEDS: &[Need] = &[Need::Program("cc"), Need::Root, Need::MemoryCgroup];
pub(super) const MB: u64 = 1 << 20;
const WINDOW_SECONDS: u64 = 5;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "memory-growth-cgroup",
        MemoryGrowth,
        "a leak of 20 MB/s in a control group of 500 MB, watched until it is half full",
        |stage| leak(stage, 20, 130),
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
    Case::fault(
        "memory-growth-slow",
        MemoryGrowth,
        "a leak of 8 MB/s in a control group of 500 MB: 8% of the limit while it is watched",
        |stage| leak(stage, 8, 30),
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
    Case::fault(
        "memory-growth-rlimit",
        MemoryGrowth,
        "a leak of 20 MB/s that will fail at RLIMIT_DATA, 300 MB",
        rlimit,
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
    Case::twin(
        "memory-growth-twin-cap",
        MemoryGrowth,
        "a heap that grows by 60 MB/s to its cap of 200 MB, and stays there",
        cap,
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
    Case::twin(
        "memory-growth-twin-page-cache",
        MemoryGrowth,
        "a file is written and mapped at 20 MB/s in a control group of 100 MB: page cache",
        cache,
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
    Case::twin(
        "memory-growth-twin-little",
        MemoryGrowth,
        "2 MB/s more in a control group of 500 MB: 2% of the limit while it is watched",
        little,
    )
    .needs(NEEDS)
    .look_seconds(WINDOW_SECONDS),
];

/// Anonymous resident memory of a process, bytes.
pub(super) fn anonymous_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Starts the program inside a control group of that size, and lets it go on.
pub(super) fn start(stage: &mut Stage, limit_mb: u64, arguments: &[&str]) -> Result<i32> {
    let play = stage.c("grow.c")?.args(arguments);
    let pid = stage.start(play)?.pid;
    stage.memory_group(limit_mb * MB)?.admit(pid)?;
    stage.cue("go")?;
    Ok(pid)
}

/// When the limit will be reached, seconds from the end of the window: the pace is the program's own, by the clock.
fn left_seconds(limit_mb: u64, used_bytes: u64, pace_mb: u64) -> f64 {
    let room_mb = limit_mb as f64 - used_bytes as f64 / MB as f64;
    // A tenth of a second before it is looked for, and as much until the source is open.
    room_mb / pace_mb as f64 - WINDOW_SECONDS as f64 - 0.2
}

fn leak(stage: &mut Stage, pace_mb: u64, from_mb: u64) -> Result<Truth> {
    let pid = start(stage, 500, &["heap", &pace_mb.to_string(), "480"])?;
    let since = Instant::now();
    bite::until("it grows", || anonymous_bytes(pid) >= from_mb * MB)?;
    let group = stage.memory()?;
    let used = group.figures().used_bytes()?;
    ensure!(
        group.limit_bytes() == 500 * MB && used < 250 * MB,
        "{used} bytes are used"
    );
    Ok(Truth::fault(MemoryGrowth, pid, since)
        .age_unknown()
        .figure("time_to_exhaustion", left_seconds(500, used, pace_mb), 0.25)
        .figure("growth_rate", (pace_mb * MB) as f64, 0.1)
        .says(format!("control group {}", group.path())))
}

fn rlimit(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 500, &["heap", "20", "480", "300"])?;
    let since = Instant::now();
    bite::until("it grows", || anonymous_bytes(pid) >= 80 * MB)?;
    let left = left_seconds(300, anonymous_bytes(pid), 20);
    Ok(Truth::fault(MemoryGrowth, pid, since)
        .age_unknown()
        .figure("time_to_exhaustion", left, 0.25)
        .says("RLIMIT_DATA"))
}

fn cap(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 500, &["heap", "60", "200"])?;
    bite::until("it grows", || anonymous_bytes(pid) >= 60 * MB)?;
    Ok(Truth::twin(MemoryGrowth, [pid]))
}

fn cache(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 100, &["file", "20", "400"])?;
    bite::until("the control group is full of page cache", || {
        stage
            .memory()
            .is_ok_and(|group| group.figures().used_bytes().is_ok_and(|used| used >= 40 * MB))
    })?;
    ensure!(anonymous_bytes(pid) < 10 * MB, "it has memory of its own");
    Ok(Truth::twin(MemoryGrowth, [pid]))
}

fn little(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 500, &["heap", "2", "100"])?;
    bite::until("it grows", || anonymous_bytes(pid) >= 3 * MB)?;
    Ok(Truth::twin(MemoryGrowth, [pid]))
}

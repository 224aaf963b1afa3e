//! `oom-kill`: control groups that run out of memory while somebody watches, and deaths that only look alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rung_diagnosis::mode::Mode::{MemoryGrowth, OomKill};

use super::bite;
use super::case::Case;
use super::memory_growth::{MB, NEEDS, anonymous_bytes, start};
use super::proc;
use super::stage::Stage;
use super::sweep::Identity;
use super::truth::{Role, Truth};

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "oom-kill-hog",
        OomKill,
        "a process that takes 30 MB/s is killed at the limit of its control group, 60 MB",
        hog,
    )
    .needs(NEEDS)
    .look_seconds(7),
    Case::fault(
        "oom-kill-leak",
        OomKill,
        "a leak of 20 MB/s that is seen to its end at the limit of its control group, 500 MB",
        leak,
    )
    .needs(NEEDS)
    .look_seconds(8)
    .bound_seconds(40),
    Case::fault(
        "oom-kill-other-victim",
        OomKill,
        "a process grows until another one, which the kernel prefers to kill, is killed in its place",
        other_victim,
    )
    .needs(NEEDS)
    .look_seconds(7),
    Case::twin(
        "oom-kill-twin-kill-9",
        OomKill,
        "a process that has grown in a control group is killed by somebody, not by the kernel",
        kill_9,
    )
    .needs(NEEDS)
    .look_seconds(6),
    Case::twin(
        "oom-kill-twin-page-cache",
        OomKill,
        "a control group at its limit of 60 MB, in which the kernel drops page cache",
        reclaim,
    )
    .needs(NEEDS)
    .look_seconds(5),
];

/// Waits until the group's kernel counter and the process itself say that it was killed.
fn killed(kills: impl Fn() -> Result<u64>, victim: Identity) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(bite::BITE_SECONDS);
    while Instant::now() < end {
        if kills()? > 0 && !victim.runs() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("it did not bite: nobody was killed")
}

/// The control group's own counter of kills, for a trigger that outlives the stage's borrow.
fn counter(stage: &Stage) -> Result<impl Fn() -> Result<u64> + Send + 'static> {
    let group = stage.memory()?.figures().clone();
    Ok(move || group.kills())
}

fn hog(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("grow.c")?.args(["heap", "30", "400"]);
    let pid = stage.start(play)?.pid;
    let group = stage.memory_group(60 * MB)?;
    group.admit(pid)?;
    let path = group.path();
    let kills = counter(stage)?;
    ensure!(kills()? == 0, "the group is not as new");
    let victim = Identity::of(pid).context("it is gone")?;
    let cue = stage.dir().join("go");
    let mut truth = Truth::fault(OomKill, pid, Instant::now())
        .party(Role::Victim, pid)
        .says(path)
        .figure("kills", 1.0, 0.0);
    truth.trigger = Some(Box::new(move || {
        std::fs::write(cue, "")?;
        killed(kills, victim)
    }));
    Ok(truth)
}

fn leak(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 500, &["heap", "20", "600"])?;
    for mb in [180, 360] {
        bite::until("it grows", || anonymous_bytes(pid) >= mb * MB)?;
    }
    let victim = Identity::of(pid).context("it is gone")?;
    let kills = counter(stage)?;
    ensure!(kills()? == 0, "somebody was killed already");
    let mut truth = Truth::fault(OomKill, pid, Instant::now())
        .party(Role::Victim, pid)
        .says(stage.memory()?.path())
        .figure("kills", 1.0, 0.0)
        .figure("limit", (500 * MB) as f64, 0.0);
    truth.trigger = Some(Box::new(move || killed(kills, victim)));
    Ok(truth)
}

fn other_victim(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("grow.c")?.args(["hold", "30", "300"]);
    let fat = stage.start(play)?;
    let play = stage.c("grow.c")?.args(["heap", "15", "45"]);
    let grower = stage.start(play)?.pid;
    let group = stage.memory_group(60 * MB)?;
    group.admit(fat.pid)?;
    group.admit(grower)?;
    let path = group.path();
    std::fs::write(format!("/proc/{}/oom_score_adj", fat.pid), "900")?;
    stage.cue("hold")?;
    fat.get("capped")?;
    ensure!(anonymous_bytes(fat.pid) >= 30 * MB, "it does not hold 30 MB");
    let kills = counter(stage)?;
    let victim = Identity::of(fat.pid).context("it is gone")?;
    let cue = stage.dir().join("go");
    let mut truth = Truth::fault(OomKill, grower, Instant::now())
        .party(Role::Victim, fat.pid)
        .says(path)
        .because_of(MemoryGrowth)
        .figure("kills", 1.0, 0.0);
    truth.trigger = Some(Box::new(move || {
        std::fs::write(cue, "")?;
        killed(kills, victim)?;
        ensure!(proc::alive(grower), "the grower died as well");
        Ok(())
    }));
    Ok(truth)
}

fn kill_9(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 200, &["heap", "20", "150"])?;
    bite::until("it grows", || anonymous_bytes(pid) >= 20 * MB)?;
    let victim = Identity::of(pid).context("it is gone")?;
    let kills = counter(stage)?;
    let mut truth = Truth::twin(OomKill, [pid]);
    truth.trigger = Some(Box::new(move || {
        victim.signal(rustix::process::Signal::KILL)?;
        bite::dead(pid)?;
        ensure!(kills()? == 0, "the kernel killed it");
        Ok(())
    }));
    Ok(truth)
}

fn reclaim(stage: &mut Stage) -> Result<Truth> {
    let pid = start(stage, 60, &["file", "40", "600"])?;
    bite::until("more was cached than fits, and the group is full", || {
        let used = stage.memory().and_then(|group| group.figures().used_bytes());
        written_bytes(pid) >= 80 * MB && used.is_ok_and(|used| used >= 55 * MB)
    })?;
    ensure!(
        stage.memory()?.figures().kills()? == 0 && proc::alive(pid),
        "somebody was killed"
    );
    Ok(Truth::twin(OomKill, [pid]))
}

/// What a process has written so far, bytes (proc_pid_io(5)).
fn written_bytes(pid: i32) -> u64 {
    let counts = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

//! What is measured, on which host full of idle processes, and against which targets.

pub mod load;
pub mod network;
mod page;
mod rivals;

use std::fmt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rung_agent::bpf::BpfSource;
use wait4::Wait4;

use crate::lab::{Stage, Truth, Workshop, find};
use crate::rung::{Finding, Rung};

pub use page::page;

/// Pictures and loops of which the fastest counts: what else runs on a machine only adds to them.
const PICTURES: usize = 61;
const LOOPS: usize = 15;
/// Starts of which the median counts.
const STARTS: usize = 11;

/// A host full of idle processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// What runs here anyway and 300 processes with ten pipe ends each.
    Processes300,
    /// The same with 5,000.
    Processes5000,
    /// 5,000 processes with their standard streams: what more descriptors cost is the difference.
    Processes5000Bare,
    /// One process of 5,000 threads.
    Threads5000,
}

impl Scene {
    /// All of them, in the order they are measured.
    pub const ALL: &'static [Scene] = &[
        Scene::Processes300,
        Scene::Processes5000,
        Scene::Processes5000Bare,
        Scene::Threads5000,
    ];

    fn arguments(self) -> [&'static str; 3] {
        match self {
            Scene::Processes300 => ["processes", "300", "5"],
            Scene::Processes5000 => ["processes", "5000", "5"],
            Scene::Processes5000Bare => ["processes", "5000", "0"],
            Scene::Threads5000 => ["threads", "5000", "0"],
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scene::Processes300 => "300 processes, 10 pipe ends more",
            Scene::Processes5000 => "5,000 processes, 10 pipe ends more",
            Scene::Processes5000Bare => "5,000 processes, standard streams only",
            Scene::Threads5000 => "one process of 5,000 threads",
        })
    }
}

/// What was measured in one scene.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Where.
    pub scene: Scene,
    /// Threads and descriptors in the picture.
    pub threads: usize,
    /// Descriptors in the picture: ends of pipes, sockets, event polls, terminals.
    pub descriptors: usize,
    /// One picture, threads and descriptors, decoded.
    pub picture: Duration,
    /// Opening, reading and closing /proc/PID/stat of every process.
    pub stat_of_processes: Duration,
    /// The same of /proc/PID/task/TID/stat of every thread.
    pub stat_of_threads: Duration,
    /// `ps -eLf`, its output thrown away.
    pub ps: Duration,
    /// `rung --for 0s --format json` from its start to its end: median, and the slowest.
    pub start: (Duration, Duration),
    /// Its peak resident memory, bytes.
    pub memory_bytes: u64,
    /// The deadlock that stood all the while: its true age, what rung said, and how sure it was.
    pub deadlock: Verdict,
}

/// What rung said of the deadlock.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Seconds, by the lab's clock.
    pub true_age: f64,
    /// Seconds, by the report.
    pub told_age: f64,
    /// Whether it was called proven, with both threads.
    pub proven: bool,
}

/// One promise, and what was measured.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is promised.
    pub promise: String,
    /// The bound,
    pub bound: f64,
    /// what was measured,
    pub measured: f64,
    /// its unit,
    pub unit: &'static str,
    /// and whether the bound is a minimum.
    pub at_least: bool,
}

impl Target {
    /// Whether it is kept, give or take a factor.
    pub fn met(&self, slack: f64) -> bool {
        if self.at_least {
            self.measured * slack >= self.bound
        } else {
            self.measured <= self.bound * slack
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target {
            promise,
            bound,
            measured,
            unit,
            at_least,
        } = self;
        let side = if *at_least { "at least" } else { "at most" };
        write!(f, "{promise}: {measured:.2} {unit}, to be {side} {bound} {unit}")
    }
}

/// The deadlock that rung is to name, on the stage that ends it.
pub fn deadlock(workshop: &Arc<Workshop>) -> Result<(Stage, Truth)> {
    let abba = find("deadlock-abba-c").context("the lab has no deadlock")?;
    abba.play(workshop)
}

/// Sets the scene and measures.
pub fn measure(scene: Scene, workshop: &Arc<Workshop>, rung: &Rung, truth: &Truth) -> Result<Figures> {
    let mut stage = Stage::new(workshop)?;
    let crowd = stage.c("many.c")?.args(scene.arguments());
    let crowd = stage.start(crowd)?;
    let made = crowd.get("made")?;
    ensure!(made >= 300, "only {made} of {scene} are allowed here");
    let mut source = BpfSource::open().map_err(|why| anyhow::anyhow!("{}; {}", why.why, why.remedy))?;
    let first = source.picture()?;
    let picture = fastest(PICTURES, || source.picture().map(drop).map_err(Into::into))?;
    let stat_of_processes = fastest(LOOPS, rivals::stat_of_processes)?;
    let stat_of_threads = fastest(LOOPS, rivals::stat_of_threads)?;
    let ps = fastest(LOOPS, rivals::ps)?;
    let mut starts = Vec::with_capacity(STARTS);
    let mut memory_bytes = 0;
    for _ in 0..STARTS {
        let began = Instant::now();
        let child = Command::new(rung.binary())
            .args(["--for", "0s", "--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", rung.binary().display()))?
            .wait4()?;
        starts.push(began.elapsed());
        ensure!(
            child.status.code() == Some(1),
            "rung found no deadlock: {}",
            child.status
        );
        memory_bytes = memory_bytes.max(child.rusage.maxrss);
    }
    starts.sort_unstable();
    let report = rung.diagnose(crate::rung::Source::Best, Duration::ZERO, stage.dir(), || Ok(()))?;
    let findings = report.findings();
    let subject = truth.subjects.first().copied().map(i64::from);
    let found = findings
        .iter()
        .find(|finding| finding.mode() == "deadlock" && finding.subject() == subject)
        .context("rung does not report the deadlock")?;
    let names_all = |finding: &Finding<'_>| truth.knot.iter().all(|tid| finding.names(*tid));
    Ok(Figures {
        scene,
        threads: first.tasks.len(),
        descriptors: first.descriptors.len(),
        picture,
        stat_of_processes,
        stat_of_threads,
        ps,
        start: (starts[STARTS / 2], starts[STARTS - 1]),
        memory_bytes,
        deadlock: Verdict {
            true_age: truth.since.elapsed().as_secs_f64(),
            told_age: found.age_seconds().context("the deadlock has no age")?,
            proven: found.0["confidence"] == "proven" && names_all(found),
        },
    })
}

fn fastest(times: usize, mut act: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..times {
        let began = Instant::now();
        act()?;
        fastest = fastest.min(began.elapsed());
    }
    Ok(fastest)
}

/// The promises, with what was measured.
pub fn targets(all: &[Figures]) -> Result<Vec<Target>> {
    let of = |scene: Scene| {
        all.iter()
            .find(|one| one.scene == scene)
            .with_context(|| format!("no figures of {scene}"))
    };
    let (small, big) = (of(Scene::Processes300)?, of(Scene::Processes5000)?);
    let (bare, threads) = (of(Scene::Processes5000Bare)?, of(Scene::Threads5000)?);
    let most = |promise: &str, bound, measured, unit| Target {
        promise: promise.into(),
        bound,
        measured,
        unit,
        at_least: false,
    };
    let micros = |time: Duration, count: usize| time.as_secs_f64() * 1e6 / count.max(1) as f64;
    let mebibytes = |figures: &Figures| figures.memory_bytes as f64 / f64::from(1 << 20);
    let descriptors = big.descriptors.saturating_sub(bare.descriptors);
    let age_error = |figures: &Figures| {
        let Verdict {
            true_age, told_age, ..
        } = figures.deadlock;
        (told_age / true_age - 1.0).abs() * 100.0
    };
    let mut targets = vec![
        Target {
            promise: "a picture of 5,000 processes (standard streams only) is faster than reading every /proc/PID/stat by".into(),
            bound: 10.0,
            measured: bare.stat_of_processes.as_secs_f64() / bare.picture.as_secs_f64(),
            unit: "times",
            at_least: true,
        },
        most(
            "a picture costs, of a thread (5,000 bare processes)",
            1.5,
            micros(bare.picture, bare.threads),
            "us",
        ),
        most(
            "a picture costs, of a thread (5,000 threads)",
            1.5,
            micros(threads.picture, threads.threads),
            "us",
        ),
        most(
            "a picture costs, of a descriptor",
            0.5,
            micros(big.picture.saturating_sub(bare.picture), descriptors),
            "us",
        ),
        most(
            "cold start to verdict at 5,000 processes",
            250.0,
            big.start.0.as_secs_f64() * 1e3,
            "ms",
        ),
        most("peak memory at 300 processes", 48.0, mebibytes(small), "MiB"),
        most("peak memory at 5,000 processes", 80.0, mebibytes(big), "MiB"),
    ];
    for figures in all {
        targets.push(most(
            &format!("error of the deadlock's age ({})", figures.scene),
            10.0,
            age_error(figures),
            "%",
        ));
        ensure!(
            figures.deadlock.proven,
            "the deadlock is not proven with both threads: {}",
            figures.scene
        );
    }
    Ok(targets)
}

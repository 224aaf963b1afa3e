//! The benchmark: what a picture, a cold start and the memory cost, beside what everybody else does.
//!
//! Prints BENCHMARKS.md. Everything is measured in one run on one machine, so that the ratios hold though the machine
//! is shared; times are medians.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rung_tests::bench::{self, Scene, Target};
use rung_tests::lab::Workshop;
use rung_tests::rung::Rung;

/// Measures rung beside a plain loop over /proc and `ps`, and prints BENCHMARKS.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the deadlock has stood when rung is started, at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    deadlock_age: u64,
    /// Exit with status 1 if a promise is missed by more than this factor: 1 on a quiet machine, more on a shared one.
    #[arg(long, value_name = "FACTOR")]
    check: Option<f64>,
    /// The `lab` binary, if it is not beside this one.
    #[arg(long, value_name = "PATH")]
    lab: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "BPF iterators need root: run it as root"
    );
    let me = std::env::current_exe()?;
    let lab = arguments.lab.clone().unwrap_or_else(|| me.with_file_name("lab"));
    let workshop =
        Workshop::open(&lab).context("cannot open the lab; build it with `cargo build -p rung-tests`")?;
    let rung = Rung::find()?;
    let (_stage, truth) = bench::deadlock(&workshop)?;
    eprintln!("letting a deadlock stand for {} s", arguments.deadlock_age);
    std::thread::sleep(Duration::from_secs(arguments.deadlock_age));
    let mut all = Vec::new();
    for scene in Scene::ALL {
        eprintln!("measuring: {scene}");
        all.push(bench::measure(*scene, &workshop, &rung, &truth)?);
    }
    let targets = bench::targets(&all)?;
    let mut out = io::stdout().lock();
    write!(out, "{}", bench::page(&all, &targets)?)?;
    out.flush()?;
    for target in targets.iter().filter(|target| !target.met(1.0)) {
        eprintln!("missed: {target}");
    }
    let broken = |slack: f64| targets.iter().any(|target: &Target| !target.met(slack));
    Ok(!arguments.check.is_some_and(broken))
}

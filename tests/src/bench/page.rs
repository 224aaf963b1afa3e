//! BENCHMARKS.md.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use super::{Figures, Target};

/// The page with these figures.
pub fn page(all: &[Figures], targets: &[Target]) -> Result<String> {
    let mut page = String::new();
    writeln!(
        page,
        "# Benchmarks\n\n\
         What `rung` costs, beside what everybody else does, measured in one run by\n\n\
         ```sh\n\
         cargo build --release --workspace && target/release/bench > BENCHMARKS.md\n\
         ```\n\n\
         as root on {}. Of pictures and loops the fastest of many runs in one process counts, of starts the median. \
         The machine is a shared virtual one: trust the ratios more than the milliseconds. `--check 1` exits with status 1 if a promise is missed.\n",
        machine()
    )?;
    writeln!(
        page,
        "## Promises\n\n| promise | measured | bound | kept |\n|---|---|---|---|"
    )?;
    for target in targets {
        let side = if target.at_least { "at least" } else { "at most" };
        writeln!(
            page,
            "| {} | {:.2} {} | {side} {} {} | {} |",
            target.promise,
            target.measured,
            target.unit,
            target.bound,
            target.unit,
            if target.met(1.0) { "yes" } else { "**no**" }
        )?;
    }
    writeln!(
        page,
        "\n## One picture, every thread and descriptor of the host\n\n\
         | host | threads | descriptors | picture | every /proc/PID/stat | every /proc/PID/task/TID/stat | ps -eLf |\n\
         |---|---|---|---|---|---|---|"
    )?;
    for one in all {
        let times = |other: Duration| {
            format!(
                "{} ({:.0}x)",
                ms(other),
                other.as_secs_f64() / one.picture.as_secs_f64()
            )
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} |",
            one.scene,
            one.threads,
            one.descriptors,
            ms(one.picture),
            times(one.stat_of_processes),
            times(one.stat_of_threads),
            times(one.ps)
        )?;
    }
    writeln!(
        page,
        "\nThe picture holds the waits of all threads, the words of their locks, and who holds which end of every pipe \
         and socket; the loops read the state of each process or thread, parse nothing and keep nothing.\n\n\
         ## Cold start to verdict: `rung --for 0s --format json`\n\n\
         In each host two threads deadlocked long before rung was started.\n\n\
         | host | median | slowest | peak memory | the deadlock's age | rung says |\n|---|---|---|---|---|---|"
    )?;
    for one in all {
        writeln!(
            page,
            "| {} | {} | {} | {:.0} MiB | {:.1} s | {:.1} s, {} |",
            one.scene,
            ms(one.start.0),
            ms(one.start.1),
            one.memory_bytes as f64 / f64::from(1 << 20),
            one.deadlock.true_age,
            one.deadlock.told_age,
            if one.deadlock.proven {
                "proven"
            } else {
                "not proven"
            }
        )?;
    }
    Ok(page)
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Processor and kernel.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown CPU", |(_, model)| model);
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().split('-').next().unwrap_or_default().to_owned();
    format!("{count} CPUs ({model}), Linux {release}")
}

//! A busy host on which nothing is wrong, and rung looking at it for as long: whatever it reports is a false alarm.
//!
//! The load: a compiler building this workspace, stress-ng's cpu, pipe, fork and futex stressors, and a Redis server
//! under its own benchmark on loopback.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rung_tests::rung::{Rung, Source};
use rustix::process::{Pid, Signal, kill_process_group};

/// Loads the machine with healthy work, diagnoses it over and over, and fails on any finding of severity warning.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
    /// No load: an idle host has nothing to report either.
    #[arg(long)]
    idle: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A program and everything that it starts, ended with this value.
struct Load {
    child: Child,
}

impl Load {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {name}; `tests/run` installs what is needed"))?;
        Ok(Load { child })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // stress-ng clears up after itself when it is asked to end; what is left after that is killed.
        let _ = kill_process_group(group, Signal::TERM);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let rung = Rung::find()?;
    let scratch = Scratch(std::env::temp_dir().join(format!("rung-soak-{}", std::process::id())));
    fs::create_dir(&scratch.0)?;
    let loads = if arguments.idle {
        Vec::new()
    } else {
        loads(&scratch.0, arguments.seconds)?
    };
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let (mut looks, mut alarms, mut most_threads) = (0, 0, 0);
    while Instant::now() < end {
        let report = rung.diagnose(Source::Best, Duration::from_secs(5), &scratch.0, || Ok(()))?;
        looks += 1;
        most_threads = most_threads.max(report.value["picture"]["threads"].as_u64().unwrap_or(0));
        for finding in report.findings().into_iter().filter(|finding| finding.alarms()) {
            alarms += 1;
            writeln!(io::stdout(), "{:#}", finding.0)?;
        }
    }
    drop(loads);
    let load = if arguments.idle { "idle" } else { "busy" };
    writeln!(
        io::stdout(),
        "{looks} looks of 5 s at a {load} host with up to {most_threads} threads: {alarms} findings of severity warning or above"
    )?;
    ensure!(looks > 0, "no time to look");
    Ok(alarms == 0)
}

fn loads(scratch: &Path, seconds: u64) -> Result<Vec<Load>> {
    let log = |name: &str| -> Result<(Stdio, Stdio)> {
        let file = File::create(scratch.join(name))?;
        Ok((file.try_clone()?.into(), file.into()))
    };
    let mut all = Vec::new();
    let (out, err) = log("stress-ng.log")?;
    all.push(Load::start(
        Command::new("stress-ng")
            .args([
                "--cpu",
                "1",
                "--pipe",
                "1",
                "--fork",
                "1",
                "--futex",
                "1",
                "--timeout",
            ])
            .arg(format!("{}s", seconds + 60))
            .current_dir(scratch)
            .stdout(out)
            .stderr(err),
    )?);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let (out, err) = log("redis-server.log")?;
    all.push(Load::start(
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port])
            .current_dir(scratch)
            .stdout(out)
            .stderr(err),
    )?);
    std::thread::sleep(Duration::from_secs(1));
    let (out, err) = log("redis-benchmark.log")?;
    all.push(Load::start(
        Command::new("redis-benchmark")
            .args(["-h", "127.0.0.1", "-p", &port, "-q", "-l"])
            .stdout(out)
            .stderr(err),
    )?);
    let (out, err) = log("build.log")?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let build = format!(
        "while :; do rm -rf target; cargo build --offline --manifest-path '{}' --target-dir target; done",
        manifest.display()
    );
    all.push(Load::start(
        Command::new("sh")
            .args(["-c", &build])
            .current_dir(scratch)
            .stdout(out)
            .stderr(err),
    )?);
    std::thread::sleep(Duration::from_secs(2));
    for load in &mut all {
        if let Some(status) = load.child.try_wait()? {
            let mut words = String::new();
            for name in [
                "stress-ng.log",
                "redis-server.log",
                "redis-benchmark.log",
                "build.log",
            ] {
                File::open(scratch.join(name))?.read_to_string(&mut words)?;
            }
            anyhow::bail!("a load ended at once with {status}: {words}");
        }
    }
    Ok(all)
}

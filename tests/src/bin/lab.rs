//! The fault lab by hand: `lab list`, `lab run NAME`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rung_diagnosis::handbook::{Handbook, Origin};
use rung_tests::lab::{self, Case, Kind, Workshop, actor::Actor};

/// Provokes failure modes and their healthy twins for real, to practise on and to test against.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the cases.
    List,
    /// Lists the Debian packages of the programs in the handbook's commands.
    Packages,
    /// Starts a case, proves that it bit, says what is true, and holds it until Ctrl-C.
    Run {
        /// The case's name, from `lab list`.
        name: String,
        /// Ends by itself after so many seconds.
        #[arg(long = "for", value_name = "SECONDS")]
        seconds: Option<u64>,
        /// For cases that happen while you watch: seconds until they do.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        after: u64,
    },
    /// Plays a part in a case.
    #[command(hide = true)]
    Actor {
        #[command(subcommand)]
        part: Actor,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::List => list(&mut io::stdout().lock()),
        Command::Packages => packages(&mut io::stdout().lock()),
        Command::Run { name, seconds, after } => hold(&name, seconds, after),
        Command::Actor { part } => part.play(),
    }
}

fn packages(out: &mut impl Write) -> Result<()> {
    let programs = Handbook::programs().programs;
    let needed = programs.values().filter(|program| !program.optional);
    let packages: BTreeSet<&str> = needed
        .filter_map(|program| match &program.from {
            Origin::Debian(package) => Some(package.as_str()),
            Origin::Elsewhere(_) => None,
        })
        .collect();
    for package in packages {
        writeln!(out, "{package}")?;
    }
    Ok(())
}

fn list(out: &mut impl Write) -> Result<()> {
    let width = |of: fn(&Case) -> usize| lab::cases().map(of).max().unwrap_or(0);
    let (name_width, mode_width) = (width(|case| case.name.len()), width(|case| case.mode.id().len()));
    writeln!(
        out,
        "{:name_width$}  KIND   {:mode_width$}  ABOUT",
        "NAME", "MODE"
    )?;
    for case in lab::cases() {
        let kind = match case.kind {
            Kind::Fault => "fault",
            Kind::Twin => "twin",
        };
        let missing = case
            .missing()
            .map_or_else(String::new, |why| format!(" (not here: {why})"));
        writeln!(
            out,
            "{:name_width$}  {kind:5}  {:mode_width$}  {}{missing}",
            case.name,
            case.mode.id(),
            case.about
        )?;
    }
    Ok(())
}

fn hold(name: &str, seconds: Option<u64>, after: u64) -> Result<()> {
    let case =
        lab::find(name).with_context(|| format!("no case is called {name:?}; `lab list` has them all"))?;
    if let Some(why) = case.missing() {
        anyhow::bail!("{name} cannot run here: {why}");
    }
    let (stop, stopped) = mpsc::channel();
    // A second signal finds nobody listening, which is fine.
    ctrlc::set_handler(move || {
        let _ = stop.send(());
    })?;
    let workshop = Workshop::open(&std::env::current_exe()?)?;
    let (stage, mut truth) = case.play(&workshop)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{name}: {}", case.about)?;
    if truth.trigger.is_some() {
        writeln!(
            out,
            "It happens in {after} s. Try now: rung diagnose --for {}s",
            after + 5
        )?;
        if stopped.recv_timeout(Duration::from_secs(after)).is_ok() {
            return Ok(());
        }
        truth.pull_trigger()?;
    }
    writeln!(
        out,
        "It bit {:.1} s ago. What is true:",
        truth.since.elapsed().as_secs_f64()
    )?;
    for line in truth.to_string().lines() {
        writeln!(out, "  {line}")?;
    }
    let pid = truth
        .subjects
        .first()
        .or(truth.innocent.first())
        .copied()
        .unwrap_or_default();
    writeln!(
        out,
        "Try: rung diagnose\n     rung why {pid}\nCtrl-C ends it and clears everything away."
    )?;
    out.flush()?;
    match seconds {
        // Either way of ending is the same.
        Some(seconds) => {
            let _ = stopped.recv_timeout(Duration::from_secs(seconds));
        }
        None => stopped.recv()?,
    }
    drop(stage);
    Ok(())
}

//! What watching connections costs: the event programs, and the picture of many open connections.
//!
//! Prints a section in Markdown. Every figure comes with its control from the same run, for machines are shared.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use rung_tests::bench::load::{Load, Servers};
use rung_tests::bench::network::{Costs, Rates, open_connections, section};
use rung_tests::rung::Rung;

/// What a connection may cost in all, nanoseconds,
const CONNECTION_NS: f64 = 2000.0;
/// and a descriptor in a picture, microseconds.
const DESCRIPTOR_US: f64 = 0.5;

/// Measures what watching connections costs, and prints a section in Markdown.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each load.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Exit with status 1 if a load is slowed beyond its control, or a cost exceeds what is promised by this factor.
    #[arg(long, value_name = "FACTOR")]
    check: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("netcost: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "BPF programs need root: run it as root"
    );
    ensure!(arguments.rounds > 0, "at least one round is needed");
    let rung = Rung::find()?;
    let open = open_connections()?;
    let servers = Servers::start()?;
    let (mut costs, mut rates) = (Vec::new(), Vec::new());
    for load in Load::ALL {
        eprintln!("measuring: {load}");
        costs.push(Costs::measure(&servers, *load)?);
        rates.push(Rates::measure(&servers, &rung, *load, arguments.rounds)?);
    }
    let mut out = io::stdout().lock();
    write!(out, "{}", section(&rates, &costs, open)?)?;
    out.flush()?;
    let dearest = costs
        .iter()
        .filter(|cost| cost.makes_connections())
        .map(Costs::per_connection_ns)
        .fold(0.0, f64::max);
    let broken = |slack: f64| {
        dearest > CONNECTION_NS * slack
            || open.descriptor_us > DESCRIPTOR_US * slack
            || !rates.iter().all(Rates::inside)
    };
    Ok(!arguments.check.is_some_and(broken))
}

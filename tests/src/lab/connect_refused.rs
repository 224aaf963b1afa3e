//! `connect-refused`: attempts that a closed port answers with a reset, and answers that are none of it.

use std::time::Instant;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{ConnectRefused, RetryStorm};

use super::case::Case;
use super::network::{Family, NETWORK};
use super::peers::{client, server};
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "connect-refused-loop",
        ConnectRefused,
        "a client tries a closed port of another host twice a second",
        |stage| refused(stage, Family::V4, "0.5"),
    )
    .needs(NETWORK)
    .look_seconds(5)
    .beyond_procfs(),
    Case::fault(
        "connect-refused-v6",
        ConnectRefused,
        "a client tries a closed port of another host twice a second over IPv6",
        |stage| refused(stage, Family::V6, "0.5"),
    )
    .needs(NETWORK)
    .look_seconds(5)
    .beyond_procfs(),
    Case::fault(
        "connect-refused-slow-loop",
        ConnectRefused,
        "a client tries a closed port of another host every two seconds",
        |stage| refused(stage, Family::V4, "2"),
    )
    .needs(NETWORK)
    .look_seconds(10)
    .beyond_procfs(),
    Case::twin(
        "connect-refused-twin-probe",
        ConnectRefused,
        "one probe of a closed port",
        probe,
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "connect-refused-twin-other-port",
        ConnectRefused,
        "a server answers every connection",
        answered,
    )
    .needs(NETWORK)
    .look_seconds(5),
];

const PORT: u16 = 7001;

fn refused(stage: &mut Stage, family: Family, pause: &str) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(family, PORT);
    let since = Instant::now();
    let tries = client(stage, &near, "attempt", to, &["0", pause])?;
    let outcome = tries.get("outcome")?;
    ensure!(
        outcome == libc::ECONNREFUSED,
        "the attempt ended with errno {outcome}, not ECONNREFUSED"
    );
    // Where the rate is high enough, repeating it is a fault of its own.
    let truth = Truth::fault(ConnectRefused, tries.pid, since).flow(to);
    Ok(truth.tolerate(RetryStorm).age_unknown())
}

/// The probe happens while somebody watches.
fn probe(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let tries = client(stage, &near, "attempt", to, &["2", "2"])?;
    let outcome = tries.get("outcome")?;
    ensure!(
        outcome == libc::ECONNREFUSED,
        "the attempt ended with errno {outcome}, not ECONNREFUSED"
    );
    Ok(Truth::twin(ConnectRefused, [tries.pid]))
}

fn answered(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "echo")?;
    let visits = client(stage, &near, "visit", to, &["0.2", "leave"])?;
    visits.get("visit_5")?;
    Ok(Truth::twin(ConnectRefused, [serves.pid, visits.pid]))
}

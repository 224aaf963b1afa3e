//! `flapping`: a server that resets what it has accepted, and short connections that end as they should.

use anyhow::Result;
use rung_diagnosis::mode::Mode::Flapping;

use super::case::Case;
use super::network::{Family, NETWORK};
use super::peers::{self, client, server};
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "flapping-accept-reset",
        Flapping,
        "a server accepts each connection and resets it",
        |stage| resets(stage, Family::V4),
    )
    .needs(NETWORK)
    .look_seconds(12)
    .beyond_procfs(),
    Case::fault(
        "flapping-v6",
        Flapping,
        "a server accepts each connection over IPv6 and resets it",
        |stage| resets(stage, Family::V6),
    )
    .needs(NETWORK)
    .look_seconds(12)
    .beyond_procfs(),
    Case::twin(
        "flapping-twin-health-check",
        Flapping,
        "a health check connects every second and closes at once",
        |stage| short(stage, "echo", "close"),
    )
    .needs(NETWORK)
    .look_seconds(12),
    Case::twin(
        "flapping-twin-linger-zero",
        Flapping,
        "a client ends each of its connections by a reset of its own",
        |stage| short(stage, "echo", "reset"),
    )
    .needs(NETWORK)
    .look_seconds(12),
    Case::twin(
        "flapping-twin-server-closes",
        Flapping,
        "a server closes each connection in an orderly way",
        |stage| short(stage, "close", "wait"),
    )
    .needs(NETWORK)
    .look_seconds(12),
];

const PORT: u16 = 7004;

fn resets(stage: &mut Stage, family: Family) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(family, PORT);
    let serves = server(stage, &far, to, "reset")?;
    let visits = client(stage, &near, "visit", to, &["1", "wait"])?;
    visits.get("visit_2")?;
    let sent = || peers::counter(&serves, "Tcp", "OutRsts").unwrap_or(0);
    let since = peers::until("the server sends two resets", || Ok(sent() >= 2))?;
    // Either end shows it: the server's process is at fault, the client's flow is where it is measured.
    let truth = Truth::fault(Flapping, serves.pid, since).or_subject(visits.pid);
    Ok(truth.says(to.ip().to_string()).age_unknown())
}

fn short(stage: &mut Stage, serve: &str, visit: &str) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, serve)?;
    let visits = client(stage, &near, "visit", to, &["1", visit])?;
    visits.get("visit_2")?;
    Ok(Truth::twin(Flapping, [serves.pid, visits.pid]))
}

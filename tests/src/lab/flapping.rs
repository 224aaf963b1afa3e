//! `flapping`: a server that resets what it has accepted, and short connections that end as they should.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::Flapping;

use super::case::Case;
use super::network::{Family, NETWORK};
use super::peers::{self, client, server};
use super::stage::{Actor, Stage};
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
    Case::fault(
        "flapping-some-of-many",
        Flapping,
        "a server of many short connections begins to reset each fifth",
        begins_to_reset,
    )
    .needs(NETWORK)
    .look_seconds(MINUTE_AND_BURST)
    .beyond_procfs(),
    Case::fault(
        "flapping-command-after-command",
        Flapping,
        "a server resets each connection of a shell's loop over a client",
        commands,
    )
    .needs(NETWORK)
    .look_seconds(12)
    .beyond_procfs(),
    Case::twin(
        "flapping-twin-some-always",
        Flapping,
        "a server of many short connections resets each fifth, as it always did",
        always_resets,
    )
    .needs(NETWORK)
    .look_seconds(MINUTE_AND_BURST)
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
/// A minute to know the mean of, and ten seconds far above it.
const MINUTE_AND_BURST: u64 = 75;
/// The burst begins so long after the trigger is pulled, which is when a third of the window is over.
const REST: Duration = Duration::from_secs(39);

/// A client that connects, asks and leaves, fifty times a second at most, and a server that resets some after the cue.
fn many(stage: &mut Stage) -> Result<(Actor, Actor)> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "reset-some")?;
    let visits = client(stage, &near, "visit", to, &["0.02", "leave"])?;
    visits.get("visit_20")?;
    Ok((visits, serves))
}

fn resets_sent(serves: &Actor) -> u64 {
    peers::counter(serves, "Tcp", "OutRsts").unwrap_or(0)
}

fn begins_to_reset(stage: &mut Stage) -> Result<Truth> {
    let (visits, serves) = many(stage)?;
    let mut truth = Truth::fault(Flapping, serves.pid, Instant::now())
        .or_subject(visits.pid)
        .age_unknown()
        .says("times as often as before");
    let cue = stage.dir().join("flap");
    truth.trigger = Some(Box::new(move || {
        std::thread::sleep(REST);
        let before = resets_sent(&serves);
        fs::write(&cue, "")?;
        peers::until("the server sends ten resets", || {
            Ok(resets_sent(&serves) >= before + 10)
        })?;
        ensure!(before == 0, "it had sent {before} resets before");
        Ok(())
    }));
    Ok(truth)
}

fn always_resets(stage: &mut Stage) -> Result<Truth> {
    let (visits, serves) = many(stage)?;
    stage.cue("flap")?;
    peers::until("the server sends ten resets", || Ok(resets_sent(&serves) >= 10))?;
    Ok(Truth::twin(Flapping, [visits.pid, serves.pid]))
}

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

fn commands(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "reset")?;
    let client = format!(
        "import socket; socket.create_connection((\"{}\", {PORT})).recv(1)",
        to.ip()
    );
    let python = super::programs::python()?;
    let script = format!(
        "end=$(($(date +%s) + RUNG_LAB_SECONDS)); \
         while [ $(date +%s) -lt $end ]; do {} -S -c '{client}' 2>/dev/null; sleep 0.5; done",
        python.display()
    );
    let play = stage.sh(&script)?.on(&near)?;
    let shell = stage.start(play)?;
    let since = peers::until("the server sends three resets", || Ok(resets_sent(&serves) >= 3))?;
    let truth = Truth::fault(Flapping, serves.pid, since).or_subject(shell.pid);
    Ok(truth.says(to.to_string()).age_unknown())
}

fn short(stage: &mut Stage, serve: &str, visit: &str) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, serve)?;
    let visits = client(stage, &near, "visit", to, &["1", visit])?;
    visits.get("visit_2")?;
    Ok(Truth::twin(Flapping, [serves.pid, visits.pid]))
}

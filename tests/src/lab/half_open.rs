//! `half-open`: a connection that stands at one end and is gone at the other, and one that is merely idle.

use std::time::Instant;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::HalfOpen;

use super::case::Case;
use super::network::{Family, NETWORK};
use super::peers::{self, client, figure, server};
use super::stage::Stage;
use super::truth::{Certainty, Truth};

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "half-open-peer-vanished",
        HalfOpen,
        "the peer's end was taken away behind a cut wire; only unanswered probes tell",
        vanished,
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::twin(
        "half-open-twin-probed-idle",
        HalfOpen,
        "an idle connection whose probes are answered",
        probed,
    )
    .needs(NETWORK),
];

const PORT: u16 = 7008;

fn vanished(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    server(stage, &far, to, "echo")?;
    let calls = client(stage, &near, "idle", to, &["1"])?;
    calls.get("connected")?;
    // Both directions, so that the peer's reset is lost as well.
    far.drop_incoming(&[&format!("tcp dport {PORT}")])?;
    near.drop_incoming(&[&format!("tcp sport {PORT}")])?;
    far.run("ss", &["-K", "sport", "=", &PORT.to_string()], "")?;
    let left = far.sockets(&format!("-t state established sport = {PORT}"))?;
    ensure!(left.is_empty(), "the peer's end is still there: {left:?}");
    let since = Instant::now();
    peers::until("three probes are unanswered", || {
        let lines = near.sockets(&format!("-to state established dport = {PORT}"))?;
        let probes = |line: &String| {
            let timer = line.split("timer:(keepalive,").nth(1)?;
            figure(timer.trim_end_matches(')'), ",")
        };
        Ok(lines
            .iter()
            .any(|line| probes(line).is_some_and(|probes| probes >= 3)))
    })?;
    let truth = Truth::fault(HalfOpen, calls.pid, since).flow(to);
    Ok(truth
        .age_unknown()
        .certainty(Certainty::Hinted)
        .threshold_seconds(5))
}

fn probed(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "echo")?;
    let calls = client(stage, &near, "idle", to, &["1"])?;
    calls.get("connected")?;
    Ok(Truth::twin(HalfOpen, [calls.pid, serves.pid])
        .threshold_seconds(5)
        .not_even_a_notice())
}

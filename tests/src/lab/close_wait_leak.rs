//! `close-wait-leak`: a server that never closes what its clients have closed, and a half-closed stream in use.

use anyhow::Result;
use rung_diagnosis::mode::Mode::CloseWaitLeak;

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, client, server};
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "close-wait-leak",
        CloseWaitLeak,
        "a server never closes the connections that its clients have closed",
        |stage| leak(stage, Family::V4),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .bound_seconds(40),
    Case::fault(
        "close-wait-leak-v6",
        CloseWaitLeak,
        "a server never closes the connections that its clients have closed over IPv6",
        |stage| leak(stage, Family::V6),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .bound_seconds(40),
    Case::twin(
        "close-wait-twin-half-closed",
        CloseWaitLeak,
        "a server sends on connections whose clients have no more to ask",
        half_closed,
    )
    .needs(NETWORK),
    Case::twin(
        "close-wait-twin-once",
        CloseWaitLeak,
        "twelve connections were left behind by one event, and none since",
        once,
    )
    .needs(NETWORK),
    Case::twin(
        "close-wait-twin-few",
        CloseWaitLeak,
        "three connections that were closed by their clients only",
        few,
    )
    .needs(NETWORK),
];

const PORT: u16 = 7006;
/// So many are there before the clock runs; more come while it does.
const LEAKED: usize = 12;
/// Past the age of 60 s that the mode asks for.
const OLD_SECONDS: u64 = 63;

fn close_waits(far: &Host) -> Result<usize> {
    Ok(far.sockets(&format!("-t state close-wait sport = {PORT}"))?.len())
}

fn leak(stage: &mut Stage, family: Family) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(family, PORT);
    let serves = server(stage, &far, to, "leak")?;
    // Twelve at once, and then one every four seconds.
    client(stage, &near, "visit-times", to, &["12"])?.get("spent")?;
    let since = peers::until("12 connections are in CLOSE_WAIT", || {
        Ok(close_waits(&far)? >= LEAKED)
    })?;
    client(stage, &near, "visit", to, &["4", "close"])?.get("visit_1")?;
    let truth = Truth::fault(CloseWaitLeak, serves.pid, since);
    Ok(truth.age_unknown().threshold_seconds(OLD_SECONDS))
}

fn half_closed(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "stream")?;
    let reads = client(stage, &near, "half-close", to, &["15"])?;
    reads.get("closed")?;
    peers::until(
        "15 connections are in CLOSE_WAIT",
        || Ok(close_waits(&far)? == 15),
    )?;
    let truth = Truth::twin(CloseWaitLeak, [serves.pid, reads.pid]);
    Ok(truth.threshold_seconds(OLD_SECONDS))
}

fn once(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "leak")?;
    client(stage, &near, "visit-times", to, &["12"])?.get("spent")?;
    peers::until("12 connections are in CLOSE_WAIT", || {
        Ok(close_waits(&far)? == LEAKED)
    })?;
    Ok(Truth::twin(CloseWaitLeak, [serves.pid]).threshold_seconds(OLD_SECONDS))
}

fn few(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "leak")?;
    client(stage, &near, "visit-times", to, &["3"])?.get("spent")?;
    peers::until("3 connections are in CLOSE_WAIT", || Ok(close_waits(&far)? == 3))?;
    Ok(Truth::twin(CloseWaitLeak, [serves.pid]).threshold_seconds(OLD_SECONDS))
}

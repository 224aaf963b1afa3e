//! `port-exhaustion`: a range of fifty local ports that is used up, or nearly, and ports that are free.

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{PortExhaustion, RetryStorm};

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, client, server};
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "port-exhaustion-none-left",
        PortExhaustion,
        "all fifty local ports lead to one destination, and every further attempt fails",
        |stage| exhausted(stage, Family::V4),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::fault(
        "port-exhaustion-v6",
        PortExhaustion,
        "all fifty local ports lead to one destination over IPv6, and every further attempt fails",
        |stage| exhausted(stage, Family::V6),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::fault(
        "port-exhaustion-nearly",
        PortExhaustion,
        "45 of fifty local ports lead to one destination",
        nearly,
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::twin(
        "port-exhaustion-twin-half",
        PortExhaustion,
        "25 of fifty local ports lead to one destination",
        |stage| {
            held(stage, 25)
                .map(|(client, server, _, _)| Truth::twin(PortExhaustion, [client.pid, server.pid]))
        },
    )
    .needs(NETWORK),
    Case::twin(
        "port-exhaustion-twin-time-wait",
        PortExhaustion,
        "500 connections in TIME_WAIT in a range of 28,000",
        time_wait,
    )
    .needs(NETWORK),
];

const PORT: u16 = 7007;

fn narrow(stage: &mut Stage, family: Family) -> Result<(Host, std::net::SocketAddr, Actor)> {
    let [near, far] = stage.network(["near", "far"])?;
    near.sysctl("ipv4/ip_local_port_range", "40000 40049")?;
    let to = far.port(family, PORT);
    let serves = server(stage, &far, to, "echo")?;
    Ok((near, to, serves))
}

fn used(near: &Host) -> Result<usize> {
    Ok(near
        .sockets(&format!("-t state established dport = {PORT}"))?
        .len())
}

fn exhausted(stage: &mut Stage, family: Family) -> Result<Truth> {
    let (near, to, _serves) = narrow(stage, family)?;
    let holds = client(stage, &near, "hold", to, &["50", "0.5"])?;
    holds.get("held")?;
    let since = peers::until("fifty ports are in use", || Ok(used(&near)? == 50))?;
    let outcome = holds.get("outcome")?;
    ensure!(
        outcome == libc::EADDRNOTAVAIL,
        "the attempt ended with errno {outcome}, not EADDRNOTAVAIL"
    );
    let truth = Truth::fault(PortExhaustion, holds.pid, since).flow(to);
    Ok(truth.tolerate(RetryStorm).age_unknown())
}

type Held = (Actor, Actor, std::net::SocketAddr, std::time::Instant);

fn held(stage: &mut Stage, count: usize) -> Result<Held> {
    let (near, to, serves) = narrow(stage, Family::V4)?;
    let holds = client(stage, &near, "hold", to, &[&count.to_string(), "0"])?;
    holds.get("held")?;
    let since = peers::until("the ports are in use", || Ok(used(&near)? == count))?;
    Ok((holds, serves, to, since))
}

/// The range belongs to the namespace, and whoever does not enter it may not learn it.
fn nearly(stage: &mut Stage) -> Result<Truth> {
    let (holds, _serves, to, since) = held(stage, 45)?;
    let truth = Truth::fault(PortExhaustion, holds.pid, since).flow(to);
    Ok(truth.age_unknown().or_declared_as("the range of local ports of"))
}

fn time_wait(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "echo")?;
    let spends = client(stage, &near, "spend", to, &["500"])?;
    spends.get("spent")?;
    peers::until("500 connections are in TIME_WAIT", || {
        let lines = near.sockets(&format!("-t state time-wait dport = {PORT}"))?;
        Ok(lines.len() >= 500)
    })?;
    Ok(Truth::twin(PortExhaustion, [spends.pid, serves.pid]))
}

//! `black-hole`: a connection whose packets vanish, and connections that stand still for other reasons.

use std::time::Instant;

use anyhow::Result;
use libc::SYS_recvfrom;
use rung_diagnosis::mode::Mode::{Backpressure, BlackHole};

use super::bite::{self, Hang};
use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, client, figure, server};
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "black-hole-request",
        BlackHole,
        "a drop is added between two requests of a connection; the client waits for its answer",
        |stage| vanishing(stage, Family::V4, "request", &["0.05"]),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "black-hole-v6",
        BlackHole,
        "a drop is added between two requests of a connection over IPv6",
        |stage| vanishing(stage, Family::V6, "request", &["0.05"]),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "black-hole-bulk",
        BlackHole,
        "a drop is added while a client sends without waiting for answers",
        |stage| vanishing(stage, Family::V4, "bulk", &["65536", "0.01"]),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "black-hole-zero-window",
        Backpressure,
        "a reader does not read: every probe of its window is acknowledged",
        |stage| deaf(stage, Family::V4),
    )
    .needs(NETWORK)
    // The reader runs, only not for this connection: one picture cannot tell that from a slow one.
    .look_seconds(5)
    .beyond_procfs(),
    Case::fault(
        "black-hole-zero-window-v6",
        Backpressure,
        "a reader does not read, over IPv6",
        |stage| deaf(stage, Family::V6),
    )
    .needs(NETWORK)
    // The reader runs, only not for this connection: one picture cannot tell that from a slow one.
    .look_seconds(5)
    .beyond_procfs(),
    Case::twin(
        "black-hole-twin-brief-zero-window",
        Backpressure,
        "a reader pauses for a second now and then, and its window is closed for a part of that",
        brief_pauses,
    )
    .needs(NETWORK)
    .look_seconds(10),
    Case::twin(
        "black-hole-twin-idle",
        BlackHole,
        "a connection on which nobody has anything to say",
        idle,
    )
    .needs(NETWORK),
    Case::twin(
        "black-hole-twin-short-outage",
        BlackHole,
        "packets vanish for a second, and the connection goes on",
        short_outage,
    )
    .needs(NETWORK)
    .look_seconds(5),
];

const PORT: u16 = 7002;

/// A client and a server of these kinds, and the proof that data went through.
fn connection(
    stage: &mut Stage,
    family: Family,
    kind: &str,
    args: &[&str],
    how: &str,
) -> Result<(Host, Host, Actor, Actor)> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(family, PORT);
    let serves = server(stage, &far, to, how)?;
    let calls = client(stage, &near, kind, to, args)?;
    calls.get("connected")?;
    if kind == "request" {
        calls.get("turn_3")?;
    }
    Ok((near, far, calls, serves))
}

fn vanishing(stage: &mut Stage, family: Family, kind: &str, args: &[&str]) -> Result<Truth> {
    let how = if kind == "bulk" { "sink" } else { "echo" };
    let (near, far, calls, _serves) = connection(stage, family, kind, args, how)?;
    // What the server has sent arrives; only its side of the wire is cut.
    far.drop_incoming(&[&format!("tcp dport {PORT}")])?;
    let since = Instant::now();
    peers::hit(&far, 3)?;
    peers::until("the sender backs off", || {
        let lines = near.sockets(&format!("-ti dport = {PORT}"))?;
        Ok(lines
            .iter()
            .any(|line| figure(line, "backoff:").is_some_and(|backoff| backoff >= 2)))
    })?;
    Ok(Truth::fault(BlackHole, calls.pid, since)
        .flow(far.port(family, PORT))
        .threshold_seconds(12))
}

fn deaf(stage: &mut Stage, family: Family) -> Result<Truth> {
    let (near, _far, calls, serves) = connection(stage, family, "bulk", &["65536", "0"], "deaf")?;
    let since = peers::until("the sender probes a window of zero", || {
        let lines = near.sockets(&format!("-tio dport = {PORT}"))?;
        Ok(lines.iter().any(|line| line.contains("timer:(persist")))
    })?;
    // The sender may be named as the one that waits.
    let truth = Truth::fault(Backpressure, serves.pid, since).symptom(Backpressure, calls.pid);
    Ok(truth.age_unknown().threshold_seconds(8))
}

fn brief_pauses(stage: &mut Stage) -> Result<Truth> {
    let (_near, _far, calls, serves) = connection(stage, Family::V4, "bulk", &["65536", "0.002"], "doze")?;
    let closed = || peers::counter(&serves, "TcpExt", "TCPToZeroWindowAdv").unwrap_or(0);
    let before = closed();
    peers::until("the window closes", || Ok(closed() > before))?;
    let taken = || peers::counter(&serves, "Tcp", "InSegs").unwrap_or(0);
    let before = taken();
    peers::until("the transfer goes on", || Ok(taken() > before + 100))?;
    Ok(Truth::twin(Backpressure, [calls.pid, serves.pid]))
}

fn idle(stage: &mut Stage) -> Result<Truth> {
    let (_near, _far, calls, serves) = connection(stage, Family::V4, "idle", &["0"], "echo")?;
    bite::hang(&[Hang::main(calls.pid, &[SYS_recvfrom])])?;
    Ok(Truth::twin(BlackHole, [calls.pid, serves.pid]).threshold_seconds(8))
}

fn short_outage(stage: &mut Stage) -> Result<Truth> {
    let (_near, far, calls, serves) = connection(stage, Family::V4, "request", &["0.2"], "echo")?;
    far.drop_incoming(&[&format!("tcp dport {PORT}")])?;
    peers::hit(&far, 2)?;
    far.unfilter()?;
    calls.get("turn_8")?;
    Ok(Truth::twin(BlackHole, [calls.pid, serves.pid]))
}

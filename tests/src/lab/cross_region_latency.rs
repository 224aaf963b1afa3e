//! `cross-region-latency`: requests and answers over a wire of 80 ms, and transfers that do not wait for it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rung_diagnosis::mode::Mode::CrossRegionLatency;

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, client, server};
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "cross-region-80-ms",
        CrossRegionLatency,
        "a client waits for one answer after another over a wire of 70 and 10 ms",
        |stage| waits(stage, Family::V4, [70, 10]),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::fault(
        "cross-region-60-ms-v6",
        CrossRegionLatency,
        "a client waits for one answer after another over a wire of twice 30 ms, by IPv6",
        |stage| waits(stage, Family::V6, [30, 30]),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::twin(
        "cross-region-twin-bulk",
        CrossRegionLatency,
        "a transfer over a wire of 70 and 10 ms, which waits for no answer",
        |stage| {
            let (sends, serves, _, _) =
                over_the_wire(stage, Family::V4, [70, 10], "bulk", &["65536", "0.05"])?;
            Ok(Truth::twin(CrossRegionLatency, [sends.pid, serves.pid]))
        },
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "cross-region-twin-20-ms",
        CrossRegionLatency,
        "a client waits for one answer after another over a wire of twice 10 ms",
        |stage| {
            let (asks, serves, _, _) = over_the_wire(stage, Family::V4, [10, 10], "request", &["0"])?;
            asks.get("turn_20")?;
            Ok(Truth::twin(CrossRegionLatency, [asks.pid, serves.pid]))
        },
    )
    .needs(NETWORK)
    .look_seconds(5),
];

const PORT: u16 = 7009;

fn over_the_wire(
    stage: &mut Stage,
    family: Family,
    delays_ms: [u32; 2],
    kind: &str,
    args: &[&str],
) -> Result<(Actor, Actor, Host, Host)> {
    let [near, far] = stage.network(["near", "far"])?;
    let [there, back] = delays_ms;
    let [near, far] = stage.long_wire([&near, &far], there, back)?;
    let to = far.port(family, PORT);
    let how = if kind == "bulk" { "sink" } else { "echo" };
    let serves = server(stage, &far, to, how)?;
    let calls = client(stage, &near, kind, to, args)?;
    calls.get("connected")?;
    let expected_ms = f64::from(there + back);
    let rtt_ms = peers::first_of("ss shows the least round trip", || {
        let lines = near.sockets(&format!("-ti state established dport = {PORT}"))?;
        Ok(lines.iter().find_map(|line| min_rtt_ms(line)))
    })?;
    ensure!(
        rtt_ms >= expected_ms && rtt_ms < expected_ms * 1.5 + 5.0,
        "it did not bite: the round trip takes {rtt_ms} ms, not {expected_ms}"
    );
    Ok((calls, serves, near, far))
}

fn min_rtt_ms(line: &str) -> Option<f64> {
    line.split("minrtt:").nth(1)?.split(' ').next()?.parse().ok()
}

fn waits(stage: &mut Stage, family: Family, delays_ms: [u32; 2]) -> Result<Truth> {
    let since = Instant::now();
    let (asks, _serves, _near, far) = over_the_wire(stage, family, delays_ms, "request", &["0"])?;
    asks.get("turn_10").context("the answers do not come")?;
    let truth = Truth::fault(CrossRegionLatency, asks.pid, since).flow(far.port(family, PORT));
    Ok(truth.age_unknown())
}

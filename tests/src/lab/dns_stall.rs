//! `dns-stall`: look-ups that nobody answers, and look-ups that fail or succeed at once.

use std::time::Instant;

use anyhow::Result;
use rung_diagnosis::mode::Mode::DnsStall;

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, part};
use super::programs;
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "dns-stall-dropped",
        DnsStall,
        "queries to the name server are dropped",
        |stage| dropped(stage, Family::V4),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::fault(
        "dns-stall-v6",
        DnsStall,
        "queries to a name server with an IPv6 address are dropped",
        |stage| dropped(stage, Family::V6),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::twin(
        "dns-stall-twin-answers",
        DnsStall,
        "a name server answers at once",
        |stage| answered(stage, "address", "found"),
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "dns-stall-twin-no-such-name",
        DnsStall,
        "a name server says at once that there is no such name",
        |stage| answered(stage, "no-such-name", "failed"),
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "dns-stall-twin-closed-port",
        DnsStall,
        "no name server runs where one should: the look-up fails at once",
        closed,
    )
    .needs(NETWORK)
    .look_seconds(5),
];

/// A resolver with `far` for its name server, in a resolv.conf that only it sees.
fn resolver(stage: &mut Stage, near: &Host, far: &Host, family: Family) -> Result<Actor> {
    let settings = stage.dir().join("resolv.conf");
    std::fs::write(&settings, format!("nameserver {}\n", far.address(family)))?;
    let (python, script) = (programs::python()?, stage.script("network.py"));
    let put = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let play = stage.program("unshare")?.args(["--mount", "sh", "-c", put]);
    let play = play.args([settings, python]).args(["-B".into(), script]);
    stage.start(play.args(["resolve", "0.5"]).on(near)?)
}

fn dropped(stage: &mut Stage, family: Family) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    far.drop_incoming(&["udp dport 53", "tcp dport 53"])?;
    let since = Instant::now();
    let asks = resolver(stage, &near, &far, family)?;
    asks.get("ready")?;
    peers::hit(&far, 1)?;
    let truth = Truth::fault(DnsStall, asks.pid, since).flow(far.port(family, 53));
    Ok(truth.age_unknown().threshold_seconds(3))
}

fn answered(stage: &mut Stage, how: &str, outcome: &str) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let serves = part(stage, &far, &["name-server", &far.v4.to_string(), how])?;
    serves.get("ready")?;
    let asks = resolver(stage, &near, &far, Family::V4)?;
    asks.get(outcome)?;
    asks.get("look_up_3")?;
    Ok(Truth::twin(DnsStall, [asks.pid, serves.pid]))
}

fn closed(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    // The kernel tells one peer about a closed port once a second at most; beyond that, the resolver would really wait.
    far.sysctl("ipv4/icmp_ratelimit", "0")?;
    let asks = resolver(stage, &near, &far, Family::V4)?;
    asks.get("failed")?;
    asks.get("look_up_3")?;
    Ok(Truth::twin(DnsStall, [asks.pid]))
}

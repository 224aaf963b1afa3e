//! `packet-loss`: one segment in so many is dropped at random while a transfer goes on.

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::PacketLoss;

use super::case::Case;
use super::network::{Family, NETWORK};
use super::peers::{self, client, counter, server};
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "packet-loss-10-percent",
        PacketLoss,
        "10% of the segments of a transfer are dropped",
        |stage| lossy(stage, Family::V4, 100),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(10),
    Case::fault(
        "packet-loss-5-percent-v6",
        PacketLoss,
        "5% of the segments of a transfer over IPv6 are dropped",
        |stage| lossy(stage, Family::V6, 50),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(10),
    Case::twin(
        "packet-loss-twin-half-a-percent",
        PacketLoss,
        "0.5% of the segments of a transfer are dropped",
        |stage| lossy(stage, Family::V4, 5),
    )
    .needs(NETWORK)
    .look_seconds(10),
    Case::twin(
        "packet-loss-twin-full-speed",
        PacketLoss,
        "a transfer without a loss",
        |stage| lossy(stage, Family::V4, 0),
    )
    .needs(NETWORK)
    .look_seconds(10),
    Case::twin(
        "packet-loss-twin-far-client",
        PacketLoss,
        "a server sends to a client 40 ms away that loses 5% of the segments, and to one nearby that loses none",
        far_client,
    )
    .needs(NETWORK)
    .look_seconds(10),
];

const PORT: u16 = 7005;
/// Segments that must have been sent before a share is judged.
const ENOUGH: u64 = 1000;

fn lossy(stage: &mut Stage, family: Family, per_mille: u64) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(family, PORT);
    let serves = server(stage, &far, to, "sink")?;
    // One packet is one segment, so that a share of packets is the same share of segments.
    near.run("ip", &["link", "set", "dev", "eth0", "gso_max_segs", "1"], "")?;
    let sends = client(stage, &near, "bulk", to, &["65536", "0.05"])?;
    sends.get("connected")?;
    if per_mille > 0 {
        // Not the handshake and not the end: only segments with data.
        let what = format!("tcp dport {PORT} tcp flags & (psh | ack) != 0 meta length > 500 ");
        far.drop_incoming(&[&format!("{what} numgen random mod 1000 < {per_mille}")])?;
    }
    let sent = || counter(&sends, "Tcp", "OutSegs").unwrap_or(0);
    let before = (sent(), again(&sends));
    let since = peers::until("enough segments are sent", || Ok(sent() > before.0 + ENOUGH))?;
    if per_mille == 0 {
        return Ok(Truth::twin(PacketLoss, [sends.pid, serves.pid]));
    }
    let (segments, repeated) = (sent() - before.0, again(&sends) - before.1);
    let expected = segments * per_mille / 1000;
    ensure!(
        repeated >= expected / 4 && repeated <= expected * 4 + 10,
        "it did not bite: {repeated} of {segments} segments were sent again, {per_mille} in 1000 dropped"
    );
    if per_mille < 10 {
        return Ok(Truth::twin(PacketLoss, [sends.pid, serves.pid]));
    }
    let truth = Truth::fault(PacketLoss, sends.pid, since).flow(to);
    Ok(truth.age_unknown())
}

fn far_client(stage: &mut Stage) -> Result<Truth> {
    let [serving, near, far] = stage.network(["server", "near", "far"])?;
    let [here, away] = stage.long_wire([&serving, &far], 20, 20)?;
    let port = PORT.to_string();
    let play = stage.python("trade.py")?.args(["serve", "0.0.0.0", &port]);
    let serves = stage.start(play.on(&serving)?)?;
    serves.get("port")?;
    let mut cast = vec![serves.pid];
    // The server sends what its clients ask for.
    for (host, at) in [(&near, serving.v4), (&away, here.v4)] {
        let (address, plan) = (at.to_string(), "100:100000");
        let args = ["trade", &port, "0", plan, plan, &address];
        let play = stage.python("trade.py")?.args(args).on(host)?;
        let client = stage.start(play)?;
        client.get("trading")?;
        cast.push(client.pid);
    }
    far.drop_incoming(&[&format!(
        "tcp sport {PORT} meta length > 500 numgen random mod 1000 < 50"
    )])?;
    peers::until("thirty segments are sent again", || Ok(again(&serves) >= 30))?;
    Ok(Truth::twin(PacketLoss, cast))
}

fn again(of: &Actor) -> u64 {
    counter(of, "Tcp", "RetransSegs").unwrap_or(0)
}

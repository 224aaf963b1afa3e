//! `partition`: one of three peers cannot be reached while the others can, and a peer that is merely down.

use std::time::Instant;

use anyhow::{Context, Result};
use rung_diagnosis::mode::Mode::{BlackHole, ConnectRefused, ConnectTimeout, Partition};

use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, server};
use super::stage::{Actor, Stage};
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "partition-one-of-three",
        Partition,
        "a client talks to three peers, and one of them drops all that comes from it",
        |stage| cut_off(stage, Family::V4),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::fault(
        "partition-one-of-three-v6",
        Partition,
        "a client talks to three peers over IPv6, and one of them drops all that comes from it",
        |stage| cut_off(stage, Family::V6),
    )
    .needs(NETWORK)
    .beyond_procfs()
    .look_seconds(5),
    Case::twin(
        "partition-twin-peer-down",
        Partition,
        "one of three peers has ended: its host refuses",
        peer_down,
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "partition-twin-quiet-peer",
        Partition,
        "three peers answer, one of them seldom",
        quiet_peer,
    )
    .needs(NETWORK)
    .look_seconds(5),
];

const PORT: u16 = 7003;

struct Peers {
    near: Host,
    far: [Host; 3],
    client: Actor,
    servers: Vec<Actor>,
}

fn three_peers(stage: &mut Stage, family: Family) -> Result<Peers> {
    let [near, one, two, three] = stage.network(["near", "one", "two", "three"])?;
    let far = [one, two, three];
    let mut servers = Vec::new();
    for host in &far {
        servers.push(server(stage, host, host.port(family, PORT), "echo")?);
    }
    let addresses: Vec<String> = far.iter().map(|host| host.address(family).to_string()).collect();
    let mut args = vec!["request-each", "7003", "0.1"];
    args.extend(addresses.iter().map(String::as_str));
    let client = peers::part(stage, &near, &args)?;
    for peer in 0..far.len() {
        client.get(&format!("turn_{peer}_3"))?;
    }
    Ok(Peers {
        near,
        far,
        client,
        servers,
    })
}

fn cut_off(stage: &mut Stage, family: Family) -> Result<Truth> {
    let peers = three_peers(stage, family)?;
    let [dead, healthy @ ..] = &peers.far;
    let what = match family {
        Family::V4 => format!("ip saddr {}", peers.near.v4),
        // Neighbour discovery goes on, as ARP does: the host is there, only its answers are not.
        Family::V6 => format!("ip6 saddr {} tcp dport {PORT}", peers.near.v6),
    };
    dead.drop_incoming(&[&what])?;
    let since = Instant::now();
    peers::hit(dead, 3)?;
    let client = peers.client.pid;
    let mut truth = Truth::fault(Partition, client, since)
        .symptom(BlackHole, client)
        .symptom(ConnectTimeout, client)
        .says(dead.address(family).to_string());
    for host in healthy {
        truth = truth.says(host.address(family).to_string());
    }
    Ok(truth.threshold_seconds(12))
}

fn peer_down(stage: &mut Stage) -> Result<Truth> {
    let peers = three_peers(stage, Family::V4)?;
    let gone = peers.servers.first().context("three servers")?;
    stage.kill(gone)?;
    peers.client.get("broken_0")?;
    let living = peers.servers.iter().skip(1).map(|server| server.pid);
    let truth = Truth::twin(Partition, living.chain([peers.client.pid]));
    Ok(truth.tolerate(ConnectRefused).threshold_seconds(5))
}

fn quiet_peer(stage: &mut Stage) -> Result<Truth> {
    let peers = three_peers(stage, Family::V4)?;
    let to = peers.far[0].port(Family::V4, PORT);
    let seldom = peers::client(stage, &peers.near, "request", to, &["4"])?;
    seldom.get("turn_1")?;
    let servers = peers.servers.iter().map(|server| server.pid);
    Ok(Truth::twin(
        Partition,
        servers.chain([peers.client.pid, seldom.pid]),
    ))
}

//! `connect-timeout`: SYNs without an answer, from clients that wait and clients that do not.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use libc::{SYS_connect, SYS_epoll_wait};
use rung_diagnosis::mode::Mode::{Backpressure, ConnectTimeout};

use super::bite::{self, Hang};
use super::case::Case;
use super::network::{Family, Host, NETWORK};
use super::peers::{self, client, server};
use super::stage::Stage;
use super::truth::{Role, Truth};

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "connect-timeout-blocking",
        ConnectTimeout,
        "a client is blocked in connect while its SYNs are dropped",
        |stage| waits(stage, Family::V4, "connect", SYS_connect),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "connect-timeout-v6",
        ConnectTimeout,
        "a client is blocked in connect over IPv6 while its SYNs are dropped",
        |stage| waits(stage, Family::V6, "connect", SYS_connect),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "connect-timeout-epoll",
        ConnectTimeout,
        "an event loop waits for a connection while its SYNs are dropped",
        |stage| waits(stage, Family::V4, "connect-epoll", SYS_epoll_wait),
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::fault(
        "connect-timeout-impatient",
        ConnectTimeout,
        "SYNs are dropped and the client gives up after a second each time",
        |stage| impatient(stage, Family::V4),
    )
    .needs(NETWORK)
    .look_seconds(5)
    .beyond_procfs(),
    Case::fault(
        "connect-timeout-impatient-v6",
        ConnectTimeout,
        "SYNs are dropped over IPv6 and the client gives up after a second each time",
        |stage| impatient(stage, Family::V6),
    )
    .needs(NETWORK)
    .look_seconds(5)
    .beyond_procfs(),
    Case::fault(
        "connect-timeout-full-listener",
        Backpressure,
        "a listener on another network namespace of this machine never accepts, and its queue is full",
        full_listener,
    )
    .needs(NETWORK)
    .beyond_procfs(),
    Case::twin(
        "connect-timeout-twin-lost-syn",
        ConnectTimeout,
        "the first SYN is lost and the next one is answered",
        lost_syn,
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "connect-timeout-twin-unreachable",
        ConnectTimeout,
        "a router says that the host is unreachable: an answer, if no good one",
        unreachable,
    )
    .needs(NETWORK)
    .look_seconds(5),
    Case::twin(
        "connect-timeout-twin-no-such-host",
        ConnectTimeout,
        "nobody on the wire has the address: the error comes after three seconds",
        no_such_host,
    )
    .needs(NETWORK)
    .look_seconds(10),
    Case::twin(
        "connect-timeout-twin-busy-server",
        ConnectTimeout,
        "connections come and go, each with a request and an answer",
        busy_server,
    )
    .needs(NETWORK)
    .look_seconds(5),
];

const PORT: u16 = 7000;

fn dropping(stage: &mut Stage) -> Result<[Host; 2]> {
    let hosts = stage.network(["near", "far"])?;
    hosts[1].drop_incoming(&[&format!("tcp dport {PORT}")])?;
    Ok(hosts)
}

fn waits(stage: &mut Stage, family: Family, kind: &str, call: i64) -> Result<Truth> {
    let [near, far] = dropping(stage)?;
    let to = far.port(family, PORT);
    let waiter = client(stage, &near, kind, to, &[])?.pid;
    let since = bite::hang(&[Hang::main(waiter, &[call])])?;
    peers::hit(&far, 2)?;
    Ok(Truth::fault(ConnectTimeout, waiter, since)
        .flow(to)
        .threshold_seconds(5))
}

fn impatient(stage: &mut Stage, family: Family) -> Result<Truth> {
    let [near, far] = dropping(stage)?;
    let to = far.port(family, PORT);
    let since = Instant::now();
    let tries = client(stage, &near, "connect-impatient", to, &["1", "0.1"])?;
    tries.get("given_up_1")?;
    peers::hit(&far, 1)?;
    // The window itself sees attempts from their beginning.
    Ok(Truth::fault(ConnectTimeout, tries.pid, since)
        .flow(to)
        .age_unknown())
}

/// The client's attempts are a symptom: the listener does not accept.
fn full_listener(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let (address, port) = (to.ip().to_string(), PORT.to_string());
    let deaf = peers::part(stage, &far, &["listen", &address, &port, "1"])?;
    deaf.get("ready")?;
    // A backlog of 1 takes two: sk_acceptq_is_full() asks for more than the backlog.
    for _ in 0..2 {
        client(stage, &near, "connect", to, &[])?.get("connected")?;
    }
    let waiter = client(stage, &near, "connect", to, &[])?.pid;
    bite::hang(&[Hang::main(waiter, &[SYS_connect])])?;
    let overflows = || peers::counter(&deaf, "TcpExt", "ListenOverflows").unwrap_or(0);
    let since = peers::until("the listener's queue overflows", || Ok(overflows() > 0))?;
    Ok(Truth::fault(Backpressure, deaf.pid, since)
        .expect_symptom(ConnectTimeout, waiter)
        .party(Role::Waiter, waiter)
        .age_unknown()
        .threshold_seconds(5))
}

fn lost_syn(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "echo")?;
    far.drop_incoming(&[&format!("tcp dport {PORT}")])?;
    let calls = client(stage, &near, "connect", to, &[])?;
    peers::hit(&far, 1)?;
    far.unfilter()?;
    calls.get("connected")?;
    Ok(Truth::twin(ConnectTimeout, [serves.pid, calls.pid]))
}

fn unreachable(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    far.reject_incoming(&[&format!("tcp dport {PORT}")], "icmp type host-unreachable")?;
    let to = far.port(Family::V4, PORT);
    let tries = client(stage, &near, "attempt", to, &["0", "2"])?;
    let outcome = tries.get("outcome")?;
    ensure!(
        outcome == libc::EHOSTUNREACH,
        "the attempt ended with errno {outcome}, not EHOSTUNREACH"
    );
    Ok(Truth::twin(ConnectTimeout, [tries.pid]))
}

/// Three questions for the link address, a second apart, and then EHOSTUNREACH (arp(7), mcast_solicit).
fn no_such_host(stage: &mut Stage) -> Result<Truth> {
    let [near, _far] = stage.network(["near", "far"])?;
    let [first, second, third, _] = near.v4.octets();
    let nobody = SocketAddr::from(([first, second, third, 250], PORT));
    let tries = client(stage, &near, "attempt", nobody, &["0", "1"])?;
    let outcome = tries.get("outcome")?;
    ensure!(
        outcome == libc::EHOSTUNREACH,
        "the attempt ended with errno {outcome}, not EHOSTUNREACH"
    );
    Ok(Truth::twin(ConnectTimeout, [tries.pid]))
}

fn busy_server(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let to = far.port(Family::V4, PORT);
    let serves = server(stage, &far, to, "echo")?;
    let visits = client(stage, &near, "visit", to, &["0.01", "leave"])?;
    visits.get("visit_20")?;
    Ok(Truth::twin(ConnectTimeout, [serves.pid, visits.pid]))
}

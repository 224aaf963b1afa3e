//! Clients and servers on the hosts of a stage, and what ss(8), nft(8) and the actors themselves say of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::network::Host;
use super::stage::{Actor, Stage};

/// Between two looks with a program that must be started for each.
const LOOK: Duration = Duration::from_millis(100);
/// How long a fault of the network may take to bite: retransmissions take seconds.
const BITE: Duration = Duration::from_secs(15);

/// Starts a part of network.py on a host.
pub(super) fn part(stage: &mut Stage, host: &Host, args: &[&str]) -> Result<Actor> {
    let play = stage.python("network.py")?.args(args).on(host)?;
    stage.start(play)
}

/// Starts a server and waits until it listens.
pub(super) fn server(stage: &mut Stage, host: &Host, at: SocketAddr, how: &str) -> Result<Actor> {
    let (address, port) = (at.ip().to_string(), at.port().to_string());
    let server = part(stage, host, &["serve", &address, &port, how])?;
    server.get("ready")?;
    Ok(server)
}

/// Starts a client of one destination.
pub(super) fn client(
    stage: &mut Stage,
    host: &Host,
    kind: &str,
    to: SocketAddr,
    args: &[&str],
) -> Result<Actor> {
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let all: Vec<&str> = [kind, &address, &port]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    part(stage, host, &all)
}

/// Waits until a condition holds that costs something to look at; `what` completes "it did not happen that".
pub(super) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Instant> {
    let end = Instant::now() + BITE;
    while !holds()? {
        ensure!(
            Instant::now() < end,
            "it did not bite: within {} s it did not happen that {what}",
            BITE.as_secs()
        );
        std::thread::sleep(LOOK);
    }
    Ok(Instant::now())
}

/// Waits for a value that costs something to look for.
pub(super) fn first_of<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut found = None;
    until(what, || {
        found = look()?;
        Ok(found.is_some())
    })?;
    found.context("nothing was found")
}

/// Waits until the host's filters have hit so many packets.
pub(super) fn hit(host: &Host, packets: u64) -> Result<Instant> {
    until(&format!("the filter hits {packets} packets"), || {
        Ok(host.hits()? >= packets)
    })
}

/// The number after `word` in a line of ss(8), `backoff:` for one.
pub(super) fn figure(line: &str, word: &str) -> Option<u64> {
    let rest = line.split(word).nth(1)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The number of a host's counter in /proc/net/snmp or /proc/net/netstat: `Tcp`, `RetransSegs`. `via` is a process
/// on that host.
pub(super) fn counter(via: &Actor, table: &str, name: &str) -> Option<u64> {
    ["snmp", "netstat"].iter().find_map(|file| {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{file}", via.pid)).ok()?;
        let prefix = format!("{table}: ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        let (names, values) = (lines.next()?, lines.next()?);
        let column = names.split(' ').position(|column| column == name)?;
        values.split(' ').nth(column)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_off_a_line_of_ss() {
        let line = "ESTAB 0 100 10.0.0.1:1 10.0.0.2:2 cubic rto:3264 backoff:4 rtt:0.03/0.02 lastack:3100";
        assert_eq!(figure(line, "backoff:"), Some(4));
        assert_eq!(figure(line, "lastack:"), Some(3100));
        assert_eq!(figure(line, "unacked:"), None);
    }
}

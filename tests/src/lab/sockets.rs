//! What ss(8) and /proc/net/netstat say about this machine's TCP sockets, to prove by.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The two queues of a socket; of a listener, the connections that wait and how many may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue {
    /// Recv-Q.
    pub(super) receive: u64,
    /// Send-Q.
    pub(super) send: u64,
}

/// The queue of the listener at this address.
pub(super) fn listener(address: SocketAddr) -> Result<Option<Queue>> {
    queue(&ss(&["-l", "src", &filter(address)])?)
}

/// The queues of the end of an established connection that asked for this address.
pub(super) fn towards(address: SocketAddr) -> Result<Option<Queue>> {
    queue(&ss(&["dst", &filter(address)])?)
}

/// The queues of the end of an established connection that has this address.
pub(super) fn from(address: SocketAddr) -> Result<Option<Queue>> {
    queue(&ss(&["src", &filter(address)])?)
}

/// The bytes that the established connections of this address have taken in.
pub(super) fn bytes_received(address: SocketAddr) -> Result<u64> {
    let text = ss(&["-i", "src", &filter(address)])?;
    let figures = text.split_ascii_whitespace();
    let received = figures.filter_map(|word| word.strip_prefix("bytes_received:")?.parse::<u64>().ok());
    Ok(received.sum())
}

/// How many clients' ends of connections to `address` are in the state `state` of ss(8).
pub(super) fn count(state: &str, address: SocketAddr) -> Result<usize> {
    Ok(ss(&["state", state, "dst", &filter(address)])?.lines().count())
}

/// A counter of `TcpExt` in /proc/net/netstat, of this network namespace.
pub(super) fn host_counter(name: &str) -> Result<u64> {
    parse_counter(&fs::read_to_string("/proc/net/netstat")?, "TcpExt:", name)
        .with_context(|| format!("/proc/net/netstat has no {name}"))
}

/// How many connections clients of this network namespace have begun, from /proc/net/snmp.
pub(super) fn opened_actively() -> Result<u64> {
    parse_counter(&fs::read_to_string("/proc/net/snmp")?, "Tcp:", "ActiveOpens")
        .context("/proc/net/snmp has no ActiveOpens")
}

fn parse_counter(counters: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names
        .split_ascii_whitespace()
        .zip(values.split_ascii_whitespace());
    pairs.find(|(key, _)| *key == name)?.1.parse().ok()
}

fn filter(address: SocketAddr) -> String {
    address.to_string()
}

fn ss(args: &[&str]) -> Result<String> {
    let output = Command::new("ss")
        .args(["-H", "-O", "-t", "-n"])
        .args(args)
        .output()
        .context("cannot run ss")?;
    ensure!(
        output.status.success(),
        "ss {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The queues in the first line: the two numbers after the state.
fn queue(lines: &str) -> Result<Option<Queue>> {
    let Some(line) = lines.lines().next() else {
        return Ok(None);
    };
    let mut words = line.split_ascii_whitespace().skip(1);
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let queue = number()
        .zip(number())
        .map(|(receive, send)| Queue { receive, send });
    queue.map(Some).with_context(|| format!("no queues in {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_follow_the_state() {
        let line = "LISTEN 5      4             [::1]:28011          [::]:*\n";
        assert_eq!(queue(line).unwrap(), Some(Queue { receive: 5, send: 4 }));
        assert_eq!(queue("").unwrap(), None);
        assert!(queue("nonsense").is_err());
    }

    #[test]
    fn counters_are_named_in_the_line_before() {
        let text =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 33\nIpExt: A\nIpExt: 9\n";
        assert_eq!(parse_counter(text, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(parse_counter(text, "TcpExt:", "A"), None);
    }
}

//! Counters of one network namespace: /proc/PID/net/netstat, snmp and sockstat (proc_pid_net(5)).
//!
//! Scope: each file is text of the kernel's own making; numbers that are missing on some kernel stay 0, as the kernel
//! itself has counted none.

use rung_diagnosis::observation::NetworkObservation;

/// Fills in what the text of netstat or snmp says: pairs of lines that begin with the same word, the first with names,
/// the second with numbers in the same order. Returns how many of the wanted counters were there.
pub(super) fn read_table(text: &[u8], into: &mut NetworkObservation) -> usize {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let mut found = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((group, names)), Some((same, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        if group != same {
            continue;
        }
        for (name, value) in names
            .split_ascii_whitespace()
            .zip(values.split_ascii_whitespace())
        {
            // Some are limits and may be negative (Tcp MaxConn); none of those is wanted.
            if let (Some(counter), Ok(value)) = (counter(into, group, name), value.parse()) {
                *counter = value;
                found += 1;
            }
        }
    }
    found
}

/// Where a counter goes, by its group and name.
fn counter<'a>(into: &'a mut NetworkObservation, group: &str, name: &str) -> Option<&'a mut u64> {
    Some(match (group, name) {
        ("TcpExt", "ListenOverflows") => &mut into.listen_overflows,
        ("TcpExt", "ListenDrops") => &mut into.listen_drops,
        ("TcpExt", "TCPTimeouts") => &mut into.timeouts,
        ("TcpExt", "TCPSynRetrans") => &mut into.syn_retransmits,
        ("TcpExt", "TCPAbortOnTimeout") => &mut into.aborts_on_timeout,
        ("Tcp", "ActiveOpens") => &mut into.active_opens,
        ("Tcp", "PassiveOpens") => &mut into.passive_opens,
        ("Tcp", "AttemptFails") => &mut into.attempt_fails,
        ("Tcp", "EstabResets") => &mut into.established_resets,
        ("Tcp", "InSegs") => &mut into.segments_in,
        ("Tcp", "OutSegs") => &mut into.segments_out,
        ("Tcp", "RetransSegs") => &mut into.segments_retransmitted,
        ("Tcp", "OutRsts") => &mut into.resets_sent,
        ("Udp", "NoPorts") => &mut into.udp_no_ports,
        ("Udp", "RcvbufErrors") => &mut into.udp_receive_errors,
        _ => return None,
    })
}

/// Sockets in TIME_WAIT, from the line `TCP: inuse 5 orphan 0 tw 2 ...` of sockstat. Orphans are counted there for the
/// whole host, not for the namespace (tcp_orphan_count_sum, net/ipv4/proc.c), and are not taken.
pub(super) fn time_wait(sockstat: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(sockstat);
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if word == "tw" {
            return words.next()?.parse().ok();
        }
    }
    None
}

/// First and last local port, from ip_local_port_range; (0, 0) if it does not say.
pub(super) fn local_ports(text: &[u8]) -> (u16, u16) {
    let text = String::from_utf8_lossy(text);
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => (first, last),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &[u8] = b"Ip: Forwarding DefaultTTL\nIp: 1 64\n\
        Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs \
        OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
        Tcp: 1 200 120000 -1 11 12 13 14 15 16 17 18 19 20 21\n\
        Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 1 2 3 4 5 6\n";

    #[test]
    fn counters_are_found_by_name() {
        let mut network = NetworkObservation::default();
        assert_eq!(read_table(SNMP, &mut network), 10);
        assert_eq!(
            (network.active_opens, network.passive_opens, network.attempt_fails),
            (11, 12, 13)
        );
        assert_eq!((network.segments_in, network.resets_sent), (16, 20));
        assert_eq!((network.udp_no_ports, network.udp_receive_errors), (2, 5));
        let netstat =
            b"TcpExt: SyncookiesSent TCPTimeouts ListenOverflows\nTcpExt: 1 2 18446744073709551615\n";
        assert_eq!(read_table(netstat, &mut network), 2);
        assert_eq!((network.timeouts, network.listen_overflows), (2, u64::MAX));
    }

    #[test]
    fn text_that_breaks_off_or_lies_gives_less() {
        for length in 0..SNMP.len() {
            let mut network = NetworkObservation::default();
            assert!(read_table(&SNMP[..length], &mut network) <= 10);
            assert_eq!(network.timeouts, 0);
        }
        let mut network = NetworkObservation::default();
        assert_eq!(read_table(b"Tcp: ActiveOpens\nUdp: 7\n", &mut network), 0);
        assert_eq!(
            read_table(b"Tcp: ActiveOpens\nTcp: -7\n\xff\xfe\n\0\n", &mut network),
            0
        );
        assert_eq!(network, NetworkObservation::default());
    }

    #[test]
    fn sockets_in_time_wait_and_ports() {
        let sockstat = b"sockets: used 99\nTCP: inuse 5 orphan 1 tw 23 alloc 7 mem 1\nUDP: inuse 2 mem 0\n";
        assert_eq!(time_wait(sockstat), Some(23));
        assert_eq!(time_wait(b"TCP: inuse 5 tw"), None);
        assert_eq!(time_wait(b"UDP: tw 5\n"), None);
        assert_eq!(local_ports(b"32768\t60999\n"), (32768, 60999));
        assert_eq!(local_ports(b"60999 32768\n"), (0, 0));
        assert_eq!(local_ports(b"1 99999\n"), (0, 0));
    }
}

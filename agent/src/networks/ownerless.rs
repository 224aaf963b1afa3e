//! TCP sockets that no process holds: in TIME_WAIT, orphaned, or not accepted yet.
//!
//! Scope: of the own network namespace by sock_diag, of others by /proc/PID/net/tcp and tcp6 of a process in it. They
//! are counted by state and remote end; connections to a listener by the client's address alone, for each has a port of
//! its own there, and by ports they would be as many rows as sockets.
//!
//! Degradation policy: a row that does not parse is left out. A table is cut short at a deadline, after so many sockets
//! or bytes, and beyond so many counts the smallest ones are left out; [`Ownerless::cut`] says so.

use std::cmp::Reverse;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use rung_diagnosis::observation::OwnerlessObservation;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::sock_diag::{self, SockDiagError, TcpEnds};
use crate::tcp_info::TCP_LISTEN;

/// Sockets of one namespace that are looked at.
const SOCKETS_MAX: usize = 200_000;
/// Counts of one namespace that are kept.
const COUNTS_MAX: usize = 4096;
/// Bytes of one table of /proc that are read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What one namespace has of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ownerless {
    listening: FxHashSet<u16>,
    sockets: Vec<(u8, u16, SocketAddr)>,
    /// There are more.
    pub(super) cut: bool,
}

impl Ownerless {
    /// Those of the own namespace.
    pub(super) fn of_own_namespace(deadline: Instant) -> Result<Ownerless, SockDiagError> {
        let mut found = Ownerless::default();
        let (cut, _) = sock_diag::tcp_ends(deadline, &mut |ends| found.add(&ends))?;
        found.cut |= cut;
        Ok(found)
    }

    /// Adds those of one table, /proc/PID/net/tcp or tcp6.
    pub(super) fn add_table(&mut self, mut table: impl Read, deadline: Instant) -> std::io::Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = table.read(&mut piece)?;
            bytes.extend_from_slice(&piece[..read]);
            let whole = bytes
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            for line in bytes[..whole].split(|byte| *byte == b'\n') {
                if let Some(ends) = row(line) {
                    self.add(&ends);
                }
            }
            bytes.drain(..whole);
            if read == 0 {
                return Ok(());
            }
            // A line is never so long: this is no such table.
            if self.cut || Instant::now() >= deadline || bytes.len() > PIECE_BYTES {
                self.cut = true;
                return Ok(());
            }
        }
    }

    fn add(&mut self, ends: &TcpEnds) {
        if ends.state == TCP_LISTEN {
            self.listening.insert(ends.local.port());
        } else if ends.inode == 0 {
            if self.sockets.len() < SOCKETS_MAX {
                self.sockets.push((ends.state, ends.local.port(), ends.remote));
            } else {
                self.cut = true;
            }
        }
    }

    /// Counts them, the most frequent first.
    pub(super) fn count(&mut self, net_ns: u32) -> Vec<OwnerlessObservation> {
        let mut counts: FxHashMap<(u8, SocketAddr), u64> = FxHashMap::default();
        for (state, local, remote) in &self.sockets {
            let mut remote = *remote;
            if self.listening.contains(local) {
                remote.set_port(0);
            }
            *counts.entry((*state, remote)).or_default() += 1;
        }
        let mut counted: Vec<OwnerlessObservation> = counts
            .into_iter()
            .map(|((state, remote), count)| OwnerlessObservation {
                net_ns,
                state,
                remote,
                count,
            })
            .collect();
        counted.sort_unstable_by_key(|row| (Reverse(row.count), row.state, row.remote));
        self.cut |= counted.len() > COUNTS_MAX;
        counted.truncate(COUNTS_MAX);
        counted
    }
}

/// A row of the table (tcp4_seq_show, net/ipv4/tcp_ipv4.c): number, local and remote address, state, queues, timer,
/// retransmissions, user, timeout, inode, ...
fn row(line: &[u8]) -> Option<TcpEnds> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    Some(TcpEnds {
        local: address(words.next()?)?,
        remote: address(words.next()?)?,
        state: u8::from_str_radix(words.next()?, 16).ok()?,
        inode: words.nth(5)?.parse().ok()?,
    })
}

/// `0100007F:1F90`: the address in words of 32 bits, each printed as a number of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = words.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let address = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, into) in octets.chunks_exact_mut(4).enumerate() {
                into.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    pub(crate) const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  \
        timeout inode\n\
        \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 x 100\n\
        \x20  1: 0100007F:1F90 0100007F:9C40 06 00000000:00000000 03:00000F0A 00000000     0        0 0 3 x\n\
        \x20  2: 0100007F:1F90 0100007F:9C41 06 00000000:00000000 03:00000F0A 00000000     0        0 0 3 x\n\
        \x20  3: 0100007F:9C40 0500000A:01BB 06 00000000:00000000 03:00000F0A 00000000     0        0 0 3 x\n\
        \x20  4: 0100007F:9C41 0500000A:01BB 06 00000000:00000000 03:00000F0A 00000000     0        0 0 3 x\n\
        \x20  5: 0100007F:9C42 0500000A:01BB 01 00000000:00000000 03:00000F0A 00000000     0        0 77 3 x\n";

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn read(table: &[u8]) -> Vec<OwnerlessObservation> {
        let mut found = Ownerless::default();
        found.add_table(table, later()).unwrap();
        assert!(!found.cut);
        found.count(7)
    }

    fn counted(state: u8, remote: &str, count: u64) -> OwnerlessObservation {
        OwnerlessObservation {
            net_ns: 7,
            state,
            remote: remote.parse().unwrap(),
            count,
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn destinations_by_port_and_clients_without() {
        assert_eq!(
            read(TCP.as_bytes()),
            [counted(6, "10.0.0.5:443", 2), counted(6, "127.0.0.1:0", 2)]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families() {
        let v6 = |text: &str| address(text).unwrap().to_string();
        assert_eq!(v6("00000000000000000000000001000000:0050"), "[::1]:80");
        assert_eq!(v6("B80D0120000000000000000001000000:0050"), "[2001:db8::1]:80");
        assert_eq!(v6("0000000000000000FFFF00000100007F:0050"), "127.0.0.1:80");
        for bad in [
            "",
            ":",
            "0100007F",
            "0100007:1",
            "0100007F:10000",
            "é100007:1F90",
            "-100007F:1F90",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_table_that_breaks_off_or_is_none() {
        for length in 0..TCP.len() {
            assert!(read(&TCP.as_bytes()[..length]).len() <= 3);
        }
        assert_eq!(read(b"\xff\xfe\n\n 1: 2 3\n"), []);
        let mut found = Ownerless::default();
        found.add_table(&vec![b'x'; 1 << 20][..], later()).unwrap();
        assert!(found.cut);
    }

    #[test]
    fn a_deadline_and_a_bound_are_told() {
        let mut found = Ownerless::default();
        found.add_table(TCP.as_bytes(), Instant::now()).unwrap();
        assert!(found.cut);
        let mut found = Ownerless::default();
        for port in 0..=COUNTS_MAX as u16 {
            found
                .sockets
                .push((6, 1, SocketAddr::from(([10, 0, 0, 1], port))));
        }
        assert_eq!(found.count(7).len(), COUNTS_MAX);
        assert!(found.cut);
    }

    /// Both ways tell the same of a connection that nobody accepts.
    #[test]
    fn netlink_and_proc_agree() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let mut by_proc = Ownerless::default();
        by_proc
            .add_table(std::fs::File::open("/proc/self/net/tcp").unwrap(), later())
            .unwrap();
        let by_netlink = Ownerless::of_own_namespace(later()).unwrap();
        let pending = (1, address.port(), client.local_addr().unwrap());
        for found in [by_proc, by_netlink] {
            assert!(found.listening.contains(&address.port()));
            assert!(found.sockets.contains(&pending), "{:?}", found.sockets);
        }
    }
}

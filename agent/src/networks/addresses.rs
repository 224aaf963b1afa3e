//! Addresses of one network namespace: /proc/PID/net/fib_trie for IPv4, /proc/PID/net/if_inet6 for IPv6.
//!
//! Scope: what the namespace takes for its own, loopback and broadcast left out. A table that is longer than what is
//! read of a file (a router's) is cut, and addresses may be missing then: nothing is made of an address that is not
//! known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The local addresses in the text of fib_trie: a line `|-- ADDRESS`, and below it one that says `host LOCAL`
/// (fib_trie_seq_show(), net/ipv4/fib_trie.c). Each comes up in several tables.
pub(super) fn of_trie(text: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim_end().parse().ok();
        } else if line.starts_with("+-- ") {
            leaf = None;
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
            && !address.is_loopback()
        {
            found.push(IpAddr::V4(address));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The addresses in the text of if_inet6: the first word of each line, 32 hexadecimal digits.
pub(super) fn of_interfaces(text: &[u8]) -> Vec<IpAddr> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .filter_map(|line| {
            let word = line.split_ascii_whitespace().next()?;
            let bits = u128::from_str_radix(word, 16).ok()?;
            Some(Ipv6Addr::from_bits(bits)).filter(|address| word.len() == 32 && !address.is_loopback())
        })
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &[u8] = b"Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.99.0.0\n        /24 link UNICAST\nLocal:\n  +-- 0.0.0.0/0 2 0 2\n     +-- 10.99.0.0/29 2 0 2\n        |-- 10.99.0.2\n           /32 host LOCAL\n        |-- 10.99.0.255\n           /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.99.0.2\n        /32 host LOCAL\n";

    #[test]
    fn local_addresses_and_no_others() {
        assert_eq!(of_trie(TRIE), ["10.99.0.2".parse::<IpAddr>().unwrap()]);
        let interfaces = b"00000000000000000000000000000001 01 80 10 80       lo\n\
            fd000000000000000000000000000002 02 40 00 80     eth0\nfe80 02 40 00 80 eth0\n";
        assert_eq!(of_interfaces(interfaces), ["fd00::2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn garbage_and_cut_text_give_no_address() {
        for text in [
            &b"\xff\xfe|-- x\n/32 host LOCAL"[..],
            b"|-- 10.0.0.1",
            b"/32 host LOCAL\n",
            b"",
        ] {
            assert!(of_trie(text).is_empty());
            assert!(of_interfaces(text).is_empty());
        }
    }
}

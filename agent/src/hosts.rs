//! Names that the host has for addresses: hosts(5).
//!
//! Scope: the first name of each address. No look-up is made for any other.
//!
//! Degradation policy: a file that cannot be read has no names. Of a long one (lists against advertisements have
//! hundreds of thousands of lines) only the beginning is read; what is no address or no name is left out.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use rung_diagnosis::observation::NameObservation;
use rustc_hash::FxHashSet;

/// Bytes of the file that are read.
const BYTES_MAX: u64 = 1 << 20;
/// Names that are kept.
const NAMES_MAX: usize = 4096;
/// Longest name (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Reads a file, normally /etc/hosts.
pub fn read(path: &Path) -> Vec<NameObservation> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::debug!(path = %path.display(), %error, "names of the host not read");
    }
    parse(&bytes)
}

/// Each line is an address, white space, its name, and perhaps aliases and a comment.
fn parse(bytes: &[u8]) -> Vec<NameObservation> {
    let mut known = FxHashSet::default();
    // The last line may have been cut off.
    let cut = bytes.len() as u64 == BYTES_MAX && bytes.last() != Some(&b'\n');
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut names: Vec<NameObservation> = Vec::new();
    let whole = lines.clone().count() - usize::from(cut);
    for name in lines.take(whole).filter_map(line) {
        if names.len() == NAMES_MAX {
            break;
        }
        if known.insert(name.address) {
            names.push(name);
        }
    }
    names
}

fn line(line: &[u8]) -> Option<NameObservation> {
    let line = line.split(|byte| *byte == b'#').next()?;
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let address = words.next()?;
    // Link-local addresses may carry their interface (RFC 4007, 11).
    let address = address.split_once('%').map_or(address, |(address, _)| address);
    let address: IpAddr = address.parse().ok()?;
    let name = words.next().filter(|name| is_name(name))?;
    // Names that stand for nothing are kept off the network by giving them the address of nothing.
    (!address.is_unspecified()).then(|| NameObservation {
        address: address.to_canonical(),
        name: name.to_owned(),
    })
}

/// Letters, digits, hyphens, dots, and underscores, which are seen though hosts(5) does not name them.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: impl AsRef<[u8]>) -> Vec<String> {
        let names = parse(text.as_ref()).into_iter();
        names
            .map(|name| format!("{} {}", name.address, name.name))
            .collect()
    }

    #[test]
    fn the_first_name_of_each_address() {
        let text = "127.0.0.1\tlocalhost\n# 10.0.0.1 commented\n\n10.0.0.5  db.internal db # the database\n\
            10.0.0.5 other\n::1 ip6-localhost\nfe80::1%lo0 router\n::ffff:10.0.0.6 mapped\n0.0.0.0 ads.example";
        assert_eq!(
            names(text),
            [
                "127.0.0.1 localhost",
                "10.0.0.5 db.internal",
                "::1 ip6-localhost",
                "fe80::1 router",
                "10.0.0.6 mapped"
            ]
        );
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        let text = b"10.0.0.1\n10.0.0.2 \x1b[31mred\n10.0.0.3 \xff\xfe\n300.0.0.1 a\nname 10.0.0.4\n\0\n10.0.0.5 a\0b\n\
            10.0.0.7 good\n";
        assert_eq!(names(text), ["10.0.0.7 good"]);
        assert_eq!(names(format!("10.0.0.1 {}", "a".repeat(254))).len(), 0);
    }

    #[test]
    fn long_files_are_cut() {
        let mut text = String::new();
        for number in 0..2 * NAMES_MAX {
            text += &format!("10.1.{}.{} host\n", number / 256, number % 256);
        }
        assert_eq!(parse(text.as_bytes()).len(), NAMES_MAX);
        let mut text = vec![b' '; BYTES_MAX as usize];
        let end = text.len() - b"\n10.0.0.1 shor".len();
        text[end..].copy_from_slice(b"\n10.0.0.1 shor");
        assert_eq!(parse(&text), []);
    }

    #[test]
    fn a_missing_file_has_none() {
        assert_eq!(read(Path::new("/nonexistent")), []);
    }
}

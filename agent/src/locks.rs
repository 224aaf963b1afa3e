//! The kernel's table of file locks, /proc/locks (proc_locks(5), `lock_get_status` in fs/locks.c).
//!
//! Scope: parsing its bytes. Reading the file makes the kernel hold every lock operation of the host for the time,
//! so a caller reads it only when some thread waits for a lock.
//!
//! Degradation policy: a row that does not parse is skipped and counted; the others stand.

use rung_diagnosis::observation::{FileId, LockKind, LockObservation};

/// The rows of the table, and how many could not be understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locks {
    /// Locks held and requests waiting, in the order of the table.
    pub rows: Vec<LockObservation>,
    /// Rows that did not parse.
    pub skipped: usize,
}

/// Parses the table.
pub fn parse(bytes: &[u8]) -> Locks {
    let mut locks = Locks::default();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match row(line) {
            Some(row) => locks.rows.push(row),
            None => locks.skipped += 1,
        }
    }
    if locks.skipped > 0 {
        tracing::debug!(skipped = locks.skipped, "rows of /proc/locks not understood");
    }
    locks
}

/// `1: POSIX  ADVISORY  WRITE 699 08:01:1047596 0 EOF`, or `1: -> POSIX ...` for a request that waits (with more
/// blanks before the arrow for one that waits for another request).
fn row(line: &[u8]) -> Option<LockObservation> {
    let line = str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.strip_suffix(':')?.parse().ok()?;
    let mut kind = words.next()?;
    let waiting = kind == "->";
    if waiting {
        kind = words.next()?;
    }
    let kind = match kind {
        "POSIX" | "ACCESS" => LockKind::Posix,
        "FLOCK" => LockKind::Flock,
        "OFDLCK" => LockKind::Ofd,
        "LEASE" | "DELEG" => LockKind::Lease,
        _ => return None,
    };
    // ADVISORY, MANDATORY, *NOINODE*; for leases ACTIVE, BREAKING, BREAKER.
    words.next()?;
    let exclusive = match words.next()? {
        "WRITE" | "RW" => true,
        "READ" | "UNLCK" | "NONE" => false,
        _ => return None,
    };
    // -1 for OFD locks, 0 for a process that this PID namespace does not see.
    let pid = words.next()?.parse::<i64>().ok()?;
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0);
    let file = file(words.next()?)?;
    Some(LockObservation {
        number,
        waiting,
        kind,
        exclusive,
        pid,
        file,
    })
}

/// `MAJ:MIN:INODE`, the device numbers in hexadecimal; `<none>:0` for a lock without a file.
fn file(word: &str) -> Option<FileId> {
    if word == "<none>:0" {
        return Some(FileId::default());
    }
    let mut parts = word.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode = parts.next()?.parse().ok()?;
    let whole = parts.next().is_none() && major < 1 << 12 && minor < 1 << 20;
    whole.then_some(FileId {
        device: device(major, minor),
        inode,
    })
}

/// A device number as [`FileId`] has it.
pub(crate) fn device(major: u32, minor: u32) -> u32 {
    major << 20 | minor
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From proc_locks(5) and from a host with a lease, an OFD lock and waiters.
    const SAMPLE: &str = "\
1: FLOCK  ADVISORY  WRITE 15171 fe:1a:32456 0 EOF
1: -> FLOCK  ADVISORY  WRITE 15172 fe:1a:32456 0 EOF
1:  -> FLOCK  ADVISORY  READ  15173 fe:1a:32456 0 EOF
2: POSIX  ADVISORY  READ  5433 08:01:7864448 128 128
3: OFDLCK ADVISORY  WRITE -1 08:01:8713209 0 EOF
4: LEASE  ACTIVE    READ  4001 00:2f:9 0 EOF
5: DELEG  BREAKING  UNLCK 4002 103:05:9 0 EOF
6: POSIX  *NOINODE* WRITE 0 <none>:0 10 20
";

    #[test]
    fn real_rows() {
        let locks = parse(SAMPLE.as_bytes());
        assert_eq!((locks.rows.len(), locks.skipped), (8, 0));
        let file = FileId {
            device: 0xfe << 20 | 0x1a,
            inode: 32456,
        };
        let held = LockObservation {
            number: 1,
            waiting: false,
            kind: LockKind::Flock,
            exclusive: true,
            pid: Some(15171),
            file,
        };
        assert_eq!(locks.rows[0], held);
        let waiting = LockObservation {
            waiting: true,
            pid: Some(15172),
            ..held
        };
        assert_eq!(locks.rows[1], waiting);
        assert!(locks.rows[2].waiting && !locks.rows[2].exclusive && locks.rows[2].number == 1);
        assert_eq!(locks.rows[4].pid, None);
        assert_eq!(locks.rows[4].kind, LockKind::Ofd);
        assert_eq!(locks.rows[5].kind, LockKind::Lease);
        assert_eq!(locks.rows[6].file.device, 0x103 << 20 | 5);
        assert_eq!((locks.rows[7].pid, locks.rows[7].file), (None, FileId::default()));
    }

    #[test]
    fn garbage_is_counted_and_the_rest_stands() {
        let text = "\n1: WHAT ADVISORY WRITE 1 08:01:2 0 EOF\nx: FLOCK ADVISORY WRITE 1 08:01:2 0 EOF\n\
            1: ->\n1: FLOCK ADVISORY WRITE 1 08:01 0 EOF\n1: FLOCK ADVISORY WRITE 1 fffff:01:7 0 EOF\n\
            2: FLOCK ADVISORY WRITE 7 08:01:2 0 EOF";
        let locks = parse(text.as_bytes());
        assert_eq!((locks.rows.len(), locks.skipped), (1, 5));
        assert_eq!(parse(b""), Locks::default());
        assert_eq!(parse(b"\xff\xfe\n").skipped, 1);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn mangled_rows_never_panic(at in 0..SAMPLE.len(), byte in any::<u8>()) {
            let mut bytes = SAMPLE.as_bytes().to_vec();
            bytes[at] = byte;
            parse(&bytes);
        }
    }

    #[test]
    fn a_live_lock_and_its_waiter_are_in_the_table() {
        use rustix::fs::{FlockOperation, flock, fstat, major, minor};
        let path = std::env::temp_dir().join(format!("rung-locks-{}", std::process::id()));
        let held = std::fs::File::create(&path).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let stat = fstat(&held).unwrap();
        let id = FileId {
            device: device(major(stat.st_dev), minor(stat.st_dev)),
            inode: stat.st_ino,
        };
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || flock(std::fs::File::open(path).unwrap(), FlockOperation::LockShared).unwrap()
        });
        let rows = || -> Vec<_> {
            let rows = parse(&std::fs::read("/proc/locks").unwrap()).rows;
            rows.into_iter()
                .filter(|row| row.file.inode == id.inode)
                .collect()
        };
        for _ in 0..200 {
            if rows().len() == 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let rows = rows();
        drop(held);
        waiter.join().unwrap();
        std::fs::remove_file(path).unwrap();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!((rows[0].waiting, rows[1].waiting), (false, true));
        assert_eq!(rows[0].pid, Some(std::process::id()));
        // Of overlay file systems stat(2) may report another device than the lock table.
        assert!(rows[0].file == id || rows[0].file.inode == id.inode);
    }
}

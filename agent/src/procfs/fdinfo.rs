//! /proc/PID/fdinfo/N (proc_pid_fdinfo(5)): flags of an open file, and what an epoll instance watches.
//!
//! Degradation policy: `None` for a file without flags; a watched row that does not parse makes the set incomplete.

use rung_diagnosis::observation::Watch;

use crate::syscalls::watch;

/// Watched descriptors that are listed of one epoll instance.
const WATCHED_MAX: usize = 512;

// include/uapi/asm-generic/fcntl.h; the access mode's values are the same on all architectures.
const O_ACCMODE: u32 = 0o3;
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_NONBLOCK: u32 = 0o4000;
const O_CLOEXEC: u32 = 0o2_000_000;

/// EPOLLWAKEUP, EPOLLONESHOT, EPOLLET, EPOLLEXCLUSIVE: modes, not events (EP_PRIVATE_BITS, fs/eventpoll.c).
const EPOLL_MODES: u32 = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31;

/// Flags of an open file description, and close-on-exec of the descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) nonblocking: bool,
    pub(super) close_on_exec: bool,
}

/// The line `flags:\t02000000`, octal.
pub(super) fn flags(bytes: &[u8]) -> Option<Flags> {
    let text = line(bytes, b"flags:").next()?;
    let bits = u32::from_str_radix(str::from_utf8(text).ok()?.trim(), 8).ok()?;
    let mode = bits & O_ACCMODE;
    Some(Flags {
        readable: mode != O_WRONLY,
        writable: mode == O_WRONLY || mode == O_RDWR,
        nonblocking: bits & O_NONBLOCK != 0,
        close_on_exec: bits & O_CLOEXEC != 0,
    })
}

/// The lines `tfd:        5 events:       19 data: ...`; and whether there are more, or some were not understood.
pub(super) fn watched(bytes: &[u8]) -> (Vec<Watch>, bool) {
    let mut set = Vec::new();
    let mut incomplete = false;
    for row in line(bytes, b"tfd:") {
        if set.len() == WATCHED_MAX {
            incomplete = true;
            break;
        }
        match target(row) {
            // Disarmed by EPOLLONESHOT: nothing is reported, not even a hang-up.
            Some((_, 0)) => {}
            Some((fd, events)) => set.push(watch(fd, events)),
            None => incomplete = true,
        }
    }
    (set, incomplete)
}

fn target(row: &[u8]) -> Option<(i32, u32)> {
    let mut words = str::from_utf8(row).ok()?.split_ascii_whitespace();
    let fd = words.next()?.parse().ok()?;
    let events = words
        .next()
        .filter(|word| *word == "events:")
        .and_then(|_| words.next())?;
    Some((fd, u32::from_str_radix(events, 16).ok()? & !EPOLL_MODES))
}

fn line<'a>(bytes: &'a [u8], key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter_map(move |line| line.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_pipes() {
        let read = flags(b"pos:\t0\nflags:\t02004000\nmnt_id:\t15\n").unwrap();
        assert!(read.readable && !read.writable && read.nonblocking && read.close_on_exec);
        let write = flags(b"pos:\t0\nflags:\t01\n").unwrap();
        assert!(!write.readable && write.writable && !write.nonblocking && !write.close_on_exec);
        let both = flags(b"flags:\t0100002\n").unwrap();
        assert!(both.readable && both.writable);
        assert_eq!(flags(b"pos:\t0\n"), None);
        assert_eq!(flags(b"flags:\t9\n"), None);
    }

    #[test]
    fn watched_by_epoll() {
        let text = b"pos:\t0\nflags:\t02000002\n\
            tfd:        5 events:       19 data:                5  pos:0 ino:61af sdev:7\n\
            tfd:        6 events: 8000001c data:                6  pos:0 ino:61af sdev:7\n\
            tfd:        7 events: 40000000 data:                7  pos:0 ino:61af sdev:7\n";
        let watch = |fd, read, write| Watch { fd, read, write };
        assert_eq!(
            watched(text),
            (vec![watch(5, true, false), watch(6, false, true)], false)
        );
        assert_eq!(watched(b"tfd: x events: 1\n"), (vec![], true));
        assert_eq!(watched(b""), (vec![], false));
        let many = "tfd: 1 events: 1 data: 1\n".repeat(WATCHED_MAX + 1);
        let (set, incomplete) = watched(many.as_bytes());
        assert!(set.len() == WATCHED_MAX && incomplete);
    }
}

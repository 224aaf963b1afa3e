//! The descriptor sets of poll(2) and select(2), read from the caller's memory.
//!
//! Degradation policy: at most the first 16 entries of a poll set and the first 512 descriptors of a select set are
//! looked at; what is beyond, or cannot be read, makes the set `incomplete`.

use rung_diagnosis::observation::{Call, Watch};

use super::UserMemory;

/// Entries of a poll set that are read.
const POLL_ENTRIES_MAX: u64 = 16;
/// Descriptors of a select set that are read.
const SELECT_DESCRIPTORS_MAX: usize = 512;

// include/uapi/asm-generic/poll.h
const POLLIN: u16 = 0x1;
const POLLPRI: u16 = 0x2;
const POLLOUT: u16 = 0x4;
const POLLRDNORM: u16 = 0x40;
const POLLRDBAND: u16 = 0x80;
const POLLWRNORM: u16 = 0x100;
const POLLWRBAND: u16 = 0x200;
const POLLRDHUP: u16 = 0x2000;
const READ_EVENTS: u16 = POLLIN | POLLPRI | POLLRDNORM | POLLRDBAND | POLLRDHUP;
const WRITE_EVENTS: u16 = POLLOUT | POLLWRNORM | POLLWRBAND;

/// What a mask of events waits for. A mask without any of them still reports hang-ups and errors, which the holders
/// of either end can bring about: that counts as both.
pub(crate) fn watch(fd: i32, events: u32) -> Watch {
    let read = events & u32::from(READ_EVENTS) != 0;
    let write = events & u32::from(WRITE_EVENTS) != 0;
    Watch {
        fd,
        read: read || !write,
        write: write || !read,
    }
}

/// `struct pollfd { int fd; short events; short revents; }` at `at`, `count` of them.
pub(super) fn poll(at: u64, count: u64, timed: bool, memory: &mut dyn UserMemory) -> Call {
    let entries = count.min(POLL_ENTRIES_MAX) as usize;
    let mut bytes = [0; POLL_ENTRIES_MAX as usize * 8];
    let bytes = &mut bytes[..entries * 8];
    let mut incomplete = count > POLL_ENTRIES_MAX;
    let mut watched = Vec::with_capacity(entries);
    if entries > 0 && memory.read(at, bytes) {
        for [fd @ .., e0, e1, _, _] in bytes.as_chunks::<8>().0 {
            let fd = i32::from_le_bytes(*fd);
            if fd >= 0 {
                watched.push(watch(fd, u32::from(u16::from_le_bytes([*e0, *e1]))));
            }
        }
    } else {
        incomplete |= entries > 0;
    }
    set(watched, incomplete, timed)
}

/// The `fd_set`s for reading, writing and exceptional conditions (which count as reading); each may be NULL.
pub(super) fn select(count: i32, sets: [u64; 3], timed: bool, memory: &mut dyn UserMemory) -> Call {
    let Ok(count) = usize::try_from(count) else {
        return set(Vec::new(), true, timed);
    };
    let looked_at = count.min(SELECT_DESCRIPTORS_MAX);
    // The kernel reads whole longs, FDS_BYTES() in include/linux/poll.h.
    let length = looked_at.div_ceil(64) * 8;
    let mut incomplete = count > SELECT_DESCRIPTORS_MAX && sets.iter().any(|at| *at != 0);
    let mut bits = [[0; SELECT_DESCRIPTORS_MAX / 8]; 3];
    for (at, bits) in sets.iter().zip(&mut bits) {
        if *at != 0 && length > 0 && !memory.read(*at, &mut bits[..length]) {
            *bits = [0; SELECT_DESCRIPTORS_MAX / 8];
            incomplete = true;
        }
    }
    let mut watched = Vec::new();
    for fd in 0..looked_at {
        let has = |set: &[u8]| set.get(fd / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0);
        let [read, write, except] = &bits;
        let (read, write) = (has(read) || has(except), has(write));
        if read || write {
            let fd = fd as i32;
            watched.push(Watch { fd, read, write });
        }
    }
    set(watched, incomplete, timed)
}

/// A set without descriptors is ended by the clock or by a signal only.
fn set(watched: Vec<Watch>, incomplete: bool, timed: bool) -> Call {
    match (watched.is_empty() && !incomplete, timed) {
        (true, true) => Call::Sleep,
        (true, false) => Call::Signal,
        (false, _) => Call::Poll { watched, incomplete },
    }
}

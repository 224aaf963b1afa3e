//! Clocks of this host.

use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// `CLOCK_MONOTONIC`, ns.
pub fn monotonic_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// `CLOCK_REALTIME`, ns since the Unix epoch.
pub fn unix_ns() -> i64 {
    nanoseconds(ClockId::Realtime) as i64
}

/// `CLOCK_BOOTTIME - CLOCK_MONOTONIC`: time spent suspended, ns.
pub fn suspended_ns() -> u64 {
    let before = nanoseconds(ClockId::Boottime);
    before.saturating_sub(monotonic_ns())
}

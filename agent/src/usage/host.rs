//! Memory, pressure, kills and threads of the host. A figure that cannot be read is 0 or `None`, as its field documents.

use std::os::fd::BorrowedFd;

use rung_diagnosis::observation::HostUsageObservation;

use super::groups::entry;
use super::limits::kilobytes;
use crate::procfs::files::Reader;

pub(super) fn read(proc: BorrowedFd<'_>, reader: &mut Reader) -> HostUsageObservation {
    let mut text = |file: &str| {
        let bytes = reader.whole(proc, file).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let memory = text("meminfo");
    let number = |text: String| text.trim().parse::<u64>().ok();
    let most = [
        number(text("sys/kernel/threads-max")),
        number(text("sys/kernel/pid_max")),
    ];
    HostUsageObservation {
        memory_bytes: kilobytes(&memory, "MemTotal:").unwrap_or(0),
        available_bytes: kilobytes(&memory, "MemAvailable:").unwrap_or(0),
        swap_free_bytes: kilobytes(&memory, "SwapFree:").unwrap_or(0),
        kills: entry(&text("vmstat"), "oom_kill"),
        pressure_percent: pressure(&text("pressure/memory")),
        threads_max: most.into_iter().flatten().min().unwrap_or(0),
    }
}

/// `some avg10=1.23 avg60=...` (Documentation/accounting/psi.rst).
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    let percent: f64 = some.split_ascii_whitespace().next()?.parse().ok()?;
    percent.is_finite().then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_the_share_of_the_last_ten_seconds() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(12.5));
        assert_eq!(pressure(""), None);
        assert_eq!(pressure("some avg10=nan avg60=0"), None);
    }
}

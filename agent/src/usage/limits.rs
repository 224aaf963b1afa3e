//! Limits and control groups of one process.

use std::os::fd::BorrowedFd;

use rung_diagnosis::observation::ProcessLimitsObservation;

use super::processes::path;
use crate::procfs::files::Reader;

/// Reads them; `None` if the process is gone or does not let them be read.
pub(super) fn read(
    proc: BorrowedFd<'_>,
    (pid, start_ns): (u32, u64),
    reader: &mut Reader,
    buffer: &mut String,
) -> Option<ProcessLimitsObservation> {
    let mut limits = ProcessLimitsObservation {
        pid,
        start_ns,
        ..ProcessLimitsObservation::default()
    };
    let rows = reader.record(proc, path(buffer, pid, "limits")).ok()?;
    let rows = String::from_utf8_lossy(rows);
    limits.descriptors = soft(&rows, "Max open files");
    limits.virtual_bytes = soft(&rows, "Max address space");
    limits.data_bytes = soft(&rows, "Max data size");
    if let Ok(status) = reader.record(proc, path(buffer, pid, "status")) {
        limits.swapped_bytes = kilobytes(&String::from_utf8_lossy(status), "VmSwap:").unwrap_or(0);
    }
    if let Ok(groups) = reader.record(proc, path(buffer, pid, "cgroup")) {
        let groups = String::from_utf8_lossy(groups);
        limits.memory_group = group(&groups, "memory");
        limits.pids_group = group(&groups, "pids");
    }
    Some(limits)
}

/// The soft limit in a row of proc_pid_limits(5); `None` for `unlimited`.
fn soft(rows: &str, name: &str) -> Option<u64> {
    let row = rows.lines().find_map(|row| row.strip_prefix(name))?;
    row.split_ascii_whitespace().next()?.parse().ok()
}

/// The bytes of a line such as `VmSwap:     12 kB`.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The path of a process in the hierarchy with this controller: version 1's own, else that of version 2 (cgroups(7)).
fn group(rows: &str, controller: &str) -> String {
    let mut unified = "";
    for row in rows.lines() {
        let mut fields = row.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|one| one == controller) {
            return path.to_owned();
        }
        if number == "0" && controllers.is_empty() {
            unified = path;
        }
    }
    unified.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limits_are_the_first_column() {
        let rows = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max data size             unlimited            unlimited            bytes     \n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(soft(rows, "Max open files"), Some(1024));
        assert_eq!(soft(rows, "Max data size"), None);
        assert_eq!(soft(rows, "Max address space"), None);
    }

    #[test]
    fn version_1_has_a_path_for_each_controller_and_version_2_one_for_all() {
        let both = "9:name=systemd:/\n8:pids:/a\n4:cpu,memory:/b:c\n0::/unified\n";
        assert_eq!(group(both, "pids"), "/a");
        assert_eq!(group(both, "memory"), "/b:c");
        assert_eq!(
            group("0::/system.slice/x.service\n", "memory"),
            "/system.slice/x.service"
        );
        assert_eq!(group("broken\n", "memory"), "");
    }

    #[test]
    fn kilobytes_become_bytes() {
        assert_eq!(
            kilobytes("VmRSS: 1 kB\nVmSwap:\t     12 kB\n", "VmSwap:"),
            Some(12 << 10)
        );
        assert_eq!(kilobytes("VmSwap: 99999999999999999999 kB\n", "VmSwap:"), None);
    }
}

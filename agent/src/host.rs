//! Facts about the host that do not change while the tool runs.
//!
//! Scope: name, kernel, CPUs and memory by sysinfo; boot id and the largest pid from /proc/sys; names of addresses from
//! hosts(5).
//!
//! Degradation policy: a fact that cannot be read is left empty or 0, as its field documents.

use std::path::Path;

use rung_diagnosis::observation::HostObservation;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Reads the facts; `proc` is normally /proc, `hosts` /etc/hosts.
pub fn observe(proc: &Path, hosts: &Path) -> HostObservation {
    let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(refresh);
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get());
    HostObservation {
        names: crate::hosts::read(hosts),
        name: System::host_name().unwrap_or_default(),
        kernel: System::kernel_version().unwrap_or_default(),
        boot_id: read(proc, "sys/kernel/random/boot_id").unwrap_or_default(),
        cpus: online_cpus(proc).unwrap_or_else(|| u32::try_from(cpus).unwrap_or(u32::MAX)),
        memory_bytes: system.map_or(0, |system| system.total_memory()),
        pid_max: read(proc, "sys/kernel/pid_max")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
    }
}

fn read(proc: &Path, file: &str) -> Option<String> {
    let path = proc.join(file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "fact of the host not read");
            None
        }
    }
}

/// CPUs of the host, not of this process's affinity mask: the `cpuN` rows of /proc/stat.
fn online_cpus(proc: &Path) -> Option<u32> {
    let stat = std::fs::read(proc.join("stat")).ok()?;
    let cpus = stat
        .split(|byte| *byte == b'\n')
        .filter(|line| {
            line.strip_prefix(b"cpu")
                .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit))
        })
        .count();
    u32::try_from(cpus).ok().filter(|cpus| *cpus > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_facts_are_there() {
        let host = observe(Path::new("/proc"), Path::new("/etc/hosts"));
        assert!(!host.name.is_empty() && !host.kernel.is_empty());
        assert_eq!(host.boot_id.len(), 36);
        assert!(host.cpus > 0 && host.memory_bytes > 1 << 20 && host.pid_max > 300);
    }

    #[test]
    fn missing_facts_are_left_out() {
        let host = observe(Path::new("/nonexistent"), Path::new("/nonexistent"));
        assert_eq!(
            (host.boot_id.as_str(), host.pid_max, host.names.len()),
            ("", 0, 0)
        );
        assert!(host.cpus > 0);
    }
}

//! What a report says of a process besides what the picture holds: its command line and control group.
//!
//! Read for the few processes that a report names, by the procfs crate: the hot path has readers of its own.

use std::io::Read;
use std::path::Path;

use procfs::process::Process;
use rung_diagnosis::observation::{ProcessDetail, TICK_NS};

use crate::redact;

/// Characters of a command line that are shown.
const COMMAND_LIMIT: usize = 200;
/// Bytes of a command line that are read: enough for that many characters with long secrets in between.
const COMMAND_READ: u64 = 16 * 1024;

/// The details of a process; what cannot be read, and everything of a process that has gone, is left empty.
///
/// `root` is where proc is mounted; `start_ns` (`CLOCK_BOOTTIME`) tells the process from a later one of the same pid.
pub(crate) fn detail(root: &Path, pid: u32, start_ns: u64) -> ProcessDetail {
    let mut detail = ProcessDetail {
        pid,
        start_ns,
        ..ProcessDetail::default()
    };
    let Ok(process) = Process::new_with_root(root.join(pid.to_string())) else {
        return detail;
    };
    let command = command(&process);
    let cgroup = cgroup(&process);
    // Read after the rest, through the same directory: then all of it is of this process.
    if process
        .stat()
        .is_ok_and(|stat| stat.starttime == start_ns / TICK_NS)
    {
        detail.command = command;
        detail.cgroup = cgroup;
    }
    detail
}

fn command(process: &Process) -> Option<String> {
    let mut bytes = Vec::new();
    let file = process.open_relative("cmdline").ok()?;
    file.take(COMMAND_READ).read_to_end(&mut bytes).ok()?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return None;
    }
    let arguments: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    Some(redact::command_line(&arguments, COMMAND_LIMIT))
}

/// The path in the unified hierarchy; where that is empty or the root, the longest among the version 1 controllers
/// (cgroups(7)).
fn cgroup(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?;
    let unified = |pathname: &str, hierarchy: u32| hierarchy == 0 && pathname != "/";
    groups
        .into_iter()
        .max_by_key(|group| (unified(&group.pathname, group.hierarchy), group.pathname.len()))
        .map(|group| group.pathname)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_own_process_and_nothing_of_another_start() {
        let pid = std::process::id();
        let proc = Path::new("/proc");
        let start = Process::myself().unwrap().stat().unwrap().starttime * TICK_NS;
        let found = detail(proc, pid, start + TICK_NS / 2);
        assert!(found.command.is_some_and(|command| command.contains("rung")));
        assert!(found.cgroup.is_some_and(|path| path.starts_with('/')));
        let other = detail(proc, pid, start + 5 * TICK_NS);
        assert_eq!((other.command, other.cgroup), (None, None));
    }

    #[test]
    fn a_process_that_has_gone_leaves_empty_details() {
        let found = detail(Path::new("/proc"), u32::MAX >> 1, 1);
        assert_eq!((found.command, found.cgroup), (None, None));
    }
}

//! What /proc says about a process or thread, read in the plainest way.
//!
//! Deliberately apart from rung's own readers: the lab must prove its faults by something that is not the
//! thing under test.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The fields of /proc/PID/stat or /proc/PID/task/TID/stat that the lab uses (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The name as the kernel holds it: any bytes, also `)` and non-UTF-8.
    pub comm: Vec<u8>,
    /// The state letter: R, S, D, T, t, Z, X.
    pub state: char,
    /// The parent's pid in the reader's pid namespace.
    pub ppid: i32,
    /// The process group.
    pub pgrp: i32,
    /// The session.
    pub session: i32,
    /// User and system time, in clock ticks.
    pub cpu_ticks: u64,
    /// When it started, in clock ticks since boot. Together with the pid, an identity.
    pub start_ticks: u64,
}

/// Takes one line of a stat file apart; `None` if it is not one.
///
/// The name may hold `)` and spaces, so it ends at the *last* `)`.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|&byte| byte == b'(')?;
    let close = line.iter().rposition(|&byte| byte == b')')?;
    let comm = line.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let signed = |index: usize| fields.get(index)?.parse::<i32>().ok();
    Some(Stat {
        comm,
        state: fields.first()?.chars().next()?,
        ppid: signed(1)?,
        pgrp: signed(2)?,
        session: signed(3)?,
        cpu_ticks: number(11)? + number(12)?,
        start_ticks: number(19)?,
    })
}

/// The stat of a process; `None` if it is gone.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The stat of one thread; `None` if it is gone.
pub fn thread_stat(pid: i32, tid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?)
}

/// The system call a thread is blocked in, with its six arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The number, as in `libc::SYS_*`.
    pub number: i64,
    /// The arguments as the registers hold them.
    pub args: [u64; 6],
}

/// Takes /proc/PID/syscall apart: `None` while running or when blocked outside a system call.
pub fn parse_syscall(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    if number < 0 {
        return None;
    }
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
    }
    Some(Call { number, args })
}

/// The system call thread `tid` of `pid` is blocked in, if it is.
pub fn syscall(pid: i32, tid: i32) -> Option<Call> {
    parse_syscall(&fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?)
}

/// Voluntary and involuntary context switches of a thread, added up.
pub fn switches(pid: i32, tid: i32) -> Option<u64> {
    let status = fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    Some(
        status_number(&status, "voluntary_ctxt_switches")?
            + status_number(&status, "nonvoluntary_ctxt_switches")?,
    )
}

/// The last number of the line `key:` of a status file. For NSpid that is the innermost namespace's.
pub fn status_number(status: &[u8], key: &str) -> Option<u64> {
    let prefix = format!("{key}:");
    let line = status
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(prefix.as_bytes()))?;
    std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// The threads of a process, lowest first; empty if it is gone.
pub fn tids(pid: i32) -> Vec<i32> {
    numbers_in(Path::new(&format!("/proc/{pid}/task")))
}

/// Every process there is, lowest first.
pub fn pids() -> Vec<i32> {
    numbers_in(Path::new("/proc"))
}

fn numbers_in(dir: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// The processes whose parent is `pid`.
pub fn children(pid: i32) -> Vec<i32> {
    pids()
        .into_iter()
        .filter(|&child| stat(child).is_some_and(|stat| stat.ppid == pid))
        .collect()
}

/// The child of `pid` named `comm`, if there is one.
pub fn child_named(pid: i32, comm: &str) -> Option<i32> {
    children(pid)
        .into_iter()
        .find(|&child| stat(child).is_some_and(|stat| stat.comm == comm.as_bytes()))
}

/// The thread of `pid` named `comm`, if there is one.
pub fn thread_named(pid: i32, comm: &str) -> Option<i32> {
    tids(pid)
        .into_iter()
        .find(|&tid| thread_stat(pid, tid).is_some_and(|stat| stat.comm == comm.as_bytes()))
}

/// The thread of host process `pid` that its own pid namespace calls `inner`.
pub fn host_tid(pid: i32, inner: i32) -> Result<i32> {
    tids(pid)
        .into_iter()
        .find(|tid| {
            fs::read(format!("/proc/{pid}/task/{tid}/status"))
                .ok()
                .and_then(|status| status_number(&status, "NSpid"))
                == u64::try_from(inner).ok()
        })
        .with_context(|| format!("process {pid} has no thread that its namespace calls {inner}"))
}

/// Whether the process is there and is not a zombie.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// How many child processes of `pid` are zombies.
pub fn zombies_of(pid: i32) -> usize {
    pids()
        .into_iter()
        .filter_map(stat)
        .filter(|stat| stat.ppid == pid && stat.state == 'Z')
        .count()
}

/// What a process and each of its threads are doing, for error messages.
pub fn describe(pid: i32) -> String {
    let Some(stat) = stat(pid) else {
        return format!("process {pid} is gone");
    };
    let mut text = format!(
        "process {pid} ({}) {}",
        String::from_utf8_lossy(&stat.comm),
        stat.state
    );
    for tid in tids(pid).into_iter().take(12) {
        let state = thread_stat(pid, tid).map_or('?', |stat| stat.state);
        let call = syscall(pid, tid).map_or_else(
            || "no system call".to_owned(),
            |call| format!("system call {}", call.number),
        );
        text.push_str(&format!("; thread {tid} {state} {call}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 1 2 3 0 -1 4 5 6 7 8 11 12 0 0 20 0 1 0 987 0 0";

    #[test]
    fn the_name_ends_at_the_last_parenthesis() {
        let stat = parse_stat(format!("77 (a) R 1 () {TAIL}").as_bytes()).unwrap();
        assert_eq!(stat.comm, b"a) R 1 (");
        assert_eq!((stat.state, stat.ppid, stat.pgrp, stat.session), ('S', 1, 2, 3));
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (23, 987));
    }

    #[test]
    fn a_name_may_be_any_bytes() {
        let line = [b"77 (\xff\xfe\n) ".as_slice(), TAIL.as_bytes()].concat();
        assert_eq!(parse_stat(&line).unwrap().comm, b"\xff\xfe\n");
    }

    #[test]
    fn torn_lines_are_no_stat() {
        for line in ["", "77", "77 (x", "77 (x)", "77 (x) S 1", ")77("] {
            assert_eq!(parse_stat(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn syscall_lines() {
        assert_eq!(parse_syscall("running\n"), None);
        assert_eq!(parse_syscall("-1 0x7ffc 0x7f\n"), None);
        let call = parse_syscall("202 0x5581 0x80 0x2 0x0 0x0 0x0 0x7ffd 0x7f92\n").unwrap();
        assert_eq!((call.number, call.args[0], call.args[2]), (202, 0x5581, 2));
    }

    #[test]
    fn the_innermost_namespace_pid_is_the_last() {
        let status = b"Name:\t\xff\nNSpid:\t4711\t2\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!(status_number(status, "NSpid"), Some(2));
        assert_eq!(status_number(status, "voluntary_ctxt_switches"), Some(5));
        assert_eq!(status_number(status, "Threads"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(alive(me) && tids(me).contains(&me) && switches(me, me).is_some());
        assert!(describe(me).contains("thread"));
    }
}

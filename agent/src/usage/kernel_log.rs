//! The kernel's log, read for what it tells of kills for want of memory.
//!
//! Scope: records of the kernel itself in /dev/kmsg (Documentation/ABI/testing/dev-kmsg); what programs write there has
//! another facility and is left out. Three lines tell of a kill (mm/oom_kill.c): who asked ("invoked oom-killer"), under
//! which constraint ("oom-kill:constraint="), and who was killed ("Killed process"). The first two are rate-limited in the
//! kernel and may be missing.
//!
//! Degradation policy: a log that cannot be read is declared; records that were overwritten are passed over. The first
//! reading goes through the log from its begin and ends after [`FIRST_BUDGET`]. Pids in the log are those of the first PID
//! namespace, so elsewhere it is not used.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::{Comm, OomKillObservation, View};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::{blind, partial};

const FIRST_BUDGET: Duration = Duration::from_millis(50);
/// Records are at most about 1 KiB (CONSOLE_EXT_LOG_MAX is 8 KiB).
const RECORD_BYTES: usize = 8192;
/// Kills remembered of one reading.
const KILLS_MAX: usize = 256;
/// The first PID namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h).
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// See the module.
#[derive(Debug)]
pub(super) struct KernelLog {
    path: PathBuf,
    /// `None` before the first reading.
    file: Option<Result<OwnedFd, View>>,
    /// The end was not reached in time.
    behind: bool,
    parser: Parser,
}

impl KernelLog {
    pub(super) fn new(path: &Path) -> Self {
        KernelLog {
            path: path.to_owned(),
            file: None,
            behind: false,
            parser: Parser::default(),
        }
    }

    /// The kills since the last reading.
    pub(super) fn read(&mut self, proc: BorrowedFd<'_>) -> Vec<OomKillObservation> {
        let path = &self.path;
        let Ok(file) = self.file.get_or_insert_with(|| open(proc, path)) else {
            return Vec::new();
        };
        let deadline = Instant::now() + FIRST_BUDGET;
        let mut record = [0; RECORD_BYTES];
        let mut kills = Vec::new();
        let mut records = 0_u32;
        self.behind = false;
        loop {
            match rustix::io::read(&*file, &mut record) {
                Ok(0) => break,
                Ok(length) => {
                    if let Some(kill) = self.parser.record(record.get(..length).unwrap_or_default())
                        && kills.len() < KILLS_MAX
                    {
                        kills.push(kill);
                    }
                }
                // Overwritten before it was read, or interrupted: the next one.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => break,
            }
            records += 1;
            if records.is_multiple_of(64) && Instant::now() >= deadline {
                self.behind = true;
                break;
            }
        }
        kills
    }

    pub(super) fn view(&self) -> View {
        match &self.file {
            Some(Err(view)) => view.clone(),
            _ if self.behind => partial(
                "the kernel's log is long and was not read to its end",
                "look for longer",
            ),
            _ => View::Full,
        }
    }
}

fn open(proc: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, View> {
    let namespace = readlinkat(proc, "self/ns/pid", Vec::new());
    if namespace.is_ok_and(|name| name.to_bytes() != FIRST_NAMESPACE.as_bytes()) {
        return Err(blind(
            "the kernel's log names processes by their ids on the host, which are not known in this PID namespace",
            "run in the host's PID namespace",
        ));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| {
        blind(
            &format!("cannot read the kernel's log {}: {error}", path.display()),
            "run as root (CAP_SYSLOG)",
        )
    })
}

/// Puts the lines of one kill together.
#[derive(Debug, Default)]
struct Parser {
    invoker: Comm,
    constraint: String,
    group: Option<String>,
    task: Option<u32>,
}

impl Parser {
    /// Takes one record `priority,sequence,microseconds,flags;message`, and gives a kill if this was its last line.
    fn record(&mut self, record: &[u8]) -> Option<OomKillObservation> {
        let text = String::from_utf8_lossy(record);
        let (prefix, message) = text.split_once(';')?;
        let message = message.lines().next()?;
        let mut prefix = prefix.split(',');
        let priority: u32 = prefix.next()?.parse().ok()?;
        let at_us: u64 = prefix.nth(1)?.parse().ok()?;
        // Facility 0 is the kernel (syslog(3)).
        if priority >> 3 != 0 {
            return None;
        }
        if let Some((invoker, _)) = message.split_once(" invoked oom-killer: ") {
            *self = Parser {
                invoker: Comm::from_bytes(invoker.as_bytes()),
                ..Parser::default()
            };
        } else if let Some(facts) = message.strip_prefix("oom-kill:") {
            self.constraint(facts);
        } else if let Some((_, killed)) = message.split_once("Killed process ") {
            return self.kill(killed, at_us.saturating_mul(1000));
        }
        None
    }

    /// `constraint=CONSTRAINT_MEMCG,nodemask=(null),...,oom_memcg=/a,task_memcg=/a/b,task=hog,pid=7,uid=0`
    fn constraint(&mut self, facts: &str) {
        let between = |from: &str, to: &str| {
            let (_, rest) = facts.split_once(from)?;
            Some(rest.split_once(to)?.0.to_owned())
        };
        self.constraint = between("constraint=", ",").unwrap_or_default();
        self.group = between(",oom_memcg=", ",task_memcg=");
        // The command name before it may hold anything.
        let pid = facts.rsplit_once(",pid=").map(|(_, rest)| rest);
        self.task = pid.and_then(|rest| rest.split(',').next()?.parse().ok());
    }

    /// `7 (hog) total-vm:1kB, anon-rss:2kB, file-rss:3kB, ...`
    fn kill(&mut self, killed: &str, at_ns: u64) -> Option<OomKillObservation> {
        let told = std::mem::take(self);
        let (pid, rest) = killed.split_once(" (")?;
        let victim = pid.parse().ok()?;
        let (comm, sizes) = rest.rsplit_once(") total-vm:")?;
        let anonymous = sizes
            .split_once("anon-rss:")
            .and_then(|(_, rest)| rest.split_once("kB")?.0.parse::<u64>().ok());
        // With memory.oom.group, and for processes that share memory with the victim, more are killed than the lines above
        // tell of: the domain is the same.
        Some(OomKillObservation {
            at_ns,
            victim,
            comm: Comm::from_bytes(comm.as_bytes()),
            group: told.group,
            constraint: told.constraint,
            invoker: told.invoker,
            anonymous_bytes: anonymous.unwrap_or(0).saturating_mul(1024),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: [&str; 4] = [
        "4,900,100000000,-;client invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n SUBSYSTEM=x\n",
        "6,901,100000010,-;Memory cgroup stats for /lab/x:\n",
        "6,902,100000020,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/lab,task_memcg=/lab/x,task=h,pid=9) x,pid=77,uid=0\n",
        "3,903,100000030,-;Memory cgroup out of memory: Killed process 77 (h,pid=9) x) total-vm:70000kB, anon-rss:60000kB, file-rss:1kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0\n",
    ];

    fn parse<'a>(records: impl IntoIterator<Item = &'a str>) -> Vec<OomKillObservation> {
        let mut parser = Parser::default();
        records
            .into_iter()
            .filter_map(|record| parser.record(record.as_bytes()))
            .collect()
    }

    #[test]
    fn a_kill_is_told_with_constraint_group_and_invoker() {
        let kills = parse(STORY);
        let [kill] = kills.as_slice() else {
            panic!("{kills:?}")
        };
        assert_eq!((kill.at_ns, kill.victim), (100_000_030_000, 77));
        assert_eq!(kill.comm.to_string(), "h,pid=9) x");
        assert_eq!(kill.group.as_deref(), Some("/lab"));
        assert_eq!(kill.constraint, "CONSTRAINT_MEMCG");
        assert_eq!(kill.invoker.to_string(), "client");
        assert_eq!(kill.anonymous_bytes, 60_000 << 10);
    }

    #[test]
    fn a_kill_of_the_host_has_no_group_and_one_without_its_lines_no_constraint() {
        let global = "6,1,5,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/a,task=hog,pid=5,uid=0\n";
        let killed =
            "3,2,6,-;Out of memory: Killed process 5 (hog) total-vm:1kB, anon-rss:2kB, file-rss:3kB\n";
        let kills = parse([global, killed, killed]);
        assert_eq!(kills[0].constraint, "CONSTRAINT_NONE");
        assert_eq!(
            (kills[0].group.as_deref(), kills[1].constraint.as_str()),
            (None, "")
        );
    }

    #[test]
    fn what_programs_write_into_the_log_tells_nothing() {
        // Facility 1, user.
        let forged = STORY.map(|record| format!("1{record}"));
        assert!(parse(forged.iter().map(String::as_str)).is_empty());
        let broken = [
            "",
            ";",
            "3",
            "3,1,x,-;Killed process 5 (a) total-vm:1kB",
            "3,1,1,-;Killed process x",
        ];
        assert!(parse(broken).is_empty());
    }
}

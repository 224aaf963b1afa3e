//! Reports made by hand, and a console to run commands in.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ffi::OsString;
use std::io::{BufReader, Read};

use rung_cli::console::{Console, Status};
use rung_cli::screen::Screen;
use rung_diagnosis::finding::{
    ChainLink, Confidence, Evidence, Finding, Other, Role, Severity, Subject, Value,
};
use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::Source;
use rung_diagnosis::report::{
    Coverage, HostFacts, PictureFacts, Report, SCHEMA, Status as Seen, WindowFacts,
};

/// What a command wrote and ended with.
pub(crate) struct Ran {
    pub(crate) status: Status,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs something in a console that reads `input`, which is no terminal.
pub(crate) fn within(input: &str, act: impl FnOnce(&mut Console<'_>) -> Status) -> Ran {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut input = BufReader::new(input.as_bytes().take(1 << 20));
    let status = act(&mut Console {
        input: &mut input,
        input_is_terminal: false,
        output: &mut output,
        errors: &mut errors,
        errors_are_watched: false,
        screen: Screen::plain(),
    });
    Ran {
        status,
        output: String::from_utf8(output).expect("output is text"),
        errors: String::from_utf8(errors).expect("errors are text"),
    }
}

/// Runs a command line.
pub(crate) fn rung(line: &str, input: &str) -> Ran {
    let words = std::iter::once("rung")
        .chain(line.split_whitespace())
        .map(OsString::from);
    within(input, |console| rung_cli::run(words, console))
}

pub(crate) fn subject(pid: u32, comm: &str) -> Subject {
    Subject {
        pid,
        tid: None,
        comm: comm.into(),
        start_ticks: 1234,
        cgroup: None,
        command: None,
        flow: None,
    }
}

pub(crate) fn other(role: Role, party: Subject) -> Other {
    Other { role, party }
}

pub(crate) fn link(thread: u32, comm: &str, waits: &str, on: Option<u32>, ends: Option<&str>) -> ChainLink {
    ChainLink {
        thread,
        comm: comm.into(),
        waits: waits.into(),
        on,
        ends: ends.map(str::to_owned),
    }
}

pub(crate) fn fact(signal: &str, value: impl Into<Value>, unit: &str) -> Evidence {
    Evidence::new(signal, value, unit, Source::BpfIter)
}

pub(crate) fn finding(mode: Mode, subject: Subject, summary: &str) -> Finding {
    Finding {
        id: format!("{mode}:{}:1", subject.pid),
        mode,
        rung: mode.rung(),
        severity: Severity::Critical,
        confidence: Confidence::Proven,
        cause: None,
        subject,
        others: Vec::new(),
        since: Some("2026-11-24T03:10:05Z".into()),
        age_seconds: Some(724.0),
        summary: summary.into(),
        evidence: Vec::new(),
        chain: Vec::new(),
        guidance: mode,
    }
}

/// A pipe whose reader sleeps.
pub(crate) fn pipe_stall() -> Finding {
    let mut sleep = subject(4242, "sleep");
    sleep.command = Some("sleep 300".into());
    sleep.cgroup = Some("/user.slice".into());
    let mut cat = subject(4241, "cat");
    cat.command = Some("cat /dev/zero".into());
    Finding {
        others: vec![other(Role::Writer, cat)],
        evidence: vec![
            fact("pipe_used_slots", 16_u64, "slots"),
            fact("pipe_ring_size", 16_u64, "slots"),
            fact("pipe_stood_still", 724.04, "seconds"),
        ],
        chain: vec![
            link(4241, "cat", "write, pipe full", Some(4242), None),
            link(4242, "sleep", "nanosleep", None, Some("the clock")),
        ],
        ..finding(
            Mode::PipeStall,
            sleep,
            "sleep (pid 4242) does not read a pipe that is full",
        )
    }
}

/// A symptom of the pipe.
pub(crate) fn contention(pid: u32, cause: &str) -> Finding {
    Finding {
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        cause: Some(cause.into()),
        age_seconds: Some(360.0),
        ..finding(
            Mode::LockContention,
            subject(pid, "worker"),
            &format!("7 threads of worker (pid {pid}) queue for a lock whose owner writes to that pipe"),
        )
    }
}

/// Two threads that wait for each other's mutexes.
pub(crate) fn deadlock() -> Finding {
    let thread = |tid| Subject {
        tid: Some(tid),
        ..subject(4224, "abba")
    };
    Finding {
        others: vec![other(Role::Owner, thread(4227))],
        evidence: vec![
            fact("futex_owner", 4227_u32, "tid"),
            fact("futex_owner", 4226_u32, "tid"),
        ],
        chain: vec![
            link(4226, "abba", "mutex 0x5612b845c0a0", Some(4227), None),
            link(4227, "abba", "mutex 0x5612b845c0e0", Some(4226), None),
        ],
        age_seconds: Some(3600.2),
        ..finding(
            Mode::Deadlock,
            thread(4226),
            "threads 4226 and 4227 of abba wait for each other's mutexes",
        )
    }
}

pub(crate) fn notice(pid: u32, comm: &str) -> Finding {
    Finding {
        severity: Severity::Notice,
        confidence: Confidence::Suspected,
        ..finding(
            Mode::Orphan,
            subject(pid, comm),
            &format!("{comm} (pid {pid}) outlived its parent"),
        )
    }
}

/// Every mode is found, or has what a source without sockets says of it.
pub(crate) fn coverage(findings: &[Finding]) -> Vec<Coverage> {
    let entry = |&mode: &Mode| {
        let found = findings.iter().any(|finding| finding.mode == mode);
        let (status, why, remedy, needs_seconds) = match (found, mode.rung().number(), mode) {
            (true, ..) => (Seen::Observed, None, None, None),
            (_, 1, _) => (Seen::NeedsLonger, None, None, Some(30.0)),
            (_, 2 | 3, Mode::ProcessChurn) => {
                let why = "forks of processes that ended between two pictures were not counted";
                (Seen::Clear, Some(why), Some("run it as root"), None)
            }
            (_, 2 | 3, _) => (Seen::Clear, None, None, None),
            (_, 4, _) => {
                let why = "sockets of other network namespaces cannot be read without CAP_SYS_ADMIN";
                (Seen::CouldNotObserve, Some(why), Some("run it as root"), None)
            }
            _ => (
                Seen::CouldNotObserve,
                Some("one host does not show it"),
                Some("`rung classify`"),
                None,
            ),
        };
        Coverage {
            mode,
            status,
            why: why.map(str::to_owned),
            remedy: remedy.map(str::to_owned),
            needs_seconds,
        }
    };
    Mode::ALL.iter().map(entry).collect()
}

pub(crate) fn report(findings: Vec<Finding>) -> Report {
    Report {
        schema: SCHEMA.into(),
        host: HostFacts {
            name: "web-1".into(),
            kernel: "6.18.44".into(),
            boot_id: "5b2f".into(),
        },
        window: WindowFacts {
            start: "2026-11-24T03:22:09.120Z".into(),
            seconds: 5.0,
        },
        picture: PictureFacts {
            source: Source::BpfIter,
            pictures: 6,
            processes: 312,
            threads: 1480,
            descriptors: 20_411,
            torn_rows: 2,
            walk_ms: 3.27,
        },
        root_rung: findings
            .iter()
            .filter(|found| found.cause.is_none())
            .map(|found| found.rung)
            .min(),
        coverage: coverage(&findings),
        findings,
    }
}

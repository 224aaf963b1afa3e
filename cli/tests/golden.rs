//! Reports as text, compared with the files in `golden/`. `UPDATE_GOLDEN=1 cargo test -p rung-cli` writes them anew.

mod support;

use std::path::Path;

use rung_agent::engine::Request;
use rung_cli::report;
use rung_cli::screen::Screen;
use rung_cli::why;
use rung_cli::wrap::columns;
use rung_diagnosis::finding::{Finding, Flow, Role, Subject};
use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::Source;
use rung_diagnosis::report::{PictureFacts, Report, Status, WindowFacts};
use rung_diagnosis::why::{Prospect, ThreadWait};
use support::{contention, deadlock, finding, link, notice, other, pipe_stall, report, subject};

/// Compares with the file, and checks what holds for every text on a plain screen.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    assert!(!text.contains('\x1b'), "{name}: colours that nobody asked for");
    for line in text.lines() {
        assert!(columns(line) <= 80, "{name}: too wide: {line}");
        assert_eq!(line, line.trim_end(), "{name}: blanks at the end");
        assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden files can be written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "{name} is not what {} says; UPDATE_GOLDEN=1 accepts this:\n{text}",
        path.display()
    );
}

fn whole(report: &Report) -> String {
    report::whole(report, &Request::default(), &Screen::plain())
}

#[test]
fn a_root_cause_with_symptoms() {
    let root = pipe_stall();
    let symptom = contention(900, &root.id);
    let second = contention(901, &symptom.id);
    assert_golden("symptoms", &whole(&report(vec![root, symptom, second])));
}

#[test]
fn two_incidents_and_notices() {
    let mut findings = vec![deadlock(), pipe_stall()];
    findings.extend([
        notice(70, "ssh-agent"),
        notice(71, "ssh-agent"),
        notice(72, "dbus-launch"),
    ]);
    assert_golden("two-incidents", &whole(&report(findings)));
}

/// A storm towards a named destination, explained by a listener; and a reader of one connection.
#[test]
fn connections_and_destinations() {
    let flow = |local: Option<&str>, remote: &str, name: Option<&str>| Flow {
        local: local.map(str::to_owned),
        remote: remote.into(),
        remote_name: name.map(str::to_owned),
    };
    let mut storm = finding(
        Mode::RetryStorm,
        subject(311, "worker"),
        "worker (311) tries 192.0.2.9:80 (db.internal) 120 times a second and 100% fail: no back-off",
    );
    storm.subject.flow = Some(flow(None, "192.0.2.9:80", Some("db.internal")));
    storm.evidence = vec![
        support::fact("attempts", 120.0, "attempts/s"),
        support::fact("failing", 100.0, "%"),
        support::fact("pattern", "no back-off", ""),
        support::fact("allowed_by_10%_retry_budget", 0.1, "attempts/s"),
    ];
    let mut reader = finding(
        Mode::Backpressure,
        subject(312, "sink"),
        "sink (312) does not read what source (313) sends it: 112 KiB wait to be read",
    );
    reader.subject.flow = Some(flow(
        Some("[2001:db8:1234:5678:9abc:def0:1234:5678]:40457"),
        "[2001:db8:1234:5678:9abc:def0:1234:9]:54140",
        None,
    ));
    assert_golden("connections", &whole(&report(vec![storm, reader])));
}

#[test]
fn notices_only() {
    assert_golden("notices", &whole(&report(vec![notice(70, "ssh-agent")])));
}

#[test]
fn nothing_found_and_gaps() {
    let report = Report {
        picture: PictureFacts {
            source: Source::ProcfsOwn,
            pictures: 1,
            processes: 1,
            threads: 3,
            descriptors: 17,
            torn_rows: 0,
            walk_ms: 0.42,
        },
        window: WindowFacts {
            seconds: 0.0,
            ..report(vec![]).window
        },
        ..report(vec![])
    };
    assert_golden("nothing-own", &whole(&report));
}

#[test]
fn nothing_found_where_all_was_seen() {
    let mut report = report(vec![]);
    for entry in &mut report.coverage {
        (entry.status, entry.why, entry.remedy, entry.needs_seconds) = (Status::Clear, None, None, None);
    }
    assert_golden("nothing-all", &whole(&report));
    let request = Request {
        pid: Some(7),
        modes: vec![Mode::Deadlock, Mode::Zombie],
        ..Request::default()
    };
    let text = report::whole(&report, &request, &Screen::plain());
    assert!(
        text.starts_with("Nothing is stuck around pid 7 of deadlock, zombie: 1,480 threads"),
        "{text}"
    );
}

#[test]
fn health_is_not_claimed_where_nothing_was_seen() {
    let mut report = report(vec![]);
    for entry in &mut report.coverage {
        entry.status = Status::CouldNotObserve;
    }
    let text = whole(&report);
    assert!(!text.contains("Nothing is stuck"), "{text}");
    assert!(
        text.starts_with("Nothing was found, and nothing could be seen.\n"),
        "{text}"
    );
}

#[test]
fn hostile_names_and_long_commands() {
    let party = |pid, comm: &str, command: &str| Subject {
        command: Some(command.into()),
        cgroup: Some(format!("/{}", "kubepods.slice/".repeat(20))),
        ..subject(pid, comm)
    };
    let long = format!("java {}", "-Dsome.property=value ".repeat(50));
    let hostile = Finding {
        others: vec![
            other(
                Role::Waiter,
                party(8, "\u{1b}[2J\u{1b}[31m", "\r\nrung: nothing is stuck"),
            ),
            other(Role::Holder, party(9, "", "\u{202e}gpj.exe")),
            other(Role::Peer, party(10, "日本語日本語日本語", &"語".repeat(200))),
        ],
        chain: vec![
            link(8, "\u{1b}[2J", &"w\n".repeat(80), Some(9), None),
            link(9, "", "?", None, Some("\t")),
        ],
        ..finding(
            Mode::FileLockWait,
            party(7, "a) R 1 (", &long),
            "`a) R 1 (` holds a lock\nfor long",
        )
    };
    let mut boundless = finding(
        Mode::Zombie,
        party(11, &"x".repeat(300), &"y".repeat(5000)),
        &"z".repeat(500),
    );
    boundless.since = Some("then".into());
    assert_golden("hostile", &whole(&report(vec![hostile, boundless])));
}

#[test]
fn fifty_waiters_are_folded() {
    let mut root = pipe_stall();
    root.others = (0..50)
        .map(|index| {
            other(
                Role::Waiter,
                subject(5000 + index, if index < 40 { "worker" } else { "helper" }),
            )
        })
        .collect();
    root.evidence = (0..20)
        .map(|index| support::fact(&format!("fact_{index}"), index as u64, "ms"))
        .collect();
    let symptoms = (0..30).map(|index| contention(6000 + index, &root.id));
    let findings = std::iter::once(root.clone()).chain(symptoms).collect();
    assert_golden("fifty-waiters", &whole(&report(findings)));
}

#[test]
fn a_hundred_incidents_stay_readable() {
    let findings: Vec<Finding> = (0..100)
        .map(|index| {
            finding(
                Mode::Zombie,
                subject(index + 2, "parent"),
                "parent does not reap its children",
            )
        })
        .collect();
    let text = whole(&report(findings));
    assert!(text.lines().count() < 160, "{} lines", text.lines().count());
    assert!(text.contains("and 70 more"), "{text}");
    assert!(text.contains("as in incident 1"), "{text}");
}

#[test]
fn causes_that_are_not_there_or_form_a_ring_lose_no_finding() {
    let with_cause = |pid, cause: &str| Finding {
        cause: Some(cause.into()),
        ..finding(Mode::Zombie, subject(pid, "parent"), &format!("summary of {pid}"))
    };
    let findings = vec![
        with_cause(2, "gone:1:1"),
        with_cause(3, "zombie:4:1"),
        with_cause(4, "zombie:3:1"),
        with_cause(5, "zombie:5:1"),
    ];
    let text = whole(&report(findings));
    for pid in 2..=5 {
        assert_eq!(text.matches(&format!("summary of {pid}")).count(), 1, "{text}");
    }
    assert!(text.contains("gone:1:1, which is not shown"), "{text}");
}

#[test]
fn what_is_new_after_the_window() {
    let first = report(vec![deadlock(), notice(70, "ssh-agent")]);
    let symptom = contention(900, &pipe_stall().id);
    let last = report(vec![deadlock(), pipe_stall(), symptom]);
    let text = report::rest(&first, &last, &Request::default(), &Screen::plain());
    assert_golden("after", &text);
    assert!(!text.contains("abba"), "what is known is not said again");
    let text = report::rest(&first, &first, &Request::default(), &Screen::plain());
    assert!(text.starts_with("\nAFTER 5 s  nothing is new"), "{text}");
}

#[test]
fn every_width_holds() {
    let root = pipe_stall();
    let symptom = contention(900, &root.id);
    let report = report(vec![root, symptom, deadlock(), notice(70, "ssh-agent")]);
    for width in 60..=120 {
        let screen = Screen {
            width,
            ..Screen::plain()
        };
        let text = report::whole(&report, &Request::default(), &screen);
        for line in text.lines() {
            assert!(columns(line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn colours_change_no_word() {
    let report = report(vec![pipe_stall(), notice(70, "ssh-agent")]);
    let screen = Screen {
        colour: true,
        ..Screen::plain()
    };
    let painted = report::whole(&report, &Request::default(), &screen);
    assert!(painted.contains("\x1b[1;31mROOT CAUSE\x1b[0m"));
    let mut bare = painted;
    while let Some(start) = bare.find('\x1b') {
        let end = start + bare[start..].find('m').expect("every sequence ends");
        bare.replace_range(start..=end, "");
    }
    assert_eq!(bare, whole(&report));
}

fn wait(
    tid: u32,
    comm: &str,
    prospect: Prospect,
    chain: Vec<rung_diagnosis::finding::ChainLink>,
) -> ThreadWait {
    ThreadWait {
        thread: Subject {
            tid: Some(tid),
            command: Some("/usr/bin/server --port 80".into()),
            ..subject(100, comm)
        },
        state: if chain.is_empty() { "running" } else { "sleeping" }.into(),
        age_seconds: (!chain.is_empty()).then_some(f64::from(tid)),
        prospect,
        chain,
    }
}

#[test]
fn why_folds_threads_that_wait_alike() {
    let at_work = link(100, "server", "does not wait", None, Some("a running thread"));
    let mut waits = vec![wait(100, "server", Prospect::Alive, vec![at_work])];
    waits.extend((101..=112).map(|tid| {
        let chain = vec![link(
            tid,
            "worker",
            "condition variable, owner unknown",
            Some(100),
            None,
        )];
        wait(tid, "worker", Prospect::Alive, chain)
    }));
    waits.push(wait(
        113,
        "timer",
        Prospect::Alive,
        vec![link(113, "timer", "nanosleep", None, Some("the clock"))],
    ));
    let ring = |from, to| {
        vec![
            link(from, "db", "mutex 0xa0", Some(to), None),
            link(to, "db", "mutex 0xb0", Some(from), None),
        ]
    };
    waits.push(wait(120, "db", Prospect::Dead, ring(120, 121)));
    waits.push(wait(121, "db", Prospect::Dead, ring(121, 120)));
    waits.push(wait(
        122,
        "posted",
        Prospect::Doubtful,
        vec![link(122, "posted", "semaphore", Some(120), None)],
    ));
    waits.push(wait(
        123,
        "job",
        Prospect::HeldByStopped,
        vec![link(123, "job", "read, pipe empty", Some(200), None)],
    ));
    assert_golden("why", &why::render(&waits, &Screen::plain()));
    assert_eq!(why::status(&waits) as u8, 1);
    assert_eq!(why::status(&waits[..3]) as u8, 0);
    assert!(why::render(&[], &Screen::plain()).contains("No thread was seen"));
}

/// Ten thousand of anything take no noticeable time and fill no more than a few screens.
#[test]
fn crowds_are_counted_and_not_listed() {
    let start = std::time::Instant::now();
    let crowd = 10_000;
    let waits: Vec<ThreadWait> = (1..=crowd)
        .map(|tid| {
            wait(
                tid,
                "t",
                Prospect::Alive,
                vec![link(tid, "t", &format!("futex {tid:x}"), Some(tid + 1), None)],
            )
        })
        .collect();
    let text = why::render(&waits, &Screen::plain());
    assert!(text.contains("and 9960 more threads"), "{text}");

    let mut root = pipe_stall();
    root.others = (1..=crowd)
        .map(|pid| other(Role::Waiter, subject(pid, &format!("w{pid}"))))
        .collect();
    let mut findings = vec![root];
    for pid in 1..=crowd {
        let cause = findings[findings.len() - 1].id.clone();
        findings.push(contention(10 + pid, &cause));
    }
    findings.extend((1..=crowd).map(|pid| notice(20_000 + pid, &format!("n{pid}"))));
    let text = whole(&report(findings));
    assert!(text.lines().count() < 120, "{text}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

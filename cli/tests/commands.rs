//! Commands as they are called: what goes to which stream, and the exit status.

mod support;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Parser;
use rung_agent::engine::{EngineError, Progress};
use rung_cli::args::CommandLine;
use rung_cli::console::{Console, Status, UntilClosed};
use rung_cli::screen::Screen;
use rung_cli::{diagnose, report};
use rung_diagnosis::handbook::Handbook;
use rung_diagnosis::mode::Mode;
use rung_diagnosis::report::Report;
use serde_json::Value;
use support::{deadlock, notice, pipe_stall, rung, within};

#[test]
fn the_schema_is_the_committed_one() {
    let ran = rung("schema", "");
    assert_eq!(ran.status, Status::Quiet);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("report.schema.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &ran.output).expect("the schema can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == ran.output,
        "the types of the report have changed: a changed or removed field needs a new schema number; \
         then `rung schema > cli/report.schema.json`"
    );
}

#[test]
fn every_page_of_the_handbook_prints() {
    for &mode in Mode::ALL {
        for line in [format!("explain {mode}"), format!("explain {mode} --format json")] {
            let ran = rung(&line, "");
            assert_eq!((ran.status, ran.errors.as_str()), (Status::Quiet, ""), "{line}");
            assert!(ran.output.contains(mode.id()), "{line}");
        }
    }
    for topic in ["1", "rung-2", "3", "4", "5", "6"] {
        assert_eq!(
            rung(&format!("explain {topic}"), "").status,
            Status::Quiet,
            "{topic}"
        );
    }
}

#[test]
fn json_is_one_object() {
    for line in [
        "ladder",
        "explain 3",
        "explain deadlock",
        "quiz",
        "quiz --list --seed 1",
    ] {
        let ran = rung(&format!("{line} --format json"), "");
        let value: Value =
            serde_json::from_str(&ran.output).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(
            value["schema"]
                .as_str()
                .is_some_and(|name| name.starts_with("rung.")),
            "{line}"
        );
    }
}

#[test]
fn errors_go_to_standard_error_with_status_2() {
    for (line, message) in [
        (
            "explain dedlock",
            "rung: <RUNG|MODE>: \"dedlock\" is neither a rung (1 to 6) nor a failure mode; did you mean",
        ),
        (
            "--mode lokc",
            "rung: --mode <MODE>: no failure mode is called \"lokc\"; ",
        ),
        ("--for 5", "rung: --for <DURATION>: \"5\" has no unit; write 5s"),
        ("frobnicate", "error: "),
    ] {
        let ran = rung(line, "");
        assert_eq!((ran.status, ran.output.as_str()), (Status::Failed, ""), "{line}");
        assert!(ran.errors.starts_with(message), "{line}: {}", ran.errors);
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for line in ["--help", "-h", "help why", "diagnose --help", "--version"] {
        let ran = rung(line, "");
        assert_eq!((ran.status, ran.errors.as_str()), (Status::Quiet, ""), "{line}");
        assert!(ran.output.len() > 8 && !ran.output.contains('\x1b'), "{line}");
    }
}

#[test]
fn the_quiz_reads_answers_and_counts() {
    let questions = Handbook::quiz();
    let right: Vec<String> = questions
        .iter()
        .filter_map(|question| {
            question
                .choices
                .iter()
                .position(|choice| question.is_right(choice))
        })
        .map(|index| format!("{}\n", index + 1))
        .collect();
    let all = questions.len();
    let ran = rung("quiz", &right.concat());
    assert_eq!(ran.status, Status::Quiet);
    assert!(
        ran.output
            .ends_with(&format!("{all} of {all} right, of {all} questions\n")),
        "{}",
        ran.output
    );
    let ran = rung("quiz", "nine\n9\n\n");
    assert!(
        ran.output.contains("\"nine\" is not a number from 1 to 4"),
        "{}",
        ran.output
    );
    assert!(
        ran.output
            .ends_with(&format!("\n0 of 0 right, of {all} questions\n")),
        "{}",
        ran.output
    );
    let ran = rung("quiz --seed 7", "q\n");
    assert!(
        ran.output.ends_with("the same again: `rung quiz --seed 7`\n"),
        "{}",
        ran.output
    );
    assert_ne!(
        rung("quiz --list --seed 1", "").output,
        rung("quiz --list --seed 2", "").output
    );
    assert!(!rung("quiz --list", "").output.contains("right, of"));
}

/// Runs `rung diagnose` with an engine that reports `first` at once and `last` in the end.
fn present(line: &str, console: &mut Console<'_>, first: &Report, last: &Report) -> Status {
    let words = std::iter::once("rung").chain(line.split_whitespace());
    let args = CommandLine::parse_from(words).diagnose;
    let look = |request: &rung_agent::engine::Request, progress: &mut dyn FnMut(Progress<'_>)| {
        progress(Progress::First(first));
        let half = Duration::from_millis(2500);
        progress(Progress::Elapsed {
            elapsed: half,
            window: request.window,
        });
        Ok::<Report, EngineError>(last.clone())
    };
    diagnose::present(&args, console, look).expect("the output can be written")
}

#[test]
fn stuck_things_print_once_and_at_once() {
    let first = support::report(vec![deadlock()]);
    let last = support::report(vec![deadlock(), pipe_stall()]);
    let ran = within("", |console| {
        console.errors_are_watched = true;
        present("", console, &first, &last)
    });
    assert_eq!(ran.status, Status::Alarming);
    let request = Default::default();
    let screen = Screen::plain();
    let expected = report::first(&first, &request, &screen) + &report::rest(&first, &last, &request, &screen);
    assert_eq!(ran.output, expected);
    assert!(
        ran.errors
            .starts_with("\rwatching 5 s for rates: 2.5 s left\r   "),
        "{:?}",
        ran.errors
    );
    assert!(ran.errors.ends_with(" \r"), "the line is wiped");
}

#[test]
fn one_picture_prints_one_report() {
    let report = support::report(vec![deadlock()]);
    let ran = within("", |console| present("--for 0s", console, &report, &report));
    assert_eq!(ran.output.matches("ROOT CAUSE").count(), 1, "{}", ran.output);
    assert!(!ran.output.contains("AFTER"));
    assert_eq!(ran.errors, "");
}

#[test]
fn json_has_nothing_but_the_report_and_the_status_is_by_severity() {
    let quiet = support::report(vec![notice(7, "agent")]);
    let ran = within("", |console| present("--format json", console, &quiet, &quiet));
    assert_eq!(ran.status, Status::Quiet);
    let read: Report = serde_json::from_str(&ran.output).expect("it is one report");
    assert_eq!(read, quiet);
}

#[test]
fn a_failing_look_is_told() {
    let args = CommandLine::parse_from(["rung"]).diagnose;
    let ran = within("", |console| {
        let error = EngineError::Probe("the picture cannot be read; try --source procfs".into());
        let failure = diagnose::present(&args, console, |_, _| Err(error)).expect_err("it fails");
        assert_eq!(
            failure.to_string(),
            "the picture cannot be read; try --source procfs"
        );
        Status::Failed
    });
    assert_eq!(ran.output, "");
}

struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_went_away_does_not_change_the_status() {
    let mut errors = Vec::new();
    let report = support::report(vec![deadlock()]);
    let status = present(
        "",
        &mut Console {
            input: &mut io::empty(),
            input_is_terminal: false,
            output: &mut UntilClosed::new(Closed),
            errors: &mut errors,
            errors_are_watched: false,
            screen: Screen::plain(),
        },
        &report,
        &report,
    );
    assert_eq!((status, errors.as_slice()), (Status::Alarming, b"".as_slice()));
}

#[test]
fn the_program_survives_a_closed_pipe() {
    for line in [&["ladder"][..], &["--help"], &["quiz", "--list"], &["schema"]] {
        let (reader, writer) = io::pipe().expect("a pipe can be made");
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_rung"))
            .args(line)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("rung starts");
        assert_eq!(output.status.code(), Some(0), "{line:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line:?}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full is there");
    let output = Command::new(env!("CARGO_BIN_EXE_rung"))
        .arg("ladder")
        .stdout(full)
        .output()
        .expect("rung starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors.starts_with("rung: cannot write to standard output: "),
        "{errors}"
    );
}

#[test]
fn logs_go_to_standard_error_if_asked_for() {
    let run = |filter: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rung"));
        command
            .arg("schema")
            .env("RUNG_LOG", filter)
            .output()
            .expect("rung starts")
    };
    let output = run("debug");
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    assert!(String::from_utf8_lossy(&output.stderr).contains("parsed"));
    assert!(run("").stderr.is_empty());
    let output = run("=/=");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("rung: RUNG_LOG is not understood"));
}

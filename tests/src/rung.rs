//! Runs the `rung` binary as a user does, and reads its report by the JSON contract (DESIGN.md, section 3).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rung_diagnosis::mode::Mode;
use serde_json::Value;

/// How long the command may take beyond its window: it must never hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where observations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The best that the host offers.
    Best,
    /// /proc only: `--source procfs`.
    Procfs,
}

impl Source {
    /// Its name in test output.
    pub fn id(self) -> &'static str {
        match self {
            Source::Best => "best source",
            Source::Procfs => "procfs",
        }
    }
}

/// The binary under test.
#[derive(Debug, Clone)]
pub struct Rung {
    binary: PathBuf,
}

impl Rung {
    /// The binary that RUNG_BIN names, or the one that was built beside this test.
    pub fn find() -> Result<Self> {
        if let Some(path) = std::env::var_os("RUNG_BIN") {
            let binary = PathBuf::from(path);
            ensure!(
                binary.is_file(),
                "RUNG_BIN names {}, which is no file",
                binary.display()
            );
            return Ok(Rung { binary });
        }
        let me = std::env::current_exe()?;
        // target/debug/deps/faults-0123 -> target/debug/rung
        me.ancestors()
            .skip(1)
            .take(2)
            .map(|dir| dir.join("rung"))
            .find(|binary| binary.is_file())
            .map(|binary| Rung { binary })
            .context("there is no rung binary beside the tests: `cargo build` it first, or set RUNG_BIN")
    }

    /// Where it lies.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs `rung diagnose --for WINDOW --format json` and reads the report. `meanwhile` happens after a
    /// third of the window. `scratch` is a directory for its output.
    pub fn diagnose(
        &self,
        source: Source,
        window: Duration,
        scratch: &Path,
        meanwhile: impl FnOnce() -> Result<()>,
    ) -> Result<Report> {
        let (out, err) = (scratch.join("rung.json"), scratch.join("rung.err"));
        let mut command = Command::new(&self.binary);
        // Files, not pipes: a pipe of the harness would be one more thing to diagnose.
        command
            .args([
                "diagnose",
                "--format",
                "json",
                "--for",
                &format!("{}s", window.as_secs()),
            ])
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?);
        if source == Source::Procfs {
            command.args(["--source", "procfs"]);
        }
        let started = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        std::thread::sleep(window / 3);
        let meanwhile = meanwhile();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > window + PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("rung hung: no report {} s after its window", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let ended = Instant::now();
        meanwhile?;
        let words = String::from_utf8_lossy(&std::fs::read(&err)?).into_owned();
        let code = status
            .code()
            .with_context(|| format!("rung died: {status}. {words}"))?;
        ensure!(
            code == 0 || code == 1,
            "rung could not do its work (status {code}): {words}"
        );
        let json = std::fs::read(&out)?;
        let value = serde_json::from_slice(&json)
            .with_context(|| format!("no JSON object: {}", String::from_utf8_lossy(&json)))?;
        let report = Report {
            value,
            window,
            started,
            ended,
        };
        report.check_contract(code)?;
        Ok(report)
    }
}

/// One report, and when it was made.
#[derive(Debug, Clone)]
pub struct Report {
    /// The object as printed.
    pub value: Value,
    /// How long it watched.
    pub window: Duration,
    /// When the command started.
    pub started: Instant,
    /// When the command had ended.
    pub ended: Instant,
}

impl Report {
    /// All findings.
    pub fn findings(&self) -> Vec<Finding<'_>> {
        self.value["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Finding)
            .collect()
    }

    /// The coverage status of a mode, as printed.
    pub fn coverage(&self, mode: Mode) -> Option<&str> {
        let entries = self.value["coverage"].as_array()?;
        entries.iter().find(|entry| entry["mode"] == mode.id())?["status"].as_str()
    }

    /// Whether the coverage of a mode says that it could not be observed, at all or for this process.
    pub fn declares(&self, mode: Mode, pid: u32) -> bool {
        let entries = self.value["coverage"].as_array();
        let entry = entries.and_then(|entries| entries.iter().find(|entry| entry["mode"] == mode.id()));
        let names = |why: &str| {
            why.split(|c: char| !c.is_ascii_digit())
                .any(|word| word == pid.to_string())
        };
        entry.is_some_and(|entry| {
            entry["status"] == "could-not-observe" || entry["why"].as_str().is_some_and(names)
        })
    }

    /// What the coverage says was not seen of a mode.
    pub fn why(&self, mode: Mode) -> Option<&str> {
        let entries = self.value["coverage"].as_array()?;
        entries.iter().find(|entry| entry["mode"] == mode.id())?["why"].as_str()
    }

    /// The findings, and the coverage of what was not seen whole though it is detected.
    pub fn in_short(&self) -> String {
        let mut short = self.value.clone();
        if let Some(entries) = short["coverage"].as_array_mut() {
            entries.retain(|entry| entry["status"] != "could-not-observe" && entry["why"].is_string());
        }
        format!("{short:#}")
    }

    /// What holds for every report: the schema's name, the required fields with their types, the closed
    /// words, causes that exist, coverage of every mode, and the exit status that goes with the findings.
    pub fn check_contract(&self, code: i32) -> Result<()> {
        let value = &self.value;
        ensure!(
            value["schema"] == "rung.report/1",
            "schema is {}",
            value["schema"]
        );
        for pointer in ["/host/name", "/host/kernel", "/host/boot_id", "/window/start"] {
            ensure!(
                value.pointer(pointer).is_some_and(Value::is_string),
                "{pointer} is no string"
            );
        }
        ensure!(
            value["window"]["seconds"].is_number(),
            "/window/seconds is no number"
        );
        ensure!(value["findings"].is_array(), "findings is no list");
        let findings = self.findings();
        for finding in &findings {
            finding
                .check_contract()
                .with_context(|| format!("in finding {:#}", finding.0))?;
            let cause = &finding.0["cause"];
            let explained = findings.iter().any(|other| &other.0["id"] == cause);
            ensure!(
                cause.is_null() || explained,
                "the cause {cause} is not among the findings"
            );
        }
        for mode in Mode::ALL {
            let status = self
                .coverage(*mode)
                .with_context(|| format!("no coverage of {mode}"))?;
            let known = ["observed", "clear", "needs-longer", "could-not-observe"];
            ensure!(known.contains(&status), "coverage of {mode} is {status:?}");
        }
        let alarming = findings.iter().filter(|finding| finding.alarms());
        let lowest = alarming
            .filter(|finding| finding.root())
            .filter_map(|finding| finding.0["rung"].as_u64())
            .min();
        let root_rung = value["root_rung"].as_u64();
        ensure!(
            root_rung == lowest,
            "root_rung is {root_rung:?}, the lowest root stands on {lowest:?}"
        );
        let expected = i32::from(findings.iter().any(|finding| finding.alarms()));
        ensure!(
            code == expected,
            "the exit status is {code}, the findings ask for {expected}"
        );
        Ok(())
    }
}

/// One finding of a report.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a>(pub &'a Value);

impl Finding<'_> {
    /// The mode's id.
    pub fn mode(&self) -> &str {
        self.0["mode"].as_str().unwrap_or("")
    }

    /// Whether its severity is warning or above.
    pub fn alarms(&self) -> bool {
        matches!(self.0["severity"].as_str(), Some("warning" | "critical"))
    }

    /// Whether nothing explains it.
    pub fn root(&self) -> bool {
        self.0["cause"].is_null()
    }

    /// The culprit's pid.
    pub fn subject(&self) -> Option<i64> {
        self.0["subject"]["pid"].as_i64()
    }

    /// The culprit's tid, if it is a thread.
    pub fn subject_tid(&self) -> Option<i64> {
        self.0["subject"]["tid"].as_i64()
    }

    /// Role, pid and tid of the others.
    pub fn others(&self) -> Vec<(&str, Option<i64>, Option<i64>)> {
        let others = self.0["others"].as_array().into_iter().flatten();
        others
            .map(|other| {
                (
                    other["role"].as_str().unwrap_or(""),
                    other["pid"].as_i64(),
                    other["tid"].as_i64(),
                )
            })
            .collect()
    }

    /// Whether it names this process or thread in any part.
    pub fn names(&self, id: i32) -> bool {
        let id = Some(i64::from(id));
        self.subject() == id
            || self.subject_tid() == id
            || self
                .others()
                .into_iter()
                .any(|(_, pid, tid)| pid == id || tid == id)
    }

    /// The remote end of what it is about.
    pub fn remote(&self) -> Option<&str> {
        self.0["subject"]["flow"]["remote"].as_str()
    }

    /// Whether its summary, its evidence or its chain contains this text.
    pub fn says(&self, text: &str) -> bool {
        ["summary", "evidence", "chain"]
            .iter()
            .any(|key| holds_text(&self.0[key], text))
    }

    /// The numbers of the evidence whose signal contains this word.
    pub fn figures(&self, signal: &str) -> Vec<f64> {
        let evidence = self.0["evidence"].as_array().into_iter().flatten();
        evidence
            .filter(|evidence| {
                evidence["signal"]
                    .as_str()
                    .is_some_and(|name| name.contains(signal))
            })
            .filter_map(|evidence| evidence["value"].as_f64())
            .collect()
    }

    /// Its age in seconds.
    pub fn age_seconds(&self) -> Option<f64> {
        self.0["age_seconds"].as_f64()
    }

    fn check_contract(&self) -> Result<()> {
        for key in ["id", "mode", "severity", "confidence", "summary", "guidance"] {
            ensure!(self.0[key].is_string(), "{key} is no string");
        }
        let mode: Mode = self.mode().parse()?;
        ensure!(
            self.0["rung"] == mode.rung().number(),
            "{mode} is not of rung {}",
            self.0["rung"]
        );
        // What left no date behind has neither.
        match (self.0["since"].is_string(), self.age_seconds()) {
            (true, Some(age)) => ensure!(age >= 0.0, "age_seconds is {age}"),
            (dated, age) => ensure!(
                !dated && age.is_none(),
                "since and age_seconds do not go together"
            ),
        }
        ensure!(self.0["subject"].is_object(), "subject is no object");
        for key in ["others", "evidence", "chain"] {
            ensure!(self.0[key].is_array(), "{key} is no list");
        }
        let word = |key: &str, known: &[&str]| self.0[key].as_str().is_some_and(|word| known.contains(&word));
        ensure!(
            word("severity", &["critical", "warning", "notice"]),
            "severity is {}",
            self.0["severity"]
        );
        ensure!(
            word("confidence", &["proven", "likely", "suspected"]),
            "confidence is {}",
            self.0["confidence"]
        );
        Ok(())
    }
}

/// Whether a string anywhere in the value contains the text.
fn holds_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(values) => values.iter().any(|value| holds_text(value, text)),
        Value::Object(fields) => fields.values().any(|value| holds_text(value, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

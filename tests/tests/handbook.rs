//! Every command of the handbook exists on a plain host, and takes the arguments that the handbook gives it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rung_diagnosis::handbook::{Handbook, Origin};
use rung_diagnosis::mode::Mode;

/// Directories of programs for administrators may not be on a plain PATH.
fn path() -> String {
    format!(
        "{}:/usr/local/sbin:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

fn exists(program: &str) -> bool {
    std::env::split_paths(&path()).any(|dir| dir.join(program).is_file())
}

#[test]
fn every_program_is_to_be_had() {
    let programs = Handbook::programs().programs;
    let missing: Vec<String> = programs
        .iter()
        .filter(|(name, program)| !program.optional && !exists(name))
        .map(|(name, program)| match &program.from {
            Origin::Debian(package) => format!("{name} (apt-get install {package})"),
            Origin::Elsewhere(place) => format!("{name} ({place})"),
        })
        .collect();
    assert!(missing.is_empty(), "not on this host: {}", missing.join(", "));
}

/// A process to ask about, ended with this value.
struct Subject(Child);

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A command with its placeholders filled in; `None` if it needs what only a real incident has.
fn filled(command: &str, pid: u32, scratch: &Path) -> Option<String> {
    let placeholders = Handbook::programs().placeholders;
    let mut out = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| -> Option<()> {
        // HOLDER2 is one of several of HOLDER.
        match word.trim_end_matches(char::is_numeric) {
            "PID" | "TID" | "CHILD" | "PEER" | "HOLDER" | "TRACER" => out.push_str(&pid.to_string()),
            "N" => out.push('0'),
            "INODE" => out.push_str("12345"),
            "PATH" => out.push_str(&scratch.display().to_string()),
            other if placeholders.contains_key(other) => return None,
            _ => out.push_str(word),
        }
        word.clear();
        Some(())
    };
    for c in command.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
        } else {
            flush(&mut word, &mut out)?;
            out.push(c);
        }
    }
    flush(&mut word, &mut out)?;
    Some(out)
}

/// What programs say when they do not know an argument, and shells when they do not know a program.
const COMPLAINTS: &[&str] = &[
    "invalid option",
    "unrecognized option",
    "unknown option",
    "unsupported option",
    "not found",
    "syntax error",
    "Usage:",
    "usage:",
];

#[test]
fn every_command_takes_its_arguments() {
    let programs = Handbook::programs().programs;
    let optional = |name: &&str| programs.get(*name).is_some_and(|program| program.optional);
    let scratch = Scratch(std::env::temp_dir().join(format!("rung-handbook-{}", std::process::id())));
    fs::create_dir(&scratch.0).unwrap();
    let subject = Subject(Command::new("sleep").arg("300").spawn().unwrap());
    let pages = Mode::ALL.iter().map(|mode| Handbook::mode(*mode));
    let commands: BTreeSet<String> = pages
        .filter(|page| !page.commands().iter().any(optional))
        .flat_map(|page| page.confirm)
        .filter_map(|confirm| filled(&confirm.command, subject.0.id(), &scratch.0))
        .collect();
    assert!(
        commands.len() > 50,
        "only {} commands can be tried",
        commands.len()
    );
    let queue = Mutex::new(commands.into_iter());
    let wrong = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(command) = next() {
                    if let Some(complaint) = complaint(&command, &scratch.0) {
                        wrong.lock().unwrap().push(format!("$ {command}\n{complaint}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a command for a moment; what it says against its arguments, if it does.
fn complaint(command: &str, scratch: &Path) -> Option<String> {
    if command.starts_with("bpftrace") && !Path::new("/sys/kernel/tracing/events").exists() {
        return None; // tracefs is not mounted: no tracepoint has a name here
    }
    // Most of them watch until they are interrupted, and a shell's children must go with it.
    let output = Command::new("timeout")
        .args(["--kill-after=1", "2", "sh", "-c", command])
        .env("PATH", path())
        .current_dir(scratch)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    COMPLAINTS
        .iter()
        .any(|known| words.contains(known))
        .then_some(words)
}

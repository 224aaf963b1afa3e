//! The sources of the actors that are not written in Rust, embedded so that the lab is one binary.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

macro_rules! programs {
    ($($name:literal),* $(,)?) => {
        /// File name and text of each.
        pub(crate) const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../programs/", $name)))),*];
    };
}

programs!(
    "lab.h",
    "mutex.c",
    "pool.c",
    "fork.c",
    "many.c",
    "grow.c",
    "lab.py",
    "threads.py",
    "pipes.py",
    "sockets.py",
    "services.py",
    "streams.py",
    "locks.py",
    "processes.py",
    "network.py",
    "delay.py",
    "trade.py",
    "Abba.java",
    "Idle.java",
    "jobs.mk",
);

/// The Python interpreter itself, not a launcher script that a version manager puts on PATH.
pub(crate) fn python() -> Result<PathBuf> {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    if let Some(python) = PYTHON.get() {
        return Ok(python.clone());
    }
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .context("cannot run python3")?;
    let python = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    anyhow::ensure!(python.is_file(), "python3 does not say where it is");
    Ok(PYTHON.get_or_init(|| python).clone())
}

//! How others look at a host: file by file.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Reads /proc/PID/stat of every process into one buffer, and does nothing with it.
pub(super) fn stat_of_processes() -> Result<()> {
    let mut buffer = [0_u8; 4096];
    let mut read = 0;
    for pid in numbers(Path::new("/proc"))? {
        read += usize::from(read_file(&format!("/proc/{pid}/stat"), &mut buffer));
    }
    ensure!(read > 0, "no process could be read");
    Ok(())
}

/// Reads /proc/PID/task/TID/stat of every thread likewise.
pub(super) fn stat_of_threads() -> Result<()> {
    let mut buffer = [0_u8; 4096];
    let mut read = 0;
    for pid in numbers(Path::new("/proc"))? {
        // A process may be gone by now.
        for tid in numbers(Path::new(&format!("/proc/{pid}/task"))).unwrap_or_default() {
            read += usize::from(read_file(&format!("/proc/{pid}/task/{tid}/stat"), &mut buffer));
        }
    }
    ensure!(read > 0, "no thread could be read");
    Ok(())
}

/// Runs `ps -eLf`.
pub(super) fn ps() -> Result<()> {
    let status = Command::new("ps")
        .arg("-eLf")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot run ps")?;
    ensure!(status.success(), "ps ended with {status}");
    Ok(())
}

fn read_file(path: &str, buffer: &mut [u8]) -> bool {
    File::open(path).and_then(|mut file| file.read(buffer)).is_ok()
}

fn numbers(dir: &Path) -> Result<Vec<u32>> {
    let names = fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

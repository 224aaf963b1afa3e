//! Control groups with a limit on processes, on either version of the interface.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Where groups with the pids controller can be made: v1's hierarchy, or v2 where it is delegated.
pub fn pids_root() -> Option<PathBuf> {
    let v1 = PathBuf::from("/sys/fs/cgroup/pids");
    let v2 = PathBuf::from("/sys/fs/cgroup");
    let delegated = |root: &Path| {
        fs::read_to_string(root.join("cgroup.subtree_control")).is_ok_and(|on| on.contains("pids"))
    };
    let writable = |root: &Path| rustix::fs::access(root, rustix::fs::Access::WRITE_OK).is_ok();
    if v1.join("cgroup.procs").exists() && writable(&v1) {
        Some(v1)
    } else {
        (delegated(&v2) && writable(&v2)).then_some(v2)
    }
}

/// A group of at most `max` processes.
#[derive(Debug)]
pub struct PidsGroup(PathBuf);

impl PidsGroup {
    /// Makes the group under the mark of its stage, and checks that the limit took.
    pub fn new(mark: &str, max: u32) -> Result<Self> {
        let dir = pids_root().context("no writable pids cgroup")?.join(name(mark));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let group = PidsGroup(dir);
        fs::write(group.0.join("pids.max"), max.to_string())?;
        let took = group.number("pids.max")?;
        ensure!(took == u64::from(max), "pids.max is {took} after writing {max}");
        Ok(group)
    }

    /// Moves a process in, and checks that it is there.
    pub fn admit(&self, pid: i32) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot move {pid} into {}", self.0.display()))?;
        let inside = fs::read_to_string(self.0.join("cgroup.procs"))?;
        ensure!(
            inside.lines().any(|line| line == pid.to_string()),
            "{pid} did not move into the cgroup"
        );
        Ok(())
    }

    /// How many processes are in it.
    pub fn current(&self) -> Result<u64> {
        self.number("pids.current")
    }

    /// How often the limit refused a fork.
    pub fn refused(&self) -> Result<u64> {
        self.number("pids.events")
    }

    fn number(&self, file: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file)).with_context(|| format!("cannot read {file}"))?;
        text.split_ascii_whitespace()
            .next_back()
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("{file} holds {text:?}"))
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        // Succeeds once its last process was reaped; the stage sees to that first.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the empty group of a mark, for the guard of a dead runner; whether none is left.
pub fn remove_marked(mark: &str) -> bool {
    let Some(group) = pids_root().map(|root| root.join(name(mark))) else {
        return true;
    };
    !group.exists() || fs::remove_dir(group).is_ok()
}

fn name(mark: &str) -> String {
    format!("rung-lab-{mark}")
}

//! Control groups with a limit on processes or on memory, on either version of the interface.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Where groups with the pids controller can be made: v1's hierarchy, or v2 where it is delegated.
pub fn pids_root() -> Option<PathBuf> {
    root_of("pids", "cgroup.procs")
}

/// Where groups with the memory controller can be made, likewise.
pub fn memory_root() -> Option<PathBuf> {
    root_of("memory", "memory.limit_in_bytes")
}

/// The root of a controller; `file` is one that v1's hierarchy of it has.
fn root_of(controller: &str, file: &str) -> Option<PathBuf> {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let v2 = PathBuf::from("/sys/fs/cgroup");
    let delegated = |root: &Path| {
        fs::read_to_string(root.join("cgroup.subtree_control")).is_ok_and(|on| on.contains(controller))
    };
    let writable = |root: &Path| rustix::fs::access(root, rustix::fs::Access::WRITE_OK).is_ok();
    if v1.join(file).exists() && writable(&v1) {
        Some(v1)
    } else {
        (delegated(&v2) && writable(&v2)).then_some(v2)
    }
}

/// A group of at most so much memory, without swap.
#[derive(Debug)]
pub struct MemoryGroup {
    figures: MemoryFigures,
    limit_bytes: u64,
}

/// The kernel's figures of a group, wherever they are wanted.
#[derive(Debug, Clone)]
pub struct MemoryFigures(PathBuf);

impl MemoryGroup {
    /// Makes the group under the mark of its stage, and checks that the limit took.
    pub fn new(mark: &str, limit_bytes: u64) -> Result<Self> {
        let root = memory_root().context("no writable memory cgroup")?;
        let directory = root.join(name(mark));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let group = MemoryGroup {
            figures: MemoryFigures(directory),
            limit_bytes,
        };
        let (figures, directory) = (&group.figures, &group.figures.0);
        let file = figures.of("memory.max", "memory.limit_in_bytes");
        fs::write(directory.join(file), limit_bytes.to_string())?;
        // Where there is swap, what is swapped out would not be missing.
        let swap = figures.of("memory.swap.max", "memory.memsw.limit_in_bytes");
        let most = if figures.is_unified() { 0 } else { limit_bytes };
        if directory.join(swap).exists() {
            fs::write(directory.join(swap), most.to_string())?;
        }
        let took = figures.number(file)?;
        ensure!(
            took == limit_bytes,
            "{file} is {took} after writing {limit_bytes}"
        );
        Ok(group)
    }

    /// Its path below the root of the hierarchy.
    pub fn path(&self) -> String {
        let name = self.figures.0.file_name().unwrap_or_default();
        format!("/{}", name.to_string_lossy())
    }

    /// Its limit, bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Moves a process in, and checks that it is there.
    pub fn admit(&self, pid: i32) -> Result<()> {
        admit(&self.figures.0, pid)
    }

    /// The kernel's figures of it.
    pub fn figures(&self) -> &MemoryFigures {
        &self.figures
    }
}

impl MemoryFigures {
    /// What is charged to it, bytes.
    pub fn used_bytes(&self) -> Result<u64> {
        self.number(self.of("memory.current", "memory.usage_in_bytes"))
    }

    /// Processes killed in it.
    pub fn kills(&self) -> Result<u64> {
        self.entry(self.of("memory.events", "memory.oom_control"), "oom_kill")
    }

    fn is_unified(&self) -> bool {
        self.0.join("memory.max").exists()
    }

    fn of(&self, v2: &'static str, v1: &'static str) -> &'static str {
        if self.is_unified() { v2 } else { v1 }
    }

    fn number(&self, file: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file)).with_context(|| format!("cannot read {file}"))?;
        text.trim()
            .parse()
            .with_context(|| format!("{file} holds {text:?}"))
    }

    fn entry(&self, file: &str, word: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file)).with_context(|| format!("cannot read {file}"))?;
        let rows = text.lines().filter_map(|row| row.split_once(' '));
        let mut named = rows.filter(|(name, _)| *name == word);
        let (_, number) = named.next().with_context(|| format!("{file} has no {word}"))?;
        number.parse().with_context(|| format!("{file} holds {text:?}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Succeeds once its last process was reaped; the stage sees to that first.
        let _ = fs::remove_dir(&self.figures.0);
    }
}

fn admit(directory: &Path, pid: i32) -> Result<()> {
    fs::write(directory.join("cgroup.procs"), pid.to_string())
        .with_context(|| format!("cannot move {pid} into {}", directory.display()))?;
    let inside = fs::read_to_string(directory.join("cgroup.procs"))?;
    ensure!(
        inside.lines().any(|line| line == pid.to_string()),
        "{pid} did not move into the cgroup"
    );
    Ok(())
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
        admit(&self.0, pid)
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

/// Removes the empty groups of a mark, for the guard of a dead runner; whether none is left.
pub fn remove_marked(mark: &str) -> bool {
    let roots = [pids_root(), memory_root()];
    let groups = roots.iter().flatten().map(|root| root.join(name(mark)));
    let mut left = groups.filter(|group| group.exists() && fs::remove_dir(group).is_err());
    left.next().is_none()
}

fn name(mark: &str) -> String {
    format!("rung-lab-{mark}")
}

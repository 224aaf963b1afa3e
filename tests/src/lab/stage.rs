//! The stage a case plays on: it owns every process, file, cgroup and network namespace of the case and
//! clears them away.
//!
//! Actors report facts (pids, tids) as `key value` lines in a file of their own, never over a pipe: an
//! inherited pipe end would itself be something that a diagnosis sees.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::cgroup::{MemoryGroup, PidsGroup};
use super::network::Network;
use super::sweep::{self, Identity, MARK};
use super::{proc, programs};

/// How long actors live by themselves unless RUNG_LAB_SECONDS says otherwise.
const DEFAULT_SECONDS: u64 = 900;

/// What all stages of one run share: a private directory with the scripts and the compiled programs.
#[derive(Debug)]
pub struct Workshop {
    dir: PathBuf,
    lab: PathBuf,
    seconds: u64,
    compiled: Mutex<HashMap<&'static str, PathBuf>>,
}

impl Workshop {
    /// Lays out the scripts in a new temporary directory. `lab` is the lab's own binary, which plays the
    /// actors written in Rust.
    pub fn open(lab: &Path) -> Result<Arc<Self>> {
        super::inherit::keep_descriptors_to_ourselves()?;
        let me = Identity::of(i32::try_from(std::process::id())?).context("cannot read /proc")?;
        let dir = std::env::temp_dir().join(format!("rung-lab-{}-{}", me.pid, me.start_ticks));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (name, text) in programs::ALL {
            fs::write(dir.join(name), text)?;
        }
        let seconds = match std::env::var("RUNG_LAB_SECONDS") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("RUNG_LAB_SECONDS is {text:?}, not seconds"))?,
            Err(_) => DEFAULT_SECONDS,
        };
        Ok(Arc::new(Workshop {
            dir,
            lab: lab.to_path_buf(),
            seconds,
            compiled: Mutex::default(),
        }))
    }

    /// The binary of a C source, compiled at its first use.
    fn compiled(&self, source: &'static str) -> Result<PathBuf> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(binary) = compiled.get(source) {
            return Ok(binary.clone());
        }
        let binary = self.dir.join(source.trim_end_matches(".c"));
        let output = Command::new("cc")
            .args(["-O1", "-g", "-pthread", "-Wall", "-Werror", "-o"])
            .arg(&binary)
            .arg(self.dir.join(source))
            .output()
            .context("cannot run cc")?;
        ensure!(
            output.status.success(),
            "cc {source}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        compiled.insert(source, binary.clone());
        Ok(binary)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process that is about to be started, with the file it will report to.
#[derive(Debug)]
pub struct Play {
    /// What to run; standard streams may still be redirected.
    pub command: Command,
    report: PathBuf,
}

impl Play {
    /// With these arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    /// Reading from there.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    /// Writing to there.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stdout(to);
        self
    }
}

/// A process that was started.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Its host pid.
    pub pid: i32,
    report: PathBuf,
}

impl Actor {
    /// The counters of 64 bits that the actor keeps in a file of its own.
    pub(super) fn counters(&self) -> Result<Vec<u64>> {
        let file = self.report.with_extension("counts");
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let numbers = bytes.as_chunks().0.iter();
        Ok(numbers.map(|&number| u64::from_ne_bytes(number)).collect())
    }

    /// Waits for the number that the actor reports under `key`.
    pub fn get(&self, key: &str) -> Result<i32> {
        let end = Instant::now() + Duration::from_secs(super::bite::BITE_SECONDS);
        loop {
            let report = fs::read_to_string(&self.report).unwrap_or_default();
            // A line counts when it is complete.
            let complete = report.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let found = complete
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            if let Some(value) = found {
                return value
                    .trim()
                    .parse()
                    .with_context(|| format!("{key} is reported as {value:?}"));
            }
            if !proc::alive(self.pid) || Instant::now() > end {
                let words = fs::read(self.report.with_extension("err")).unwrap_or_default();
                let words = String::from_utf8_lossy(&words);
                bail!(
                    "actor {} never reported {key}. {} {words}",
                    self.pid,
                    proc::describe(self.pid)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Stage {
    workshop: Arc<Workshop>,
    mark: String,
    dir: PathBuf,
    plays: u32,
    children: Vec<Child>,
    owned: Vec<Identity>,
    group: Option<PidsGroup>,
    memory: Option<MemoryGroup>,
    pub(super) network: Option<Network>,
    guard: Option<Child>,
}

impl Stage {
    /// An empty stage with a guard, a process that clears it should the runner be killed.
    pub fn new(workshop: &Arc<Workshop>) -> Result<Self> {
        static STAGES: AtomicU32 = AtomicU32::new(0);
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let runner = Identity::of(i32::try_from(std::process::id())?).context("cannot read /proc")?;
        let mark = format!("{}-{}-{number}", runner.pid, runner.start_ticks);
        let dir = workshop.dir.join(format!("stage-{number}"));
        fs::create_dir(&dir)?;
        let guard = Command::new(&workshop.lab)
            .args(["actor", "guard"])
            .args([runner.pid.to_string(), mark.clone(), workshop.seconds.to_string()])
            .arg(&workshop.dir)
            .env_remove(MARK)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", workshop.lab.display()))?;
        Ok(Stage {
            workshop: Arc::clone(workshop),
            mark,
            dir,
            plays: 0,
            children: Vec::new(),
            owned: Vec::new(),
            group: None,
            memory: None,
            network: None,
            guard: Some(guard),
        })
    }

    /// The stage's private directory, also the working directory of its actors.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What its processes carry in their environment.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// How long actors live by themselves.
    pub fn seconds(&self) -> u64 {
        self.workshop.seconds
    }

    /// A program, in a process group of its own, its standard streams on /dev/null and a file.
    pub fn program(&mut self, program: impl AsRef<OsStr>) -> Result<Play> {
        self.plays += 1;
        let report = self.dir.join(format!("actor-{}.report", self.plays));
        let mut command = Command::new(program);
        command
            .env(MARK, &self.mark)
            .env("RUNG_LAB_REPORT", &report)
            .env("RUNG_LAB_DIR", &self.dir)
            .env("RUNG_LAB_SECONDS", self.workshop.seconds.to_string())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(report.with_extension("err"))?)
            .process_group(0);
        Ok(Play { command, report })
    }

    /// Where a file of tests/programs lies.
    pub fn script(&self, name: &str) -> PathBuf {
        self.workshop.dir.join(name)
    }

    /// A compiled C program of tests/programs.
    pub fn c(&mut self, source: &'static str) -> Result<Play> {
        let binary = self.workshop.compiled(source)?;
        self.program(binary)
    }

    /// A Python script of tests/programs.
    pub fn python(&mut self, script: &str) -> Result<Play> {
        let file = self.script(script);
        Ok(self.program(programs::python()?)?.args(["-B"]).args([file]))
    }

    /// A Java program of tests/programs, run from its source.
    pub fn java(&mut self, source: &str) -> Result<Play> {
        let file = self.script(source);
        Ok(self
            .program("java")?
            .args(["-Xmx64m", "-XX:TieredStopAtLevel=1"])
            .args([file]))
    }

    /// An actor of the lab binary itself.
    pub fn rust(&mut self, actor: &str) -> Result<Play> {
        let lab = self.workshop.lab.clone();
        Ok(self.program(lab)?.args(["actor", actor]))
    }

    /// A shell script. `$RUNG_LAB_SECONDS` is how long it may live.
    pub fn sh(&mut self, script: &str) -> Result<Play> {
        Ok(self.program("sh")?.args(["-c", script]))
    }

    /// `sleep` for the life of the case.
    pub fn sleeper(&mut self) -> Result<Play> {
        let seconds = self.seconds().to_string();
        Ok(self.program("sleep")?.args([seconds]))
    }

    /// Starts it. From here on the stage owns it.
    pub fn start(&mut self, mut play: Play) -> Result<Actor> {
        let child = play
            .command
            .spawn()
            .with_context(|| format!("cannot run {:?}", play.command.get_program()))?;
        let pid = i32::try_from(child.id())?;
        self.children.push(child);
        self.own(pid);
        Ok(Actor {
            pid,
            report: play.report,
        })
    }

    /// Takes a process that an actor started into the stage's books.
    pub fn own(&mut self, pid: i32) {
        self.owned.extend(Identity::of(pid));
    }

    /// Everything the stage owns or finds by its mark.
    pub fn cast(&self) -> Vec<Identity> {
        let mut cast = self.owned.clone();
        cast.extend(
            sweep::marked(&self.mark)
                .into_iter()
                .filter(|identity| !self.owned.contains(identity)),
        );
        cast
    }

    /// Lets actors that wait for the file `name` go on.
    pub fn cue(&self, name: &str) -> Result<()> {
        fs::write(self.dir.join(name), "").with_context(|| format!("cannot write {name}"))
    }

    /// Sends a signal to one process of the stage.
    pub fn signal(&self, pid: i32, signal: Signal) -> Result<()> {
        Identity::of(pid)
            .with_context(|| format!("process {pid} is gone"))?
            .signal(signal)
    }

    /// Kills a child of the stage with SIGKILL and reaps it.
    pub fn kill(&mut self, actor: &Actor) -> Result<()> {
        self.signal(actor.pid, Signal::KILL)?;
        self.reap(actor)
    }

    /// Waits for the end of a child of the stage.
    pub fn reap(&mut self, actor: &Actor) -> Result<()> {
        let id = u32::try_from(actor.pid)?;
        let child = self
            .children
            .iter_mut()
            .find(|child| child.id() == id)
            .context("no child of the stage")?;
        child.wait()?;
        Ok(())
    }

    /// A control group of at most `max` processes that goes when the stage goes.
    pub fn pids_group(&mut self, max: u32) -> Result<&PidsGroup> {
        ensure!(self.group.is_none(), "a stage has one control group");
        self.group = Some(PidsGroup::new(&self.mark, max)?);
        self.group()
    }

    /// The stage's control group.
    pub fn group(&self) -> Result<&PidsGroup> {
        self.group.as_ref().context("the stage has no control group")
    }

    /// A control group of at most so much memory that goes when the stage goes.
    pub fn memory_group(&mut self, limit_bytes: u64) -> Result<&MemoryGroup> {
        ensure!(self.memory.is_none(), "a stage has one memory group");
        Ok(self.memory.insert(MemoryGroup::new(&self.mark, limit_bytes)?))
    }

    /// The stage's control group for memory.
    pub fn memory(&self) -> Result<&MemoryGroup> {
        self.memory.as_ref().context("the stage has no memory group")
    }

    /// A pipe whose ends only go where the case hands them.
    pub fn pipe(&self) -> Result<(io::PipeReader, io::PipeWriter)> {
        io::pipe().context("cannot make a pipe")
    }

    fn clear(&mut self) -> Result<()> {
        let killed = sweep::kill_all(&self.mark, &self.owned);
        for child in &mut self.children {
            // A child that a trigger reaped gives ECHILD.
            let _ = child.wait();
        }
        if let Some(mut guard) = self.guard.take() {
            guard.kill()?;
            guard.wait()?;
        }
        let mut ended = killed?;
        ended.extend(&self.owned);
        // What was orphaned is reaped by init, in its own time.
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && ended.iter().any(|identity| identity.left()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.group = None;
        self.memory = None;
        self.network = None;
        fs::remove_dir_all(&self.dir)?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("lab: the stage was not cleared: {error:#}");
        }
    }
}

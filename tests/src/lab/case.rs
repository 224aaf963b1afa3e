//! A row of the lab's table, and what it needs to run.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rung_diagnosis::mode::Mode;

use super::stage::{Stage, Workshop};
use super::truth::Truth;

/// Whether a case must be found or must stay silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something is wrong, and a diagnosis must say so.
    Fault,
    /// Looks like the fault of the same mode and is healthy.
    Twin,
}

/// What must exist on the machine for a case to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A program on PATH.
    Program(&'static str),
    /// Effective uid 0.
    Root,
    /// A writable cgroup hierarchy with the pids controller.
    PidsCgroup,
    /// A writable cgroup hierarchy with the memory controller.
    MemoryCgroup,
    /// The server programs of PostgreSQL, which Debian keeps off PATH.
    Postgresql,
}

impl Need {
    /// Why the need is not met here; `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Need::Program(name) => find_program(name).is_none().then(|| format!("no {name} on PATH")),
            Need::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Need::Postgresql => super::real_servers::postgresql()
                .is_none()
                .then(|| "no /usr/lib/postgresql".to_owned()),
            Need::PidsCgroup => super::cgroup::pids_root()
                .is_none()
                .then(|| "no writable pids cgroup".to_owned()),
            Need::MemoryCgroup => super::cgroup::memory_root()
                .is_none()
                .then(|| "no writable memory cgroup".to_owned()),
        }
    }
}

fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| Path::is_file(file))
}

/// How a diagnosis has to look to see the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// One picture suffices: `--for 0s`.
    Picture,
    /// Rates need a window: `--for 5s`, or the case's own length.
    Window,
}

/// One row of the lab's table.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its unique kebab-case name.
    pub name: &'static str,
    /// Fault or healthy twin.
    pub kind: Kind,
    /// The mode a fault provokes; for a twin, the mode that must stay silent.
    pub mode: Mode,
    /// One line on what it does.
    pub about: &'static str,
    /// What must exist for it to run.
    pub needs: &'static [Need],
    /// How to look for it.
    pub look: Look,
    /// How long a window.
    pub window: Duration,
    /// Whether /proc alone shows the signal, so that the procfs source must find it as well.
    pub procfs: bool,
    /// Whether its load or its rates would disturb other cases, so that it must run alone.
    pub alone: bool,
    /// How long starting and biting may take.
    pub bound: Duration,
    /// Starts it and proves that it bit.
    pub start: fn(&mut Stage) -> Result<Truth>,
}

impl Case {
    const fn new(kind: Kind, name: &'static str, mode: Mode, about: &'static str, start: Start) -> Self {
        let (needs, look, bound) = (&[], Look::Picture, Duration::from_secs(20));
        let window = Duration::from_secs(5);
        Case {
            name,
            kind,
            mode,
            about,
            needs,
            look,
            window,
            procfs: true,
            alone: false,
            bound,
            start,
        }
    }

    /// A fault.
    pub const fn fault(name: &'static str, mode: Mode, about: &'static str, start: Start) -> Self {
        Case::new(Kind::Fault, name, mode, about, start)
    }

    /// A healthy twin.
    pub const fn twin(name: &'static str, mode: Mode, about: &'static str, start: Start) -> Self {
        Case::new(Kind::Twin, name, mode, about, start)
    }

    /// With these needs.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// Visible in rates only, which other load would change.
    pub const fn window(mut self) -> Self {
        self.look = Look::Window;
        self.alone = true;
        self
    }

    /// Visible in a window of this length, whatever other cases do beside it.
    pub const fn look_seconds(mut self, seconds: u64) -> Self {
        self.look = Look::Window;
        self.window = Duration::from_secs(seconds);
        self
    }

    /// Not visible in /proc.
    pub const fn beyond_procfs(mut self) -> Self {
        self.procfs = false;
        self
    }

    /// Needs the machine for itself.
    pub const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// May take this long to start and bite.
    pub const fn bound_seconds(mut self, seconds: u64) -> Self {
        self.bound = Duration::from_secs(seconds);
        self
    }

    /// Why the case cannot run here; `None` if it can.
    pub fn missing(&self) -> Option<String> {
        self.needs.iter().find_map(|need| need.missing())
    }

    /// Starts the case on a stage of its own.
    pub fn play(&self, workshop: &std::sync::Arc<Workshop>) -> Result<(Stage, Truth)> {
        let mut stage = Stage::new(workshop)?;
        let truth = (self.start)(&mut stage)?;
        Ok((stage, truth))
    }
}

/// The signature of a case's start.
pub type Start = fn(&mut Stage) -> Result<Truth>;

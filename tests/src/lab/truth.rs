//! What is true about a running case, known without rung.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use rung_diagnosis::mode::Mode;

/// What another process or thread is to the finding, as in the JSON contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the contract's and say it")]
pub enum Role {
    Waiter,
    Owner,
    Reader,
    Writer,
    Parent,
    Child,
    Peer,
    Listener,
    Holder,
    Victim,
}

impl Role {
    /// The role's name in a report.
    pub fn id(self) -> &'static str {
        match self {
            Role::Waiter => "waiter",
            Role::Owner => "owner",
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Parent => "parent",
            Role::Child => "child",
            Role::Peer => "peer",
            Role::Listener => "listener",
            Role::Holder => "holder",
            Role::Victim => "victim",
        }
    }
}

/// A process or thread that the finding must name besides its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// What it is to the subject.
    pub role: Role,
    /// The host pid.
    pub pid: i32,
}

/// How sure a diagnosis can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// The structure proves it: confidence must be `proven`.
    Proven,
    /// Found with any confidence.
    Found,
    /// Nothing proves it from here: a notice suffices.
    Hinted,
    /// Found, or declared as could-not-observe; never a wrong claim.
    FoundOrDeclared,
}

/// A number that the lab measured by itself, and that a finding must give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// A word of the evidence's signal.
    pub signal: &'static str,
    /// What it is.
    pub value: f64,
    /// How far off a report may be, as a share of the value.
    pub tolerance_ratio: f64,
}

impl Figure {
    /// Whether this number is near enough.
    pub fn admits(&self, value: f64) -> bool {
        (value - self.value).abs() <= self.value * self.tolerance_ratio
    }
}

/// Makes the fault happen while somebody watches.
pub type Trigger = Box<dyn FnOnce() -> Result<()> + Send>;

/// What is true about a running case, known without rung.
#[must_use]
pub struct Truth {
    /// The modes under which a fault may be reported; the first is the best answer. For a twin: the
    /// mode that must stay silent.
    pub modes: Vec<Mode>,
    /// The culprits' host pids: the finding's subject must be one of them. Of a knot, all its processes.
    pub subjects: Vec<i32>,
    /// Where threads matter: the subject's tid must be one of these, if it is given.
    pub tids: Vec<i32>,
    /// Who else must be named.
    pub others: Vec<Party>,
    /// Every tid of the knot (the main thread's tid for a process): all must be named.
    pub knot: Vec<i32>,
    /// When it bit.
    pub since: Instant,
    /// Whether the age can be read off the machine (an orphan's parent leaves no date behind).
    pub age_known: bool,
    /// How long after `since` a diagnosis may need (failure-modes.md).
    pub threshold: Duration,
    /// How sure the diagnosis can be.
    pub certainty: Certainty,
    /// What follows from the fault: if reported at all, then as a symptom, with a cause.
    pub symptoms: Vec<(Mode, i32)>,
    /// What follows from the fault and must be reported, with a cause: nobody should have to find the link himself.
    pub expected_symptoms: Vec<(Mode, i32)>,
    /// The remote end of the connection, or the destination, that the finding must be about.
    pub flow: Option<SocketAddr>,
    /// Texts that must appear in the finding's summary, evidence or chain.
    pub says: Vec<String>,
    /// Numbers that the finding's evidence must hold.
    pub figures: Vec<Figure>,
    /// Modes that may explain it, of the same culprit: what is retried is refused, for one. They need not be said.
    pub grounds: Vec<Mode>,
    /// Words by which the coverage declares, for all processes at once, that it could not be seen.
    pub declared_as: Option<&'static str>,
    /// Pids that must not be touched by a finding of severity warning or above. Everything, in a twin.
    pub innocent: Vec<i32>,
    /// Whether the mode of a twin must not be said of its innocents as a notice either.
    pub not_even_a_notice: bool,
    /// Modes that are true of a twin all the same, so no false alarm.
    pub tolerated: Vec<Mode>,
    /// Which case of the mode it is, in words.
    pub case: Option<String>,
    /// Other incidents on the same stage, unlinked to this one: each must be a root of its own.
    pub also: Vec<Truth>,
    /// What makes it happen, if it has not happened yet.
    pub trigger: Option<Trigger>,
}

impl Truth {
    /// A fault of `mode` whose culprit is process `subject`, biting since `since`, visible at once.
    pub fn fault(mode: Mode, subject: i32, since: Instant) -> Self {
        Truth {
            modes: vec![mode],
            subjects: vec![subject],
            tids: Vec::new(),
            others: Vec::new(),
            knot: Vec::new(),
            since,
            age_known: true,
            threshold: Duration::ZERO,
            certainty: Certainty::Found,
            symptoms: Vec::new(),
            expected_symptoms: Vec::new(),
            flow: None,
            says: Vec::new(),
            figures: Vec::new(),
            declared_as: None,
            grounds: Vec::new(),
            innocent: Vec::new(),
            not_even_a_notice: false,
            tolerated: Vec::new(),
            case: None,
            also: Vec::new(),
            trigger: None,
        }
    }

    /// A twin: `mode` must stay silent about `innocent`.
    pub fn twin(mode: Mode, innocent: impl IntoIterator<Item = i32>) -> Self {
        let mut truth = Truth::fault(mode, 0, Instant::now());
        truth.subjects.clear();
        truth.innocent = innocent.into_iter().collect();
        truth.threshold = patience(mode);
        truth
    }

    /// Threads of one process that wait for each other: any of them may be the subject.
    pub fn knot_of_threads(pid: i32, tids: &[i32], since: Instant) -> Self {
        let mut truth = Truth::fault(Mode::Deadlock, pid, since);
        truth.tids = tids.to_vec();
        truth.knot = tids.to_vec();
        truth
    }

    /// Also an acceptable name for it.
    pub fn or_mode(mut self, mode: Mode) -> Self {
        self.modes.push(mode);
        self
    }

    /// Also an acceptable culprit.
    pub fn or_subject(mut self, pid: i32) -> Self {
        self.subjects.push(pid);
        self
    }

    /// Somebody the finding must name.
    pub fn party(mut self, role: Role, pid: i32) -> Self {
        self.others.push(Party { role, pid });
        self
    }

    /// Seconds after `since` that a diagnosis may need.
    pub fn threshold_seconds(mut self, seconds: u64) -> Self {
        self.threshold = Duration::from_secs(seconds);
        self
    }

    /// How sure a diagnosis can be.
    pub fn certainty(mut self, certainty: Certainty) -> Self {
        self.certainty = certainty;
        self
    }

    /// What follows from it.
    pub fn symptom(mut self, mode: Mode, pid: i32) -> Self {
        self.symptoms.push((mode, pid));
        self
    }

    /// What follows from it and must be said.
    pub fn expect_symptom(mut self, mode: Mode, pid: i32) -> Self {
        self.expected_symptoms.push((mode, pid));
        self.symptom(mode, pid)
    }

    /// The remote end that the finding must be about.
    pub fn flow(mut self, remote: SocketAddr) -> Self {
        self.flow = Some(remote);
        self
    }

    /// A text that the finding must contain.
    pub fn says(mut self, text: impl Into<String>) -> Self {
        self.says.push(text.into());
        self
    }

    /// A number that its evidence must hold.
    pub fn figure(mut self, signal: &'static str, value: f64, tolerance_ratio: f64) -> Self {
        self.figures.push(Figure {
            signal,
            value,
            tolerance_ratio,
        });
        self
    }

    /// It may be explained by this mode of the same culprit.
    pub fn because_of(mut self, mode: Mode) -> Self {
        self.grounds.push(mode);
        self
    }

    /// Found, or declared for all processes at once by these words in the coverage of the mode.
    pub fn or_declared_as(mut self, words: &'static str) -> Self {
        self.certainty = Certainty::FoundOrDeclared;
        self.declared_as = Some(words);
        self
    }

    /// True of a fault or twin all the same.
    pub fn tolerate(mut self, mode: Mode) -> Self {
        self.tolerated.push(mode);
        self
    }

    /// A twin of what would be said as a notice: that must not be said either.
    pub fn not_even_a_notice(mut self) -> Self {
        self.not_even_a_notice = true;
        self
    }

    /// And apart from it.
    pub fn and(mut self, other: Truth) -> Self {
        self.threshold = self.threshold.max(other.threshold);
        self.also.push(other);
        self
    }

    /// This incident and the others.
    pub fn incidents(&self) -> impl Iterator<Item = &Truth> + Clone {
        std::iter::once(self).chain(&self.also)
    }

    /// In words.
    pub fn case(mut self, words: &str) -> Self {
        self.case = Some(words.to_owned());
        self
    }

    /// Its age leaves no trace.
    pub fn age_unknown(mut self) -> Self {
        self.age_known = false;
        self
    }

    /// Makes a fault with a trigger happen; others have happened already.
    pub fn pull_trigger(&mut self) -> Result<()> {
        if let Some(trigger) = self.trigger.take() {
            self.since = Instant::now();
            trigger()?;
        }
        Ok(())
    }
}

/// How long a twin must have stood before its silence means something: past the mode's own threshold.
fn patience(mode: Mode) -> Duration {
    Duration::from_secs(match mode {
        Mode::Deadlock | Mode::Zombie => 31,
        Mode::PipeStall | Mode::FileLockWait | Mode::ProcessDeadlock | Mode::StoppedProcess => 6,
        Mode::UnixSocketStall => 4,
        _ => 0,
    })
}

impl std::fmt::Display for Truth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.subjects.is_empty() {
            writeln!(
                f,
                "healthy: nothing of severity warning or above about pids {:?}",
                self.innocent
            )?;
            return self
                .tolerated
                .iter()
                .try_for_each(|mode| writeln!(f, "may be said all the same: {mode}"));
        }
        let modes: Vec<&str> = self.modes.iter().map(|mode| mode.id()).collect();
        writeln!(f, "mode: {}", modes.join(" or "))?;
        writeln!(f, "subject: {}", join(&self.subjects, " or "))?;
        for party in &self.others {
            writeln!(f, "{}: {}", party.role.id(), party.pid)?;
        }
        if !self.knot.is_empty() {
            writeln!(f, "knot: {}", join(&self.knot, ", "))?;
        }
        if let Some(remote) = &self.flow {
            writeln!(f, "towards: {remote}")?;
        }
        for text in &self.says {
            writeln!(f, "it says: {text}")?;
        }
        for figure in &self.figures {
            writeln!(f, "its {}: {:.1}", figure.signal, figure.value)?;
        }
        for mode in &self.grounds {
            writeln!(f, "may be explained by: {mode}")?;
        }
        for (mode, pid) in &self.symptoms {
            let named = match self.expected_symptoms.contains(&(*mode, *pid)) {
                true => "to be named",
                false => "if named",
            };
            writeln!(f, "symptom of it, {named}: {mode} of {pid}")?;
        }
        if let Some(case) = &self.case {
            writeln!(f, "case: {case}")?;
        }
        writeln!(
            f,
            "expected: {:?}, at most {} s after it bit",
            self.certainty,
            self.threshold.as_secs()
        )?;
        self.also
            .iter()
            .try_for_each(|other| write!(f, "and apart from it:\n{other}"))
    }
}

fn join(pids: &[i32], between: &str) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(between)
}

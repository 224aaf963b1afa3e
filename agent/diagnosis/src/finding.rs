//! A finding: what is wrong, who is to blame, what proves it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mode::{Mode, Rung};
use crate::observation::Source;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; not a reason to act.
    Notice,
    /// Somebody waits, or soon will.
    Warning,
    /// Work has stopped and will not go on by itself.
    Critical,
}

/// How sure we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// A pattern that healthy hosts can show too.
    Suspected,
    /// The facts fit, but something that was not seen could explain them as well.
    Likely,
    /// The structure of waits admits nothing else.
    Proven,
}

macro_rules! display_kebab {
    ($type:ident { $($variant:ident $text:literal),* $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $( $type::$variant => $text, )* })
            }
        }
    };
}

display_kebab!(Severity { Notice "notice", Warning "warning", Critical "critical" });
display_kebab!(Confidence { Suspected "suspected", Likely "likely", Proven "proven" });

/// The part that another process or thread plays in a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It waits.
    Waiter,
    /// It owns the lock.
    Owner,
    /// It holds the read end.
    Reader,
    /// It holds the write end.
    Writer,
    /// It is the parent.
    Parent,
    /// It is a child.
    Child,
    /// It is the other end of a socket.
    Peer,
    /// It listens.
    Listener,
    /// It holds what others want.
    Holder,
    /// It was killed.
    Victim,
}

display_kebab!(Role {
    Waiter "waiter", Owner "owner", Reader "reader", Writer "writer", Parent "parent", Child "child", Peer "peer",
    Listener "listener", Holder "holder", Victim "victim",
});

/// The connection, or the destination, that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Flow {
    /// The local end, `address:port`; absent if it is about more than one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The remote end.
    pub remote: String,
    /// A name that this host has for the remote address, without having asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_name: Option<String>,
}

/// A process, or one thread of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Process id.
    pub pid: u32,
    /// Thread id, if the finding is about one thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Command name; bytes that are not printable UTF-8 are escaped as `\xNN`.
    pub comm: String,
    /// Start time of the process in clock ticks since boot, as field 22 of proc_pid_stat(5): with the pid it names
    /// the process for good.
    pub start_ticks: u64,
    /// Control group, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Command line with secrets redacted, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The connection or destination that it is about, if it is about the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
}

/// Another party to a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Other {
    /// Its part.
    pub role: Role,
    /// Who it is.
    #[serde(flatten)]
    pub party: Subject,
}

/// A measured fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What was measured.
    pub signal: String,
    /// Its value.
    pub value: Value,
    /// The unit of the value; empty for texts.
    pub unit: String,
    /// Where it was read.
    pub source: String,
}

/// A measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// A fraction.
    Number(f64),
    /// A name.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value:.1}"),
            Value::Text(value) => f.write_str(value),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Integer(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Integer(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Integer(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Number(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

/// One step of a wait chain: this thread waits in this way, for that thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainLink {
    /// The waiting thread.
    pub thread: u32,
    /// Its command name.
    pub comm: String,
    /// What it waits in, in words.
    pub waits: String,
    /// The thread it waits for; absent where the chain leaves the host's threads.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub on: Option<u32>,
    /// What the chain ends in, if it ends here: the clock, a terminal, a device, the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
}

/// A diagnosed problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// `mode:pid:n`, unique in a report.
    pub id: String,
    /// The failure mode.
    pub mode: Mode,
    /// Its rung.
    pub rung: Rung,
    /// How bad.
    pub severity: Severity,
    /// How sure.
    pub confidence: Confidence,
    /// The id of the finding that explains this one; a finding without is a root cause.
    pub cause: Option<String>,
    /// The culprit.
    pub subject: Subject,
    /// The other parties.
    pub others: Vec<Other>,
    /// Since when, RFC 3339 in UTC.
    pub since: Option<String>,
    /// For how long, seconds.
    pub age_seconds: Option<f64>,
    /// One sentence.
    pub summary: String,
    /// What proves it.
    pub evidence: Vec<Evidence>,
    /// The wait chain, from a waiter to its end.
    pub chain: Vec<ChainLink>,
    /// The page of the handbook (`rung explain`).
    pub guidance: Mode,
}

impl Evidence {
    /// A fact from the main source.
    pub fn new(signal: &str, value: impl Into<Value>, unit: &str, source: Source) -> Self {
        Evidence::from_file(signal, value, unit, source.name())
    }

    /// A fact from a named file or interface.
    pub fn from_file(signal: &str, value: impl Into<Value>, unit: &str, source: &str) -> Self {
        Evidence {
            signal: signal.into(),
            value: value.into(),
            unit: unit.into(),
            source: source.into(),
        }
    }
}

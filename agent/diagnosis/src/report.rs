//! The answer as a whole: the JSON contract `rung.report/1`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Severity};
use crate::mode::{Mode, Rung};
use crate::observation::Source;

/// The schema's name and number; fields do not change their name or unit without a new number.
pub const SCHEMA: &str = "rung.report/1";

/// A report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The host.
    pub host: HostFacts,
    /// The span of time looked at.
    pub window: WindowFacts,
    /// What was looked at, and how.
    pub picture: PictureFacts,
    /// The lowest rung of a root cause of severity warning or above.
    pub root_rung: Option<Rung>,
    /// Root causes first, each followed by its symptoms.
    pub findings: Vec<Finding>,
    /// One entry for every failure mode that was asked for: all of them, unless `--mode` said otherwise.
    pub coverage: Vec<Coverage>,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostFacts {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Boot id.
    pub boot_id: String,
}

/// The span of time looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WindowFacts {
    /// Its start, RFC 3339 in UTC.
    pub start: String,
    /// Its length; 0 for a single picture.
    pub seconds: f64,
}

/// What the pictures held and cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PictureFacts {
    /// Where observations came from.
    pub source: Source,
    /// Pictures taken.
    pub pictures: u64,
    /// Processes in the last one.
    pub processes: u64,
    /// Threads in the last one.
    pub threads: u64,
    /// Descriptors of pipes, sockets and their like in the last one.
    pub descriptors: u64,
    /// Rows dropped from the last one because they changed while being read.
    pub torn_rows: u64,
    /// How long the last one took.
    pub walk_ms: f64,
}

/// Whether a failure mode was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Looked, and found.
    Observed,
    /// Looked, and found nothing.
    Clear,
    /// The window was shorter than the mode needs.
    NeedsLonger,
    /// It could not be seen here.
    CouldNotObserve,
}

/// What can be said about one failure mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// The mode.
    pub mode: Mode,
    /// Whether it was looked for.
    pub status: Status,
    /// What was not seen, and why. Also present with `observed` and `clear` where only a part was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// The window that it needs, with `needs-longer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_seconds: Option<f64>,
}

impl Report {
    /// Whether anything is of severity warning or above: exit status 1.
    pub fn is_alarming(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity >= Severity::Warning)
    }

    /// The root causes, worst first as the report lists them.
    pub fn roots(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.cause.is_none())
    }

    /// The findings that a finding explains, directly.
    pub fn symptoms_of<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.cause.as_deref() == Some(id))
    }
}

/// The JSON schema of [`Report`], generated from the types.
pub fn json_schema() -> schemars::Schema {
    schemars::schema_for!(Report)
}

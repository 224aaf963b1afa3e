//! From a window to a report: detect, link causes, date, name, and say what was covered.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use crate::causes::causes;
use crate::detect::{BlindSpot, Context, DETECTORS, Detector, Draft, Party};
use crate::finding::{Finding, Flow, Other, Severity, Subject};
use crate::graph::{Node, WaitGraph};
use crate::index::Index;
use crate::mode::Mode;
use crate::observation::{
    HostObservation, Picture, ProcessDetail, Sight, TICK_NS, TaskObservation, TaskState, View,
};
use crate::report::{Coverage, HostFacts, PictureFacts, Report, SCHEMA, Status, WindowFacts};
use crate::settings::Settings;
use crate::why::ThreadWait;
use crate::window::Window;

/// What a report is asked for.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Only findings that involve this process.
    pub pid: Option<u32>,
    /// Only these modes; all if empty.
    pub modes: Vec<Mode>,
}

/// Diagnoses a window.
pub fn diagnose(window: &Window, host: &HostObservation, settings: &Settings, question: &Question) -> Report {
    let picture = &window.last;
    let index = Index::new(picture);
    let graph = WaitGraph::new(&index);
    let knots = graph.knots();
    let context = Context {
        window,
        picture,
        index: &index,
        graph: &graph,
        knots: &knots,
        host,
        settings,
    };
    let mut drafts: Vec<Draft> = DETECTORS
        .iter()
        .flat_map(|detector| (detector.detect)(&context))
        .collect();
    // Detectors may go through hash maps; the report does not depend on their order.
    drafts.sort_by_key(|draft| (draft.mode, draft.subject, draft.since_ns, draft.summary.clone()));
    let causes = causes(&context, &drafts);
    let ids = ids(&drafts);
    let mut findings: Vec<Finding> = drafts
        .iter()
        .enumerate()
        .map(|(at, draft)| {
            finding(
                &context,
                draft,
                &ids[at],
                causes[at].map(|cause| ids[cause].clone()),
            )
        })
        .collect();
    let wanted = |finding: &Finding| {
        (question.modes.is_empty() || question.modes.contains(&finding.mode))
            && question.pid.is_none_or(|pid| involves(finding, pid))
    };
    keep(&mut findings, wanted);
    let findings = in_order(findings);
    let coverage = coverage(&context, &findings, question);
    let processes = picture.tasks.iter().filter(|task| task.tid == task.tgid).count();
    let root_rung = findings
        .iter()
        .filter(|finding| finding.cause.is_none() && finding.severity >= Severity::Warning)
        .map(|finding| finding.rung)
        .min();
    Report {
        schema: SCHEMA.into(),
        host: host_facts(host),
        window: WindowFacts {
            start: rfc3339(i128::from(window.began_unix_ns)),
            seconds: round_ms(window.length_ns() as f64 / 1e9),
        },
        picture: PictureFacts {
            source: picture.sight.source,
            pictures: window.pictures,
            processes: processes as u64,
            threads: picture.tasks.len() as u64,
            descriptors: picture.descriptors.len() as u64,
            torn_rows: u64::from(picture.torn_rows),
            walk_ms: round_ms(picture.walk_ns() as f64 / 1e6),
        },
        root_rung,
        findings,
        coverage,
    }
}

/// What a report says of the host.
pub fn host_facts(host: &HostObservation) -> HostFacts {
    HostFacts {
        name: host.name.clone(),
        kernel: host.kernel.clone(),
        boot_id: host.boot_id.clone(),
    }
}

/// Follows the wait of each of these threads to its end.
pub fn why(picture: &Picture, tids: &[u32]) -> Vec<ThreadWait> {
    let index = Index::new(picture);
    let graph = WaitGraph::new(&index);
    let tasks = tids.iter().filter_map(|tid| index.task(*tid));
    tasks
        .map(|task| {
            let wait = graph.wait(task.tid);
            let since = wait.and_then(|wait| wait.since_ns);
            ThreadWait {
                thread: subject(&index, Party::thread(task)),
                state: state_name(task.state).into(),
                age_seconds: since.map(|since| seconds(picture.began_ns.saturating_sub(since))),
                prospect: graph.prospect(Node::Thread(task.tid)),
                chain: if wait.is_some() {
                    graph.chain(&index, task.tid)
                } else {
                    Vec::new()
                },
            }
        })
        .collect()
}

fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Sleeping => "sleeping",
        TaskState::Uninterruptible => "uninterruptible",
        TaskState::Stopped => "stopped",
        TaskState::Traced => "traced",
        TaskState::Zombie => "zombie",
        TaskState::Dead => "dead",
        TaskState::Idle => "idle",
    }
}

/// Adds to each subject what was looked up about its process.
pub fn add_details(report: &mut Report, details: &[ProcessDetail]) {
    let by_pid: FxHashMap<u32, &ProcessDetail> = details.iter().map(|detail| (detail.pid, detail)).collect();
    let add = |subject: &mut Subject| {
        if let Some(detail) = by_pid.get(&subject.pid)
            && detail.start_ns / TICK_NS == subject.start_ticks
        {
            subject.cgroup.clone_from(&detail.cgroup);
            subject.command.clone_from(&detail.command);
        }
    };
    for finding in &mut report.findings {
        add(&mut finding.subject);
        finding.others.iter_mut().for_each(|other| add(&mut other.party));
    }
}

fn ids(drafts: &[Draft]) -> Vec<String> {
    let mut counts: FxHashMap<(Mode, u32), u32> = FxHashMap::default();
    let mut id = |draft: &Draft| {
        let count = counts.entry((draft.mode, draft.subject.pid)).or_default();
        *count += 1;
        format!("{}:{}:{count}", draft.mode, draft.subject.pid)
    };
    drafts.iter().map(&mut id).collect()
}

fn subject(index: &Index<'_>, party: Party) -> Subject {
    let process = index.process(party.pid);
    let named = party.tid.and_then(|tid| index.task(tid)).or(process);
    Subject {
        pid: party.pid,
        tid: party.tid,
        comm: named.map_or_else(|| "?".into(), |task: &TaskObservation| task.comm.to_string()),
        start_ticks: process.map_or(0, |task| task.start_ns / TICK_NS),
        cgroup: None,
        command: None,
        flow: None,
    }
}

fn flow(host: &HostObservation, local: Option<SocketAddr>, remote: SocketAddr) -> Flow {
    let named = host.names.iter().find(|name| name.address == remote.ip());
    Flow {
        local: local.map(|local| local.to_string()),
        remote: remote.to_string(),
        remote_name: named.map(|name| name.name.clone()),
    }
}

fn finding(context: &Context<'_>, draft: &Draft, id: &str, cause: Option<String>) -> Finding {
    let others = draft.others.iter();
    let date = |since_ns: u64| {
        let ago = i128::from(context.picture.began_ns) - i128::from(since_ns);
        rfc3339(i128::from(context.picture.unix_ns) - ago)
    };
    let named = |party: Party| {
        let mut named = subject(context.index, party);
        // Gone by now, but its connections were seen.
        if context.index.process(party.pid).is_none()
            && let Some(comm) = context.window.network.comm(party.pid)
        {
            named.comm = comm.to_string();
        }
        // Gone by now, but its use of memory was seen.
        if context.index.process(party.pid).is_none()
            && let Some((key, history)) = context.window.usage.process(party.pid)
        {
            named.comm = history.comm.to_string();
            named.start_ticks = key.1 / TICK_NS;
        } else if let Some(kill) = context
            .window
            .usage
            .kills
            .iter()
            .rfind(|kill| kill.victim == party.pid)
            && context.index.process(party.pid).is_none()
        {
            named.comm = kill.comm.to_string();
        }
        named
    };
    Finding {
        id: id.to_owned(),
        mode: draft.mode,
        rung: draft.mode.rung(),
        severity: draft.severity,
        confidence: draft.confidence,
        cause,
        subject: Subject {
            flow: draft
                .flow
                .map(|(local, remote)| flow(context.host, local, remote)),
            ..named(draft.subject)
        },
        others: others
            .map(|(role, party)| Other {
                role: *role,
                party: named(*party),
            })
            .collect(),
        since: draft.since_ns.map(date),
        age_seconds: draft
            .since_ns
            .map(|since| seconds(context.picture.began_ns.saturating_sub(since))),
        summary: draft.summary.clone(),
        evidence: draft.evidence.clone(),
        chain: draft
            .chain_from
            .map_or_else(Vec::new, |tid| context.graph.chain(context.index, tid)),
        guidance: draft.mode,
    }
}

fn involves(finding: &Finding, pid: u32) -> bool {
    finding.subject.pid == pid || finding.others.iter().any(|other| other.party.pid == pid)
}

/// Keeps the wanted findings and what explains them.
fn keep(findings: &mut Vec<Finding>, wanted: impl Fn(&Finding) -> bool) {
    let mut kept: Vec<String> = Vec::new();
    for finding in findings.iter().filter(|finding| wanted(finding)) {
        let mut next = Some(finding);
        while let Some(one) = next.filter(|one| !kept.contains(&one.id)) {
            kept.push(one.id.clone());
            next = findings
                .iter()
                .find(|other| Some(&other.id) == one.cause.as_ref());
        }
    }
    findings.retain(|finding| kept.contains(&finding.id));
}

/// Root causes, worst first, each followed by what it explains.
fn in_order(findings: Vec<Finding>) -> Vec<Finding> {
    let mut below: FxHashMap<Option<String>, Vec<Finding>> = FxHashMap::default();
    for finding in findings {
        below.entry(finding.cause.clone()).or_default().push(finding);
    }
    let sizes: FxHashMap<Option<String>, usize> = below
        .iter()
        .map(|(cause, effects)| (cause.clone(), effects.len()))
        .collect();
    for effects in below.values_mut() {
        effects.sort_by_key(|finding| {
            let effects = sizes.get(&Some(finding.id.clone())).copied().unwrap_or(0);
            let age = finding.age_seconds.map_or(0, |age| (age * 1e3) as u64);
            (
                Reverse(finding.severity),
                Reverse(finding.confidence),
                Reverse(effects),
                Reverse(age),
                finding.id.clone(),
            )
        });
    }
    let mut ordered = Vec::new();
    let mut stack: Vec<Finding> = below.remove(&None).unwrap_or_default();
    stack.reverse();
    while let Some(finding) = stack.pop() {
        let mut effects = below.remove(&Some(finding.id.clone())).unwrap_or_default();
        effects.reverse();
        stack.extend(effects);
        ordered.push(finding);
    }
    ordered
}

fn coverage(context: &Context<'_>, findings: &[Finding], question: &Question) -> Vec<Coverage> {
    let modes = Mode::ALL
        .iter()
        .filter(|mode| question.modes.is_empty() || question.modes.contains(mode));
    modes
        .map(|mode| {
            let entry = cover(*mode, &context.picture.sight);
            if entry.status == Status::CouldNotObserve {
                return entry;
            }
            let blind_spot = detector(*mode)
                .and_then(|detector| detector.blind_spot)
                .and_then(|spot| spot(context));
            let entry = match blind_spot {
                Some(BlindSpot { why, remedy }) => Coverage {
                    why: Some(why),
                    remedy: Some(remedy),
                    ..entry
                },
                None => entry,
            };
            if findings.iter().any(|finding| finding.mode == *mode) {
                return Coverage {
                    status: Status::Observed,
                    ..entry
                };
            }
            let needs = detector(*mode).and_then(|detector| detector.needs_window);
            let needs = needs.map_or(Duration::ZERO, |needs| needs(context.settings));
            if u128::from(context.window.length_ns()) < needs.as_nanos() {
                return Coverage {
                    status: Status::NeedsLonger,
                    needs_seconds: Some(needs.as_secs_f64().ceil()),
                    ..entry
                };
            }
            entry
        })
        .collect()
}

fn detector(mode: Mode) -> Option<&'static Detector> {
    DETECTORS.iter().find(|detector| detector.mode == mode)
}

/// Whether a mode can be observed with this sight: `clear` if it can.
pub fn cover(mode: Mode, sight: &Sight) -> Coverage {
    let entry = |status, why: Option<String>, remedy: Option<String>| Coverage {
        mode,
        status,
        why,
        remedy,
        needs_seconds: None,
    };
    let Some(detector) = detector(mode) else {
        return entry(
            Status::CouldNotObserve,
            Some("this version has no detector for it".into()),
            Some("look by hand: `rung explain MODE`".into()),
        );
    };
    let mut partly = None;
    for signal in detector.needs {
        match sight.view(*signal) {
            Some(View::Full) => {}
            Some(View::Partial { why, remedy }) => partly = partly.or(Some((why, remedy))),
            Some(View::Blind { why, remedy }) => {
                return entry(Status::CouldNotObserve, Some(why.clone()), Some(remedy.clone()));
            }
            None => {
                let why = format!("{} were not looked at", signal.title());
                return entry(Status::CouldNotObserve, Some(why), None);
            }
        }
    }
    for signal in detector.helped_by {
        if let Some(View::Partial { why, remedy } | View::Blind { why, remedy }) = sight.view(*signal) {
            partly = partly.or(Some((why, remedy)));
        }
    }
    entry(
        Status::Clear,
        partly.map(|(why, _)| why.clone()),
        partly.map(|(_, remedy)| remedy.clone()),
    )
}

fn rfc3339(unix_ns: i128) -> String {
    // Whole milliseconds: finer ones mean nothing here.
    Timestamp::from_millisecond((unix_ns / 1_000_000) as i64)
        .map_or_else(|_| String::new(), |time| time.to_string())
}

fn round_ms(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn seconds(ns: u64) -> f64 {
    round_ms(ns as f64 / 1e9)
}

//! # What
//! The kernel killed a process for want of memory: told as a story of the domain that ran out, who was killed, who asked,
//! and who had used up the memory. These can be three processes.
//!
//! # Signal
//! The kernel's log: the constraint (a control group's limit, or the host), the victim, who asked. Where it cannot be
//! read, counters that rose within the window (`oom_kill` of control groups and of the host), and who was gone then: that
//! is inferred, and said to be. The culprit is whoever grew most in the domain over the window; without growth to be seen,
//! whoever has most in it.
//!
//! # Healthy twin
//! A process that somebody else killed (SIGKILL leaves no trace in these places); a control group at its limit in which
//! the kernel drops page cache.
//!
//! # Thresholds
//! None for the kill; it is reported for `kill_age` (5 minutes). Growth counts from `memory_share` (5%) of the limit on.
//!
//! # Source
//! mm/oom_kill.c; cgroup-v2.rst, memory.events; cgroup-v1/memory.rst, "OOM Control"; proc_vmstat(5).

use std::collections::BTreeMap;

use super::growing::{in_words, mebibytes};
use super::{BlindSpot, Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{OomKillObservation, Signal};
use crate::window::{ProcessHistory, is_within};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::OomKill,
    needs: &[Signal::Tasks, Signal::MemoryUse],
    helped_by: &[Signal::OomLog, Signal::UsageLimits],
    needs_window: Some(|settings| settings.rate_window),
    detect,
    blind_spot: Some(unexplained),
};

const LOG: &str = "kernel log";

/// The kills of one domain.
struct Story {
    /// The control group; `None` for the host, or if that is not known.
    group: Option<String>,
    constraint: String,
    victims: Vec<Victim>,
    invoker: String,
    /// When the first one was, `CLOCK_MONOTONIC` ns; `None` if it is not known.
    at_ns: Option<u64>,
    kills: u64,
    source: &'static str,
}

struct Victim {
    pid: u32,
    comm: String,
    anonymous_bytes: u64,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut stories = told(context);
    if !context.picture.sight.sees(Signal::OomLog) {
        stories.extend(inferred(context));
    }
    stories.iter().filter_map(|story| draft(context, story)).collect()
}

/// What the log tells, by domain.
fn told(context: &Context<'_>) -> Vec<Story> {
    let mut domains: BTreeMap<(Option<&str>, &str), Vec<&OomKillObservation>> = BTreeMap::new();
    for kill in &context.window.usage.kills {
        if context.age(kill.at_ns) <= context.settings.growth.kill_age {
            let domain = (kill.group.as_deref(), kill.constraint.as_str());
            domains.entry(domain).or_default().push(kill);
        }
    }
    let story = |((group, constraint), kills): ((Option<&str>, &str), Vec<&OomKillObservation>)| Story {
        group: group.map(str::to_owned),
        constraint: constraint.to_owned(),
        victims: kills
            .iter()
            .map(|kill| Victim {
                pid: kill.victim,
                comm: kill.comm.to_string(),
                anonymous_bytes: kill.anonymous_bytes,
            })
            .collect(),
        invoker: kills
            .last()
            .map(|kill| kill.invoker.to_string())
            .unwrap_or_default(),
        at_ns: kills.iter().map(|kill| kill.at_ns).min(),
        kills: kills.len() as u64,
        source: LOG,
    };
    domains.into_iter().map(story).collect()
}

/// What counters and those who are gone tell: the kills of control groups, else of the host.
fn inferred(context: &Context<'_>) -> Vec<Story> {
    let groups = &context.window.usage.groups;
    let kills = |path: &str| {
        let group = groups.get(path);
        group.map_or(0, |group| group.last.kills.saturating_sub(group.first.kills))
    };
    // A kill counts in the groups above as well (v2): the lowest one tells of it.
    let told_below = |path: &str| {
        let mut others = groups
            .keys()
            .filter(|other| *other != path && is_within(other, path));
        others.any(|other| kills(other) > 0)
    };
    let mut stories: Vec<Story> = groups
        .keys()
        .filter(|path| kills(path) > 0 && !told_below(path))
        .map(|path| by_counter(context, Some(path), kills(path)))
        .collect();
    let of_host = kills_of_host(context);
    if of_host > 0 && stories.is_empty() {
        stories.push(by_counter(context, None, of_host));
    }
    stories
}

/// So many kills in a domain, of those who are gone probably the ones with the most memory.
fn by_counter(context: &Context<'_>, group: Option<&str>, kills: u64) -> Story {
    let usage = &context.window.usage;
    let mut gone: Vec<Victim> = usage
        .processes
        .iter()
        .filter(|(key, history)| {
            let same = context.index.process(key.0).filter(|task| task.start_ns == key.1);
            let is_gone = same.is_none() || !context.index.lives(key.0);
            is_gone && group.is_none_or(|group| is_member(history, group))
        })
        .map(|(key, history)| Victim {
            pid: key.0,
            comm: history.comm.to_string(),
            anonymous_bytes: history.latest.anonymous_bytes,
        })
        .collect();
    gone.sort_by_key(|victim| (std::cmp::Reverse(victim.anonymous_bytes), victim.pid));
    gone.truncate(usize::try_from(kills).unwrap_or(usize::MAX));
    Story {
        group: group.map(str::to_owned),
        constraint: String::new(),
        victims: gone,
        invoker: String::new(),
        at_ns: None,
        kills,
        source: if group.is_some() {
            "memory controller"
        } else {
            "/proc/vmstat"
        },
    }
}

/// Kills within the window, by the host's counter.
fn kills_of_host(context: &Context<'_>) -> u64 {
    match context.window.usage.host {
        Some((first, last)) => last.kills.unwrap_or(0).saturating_sub(first.kills.unwrap_or(0)),
        None => 0,
    }
}

fn is_member(history: &ProcessHistory, group: &str) -> bool {
    let limits = history.limits.as_ref();
    limits.is_some_and(|limits| is_within(&limits.memory_group, group))
}

/// Who used up the memory.
struct Culprit {
    pid: u32,
    comm: String,
    /// By how much it grew, bytes, and in how many seconds; `None` if that was not seen.
    grew: Option<(u64, f64)>,
    /// What it has, or had when it was killed, bytes.
    anonymous_bytes: u64,
}

/// Whoever grew most in the domain over the window; without growth to be seen, whoever has or had most in it.
fn culprit(context: &Context<'_>, story: &Story, limit_bytes: u64) -> Option<Culprit> {
    let is_victim = |pid: u32| story.victims.iter().any(|victim| victim.pid == pid);
    let group = story.group.as_deref();
    let members = context
        .window
        .usage
        .processes
        .iter()
        .filter(|(key, history)| is_victim(key.0) || group.is_none_or(|group| is_member(history, group)))
        .map(|(key, history)| (key.0, history));
    let members: Vec<(u32, &ProcessHistory)> = members.collect();
    let least = context.settings.growth.memory_share * limit_bytes as f64;
    let most_grown = members
        .iter()
        .max_by_key(|(pid, history)| (history.memory_rise(), *pid));
    if let Some((pid, history)) = most_grown
        && history.memory_rise() as f64 >= least.max(LEAST_BYTES)
        && let (Some(first), Some(last)) = (history.samples.first(), history.samples.last())
    {
        let seconds = last.at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
        return Some(Culprit {
            pid: *pid,
            comm: history.comm.to_string(),
            grew: Some((history.memory_rise(), seconds)),
            anonymous_bytes: last.anonymous_bytes,
        });
    }
    let victims = story.victims.iter().map(|victim| Culprit {
        pid: victim.pid,
        comm: victim.comm.clone(),
        grew: None,
        anonymous_bytes: victim.anonymous_bytes,
    });
    let living = members
        .iter()
        .filter(|(pid, _)| !is_victim(*pid) && context.index.lives(*pid))
        .map(|(pid, history)| Culprit {
            pid: *pid,
            comm: history.comm.to_string(),
            grew: None,
            anonymous_bytes: history.latest.anonymous_bytes,
        });
    // Of two with as much, the one that was killed.
    living
        .chain(victims)
        .max_by_key(|culprit| culprit.anonymous_bytes)
}

/// Growth below this names no culprit.
const LEAST_BYTES: f64 = 1_048_576.0;

fn draft(context: &Context<'_>, story: &Story) -> Option<Draft> {
    let usage = &context.window.usage;
    let group = story.group.as_ref().and_then(|path| usage.groups.get(path));
    let limit = match &story.group {
        Some(_) => group.and_then(|group| group.last.limit_bytes),
        None if story.constraint.is_empty() => None,
        None => usage.host.map(|(_, host)| host.memory_bytes),
    };
    let killed: u64 = story.victims.iter().map(|victim| victim.anonymous_bytes).sum();
    let culprit = culprit(context, story, limit.unwrap_or(killed))?;
    let grew = culprit
        .grew
        .map(|(bytes, seconds)| format!("grew by {} in {}", mebibytes(bytes as f64), in_words(seconds)));
    let mut draft = Draft::of_process(Mode::OomKill, culprit.pid, summary(story, &culprit, limit, grew));
    let of_old = story.at_ns.is_some_and(|at_ns| at_ns < context.window.began_ns);
    if !of_old {
        draft.severity = Severity::Critical;
    }
    let is_victim = story.victims.iter().any(|victim| victim.pid == culprit.pid);
    draft.confidence = if story.source != LOG {
        Confidence::Suspected
    } else if is_victim && culprit.grew.is_some() {
        Confidence::Proven
    } else {
        Confidence::Likely
    };
    draft.since_ns = story.at_ns;
    let victims = story.victims.iter();
    draft.others = victims
        .map(|victim| (Role::Victim, Party::process(victim.pid)))
        .collect();
    draft.evidence = evidence(context, story, &culprit, limit);
    Some(draft)
}

fn summary(story: &Story, culprit: &Culprit, limit: Option<u64>, grew: Option<String>) -> String {
    let names: Vec<String> = story
        .victims
        .iter()
        .take(3)
        .map(|victim| format!("{} ({})", victim.comm, victim.pid))
        .collect();
    let whom = match (story.source == LOG, story.kills) {
        (true, 1) => names.concat(),
        (true, _) => format!("{} processes, {} among them,", story.kills, names.join(", ")),
        (false, kills) if names.is_empty() => format!("{kills} of unknown name"),
        (false, kills) => format!("{kills}, probably {},", names.join(", ")),
    };
    let of = limit
        .map(|bytes| format!(" of {}", mebibytes(bytes as f64)))
        .unwrap_or_default();
    let domain = match (&story.group, story.constraint.as_str()) {
        (Some(group), _) => format!("control group {group} was at its limit{of}"),
        (None, "") => "under which limit is not known".to_owned(),
        (None, _) => "the host had none left".to_owned(),
    };
    let is_victim = story.victims.iter().any(|victim| victim.pid == culprit.pid);
    let who = match (is_victim && story.kills == 1, grew) {
        (true, Some(grew)) => format!("it {grew}"),
        (true, None) => format!("it had {}", mebibytes(culprit.anonymous_bytes as f64)),
        (false, Some(grew)) => format!("{} ({}) {grew}", culprit.comm, culprit.pid),
        (false, None) => format!(
            "{} ({}) has most, {}",
            culprit.comm,
            culprit.pid,
            mebibytes(culprit.anonymous_bytes as f64)
        ),
    };
    format!("the kernel killed {whom} for want of memory: {domain}; {who}")
}

fn evidence(context: &Context<'_>, story: &Story, culprit: &Culprit, limit: Option<u64>) -> Vec<Evidence> {
    let mut evidence = vec![Evidence::from_file(
        "kills",
        story.kills,
        "processes",
        story.source,
    )];
    let mut text = |signal: &str, value: &str| {
        if !value.is_empty() {
            evidence.push(Evidence::from_file(signal, value, "", story.source));
        }
    };
    text("constraint", &story.constraint);
    text("domain", story.group.as_deref().unwrap_or_default());
    text("asked_for_memory", &story.invoker);
    if let Some(bytes) = limit {
        evidence.push(Evidence::from_file("limit", bytes, "bytes", "procfs"));
    }
    for victim in story.victims.iter().take(8) {
        evidence.push(Evidence::from_file("victim", victim.pid, "pid", story.source));
        let bytes = victim.anonymous_bytes;
        evidence.push(Evidence::from_file(
            "victim_anonymous",
            bytes,
            "bytes",
            story.source,
        ));
    }
    if let Some((bytes, seconds)) = culprit.grew {
        evidence.push(Evidence::from_file("culprit_growth", bytes, "bytes", "procfs"));
        evidence.push(Evidence::from_file("growth_watched", seconds, "s", "procfs"));
    }
    let group = story
        .group
        .as_ref()
        .and_then(|path| context.window.usage.groups.get(path));
    if let Some(group) = group {
        let hits = group.last.limit_hits.saturating_sub(group.first.limit_hits);
        evidence.push(Evidence::from_file(
            "limit_hits_in_window",
            hits,
            "times",
            "memory controller",
        ));
    }
    evidence
}

/// Kills that counters tell of, without a log that would name whom.
fn unexplained(context: &Context<'_>) -> Option<BlindSpot> {
    let kills = kills_of_host(context);
    (kills > 0 && !context.picture.sight.sees(Signal::OomLog)).then(|| BlindSpot {
        why: format!(
            "{} killed for want of memory in the window, by /proc/vmstat; without the kernel's log it is only inferred whom",
            match kills {
                1 => "1 process was".to_owned(),
                _ => format!("{kills} processes were"),
            }
        ),
        remedy: "run as root, or read the log: `journalctl -k -g 'Killed process'`".into(),
    })
}

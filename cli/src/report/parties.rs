//! Who takes part in a finding, as text.

use rung_diagnosis::finding::{Finding, Flow, Other, Role, Subject};

use crate::grouping::grouped;
use crate::page::{Page, VALUES};
use crate::wrap::{columns, shorten, visible};

/// Parties up to this number get a line each; more are folded by role and name.
const SINGLY: usize = 6;
/// Ids named in a fold.
const IDS: usize = 5;
/// Folds shown.
const FOLDS: usize = 8;
/// Columns of the culprit's command line, and of its control group.
const LONGEST: usize = 198;
/// Columns of another party's command line.
const OTHERS_COMMAND: usize = 60;

/// A process or thread, such as `sleep pid 4242`. A name with blanks is quoted, so that it cannot pose as more.
pub(crate) fn who(subject: &Subject) -> String {
    let name = match subject.comm.as_str() {
        "" => String::new(),
        comm if comm.contains(char::is_whitespace) => format!("\"{comm}\" "),
        comm => format!("{comm} "),
    };
    let thread = match subject.tid {
        Some(tid) if tid != subject.pid => format!(" thread {tid}"),
        _ => String::new(),
    };
    format!("{name}pid {}{thread}", subject.pid)
}

/// The culprit, with command line and control group: on one line if they fit, else a row each.
pub(super) fn write_culprit(page: &mut Page<'_>, subject: &Subject) {
    let who = who(subject);
    let command = subject
        .command
        .as_deref()
        .map(|command| shorten(command, LONGEST));
    let cgroup = subject.cgroup.as_deref().map(|cgroup| shorten(cgroup, LONGEST));
    let mut line = who.clone();
    line.extend(command.iter().map(|command| format!("   {command}")));
    line.extend(cgroup.iter().map(|cgroup| format!("   cgroup {cgroup}")));
    if columns(&visible(&line)) + VALUES <= page.screen().width {
        page.row("culprit", &line);
        return;
    }
    page.row("culprit", &who);
    for (label, value) in [("command", command), ("cgroup", cgroup)] {
        if let Some(value) = value {
            page.row(label, &value);
        }
    }
}

/// The connection or destination that a finding is about, on a line of its own.
pub(super) fn write_flow(page: &mut Page<'_>, flow: &Flow) {
    let named = flow
        .remote_name
        .as_deref()
        .map_or_else(String::new, |name| format!(" ({})", shorten(name, LONGEST)));
    match &flow.local {
        Some(local) => page.row("connection", &format!("{local} to {}{named}", flow.remote)),
        None => page.row("destination", &format!("{}{named}", flow.remote)),
    }
}

/// The other parties: first those who wait, then the rest.
pub(super) fn write_others(page: &mut Page<'_>, finding: &Finding) {
    let waits = |other: &&Other| {
        let id = other.party.tid.unwrap_or(other.party.pid);
        other.role == Role::Waiter || finding.chain.iter().any(|link| link.thread == id)
    };
    let (waiting, involved): (Vec<&Other>, Vec<&Other>) = finding.others.iter().partition(waits);
    write_group(page, "waiting", &waiting);
    write_group(page, "involved", &involved);
}

fn write_group(page: &mut Page<'_>, label: &str, others: &[&Other]) {
    let lines: Vec<String> = if others.len() <= SINGLY {
        others.iter().map(|other| single(other)).collect()
    } else {
        fold(others)
    };
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            page.row(label, line);
        } else {
            page.more(line);
        }
    }
}

fn single(other: &Other) -> String {
    let mut text = format!("{} ({})", who(&other.party), other.role);
    let command = other
        .party
        .command
        .as_deref()
        .filter(|command| *command != other.party.comm);
    if let Some(command) = command {
        text.push_str(&format!("   {}", shorten(command, OTHERS_COMMAND)));
    }
    text
}

fn fold(others: &[&Other]) -> Vec<String> {
    let mut groups = grouped(others.iter().copied(), |other| {
        (other.role, other.party.comm.as_str())
    });
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut lines: Vec<String> = groups
        .iter()
        .take(FOLDS)
        .filter_map(|group| {
            let first = group.first()?;
            let ids: Vec<u32> = group
                .iter()
                .map(|other| other.party.tid.unwrap_or(other.party.pid))
                .collect();
            let (comm, role) = (&first.party.comm, first.role);
            Some(format!("{} {comm} ({role}): {}", ids.len(), ids_in_short(&ids)))
        })
        .collect();
    if groups.len() > FOLDS {
        let more: usize = groups[FOLDS..].iter().map(|group| group.len()).sum();
        lines.push(format!("and {more} more under other names"));
    }
    lines
}

/// The first few ids and how many more there are.
pub(super) fn ids_in_short(ids: &[u32]) -> String {
    let named: Vec<String> = ids.iter().take(IDS).map(u32::to_string).collect();
    let more = ids.len().saturating_sub(IDS);
    if more == 0 {
        named.join(", ")
    } else {
        format!("{} and {more} more", named.join(", "))
    }
}

//! One incident: its root cause with culprit, evidence and advice, and the symptoms that it explains.

use std::collections::BTreeMap;

use rung_diagnosis::finding::{Finding, Severity};
use rung_diagnosis::mode::Mode;
use rung_diagnosis::report::Report;

use super::forest::Tree;
use super::{guidance, parties};
use crate::page::{Page, VALUES};
use crate::screen::Style;
use crate::{chain, duration};

/// Facts shown; the others are counted.
const FACTS: usize = 8;
/// Symptoms shown; the others are counted by mode.
const SYMPTOMS: usize = 5;

/// Writes an incident in full. `advised` remembers in which incident a mode's advice was printed, so that it is
/// printed once.
pub(super) fn write(
    page: &mut Page<'_>,
    number: Option<usize>,
    tree: &Tree<'_>,
    report: &Report,
    advised: &mut BTreeMap<Mode, usize>,
) {
    let root = tree.root;
    title(page, number, root);
    page.term(2, root.mode.id(), &root.summary);
    if let Some(cause) = &root.cause {
        let known = report.findings.iter().any(|finding| &finding.id == cause);
        let note = if known { "" } else { ", which is not shown" };
        page.row("explained by", &format!("{cause}{note}"));
    }
    if let Some(since) = since(root) {
        page.row("since", &since);
    }
    parties::write_culprit(page, &root.subject);
    if let Some(flow) = &root.subject.flow {
        parties::write_flow(page, flow);
    }
    parties::write_others(page, root);
    write_chain(page, root);
    write_evidence(page, root);
    write_symptoms(page, tree);
    match advised.get(&root.guidance) {
        Some(earlier) => page.row("what to do", &format!("as in incident {earlier}")),
        None => {
            advised.insert(root.guidance, number.unwrap_or(1));
            guidance::write(page, root);
        }
    }
}

/// Writes an incident in two lines or so.
pub(super) fn write_short(page: &mut Page<'_>, number: usize, tree: &Tree<'_>) {
    let root = tree.root;
    let symptoms = match tree.symptoms.len() {
        0 => String::new(),
        count => format!("; explains {}", super::counted(count as u64, "symptom")),
    };
    let text = format!(
        "{} ({}, {}): {}{symptoms}",
        root.mode, root.severity, root.confidence, root.summary
    );
    page.item(0, &format!("{number}."), &text);
}

fn title(page: &mut Page<'_>, number: Option<usize>, root: &Finding) {
    let dot = page.screen().dot();
    let style = match root.severity {
        Severity::Critical => Style::Critical,
        Severity::Warning => Style::Warning,
        Severity::Notice => Style::Notice,
    };
    let what = if root.cause.is_none() {
        "ROOT CAUSE"
    } else {
        "SYMPTOM"
    };
    let left = match number {
        Some(number) => format!("{number}. {what}"),
        None => what.to_owned(),
    };
    let rung = format!("rung {} {dot} {}", root.rung.number(), root.rung.title());
    let right = format!("{} {dot} {}", root.severity, root.confidence);
    page.margins((style, &left), &rung, (style, &right));
}

fn since(finding: &Finding) -> Option<String> {
    let age = finding.age_seconds.map(duration::words);
    match (finding.since.as_deref().map(duration::stamp), age) {
        (Some(stamp), Some(age)) => Some(format!("{stamp} ({age})")),
        (Some(stamp), None) => Some(stamp),
        (None, Some(age)) => Some(format!("{age} ago")),
        (None, None) => None,
    }
}

fn write_chain(page: &mut Page<'_>, root: &Finding) {
    let parties = root.others.iter().map(|other| &other.party);
    let names: BTreeMap<u32, &str> = parties
        .chain(std::iter::once(&root.subject))
        .map(|party| (party.tid.unwrap_or(party.pid), party.comm.as_str()))
        .collect();
    let width = page.screen().width.saturating_sub(VALUES);
    write_list(page, "chain", &chain::lines(&root.chain, &names, None, width));
}

fn write_evidence(page: &mut Page<'_>, root: &Finding) {
    let mut facts: Vec<String> = root
        .evidence
        .iter()
        .take(FACTS)
        .map(|fact| {
            let unit = if fact.unit.is_empty() {
                String::new()
            } else {
                format!(" {}", fact.unit)
            };
            format!("{} = {}{unit} ({})", fact.signal, fact.value, fact.source)
        })
        .collect();
    if root.evidence.len() > FACTS {
        facts.push(format!(
            "and {} more; `--format json` has all",
            root.evidence.len() - FACTS
        ));
    }
    write_list(page, "evidence", &facts);
}

fn write_list(page: &mut Page<'_>, label: &str, lines: &[String]) {
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            page.row(label, line);
        } else {
            page.more(line);
        }
    }
}

fn write_symptoms(page: &mut Page<'_>, tree: &Tree<'_>) {
    if tree.symptoms.is_empty() {
        return;
    }
    let dot = page.screen().dot();
    page.styled(2, Style::Heading, "SYMPTOMS explained by it");
    for (depth, symptom) in tree.symptoms.iter().take(SYMPTOMS) {
        let indent = 2 + 2 * (*depth).min(4);
        let age = symptom
            .age_seconds
            .map_or(String::new(), |age| format!(" {dot} {}", duration::words(age)));
        let facts = format!(
            "rung {} {dot} {} {dot} {}{age}",
            symptom.rung.number(),
            symptom.severity,
            symptom.confidence
        );
        page.term(indent, symptom.mode.id(), &facts);
        page.paragraph(indent + 2, &symptom.summary);
    }
    if tree.symptoms.len() > SYMPTOMS {
        let mut counts: BTreeMap<Mode, usize> = BTreeMap::new();
        for (_, symptom) in &tree.symptoms[SYMPTOMS..] {
            *counts.entry(symptom.mode).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(mode, count)| format!("{count} {mode}"))
            .collect();
        let more = tree.symptoms.len() - SYMPTOMS;
        page.paragraph(4, &format!("and {more} more: {}", counts.join(", ")));
    }
}

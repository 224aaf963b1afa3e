//! Compares a report with the truth: pure, so that the comparison itself is tested.

use std::time::Duration;

use rung_diagnosis::mode::Mode;

use crate::lab::{Certainty, Truth};
use crate::rung::{Finding, Report, Source};

/// Everything that is wrong with `report`, given that `truth` is true; empty if nothing is.
///
/// `cast` is every process of the case, so that nothing else is said of them.
pub fn judge(truth: &Truth, cast: &[i32], source: Source, report: &Report) -> Vec<String> {
    let faults = truth.incidents().filter(|incident| !incident.subjects.is_empty());
    let mut problems: Vec<String> = faults
        .flat_map(|incident| fault(incident, source, report))
        .collect();
    problems.extend(false_alarms(truth, cast, report));
    let took = report.ended.duration_since(report.started);
    if took > report.window + Duration::from_secs(2) + report.window / 50 {
        problems.push(format!(
            "took {:.1} s, {:.1} of it its window",
            took.as_secs_f64(),
            report.window.as_secs_f64()
        ));
    }
    problems
}

/// The finding that fits best decides what is missing.
fn fault(truth: &Truth, source: Source, report: &Report) -> Vec<String> {
    let modes: Vec<&str> = truth.modes.iter().map(|mode| mode.id()).collect();
    let findings = report.findings();
    let about = findings.iter().filter(|finding| rightful(truth, finding));
    let best = about
        .map(|finding| shortcomings(truth, source, report, finding))
        .min_by_key(Vec::len);
    if let Some(shortcomings) = best {
        return shortcomings;
    }
    let declared = truth.modes.iter().all(|&mode| {
        truth
            .subjects
            .iter()
            .all(|&pid| report.declares(mode, pid.cast_unsigned()))
            || truth
                .declared_as
                .is_some_and(|words| report.why(mode).is_some_and(|why| why.contains(words)))
    });
    if truth.certainty == Certainty::FoundOrDeclared && declared {
        return Vec::new();
    }
    vec![format!(
        "no finding {} about {:?}",
        modes.join(" or "),
        truth.subjects
    )]
}

fn shortcomings(truth: &Truth, source: Source, report: &Report, finding: &Finding<'_>) -> Vec<String> {
    let mut missing = Vec::new();
    if !finding.alarms() && truth.certainty != Certainty::Hinted {
        missing.push("its severity is only a notice".to_owned());
    }
    // Where two modes are right about one culprit, one may explain the other.
    let explained_rightly = report.findings().iter().any(|other| {
        other.0["id"] == finding.0["cause"] && (rightful(truth, other) || grounds(truth, other))
    });
    if !finding.root() && !explained_rightly {
        missing.push(format!(
            "it is the root, but has the cause {}",
            finding.0["cause"]
        ));
    }
    if let Some(tid) = finding.subject_tid()
        && !truth.tids.is_empty()
        && !truth.tids.iter().any(|&known| i64::from(known) == tid)
    {
        missing.push(format!("the thread {tid} is none of {:?}", truth.tids));
    }
    for party in &truth.others {
        let named =
            |(role, pid, _): (&str, Option<i64>, _)| role == party.role.id() && pid == Some(party.pid.into());
        if !finding.others().into_iter().any(named) {
            missing.push(format!("it does not name the {} {}", party.role.id(), party.pid));
        }
    }
    if let Some(remote) = &truth.flow
        && finding.remote() != Some(remote.to_string().as_str())
    {
        missing.push(format!("it is about {:?}, not {remote}", finding.remote()));
    }
    for figure in &truth.figures {
        let given = finding.figures(figure.signal);
        if !given.iter().any(|&value| figure.admits(value)) {
            missing.push(format!(
                "its {} is {given:?}, the truth {:.2}",
                figure.signal, figure.value
            ));
        }
    }
    for text in truth.says.iter().filter(|text| !finding.says(text)) {
        missing.push(format!("it does not say {text:?}"));
    }
    for (mode, pid) in &truth.expected_symptoms {
        let is = |other: &Finding<'_>| mode.id() == other.mode() && other.names(*pid) && !other.root();
        if !report.findings().iter().any(is) {
            missing.push(format!("no {mode} of {pid} is said to follow from it"));
        }
    }
    for &member in &truth.knot {
        if !finding.names(member) {
            missing.push(format!("it does not name {member} of the knot"));
        }
    }
    // Without the scheduler's clock there is neither proof by owner words nor an age.
    if source == Source::Best {
        if truth.certainty == Certainty::Proven && finding.0["confidence"] != "proven" {
            missing.push(format!("it is {}, not proven", finding.0["confidence"]));
        }
        missing.extend(wrong_age(truth, report, finding));
    }
    missing
}

/// The age at some moment of the run, within a second or a tenth.
fn wrong_age(truth: &Truth, report: &Report, finding: &Finding<'_>) -> Option<String> {
    if !truth.age_known {
        return None;
    }
    let Some(age) = finding.age_seconds() else {
        return Some("it gives no age".to_owned());
    };
    let at_start = report
        .started
        .saturating_duration_since(truth.since)
        .as_secs_f64();
    let at_end = report.ended.saturating_duration_since(truth.since).as_secs_f64();
    let leeway = (at_end / 10.0).max(1.0);
    let fits = (at_start - leeway..=at_end + leeway).contains(&age);
    (!fits).then(|| format!("its age is {age:.1} s, the truth {at_start:.1} to {at_end:.1} s"))
}

/// Whether it is of the right mode and blames a culprit.
fn rightful(truth: &Truth, finding: &Finding<'_>) -> bool {
    truth.modes.iter().any(|mode| mode.id() == finding.mode())
        && finding
            .subject()
            .is_some_and(|pid| truth.subjects.iter().any(|&subject| i64::from(subject) == pid))
}

/// Whether it is what may explain the fault: a mode of the same culprit.
fn grounds(truth: &Truth, finding: &Finding<'_>) -> bool {
    truth.grounds.iter().any(|mode| mode.id() == finding.mode())
        && truth.subjects.iter().any(|&pid| finding.names(pid))
}

/// What is said of the case's processes besides the truth: symptoms need a cause, anything else is wrong.
fn false_alarms(truth: &Truth, cast: &[i32], report: &Report) -> Vec<String> {
    let mut alarms = false_notices(truth, report);
    for finding in report.findings().into_iter().filter(Finding::alarms) {
        let is = |mode: &Mode| mode.id() == finding.mode();
        let any = |holds: &dyn Fn(&Truth) -> bool| truth.incidents().any(holds);
        if any(&|incident| {
            incident.tolerated.iter().any(is) || rightful(incident, &finding) || grounds(incident, &finding)
        }) {
            continue;
        }
        let id = &finding.0["id"];
        if any(&|incident| incident.innocent.iter().any(|&pid| finding.names(pid))) {
            alarms.push(format!("false alarm: {id} names the innocent"));
        } else if any(&|incident| {
            incident
                .symptoms
                .iter()
                .any(|(mode, pid)| is(mode) && finding.names(*pid))
        }) {
            if finding.root() {
                alarms.push(format!("{id} is a symptom, but has no cause"));
            }
        } else if finding.root() && cast.iter().any(|&pid| finding.names(pid)) {
            alarms.push(format!("{id} is an incident of its own that is not there"));
        }
    }
    alarms
}

/// Notices of a twin's own mode about its innocents, if it must not have any.
fn false_notices(truth: &Truth, report: &Report) -> Vec<String> {
    let findings = report.findings().into_iter().filter(|finding| !finding.alarms());
    findings
        .filter(|finding| {
            truth.incidents().any(|incident| {
                incident.not_even_a_notice
                    && incident.modes.iter().any(|mode| mode.id() == finding.mode())
                    && incident.innocent.iter().any(|&pid| finding.names(pid))
            })
        })
        .map(|finding| format!("false notice: {} names the innocent", finding.0["id"]))
        .collect()
}

#[cfg(test)]
mod tests;

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
    if took > report.window + Duration::from_secs(2) {
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
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::lab::Role;

    fn finding(mode: Mode, pid: i32, age: f64) -> Value {
        json!({"id": format!("{mode}:{pid}"), "mode": mode.id(), "rung": mode.rung().number(),
            "severity": "critical", "confidence": "proven", "cause": null, "subject": {"pid": pid, "tid": pid},
            "others": [{"role": "waiter", "pid": 8, "tid": 9}], "since": "2026-11-23T22:50:00Z",
            "age_seconds": age, "summary": "", "evidence": [], "chain": [], "guidance": mode.id()})
    }

    fn report(findings: &[Value]) -> Report {
        let coverage: Vec<Value> = Mode::ALL
            .iter()
            .map(|mode| json!({"mode": mode.id(), "status": "could-not-observe"}))
            .collect();
        let root_rung = findings
            .iter()
            .filter_map(|finding| finding["rung"].as_u64())
            .min();
        let value = json!({"schema": "rung.report/1",
            "host": {"name": "h", "kernel": "6.18", "boot_id": "b"},
            "window": {"start": "2026-11-23T23:50:00.123Z", "seconds": 0.0},
            "root_rung": root_rung, "findings": findings, "coverage": coverage});
        let now = Instant::now();
        Report {
            value,
            window: Duration::ZERO,
            started: now,
            ended: now,
        }
    }

    fn truth() -> Truth {
        let since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        Truth::fault(Mode::PipeStall, 7, since).party(Role::Waiter, 8)
    }

    fn problems(truth: &Truth, findings: &[Value]) -> String {
        judge(truth, &[7, 8], Source::Best, &report(findings)).join("; ")
    }

    #[test]
    fn the_truth_has_no_problems() {
        assert_eq!(problems(&truth(), &[finding(Mode::PipeStall, 7, 60.2)]), "");
        report(&[finding(Mode::PipeStall, 7, 60.2)])
            .check_contract(1)
            .unwrap();
        report(&[]).check_contract(0).unwrap();
    }

    #[test]
    fn silence_is_a_problem_unless_it_was_allowed_and_declared() {
        assert!(problems(&truth(), &[]).contains("no finding pipe-stall"));
        assert_eq!(problems(&truth().certainty(Certainty::FoundOrDeclared), &[]), "");
    }

    #[test]
    fn what_is_declared_for_all_processes_is_declared_in_the_right_words() {
        let mut observed = report(&[]);
        for entry in observed.value["coverage"].as_array_mut().unwrap() {
            entry["status"] = json!("clear");
            entry["why"] = json!("the ports of 3 namespaces are unknown");
        }
        let problems = |words| judge(&truth().or_declared_as(words), &[7, 8], Source::Best, &observed);
        assert!(problems("the ports of").is_empty());
        assert!(!problems("the names of").is_empty());
    }

    #[test]
    fn wrong_culprit_wrong_age_missing_party_and_wrong_root_are_problems() {
        assert!(problems(&truth(), &[finding(Mode::PipeStall, 8, 60.0)]).contains("no finding"));
        assert!(problems(&truth(), &[finding(Mode::PipeStall, 7, 75.0)]).contains("its age is 75.0"));
        let more = truth().party(Role::Owner, 8);
        assert!(problems(&more, &[finding(Mode::PipeStall, 7, 60.0)]).contains("the owner 8"));
        let mut caused = finding(Mode::PipeStall, 7, 60.0);
        caused["cause"] = json!("x");
        assert!(problems(&truth(), &[caused]).contains("it is the root"));
    }

    #[test]
    fn a_knot_must_be_complete() {
        let since = Instant::now();
        let knot = Truth::knot_of_threads(7, &[7, 9], since);
        assert_eq!(problems(&knot, &[finding(Mode::Deadlock, 7, 0.0)]), "");
        let knot = Truth::knot_of_threads(7, &[7, 10], since);
        assert!(problems(&knot, &[finding(Mode::Deadlock, 7, 0.0)]).contains("10 of the knot"));
    }

    #[test]
    fn symptoms_need_a_cause() {
        let truth = truth().symptom(Mode::LockContention, 8);
        let mut symptom = finding(Mode::LockContention, 8, 60.0);
        let root = finding(Mode::PipeStall, 7, 60.0);
        assert!(problems(&truth, &[root.clone(), symptom.clone()]).contains("no cause"));
        symptom["cause"] = root["id"].clone();
        assert_eq!(problems(&truth, &[root, symptom]), "");
    }

    #[test]
    fn a_symptom_that_must_be_said_is_missed() {
        let truth = truth().expect_symptom(Mode::ConnectTimeout, 8);
        let root = finding(Mode::PipeStall, 7, 60.0);
        assert!(problems(&truth, std::slice::from_ref(&root)).contains("no connect-timeout of 8"));
        let mut symptom = finding(Mode::ConnectTimeout, 8, 60.0);
        symptom["cause"] = root["id"].clone();
        assert_eq!(problems(&truth, &[root, symptom]), "");
    }

    #[test]
    fn a_finding_is_about_the_right_destination_and_says_what_it_must() {
        let remote = "[fd99::2]:80".parse().unwrap();
        let truth = truth().flow(remote).says("fd99::3");
        let mut right = finding(Mode::PipeStall, 7, 60.0);
        assert!(problems(&truth, std::slice::from_ref(&right)).contains("not [fd99::2]:80"));
        right["subject"]["flow"] = json!({"remote": "[fd99::2]:80"});
        // The flow alone says nothing to a reader of the texts.
        assert!(problems(&truth, std::slice::from_ref(&right)).contains("it does not say \"fd99::3\""));
        right["evidence"] =
            json!([{"signal": "healthy peers", "value": "fd99::3", "unit": "", "source": "x"}]);
        assert_eq!(problems(&truth, std::slice::from_ref(&right)), "");
        right["subject"]["flow"]["remote"] = json!("[fd99::2]:81");
        assert!(problems(&truth, &[right]).contains("81"));
    }

    #[test]
    fn a_hint_may_be_a_notice_and_must_be_there() {
        let mut notice = finding(Mode::PipeStall, 7, 60.0);
        notice["severity"] = json!("notice");
        assert!(problems(&truth(), std::slice::from_ref(&notice)).contains("only a notice"));
        let hinted = || truth().certainty(Certainty::Hinted);
        assert_eq!(problems(&hinted(), &[notice]), "");
        assert!(problems(&hinted(), &[]).contains("no finding"));
    }

    #[test]
    fn two_incidents_are_two_roots() {
        let since = Instant::now();
        let both = truth().and(Truth::fault(Mode::Zombie, 8, since));
        let (pipe, mut zombie) = (finding(Mode::PipeStall, 7, 60.0), finding(Mode::Zombie, 8, 0.0));
        assert_eq!(problems(&both, &[pipe.clone(), zombie.clone()]), "");
        assert!(problems(&both, std::slice::from_ref(&pipe)).contains("no finding zombie"));
        zombie["cause"] = pipe["id"].clone();
        assert!(problems(&both, &[pipe, zombie]).contains("it is the root"));
    }

    #[test]
    fn a_second_incident_that_blames_the_victim_is_a_problem() {
        let right = finding(Mode::PipeStall, 7, 60.0);
        assert!(
            problems(&truth(), &[right, finding(Mode::PipeStall, 8, 60.0)]).contains("incident of its own")
        );
    }

    #[test]
    fn grounds_explain_a_fault_of_the_same_culprit_only() {
        let truth = truth().because_of(Mode::ConnectRefused);
        let ground = finding(Mode::ConnectRefused, 7, 60.0);
        let mut fault = finding(Mode::PipeStall, 7, 60.0);
        fault["cause"] = ground["id"].clone();
        assert_eq!(problems(&truth, &[ground.clone(), fault.clone()]), "");
        assert!(problems(&truth, &[ground]).contains("no finding pipe-stall"));
        let other = finding(Mode::Zombie, 7, 60.0);
        fault["cause"] = other["id"].clone();
        assert!(problems(&truth, &[other, fault]).contains("it is the root"));
    }

    #[test]
    fn figures_are_near_enough_or_not() {
        let truth = truth().figure("product", 27.0, 0.15);
        let with = |value: f64| {
            let mut finding = finding(Mode::PipeStall, 7, 60.0);
            finding["evidence"] =
                json!([{"signal": "product_of_factors", "value": value, "unit": "x", "source": "events"}]);
            problems(&truth, &[finding])
        };
        assert_eq!(with(24.0), "");
        assert!(with(22.0).contains("its product is [22.0], the truth 27.00"));
        assert!(problems(&truth, &[finding(Mode::PipeStall, 7, 60.0)]).contains("its product is []"));
    }

    #[test]
    fn a_twin_tolerates_only_what_is_true_of_it() {
        let twin = Truth::twin(Mode::PipeStall, [7, 8]);
        assert_eq!(problems(&twin, &[]), "");
        assert!(problems(&twin, &[finding(Mode::Zombie, 8, 1.0)]).contains("false alarm"));
        assert_eq!(
            problems(&twin.tolerate(Mode::Zombie), &[finding(Mode::Zombie, 8, 1.0)]),
            ""
        );
        let mut notice = finding(Mode::PipeStall, 7, 1.0);
        notice["severity"] = json!("notice");
        assert_eq!(
            problems(&Truth::twin(Mode::PipeStall, [7]), std::slice::from_ref(&notice)),
            ""
        );
        let quiet = |mode, pid| {
            problems(
                &Truth::twin(mode, [pid]).not_even_a_notice(),
                std::slice::from_ref(&notice),
            )
        };
        assert!(quiet(Mode::PipeStall, 7).contains("false notice"));
        assert_eq!(quiet(Mode::PipeStall, 77), "");
        assert_eq!(quiet(Mode::HalfOpen, 7), "");
    }

    #[test]
    fn contract_violations_are_seen() {
        let mut bad = finding(Mode::PipeStall, 7, 60.0);
        bad["severity"] = json!("fatal");
        assert!(report(&[bad]).check_contract(1).is_err());
        assert!(report(&[]).check_contract(1).is_err());
        let mut dangling = finding(Mode::PipeStall, 7, 60.0);
        dangling["cause"] = json!("nobody");
        assert!(report(&[dangling]).check_contract(1).is_err());
    }
}

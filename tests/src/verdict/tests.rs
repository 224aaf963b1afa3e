//! The comparison itself.

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
    right["evidence"] = json!([{"signal": "healthy peers", "value": "fd99::3", "unit": "", "source": "x"}]);
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
    assert!(problems(&truth(), &[right, finding(Mode::PipeStall, 8, 60.0)]).contains("incident of its own"));
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

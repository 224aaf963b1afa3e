//! Chains that multiply, and chains that only fan out.

use super::super::fixture::Scene;
use super::*;
use crate::observation::Direction::{Inbound, Outbound};

/// Three tiers that listen at ports 1, 2 and 3, and a leaf at port 4.
fn chain() -> Scene {
    let mut scene = Scene::new();
    for pid in 1..=4 {
        scene.process(pid, "tier");
        scene.listener(pid, 3, &format!("127.0.0.1:{pid}"), 128);
    }
    scene
}

/// A second in which each tier calls the next `tries` times for each of two requests, and the leaf fails.
fn second(scene: &mut Scene, tries: u64, fails: bool) {
    let mut requests = 2;
    for pid in 1..=3 {
        scene.flow(pid, Inbound, &format!("0.0.0.0:{pid}")).requests += requests;
        requests *= tries;
        let to = format!("127.0.0.1:{}", pid + 1);
        let flow = scene.flow(pid, Outbound, &to);
        flow.attempts += requests;
        if pid == 3 && fails {
            flow.refused += requests;
        } else {
            flow.established += requests;
            flow.requests += requests;
            flow.responses += requests;
        }
    }
    scene.pass(1.0);
}

fn drafts(scene: &mut Scene) -> Vec<Draft> {
    scene.drafts(Mode::RetryAmplification)
}

fn number(draft: &Draft, signal: &str) -> f64 {
    let facts = &draft.evidence;
    let fact = facts.iter().find(|fact| fact.signal == signal).unwrap();
    fact.value.to_string().parse().unwrap()
}

#[test]
fn three_tiers_with_three_tries_make_twenty_seven() {
    let mut scene = chain();
    scene.pass(1.0);
    (0..12).for_each(|_| second(&mut scene, 3, true));
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Party::process(3));
    let product = number(&found[0], "product");
    assert!((product - 27.0).abs() < 0.5, "{product}");
    let factors = found[0].evidence.iter().filter(|fact| fact.signal == "factor");
    assert_eq!(factors.count(), 3);
    // Each tier within a budget of a tenth: 1.1 to the power of 3.
    assert_eq!(number(&found[0], "allowed_by_10%_retry_budget"), 1.3);
    let summary = &found[0].summary;
    assert!(
        summary.ends_with("a retry budget of 10% would allow 1.3"),
        "{summary}"
    );
    assert_eq!(
        (found[0].severity, found[0].confidence),
        (Severity::Warning, Confidence::Likely)
    );
    for tier in [1, 2] {
        assert!(found[0].others.contains(&(Role::Peer, Party::process(tier))));
    }
}

#[test]
fn the_chain_in_health_and_fan_out_by_design_are_silent() {
    for tries in [1, 3] {
        let mut scene = chain();
        scene.pass(1.0);
        (0..12).for_each(|_| second(&mut scene, tries, false));
        assert_eq!(drafts(&mut scene).len(), 0);
    }
}

#[test]
fn a_fan_out_that_was_there_before_the_failures_is_no_retry() {
    let mut scene = chain();
    scene.pass(1.0);
    (0..5).for_each(|_| second(&mut scene, 3, false));
    (0..12).for_each(|_| second(&mut scene, 3, true));
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn retries_that_began_with_the_failures_are_counted_against_the_time_before() {
    let mut scene = chain();
    scene.pass(1.0);
    (0..5).for_each(|_| second(&mut scene, 1, false));
    (0..12).for_each(|_| second(&mut scene, 3, true));
    let found = drafts(&mut scene);
    let product = number(&found[0], "product");
    assert!((product / 27.0 - 1.0).abs() < 0.15, "{product}");
    assert_eq!(found[0].confidence, Confidence::Likely);
}

#[test]
fn one_tier_is_an_alarm_only_if_it_called_less_before_the_failures() {
    let one = |before: u64| {
        let mut scene = Scene::new();
        scene.process(1, "tier");
        scene.pass(1.0);
        for second in 0..before + 12 {
            scene.flow(1, Inbound, "0.0.0.0:1").requests += 2;
            let flow = scene.flow(1, Outbound, "192.0.2.9:80");
            if second < before {
                (flow.attempts, flow.established) = (2, 2);
            } else {
                (flow.attempts, flow.refused) = (6, 6);
            }
            scene.pass(1.0);
        }
        let found = drafts(&mut scene);
        assert_eq!(found.len(), 1);
        (found[0].severity, found[0].confidence)
    };
    assert_eq!(one(5), (Severity::Warning, Confidence::Likely));
    assert_eq!(one(0), (Severity::Notice, Confidence::Suspected));
}

#[test]
fn thresholds_of_factor_and_length() {
    let found = |tries, length| {
        let mut scene = chain();
        scene.pass(1.0);
        (0..length).for_each(|_| second(&mut scene, tries, true));
        drafts(&mut scene).len()
    };
    assert_eq!((found(2, 12), found(1, 12)), (1, 0));
    assert_eq!((found(3, 11), found(3, 8)), (1, 0));
}

#[test]
fn failures_that_are_over_are_silent() {
    let mut scene = chain();
    scene.pass(1.0);
    (0..12).for_each(|_| second(&mut scene, 3, true));
    (0..3).for_each(|_| second(&mut scene, 1, false));
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_circle_of_services_ends() {
    let mut scene = chain();
    scene.pass(1.0);
    for _ in 0..12 {
        let back = scene.flow(3, Outbound, "127.0.0.1:1");
        (back.attempts, back.refused) = (60, 60);
        second(&mut scene, 3, true);
    }
    assert!(!drafts(&mut scene).is_empty());
}

//! Open breakers, and other silences.

use super::super::fixture::Scene;
use super::*;
use crate::observation::Direction::{Inbound, Outbound};

const TO: &str = "192.0.2.9:80";

/// Seconds with so many requests served, and calls made, of which some are refused.
fn seconds(scene: &mut Scene, seconds: u32, served: u64, calls: u64, refused: u64) {
    for _ in 0..seconds {
        scene.pass(1.0);
        scene.flow(10, Inbound, "0.0.0.0:70").requests += served;
        let flow = scene.flow(10, Outbound, TO);
        flow.attempts += calls;
        flow.refused += refused;
        flow.established += calls - refused;
        flow.requests += calls - refused;
        flow.responses += calls - refused;
    }
}

fn caller() -> Scene {
    let mut scene = Scene::new();
    scene.process(10, "caller");
    scene
}

fn drafts(scene: &mut Scene) -> Vec<Draft> {
    scene.drafts(Mode::BreakerOpen)
}

#[test]
fn a_burst_and_then_sparse_probes_are_an_open_breaker() {
    let mut scene = caller();
    seconds(&mut scene, 3, 20, 20, 0);
    seconds(&mut scene, 1, 20, 20, 20);
    for _ in 0..3 {
        seconds(&mut scene, 2, 20, 0, 0);
        seconds(&mut scene, 1, 20, 1, 1);
    }
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].severity, Severity::Notice);
    assert!(
        found[0].summary.contains("3 single calls"),
        "{}",
        found[0].summary
    );
}

#[test]
fn without_probes_it_may_be_stuck() {
    let mut scene = caller();
    seconds(&mut scene, 2, 20, 20, 20);
    seconds(&mut scene, 8, 20, 0, 0);
    let found = drafts(&mut scene);
    assert!(
        found[0].summary.contains("nothing probes"),
        "{}",
        found[0].summary
    );
}

#[test]
fn thresholds_of_failures_and_silence() {
    let found = |failures, silence| {
        let mut scene = caller();
        seconds(&mut scene, 2, 20, failures, failures);
        seconds(&mut scene, silence, 20, 0, 0);
        drafts(&mut scene).len()
    };
    assert_eq!((found(3, 8), found(2, 8)), (1, 0));
    assert_eq!((found(20, 6), found(20, 5)), (1, 0));
}

#[test]
fn a_deployment_goes_on_calling() {
    let mut scene = caller();
    seconds(&mut scene, 3, 20, 20, 0);
    seconds(&mut scene, 2, 20, 20, 20);
    seconds(&mut scene, 8, 20, 20, 0);
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn an_idle_caller_is_no_breaker() {
    let mut scene = caller();
    seconds(&mut scene, 3, 20, 20, 20);
    seconds(&mut scene, 8, 0, 0, 0);
    assert_eq!(drafts(&mut scene).len(), 0);
    // One that was asked for a while yet, and then no more.
    let mut scene = caller();
    seconds(&mut scene, 3, 20, 20, 20);
    seconds(&mut scene, 8, 20, 0, 0);
    seconds(&mut scene, 4, 0, 0, 0);
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_silence_long_after_the_failures_has_another_reason() {
    let mut scene = caller();
    seconds(&mut scene, 2, 20, 20, 20);
    seconds(&mut scene, 5, 20, 20, 0);
    seconds(&mut scene, 8, 20, 0, 0);
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_few_failures_in_a_healthy_second_can_open_it() {
    let mut scene = caller();
    seconds(&mut scene, 4, 30, 30, 0);
    seconds(&mut scene, 1, 30, 20, 5);
    seconds(&mut scene, 8, 30, 0, 0);
    assert_eq!(drafts(&mut scene).len(), 1);
}

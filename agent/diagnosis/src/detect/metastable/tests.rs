//! Loops that outlast their trigger, and recoveries.

use super::super::fixture::Scene;
use super::*;
use crate::observation::Direction::{Inbound, Outbound};

const TO: &str = "127.0.0.1:80";

fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.process(10, "client");
    scene.process(20, "server");
    scene.listener(20, 3, TO, 128);
    scene
}

/// Seconds in which of `calls` calls so many are refused, and so many of the others get no answer.
fn seconds(scene: &mut Scene, seconds: u32, calls: u64, refused: u64, unanswered: u64) {
    for _ in 0..seconds {
        scene.pass(1.0);
        let flow = scene.flow(10, Outbound, TO);
        flow.attempts += calls;
        flow.refused += refused;
        flow.established += calls - refused;
        flow.requests += calls - refused;
        flow.responses += calls - refused - unanswered;
        flow.unanswered += unanswered;
        flow.closed += calls - refused;
    }
}

fn drafts(scene: &mut Scene) -> Vec<Draft> {
    scene.drafts(Mode::Metastable)
}

#[test]
fn a_loop_that_outlasts_its_trigger_is_said_with_both() {
    let mut scene = scene();
    seconds(&mut scene, 4, 10, 0, 0);
    seconds(&mut scene, 3, 30, 30, 0);
    seconds(&mut scene, 8, 30, 0, 28);
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Party::process(10));
    assert_eq!(found[0].others, [(Role::Listener, Party::process(20))]);
    let trigger = found[0]
        .evidence
        .iter()
        .find(|fact| fact.signal == "trigger")
        .unwrap();
    assert!(
        trigger.value.to_string().contains("failures in 3 s"),
        "{}",
        trigger.value
    );
}

#[test]
fn a_short_time_after_the_trigger_says_nothing_yet() {
    for (after, expected) in [(4, 0), (6, 1)] {
        let mut scene = scene();
        seconds(&mut scene, 4, 10, 0, 0);
        seconds(&mut scene, 3, 30, 30, 0);
        seconds(&mut scene, after, 30, 0, 28);
        assert_eq!(drafts(&mut scene).len(), expected, "{after}");
    }
}

#[test]
fn a_backlog_that_drains_is_silent() {
    let mut scene = scene();
    seconds(&mut scene, 4, 10, 0, 0);
    seconds(&mut scene, 3, 30, 30, 0);
    for unanswered in [28, 26, 24, 22, 20, 18, 16, 14] {
        seconds(&mut scene, 1, 30, 0, unanswered);
    }
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_recovery_and_a_fault_that_goes_on_are_silent() {
    let mut recovered = scene();
    seconds(&mut recovered, 4, 10, 0, 0);
    seconds(&mut recovered, 3, 30, 30, 0);
    seconds(&mut recovered, 8, 10, 0, 0);
    assert_eq!(drafts(&mut recovered).len(), 0);
    let mut goes_on = scene();
    seconds(&mut goes_on, 4, 10, 0, 0);
    seconds(&mut goes_on, 12, 30, 30, 0);
    assert_eq!(drafts(&mut goes_on).len(), 0);
}

#[test]
fn without_a_time_of_health_there_is_nothing_to_compare_with() {
    let mut scene = scene();
    seconds(&mut scene, 3, 30, 30, 0);
    seconds(&mut scene, 12, 30, 0, 28);
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn more_load_than_before_is_overload_and_no_loop() {
    for (load, expected) in [(10, 1), (30, 0)] {
        let mut scene = scene();
        for (length, requests, calls, refused, unanswered) in
            [(4, 10, 10, 0, 0), (3, 10, 30, 30, 0), (8, load, 30, 0, 28)]
        {
            for _ in 0..length {
                seconds(&mut scene, 1, calls, refused, unanswered);
                scene.flow(10, Inbound, "0.0.0.0:70").requests += requests;
            }
        }
        assert_eq!(drafts(&mut scene).len(), expected, "{load}");
    }
}

#[test]
fn a_client_that_is_more_patient_needs_a_longer_time() {
    let mut scene = scene();
    seconds(&mut scene, 4, 10, 0, 0);
    seconds(&mut scene, 3, 30, 30, 0);
    seconds(&mut scene, 8, 30, 0, 28);
    let socket = scene.connection(10, 5, "127.0.0.1:4000", TO);
    let figures = socket.figures.as_mut().unwrap();
    (figures.last_sent_ms, figures.last_received_ms) = (2500, 9000);
    assert_eq!(drafts(&mut scene).len(), 0);
}

/// Seconds in which the server gives so many answers, whoever waits for them, and clients get so many.
fn served(scene: &mut Scene, seconds: u32, calls: u64, got: u64, given: u64) {
    for _ in 0..seconds {
        self::seconds(scene, 1, calls, 0, calls - got);
        let flow = scene.flow(20, Inbound, "0.0.0.0:80");
        flow.requests = given;
        // Those who have gone reset the connection when the answer comes.
        (flow.responses, flow.resets_received) = if got > 2 { (given, 0) } else { (0, given) };
    }
}

#[test]
fn a_server_that_stood_still_and_works_for_those_who_are_gone_is_in_a_loop() {
    let mut scene = scene();
    served(&mut scene, 4, 30, 30, 30);
    served(&mut scene, 3, 120, 0, 1);
    served(&mut scene, 9, 120, 2, 50);
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Party::process(10));
}

#[test]
fn a_server_that_still_answers_less_than_usual_has_its_fault_yet() {
    let mut scene = scene();
    served(&mut scene, 4, 30, 30, 30);
    served(&mut scene, 3, 120, 0, 1);
    served(&mut scene, 9, 120, 2, 20);
    assert_eq!(drafts(&mut scene).len(), 0);
}

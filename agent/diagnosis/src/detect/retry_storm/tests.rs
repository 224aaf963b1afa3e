//! Storms, and what only looks like one.

use super::super::fixture::Scene;
use super::*;
use crate::observation::Direction::{Inbound, Outbound};

const TO: &str = "192.0.2.9:80";

/// So many seconds of what `act` does to the flows in each.
fn seconds(scene: &mut Scene, seconds: u32, mut act: impl FnMut(&mut Scene)) {
    for _ in 0..seconds {
        scene.pass(1.0);
        act(scene);
    }
}

/// Attempts at even distances, of which some are refused.
fn tries(scene: &mut Scene, pid: u32, to: &str, attempts: u64, refused: u64) {
    let second = scene.now_ns() - 1_000_000_000;
    let flow = scene.flow(pid, Outbound, to);
    flow.attempts += attempts;
    flow.refused += refused;
    flow.established += attempts - refused;
    for number in 0..attempts {
        flow.recent_starts_ns
            .push(second + number * (1_000_000_000 / attempts));
    }
}

fn client() -> Scene {
    let mut scene = Scene::new();
    scene.process(10, "client");
    scene
}

fn drafts(scene: &mut Scene) -> Vec<Draft> {
    scene.drafts(Mode::RetryStorm)
}

fn fact(draft: &Draft, signal: &str) -> String {
    let facts = &draft.evidence;
    let fact = facts.iter().find(|fact| fact.signal.contains(signal)).unwrap();
    fact.value.to_string()
}

#[test]
fn ten_seconds_of_refused_attempts_are_a_storm_with_rate_pattern_and_budget() {
    for to in [TO, "[2001:db8::9]:80"] {
        let mut scene = client();
        seconds(&mut scene, 12, |scene| tries(scene, 10, to, 10, 10));
        let found = drafts(&mut scene);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, Party::process(10));
        assert_eq!(fact(&found[0], "pattern"), "fixed interval of 100 ms");
        let rate: f64 = fact(&found[0], "attempts").parse().unwrap();
        assert!((9.5..=10.5).contains(&rate), "{rate}");
        // One request that is repeated, and a tenth of a retry for it.
        assert_eq!(fact(&found[0], "10%_retry_budget"), "0.1");
        let summary = &found[0].summary;
        assert!(
            summary.ends_with("a retry budget of 10% would allow 0.1"),
            "{summary}"
        );
        assert_eq!(found[0].flow, Some((None, to.parse().unwrap())));
    }
}

#[test]
fn thresholds_of_rate_share_and_length() {
    let storm = |attempts, refused, length| {
        let mut scene = client();
        seconds(&mut scene, length, |scene| {
            tries(scene, 10, TO, attempts, refused)
        });
        drafts(&mut scene).len()
    };
    assert_eq!((storm(5, 5, 12), storm(4, 4, 12)), (1, 0));
    assert_eq!((storm(20, 11, 12), storm(20, 8, 12)), (1, 0));
    assert_eq!((storm(6, 6, 11), storm(6, 6, 8)), (1, 0));
}

#[test]
fn attempts_that_nobody_answers_count_once_they_are_older_than_a_second() {
    let mut scene = client();
    seconds(&mut scene, 12, |scene| {
        scene.flow(10, Outbound, TO).attempts += 10
    });
    assert_eq!(drafts(&mut scene).len(), 1);
    // A burst that is under way is none.
    let mut scene = client();
    seconds(&mut scene, 10, |scene| tries(scene, 10, TO, 10, 0));
    scene.flow(10, Outbound, TO).attempts += 300;
    scene.pass(1.0);
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_load_test_with_successes_is_silent_at_any_rate() {
    let mut scene = client();
    seconds(&mut scene, 12, |scene| {
        tries(scene, 10, TO, 20_000, 0);
        let flow = scene.flow(10, Outbound, TO);
        (flow.requests, flow.responses, flow.closed) = (20_000, 20_000, 20_000);
    });
    // At its end it leaves some requests unanswered.
    scene.flow(10, Outbound, TO).unanswered += 64;
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_burst_that_is_over_is_silent() {
    let mut scene = client();
    seconds(&mut scene, 2, |scene| tries(scene, 10, TO, 200, 200));
    seconds(&mut scene, 9, |_| {});
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn connections_that_are_reset_or_left_without_an_answer_fail_as_well() {
    for reset in [true, false] {
        let mut scene = client();
        seconds(&mut scene, 12, |scene| {
            tries(scene, 10, TO, 10, 0);
            let flow = scene.flow(10, Outbound, TO);
            flow.requests += 10;
            flow.unanswered += 10;
            flow.resets_received += if reset { 10 } else { 0 };
        });
        assert_eq!(drafts(&mut scene).len(), 1);
    }
}

#[test]
fn a_name_with_two_addresses_of_which_one_refuses_is_no_storm() {
    let mut scene = client();
    seconds(&mut scene, 12, |scene| {
        tries(scene, 10, "[::1]:80", 10, 10);
        tries(scene, 10, "127.0.0.1:80", 10, 0);
    });
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn processes_that_try_once_each_are_the_storm_of_their_parent() {
    let mut scene = Scene::new();
    scene.process(5, "sh");
    let mut next = 1000;
    seconds(&mut scene, 12, |scene| {
        for _ in 0..10 {
            next += 1;
            tries(scene, next, TO, 1, 1);
        }
        scene.events.forks = vec![(5, 10), (1, 100)];
    });
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Party::process(5));
    assert!(
        found[0].summary.contains("short-lived processes"),
        "{}",
        found[0].summary
    );
}

#[test]
fn clients_that_were_set_off_by_one_event_are_in_step() {
    let mut scene = Scene::new();
    for pid in 10..13 {
        scene.process(pid, "client");
    }
    seconds(&mut scene, 12, |scene| {
        for pid in 10..13 {
            tries(scene, pid, TO, 5, 5);
        }
    });
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 3);
    assert!(
        found[0].summary.contains("in step with other clients"),
        "{}",
        found[0].summary
    );
}

#[test]
fn a_client_that_gets_through_now_and_then_is_allowed_a_tenth_more_than_that() {
    let mut scene = client();
    seconds(&mut scene, 12, |scene| tries(scene, 10, TO, 50, 40));
    let found = drafts(&mut scene);
    let allowed: f64 = fact(&found[0], "10%_retry_budget").parse().unwrap();
    // Ten answered a second, and in ten seconds the one that it repeats.
    assert!((10.9..11.3).contains(&allowed), "{allowed}");
    let stated = format!("would allow {allowed:.1}");
    assert!(found[0].summary.ends_with(&stated), "{}", found[0].summary);
}

#[test]
fn a_server_that_retries_is_allowed_a_tenth_more_than_it_is_asked() {
    let mut scene = client();
    seconds(&mut scene, 12, |scene| {
        tries(scene, 10, TO, 30, 30);
        scene.flow(10, Inbound, "0.0.0.0:8080").requests += 10;
    });
    let allowed: f64 = fact(&drafts(&mut scene)[0], "10%_retry_budget").parse().unwrap();
    assert!((10.9..11.1).contains(&allowed), "{allowed}");
}

/// A service that is asked ten times a second and makes as many calls; then some of its calls fail and as many are
/// repeated.
fn service(healthy: u32, fan_out: u64, failing: u64, repeated: u64) -> Vec<Draft> {
    let mut scene = client();
    let mut second = |failing: u64, repeated: u64| {
        scene.pass(1.0);
        scene.flow(10, Inbound, "0.0.0.0:8080").requests += 10;
        let flow = scene.flow(10, Outbound, TO);
        let calls = 10 * fan_out + repeated;
        (flow.attempts, flow.established, flow.requests) = (calls, calls, calls);
        (flow.responses, flow.unanswered) = (calls - failing, failing);
    };
    (0..healthy).for_each(|_| second(0, 0));
    (0..13).for_each(|_| second(failing, repeated));
    drafts(&mut scene)
}

#[test]
fn a_service_that_repeats_more_than_its_budget_storms_although_most_get_through() {
    let found = service(6, 1, 3, 3);
    assert_eq!(found.len(), 1);
    assert_eq!(fact(&found[0], "retries"), "30.0");
    assert_eq!(fact(&found[0], "10%_retry_budget"), "11.0");
    let summary = &found[0].summary;
    assert!(summary.contains("repeats 30% of its calls"), "{summary}");
    // By design two calls for each request, of which three in twenty are repeated: what may be counted late is left out.
    assert_eq!(service(6, 2, 3, 3).len(), 0);
    assert_eq!(service(6, 2, 5, 5).len(), 1);
}

#[test]
fn failures_that_are_not_repeated_and_more_calls_that_do_not_fail_are_within_the_budget() {
    assert_eq!(service(6, 1, 3, 0).len(), 0);
    assert_eq!(service(6, 1, 1, 1).len(), 0, "a tenth");
    assert_eq!(service(6, 1, 0, 5).len(), 0, "nothing fails");
    assert_eq!(service(6, 1, 1, 5).len(), 0, "most of it is no retry");
    assert_eq!(service(0, 1, 3, 3).len(), 0, "it may always have called as often");
}

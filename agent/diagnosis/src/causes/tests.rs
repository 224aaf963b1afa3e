//! Which finding explains which.

use super::*;
use crate::detect::fixture::{Scene, address};
use crate::detect::{Draft, Party};
use crate::finding::{Confidence, Severity};
use crate::observation::Call;

fn draft(mode: Mode, pid: u32) -> Draft {
    Draft {
        mode,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject: Party::process(pid),
        others: Vec::new(),
        members: Vec::new(),
        since_ns: None,
        summary: String::new(),
        evidence: Vec::new(),
        chain_from: None,
        flow: None,
        depends_on: Vec::new(),
    }
}

fn towards(mode: Mode, pid: u32, to: &str, servers: &[u32]) -> Draft {
    Draft {
        flow: Some((None, address(to))),
        depends_on: servers.to_vec(),
        ..draft(mode, pid)
    }
}

/// The modes of the causes of these drafts, in a scene.
fn causes_in(scene: &mut Scene, drafts: &[Draft]) -> Vec<Option<Mode>> {
    scene.with_context(|context| {
        let causes = causes(context, drafts).into_iter();
        causes.map(|cause| cause.map(|at| drafts[at].mode)).collect()
    })
}

fn processes(pids: &[u32]) -> Scene {
    let mut scene = Scene::new();
    for pid in pids {
        scene.process(*pid, "service");
    }
    scene
}

#[test]
fn every_mode_with_a_detector_has_its_place() {
    let mut places: Vec<usize> = crate::detect::DETECTORS
        .iter()
        .map(|detector| precedence(detector.mode))
        .collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), crate::detect::DETECTORS.len());
}

#[test]
fn what_the_network_does_explains_what_the_same_client_makes_of_it_at_the_same_destination() {
    let to = "192.0.2.1:80";
    let drafts = [
        towards(Mode::ConnectRefused, 10, to, &[]),
        towards(Mode::RetryStorm, 10, to, &[]),
        towards(Mode::RetryAmplification, 10, to, &[]),
        towards(Mode::BreakerOpen, 10, to, &[]),
        towards(Mode::RetryStorm, 10, "192.0.2.2:80", &[]),
        towards(Mode::RetryStorm, 11, to, &[]),
    ];
    let refused = Some(Mode::ConnectRefused);
    assert_eq!(
        causes_in(&mut processes(&[10, 11]), &drafts),
        [None, refused, refused, refused, None, None]
    );
}

#[test]
fn a_listener_that_does_not_accept_explains_its_clients_and_not_the_reverse() {
    let to = "127.0.0.1:80";
    let drafts = [
        draft(Mode::Backpressure, 20),
        towards(Mode::ConnectTimeout, 10, to, &[20]),
        towards(Mode::RetryStorm, 10, to, &[20]),
    ];
    let mut scene = processes(&[10, 20]);
    // The listener polls a connection of the client, so each reaches the other.
    scene.connection(10, 3, "127.0.0.1:4000", to);
    scene.connection(20, 4, to, "127.0.0.1:4000");
    scene.blocks(20, Call::Read { fd: 4 }, 50.0);
    assert_eq!(
        causes_in(&mut scene, &drafts),
        [None, Some(Mode::Backpressure), Some(Mode::ConnectTimeout)]
    );
}

#[test]
fn the_chain_of_five_is_one_incident_with_the_pipe_as_its_root() {
    // 30 holds the pipe and does not read; 20 writes to it and does not accept; 10 knocks and tries again.
    let mut scene = processes(&[10, 20, 30]);
    scene.full_pipe((20, 1), (30, 0));
    scene.blocks(20, Call::Write { fd: 1 }, 60.0);
    let to = "127.0.0.1:80";
    let drafts = [
        draft(Mode::PipeStall, 30),
        draft(Mode::Backpressure, 20),
        towards(Mode::ConnectTimeout, 10, to, &[20]),
        towards(Mode::RetryStorm, 10, to, &[20]),
    ];
    assert_eq!(
        causes_in(&mut scene, &drafts),
        [
            None,
            Some(Mode::PipeStall),
            Some(Mode::Backpressure),
            Some(Mode::ConnectTimeout)
        ]
    );
}

#[test]
fn a_cascade_is_explained_by_what_stops_its_sink_and_explains_the_pile_up() {
    let drafts = [
        draft(Mode::Deadlock, 30),
        draft(Mode::CascadingWait, 30),
        draft(Mode::ThreadPileUp, 30),
        towards(Mode::RetryStorm, 10, "127.0.0.1:80", &[20]),
    ];
    let mut scene = processes(&[10, 20, 30]);
    scene.connection(20, 3, "127.0.0.1:4000", "127.0.0.1:90");
    scene.connection(30, 4, "127.0.0.1:90", "127.0.0.1:4000");
    scene.blocks(20, Call::Read { fd: 3 }, 5.0);
    let deadlock = Some(Mode::Deadlock);
    assert_eq!(
        causes_in(&mut scene, &drafts),
        [None, deadlock, deadlock, deadlock]
    );
    let cascade = Some(Mode::CascadingWait);
    assert_eq!(causes_in(&mut scene, &drafts[1..]), [None, cascade, cascade]);
}

#[test]
fn the_retries_of_a_tier_explain_the_storm_and_those_above_it() {
    let leaf = "127.0.0.1:90";
    let drafts = [
        towards(Mode::RetryAmplification, 20, leaf, &[]),
        towards(Mode::RetryStorm, 20, leaf, &[]),
        towards(Mode::RetryStorm, 10, "127.0.0.1:80", &[20]),
    ];
    let amplified = Some(Mode::RetryAmplification);
    assert_eq!(
        causes_in(&mut processes(&[10, 20]), &drafts),
        [None, amplified, amplified]
    );
}

#[test]
fn a_loop_explains_the_storms_of_all_clients_and_the_full_queue_of_the_server() {
    let to = "127.0.0.1:80";
    let drafts = [
        towards(Mode::Metastable, 10, to, &[20]),
        towards(Mode::RetryStorm, 11, to, &[20]),
        draft(Mode::Backpressure, 20),
        towards(Mode::RetryStorm, 11, "127.0.0.1:81", &[]),
    ];
    let held = Some(Mode::Metastable);
    assert_eq!(
        causes_in(&mut processes(&[10, 11, 20]), &drafts),
        [None, held, held, None]
    );
}

#[test]
fn what_was_left_behind_explains_nothing() {
    let drafts = [
        draft(Mode::BreakerOpen, 20),
        draft(Mode::CloseWaitLeak, 20),
        towards(Mode::ConnectTimeout, 10, "127.0.0.1:80", &[20]),
    ];
    assert_eq!(causes_in(&mut processes(&[10, 20]), &drafts), [None, None, None]);
}

#[test]
fn a_cause_does_not_begin_after_its_effect() {
    let to = "127.0.0.1:80";
    let later = |since_ns| Draft {
        since_ns: Some(since_ns),
        ..draft(Mode::Backpressure, 20)
    };
    let effect = Draft {
        since_ns: Some(5_000_000_000),
        ..towards(Mode::ConnectTimeout, 10, to, &[20])
    };
    let mut scene = processes(&[10, 20]);
    let found = causes_in(&mut scene, &[later(5_900_000_000), effect.clone()]);
    assert_eq!(found[1], Some(Mode::Backpressure));
    let found = causes_in(&mut scene, &[later(6_100_000_000), effect]);
    assert_eq!(found[1], None);
}

#[test]
fn a_circle_is_broken_at_its_highest_precedence_and_what_leads_into_it_stays() {
    // 0 -> 1 -> 2 -> 3 -> 1; 2 has the highest precedence.
    let mut causes = [Some(1), Some(2), Some(3), Some(1)];
    break_circles(&mut causes, |index| [5, 4, 0, 3][index]);
    assert_eq!(causes, [Some(1), Some(2), None, Some(1)]);
    let mut straight = [Some(1), Some(2), None];
    break_circles(&mut straight, |index| index);
    assert_eq!(straight, [Some(1), Some(2), None]);
    let mut two = [Some(1), Some(0), Some(3), Some(2)];
    break_circles(&mut two, |index| index);
    assert_eq!(two, [None, Some(0), None, Some(2)]);
}

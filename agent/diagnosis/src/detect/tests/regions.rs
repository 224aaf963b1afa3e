//! What one host sees of rung 6.

use crate::detect::fixture::Scene;
use crate::mode::Mode;
use crate::observation::Direction;

/// A window of 10 s in which one connection saw so many turns with so many bytes in all.
fn turns(turns: u64, min_rtt_us: u32, bytes: u64, remote: &str) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    let local = if remote.starts_with('[') {
        "[fd00::1]:40000"
    } else {
        "10.99.0.1:40000"
    };
    scene.connection(100, 3, local, remote);
    scene.pass(10.0);
    let figures = scene.at(100, 3).figures.as_mut().unwrap();
    figures.min_rtt_us = min_rtt_us;
    figures.bytes_received += bytes;
    (figures.last_sent_ms, figures.last_received_ms) = (20, 100);
    let flow = scene.flow(100, Direction::Outbound, remote);
    (flow.requests, flow.responses) = (turns + 1, turns);
    scene
}

#[test]
fn requests_that_wait_for_long_round_trips() {
    for remote in ["10.99.0.2:5432", "[fd00::2]:5432"] {
        let mut scene = turns(40, 80_000, 40_000, remote);
        let flow = scene.flow(100, Direction::Inbound, "0.0.0.0:80");
        flow.requests = 4;
        let drafts = scene.drafts(Mode::CrossRegionLatency);
        assert_eq!((drafts.len(), drafts[0].subject.pid), (1, 100));
        assert!(
            drafts[0].summary.contains("10.0 for each request"),
            "{}",
            drafts[0].summary
        );
        assert!(
            turns(400, 49_000, 40_000, remote)
                .drafts(Mode::CrossRegionLatency)
                .is_empty()
        );
        assert_eq!(
            turns(60, 50_000, 40_000, remote)
                .drafts(Mode::CrossRegionLatency)
                .len(),
            1
        );
        // A heartbeat, and a bulk transfer.
        assert!(
            turns(10, 80_000, 400, remote)
                .drafts(Mode::CrossRegionLatency)
                .is_empty()
        );
        assert!(
            turns(40, 80_000, 40 << 20, remote)
                .drafts(Mode::CrossRegionLatency)
                .is_empty()
        );
    }
}

/// Bytes sent to and received from each of two peers in each step of 10 s, for so many steps.
type Phase = (usize, [(u64, u64); 2]);

const QUIET: (u64, u64) = (0, 0);
const OUT: (u64, u64) = (2_000_000, 100_000);
const BACK: (u64, u64) = (100_000, 2_000_000);
const EVEN: (u64, u64) = (2_000_000, 2_000_000);
const PEERS: [&str; 2] = ["[fd00::2]:5432", "10.99.0.3:5432"];

fn exchange(phases: &[Phase]) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "database");
    scene.connection(100, 3, "[fd00::1]:40000", PEERS[0]);
    scene.connection(100, 4, "10.99.0.1:40000", PEERS[1]);
    let steps = phases
        .iter()
        .flat_map(|(steps, bytes)| std::iter::repeat_n(bytes, *steps));
    for bytes in steps {
        scene.pass(10.0);
        for (fd, (sent, received)) in [3, 4].into_iter().zip(*bytes) {
            let figures = scene.at(100, fd).figures.as_mut().unwrap();
            figures.bytes_acked += sent;
            figures.bytes_received += received;
        }
    }
    scene
}

fn lopsided(phases: &[Phase]) -> Vec<crate::detect::Draft> {
    exchange(phases).drafts(Mode::AsymmetricTraffic)
}

fn alone(phases: &[(usize, (u64, u64))]) -> Vec<crate::detect::Draft> {
    let both: Vec<Phase> = phases
        .iter()
        .map(|(steps, bytes)| (*steps, [*bytes, QUIET]))
        .collect();
    lopsided(&both)
}

#[test]
fn traffic_that_turns_round_is_lopsided() {
    for (before, after) in [(OUT, BACK), (BACK, OUT)] {
        let drafts = alone(&[(7, before), (7, after)]);
        assert_eq!((drafts.len(), drafts[0].subject.pid), (1, 100));
        assert_eq!(drafts[0].flow.unwrap().1, PEERS[0].parse().unwrap());
        assert!(
            drafts[0].summary.contains("turned round"),
            "{}",
            drafts[0].summary
        );
    }
    // Whenever it turned, in a long window.
    for (before, after) in [(7, 60), (60, 7)] {
        assert_eq!(
            alone(&[(before, OUT), (after, BACK)]).len(),
            1,
            "{before}, {after}"
        );
    }
}

#[test]
fn thresholds_of_a_balance() {
    assert!(alone(&[(7, OUT), (5, BACK)]).is_empty(), "not yet a minute");
    assert!(alone(&[(5, OUT), (7, BACK)]).is_empty(), "hardly a past");
    assert!(alone(&[(14, OUT)]).is_empty());
    assert!(
        alone(&[(7, (20_000, 1000)), (7, (1000, 20_000))]).is_empty(),
        "little"
    );
    let (less, more) = ((1_000_000, 1_000_000), (2_500_000, 400_000));
    assert!(alone(&[(12, less), (7, more)]).is_empty(), "six times");
}

#[test]
fn traffic_that_varies_is_not_lopsided() {
    for each in [1, 2, 4, 7, 15] {
        let swings: Vec<_> = (0..60 / each)
            .map(|at| (each, if at % 2 == 0 { OUT } else { BACK }))
            .collect();
        assert!(alone(&swings).is_empty(), "every {each} steps");
    }
}

#[test]
fn a_backup_is_not_lopsided_until_it_lasts_and_its_end_never_is() {
    let backup = (60_000_000, 2_000_000);
    assert!(alone(&[(7, EVEN), (25, backup)]).is_empty());
    let lasting = alone(&[(7, EVEN), (32, backup)]);
    assert!(
        lasting[0].summary.contains("become lopsided"),
        "{}",
        lasting[0].summary
    );
    assert!(alone(&[(20, backup), (40, EVEN)]).is_empty());
    // To another peer, which was not asked before either.
    assert!(lopsided(&[(7, [EVEN, QUIET]), (25, [EVEN, OUT])]).is_empty());
}

#[test]
fn writes_that_move_to_another_peer_are_lopsided_at_once() {
    let written = (2_000_000, 2_000_000);
    for idle in [QUIET, (0, 2_000_000)] {
        let drafts = lopsided(&[(7, [BACK, written]), (7, [written, idle])]);
        let moved = drafts
            .iter()
            .find(|draft| draft.flow.unwrap().1 == PEERS[0].parse().unwrap());
        let summary = &moved.unwrap().summary;
        assert!(
            summary.starts_with("what database (100) sent to 10.99.0.3 now goes to fd00::2"),
            "{summary}"
        );
        assert_eq!(drafts.len(), 1);
    }
    // Much less than what is added here.
    assert!(lopsided(&[(7, [BACK, (300_000, 300_000)]), (7, [written, QUIET])]).is_empty());
    // What was sent there goes on.
    assert!(lopsided(&[(7, [BACK, written]), (7, [written, written])]).is_empty());
}

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

/// Ten minutes and some, with bytes sent and received every 10 s in each quarter.
fn exchange(quarters: [(u64, u64); 4]) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "database");
    scene.connection(100, 3, "[fd00::1]:40000", "[fd00::2]:5432");
    scene.pass(10.0);
    for step in 0..60 {
        let (sent, received) = quarters[step / 15];
        let figures = scene.at(100, 3).figures.as_mut().unwrap();
        figures.bytes_acked += sent;
        figures.bytes_received += received;
        scene.pass(10.0);
    }
    scene
}

#[test]
fn traffic_that_turns_round_is_lopsided() {
    let (out, back) = ((2_000_000, 100_000), (100_000, 2_000_000));
    let mut scene = exchange([out, out, back, back]);
    // The last picture is that of the last step; one more would be the next step's.
    let drafts = scene.drafts(Mode::AsymmetricTraffic);
    assert_eq!((drafts.len(), drafts[0].subject.pid), (1, 100));
    let silent = |quarters| exchange(quarters).drafts(Mode::AsymmetricTraffic).is_empty();
    assert!(silent([out; 4]));
    assert!(silent([out, back, out, back]), "it varies");
    assert!(silent([out, out, out, back]), "a backup that just began");
    assert!(
        silent([(20_000, 1000), (20_000, 1000), (1000, 20_000), (1000, 20_000)]),
        "little"
    );
    let (less, more) = ((1_000_000, 500_000), (2_000_000, 200_000));
    assert!(silent([less, less, more, more]), "five times");
}

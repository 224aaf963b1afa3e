//! Connections that stand, or stood.

use crate::detect::fixture::{Scene, address};
use crate::finding::{Confidence, Role, Severity};
use crate::index::{TCP_CLOSE_WAIT, TCP_SYN_SENT};
use crate::mode::Mode;
use crate::observation::{Call, Direction, TcpFigures};

/// Data under way that nobody acknowledged for a while: base timeout 200 ms, backed off.
fn vanish(figures: &mut TcpFigures, backoff: u8, last_ack_ms: u32) {
    figures.packets_out = 3;
    figures.backoff = backoff;
    figures.rto_us = 200_000 << backoff;
    figures.last_ack_ms = last_ack_ms;
    figures.last_sent_ms = 300;
    figures.unanswered_ms = Some(last_ack_ms);
}

fn talking(peers: &[&str]) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    for (at, peer) in peers.iter().enumerate() {
        let local = if peer.starts_with('[') {
            "[fd00::1]"
        } else {
            "10.99.0.1"
        };
        let socket = scene.connection(100, at as i32, &format!("{local}:{}", 40000 + at), peer);
        let figures = socket.figures.as_mut().unwrap();
        (figures.last_ack_ms, figures.last_received_ms) = (50, 50);
    }
    scene
}

fn figures(scene: &mut Scene, fd: i32) -> &mut TcpFigures {
    scene.at(100, fd).figures.as_mut().unwrap()
}

#[test]
fn data_that_vanish_are_a_black_hole() {
    for peer in ["10.99.0.2:80", "[fd00::2]:80"] {
        let found = |backoff: u8, last_ack_ms: u32, window: u32| {
            let mut scene = talking(&[peer]);
            vanish(figures(&mut scene, 0), backoff, last_ack_ms);
            figures(&mut scene, 0).send_window = window;
            scene.blocks(100, Call::Read { fd: 0 }, 3.0);
            scene.drafts(Mode::BlackHole)
        };
        let drafts = found(3, 1500, 65_535);
        assert_eq!((drafts.len(), drafts[0].subject.pid), (1, 100));
        assert_eq!(drafts[0].flow.unwrap().1, address(peer));
        assert_eq!(drafts[0].chain_from, Some(100));
        assert!(found(2, 1500, 65_535).is_empty(), "backed off too little");
        assert!(found(3, 600, 65_535).is_empty(), "acknowledged a moment ago");
        assert!(found(8, 60_000, 0).is_empty(), "a closed window is no black hole");
    }
}

#[test]
fn a_peer_that_does_not_read_is_no_black_hole() {
    let mut scene = talking(&["10.99.0.2:80"]);
    let socket = scene.at(100, 0);
    socket.send_queue = 400_000;
    let figures = socket.figures.as_mut().unwrap();
    (figures.probes, figures.backoff, figures.send_window) = (1, 6, 0);
    (figures.not_sent, figures.last_ack_ms) = (400_000, 20_000);
    for mode in [Mode::BlackHole, Mode::HalfOpen, Mode::Partition, Mode::PacketLoss] {
        assert!(scene.drafts(mode).is_empty(), "{mode}");
    }
}

#[test]
fn one_of_three_peers_cut_off_is_a_partition_and_the_cause_of_its_black_hole() {
    let sets = [
        ["10.99.0.2:80", "10.99.0.3:80", "10.99.0.4:80"],
        ["[fd00::2]:80", "[fd00::3]:80", "[fd00::4]:80"],
    ];
    for peers in sets {
        let mut scene = talking(&peers);
        vanish(figures(&mut scene, 1), 4, 3000);
        let drafts = scene.drafts(Mode::Partition);
        assert_eq!(drafts.len(), 1);
        for peer in peers {
            assert!(drafts[0].summary.contains(peer), "{}", drafts[0].summary);
        }
        assert!(drafts[0].summary.contains(&format!("back from {},", peers[1])));
        let report = scene.report();
        let partition = report
            .findings
            .iter()
            .find(|one| one.mode == Mode::Partition)
            .unwrap();
        let hole = report
            .findings
            .iter()
            .find(|one| one.mode == Mode::BlackHole)
            .unwrap();
        assert_eq!(
            (partition.cause.clone(), &hole.cause),
            (None, &Some(partition.id.clone()))
        );
    }
}

#[test]
fn a_peer_that_takes_no_connections_while_others_do_is_cut_off_too() {
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.3:80"]);
    let socket = scene.socket(100, 9, TCP_SYN_SENT, "10.99.0.1:41000", "10.99.0.4:80");
    let figures = socket.figures.as_mut().unwrap();
    (figures.retransmits, figures.unanswered_ms) = (2, Some(3300));
    let report = scene.report();
    let modes: Vec<Mode> = report.findings.iter().map(|one| one.mode).collect();
    assert_eq!(modes, [Mode::Partition, Mode::ConnectTimeout]);
    assert_eq!(report.findings[1].cause, Some(report.findings[0].id.clone()));
}

#[test]
fn no_partition_where_there_is_nothing_to_compare_with() {
    // All dead.
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.3:80"]);
    vanish(figures(&mut scene, 0), 4, 3000);
    vanish(figures(&mut scene, 1), 4, 3000);
    assert_eq!(scene.drafts(Mode::BlackHole).len(), 2);
    assert!(scene.drafts(Mode::Partition).is_empty());
    // The others quiet for long: nobody knows.
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.3:80"]);
    vanish(figures(&mut scene, 0), 4, 3000);
    figures(&mut scene, 1).last_ack_ms = 11_000;
    assert!(scene.drafts(Mode::Partition).is_empty());
    // Another connection to the same peer is well.
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.2:80"]);
    vanish(figures(&mut scene, 0), 4, 3000);
    assert!(scene.drafts(Mode::Partition).is_empty());
    // Work of another kind.
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.3:5432"]);
    vanish(figures(&mut scene, 0), 4, 3000);
    assert!(scene.drafts(Mode::Partition).is_empty());
    // A peer that is down says so.
    let mut scene = talking(&["10.99.0.2:80", "10.99.0.3:80"]);
    let flow = scene.flow(100, Direction::Outbound, "10.99.0.4:80");
    (flow.attempts, flow.refused) = (9, 9);
    assert!(scene.drafts(Mode::Partition).is_empty());
}

fn cycles(reset: u64, closed: u64, responses: u64, direction: Direction) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.pass(3.0);
    let flow = scene.flow(100, direction, "[fd00::2]:80");
    (flow.attempts, flow.established) = (closed, closed);
    (flow.resets_received, flow.closed, flow.responses) = (reset, closed, responses);
    scene
}

#[test]
fn connections_cut_off_by_the_peer_flap() {
    let drafts = cycles(5, 10, 0, Direction::Outbound).drafts(Mode::Flapping);
    assert_eq!((drafts.len(), drafts[0].subject.pid), (1, 100));
    assert!(
        cycles(4, 4, 0, Direction::Outbound)
            .drafts(Mode::Flapping)
            .is_empty()
    );
    assert!(
        cycles(5, 11, 0, Direction::Outbound)
            .drafts(Mode::Flapping)
            .is_empty()
    );
    assert!(
        cycles(9, 9, 9, Direction::Outbound)
            .drafts(Mode::Flapping)
            .is_empty(),
        "did their work"
    );
    assert!(
        cycles(9, 9, 0, Direction::Inbound)
            .drafts(Mode::Flapping)
            .is_empty(),
        "clients that reset"
    );
    let mut old = cycles(9, 9, 0, Direction::Outbound);
    old.pass(61.0);
    assert!(old.drafts(Mode::Flapping).is_empty(), "long over");
}

#[test]
fn connections_of_one_command_after_another_flap_together() {
    let drafts = |comms: [&str; 6]| {
        let mut scene = Scene::new();
        scene.pass(1.0);
        for (pid, comm) in (100..).zip(comms) {
            let flow = scene.flow(pid, Direction::Outbound, "[fd00::2]:80");
            flow.comm = crate::observation::Comm::from_bytes(comm.as_bytes());
            (flow.attempts, flow.established) = (1, 1);
            (flow.resets_received, flow.closed) = (1, 1);
            scene.pass(1.0);
        }
        scene.drafts(Mode::Flapping)
    };
    let found = drafts(["curl"; 6]);
    assert_eq!((found.len(), found[0].subject.pid), (1, 105));
    assert!(found[0].summary.contains("6 in"), "{}", found[0].summary);
    assert!(drafts(["curl", "curl", "curl", "wget", "wget", "wget"]).is_empty());
}

/// A minute and more of 200 answered connections a second, with `usual` resets in each tenth second; then ten seconds with
/// these numbers of resets, second by second.
fn busy(usual: u64, burst: [u64; 10]) -> Vec<crate::detect::Draft> {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.pass(1.0);
    let mut second = |reset: u64| {
        let flow = scene.flow(100, Direction::Outbound, "[fd00::2]:80");
        (flow.attempts, flow.established, flow.closed) = (200, 200, 200);
        (flow.resets_received, flow.unanswered, flow.responses) = (reset, reset, 200 - reset);
        scene.pass(1.0);
    };
    (0..62).for_each(|at| second(if at % 10 == 0 { usual } else { 0 }));
    burst.into_iter().for_each(&mut second);
    scene.drafts(Mode::Flapping)
}

#[test]
fn resets_at_ten_times_their_rate_of_the_minute_before_flap() {
    let found = busy(1, [2; 10]);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].summary.contains("times as often as before"),
        "{}",
        found[0].summary
    );
    assert!(busy(1, [0; 10]).is_empty());
    assert_eq!(busy(0, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]).len(), 1, "none before");
    assert!(busy(0, [0, 0, 0, 1, 0, 1, 0, 1, 0, 1]).is_empty(), "four");
    assert!(busy(3, [2; 10]).is_empty(), "seven times as often");
    assert!(busy(0, [0, 0, 0, 90, 0, 0, 0, 0, 0, 0]).is_empty(), "a restart");
}

#[test]
fn a_peer_on_this_host_is_to_blame_for_cutting_off() {
    let mut scene = cycles(9, 9, 0, Direction::Outbound);
    scene.process(200, "server");
    scene.listener(200, 3, "[fd00::2]:80", 8);
    let drafts = scene.drafts(Mode::Flapping);
    assert_eq!(drafts[0].subject.pid, 200);
    assert_eq!(
        drafts[0].others[0],
        (Role::Peer, crate::detect::Party::process(100))
    );
}

/// A window in which so many segments were sent, and so many of them again.
fn lossy(segments: u32, again: u32, bytes: u64, inbound: bool, min_rtt_us: u32) -> Scene {
    let mut scene = talking(&["[fd00::2]:80"]);
    if inbound {
        scene.listener(100, 50, "[::]:40000", 8);
    }
    scene.pass(5.0);
    let figures = figures(&mut scene, 0);
    figures.segments_out += segments;
    figures.retransmitted += again;
    figures.bytes_acked += bytes;
    figures.min_rtt_us = min_rtt_us;
    scene
}

#[test]
fn loss_counts_from_two_per_cent_of_a_hundred_segments() {
    let drafts = lossy(1000, 21, 1 << 20, false, 300).drafts(Mode::PacketLoss);
    assert_eq!(
        (drafts.len(), drafts[0].flow.unwrap().1),
        (1, address("[fd00::2]:80"))
    );
    assert!(
        lossy(1000, 20, 1 << 20, false, 300)
            .drafts(Mode::PacketLoss)
            .is_empty()
    );
    assert!(
        lossy(99, 30, 1 << 20, false, 300)
            .drafts(Mode::PacketLoss)
            .is_empty()
    );
    assert!(
        lossy(1000, 500, 0, false, 300)
            .drafts(Mode::PacketLoss)
            .is_empty(),
        "no progress"
    );
    assert_eq!(
        lossy(1000, 50, 1 << 20, true, 300).drafts(Mode::PacketLoss).len(),
        1
    );
    let far = lossy(1000, 50, 1 << 20, true, 90_000).drafts(Mode::PacketLoss);
    assert!(far.is_empty(), "a client far away");
}

fn half_closed(count: i32, silent_ms: u32) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "server");
    scene.listener(100, 3, "[::]:80", 8);
    for at in 0..count {
        let remote = format!("[fd00::2]:{}", 40000 + at);
        let socket = scene.socket(100, 10 + at, TCP_CLOSE_WAIT, "[fd00::1]:80", &remote);
        let figures = socket.figures.as_mut().unwrap();
        (figures.last_received_ms, figures.last_ack_ms) = (silent_ms + 5000, silent_ms);
    }
    scene
}

#[test]
fn connections_that_are_never_closed_leak() {
    let mut once = half_closed(10, 60_000);
    let drafts = once.drafts(Mode::CloseWaitLeak);
    assert_eq!(drafts.len(), 1);
    let words = |draft: &crate::detect::Draft| (draft.severity, draft.confidence);
    assert_eq!(
        words(&drafts[0]),
        (Severity::Notice, Confidence::Suspected),
        "of one event"
    );
    // Ages that are a minute apart show that they go on coming.
    let mut spread = half_closed(12, 120_000);
    spread.at(100, 10).figures.as_mut().unwrap().last_ack_ms = 60_000;
    let drafts = spread.drafts(Mode::CloseWaitLeak);
    assert_eq!(words(&drafts[0]), (Severity::Warning, Confidence::Likely));
    assert!(
        drafts[0].summary.contains("clients of its port 80"),
        "{}",
        drafts[0].summary
    );
    assert!(half_closed(9, 600_000).drafts(Mode::CloseWaitLeak).is_empty());
    assert!(half_closed(50, 59_000).drafts(Mode::CloseWaitLeak).is_empty());
    let mut growing = half_closed(12, 70_000);
    growing.pass(5.0);
    growing.socket(100, 90, TCP_CLOSE_WAIT, "[fd00::1]:80", "[fd00::2]:50000");
    let figures = growing.at(100, 90).figures.as_mut().unwrap();
    (figures.last_received_ms, figures.last_ack_ms) = (1000, 1000);
    assert_eq!(
        growing.drafts(Mode::CloseWaitLeak)[0].confidence,
        Confidence::Proven
    );
}

#[test]
fn unanswered_keepalive_probes_are_a_hint() {
    for peer in ["10.99.0.2:80", "[fd00::2]:80"] {
        let mut scene = talking(&[peer]);
        figures(&mut scene, 0).probes = 1;
        assert!(scene.drafts(Mode::HalfOpen).is_empty());
        figures(&mut scene, 0).probes = 2;
        let drafts = scene.drafts(Mode::HalfOpen);
        assert_eq!(
            (drafts[0].severity, drafts[0].confidence),
            (Severity::Notice, Confidence::Suspected)
        );
        scene.at(100, 0).send_queue = 1;
        assert!(scene.drafts(Mode::HalfOpen).is_empty());
    }
}

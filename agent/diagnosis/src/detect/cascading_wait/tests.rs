//! Services that wait for a slow downstream, and services that only wait.

use super::super::fixture::Scene;
use super::*;
use crate::observation::{Call, InetObservation, TcpFigures};

/// Something was sent so many ms ago, and nothing has come since.
fn asks(socket: &mut InetObservation, age_ms: u32) {
    socket.figures = Some(TcpFigures {
        last_sent_ms: age_ms,
        last_received_ms: age_ms + 3000,
        bytes_acked: 7,
        bytes_received: 7,
        ..TcpFigures::default()
    });
}

/// A request came so many ms ago on an accepted connection, and nothing was sent since.
fn asked(socket: &mut InetObservation, age_ms: u32) {
    socket.figures = Some(TcpFigures {
        last_sent_ms: age_ms + 3000,
        last_received_ms: age_ms,
        bytes_acked: 7,
        bytes_received: 7,
        ..TcpFigures::default()
    });
}

const LEAF: &str = "127.0.0.1:90";

/// A service (20) at port 80 with calls to a leaf (30) that are `age_ms` old, a thread each if it has threads, and
/// `requests` that it has read and not answered.
fn service(calls: u32, age_ms: u32, requests: u32, threads: bool) -> Scene {
    let mut scene = Scene::new();
    scene.process(20, "front");
    scene.process(30, "leaf");
    scene.listener(20, 3, "127.0.0.1:80", 128);
    scene.listener(30, 3, LEAF, 128);
    for number in 0..calls {
        let fd = 100 + number as i32;
        let own = format!("127.0.0.1:{}", 5000 + number);
        asks(scene.connection(20, fd, &own, LEAF), age_ms);
        asked(scene.connection(30, fd, LEAF, &own), age_ms);
        if threads {
            scene.thread(20, 200 + number, "worker");
            scene.blocks(200 + number, Call::Read { fd }, f64::from(age_ms) / 1e3);
        }
    }
    for number in 0..requests {
        let client = format!("127.0.0.1:{}", 7000 + number);
        let fd = 1000 + number as i32;
        asked(scene.connection(20, fd, "127.0.0.1:80", &client), age_ms + 100);
    }
    scene
}

fn drafts(scene: &mut Scene) -> Vec<Draft> {
    scene.drafts(Mode::CascadingWait)
}

#[test]
fn a_pool_of_threads_and_an_asynchronous_pool_both_lead_to_the_leaf() {
    for threads in [true, false] {
        let found = drafts(&mut service(16, 3000, 24, threads));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, Party::process(30));
        assert_eq!(found[0].others, [(Role::Waiter, Party::process(20))]);
        assert_eq!(found[0].chain_from, threads.then_some(200));
    }
}

#[test]
fn thresholds_of_number_and_age_and_demand() {
    let found = |calls, age_ms, requests| drafts(&mut service(calls, age_ms, requests, false)).len();
    assert_eq!((found(4, 3000, 10), found(3, 3000, 10)), (1, 0));
    assert_eq!((found(16, 1000, 40), found(16, 900, 40)), (1, 0));
    assert_eq!((found(16, 3000, 20), found(16, 3000, 19)), (1, 0));
}

#[test]
fn a_proxy_with_as_many_calls_out_as_requests_in_only_passes_on_what_takes_long() {
    assert_eq!(drafts(&mut service(200, 20_000, 200, false)).len(), 0);
}

#[test]
fn workers_that_wait_for_jobs_keep_nobody_waiting() {
    assert_eq!(drafts(&mut service(16, 60_000, 0, true)).len(), 0);
}

#[test]
fn connections_that_wait_to_be_accepted_are_demand_if_they_do_so_in_every_picture() {
    let mut scene = service(16, 3000, 16, true);
    scene.at(20, 3).receive_queue = 5;
    assert_eq!(drafts(&mut scene).len(), 1);
    let mut scene = service(16, 3000, 16, true);
    scene.pass(0.5);
    scene.at(20, 3).receive_queue = 5;
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn requests_that_nobody_reads_are_demand() {
    let mut scene = service(16, 3000, 20, true);
    for fd in 1000..1004 {
        scene.at(20, fd).receive_queue = 6;
    }
    assert_eq!(drafts(&mut scene).len(), 1);
}

#[test]
fn less_than_half_of_the_pool_is_a_busy_service() {
    let mut scene = service(16, 3000, 40, false);
    for number in 0..20 {
        // Idle connections of the pool.
        let own = format!("127.0.0.1:{}", 6000 + number);
        scene.connection(20, 400 + number, &own, LEAF);
        scene.connection(30, 400 + number, LEAF, &own);
    }
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_leaf_beyond_this_host_is_named_by_its_address() {
    for leaf in ["192.0.2.9:90", "[2001:db8::9]:90"] {
        let mut scene = service(0, 0, 24, false);
        for number in 0..16 {
            let own = if leaf.starts_with('[') {
                "[2001:db8::1]"
            } else {
                "192.0.2.1"
            };
            let own = format!("{own}:{}", 5000 + number);
            asks(scene.connection(20, 100 + number, &own, leaf), 3000);
        }
        for fd in 1000..1024 {
            asked(scene.at(20, fd), 3100);
        }
        let found = drafts(&mut scene);
        assert_eq!(found[0].subject, Party::process(20));
        assert_eq!(found[0].flow, Some((None, leaf.parse().unwrap())));
        assert!(
            found[0].summary.contains("beyond this host"),
            "{}",
            found[0].summary
        );
    }
}

#[test]
fn the_sink_is_blamed_and_not_the_tier_between() {
    // 10 calls 20, and 20 calls 30: work queues up at 10 only.
    let mut scene = service(16, 3000, 0, true);
    scene.process(10, "edge");
    scene.listener(10, 3, "127.0.0.1:70", 128);
    for number in 0..16 {
        let own = format!("127.0.0.1:{}", 8000 + number);
        asks(scene.connection(10, 100 + number, &own, "127.0.0.1:80"), 3200);
        asked(scene.connection(20, 2000 + number, "127.0.0.1:80", &own), 3200);
    }
    for number in 0..24 {
        let client = format!("127.0.0.1:{}", 9000 + number);
        asked(scene.connection(10, 1000 + number, "127.0.0.1:70", &client), 3500);
    }
    let found = drafts(&mut scene);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, Party::process(30));
    assert_eq!(found[0].others, [(Role::Waiter, Party::process(10))]);
}

#[test]
fn an_answer_and_a_request_of_one_moment_count_only_beside_certain_ones() {
    let tie = |scene: &mut Scene, fd| {
        let figures = scene.at(20, fd).figures.as_mut().unwrap();
        figures.last_received_ms = figures.last_sent_ms;
        figures.last_ack_ms = figures.last_sent_ms;
    };
    let mut scene = service(16, 3000, 24, false);
    (100..112).for_each(|fd| tie(&mut scene, fd));
    assert_eq!(drafts(&mut scene)[0].evidence[0].value.to_string(), "16");
    // All of one moment: an idle pool.
    let mut scene = service(16, 3000, 24, false);
    (100..116).for_each(|fd| tie(&mut scene, fd));
    assert_eq!(drafts(&mut scene).len(), 0);
}

#[test]
fn a_circle_of_services_ends() {
    let mut scene = service(16, 3000, 24, true);
    for number in 0..16 {
        let own = format!("127.0.0.1:{}", 8000 + number);
        asks(scene.connection(30, 3000 + number, &own, "127.0.0.1:80"), 3000);
        asked(scene.connection(20, 3000 + number, "127.0.0.1:80", &own), 3000);
    }
    assert_eq!(drafts(&mut scene).len(), 1);
}

#[test]
fn an_acknowledgement_that_came_by_itself_tells_a_call_from_an_idle_connection() {
    let mut scene = service(16, 3000, 24, false);
    for fd in 100..116 {
        let figures = scene.at(20, fd).figures.as_mut().unwrap();
        (figures.last_received_ms, figures.last_ack_ms) = (3000, 2960);
    }
    // Their clients asked again at the moment of the answer.
    for fd in 1000..1024 {
        let figures = scene.at(20, fd).figures.as_mut().unwrap();
        figures.last_sent_ms = figures.last_received_ms;
        figures.last_ack_ms = figures.last_received_ms;
    }
    assert_eq!(drafts(&mut scene).len(), 1);
    // Answers that were acknowledged by themselves are the end of an exchange.
    for fd in 1000..1024 {
        scene.at(20, fd).figures.as_mut().unwrap().last_ack_ms -= 40;
    }
    assert_eq!(drafts(&mut scene).len(), 0);
}
